//! HTTPS as the web has it: servers are known by their host names and the authorities that this system trusts. Only for
//! what the sidecar fetches for itself; between sidecars nothing of this counts.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings;

/// A client of HTTPS servers, TLS 1.3, HTTP/1.1.
#[derive(Clone)]
pub struct Web(TlsConnector);

impl Web {
    /// Trusts the authorities in `SSL_CERT_FILE` and `SSL_CERT_DIR`, or where these are not set those of the system.
    ///
    /// # Errors
    /// If there is none, and where one was looked for.
    pub fn open() -> Result<Web, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (trusted, _) = roots.add_parsable_certificates(found.certs);
        if trusted == 0 {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            let why = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
            return Err(format!(
                "this system trusts no authority for https{why}; SSL_CERT_FILE can name a PEM file with some"
            ));
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(settings::provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Web(TlsConnector::from(Arc::new(config))))
    }

    /// The handshake with the server of a host, a name or an IP address.
    ///
    /// # Errors
    /// Those of the connection and of the handshake.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

/// Whether a handshake failed because the other side does not speak TLS at all.
pub fn is_no_tls(error: &io::Error) -> bool {
    matches!(of_tls(error), Some(Error::InvalidMessage(_)))
}

/// Why a handshake with this server failed, and what would be right.
pub fn refusal(server: &str, error: &io::Error) -> String {
    match of_tls(error) {
        Some(Error::InvalidMessage(_)) => format!("{server} does not speak TLS ({error})"),
        Some(Error::InvalidCertificate(_)) => {
            format!("{server} is not trusted: {error}; SSL_CERT_FILE can name a PEM file with its authority")
        }
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => format!("{server} does not speak TLS 1.3"),
        _ => format!("cannot reach {server}: {error}"),
    }
}

fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn a_refusal_says_what_would_be_right() {
        let told = |error: Error| refusal("a:1", &io::Error::new(io::ErrorKind::InvalidData, error));
        let unknown = told(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(
            unknown,
            "a:1 is not trusted: invalid peer certificate: UnknownIssuer; SSL_CERT_FILE can name a PEM file with its authority"
        );
        assert_eq!(told(Error::AlertReceived(AlertDescription::ProtocolVersion)), "a:1 does not speak TLS 1.3");
        let plain = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(told(plain).starts_with("a:1 does not speak TLS ("));
        assert_eq!(refusal("a:1", &io::Error::other("broken")), "cannot reach a:1: broken");
    }
}

//! Mutual TLS with SPIFFE identities.
//!
//! [`TlsSettings`] is one loaded identity, immutable and shared; [`verify`] is what it demands of a peer; [`handshake`] makes a
//! connection, which is a [`stream`] then; [`authority`] makes certificates for development.

pub mod authority;
pub mod block;
pub mod handshake;
mod known;
mod reader;
mod record;
pub mod settings;
pub mod stream;
pub mod verify;
pub mod web;

#[cfg(test)]
mod tests;

use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

use crate::fault::{Fault, Reason};
pub use known::Role;
/// What a client handshake is made with.
pub use rustls::ClientConfig as ClientSettings;
pub use settings::{Alpn, IdentityError, Problem, TlsSettings, server_name};
pub use stream::Stream;
pub use verify::Peer;

/// The fault of a handshake that failed on a TCP connection. Nothing of a request was sent, so it may be sent elsewhere.
pub fn fault(error: io::Error) -> Fault {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(tls) => refusal(tls),
        None => Fault::new(Reason::TlsProtocolError).from(error),
    }
}

/// The fault of a peer that is refused.
pub fn refusal(error: &Error) -> Fault {
    Fault::new(reason(error)).detail(explain(error))
}

/// An error of a handshake in words: rustls does not print what a verifier like ours has to say.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => format!("the certificate {ours}"),
        error => error.to_string(),
    }
}

/// The fault of a connection that broke: also here a server's word on our certificate may arrive, since a TLS 1.3
/// handshake ends for the client before the server has looked at it (RFC 8446 section 4.4.4). Nothing was processed then.
pub fn fault_after_handshake(error: io::Error) -> Fault {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(_)) => fault(error),
        _ => Fault::new(Reason::ConnectionTerminated).from(error),
    }
}

/// Why a handshake failed: the certificate of one of the two, or anything else.
pub fn reason(error: &Error) -> Reason {
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Reason::TlsCertificateError,
        Error::AlertReceived(alert) => alert_reason(u8::from(*alert)),
        _ => Reason::TlsProtocolError,
    }
}

/// What an alert of the peer says (RFC 8446 section 6). QUIC carries it in the low byte of a crypto error (RFC 9001
/// section 4.8).
pub fn alert_reason(code: u8) -> Reason {
    match AlertDescription::from(code) {
        AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => Reason::TlsCertificateError,
        _ => Reason::TlsProtocolError,
    }
}

/// What the fuzz targets call.
pub mod fuzzing {
    /// Reads a stream of records, and one of a peer that has the keys.
    pub fn parse(input: &[u8]) {
        super::reader::fuzz::parse(input);
    }
}

//! `lacis cert`: a certificate authority for development, and certificates from it.

use std::path::PathBuf;

use super::{Failure, Outcome, print};
use crate::tls::authority;
use crate::tls::settings::date;

/// Make a development CA and SPIFFE workload certificates, in one directory.
#[derive(Debug, clap::Args)]
pub struct Cert {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(Init),
    Issue(Issue),
}

/// Make the CA: ca.pem, and ca-key.pem that only its owner can read. Refuses to replace one.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// Where the files are written; made if it is not there.
    #[arg(long, value_name = "DIRECTORY", default_value = "certs")]
    pub dir: PathBuf,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// How long the CA is valid.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub days: u32,
    /// Replace the CA that is there. Everything that it signed becomes worthless.
    #[arg(long)]
    pub force: bool,
}

/// Make the certificate of a service: SERVICE.pem (chain, leaf first), and SERVICE-key.pem that only its owner can read.
///
/// Its identity is spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE, in the trust domain of the CA. Replaces one that is
/// there; a running sidecar takes the new one without closing a link.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// The service, as `node.service` names it.
    pub service: String,
    /// Where the CA is, and where the files are written.
    #[arg(long, value_name = "DIRECTORY", default_value = "certs")]
    pub dir: PathBuf,
    /// The namespace of the service.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// How long the certificate is valid.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

impl Cert {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let issued = match self.command {
            Command::Init(Init { dir, trust_domain, days, force }) => authority::init(&dir, &trust_domain, days, force),
            Command::Issue(Issue { service, dir, namespace, days }) => {
                authority::issue(&dir, &service, &namespace, None, days)
            }
        };
        let issued = issued.map_err(|error| Failure::Input(error.to_string()))?;
        let (certificate, key) = (issued.certificate.display(), issued.private_key.display());
        print(&format!("{}: {certificate}, key {key}, expires {}\n", issued.identity, date(issued.expires)));
        Ok(())
    }
}

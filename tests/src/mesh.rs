//! Meshes: a directory with certificates, and the sidecars that live in it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::json;
use tempfile::TempDir;

use crate::app::App;
use crate::client;
use crate::process::command;
use crate::sidecar::{Sidecar, SidecarBuilder};
use crate::wire::Response;

/// The trust domain of every mesh here.
pub const TRUST_DOMAIN: &str = "mesh.local";

/// How a sidecar reaches a service (`services.*.link`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// HTTP/3 if UDP answers, else HTTP/2.
    Auto,
    /// HTTP/1.1 over TLS.
    H1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/3.
    H3,
    /// No TLS. Goes straight to an application: an inbound listener takes nothing else than TLS.
    Plaintext,
}

impl Link {
    /// The word in the configuration, and the label of metrics (where `auto` never appears).
    pub fn name(self) -> &'static str {
        match self {
            Link::Auto => "auto",
            Link::H1 => "h1",
            Link::H2 => "h2",
            Link::H3 => "h3",
            Link::Plaintext => "plaintext",
        }
    }
}

/// A directory with a development CA, and certificates made by `lacis cert`.
#[derive(Debug)]
pub struct Mesh {
    dir: TempDir,
}

impl Mesh {
    /// A new directory. The CA and the certificates of `alpha` and `delta` are made once per test process by
    /// `lacis cert init` and `lacis cert issue`, and copied: two meshes of one process trust each other.
    pub fn new() -> Mesh {
        static CERTIFICATES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
        let mesh = Mesh { dir: TempDir::with_prefix("lacis-").expect("a directory") };
        let files = CERTIFICATES.get_or_init(|| {
            let first = Mesh::foreign();
            let files = fs::read_dir(first.certs()).expect("certificates").map(|entry| {
                let path = entry.expect("an entry").path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name, fs::read(&path).expect("a readable certificate"))
            });
            files.collect()
        });
        fs::create_dir_all(mesh.certs()).expect("a directory");
        for (name, bytes) in files {
            fs::write(mesh.certs().join(name), bytes).expect("a written certificate");
        }
        mesh
    }

    /// A mesh with a CA of its own, which no other mesh trusts.
    pub fn foreign() -> Mesh {
        let mesh = Mesh { dir: TempDir::with_prefix("lacis-").expect("a directory") };
        mesh.lacis(&["cert", "init", "--dir", "certs", "--trust-domain", TRUST_DOMAIN]);
        mesh.issue("alpha");
        mesh.issue("delta");
        mesh
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the certificates are.
    pub fn certs(&self) -> PathBuf {
        self.dir().join("certs")
    }

    /// The CA certificate that everybody trusts.
    pub fn ca(&self) -> PathBuf {
        self.certs().join("ca.pem")
    }

    /// The certificate chain of a service.
    pub fn certificate(&self, service: &str) -> PathBuf {
        self.certs().join(format!("{service}.pem"))
    }

    /// The private key of a service.
    pub fn key(&self, service: &str) -> PathBuf {
        self.certs().join(format!("{service}-key.pem"))
    }

    /// Issues a certificate for a service, or a new one (rotation).
    pub fn issue(&self, service: &str) {
        self.lacis(&["cert", "issue", service, "--dir", "certs"]);
    }

    /// Runs `lacis` here to its end and gives its standard output; it must succeed.
    pub fn lacis(&self, args: &[&str]) -> String {
        let output = command(args).current_dir(self.dir()).output().expect("lacis runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "lacis {args:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes a file here and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a directory");
        }
        fs::write(&path, content).expect("a written file");
        path
    }

    /// A sidecar to be configured and started. Issues its certificate if there is none.
    pub fn sidecar(&self, service: &str) -> SidecarBuilder {
        if !self.certificate(service).exists() {
            self.issue(service);
        }
        SidecarBuilder::new(self.dir(), service)
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Mesh::new()
    }
}

/// The usual mesh: application → `alpha` → link → `delta` → [`App`]. With [`Link::Plaintext`] there is no `delta`:
/// alpha calls the application itself.
#[derive(Debug)]
pub struct Pair {
    /// The sidecar that requests enter, by its outbound listener or by [`Pair::port`].
    pub alpha: Sidecar,
    /// The sidecar before the application; absent on a plaintext link.
    delta: Option<Sidecar>,
    /// The application behind delta.
    pub app: App,
    /// The directory; last, so that it goes last.
    pub mesh: Mesh,
}

impl Pair {
    /// Both sidecars, ready, with an HTTP/1.1 application.
    pub fn new(link: Link) -> Pair {
        Pair::with(link, App::start(), |alpha| alpha, |delta| delta)
    }

    /// The same with another application, and a word about each sidecar's configuration.
    pub fn with(
        link: Link,
        app: App,
        alpha: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
        delta: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Pair {
        Pair::inside(Mesh::new(), link, app, alpha, delta)
    }

    /// The same in a directory that has files already.
    pub fn inside(
        mesh: Mesh,
        link: Link,
        app: App,
        alpha: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
        delta: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Pair {
        let delta = (link != Link::Plaintext).then(|| delta(mesh.sidecar("delta").application(&app)).start());
        let endpoint = delta.as_ref().map_or(app.address(), Sidecar::inbound);
        let own_port = json!({"services": {"delta": {"listen": "127.0.0.1:0"}}});
        let alpha = alpha(mesh.sidecar("alpha").calls("delta", endpoint, link).with(own_port)).start();
        Pair { alpha, delta, app, mesh }
    }

    /// The sidecar before the application.
    pub fn delta(&self) -> &Sidecar {
        self.delta.as_ref().expect("a plaintext pair has no delta")
    }

    /// The loopback port at alpha that means delta.
    pub fn port(&self) -> SocketAddr {
        self.alpha.service("delta")
    }

    /// The sidecar before the application, to be changed.
    pub fn delta_mut(&mut self) -> &mut Sidecar {
        self.delta.as_mut().expect("a plaintext pair has no delta")
    }

    /// `GET` through the pair on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        client::get(self.alpha.outbound(), "delta", path)
    }

    /// An HTTP/1.1 connection to alpha's outbound listener.
    pub fn connect(&self) -> client::Client {
        client::Client::connect(self.alpha.outbound())
    }
}

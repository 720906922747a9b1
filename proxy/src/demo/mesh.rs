//! The mesh: certificates, delta and its sidecar, alpha's sidecar.

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, spawn_local};

use super::child::{Directory, Sidecar};
use super::client::Client;
use super::service;
use super::tally::Tally;
use super::view::View;
use crate::tls::authority;

/// The trust domain of both configurations.
const TRUST_DOMAIN: &str = "demo.local";

/// How long the certificates are valid; the demo may well run for a day.
const DAYS: u32 = 7;

/// Everything but alpha.
pub(super) struct Mesh {
    alpha: Side,
    delta: Side,
    outbound: SocketAddr,
    directory: PathBuf,
    /// Delta itself.
    service: AbortHandle,
}

/// A sidecar and the connection to its admin listener.
struct Side {
    sidecar: Sidecar,
    admin: Client,
}

impl Mesh {
    /// Starts it in a directory.
    pub(super) async fn start(directory: &Directory, tally: &Rc<RefCell<Tally>>) -> Result<Self, String> {
        let directory = directory.path().to_owned();
        let certificates = directory.join("certs");
        let error = |error: authority::AuthorityError| format!("cannot make certificates: {error}");
        authority::init(&certificates, TRUST_DOMAIN, DAYS, false).map_err(error)?;
        for service in ["alpha", "delta"] {
            authority::issue(&certificates, service, "default", None, DAYS).map_err(error)?;
        }
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display())).map(|()| path)
        };

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| format!("cannot listen on 127.0.0.1: {error}"))?;
        let application = listener.local_addr().map_err(|error| format!("cannot listen on 127.0.0.1: {error}"))?;
        let service = spawn_local(service::delta(listener, Rc::clone(tally))).abort_handle();

        let config = include_str!("delta.yaml").replace("APPLICATION", &application.to_string());
        let delta = Side::new(Sidecar::start("delta", &write("delta.yaml", config)?).await?)?;
        let inbound = delta.sidecar.listener("inbound")?;
        let config = include_str!("alpha.yaml").replace("DELTA", &inbound.to_string());
        let alpha = Side::new(Sidecar::start("alpha", &write("alpha.yaml", config)?).await?)?;
        let outbound = alpha.sidecar.listener("outbound")?;
        Ok(Mesh { alpha, delta, outbound, directory, service })
    }

    /// Where alpha finds its sidecar.
    pub(super) fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// What a visitor may look at and try.
    pub(super) fn introduction(&self) -> String {
        let Mesh { alpha, delta, outbound, directory, .. } = self;
        let line = |name: &str, side: &Side| {
            format!("{name}'s sidecar    process {}, http://{}/metrics\n", side.sidecar.id(), side.admin.address())
        };
        format!(
            "{}{}files              {}\ntry                curl -i -H 'host: delta' -H 'x-api-key: {}' http://{outbound}/\n",
            line("alpha", alpha),
            line("delta", delta),
            directory.display(),
            service::KEY,
        )
    }

    /// Fails if a sidecar has ended.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.alpha.sidecar.check()?;
        self.delta.sidecar.check()
    }

    /// What both services and both sidecars say now.
    pub(super) async fn view(&mut self, tally: &Tally) -> Result<View, String> {
        let (alpha, delta) = (self.alpha.metrics().await, self.delta.metrics().await);
        self.check()?;
        Ok(View::new(tally, &alpha?, &delta?))
    }

    /// Ends both sidecars as an operator would: callers first.
    pub(super) async fn drain(&mut self) -> Result<(), String> {
        for Side { sidecar, admin } in [&mut self.alpha, &mut self.delta] {
            sidecar.drain(admin).await?;
        }
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.service.abort();
    }
}

impl Side {
    fn new(sidecar: Sidecar) -> Result<Self, String> {
        let admin = Client::new(sidecar.listener("admin")?);
        Ok(Side { sidecar, admin })
    }

    async fn metrics(&mut self) -> Result<String, String> {
        let answer = self.admin.ask("GET", "/metrics", &[], b"").await;
        let answer = answer.map_err(|error| format!("cannot read http://{}/metrics: {error}", self.admin.address()))?;
        Ok(answer.body)
    }
}

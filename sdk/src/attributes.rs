//! What the proxy knows of an exchange beyond its headers: Envoy's attributes.

use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use crate::backend::{Backend, Host};

/// The attributes of an exchange, by Envoy's names. What a host does not know is absent.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    // They can be read only while the host shows the exchange.
    exchange: PhantomData<&'a ()>,
}

/// Which side of a sidecar a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a peer to the application.
    Inbound,
    /// From the application to a peer.
    Outbound,
}

impl Attributes<'_> {
    pub(crate) fn new() -> Self {
        Self { exchange: PhantomData }
    }

    /// The URI in the caller's verified certificate, `spiffe://…` in a mesh; absent on a link without one.
    pub fn peer_identity(&self) -> Option<String> {
        self.text(&["connection", "uri_san_peer_certificate"]).filter(|identity| !identity.is_empty())
    }

    /// The caller's address and port.
    pub fn source_address(&self) -> Option<String> {
        self.text(&["source", "address"])
    }

    /// The address and port that the caller connected to.
    pub fn destination_address(&self) -> Option<String> {
        self.text(&["destination", "address"])
    }

    /// The service (on Envoy the cluster) that was chosen before filters ran.
    pub fn service(&self) -> Option<String> {
        self.text(&["xds", "cluster_name"])
    }

    /// The name of the route that was chosen before filters ran.
    pub fn route(&self) -> Option<String> {
        self.text(&["xds", "route_name"])
    }

    /// The request's id, `x-request-id`. On Envoy absent as soon as the request's head has gone on.
    pub fn request_id(&self) -> Option<String> {
        self.text(&["request", "id"])
    }

    /// What the caller speaks: `HTTP/1.1`, `HTTP/2`, `HTTP/3`.
    pub fn protocol(&self) -> Option<String> {
        self.text(&["request", "protocol"])
    }

    /// The version of TLS that the caller speaks: `TLSv1.3`. Absent on a link without.
    pub fn tls_version(&self) -> Option<String> {
        self.text(&["connection", "tls_version"])
    }

    /// The name that the caller asked for when it connected by TLS (SNI).
    pub fn server_name(&self) -> Option<String> {
        self.text(&["connection", "requested_server_name"]).filter(|name| !name.is_empty())
    }

    /// Whether the caller has shown a certificate that was verified.
    pub fn is_mutual_tls(&self) -> bool {
        self.flag(&["connection", "mtls"]).unwrap_or(false)
    }

    /// The address and port that the request was sent on to; absent before that.
    pub fn upstream_address(&self) -> Option<String> {
        self.text(&["upstream", "address"])
    }

    /// The URI in the verified certificate of whom the request was sent on to.
    pub fn upstream_identity(&self) -> Option<String> {
        self.text(&["upstream", "uri_san_peer_certificate"]).filter(|identity| !identity.is_empty())
    }

    /// The status of the response. On Envoy absent before the exchange is over.
    pub fn response_code(&self) -> Option<u16> {
        self.integer(&["response", "code"])?.try_into().ok()
    }

    /// What became of the exchange, in the proxy's words (`via_upstream`, …); each proxy has its own.
    pub fn response_details(&self) -> Option<String> {
        self.text(&["response", "code_details"])
    }

    /// What went wrong, as Envoy's bits (`%RESPONSE_FLAGS%` by their old numbers); 0 for nothing.
    pub fn response_flags(&self) -> Option<u64> {
        self.integer(&["response", "flags"])?.try_into().ok()
    }

    /// The gRPC status of the response. Envoy derives one from the status where there is none.
    pub fn grpc_status(&self) -> Option<u32> {
        self.integer(&["response", "grpc_status"])?.try_into().ok()
    }

    /// When the first byte of the request came.
    pub fn began(&self) -> Option<SystemTime> {
        let nanoseconds = u64::try_from(self.integer(&["request", "time"])?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// Which side of the sidecar the filter runs on.
    pub fn direction(&self) -> Option<Direction> {
        // The numbers of envoy.config.core.v3.TrafficDirection.
        match self.integer(&["xds", "listener_direction"])? {
            1 => Some(Direction::Inbound),
            2 => Some(Direction::Outbound),
            _ => None,
        }
    }

    /// An attribute that is text, with U+FFFD for what is not UTF-8; one segment for each dot of its name.
    pub fn text(&self, path: &[&str]) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An attribute that is a number; absent also if it is something else.
    pub fn integer(&self, path: &[&str]) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(path)?.try_into().ok()?))
    }

    /// An attribute that is true or false; absent also if it is something else.
    pub fn flag(&self, path: &[&str]) -> Option<bool> {
        match self.bytes(path)?.as_slice() {
            [flag] => Some(*flag != 0),
            _ => None,
        }
    }

    /// An attribute as the host encodes it: numbers are 8 bytes, little end first, flags one byte.
    pub fn bytes(&self, path: &[&str]) -> Option<Vec<u8>> {
        Host::attribute(path)
    }
}

//! What the proxy knows of an exchange beyond its headers: Envoy's attributes.

use std::marker::PhantomData;

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

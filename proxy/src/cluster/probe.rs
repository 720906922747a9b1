//! One active health check, over the same kind of link that requests take.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use super::{Carriage, Cluster, Dialer, Place, Settings, Transport};
use crate::config::balance::{Balance, Probe};
use crate::config::{self, Timeouts};
use crate::http::body::{Frame, Half};
use crate::http::head::{RequestHead, Version};
use crate::http::{Body, Fields, Interim, Request, Response};
use crate::telemetry::trail::Trail;

/// Most bytes of an answer that are read: what is longer is no answer to a check, and its link is not used again.
const MAX_ANSWER: usize = 64 << 10;

/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static("lacis-health-check");

const GRPC_CHECK: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u64 = 1;

impl Cluster {
    /// One endpoint of a service alone, to be checked: reached as the service's requests are.
    pub fn alone(service: &config::Service, address: SocketAddr, patience: Duration, dialer: &Rc<Dialer>) -> Rc<Self> {
        let place = Place { endpoints: [config::Endpoint::new(address)].into(), unknown: None };
        let timeouts = Timeouts { connect: patience, request: Duration::ZERO, ..service.timeouts };
        let settings = Settings::plain(Balance::LeastLoad, timeouts);
        Cluster::new(&service.name, Transport::of(service), None, place, settings, None, dialer)
    }

    /// Checks whether it is well. Takes as long as it takes.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub async fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp => self.reached().await,
            Probe::Http { path, host, statuses } => {
                let request = self.request(Method::GET, path, host.as_ref(), Version::Http11, Bytes::new());
                let (status, _, _) = self.asked(request).await?;
                match statuses.contains(&status.as_u16()) {
                    true => Ok(()),
                    false => Err(format!("status {}", status.as_u16())),
                }
            }
            Probe::Grpc { service } => {
                let mut request = self.request(Method::POST, &GRPC_CHECK, None, Version::Http2, question(service));
                request.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                request.head.headers.insert(TE, HeaderValue::from_static("trailers"));
                let (status, content, code) = self.asked(request).await?;
                match (status, code, serving(&content)) {
                    (StatusCode::OK, Some(0), Some(SERVING)) => Ok(()),
                    (StatusCode::OK, Some(0), Some(other)) => Err(format!("not serving (serving status {other})")),
                    (StatusCode::OK, Some(0), None) => Err("not an answer of grpc.health.v1.Health".into()),
                    (StatusCode::OK, Some(code), _) => Err(format!("gRPC status {code}")),
                    (StatusCode::OK, None, _) => Err("no gRPC status".into()),
                    (status, ..) => Err(format!("status {}", status.as_u16())),
                }
            }
        }
    }

    /// Whether there is a link: with identities verified, or for one without, a connection.
    async fn reached(&self) -> Result<(), String> {
        let endpoint = self.endpoint(&self.members.borrow(), 0).ok_or("no endpoint")?;
        let link = match &self.transport {
            Transport::Mesh(..) => {
                self.link(&endpoint, Carriage::Any(Version::Http2), &Trail::default()).await.map(drop)
            }
            Transport::Http1 | Transport::H2c | Transport::AsItCame | Transport::Tcp => {
                self.dialer.tcp(endpoint.address, self.settings.timeouts.connect).await.map(drop)
            }
        };
        link.map_err(|fault| fault.to_string())
    }

    fn request(
        &self,
        method: Method,
        path: &PathAndQuery,
        host: Option<&Authority>,
        version: Version,
        content: Bytes,
    ) -> Request {
        let authority = host.cloned().or_else(|| Authority::try_from(self.name.as_ref()).ok());
        let mut head = RequestHead { method, authority, path: path.clone(), version, ..RequestHead::unread() };
        head.headers.insert(USER_AGENT, AGENT);
        let body = if content.is_empty() { Body::empty(Half::Request) } else { Body::bytes(Half::Request, content) };
        Request { head: head.into(), body, interim: Rc::new(Interim::default()) }
    }

    /// Status, content and gRPC status of the answer.
    async fn asked(&self, request: Request) -> Result<(StatusCode, Vec<u8>, Option<u32>), String> {
        let code = |fields: &Fields| fields.get("grpc-status")?.to_str().ok()?.parse().ok();
        let trail = Trail::default();
        let Response { head, mut body } = self.send(request, None, &trail).await.map_err(|fault| fault.to_string())?;
        let (mut content, mut grpc) = (Vec::new(), code(&head.headers));
        while let Some(frame) = body.frame().await {
            match frame.map_err(|fault| fault.to_string())? {
                Frame::Data(data) if content.len() + data.len() > MAX_ANSWER => {
                    return Err(format!("an answer of more than {MAX_ANSWER} bytes"));
                }
                Frame::Data(data) => content.extend_from_slice(&data),
                Frame::Trailers(fields) => grpc = code(&fields).or(grpc),
            }
        }
        Ok((head.status, content, grpc))
    }
}

/// `grpc.health.v1.HealthCheckRequest` as a message of gRPC.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// The status in a `grpc.health.v1.HealthCheckResponse`; nothing if it is none.
fn serving(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    let (compressed, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || length as usize != message.len() {
        return None;
    }
    match message {
        // A field that has its default is left out.
        [] => Some(0),
        [0x08, status @ 0..=0x7f, ..] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_of_grpc() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(question(&"x".repeat(200))[4..8], [203, 0x0a, 0xc8, 1]);
        for (framed, status) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(SERVING)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 2, 9, 1], None),
            (&[0, 0], None),
            (&[], None),
        ] {
            assert_eq!(serving(framed), status, "{framed:?}");
        }
    }
}

//! One exchange as guests see it: its heads, its properties, and the notes of what they want to happen.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

use http::header;
use lacis_host::abi::{BodyAnswer, Encoder, Map, Path, Status};
use lacis_host::{Buffer, ContextId, Half, Headers, Reply, Stream};

use super::content::Content;
use super::exchange::Exchange;
use super::guest::{GuestRequest, GuestResponse, GuestTrailers};
use super::machine::{self, MachineId};
use super::wasm::Place;
use super::world::NodeFacts;
use crate::http::body::{Frame, Half as Direction};
use crate::http::head::RequestHead;
use crate::telemetry::labels::{self, Protocol};

/// Bytes that the filters of one exchange may keep as properties, names and values.
const MAX_PROPERTY_BYTES: usize = 64 * 1024;

/// The state that the filters of one exchange share.
pub(super) struct Seen {
    exchange: Rc<Exchange>,
    node: Rc<NodeFacts>,
    pub(super) request: Option<GuestRequest>,
    pub(super) response: Option<GuestResponse>,
    /// Of each half, while they are with a filter.
    pub(super) trailers: [Option<GuestTrailers>; 2],
    /// The filters that were shown the request, in its order.
    pub(super) stages: Vec<Stage>,
    /// How far each half is.
    pub(super) ways: [Way; 2],
    /// For which context the guest that runs asks.
    asked_by: Option<ContextId>,
    pub(super) reply: Option<Reply>,
    pub(super) closed: bool,
    waker: Option<Waker>,
    properties: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One filter of this exchange, and what it has in its hands.
pub(super) struct Stage {
    /// Its place in the chain.
    pub(super) number: usize,
    pub(super) machine: MachineId,
    pub(super) place: Place,
    /// When it was first shown the request.
    pub(super) since: Instant,
    /// What it said of the request has been counted.
    pub(super) counted: bool,
    pub(super) parts: [Part; 2],
}

/// One half of the exchange, as far as it is with one filter.
#[derive(Default)]
pub(super) struct Part {
    pub(super) head: Head,
    /// The bytes of the body that the filter sees.
    pub(super) content: Content,
    /// Bytes that it has seen and that wait all the same, before `content`.
    pub(super) kept: Option<Box<Content>>,
    /// The answer by which it stopped content or trailers.
    pub(super) stopped: Option<BodyAnswer>,
    /// What has arrived here and not gone on beside content.
    pub(super) end: End,
    /// It lets go on what it had stopped.
    pub(super) resumed: bool,
    /// Its VM is dead, and this half passes it all the same.
    pub(super) absent: bool,
}

/// Where the head of a half is, seen from one filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Head {
    /// Not here yet.
    #[default]
    Ahead,
    /// It waits here, and nothing that follows is shown.
    Stopped,
    /// It waits here, and what follows is shown.
    Held,
    /// It has gone on.
    Gone,
}

/// How the content that is with a filter ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// More may come.
    #[default]
    Open,
    /// Here, without trailers.
    Body,
    /// With the trailers of the half.
    Trailers,
}

/// How far a half is on its way through all filters.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// How many filters were shown its head.
    pub(super) heads: usize,
    /// Its head has passed the last one.
    pub(super) released: bool,
    /// The message has nothing but a head.
    pub(super) bare: bool,
    /// The end of what is filtered has been read.
    pub(super) read: bool,
    /// What has passed the last one and is to be written.
    pub(super) out: VecDeque<Frame>,
    /// Nothing will be added to `out`.
    pub(super) ended: bool,
}

impl Seen {
    pub(super) fn new(exchange: &Rc<Exchange>, node: &Rc<NodeFacts>, request: GuestRequest, filters: usize) -> Self {
        Seen {
            exchange: Rc::clone(exchange),
            node: Rc::clone(node),
            request: Some(request),
            response: None,
            trailers: [None, None],
            stages: Vec::with_capacity(filters),
            ways: Default::default(),
            asked_by: None,
            reply: None,
            closed: false,
            waker: None,
            properties: Vec::new(),
        }
    }

    /// Wakes this task when a guest wants something to happen. One task runs an exchange, whatever it waits for.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Somebody else has changed the head of the request, which is taken.
    pub(super) fn replace_request(&mut self, head: &mut RequestHead) {
        if let Some(request) = &mut self.request {
            request.head = std::mem::replace(head, RequestHead::unread());
        }
    }

    /// The head of one half, as it is now: what is wrong with it.
    pub(super) fn check(&mut self, half: Half) -> Result<(), String> {
        match half {
            Half::Request => self.request.as_mut().map_or(Ok(()), GuestRequest::check),
            Half::Response => self.response.as_mut().map_or(Ok(()), GuestResponse::check),
        }
    }

    /// Header lines of the head of one half.
    pub(super) fn count(&self, half: Half) -> u32 {
        match half {
            Half::Request => self.request.as_ref().map_or(0, GuestRequest::count),
            Half::Response => self.response.as_ref().map_or(0, GuestResponse::count),
        }
    }

    /// What the filter that asks has in its hands. Contexts are counted in each VM for itself.
    fn part(&mut self, half: Half) -> Option<&mut Part> {
        let (machine, context) = (machine::running()?, self.asked_by?);
        let stage = self.stages.iter_mut().find(|stage| stage.machine == machine && stage.place.is(context));
        stage.map(|stage| &mut stage.parts[half as usize])
    }
}

impl Stream for Seen {
    fn asked_by(&mut self, context: ContextId) {
        self.asked_by = Some(context);
    }

    fn headers(&mut self, map: Map) -> Option<&mut dyn Headers> {
        match map {
            Map::RequestHeaders => self.request.as_mut().map(|head| head as _),
            Map::ResponseHeaders => self.response.as_mut().map(|head| head as _),
            Map::RequestTrailers => self.trailers[Half::Request as usize].as_mut().map(|fields| fields as _),
            Map::ResponseTrailers => self.trailers[Half::Response as usize].as_mut().map(|fields| fields as _),
            _ => None,
        }
    }

    fn body(&mut self, half: Half) -> Option<&mut dyn Buffer> {
        self.part(half).map(|part| &mut part.content as _)
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        let segments: Vec<&[u8]> = path.segments().take(4).collect();
        if self.known(&segments, out)? {
            return Ok(());
        }
        match self.properties.iter().find(|(name, _)| name == path.bytes()) {
            Some((_, value)) => out.extend_from_slice(value),
            None => return self.node.property(&segments, out),
        }
        Ok(())
    }

    fn set_property(&mut self, path: Path<'_>, value: &[u8]) -> Result<(), Status> {
        let kept: usize = self.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        if kept + path.bytes().len() + value.len() > MAX_PROPERTY_BYTES {
            return Err(Status::InternalFailure);
        }
        match self.properties.iter_mut().find(|(name, _)| name == path.bytes()) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.properties.push((path.bytes().to_vec(), value.to_vec())),
        }
        Ok(())
    }

    fn reply(&mut self, reply: Reply) {
        self.reply.get_or_insert(reply);
        self.wake();
    }

    fn resume(&mut self, half: Half) {
        if let Some(part) = self.part(half) {
            part.resumed = true;
        }
        self.wake();
    }

    fn close(&mut self) {
        self.closed = true;
        self.wake();
    }
}

impl Seen {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Writes the value of a property that this exchange has by itself. False if there is no such property.
    fn known(&self, path: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, Status> {
        let (exchange, conn) = (&self.exchange, &self.exchange.conn);
        let bytes = match path {
            [b"request" | b"response" | b"connection" | b"source" | b"destination" | b"upstream"] => {
                return Err(Status::SerializationFailure);
            }
            [b"request", rest @ ..] => return self.request_property(rest, out),
            [b"response", b"code"] => {
                number(self.response.as_ref().ok_or(Status::NotFound)?.head.status.as_u16().into())
            }
            [b"response", b"size"] => number(exchange.bytes(Direction::Response)),
            [b"response", b"headers"] => map(self.response.as_ref().ok_or(Status::NotFound)?),
            [b"response", b"code_details"] => exchange.reason().row().details.as_bytes().to_vec(),
            [b"response", b"flags"] => number(0),
            [b"source", end @ ..] => return address(conn.remote, end, out),
            [b"destination", end @ ..] => return address(conn.local, end, out),
            [b"upstream", end @ ..] => return address(exchange.trail.address().ok_or(Status::NotFound)?, end, out),
            [b"connection", b"mtls"] => vec![u8::from(conn.peer.is_some())],
            [b"connection", b"requested_server_name"] => Vec::new(),
            [b"connection", b"tls_version"] if conn.peer.is_some() => b"TLSv1.3".to_vec(),
            [b"connection", b"uri_san_peer_certificate"] => {
                conn.peer.as_ref().ok_or(Status::NotFound)?.spiffe.as_str().into()
            }
            [b"connection", b"subject_peer_certificate"] => {
                conn.peer.as_ref().ok_or(Status::NotFound)?.subject.as_bytes().into()
            }
            [b"connection", b"sha256_peer_certificate_digest"] => {
                conn.peer.as_ref().ok_or(Status::NotFound)?.hash.as_bytes().into()
            }
            [b"connection", b"uri_san_local_certificate"] if conn.peer.is_some() => self.node.spiffe.as_bytes().into(),
            [b"xds", b"listener_direction"] | [b"listener_direction"] => number(match conn.direction {
                labels::Direction::Inbound => 1,
                labels::Direction::Outbound => 2,
            }),
            [b"xds", b"cluster_name"] | [b"cluster_name"] => {
                exchange.service().ok_or(Status::NotFound)?.as_bytes().into()
            }
            _ => return Ok(false),
        };
        out.extend_from_slice(&bytes);
        Ok(true)
    }

    fn request_property(&self, path: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, Status> {
        let exchange = &self.exchange;
        let request = self.request.as_ref();
        let head = || request.map(|request| &request.head).ok_or(Status::NotFound);
        let field =
            |name: header::HeaderName| head()?.headers.get(name).map(|v| v.as_bytes().to_vec()).ok_or(Status::NotFound);
        let bytes = match path {
            [b"path"] => head()?.path.as_str().into(),
            [b"url_path"] => head()?.path.path().into(),
            [b"query"] => head()?.path.query().unwrap_or("").into(),
            [b"host"] => head()?.authority.as_ref().map_or("", |a| a.as_str()).into(),
            [b"scheme"] => {
                if head()?.https {
                    b"https".to_vec()
                } else {
                    b"http".to_vec()
                }
            }
            [b"method"] => head()?.method.as_str().into(),
            [b"headers"] => map(request.ok_or(Status::NotFound)?),
            [b"headers", name] => {
                request.and_then(|r| r.get(&name.to_ascii_lowercase())).ok_or(Status::NotFound)?.to_vec()
            }
            [b"referer"] => field(header::REFERER)?,
            [b"useragent"] => field(header::USER_AGENT)?,
            [b"id"] => field(header::HeaderName::from_static("x-request-id"))?,
            [b"protocol"] => match exchange.conn.protocol {
                Protocol::H2 => b"HTTP/2".to_vec(),
                Protocol::H3 => b"HTTP/3".to_vec(),
                _ => b"HTTP/1.1".to_vec(),
            },
            [b"time"] => number(exchange.since_epoch().as_nanos() as u64),
            [b"duration"] => number(exchange.over().ok_or(Status::NotFound)?.as_nanos() as u64),
            [b"size"] => match field(header::CONTENT_LENGTH).ok().and_then(|v| String::from_utf8(v).ok()?.parse().ok())
            {
                Some(announced) if exchange.over().is_none() => number(announced),
                _ => number(exchange.bytes(Direction::Request)),
            },
            _ => return Ok(false),
        };
        out.extend_from_slice(&bytes);
        Ok(true)
    }
}

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn address(address: SocketAddr, end: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, Status> {
    match end {
        [b"address"] => out.extend_from_slice(address.to_string().as_bytes()),
        [b"port"] => out.extend_from_slice(&u64::from(address.port()).to_le_bytes()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// A header map in the serial form of the ABI.
fn map(headers: &dyn Headers) -> Vec<u8> {
    let mut pairs = Vec::new();
    headers.visit(&mut |name, value| pairs.push((name.to_vec(), value.to_vec())));
    let mut block = vec![0; lacis_host::abi::encoded_len(pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())))];
    if let Some(mut encoder) = Encoder::new(&mut block, pairs.len()) {
        for (name, value) in &pairs {
            encoder.push(name, value);
        }
    }
    block
}

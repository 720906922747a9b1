//! An in-memory [`Stream`] and [`World`]: run a filter in a unit test.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use lacis_abi::{Level, Map, MetricKind, Path, Status};

use crate::callout::{CallId, CallOut};
use crate::limits::Limit;
use crate::stream::{Buffer, Half, Headers, Reply, Stream};
use crate::world::RootId;
use crate::world::{Change, Now, World};

/// A header map as a list of lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub Vec<(Vec<u8>, Vec<u8>)>);

/// An exchange whose heads are lists, and which keeps what the guest asked for.
#[derive(Debug, Clone, Default)]
pub struct TestStream {
    /// Head of the request.
    pub request: List,
    /// Head of the response, once there is one.
    pub response: Option<List>,
    /// Trailers of the request, once there are any.
    pub request_trailers: Option<List>,
    /// Trailers of the response, once there are any.
    pub response_trailers: Option<List>,
    /// What the guest sees of the bodies, or of the data from and to the client.
    pub bodies: [Option<Vec<u8>>; 2],
    /// What can be read by path, segments joined by NUL; also what the guest has set.
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The guest's own answer.
    pub reply: Option<Reply>,
    /// Halves that the guest let go on.
    pub resumed: Vec<Half>,
    /// Whether the guest reset the exchange.
    pub closed: bool,
    /// Sides that the guest closed.
    pub closed_sides: Vec<Half>,
    /// How often the guest wanted the route chosen anew.
    pub rerouted: usize,
}

/// A world that keeps everything it is told, and in which time stands still.
#[derive(Debug, Default)]
pub struct TestWorld {
    /// Plugin, level and text of each line.
    pub lines: Vec<(String, Level, String)>,
    /// The least level that is logged; none is `Info`.
    pub level: Option<Level>,
    /// The time.
    pub now: Now,
    /// Properties outside of exchanges.
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Timers.
    pub ticks: Vec<(RootId, Option<Duration>)>,
    /// Kind, name and value of each metric; of a histogram the sum.
    pub metrics: Vec<(MetricKind, String, u64)>,
    /// Upstreams that there are; one named `broken` cannot be called, and takes no message.
    pub upstreams: Vec<String>,
    /// Upstreams that were called and that there are not.
    pub missed: Vec<String>,
    /// Foreign functions that were called outside of exchanges, with their arguments, whatever came of it.
    pub foreign: Vec<(Vec<u8>, Vec<u8>)>,
    /// Call-outs that were begun.
    pub calls: Vec<(CallId, RootId, CallOut)>,
    /// Messages that were sent on gRPC streams, and whether they are the last.
    pub sent: Vec<(CallId, Option<Vec<u8>>, bool)>,
    /// Call-outs that were cancelled.
    pub cancelled: Vec<CallId>,
    /// What was refused.
    pub refused: Vec<Limit>,
}

/// The name of the upstream that cannot be called.
const BROKEN: &str = "broken";

impl List {
    /// A list of these lines.
    pub fn of(lines: &[(&str, &str)]) -> List {
        List(lines.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
    }

    /// The lines as text, for comparing.
    pub fn text(&self) -> Vec<String> {
        let text = String::from_utf8_lossy;
        self.0.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }
}

impl Headers for List {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_slice())
    }

    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.iter().for_each(|(name, value)| pair(name, value));
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.0.push((name.to_vec(), value.to_vec()));
    }

    fn replace(&mut self, name: &[u8], value: &[u8]) {
        let mut new = Some(value.to_vec());
        self.0.retain_mut(|(other, value)| match other == name {
            true => new.take().map(|new| *value = new).is_some(),
            false => true,
        });
        if let Some(new) = new {
            self.0.push((name.to_vec(), new));
        }
    }

    fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(other, _)| other != name);
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// None where something is named `broken`.
    fn lines(&self) -> Option<u32> {
        if self.get(BROKEN.as_bytes()).is_some() { None } else { u32::try_from(self.0.len()).ok() }
    }
}

impl TestStream {
    /// A request with these header lines, shared as a [`Vm`](crate::Vm) takes it.
    pub fn request(lines: &[(&str, &str)]) -> Rc<RefCell<TestStream>> {
        Rc::new(RefCell::new(TestStream { request: List::of(lines), ..TestStream::default() }))
    }
}

impl Stream for TestStream {
    fn headers(&mut self, map: Map) -> Option<&mut dyn Headers> {
        match map {
            Map::RequestHeaders => Some(&mut self.request),
            Map::ResponseHeaders => self.response.as_mut().map(|list| list as &mut dyn Headers),
            Map::RequestTrailers => Some(self.request_trailers.get_or_insert_default()),
            Map::ResponseTrailers => Some(self.response_trailers.get_or_insert_default()),
            _ => None,
        }
    }

    fn body(&mut self, half: Half) -> Option<&mut dyn Buffer> {
        self.bodies[half as usize].as_mut().map(|body| body as &mut dyn Buffer)
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        out.extend_from_slice(self.properties.get(path.bytes()).ok_or(Status::NotFound)?);
        Ok(())
    }

    fn set_property(&mut self, path: Path<'_>, value: &[u8]) -> Result<(), Status> {
        self.properties.insert(path.bytes().to_vec(), value.to_vec());
        Ok(())
    }

    fn reply(&mut self, reply: Reply) {
        self.reply = Some(reply);
    }

    fn resume(&mut self, half: Half) {
        self.resumed.push(half);
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn close_side(&mut self, half: Half) {
        self.closed_sides.push(half);
    }

    fn clear_route_cache(&mut self) {
        self.rerouted += 1;
    }

    /// `reverse`.
    fn foreign(&mut self, name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        match name {
            b"reverse" => out.extend(arguments.iter().rev()),
            _ => return Err(Status::NotFound),
        }
        Ok(())
    }
}

impl TestWorld {
    /// A world, shared as a [`Vm`](crate::Vm) takes it.
    pub fn shared() -> Rc<RefCell<TestWorld>> {
        Rc::default()
    }

    /// The texts that were logged since this was last asked.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.drain(..).map(|(_, _, text)| text).collect()
    }
}

impl World for TestWorld {
    fn log(&mut self, plugin: &str, level: Level, text: &str) {
        self.lines.push((plugin.to_owned(), level, text.to_owned()));
    }

    fn level(&self) -> Level {
        self.level.unwrap_or(Level::Info)
    }

    fn now(&self) -> Now {
        self.now
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        out.extend_from_slice(self.properties.get(path.bytes()).ok_or(Status::NotFound)?);
        Ok(())
    }

    fn set_tick(&mut self, root: RootId, period: Option<Duration>) {
        self.ticks.push((root, period));
    }

    fn define_metric(&mut self, _plugin: &str, kind: MetricKind, name: &str, more: bool) -> Option<u32> {
        let known = self.metrics.iter().position(|(k, n, _)| (*k, n.as_str()) == (kind, name));
        if known.is_none() && more {
            self.metrics.push((kind, name.to_owned(), 0));
            return u32::try_from(self.metrics.len() - 1).ok();
        }
        u32::try_from(known?).ok()
    }

    fn metric(&mut self, metric: u32, change: Change) -> u64 {
        let Some((_, _, value)) = self.metrics.get_mut(metric as usize) else { return 0 };
        match change {
            Change::Read => {}
            Change::Add(more) | Change::Sample(more) => *value = value.wrapping_add(more),
            Change::Set(to) => *value = to,
        }
        *value
    }

    fn call_out(&mut self, _plugin: &str, id: CallId, root: RootId, call: CallOut) -> Result<(), Status> {
        let upstream = match &call {
            CallOut::Http(call) => &call.upstream,
            CallOut::Grpc(call) | CallOut::GrpcStream(call) => &call.upstream,
        };
        if upstream == BROKEN {
            return Err(Status::InternalFailure);
        }
        if !self.upstreams.contains(upstream) {
            self.missed.push(upstream.clone());
            return Err(Status::NotFound);
        }
        self.calls.push((id, root, call));
        Ok(())
    }

    fn call_send(&mut self, id: CallId, message: Option<Vec<u8>>, end: bool) -> Result<(), Status> {
        if message.as_deref() == Some(BROKEN.as_bytes()) {
            return Err(Status::InternalFailure);
        }
        self.sent.push((id, message, end));
        Ok(())
    }

    fn call_cancel(&mut self, id: CallId) {
        self.cancelled.push(id);
    }

    /// `fail`, with the status that the first argument byte says; `echo`.
    fn foreign(&mut self, _plugin: &str, name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        self.foreign.push((name.to_vec(), arguments.to_vec()));
        match (name, arguments) {
            (b"echo", _) => out.extend_from_slice(arguments),
            (b"fail", [status, ..]) => return Err(Status::from_u32((*status).into()).unwrap_or(Status::NotFound)),
            _ => return Err(Status::NotFound),
        }
        Ok(())
    }

    fn refused(&mut self, _plugin: &str, limit: Limit) {
        self.refused.push(limit);
    }
}

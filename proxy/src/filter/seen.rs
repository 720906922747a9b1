//! One exchange as guests see it: its heads, its properties, and the notes of what they want to happen.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use lacis_host::abi::{Map, Path, Peer, Status};
use lacis_host::{Buffer, ContextId, Half, Headers, Reply, Stream};

use super::exchange::Exchange;
use super::guest::{GuestRequest, GuestResponse, GuestTrailers};
use super::machine;
use super::node::{MAX_SEGMENTS, NodeFacts};
use super::property;
use super::stage::{End, Head, Moving, Stage};
use crate::fault::Reason;
use crate::http::Fields;
use crate::http::body::Frame;
use crate::http::head::{RequestHead, ResponseHead, Shared};

/// Bytes that the filters of one exchange may keep as properties, names and values.
const MAX_PROPERTY_BYTES: usize = 64 * 1024;

/// The state that the filters of one exchange share.
pub(super) struct Seen {
    pub(super) exchange: Rc<Exchange>,
    pub(super) node: Rc<NodeFacts>,
    pub(super) request: Option<GuestRequest>,
    pub(super) response: Option<GuestResponse>,
    /// Of each half.
    pub(super) trailers: [Trailers; 2],
    /// The filters that were shown the request, in its order.
    pub(super) stages: Vec<Stage>,
    /// They are next to each other in one VM, as far as is known.
    pub(super) is_row: bool,
    /// All can be shown a response at once.
    pub(super) answers: bool,
    /// How far each half is.
    pub(super) ways: [Way; 2],
    /// What is on its way through the filters.
    pub(super) moving: Moving,
    /// For which context the guest that runs asks.
    asked_by: Option<ContextId>,
    pub(super) reply: Option<Box<Reply>>,
    /// Why a filter answered by itself, once it has: its own words.
    pub(super) details: Option<Vec<u8>>,
    pub(super) closed: bool,
    waker: Option<Waker>,
    properties: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The trailers of a half, while they are with a filter.
#[derive(Default)]
pub(super) struct Trailers {
    there: Option<Box<GuestTrailers>>,
    /// There may be some although none came: a guest that is shown the end of a body may make them.
    may_come: bool,
}

impl Trailers {
    /// These have come.
    pub(super) fn came(&mut self, fields: Fields) {
        self.there = Some(Box::new(GuestTrailers::new(fields)));
    }

    /// None have come, and a guest may make some now.
    pub(super) fn may_come(&mut self) {
        *self = Trailers { there: None, may_come: true };
    }

    /// None have come, and no guest has made some.
    pub(super) fn are_none(&mut self) {
        *self = Trailers::default();
    }

    /// What there is of them.
    pub(super) fn get(&self) -> Option<&GuestTrailers> {
        self.there.as_deref()
    }

    /// As [`Trailers::get`], to change.
    pub(super) fn get_mut(&mut self) -> Option<&mut GuestTrailers> {
        self.there.as_deref_mut()
    }

    /// As a guest has them: none at all, or perhaps none yet.
    #[cold]
    fn shown(&mut self) -> Option<&mut GuestTrailers> {
        if self.may_come { Some(self.there.get_or_insert_default()) } else { self.get_mut() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.get().map_or(0, GuestTrailers::count)
    }
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
    /// Filters see what follows its head.
    pub(super) open: bool,
    /// The end of what is filtered has been read.
    pub(super) read: bool,
    /// A filter has stopped something of it, some time: until then there is nothing to look for in each.
    pub(super) halted: bool,
    /// It was read after that of the other half.
    pub(super) last: bool,
    /// What has passed the last one and is to be written.
    pub(super) out: Out,
    /// Nothing will be added to `out`.
    pub(super) ended: bool,
}

/// Frames in order. Mostly each is taken before the next comes, and needs no place elsewhere.
#[derive(Debug, Default)]
pub(super) struct Out {
    first: Option<Frame>,
    rest: Option<VecDeque<Frame>>,
}

impl Out {
    pub(super) fn push(&mut self, frame: Frame) {
        match self.first {
            None => self.first = Some(frame),
            Some(_) => self.rest.get_or_insert_default().push_back(frame),
        }
    }

    /// Puts one back before the others.
    pub(super) fn unshift(&mut self, frame: Frame) {
        if let Some(second) = self.first.replace(frame) {
            self.rest.get_or_insert_default().push_front(second);
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Frame> {
        // Mostly it is empty, or is then: frames are large to move.
        if self.is_empty() {
            return None;
        }
        let first = self.first.take();
        if let Some(rest) = &mut self.rest {
            self.first = rest.pop_front();
        }
        first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Bytes of content.
    pub(super) fn len(&self) -> u64 {
        let bytes = |frame: &Frame| if let Frame::Data(data) = frame { data.len() as u64 } else { 0 };
        self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter())).map(bytes).sum()
    }
}

impl Seen {
    /// What `filters` filters will see of an exchange: its request, `bare` if that is only a head, or nothing of the heads
    /// that are those of a connection.
    pub(super) fn new(
        exchange: &Rc<Exchange>,
        node: &Rc<NodeFacts>,
        request: Option<GuestRequest>,
        bare: bool,
        filters: usize,
    ) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Seen {
            exchange: Rc::clone(exchange),
            node: Rc::clone(node),
            request,
            response: None,
            trailers: Default::default(),
            stages: Vec::with_capacity(filters),
            is_row: true,
            answers: true,
            ways: [Way { bare, read: bare, ..Way::default() }, Way::default()],
            moving: Moving::default(),
            asked_by: None,
            reply: None,
            details: None,
            closed: false,
            waker: None,
            properties: Vec::new(),
        }))
    }

    /// Wakes this task when a guest wants something to happen. One task runs an exchange, whatever it waits for.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Whether no filter has ended the exchange, or stopped anything of this half.
    #[inline]
    pub(super) fn is_calm(&self, half: Half) -> bool {
        !self.closed && self.reply.is_none() && !self.ways[half as usize].halted
    }

    /// Somebody else has changed the head of the request.
    pub(super) fn replace_request(&mut self, head: Shared<RequestHead>) {
        if let Some(request) = &mut self.request {
            request.head = head.into_rc();
        }
    }

    /// Another response is sent.
    pub(super) fn replace_response(&mut self, head: Shared<ResponseHead>) {
        self.response = Some(GuestResponse::new(head, false));
        self.trailers[Half::Response as usize].are_none();
    }

    /// The head of one half, as it is now: what is wrong with it.
    pub(super) fn check(&mut self, half: Half) -> Result<(), String> {
        match half {
            Half::Request => self.request.as_mut().map_or(Ok(()), GuestRequest::check),
            Half::Response => self.response.as_mut().map_or(Ok(()), GuestResponse::check),
        }
    }

    /// Whether a filter has touched what the head of one half says of the length of what follows, which filters see.
    pub(super) fn has_length_of_theirs(&self, half: Half) -> bool {
        match half {
            Half::Request => self.request.as_ref().is_some_and(GuestRequest::has_length_of_theirs),
            Half::Response => self.response.as_ref().is_some_and(GuestResponse::has_length_of_theirs),
        }
    }

    /// Header lines of the head of one half.
    pub(super) fn count(&self, half: Half) -> u32 {
        match half {
            Half::Request => self.request.as_ref().map_or(0, GuestRequest::count),
            Half::Response => self.response.as_ref().map_or(0, GuestResponse::count),
        }
    }

    /// The filter that asks.
    fn asking(&self) -> Option<usize> {
        self.stage_of(self.asked_by?)
    }

    /// The filter of the VM that runs with this context. Contexts are counted in each VM for itself.
    fn stage_of(&self, context: ContextId) -> Option<usize> {
        let machine = machine::running()?;
        self.stages.iter().position(|stage| stage.machine == machine && stage.place.is(context))
    }
}

impl Stream for Seen {
    fn asked_by(&mut self, context: ContextId) {
        self.asked_by = Some(context);
    }

    fn shown(&mut self, context: ContextId) {
        if let Some(to) = self.stage_of(context) {
            self.moving.pass(to);
        }
    }

    fn headers(&mut self, map: Map) -> Option<&mut dyn Headers> {
        match map {
            Map::RequestHeaders => self.request.as_mut().map(|head| head as _),
            Map::ResponseHeaders => self.response.as_mut().map(|head| head as _),
            Map::RequestTrailers => self.trailers[Half::Request as usize].shown().map(|fields| fields as _),
            Map::ResponseTrailers => self.trailers[Half::Response as usize].shown().map(|fields| fields as _),
            _ => None,
        }
    }

    fn body(&mut self, half: Half) -> Option<&mut dyn Buffer> {
        let at = self.asking()?;
        let held = &mut self.stages[at].parts[half as usize];
        Some(match self.moving.with(half, at) {
            Some(content) => content,
            None => &mut held.held().content,
        })
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        let segments: Vec<&[u8]> = path.segments().take(MAX_SEGMENTS + 1).collect();
        if property::read(self, &segments, out)? {
            return Ok(());
        }
        match self.kept(path.bytes()) {
            Some(value) => out.extend_from_slice(value),
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
        self.reply.get_or_insert_with(|| Box::new(reply));
        self.wake();
    }

    fn resume(&mut self, half: Half) {
        if let Some(at) = self.asking() {
            self.stages[at].parts[half as usize].resumed = true;
        }
        self.wake();
    }

    fn close(&mut self) {
        self.closed = true;
        self.wake();
    }

    /// Whichever side it names, Envoy closes the client's connection, and with it the service's.
    fn close_side(&mut self, _: Half) {
        self.close();
    }
}

impl Seen {
    /// A filter has got a context: which one it is. `answers` if it can be shown a response at once.
    pub(super) fn join(&mut self, stage: Stage, answers: bool) -> usize {
        let at = self.stages.len();
        if let Some(first) = self.stages.first() {
            self.is_row &= stage.machine == first.machine && stage.place.follows(first.place, at);
        }
        self.answers &= answers;
        self.stages.push(stage);
        at
    }

    /// Who has closed a connection: whoever was last to end what it sends, or broke it.
    pub(super) fn closed_by(&self) -> Peer {
        let client = self.exchange.reason() == Reason::DownstreamAborted || self.ways[Half::Request as usize].last;
        if client && !self.closed { Peer::Remote } else { Peer::Local }
    }

    /// Content, and perhaps the end of it, is put into the hands of a filter. How much it is to see.
    pub(super) fn take_up(&mut self, half: Half, at: usize, data: Bytes, end: bool) -> usize {
        let part = &mut self.stages[at].parts[half as usize];
        self.moving.start(half, at, part, data, end)
    }

    /// What moves stays with the filter that has it in its hands.
    pub(super) fn put_down(&mut self) {
        self.moving.stop(&mut self.stages);
    }

    /// All that is with a filter beside the head, which stops no more.
    pub(super) fn take(&mut self, half: Half, at: usize) -> (Bytes, End) {
        let moved = self.moving.with(half, at).is_some().then(|| self.moving.take());
        self.stages[at].parts[half as usize].take(moved)
    }

    /// How many filters can be shown content of the response together, beginning with this one: those after it that are in
    /// the same VM, have let the head go on, and have nothing in their hands.
    pub(super) fn fellows(&self, at: usize, sees: impl Fn(usize) -> bool) -> u32 {
        let first = &self.stages[at];
        let mut count = 0;
        for stage in self.stages[..=at].iter().rev() {
            let part = &stage.parts[Half::Response as usize];
            let rests = part.head == Head::Gone && part.stopped.is_none() && part.kept() == 0 && !part.absent;
            let empty = count == 0 || part.len() == 0 && part.end == End::Open;
            let near = stage.machine == first.machine && first.place.follows(stage.place, count);
            if !rests || !empty || !near || !sees(stage.number) {
                break;
            }
            count += 1;
        }
        u32::try_from(count).unwrap_or(0)
    }

    /// The filter that a half reaches first.
    pub(super) fn first(&self, half: Half) -> Option<usize> {
        match half {
            Half::Request => (!self.stages.is_empty()).then_some(0),
            Half::Response => self.stages.len().checked_sub(1),
        }
    }

    /// The filter that it reaches next.
    pub(super) fn after(&self, half: Half, at: usize) -> Option<usize> {
        match half {
            Half::Request => Some(at + 1).filter(|next| *next < self.stages.len()),
            Half::Response => at.checked_sub(1),
        }
    }

    /// The end of a half has been read.
    pub(super) fn read(&mut self, half: Half) {
        let other = self.ways[1 - half as usize].read;
        let way = &mut self.ways[half as usize];
        (way.last, way.read) = (other, true);
    }

    /// What a filter has stored under this path.
    pub(super) fn kept(&self, path: &[u8]) -> Option<&[u8]> {
        self.properties.iter().find(|(name, _)| name == path).map(|(_, value)| value.as_slice())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

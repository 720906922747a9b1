//! One filter in `lacis-host`, alone on a stage: requests, answers, clock, properties and shared data are given, and what
//! it does is written down.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lacis_host::abi::{Action, BodyAnswer, Level};
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{
    CallOut, ContextId, GrpcEvent, Half, HeadersAction, HttpAnswer, Now, Plugin, PluginSettings, Reply, RootId,
    SharedData, StartError, Trap, Vm, VmSettings,
};

use crate::config::cases::{Answer, Answered, Message, Outcome, Subject};
use crate::filter::world::READS;

/// Most ticks of its timer that an exchange waits for: one that waits longer waits for ever.
const MAX_TICKS: usize = 10_000;

/// The time of day where a case does not say one, in nanoseconds: 1 January 2026, 00:00 UTC. Filters take 0 for a broken
/// clock.
const NOON: u64 = 1_767_225_600_000_000_000;

/// What the clock that nobody sets shows when a filter starts, in nanoseconds: one second. The runtime of Go does not start
/// at 0, which it takes for a broken clock, too.
const UPTIME: u64 = 1_000_000_000;

/// Lines of a filter's log that are kept of one case; what is beyond them is dropped, as of a flood.
const MAX_LINES: usize = 10_000;

/// A started filter.
pub(super) struct Stage {
    vm: Vm,
    root: RootId,
    pub(super) world: Rc<RefCell<TestWorld>>,
    shared: Arc<SharedData>,
    /// What services answer, and whether a call has had it.
    answers: Vec<(Answer, bool)>,
    /// How many of the calls in `world` have been answered.
    answered: usize,
    /// What it reads beyond heads, if it says so.
    reads: Option<[bool; 2]>,
}

/// What the filter is to find when it starts.
#[derive(Default)]
pub(super) struct Given<'g> {
    pub(super) config: &'g [u8],
    pub(super) now: Option<u64>,
    pub(super) shared_data: &'g [(String, Vec<u8>)],
    pub(super) answers: &'g [Answer],
}

/// Why a filter does not start, or an exchange not end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It says no to its configuration.
    Refused(String),
    /// It cannot start, or trapped.
    Broken(String),
    /// It has answered by itself.
    Reply(Box<Reply>),
    /// It has closed the stream.
    Reset,
    /// It holds a message, and nothing is on its way that could make it go on.
    Held(Half),
    /// It has called a service for which no answer is given.
    Unanswered(String),
}

/// A message as the other side gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) head: List,
    pub(super) body: Vec<u8>,
    pub(super) trailers: List,
}

/// What came of an exchange.
pub(super) struct Seen {
    pub(super) end: Result<Outcome, Stop>,
    /// The request that went to the service.
    pub(super) request: Option<Sent>,
    /// The response that went to the client.
    pub(super) response: Option<Sent>,
    /// Paths and values, those that were given and those that the filter has set.
    pub(super) properties: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Stage {
    /// Starts a filter, as a sidecar does: what it says of its callbacks is known when it is tried.
    pub(super) fn new(plugin: &Plugin, subject: &Subject, given: &Given<'_>) -> Result<Stage, Stop> {
        let tried = Stage::start(plugin, subject, given)?;
        if tried.reads.is_none() || subject.head_waits_alone {
            return Ok(tried);
        }
        Stage::start(plugin, &Subject { head_waits_alone: true, ..subject.clone() }, given)
    }

    fn start(plugin: &Plugin, subject: &Subject, given: &Given<'_>) -> Result<Stage, Stop> {
        let Subject { root_id, vm_config, env, head_waits_alone } = subject;
        let shared = Arc::<SharedData>::default();
        let settings = VmSettings {
            configuration: vm_config.clone(),
            env: env.clone(),
            shared: shared.clone(),
            ..VmSettings::default()
        };
        let world = TestWorld::shared();
        world.borrow_mut().level = Some(Level::Trace);
        world.borrow_mut().now = clock(given.now);
        world.borrow_mut().upstreams = upstreams(given.answers);
        let mut vm = Vm::new(plugin, settings, world.clone()).map_err(|error| not_started(error, &world))?;
        for (key, value) in given.shared_data {
            if !shared.set_value("", key.as_bytes(), value) {
                return Err(Stop::Broken(format!("there is no room for the shared data {key}")));
            }
        }
        let settings = PluginSettings {
            name: "filter".into(),
            root_id: root_id.clone(),
            configuration: given.config.to_vec(),
            allow_on_headers_stop_iteration: *head_waits_alone,
            upstreams: None,
        };
        let root = vm.start_root(settings).map_err(|error| not_started(error, &world))?;
        let answers = given.answers.iter().map(|answer| (answer.clone(), false)).collect();
        let reads = reads(&world.borrow());
        let mut stage = Stage { vm, root, world, shared, answers, answered: 0, reads };
        stage.answer()?;
        Ok(stage)
    }

    /// Goes on with what another case gives.
    pub(super) fn again(&mut self, given: &Given<'_>) {
        let mut world = self.world.borrow_mut();
        if let Some(now) = given.now {
            let passed = now.saturating_sub(world.now.unix);
            world.now.monotonic += passed;
            world.now.unix = now;
        }
        world.upstreams = upstreams(given.answers);
        world.lines.clear();
        world.calls.clear();
        world.missed.clear();
        drop(world);
        self.answered = 0;
        self.answers = given.answers.iter().map(|answer| (answer.clone(), false)).collect();
        for (key, value) in given.shared_data {
            self.shared.set_value("", key.as_bytes(), value);
        }
    }

    /// Lets the filter's timer go off, if it has one.
    pub(super) fn tick(&mut self) -> Result<bool, Stop> {
        {
            let mut world = self.world.borrow_mut();
            let period = world.ticks.iter().rev().find(|(root, _)| *root == self.root).and_then(|(_, period)| *period);
            let Some(period) = period else { return Ok(false) };
            let nanoseconds = u64::try_from(period.max(Duration::from_millis(1)).as_nanos()).unwrap_or(u64::MAX);
            world.now.unix = world.now.unix.saturating_add(nanoseconds);
            world.now.monotonic = world.now.monotonic.saturating_add(nanoseconds);
        }
        self.vm.tick(self.root).map_err(|trap| broken(&trap))?;
        self.answer()?;
        Ok(true)
    }

    /// A value of the shared data.
    pub(super) fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.value("", key.as_bytes())
    }

    /// Gives the calls that were made what they get.
    fn answer(&mut self) -> Result<(), Stop> {
        loop {
            let (id, call) = {
                let world = self.world.borrow();
                if let Some(service) = world.missed.first() {
                    return Err(Stop::Unanswered(format!("the service {service}")));
                }
                let Some((id, _, call)) = world.calls.get(self.answered) else { return Ok(()) };
                (*id, call.clone())
            };
            self.answered += 1;
            if self.world.borrow().cancelled.contains(&id) {
                continue;
            }
            let (service, path) = called(&call);
            let fits = |answer: &Answer| {
                answer.service == service && answer.path.as_ref().is_none_or(|wanted| *wanted == path)
            };
            let Some((answer, taken)) = self.answers.iter_mut().find(|(answer, taken)| !taken && fits(answer)) else {
                return Err(Stop::Unanswered(format!("{path} of the service {service}")));
            };
            *taken = true;
            let outcome = answer.outcome.clone();
            let http = matches!(call, CallOut::Http(_));
            let told = match outcome {
                Answered::Http(message) if http => self.vm.on_http_call(id, Some(http_answer(message))),
                Answered::Failure if http => self.vm.on_http_call(id, None),
                Answered::Failure => self.close_grpc(id, UNAVAILABLE, "the connection breaks".into()),
                Answered::Grpc { messages, status, text } if !http => {
                    let mut told = Ok(());
                    for message in messages {
                        told = told.and_then(|()| self.vm.on_grpc(id, GrpcEvent::Message(message)));
                    }
                    told.and_then(|()| self.close_grpc(id, status, text))
                }
                Answered::Http(_) | Answered::Grpc { .. } => {
                    let (is, not) = if http { ("HTTP", "gRPC") } else { ("gRPC", "HTTP") };
                    let what = format!("{path} of the service {service} (a call of {is}, and the answer is of {not})");
                    return Err(Stop::Unanswered(what));
                }
            };
            told.map_err(|trap| broken(&trap))?;
        }
    }

    fn close_grpc(&mut self, id: lacis_host::CallId, status: u32, message: String) -> Result<(), Trap> {
        self.vm.on_grpc(id, GrpcEvent::Close { status, message })
    }

    /// Passes a request, and the response to it.
    pub(super) fn exchange(
        &mut self,
        request: &Message,
        response: &Message,
        properties: &[(Vec<u8>, Vec<u8>)],
    ) -> Seen {
        let stream = Rc::new(RefCell::new(TestStream {
            request: lines(&request.head),
            properties: about(request).into_iter().chain(properties.iter().cloned()).collect(),
            ..TestStream::default()
        }));
        let mut seen = Seen { end: Ok(Outcome::Continue), request: None, response: None, properties: Vec::new() };
        let id = match self.vm.open(self.root, stream.clone()) {
            Ok(id) => id,
            Err(trap) => return Seen { end: Err(broken(&trap)), ..seen },
        };
        let mut passage = Passage { stage: self, id, stream: &stream };
        seen.end = passage.run(request, response, &mut seen.request, &mut seen.response);
        if !self.vm.is_dead() && !matches!(seen.end, Err(Stop::Broken(_))) {
            // What it does at the end counts, too: it may call a service, or trap.
            let closed = self.vm.close(id).map_err(|trap| broken(&trap)).and_then(|()| self.answer());
            if let (Ok(_), Err(stop)) = (&seen.end, closed) {
                seen.end = Err(stop);
            }
        }
        seen.properties = stream.borrow().properties.clone().into_iter().collect();
        self.world.borrow_mut().lines.truncate(MAX_LINES);
        seen
    }
}

/// An exchange on its way.
struct Passage<'p> {
    stage: &'p mut Stage,
    id: ContextId,
    stream: &'p Rc<RefCell<TestStream>>,
}

impl Passage<'_> {
    fn run(
        &mut self,
        request: &Message,
        response: &Message,
        sent: &mut Option<Sent>,
        received: &mut Option<Sent>,
    ) -> Result<Outcome, Stop> {
        let mut outcome = Outcome::Continue;
        let mut answer = response.clone();
        match self.pass(Half::Request, request) {
            Ok(body) => {
                let stream = self.stream.borrow();
                let trailers = stream.request_trailers.clone().unwrap_or_default();
                *sent = Some(Sent { head: stream.request.clone(), body, trailers });
            }
            Err(Stop::Reply(reply)) => {
                outcome = Outcome::Reply;
                answer = local(&reply);
            }
            Err(stop) => return Err(stop),
        }
        // As a sidecar does it, the filter sees its own answer as a response.
        match self.response(&answer) {
            Ok(whole) => *received = Some(whole),
            Err(Stop::Reply(reply)) => {
                outcome = Outcome::Reply;
                let Message { head, body, .. } = local(&reply);
                *received = Some(Sent { head: lines(&head), body: body.concat(), trailers: List::default() });
            }
            Err(Stop::Reset) if outcome == Outcome::Continue => return Ok(Outcome::Reset),
            Err(stop) => return Err(stop),
        }
        Ok(outcome)
    }

    fn response(&mut self, message: &Message) -> Result<Sent, Stop> {
        {
            let stream = &mut *self.stream.borrow_mut();
            let status =
                message.head.iter().find(|(name, _)| name == ":status").and_then(|(_, code)| code.parse().ok());
            let code = i64::to_le_bytes(status.unwrap_or(0));
            stream.properties.entry(b"response\0code".to_vec()).or_insert(code.to_vec());
            stream.response = Some(lines(&message.head));
        }
        let body = self.pass(Half::Response, message)?;
        let stream = self.stream.borrow();
        let trailers = stream.response_trailers.clone().unwrap_or_default();
        Ok(Sent { head: stream.response.clone().unwrap_or_default(), body, trailers })
    }

    /// Shows the filter one half, and answers the body that it lets through.
    fn pass(&mut self, half: Half, message: &Message) -> Result<Vec<u8>, Stop> {
        let Message { head, body, trailers } = message;
        let bare = body.is_empty() && trailers.is_empty();
        let unseen = self.stage.reads.is_some_and(|reads| !reads[half as usize]);
        self.stream.borrow_mut().resumed.clear();
        let count = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let shown = self.stage.vm.on_headers(self.id, half, count, bare).map_err(|trap| broken(&trap))?;
        self.settle()?;
        let mut stopped = match shown {
            HeadersAction::Continue => false,
            HeadersAction::Hold if !unseen => !self.resumed(half),
            HeadersAction::Pause | HeadersAction::Hold => {
                self.wait(half)?;
                false
            }
        };
        if unseen {
            self.trailers(half, trailers);
            return Ok(body.concat());
        }
        let (mut out, mut kept) = (Vec::new(), Vec::new());
        for (number, piece) in body.iter().enumerate() {
            let end = number + 1 == body.len() && trailers.is_empty();
            let size = self.content(half, |content| {
                content.extend_from_slice(piece);
                content.len()
            });
            let answer = self.stage.vm.on_body(self.id, half, size, end).map_err(|trap| broken(&trap))?;
            match answer {
                BodyAnswer::Continue | BodyAnswer::Buffer => {}
                BodyAnswer::Watermark => kept.append(&mut self.content(half, std::mem::take)),
                BodyAnswer::Discard => self.content(half, Vec::clear),
            }
            self.settle()?;
            stopped = answer != BodyAnswer::Continue && !self.resumed(half);
            if !stopped {
                out.append(&mut kept);
                out.append(&mut self.content(half, std::mem::take));
            }
        }
        if !trailers.is_empty() {
            self.trailers(half, trailers);
            let count = u32::try_from(trailers.len()).unwrap_or(u32::MAX);
            let answer = self.stage.vm.on_trailers(self.id, half, count).map_err(|trap| broken(&trap))?;
            self.settle()?;
            stopped = answer == Action::Pause && !self.resumed(half);
        }
        if stopped {
            self.wait(half)?;
        }
        out.append(&mut kept);
        out.append(&mut self.content(half, std::mem::take));
        Ok(out)
    }

    fn trailers(&self, half: Half, trailers: &[(String, String)]) {
        let stream = &mut *self.stream.borrow_mut();
        let place = if half == Half::Request { &mut stream.request_trailers } else { &mut stream.response_trailers };
        *place = (!trailers.is_empty()).then(|| lines(trailers));
    }

    /// What the filter sees of a body.
    fn content<T>(&self, half: Half, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        change(self.stream.borrow_mut().bodies[half as usize].get_or_insert_default())
    }

    /// After a callback: calls are answered, and what the filter has noted ends the exchange.
    fn settle(&mut self) -> Result<(), Stop> {
        self.stage.answer()?;
        let mut stream = self.stream.borrow_mut();
        match stream.reply.take() {
            Some(reply) => Err(Stop::Reply(Box::new(reply))),
            None if stream.closed => Err(Stop::Reset),
            None => Ok(()),
        }
    }

    /// Whether the filter has let a half go on since this was last asked.
    fn resumed(&self, half: Half) -> bool {
        let resumed = &mut self.stream.borrow_mut().resumed;
        let before = resumed.len();
        resumed.retain(|other| *other != half);
        resumed.len() < before
    }

    /// Until the filter lets a half go on: all that can make it do so is its timer.
    fn wait(&mut self, half: Half) -> Result<(), Stop> {
        for _ in 0..MAX_TICKS {
            if self.resumed(half) {
                return Ok(());
            }
            if !self.stage.tick()? {
                break;
            }
            self.settle()?;
        }
        Err(Stop::Held(half))
    }
}

/// gRPC's status for a connection that breaks (gRPC, "Status codes").
const UNAVAILABLE: u32 = 14;

/// The clock of a filter that starts, where nothing says what time it is.
pub(super) fn clock(now: Option<u64>) -> Now {
    Now { unix: now.unwrap_or(NOON), monotonic: UPTIME }
}

/// What a filter says that it reads beyond heads, of requests and of responses.
pub(super) fn reads(world: &TestWorld) -> Option<[bool; 2]> {
    let (_, arguments) = world.foreign.iter().find(|(name, _)| name == READS)?;
    let [request, response] = arguments.as_slice().try_into().ok()?;
    Some([request != 0, response != 0])
}

fn broken(trap: &Trap) -> Stop {
    Stop::Broken(trap.to_string())
}

fn not_started(error: StartError, world: &Rc<RefCell<TestWorld>>) -> Stop {
    let last = world.borrow().lines.last().map(|(_, _, text)| format!("; it logged last: {}", text.trim()));
    let why = format!("{error}{}", last.unwrap_or_default());
    if matches!(error, StartError::Refused(_)) { Stop::Refused(why) } else { Stop::Broken(why) }
}

fn upstreams(answers: &[Answer]) -> Vec<String> {
    answers.iter().map(|answer| answer.service.clone()).collect()
}

/// Service and path of a call.
pub(super) fn called(call: &CallOut) -> (String, String) {
    match call {
        CallOut::Http(call) => {
            let path = call.headers.iter().find(|(name, _)| name == b":path").map(|(_, value)| text(value));
            (call.upstream.clone(), path.unwrap_or_default())
        }
        CallOut::Grpc(call) | CallOut::GrpcStream(call) => {
            (call.upstream.clone(), format!("/{}/{}", call.service, call.method))
        }
    }
}

fn http_answer(Message { head, body, trailers }: Message) -> HttpAnswer {
    let trailers = (!trailers.is_empty()).then(|| Box::new(lines(&trailers)) as Box<dyn lacis_host::Headers>);
    HttpAnswer { headers: Box::new(lines(&head)), body: body.concat(), trailers }
}

fn lines(pairs: &[(String, String)]) -> List {
    List(pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
}

/// A filter's own answer, as a message.
fn local(reply: &Reply) -> Message {
    let mut head = vec![(":status".to_owned(), reply.status.to_string())];
    head.extend(reply.headers.iter().map(|(name, value)| (text(name), text(value))));
    if let Some(status) = reply.grpc_status {
        head.push(("grpc-status".into(), status.to_string()));
    }
    let body = if reply.body.is_empty() { Vec::new() } else { vec![reply.body.clone()] };
    Message { head, body, trailers: Vec::new() }
}

/// The properties that follow from a request.
fn about(request: &Message) -> Vec<(Vec<u8>, Vec<u8>)> {
    let value = |name: &str| request.head.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let path = value(":path").unwrap_or_default();
    let (plain, query) = path.split_once('?').unwrap_or((path, ""));
    let known = [
        ("path", Some(path)),
        ("url_path", Some(plain)),
        ("query", Some(query)),
        ("host", value(":authority")),
        ("method", value(":method")),
        ("scheme", value(":scheme")),
        ("protocol", Some("HTTP/1.1")),
        ("id", value("x-request-id")),
        ("useragent", value("user-agent")),
        ("referer", value("referer")),
    ];
    let property = |(name, value): (&str, Option<&str>)| Some((format!("request\0{name}").into_bytes(), value?.into()));
    known.into_iter().filter_map(property).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

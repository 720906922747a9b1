//! Filters as their authors write them, on the released `proxy-wasm` crate: one module, and the configuration says which
//! of them it is.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, Bytes, ContextType, LogLevel, MapType, PeerType};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// The plugin.
#[derive(Default)]
struct Root {
    kind: String,
    queue: u32,
    heard: u32,
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, _: usize, size: usize, _: usize) {
        FETCHED.set(size);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.kind = text(self.get_plugin_configuration());
        if self.kind == "fetch" {
            let head = vec![(":method", "GET"), (":path", "/bytes/5"), (":authority", "auth")];
            self.dispatch_http_call("auth", head, None, vec![], CALL).expect("a call");
        }
        if self.kind == "queue" {
            self.queue = self.register_shared_queue("items");
        }
        if self.kind == "timer" {
            self.set_tick_period(Duration::from_millis(20));
        }
        true
    }

    /// Lets go on what waits, and tells the first three times.
    fn on_tick(&mut self) {
        self.heard += 1;
        if self.heard <= 3 {
            hostcalls::log(LogLevel::Info, &format!("tick {}", self.heard)).expect("a log");
        }
        if self.heard == 3 {
            // Another period takes the place of the first.
            self.set_tick_period(Duration::from_millis(40));
        }
        for waits in WAITING.take() {
            hostcalls::set_effective_context(waits).expect("a context");
            hostcalls::set_map_value(MapType::HttpRequestHeaders, "x-waited", Some("for a tick")).expect("a header");
            hostcalls::resume_http_request().expect("a request");
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(item)) = self.dequeue_shared_queue(queue) {
            self.heard += 1;
            // Where requests find it, in whatever VM they are.
            self.set_shared_data("heard", Some(&item), None).expect("shared data");
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(if self.kind.starts_with("tcp") { ContextType::StreamContext } else { ContextType::HttpContext })
    }

    fn create_stream_context(&self, _: u32) -> Option<Box<dyn StreamContext>> {
        let (closed, parts) = (self.kind == "tcp-closed", self.kind == "tcp-parts");
        Some(Box::new(Tap { closed, parts, waits: false }))
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let (kind, queue) = (self.kind.clone(), self.queue);
        Some(match kind.as_str() {
            "upper" | "upper-whole" | "grow" | "sloppy" | "gather" | "hold" | "refuse" | "trap" => {
                Box::new(Bodies { kind, seen: 0 })
            }
            "trailers" => Box::new(Trailers { made: false }),
            "auth" | "ask-and-go" => Box::new(Auth { kind }),
            "fan" => Box::new(Fan::default()),
            "grpc" => Box::new(Grpc::default()),
            "queue" => Box::new(Queue { queue }),
            "timer" => Box::new(Patient { id }),
            "fetch" => Box::new(Fetch),
            other => panic!("no filter {other}"),
        })
    }
}

thread_local!(static WAITING: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });

thread_local!(static FETCHED: Cell<usize> = const { Cell::new(0) });

/// Tells how much was fetched by a call that was made when the filter was configured.
struct Fetch;

impl Context for Fetch {}

impl HttpContext for Fetch {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.send_http_response(200, vec![], Some(FETCHED.get().to_string().as_bytes()));
        Action::Pause
    }
}

/// Holds each request until the next tick.
struct Patient {
    id: u32,
}

impl Context for Patient {}

impl HttpContext for Patient {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        WAITING.with_borrow_mut(|waiting| waiting.push(self.id));
        Action::Pause
    }
}

fn text(bytes: Option<Bytes>) -> String {
    String::from_utf8(bytes.unwrap_or_default()).expect("UTF-8")
}

/// A filter of TCP connections that speaks of everything it sees. It lets whole lines through only; some are orders.
struct Tap {
    /// To everybody.
    closed: bool,
    /// Parts of lines may pass.
    parts: bool,
    waits: bool,
}

impl Tap {
    fn say(&self, text: &str) {
        hostcalls::log(LogLevel::Info, text).expect("a line");
    }
}

impl Context for Tap {
    fn on_http_call_response(&mut self, _: u32, _: usize, size: usize, _: usize) {
        self.say(&format!("called {size}"));
        self.waits = false;
        self.resume_downstream();
    }

    fn on_done(&mut self) -> bool {
        self.say("done");
        true
    }
}

impl StreamContext for Tap {
    fn on_new_connection(&mut self) -> Action {
        let port = |path: &str| self.get_property(vec![path, "port"]).map_or(0, |port| port.len());
        let tls = self.get_property(vec!["connection", "mtls"]).is_some();
        let path = self.get_property(vec!["request", "path"]).is_some();
        self.say(&format!("new {} {} {tls} {path}", port("source"), port("destination")));
        if self.closed {
            self.close_downstream();
        }
        Action::Continue
    }

    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        let line = text(self.get_downstream_data(0, size));
        self.say(&format!("down {size} {end} {}", line.trim_end().get(..20).unwrap_or(line.trim_end())));
        match line.trim_end() {
            "upper" => self.set_downstream_data(0, size, b"UPPER!\n"),
            "nothing" => self.set_downstream_data(0, size, b""),
            "more" => self.set_downstream_data(size, 0, b"and more\n"),
            "close" => self.close_downstream(),
            "trap" => panic!("as told"),
            "call" if !self.waits => {
                let head = vec![(":method", "GET"), (":path", "/bytes/5"), (":authority", "helper")];
                self.dispatch_http_call("helper", head, None, vec![], Duration::from_secs(5)).expect("a call");
                self.waits = true;
            }
            _ => {}
        }
        if self.waits || !self.parts && !line.is_empty() && !line.ends_with('\n') {
            Action::Pause
        } else {
            Action::Continue
        }
    }

    fn on_upstream_data(&mut self, size: usize, end: bool) -> Action {
        let line = text(self.get_upstream_data(0, size));
        self.say(&format!("up {size} {end} {}", line.trim_end().get(..20).unwrap_or(line.trim_end())));
        if line.contains("secret") {
            self.set_upstream_data(0, size, line.replace("secret", "******").as_bytes());
        }
        Action::Continue
    }

    fn on_downstream_close(&mut self, by: PeerType) {
        self.say(&format!("downstream closed {}", by as u32));
    }

    fn on_upstream_close(&mut self, by: PeerType) {
        self.say(&format!("upstream closed {}", by as u32));
    }

    fn on_log(&mut self) {
        self.say("log");
    }
}

/// Filters of content.
struct Bodies {
    kind: String,
    seen: usize,
}

impl Bodies {
    fn is(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.kind.as_str())
    }
}

impl Context for Bodies {}

impl HttpContext for Bodies {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if self.is(&["grow"]) {
            self.set_http_request_header("content-length", None);
        }
        // With `allow_on_headers_stop_iteration` the body comes all the same.
        if self.is(&["gather"]) && !end { Action::Pause } else { Action::Continue }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        match self.kind.as_str() {
            "upper" => {
                let upper = self.get_http_request_body(0, size).unwrap_or_default().to_ascii_uppercase();
                self.set_http_request_body(0, size, &upper);
            }
            "upper-whole" | "gather" if !end => return Action::Pause,
            "upper-whole" => {
                let upper = self.get_http_request_body(0, size).unwrap_or_default().to_ascii_uppercase();
                self.set_http_request_body(0, size, &upper);
            }
            "gather" => {
                let body = text(self.get_http_request_body(0, size));
                self.set_http_request_header("x-gathered", Some(&size.to_string()));
                self.set_http_request_body(0, size, format!("<{body}>").as_bytes());
            }
            "grow" | "sloppy" if end => self.set_http_request_body(size, 0, b"!"),
            "refuse" => {
                let body = self.get_http_request_body(0, size).unwrap_or_default();
                if body.windows(3).any(|three| three == b"bad") {
                    self.send_http_response(422, vec![("x-why", "bad")], Some(b"no such words\n"));
                    return Action::Pause;
                }
            }
            "trap" if end => panic!("as told"),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("x-filtered", Some("yes"));
        if self.is(&["grow"]) {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.seen += size;
        match self.kind.as_str() {
            "upper" => {
                let upper = self.get_http_response_body(0, size).unwrap_or_default().to_ascii_uppercase();
                self.set_http_response_body(0, size, &upper);
            }
            "upper-whole" | "hold" if !end => return Action::Pause,
            "upper-whole" => {
                let upper = self.get_http_response_body(0, size).unwrap_or_default().to_ascii_uppercase();
                self.set_http_response_body(0, size, &upper);
            }
            "grow" | "sloppy" if end => self.set_http_response_body(size, 0, b"!"),
            _ => {}
        }
        Action::Continue
    }
}

/// Adds a trailer to every message that has a body, and changes one that is there.
struct Trailers {
    made: bool,
}

impl Context for Trailers {}

impl HttpContext for Trailers {
    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        self.add_http_request_trailer("x-count", &count.to_string());
        self.set_http_request_trailer("x-old", None);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, _: usize, end: bool) -> Action {
        if end {
            self.made = true;
            // There are none: some are made.
            self.add_http_response_trailer("x-made", "yes");
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        self.set_http_response_trailer("x-checksum", Some(&format!("changed, one of {count}")));
        Action::Continue
    }
}

const CALL: Duration = Duration::from_secs(10);

/// The authorization of each request by another service.
struct Auth {
    kind: String,
}

impl Auth {
    fn ask(&self, timeout: Duration) -> Action {
        let path = self.get_http_request_header("x-ask").unwrap_or_else(|| "/status/200".into());
        let headers = vec![(":method", "GET"), (":path", path.as_str()), (":authority", "auth")];
        match self.dispatch_http_call("auth", headers, None, vec![], timeout) {
            Ok(_) => Action::Pause,
            Err(status) => {
                self.send_http_response(500, vec![("x-status", &format!("{status:?}"))], None);
                Action::Pause
            }
        }
    }
}

impl Context for Auth {
    fn on_http_call_response(&mut self, _: u32, headers: usize, size: usize, _: usize) {
        // No headers at all: there is no answer, and asking for one of them is an error.
        let status = if headers > 0 { self.get_http_call_response_header(":status") } else { None };
        let status = status.unwrap_or_else(|| "none".into());
        if status == "200" {
            self.set_http_request_header("x-authorized", Some(&size.to_string()));
            self.resume_http_request();
        } else {
            let body = text(self.get_http_call_response_body(0, size));
            let headers = headers.to_string();
            self.send_http_response(403, vec![("x-status", &status), ("x-headers", &headers)], Some(body.as_bytes()));
        }
    }
}

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let timeout = self.get_http_request_header("x-timeout").and_then(|ms| ms.parse().ok());
        let action = self.ask(timeout.map_or(CALL, Duration::from_millis));
        // Not waited for: a refusal may overtake the response.
        if self.kind == "ask-and-go" { Action::Continue } else { action }
    }
}

/// Two calls at once, and a third when both are answered.
#[derive(Default)]
struct Fan {
    waiting: Vec<u32>,
    answers: Vec<String>,
}

impl Fan {
    fn call(&mut self, path: &str, body: Option<&[u8]>) {
        let headers = vec![(":method", "POST"), (":path", path), (":authority", "auth")];
        let id = self.dispatch_http_call("auth", headers, body, vec![], CALL).expect("a call");
        self.waiting.push(id);
    }
}

impl Context for Fan {
    fn on_http_call_response(&mut self, id: u32, _: usize, size: usize, _: usize) {
        self.waiting.retain(|waiting| *waiting != id);
        self.answers.push(text(self.get_http_call_response_body(0, size)));
        match (self.waiting.len(), self.answers.len()) {
            (0, 2) => {
                self.answers.sort();
                let sum = self.answers.concat();
                self.call("/drain", Some(sum.as_bytes()));
            }
            (0, 3) => {
                self.set_http_request_header("x-answers", Some(&self.answers.join(",")));
                self.resume_http_request();
            }
            _ => {}
        }
    }
}

impl HttpContext for Fan {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.call("/drain", Some(b"four"));
        self.call("/drain", Some(b"eleven bytes"));
        Action::Pause
    }
}

/// One gRPC call, or a stream, and what came of it in the response.
#[derive(Default)]
struct Grpc {
    stream: Option<u32>,
    events: Vec<String>,
}

const WORDS: &str = "lacis.test.Words";

/// `message Word { string text = 1; }`
fn word(text: &str) -> Vec<u8> {
    let mut message = vec![0x0a, text.len() as u8];
    message.extend_from_slice(text.as_bytes());
    message
}

impl Grpc {
    fn finish(&self) {
        self.send_http_response(200, vec![], Some(self.events.join("\n").as_bytes()));
    }
}

impl Context for Grpc {
    fn on_grpc_call_response(&mut self, _: u32, status: u32, size: usize) {
        let message = if status == 0 { self.get_grpc_call_response_body(0, size) } else { None };
        let said = self.get_grpc_status();
        self.events.push(format!("{status} {:?} {said:?}", message.map(|m| text(Some(m[2..].into())))));
        self.finish();
    }

    fn on_grpc_stream_initial_metadata(&mut self, id: u32, _: u32) {
        self.events.push("head".into());
        self.send_grpc_stream_message(id, Some(&word("second")), true);
    }

    fn on_grpc_stream_message(&mut self, _: u32, size: usize) {
        let message = self.get_grpc_stream_message(0, size).unwrap_or_default();
        self.events.push(text(Some(message[2..].into())));
    }

    fn on_grpc_stream_trailing_metadata(&mut self, _: u32, _: u32) {
        self.events.push("trailers".into());
    }

    fn on_grpc_stream_close(&mut self, _: u32, status: u32) {
        self.events.push(format!("closed {status}"));
        self.finish();
    }
}

impl HttpContext for Grpc {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let method = self.get_http_request_header("x-method").expect("a method");
        if method == "Shout" {
            let id = self.open_grpc_stream("words", WORDS, &method, vec![]).expect("a stream");
            self.send_grpc_stream_message(id, Some(&word("first")), false);
            self.stream = Some(id);
        } else {
            let service = self.get_http_request_header("x-service").unwrap_or_else(|| "words".into());
            let metadata = vec![("x-user", &b"ann"[..])];
            self.dispatch_grpc_call(&service, WORDS, &method, metadata, Some(&word("hello")), CALL).expect("a call");
        }
        Action::Pause
    }
}

/// Puts a path into a shared queue, and tells what was heard from it.
struct Queue {
    queue: u32,
}

impl Context for Queue {}

impl HttpContext for Queue {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        if path.starts_with("/put/") {
            self.enqueue_shared_queue(self.queue, Some(path.as_bytes())).expect("a place in the queue");
        }
        let heard = text(hostcalls::get_shared_data("heard").expect("shared data").0);
        self.send_http_response(200, vec![], Some(heard.as_bytes()));
        Action::Pause
    }
}

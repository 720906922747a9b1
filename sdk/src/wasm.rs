//! The SDK in a module: Proxy-Wasm 0.2.1 by the `proxy-wasm` crate.
//!
//! Its host calls panic on a status that they do not expect, which ends the virtual machine. So they get only what
//! every host accepts: checked headers and bodies, in callbacks that hold them.

use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

pub use proxy_wasm;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType};

use crate::backend::{Backend, Half, Map, Outdated};
use crate::call::{Answer, Outgoing, Told};
use crate::grpc::Unary;
use crate::headers::Value;
use crate::log::Level;
use crate::metrics::Kind;
use crate::reply::Reply;
use crate::run::{self, Stream, Verdict};
use crate::{Filter, task};

/// Registers the filter of this module; [`crate::filter!`] calls it.
pub fn register<F: Filter>() {
    proxy_wasm::set_root_context(|context| {
        Box::new(Guest::<F>::Plugin { filter: None, root: task::Root::new(context) })
    });
}

/// What the host calls: the plugin, or one of its exchanges. They are one type because each type has all methods of the
/// crate's traits in its tables, called or not.
enum Guest<F> {
    Plugin { filter: Option<Rc<F>>, root: Rc<task::Root> },
    Exchange(Stream<F>),
}

impl<F: Filter> Guest<F> {
    /// A call was answered.
    fn on_answer(&self, token: u32, answer: impl FnOnce() -> Told) {
        match self {
            Guest::Plugin { root, .. } => root.enter_root(|| root.told(token, answer)),
            Guest::Exchange(stream) => stream.on_event(|root| root.told(token, answer)),
        }
    }

    fn on_message(&self, event: impl FnOnce(&Stream<F>) -> Verdict) -> Action {
        match self {
            Guest::Exchange(stream) if event(stream) == Verdict::Pause => Action::Pause,
            _ => Action::Continue,
        }
    }
}

impl<F: Filter> Context for Guest<F> {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        self.on_answer(token, || answer(headers, body));
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        self.on_answer(token, || message(status, size));
    }

    fn on_done(&mut self) -> bool {
        match self {
            Guest::Plugin { root, .. } => root.close(),
            Guest::Exchange(stream) => stream.on_done(),
        }
        true
    }
}

impl<F: Filter> RootContext for Guest<F> {
    fn on_configure(&mut self, size: usize) -> bool {
        let Guest::Plugin { filter, root } = self else { return false };
        // Asking for a configuration of no bytes is an error on some hosts.
        let config = match size {
            0 => None,
            _ => hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten(),
        };
        match run::configure(root, &config.unwrap_or_default()) {
            Ok(configured) => {
                // The crate exports every callback there is. Lacis spares a filter those that it does not have; other
                // hosts do not know the function.
                let _ = hostcalls::call_foreign_function("lacis_reads", Some(&F::READS.bytes()));
                *filter = Some(configured);
                true
            }
            Err(error) => {
                ProxyWasm::log(Level::Error, &error);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Guest::Plugin { root, .. } = self {
            root.on_tick();
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        let Guest::Plugin { filter, root } = self else { return None };
        Some(Box::new(Guest::Exchange(Stream::new(filter.clone(), root, context))))
    }
}

impl<F: Filter> HttpContext for Guest<F> {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        self.on_message(|stream| stream.on_head(Half::Request, end))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.on_message(|stream| stream.on_body(Half::Request, size, end))
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.on_message(|stream| stream.on_trailers(Half::Request))
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        self.on_message(|stream| stream.on_head(Half::Response, end))
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.on_message(|stream| stream.on_body(Half::Response, size, end))
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.on_message(|stream| stream.on_trailers(Half::Response))
    }

    fn on_log(&mut self) {
        if let Guest::Exchange(stream) = self {
            stream.on_log();
        }
    }
}

/// The answer that the present callback tells of; without headers there is none.
fn answer(headers: usize, body: usize) -> Told {
    if headers == 0 {
        return Told::Answer(Answer::default());
    }
    let map = |map| hostcalls::get_map_bytes(map).unwrap_or_default();
    let values = |lines: Vec<(String, Vec<u8>)>| lines.into_iter().map(|(name, value)| (name, Value(value))).collect();
    Told::Answer(Answer {
        service: String::new(),
        headers: values(map(MapType::HttpCallResponseHeaders)),
        body: buffer(BufferType::HttpCallResponseBody, 0, body),
        trailers: values(map(MapType::HttpCallResponseTrailers)),
    })
}

/// What the present callback tells of a gRPC call. The text of a status is not read: the crate panics where it is not
/// UTF-8.
fn message(status: u32, size: usize) -> Told {
    match status {
        0 => Told::Message(buffer(BufferType::GrpcReceiveBuffer, 0, size)),
        code => Told::Closed(code),
    }
}

fn buffer(buffer: BufferType, start: usize, size: usize) -> Vec<u8> {
    // Some hosts have no buffer of no bytes.
    if size == 0 { Vec::new() } else { hostcalls::get_buffer(buffer, start, size).ok().flatten().unwrap_or_default() }
}

/// The host of a module.
pub(crate) struct ProxyWasm(PhantomData<()>);

// What a host answers to these calls beyond a value has no other reader than the proxy's own log.
impl Backend for ProxyWasm {
    fn header(map: Map, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(kind(map), name).ok().flatten()
    }

    fn headers(map: Map) -> Vec<(String, Vec<u8>)> {
        hostcalls::get_map_bytes(kind(map)).unwrap_or_default()
    }

    fn set_header(map: Map, name: &str, value: &[u8]) {
        let _ = hostcalls::set_map_value_bytes(kind(map), name, Some(value));
    }

    fn append_header(map: Map, name: &str, value: &[u8]) {
        let _ = hostcalls::add_map_value_bytes(kind(map), name, value);
    }

    fn remove_header(map: Map, name: &str) {
        let _ = hostcalls::remove_map_value(kind(map), name);
    }

    fn body(half: Half, start: usize, size: usize) -> Vec<u8> {
        buffer(body(half), start, size)
    }

    fn set_body(half: Half, size: usize, bytes: &[u8]) {
        let _ = hostcalls::set_buffer(body(half), 0, size, bytes);
    }

    fn resume(half: Half) {
        let _ = match half {
            Half::Request => hostcalls::resume_http_request(),
            Half::Response => hostcalls::resume_http_response(),
        };
    }

    fn reroute() {
        let _ = hostcalls::call_foreign_function("clear_route_cache", None);
    }

    fn attribute(path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn reply(reply: &Reply) {
        let body = Some(reply.content()).filter(|body| !body.is_empty());
        let _ = hostcalls::send_http_response(reply.status().into(), reply.headers().collect(), body);
    }

    fn call(call: &Outgoing) -> Option<u32> {
        let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = Some(call.body.as_slice()).filter(|body| !body.is_empty());
        hostcalls::dispatch_http_call(&call.service, headers, body, Vec::new(), bounded(call.timeout)).ok()
    }

    fn grpc_call(call: &Unary) -> Option<u32> {
        let Unary { upstream, service, method, metadata, message, timeout } = call;
        let metadata = metadata.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        hostcalls::dispatch_grpc_call(upstream, service, method, metadata, Some(message), bounded(*timeout)).ok()
    }

    fn cancel_grpc(token: u32) {
        let _ = hostcalls::cancel_grpc_call(token);
    }

    fn enter(context: u32) {
        let _ = hostcalls::set_effective_context(context);
    }

    fn tick(period: Duration) {
        let _ = hostcalls::set_tick_period(period);
    }

    fn unix_time() -> Duration {
        let now = hostcalls::get_current_time().ok();
        now.and_then(|now| now.duration_since(UNIX_EPOCH).ok()).unwrap_or_default()
    }

    fn elapsed() -> Duration {
        clock::monotonic()
    }

    fn random() -> u64 {
        let mut bytes = [0; 8];
        match getrandom::fill(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(error) => {
                crate::critical!("the host has no random bits: {error}");
                std::process::abort()
            }
        }
    }

    fn shared(key: &str) -> Option<(Vec<u8>, u32)> {
        let (value, version) = hostcalls::get_shared_data(key).ok()?;
        Some((value.unwrap_or_default(), version?))
    }

    fn set_shared(key: &str, value: &[u8], version: Option<u32>) -> Result<(), Outdated> {
        hostcalls::set_shared_data(key, Some(value), version).map_err(|_| Outdated)
    }

    fn define(metric: Kind, name: &str) -> Option<u32> {
        let metric = match metric {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        hostcalls::define_metric(metric, name).ok()
    }

    fn record(metric: u32, value: u64) {
        let _ = hostcalls::record_metric(metric, value);
    }

    fn add(metric: u32, offset: i64) {
        let _ = hostcalls::increment_metric(metric, offset);
    }

    fn log(level: Level, message: &str) {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
            Level::Critical => LogLevel::Critical,
        };
        let _ = hostcalls::log(level, message);
    }
}

fn kind(map: Map) -> MapType {
    match map {
        Map::Request => MapType::HttpRequestHeaders,
        Map::RequestTrailers => MapType::HttpRequestTrailers,
        Map::Response => MapType::HttpResponseHeaders,
        Map::ResponseTrailers => MapType::HttpResponseTrailers,
    }
}

fn body(half: Half) -> BufferType {
    match half {
        Half::Request => BufferType::HttpRequestBody,
        Half::Response => BufferType::HttpResponseBody,
    }
}

/// The one clock that Proxy-Wasm itself does not have.
mod clock {
    #![expect(unsafe_code, reason = "an import is declared, whose type is that of WASI preview 1")]

    use std::time::Duration;

    const MONOTONIC: u32 = 1;

    // `Instant` brings the texts of all errors of the operating system along, a tenth of a small module, for a call that
    // does not fail.
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        safe fn clock_time_get(clock: u32, precision: u64, time: &mut u64) -> u32;
    }

    /// The time since some moment in the past.
    pub(super) fn monotonic() -> Duration {
        let mut time = 0;
        clock_time_get(MONOTONIC, 0, &mut time);
        Duration::from_nanos(time)
    }
}

/// Hosts count milliseconds in 31 bits.
fn bounded(timeout: Duration) -> Duration {
    timeout.min(Duration::from_millis(0x7fff_ffff))
}

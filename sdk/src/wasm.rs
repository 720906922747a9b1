//! The SDK in a module: Proxy-Wasm 0.2.1 by the `proxy-wasm` crate.
//!
//! Its host calls panic on a status that they do not expect, which ends the virtual machine. So they get only what
//! every host accepts: checked headers, in the callback that holds them.

use std::marker::PhantomData;
use std::rc::Rc;

pub use proxy_wasm;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType};

use crate::Filter;
use crate::backend::{Backend, Map};
use crate::log::Level;
use crate::metrics::Kind;
use crate::reply::Reply;
use crate::run::{self, Exchange, Verdict};

/// Registers the filter of this module; [`crate::filter!`] calls it.
pub fn register<F: Filter>() {
    proxy_wasm::set_root_context(|_| Box::new(Root::<F> { filter: None }));
}

struct Root<F> {
    filter: Option<Rc<F>>,
}

impl<F: Filter> Context for Root<F> {}

impl<F: Filter> RootContext for Root<F> {
    fn on_configure(&mut self, size: usize) -> bool {
        // Asking for a configuration of no bytes is an error on some hosts.
        let config = match size {
            0 => None,
            _ => hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten(),
        };
        match run::configure(&config.unwrap_or_default()) {
            Ok(filter) => {
                // The crate exports every callback there is. Lacis spares a filter those that it does not have; other
                // hosts do not know the function.
                let _ = hostcalls::call_foreign_function("lacis_heads_only", None);
                self.filter = Some(Rc::new(filter));
                true
            }
            Err(error) => {
                ProxyWasm::log(Level::Error, &error);
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { exchange: Exchange::new(self.filter.clone()) }))
    }
}

struct Stream<F> {
    exchange: Exchange<F>,
}

impl<F: Filter> Context for Stream<F> {}

impl<F: Filter> HttpContext for Stream<F> {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        action(self.exchange.on_request(!end_of_stream))
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        action(self.exchange.on_response(!end_of_stream))
    }
}

fn action(verdict: Verdict) -> Action {
    match verdict {
        Verdict::Continue => Action::Continue,
        Verdict::Replied => Action::Pause,
    }
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

    fn attribute(path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn reply(reply: &Reply) {
        let body = Some(reply.content()).filter(|body| !body.is_empty());
        let _ = hostcalls::send_http_response(reply.status().into(), reply.headers().collect(), body);
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
        Map::Response => MapType::HttpResponseHeaders,
    }
}

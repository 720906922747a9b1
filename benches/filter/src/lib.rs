//! What many filters do: reads a header, sets a header on request and response, and looks at the outcome when it is logged.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root { version: None }));
}}

struct Root {
    /// What it is configured with, if with anything: told on requests and responses.
    version: Option<Rc<str>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let text = |bytes| String::from_utf8(bytes).ok().filter(|text| !text.is_empty());
        self.version = self.get_plugin_configuration().and_then(text).map(Rc::from);
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Tag { known: false, version: self.version.clone() }))
    }
}

struct Tag {
    known: bool,
    version: Option<Rc<str>>,
}

impl Context for Tag {}

impl HttpContext for Tag {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.known = self.get_http_request_header(":path").is_some_and(|path| path.starts_with('/'));
        self.set_http_request_header("x-known", Some(if self.known { "yes" } else { "no" }));
        if let Some(version) = &self.version {
            self.add_http_request_header("x-version", version);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("x-filtered", Some("yes"));
        if let Some(version) = &self.version {
            self.add_http_response_header("x-version", version);
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.known {
            proxy_wasm::hostcalls::log(LogLevel::Debug, "a known path").unwrap_or_default();
        }
    }
}

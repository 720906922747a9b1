//! What many filters do: reads a header, sets a header on request and response, and looks at the outcome when it is logged.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Tag { known: false }))
    }
}

struct Tag {
    known: bool,
}

impl Context for Tag {}

impl HttpContext for Tag {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.known = self.get_http_request_header(":path").is_some_and(|path| path.starts_with('/'));
        self.set_http_request_header("x-known", Some(if self.known { "yes" } else { "no" }));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("x-filtered", Some("yes"));
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.known {
            proxy_wasm::hostcalls::log(LogLevel::Debug, "a known path").unwrap_or_default();
        }
    }
}

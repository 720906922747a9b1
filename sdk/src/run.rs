//! Runs a filter's methods in the callbacks of a host, the same way in a module and in a native test.

use std::any::Any;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::backend::{Backend, Host};
use crate::{Filter, Flow, Reply, Request, Response};

/// Makes a filter from its configuration as the host gives it.
pub(crate) fn configure<F: Filter>(config: &[u8]) -> Result<F, String> {
    let config = if config.is_empty() {
        serde_json::from_slice(b"null").or_else(|_| serde_json::from_slice(b"{}"))
    } else {
        serde_json::from_slice(config)
    };
    let config = config.map_err(|error| format!("the filter's configuration is refused: {error}"))?;
    F::new(config).map_err(|error| format!("the filter's configuration is refused: {error}"))
}

/// What the host is to do with the message that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it on.
    Continue,
    /// Drop it: the exchange was answered.
    Replied,
}

/// One exchange as a filter sees it.
pub(crate) struct Exchange<F> {
    filter: Option<Rc<F>>,
    kept: Option<Box<dyn Any>>,
    /// The filter replied or left: it is not asked again. Hosts show it its own reply as a response.
    over: bool,
}

impl<F: Filter> Exchange<F> {
    /// Without a filter (it could not be configured) each request is refused.
    pub(crate) fn new(filter: Option<Rc<F>>) -> Self {
        Self { filter, kept: None, over: false }
    }

    pub(crate) fn on_request(&mut self, has_body: bool) -> Verdict {
        let Some(filter) = self.filter.clone() else {
            return self.reply(&Reply::new(503));
        };
        let mut request = Request::new(has_body);
        let result = finish(filter.on_request(&mut request));
        self.kept = request.kept;
        self.act(result)
    }

    pub(crate) fn on_response(&mut self, has_body: bool) -> Verdict {
        let Some(filter) = self.filter.clone().filter(|_| !self.over) else {
            return Verdict::Continue;
        };
        let mut response = Response::new(has_body, self.kept.take());
        let result = finish(filter.on_response(&mut response));
        self.kept = response.kept;
        self.act(result)
    }

    fn act(&mut self, result: Result<Flow, Reply>) -> Verdict {
        match result {
            Ok(Flow::Continue) => Verdict::Continue,
            Ok(Flow::Leave) => {
                self.over = true;
                Verdict::Continue
            }
            Err(reply) => self.reply(&reply),
        }
    }

    fn reply(&mut self, reply: &Reply) -> Verdict {
        self.over = true;
        Host::reply(reply);
        Verdict::Replied
    }
}

/// Nothing of the SDK waits yet, and nothing else can be waited for in a module: no thread would wake it.
fn finish(method: impl Future<Output = Result<Flow, Reply>>) -> Result<Flow, Reply> {
    match pin!(method).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => {
            crate::error!("the filter waits for something that is not of lacis-sdk; the request is refused");
            Err(Reply::new(500))
        }
    }
}

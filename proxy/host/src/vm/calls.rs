//! What comes from outside of an exchange: answers to call-outs, items in queues, foreign functions of the embedder.

use super::{RootId, Vm};
use crate::callout::{CallId, GrpcEvent, HttpAnswer};
use crate::trap::Trap;

impl Vm {
    /// The response to an HTTP call-out is here; `None`: there will be none (Envoy: a reset). Ends the call. A call that
    /// is not in flight any more is ignored.
    ///
    /// Envoy answers a connection that is refused or breaks, and a timeout, as any proxy does: with `:status` 503 or
    /// 504 and a text.
    pub fn on_http_call(&mut self, id: CallId, answer: Option<HttpAnswer>) -> Result<(), Trap> {
        _ = (id, answer);
        Ok(())
    }

    /// Something came of a gRPC call-out. A call that is not in flight any more is ignored.
    pub fn on_grpc(&mut self, id: CallId, event: GrpcEvent) -> Result<(), Trap> {
        _ = (id, event);
        Ok(())
    }

    /// Tells the guest of one item in a shared queue of its. True when there is more to tell: the caller comes back, and
    /// serves others in between. To be called when [`VmSettings::wake`](crate::VmSettings::wake) was.
    pub fn on_queue_ready(&mut self) -> Result<bool, Trap> {
        Ok(false)
    }

    /// Runs `proxy_on_foreign_function` for a plugin, with a number and arguments that embedder and filter know.
    pub fn on_foreign_function(&mut self, root: RootId, function: u32, arguments: Vec<u8>) -> Result<(), Trap> {
        _ = (root, function, arguments);
        Ok(())
    }

    /// Call-outs in flight.
    pub fn calls(&self) -> usize {
        self.runner.store.data().calls.load().0
    }
}

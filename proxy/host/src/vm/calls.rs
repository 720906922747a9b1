//! What comes from outside of an exchange: answers to call-outs, items in queues, foreign functions of the embedder.

use wasmtime::{TypedFunc, WasmParams};

use super::{Vm, size};
use crate::callout::{Answer, CallId, CallKind, CallOuts, Flight, GrpcEvent, HttpAnswer};
use crate::contexts::Kind;
use crate::exports::Exports;
use crate::state::Phase;
use crate::stream::Headers;
use crate::trap::Trap;
use crate::world::RootId;

impl Vm {
    /// The response to an HTTP call-out is here; `None`: there will be none (Envoy: a reset). Ends the call. A call that
    /// is not in flight any more is ignored.
    ///
    /// Envoy answers a connection that is refused or breaks, and a timeout, as any proxy does: with `:status` 503 or
    /// 504 and a text.
    pub fn on_http_call(&mut self, id: CallId, answer: Option<HttpAnswer>) -> Result<(), Trap> {
        const CALLBACK: &str = "proxy_on_http_call_response";
        let Some(flight) = self.flight(id, &[CallKind::Http], CALLBACK)? else { return Ok(()) };
        self.calls_mut().end(id);
        let (headers, body, trailers, status, text) = match &answer {
            Some(answer) => {
                let trailers = answer.trailers.as_deref().map_or(0, count);
                (count(&*answer.headers), size(&answer.body), trailers, None, "")
            }
            None => (0, 0, 0, Some(BROKEN_CONNECTION), "reset"),
        };
        let told = Told { callback: CALLBACK, root: flight.root, answer: answer.map(Answer::Http), status, text };
        self.tell(told, |e| e.http_call.as_ref(), (flight.root, id.0, headers, body, trailers))
    }

    /// Something came of a gRPC call-out. A call that is not in flight any more is ignored.
    pub fn on_grpc(&mut self, id: CallId, event: GrpcEvent) -> Result<(), Trap> {
        let callback = match event {
            GrpcEvent::InitialMetadata(_) => "proxy_on_grpc_receive_initial_metadata",
            GrpcEvent::Message(_) => "proxy_on_grpc_receive",
            GrpcEvent::TrailingMetadata(_) => "proxy_on_grpc_receive_trailing_metadata",
            GrpcEvent::Close { .. } => "proxy_on_grpc_close",
        };
        let kinds = [CallKind::Grpc, CallKind::GrpcStream];
        let Some(flight) = self.flight(id, &kinds, callback)? else { return Ok(()) };
        let (root, unary) = (flight.root, id.kind() == Some(CallKind::Grpc));
        let told = Told { callback, root, answer: None, status: None, text: "" };
        match event {
            GrpcEvent::InitialMetadata(_) | GrpcEvent::TrailingMetadata(_) if unary => Ok(()),
            GrpcEvent::InitialMetadata(headers) => {
                let parameters = (root, id.0, count(&*headers));
                let told = Told { answer: Some(Answer::InitialMetadata(headers)), ..told };
                self.tell(told, |e| e.grpc_metadata.as_ref(), parameters)
            }
            GrpcEvent::Message(message) => {
                if unary {
                    self.calls_mut().end(id);
                }
                let parameters = (root, id.0, size(&message));
                let told = Told { answer: Some(Answer::Message(message)), ..told };
                self.tell(told, |e| e.grpc_message.as_ref(), parameters)
            }
            GrpcEvent::TrailingMetadata(headers) => {
                let parameters = (root, id.0, count(&*headers));
                let told = Told { answer: Some(Answer::TrailingMetadata(headers)), ..told };
                self.tell(told, |e| e.grpc_trailers.as_ref(), parameters)
            }
            GrpcEvent::Close { status, message } => {
                self.calls_mut().end(id);
                let told = Told { status: Some(status), text: &message, ..told };
                self.tell(told, |e| e.grpc_close.as_ref(), (root, id.0, status))
            }
        }
    }

    /// Tells the guest of one item in a shared queue of its. True when there is more to tell: the caller comes back, and
    /// serves others in between. To be called when [`VmSettings::wake`](crate::VmSettings::wake) was.
    pub fn on_queue_ready(&mut self) -> Result<bool, Trap> {
        const CALLBACK: &str = "proxy_on_queue_ready";
        if self.runner.dead {
            return Err(Trap::dead(CALLBACK));
        }
        let Some((due, more)) = self.runner.store.data().mailbox.next() else { return Ok(false) };
        // A plugin that has gone meanwhile is told nothing.
        if self.runner.store.data().contexts.get(due.root).is_some() {
            self.enter(CALLBACK, |e| e.queue_ready.as_ref(), (due.root, due.queue), due.root, Phase::Running)?;
        }
        Ok(more)
    }

    /// Runs `proxy_on_foreign_function` for a plugin, with a number and arguments that embedder and filter know.
    pub fn on_foreign_function(&mut self, root: RootId, function: u32, arguments: Vec<u8>) -> Result<(), Trap> {
        let parameters = (root.0, function, size(&arguments));
        let answer = Some(Answer::Foreign(arguments));
        let told = Told { callback: "proxy_on_foreign_function", root: root.0, answer, status: None, text: "" };
        self.tell(told, |e| e.foreign.as_ref(), parameters)
    }

    /// Call-outs in flight.
    pub fn calls(&self) -> usize {
        self.runner.store.data().calls.load().0
    }

    /// The call-out in flight with this id, if it is of one of these kinds.
    fn flight(&mut self, id: CallId, kinds: &[CallKind], callback: &'static str) -> Result<Option<Flight>, Trap> {
        if self.runner.dead {
            return Err(Trap::dead(callback));
        }
        Ok(self.calls_mut().flight(id).copied().filter(|_| id.kind().is_some_and(|kind| kinds.contains(&kind))))
    }

    /// Enters the guest with what it may read meanwhile, whatever context it switches to.
    fn tell<P: WasmParams>(
        &mut self,
        told: Told<'_>,
        export: impl Fn(&Exports) -> Option<&TypedFunc<P, ()>>,
        parameters: P,
    ) -> Result<(), Trap> {
        let context = self.context(told.root, told.callback)?;
        if let (Some(code), Kind::Root { status, .. }) = (told.status, &context.kind) {
            status.set(code);
        }
        let calls = self.calls_mut();
        calls.answer = told.answer;
        calls.text.extend_from_slice(told.text.as_bytes());
        let returned = self.enter(told.callback, export, parameters, told.root, Phase::Running);
        let calls = self.calls_mut();
        calls.answer = None;
        calls.text.clear();
        returned.map(drop)
    }

    fn calls_mut(&mut self) -> &mut CallOuts {
        &mut self.runner.store.data_mut().calls
    }
}

/// What a root context is told.
struct Told<'t> {
    callback: &'static str,
    root: u32,
    answer: Option<Answer>,
    /// Outcome of the call-out, as `proxy_get_status` has it, and its text.
    status: Option<u32>,
    text: &'t str,
}

/// What Envoy says of an HTTP call-out without a response (`WasmResult::BrokenConnection`); no host call answers it.
const BROKEN_CONNECTION: u32 = 11;

fn count(headers: &dyn Headers) -> u32 {
    let mut count = 0;
    headers.visit(&mut |_, _| count += 1);
    count
}

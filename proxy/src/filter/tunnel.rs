//! The passage of a TCP connection: an exchange of which filters see the bytes of both directions, and no head.

use std::rc::Rc;

use lacis_host::abi::{Action, BodyAnswer, Peer};
use lacis_host::{Half, HeadersAction};

use super::chain::{Chain, Passage, Stop};
use super::exchange::Exchange;
use super::flow::Flow;
use super::run::Run;
use super::seen::Seen;
use super::stage::Head;
use super::wasm::{Filter, Place};
use crate::fault::Fault;
use crate::http::{Fields, Request, Response};

impl Passage<'_> {
    /// These filters learn of a connection, in order; it waits for those that stop it. What comes from the client passes
    /// them while it is read.
    ///
    /// # Errors
    /// If one of them closes it now, or fails closed.
    pub async fn connect(&mut self, exchange: &Rc<Exchange>, request: &mut Request, chain: &Chain) -> Result<(), Stop> {
        chain.complete()?;
        chain.skipped(usize::MAX);
        if chain.is_empty() {
            return Ok(());
        }
        let seen = Seen::new(exchange, &chain.node, None, false, chain.filters.len());
        let run = Run::new(exchange, &chain.filters, seen, true);
        self.run = Some(Rc::clone(&run));
        let mut flow = Flow::new(&run, Half::Request, &mut request.body);
        run.onward().map_err(|fault| self.stop(fault))?;
        flow.head().await.map_err(|fault| self.stop(fault))?;
        flow.body(&request.head.headers, &mut request.body)?;
        Ok(())
    }
}

/// The connection is open: what comes from the service passes the filters in reverse. A refusal passes none.
pub(super) fn response(run: &Rc<Run>, response: &mut Response) -> Result<(), Fault> {
    if !response.head.status.is_success() {
        return Ok(());
    }
    {
        let mut seen = run.seen.borrow_mut();
        seen.ways[Half::Response as usize].open = run.see(Half::Response);
        for stage in &mut seen.stages {
            stage.parts[Half::Response as usize].head = Head::Gone;
        }
    }
    let flow = Flow::new(run, Half::Response, &mut response.body);
    flow.body(&Fields::new(), &mut response.body)?;
    Ok(())
}

/// Tells a filter that the connection is there.
pub(super) fn begin(filter: &Filter, place: Place) -> Result<HeadersAction, Fault> {
    Ok(match filter.on_new_connection(place)? {
        Action::Continue => HeadersAction::Continue,
        Action::Pause => HeadersAction::Pause,
    })
}

/// Shows bytes of a connection. What the filter stops stays, to be shown again with what is added. With the end of what
/// goes to the client it is told that the service's side is closed: all that Envoy knows of that, too.
pub(super) fn tap(filter: &Filter, place: Place, half: Half, end: bool) -> Result<BodyAnswer, Fault> {
    let action = filter.on_data(place, half, end)?;
    if end && half == Half::Response {
        filter.on_connection_close(place, half, Peer::Unknown);
    }
    Ok(match action {
        Action::Continue => BodyAnswer::Continue,
        Action::Pause => BodyAnswer::Buffer,
    })
}

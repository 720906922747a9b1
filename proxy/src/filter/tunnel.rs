//! The passage of a TCP connection: an exchange of which filters see the bytes of both directions, and no head.

use std::rc::Rc;

use lacis_host::Half;

use super::chain::{Chain, Passage, Stop};
use super::exchange::Exchange;
use super::flow::Flow;
use super::run::Run;
use super::seen::{Head, Seen};
use crate::fault::Fault;
use crate::http::body;
use crate::http::{Body, Fields, Request, Response};

impl Passage<'_> {
    /// These filters learn of a connection, in order; it waits for those that stop it. What comes from the client passes
    /// them while it is read.
    ///
    /// # Errors
    /// If one of them closes it now, or fails closed.
    pub async fn connect(&mut self, exchange: &Rc<Exchange>, request: &mut Request, chain: &Chain) -> Result<(), Stop> {
        chain.complete()?;
        if chain.is_empty() {
            return Ok(());
        }
        let body = std::mem::replace(&mut request.body, Body::empty(body::Half::Request));
        let seen = Seen::new(exchange, &chain.node, None, chain.filters.len());
        let run = Run::new(exchange, &chain.filters, seen, true);
        self.run = Some(Rc::clone(&run));
        run.begin(Half::Request, false);
        let mut flow = Flow::new(&run, Half::Request, body);
        run.onward(Half::Request).map_err(|fault| self.stop(fault))?;
        flow.head().await.map_err(|fault| self.stop(fault))?;
        (request.body, _) = flow.body(&request.head.headers)?;
        Ok(())
    }
}

/// The connection is open: what comes from the service passes the filters in reverse. A refusal passes none.
pub(super) fn response(run: &Rc<Run>, response: Response) -> Result<Response, Fault> {
    let Response { head, body } = response;
    if !head.status.is_success() {
        return Ok(Response { head, body });
    }
    run.begin(Half::Response, false);
    let flow = Flow::new(run, Half::Response, body);
    for stage in &mut run.seen.borrow_mut().stages {
        stage.parts[Half::Response as usize].head = Head::Gone;
    }
    let (body, _) = flow.body(&Fields::new())?;
    Ok(Response { head, body })
}

//! The passage of a TCP connection: an exchange of which filters see the bytes of both directions, and no head.

use std::rc::Rc;

use lacis_host::Half;

use super::chain::{Chain, Passage, Stop};
use super::exchange::Exchange;
use super::flow::Flow;
use super::run::Run;
use super::seen::{Head, Seen};
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

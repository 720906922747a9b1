//! The filters of one listener, in order, and the passage of one exchange through them.

use std::rc::Rc;

use super::exchange::{Exchange, Ledger};
use crate::fault::Fault;
use crate::http::body::Observer;
use crate::http::{Request, Response};
use crate::telemetry::labels::Direction;

/// Why an exchange ends before it has gone all the way; either way the answer is a response.
pub enum Stop {
    /// A filter answers by itself.
    Reply(Response),
    /// Something failed.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

/// The filters of both sides, compiled: what workers make their chains of.
#[derive(Clone, Default)]
pub struct Plan {}

/// The filters of one listener.
#[derive(Default)]
pub struct Chain {}

impl Chain {
    /// One side's filters in this worker.
    pub fn new(_: &Plan, _: Direction, _: &Rc<Ledger>) -> Self {
        Chain {}
    }

    /// Begins the passage of an exchange.
    pub fn open(&self, _: &Rc<Exchange>) -> Passage {
        Passage {}
    }
}

/// One exchange on its way through the filters.
pub struct Passage {}

impl Passage {
    /// The request goes through the filters in order.
    pub async fn request(&mut self, request: Request) -> Result<Request, Stop> {
        Ok(request)
    }

    /// The response goes back through those that saw the request.
    pub async fn response(&mut self, response: Response) -> Result<Response, Stop> {
        Ok(response)
    }

    /// What observes the response: the exchange, and the filters that want to know of its end.
    pub fn observer(self, exchange: Rc<Exchange>) -> Rc<dyn Observer> {
        exchange
    }
}

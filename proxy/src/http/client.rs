//! The client side of a hop: one request over one link, whatever protocol it speaks.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Request, Response, h1, h2, h3};
use crate::fault::Fault;
use crate::telemetry::trail::Carrier;

/// A connection that can carry a request now.
#[derive(Debug)]
pub enum Link {
    /// An HTTP/1 connection, ours alone for one exchange.
    H1 {
        /// The connection.
        wire: Rc<RefCell<h1::Wire>>,
        /// Where it goes after the exchange.
        home: Rc<h1::Idle>,
        /// Whether it carried a request before.
        reused: bool,
    },
    /// A fresh connection that takes a request's body as it is, and no head: the answer is what comes back.
    Tcp(Box<h1::Wire>),
    /// A shared HTTP/2 connection.
    H2(h2::Link),
    /// A shared HTTP/3 connection.
    H3(h3::Link),
}

impl Link {
    /// What is known of the connection.
    pub fn carrier(&self) -> Rc<Carrier> {
        match self {
            Link::H1 { wire, .. } => wire.borrow().carrier(),
            Link::Tcp(wire) => wire.carrier(),
            Link::H2(link) => link.carrier(),
            Link::H3(link) => link.carrier(),
        }
    }

    /// Sends a request and waits for the head of its response. The rest of the request's body rides on the response's.
    ///
    /// # Errors
    /// A fault of the upstream side if the server does not answer, safe to retry if it provably did nothing; a fault of
    /// the downstream side if the request's body breaks.
    pub async fn send(self, request: Request) -> Result<Response, Fault> {
        match self {
            Link::H1 { wire, home, reused } => h1::send(wire, home, request, reused).await,
            Link::Tcp(wire) => Ok(h1::connect(*wire, request)),
            Link::H2(link) => link.send(request).await,
            // Boxed: it needs twice the room of the others, which each request would hold.
            Link::H3(link) => Box::pin(link.send(request)).await,
        }
    }
}

/// A link that carries many requests at once.
pub trait Multiplexed: Clone + 'static {
    /// Whether another request can start at once.
    fn has_room(&self) -> bool;
    /// Whether it takes no more requests.
    fn is_closed(&self) -> bool;
    /// Requests that it carries.
    fn in_flight(&self) -> usize;
    /// Takes no more requests and closes when those that it carries have ended.
    fn close(&self);
}

impl Multiplexed for h2::Link {
    fn has_room(&self) -> bool {
        h2::Link::has_room(self)
    }

    fn is_closed(&self) -> bool {
        h2::Link::is_closed(self)
    }

    fn in_flight(&self) -> usize {
        h2::Link::in_flight(self)
    }

    fn close(&self) {
        h2::Link::close(self);
    }
}

impl Multiplexed for h3::Link {
    fn has_room(&self) -> bool {
        h3::Link::has_room(self)
    }

    fn is_closed(&self) -> bool {
        h3::Link::is_closed(self) || self.is_draining()
    }

    fn in_flight(&self) -> usize {
        h3::Link::in_flight(self)
    }

    fn close(&self) {
        // It closes by itself when the last request that it carries has ended.
        if self.in_flight() == 0 {
            h3::Link::close(self);
        }
    }
}

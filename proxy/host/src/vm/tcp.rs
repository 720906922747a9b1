//! The callbacks of a TCP connection, whose context [`Vm::open_tcp`] makes.

use lacis_abi::{Action, Peer};

use super::Vm;
use super::http::{Outcome, Scene};
use crate::contexts::Part;
use crate::exports::{CONNECTION_CLOSE, DATA};
use crate::state::Phase;
use crate::stream::{ContextId, Half};
use crate::trap::Trap;

impl Vm {
    /// Tells the guest that the connection is there. `Pause`: nothing from the client is shown or passed on until
    /// [`Stream::resume`](crate::Stream::resume).
    pub fn on_new_connection(&mut self, id: ContextId) -> Result<Action, Trap> {
        let callback = "proxy_on_new_connection";
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        let scene = Scene::begin(exchange, Half::Request, Part::Head);
        let answer = self.enter(callback, |e| e.new_connection.as_ref(), id.0, id.0, Phase::Running)?;
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        Ok(action(scene.end(exchange, Action::of(answer.unwrap_or(0)) == Action::Continue)))
    }

    /// Shows the guest what [`Stream::body`](crate::Stream::body) has of one direction: from the client (`Request`), or
    /// to it (`Response`); `end` when no more follows. `Pause` keeps it there; it is shown again with what is added. From
    /// the client it is passed on by [`Stream::resume`](crate::Stream::resume), too; to the client only by a later
    /// `Continue`.
    pub fn on_data(&mut self, id: ContextId, half: Half, end: bool) -> Result<Action, Trap> {
        let callback = DATA[half as usize];
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        let scene = Scene::begin(exchange, half, Part::Body);
        let parameters = (id.0, exchange.body_len(half), u32::from(end));
        let answer = self.enter(callback, |e| e.data[half as usize].as_ref(), parameters, id.0, Phase::Running)?;
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        Ok(action(scene.end(exchange, Action::of(answer.unwrap_or(0)) == Action::Continue)))
    }

    /// Tells the guest that one side of the connection is closed: the client's (`Request`) or the service's
    /// (`Response`), and by whom.
    pub fn on_connection_close(&mut self, id: ContextId, half: Half, by: Peer) -> Result<(), Trap> {
        let callback = CONNECTION_CLOSE[half as usize];
        self.context(id.0, callback)?;
        let parameters = (id.0, by as u32);
        self.enter(callback, |e| e.connection_close[half as usize].as_ref(), parameters, id.0, Phase::Running)?;
        Ok(())
    }
}

fn action(outcome: Outcome) -> Action {
    match outcome {
        Outcome::GoesOn => Action::Continue,
        Outcome::Stays | Outcome::Over => Action::Pause,
    }
}

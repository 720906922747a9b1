//! A request's body that can be sent more than once, without being copied.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::fault::Fault;
use crate::http::Body;
use crate::http::Fields;
use crate::http::body::{Frame, Half, Made, Source};

/// What was read of a body so far, and the rest of it.
#[derive(Debug)]
pub struct Replay(RefCell<State>);

/// What is done when a body was read to its end: with it, or, if it was too long or broke, without.
type Then = Box<dyn FnOnce(Option<&Rc<Replay>>)>;

struct State {
    body: Body,
    then: Option<Then>,
    /// Handles of what was read, as long as that is no more than `room`.
    kept: Vec<Bytes>,
    trailers: Option<Fields>,
    room: u64,
    /// More was read than is kept.
    lost: bool,
    read: bool,
}

/// One time that the body is sent.
#[derive(Debug)]
struct Take {
    replay: Rc<Replay>,
    next: usize,
    trailers_sent: bool,
}

impl Replay {
    /// Keeps up to this many bytes of a body.
    pub fn new(body: Body, room: u64) -> Rc<Self> {
        let state = State { body, then: None, kept: Vec::new(), trailers: None, room, lost: false, read: false };
        Rc::new(Replay(RefCell::new(state)))
    }

    /// The body from its beginning. One that was taken before must not be read any more.
    pub fn take(self: &Rc<Self>) -> Body {
        let length = self.0.borrow().body.length();
        let take = Take { replay: Rc::clone(self), next: 0, trailers_sent: false };
        Body::source(Half::Request, Source::Made(Box::new(take)), length)
    }

    /// Has this done as soon as the body was read to its end, or cannot be kept. From then on it may be taken as often as
    /// one likes, and read side by side.
    pub fn when_read(&self, then: impl FnOnce(Option<&Rc<Replay>>) + 'static) {
        self.0.borrow_mut().then = Some(Box::new(then));
    }

    /// Whether it can be sent from its beginning.
    pub fn is_whole(&self) -> bool {
        !self.0.borrow().lost
    }

    /// Whether it was read to its end.
    pub fn is_read(&self) -> bool {
        self.0.borrow().read
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        match self.room.checked_sub(data.len() as u64) {
            Some(left) if !self.lost => {
                self.room = left;
                self.kept.push(data.clone());
            }
            _ => {
                self.lost = true;
                self.kept = Vec::new();
            }
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("body", &self.body).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Made for Take {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let frame = self.poll_next(cx);
        let then = {
            let mut state = self.replay.0.borrow_mut();
            if state.read || state.lost { state.then.take().map(|then| (then, state.lost)) } else { None }
        };
        if let Some((then, lost)) = then {
            then((!lost).then_some(&self.replay));
        }
        frame
    }

    fn is_end(&self) -> bool {
        let state = self.replay.0.borrow();
        state.read && self.next >= state.kept.len() && (self.trailers_sent || state.trailers.is_none())
    }
}

impl Take {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let mut state = self.replay.0.borrow_mut();
        if let Some(data) = state.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::Data(data.clone()))));
        }
        if state.read {
            let trailers = state.trailers.clone().filter(|_| !self.trailers_sent);
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::Trailers(trailers))));
        }
        let frame = ready!(state.body.poll_frame(cx));
        match &frame {
            Some(Ok(Frame::Data(data))) => {
                state.keep(data);
                self.next = state.kept.len();
                state.read = state.body.is_end();
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                state.trailers = Some(trailers.clone());
                self.trailers_sent = true;
                state.read = true;
            }
            Some(Err(_)) => state.lost = true,
            None => state.read = true,
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;
    use crate::fault::Reason;
    use crate::http::body::Length;

    #[derive(Debug)]
    struct Script(VecDeque<Option<Result<Frame, Fault>>>);

    impl Made for Script {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(frame)),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
        fn is_end(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn data(text: &'static str) -> Option<Result<Frame, Fault>> {
        Some(Ok(Frame::Data(Bytes::from_static(text.as_bytes()))))
    }

    fn body(frames: impl IntoIterator<Item = Option<Result<Frame, Fault>>>, length: Length) -> Body {
        Body::source(Half::Request, Source::Made(Box::new(Script(frames.into_iter().collect()))), length)
    }

    /// What comes of a body until it has to wait, or ends.
    fn read(body: &mut Body) -> String {
        let (mut text, mut cx) = (String::new(), Context::from_waker(Waker::noop()));
        loop {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => text.push_str(std::str::from_utf8(&data).expect("text")),
                Poll::Ready(Some(Ok(Frame::Trailers(_)))) => text.push('T'),
                Poll::Ready(Some(Err(fault))) => return format!("{text}!{fault}"),
                Poll::Ready(None) => return text + ".",
                Poll::Pending => return text + "…",
            }
        }
    }

    #[test]
    fn a_body_is_sent_again_from_its_beginning_and_goes_on_where_it_was() {
        let frames = [data("ab"), None, data("cd"), Some(Ok(Frame::Trailers(Fields::new())))];
        let replay = Replay::new(body(frames, Length::Unknown), 4);
        let mut first = replay.take();
        assert_eq!(read(&mut first), "ab…");
        drop(first);
        assert!(!replay.is_read() && replay.is_whole());
        assert_eq!(read(&mut replay.take()), "abcdT.");
        assert!(replay.is_read());
        assert_eq!(read(&mut replay.take()), "abcdT.", "and again");
    }

    #[test]
    fn nothing_is_copied() {
        let whole = Bytes::from(vec![7; 100]);
        let replay = Replay::new(Body::bytes(Half::Request, whole.clone()), 100);
        for _ in 0..2 {
            let Poll::Ready(Some(Ok(Frame::Data(data)))) =
                replay.take().poll_frame(&mut Context::from_waker(Waker::noop()))
            else {
                panic!("no content")
            };
            assert_eq!(data.as_ptr(), whole.as_ptr());
        }
        assert_eq!(replay.take().length(), Length::Known(100));
    }

    #[test]
    fn what_is_longer_than_the_room_passes_and_is_not_kept() {
        let replay = Replay::new(body([data("abc"), data("de"), data("f")], Length::Known(6)), 4);
        let mut only = replay.take();
        assert_eq!(read(&mut only), "abcdef.");
        assert!(!replay.is_whole() && replay.is_read());
        assert!(replay.0.borrow().kept.is_empty(), "and its memory is free");
    }

    #[test]
    fn what_was_read_to_its_end_is_given_on_once() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let watched = |frames: Vec<Option<Result<Frame, Fault>>>, room| {
            let (replay, told) = (Replay::new(body(frames, Length::Unknown), room), Rc::clone(&told));
            replay.when_read(move |replay| told.borrow_mut().push(replay.map(|replay| read(&mut replay.take()))));
            replay
        };
        let replay = watched(vec![data("ab"), None, data("cd")], 4);
        let mut first = replay.take();
        assert_eq!(read(&mut first), "ab…");
        assert!(told.borrow().is_empty(), "not whole yet");
        assert_eq!(read(&mut first), "cd.");
        assert_eq!(read(&mut replay.take()), "abcd.");
        assert_eq!(told.take(), [Some("abcd.".to_owned())]);
        read(&mut watched(vec![data("abc"), data("de")], 4).take());
        read(&mut watched(vec![data("a"), Some(Err(Fault::new(Reason::DownstreamAborted)))], 4).take());
        assert_eq!(told.take(), [None, None], "too long, and broken");
        drop(watched(vec![data("a")], 4).take());
        assert!(told.borrow().is_empty(), "never read");
    }

    #[test]
    fn what_broke_is_not_sent_again() {
        let broken = Some(Err(Fault::new(Reason::DownstreamAborted)));
        let replay = Replay::new(body([data("ab"), broken], Length::Unknown), 100);
        assert_eq!(read(&mut replay.take()), "ab!downstream_aborted");
        assert!(!replay.is_whole());
    }
}

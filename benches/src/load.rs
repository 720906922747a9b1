//! The load generator and its backend: one thread, one epoll, prebuilt messages, so that both together cost little per
//! request and share one processor without a switch between them.

use crate::{
    message::{self, Answers, Requests},
    plan::{Error, Plan, Window},
    run::{Accounts, Run},
};
use mio::{
    Events, Interest, Poll, Token,
    event::Event,
    net::{TcpListener, TcpStream},
    unix::SourceFd,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use slab::Slab;
use std::{
    io::{self, Read, Write},
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

const LISTENER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
/// Events taken from the kernel at once: more than there are connections in most plans.
const EVENTS: usize = 256;
/// One read takes a small answer, or the share of a big one that keeps the processor's cache warm.
const READ_SIZE: usize = 64 << 10;
/// The kernel's wait has a resolution of a millisecond: within two, the clock is watched instead.
const WATCH: Duration = Duration::from_millis(2);
/// A request sent so much after it was due counts as late.
const LATE: Duration = Duration::from_millis(1);
/// What is under way at the end of the window gets so long to finish.
const DRAIN: Duration = Duration::from_secs(2);

/// The generator with its backend, which lives from one plan to the next.
#[derive(Debug)]
pub struct Generator {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    /// Wakes for what is due, where the plan wants that.
    timer: OwnedFd,
    connections: Slab<Connection>,
    read: Box<[u8]>,
    /// What the backend answers.
    answer: Vec<u8>,
    /// Bytes of the body in it.
    size: usize,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    role: Role,
    /// One of those that the plan calls heavy.
    heavy: bool,
}

#[derive(Debug)]
enum Role {
    Backend {
        requests: Requests,
        /// Answers owed.
        owed: usize,
        /// Bytes of the first of them that are sent.
        sent: usize,
    },
    Client {
        answers: Answers,
        state: State,
    },
}

/// Of a connection of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Free,
    /// Waiting for the answer to a request that was due then.
    Waiting(Instant),
}

impl Generator {
    /// With a backend on `address` that answers each request with a body of `size` bytes.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr, size: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            listener,
            timer,
            connections: Slab::new(),
            read: vec![0; READ_SIZE].into(),
            answer: message::answer(size),
            size,
        })
    }

    /// Where the backend listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn backend(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Carries a plan out.
    ///
    /// # Errors
    /// When the plan makes no sense, or its processes or the machine cannot be read. A target that fails is no error
    /// here: the window says it.
    pub fn run(&mut self, plan: &Plan) -> Result<Window, Error> {
        if !(plan.seconds > 0.0 && plan.seconds.is_finite() && plan.warmup >= 0.0 && plan.warmup.is_finite()) {
            return Err(Error::Plan("`seconds` must be positive and `warmup` not negative"));
        }
        if plan.rate.is_some_and(|rate| !(1e-3..=1e7).contains(&rate)) {
            return Err(Error::Plan("`rate` must be from 0.001 to 10,000,000 requests per second"));
        }
        if let Some(heavy) = &plan.heavy
            && (plan.rate.is_none()
                || !(0.0..1.0).contains(&heavy.part)
                || heavy.of.iter().any(|n| *n >= plan.connections))
        {
            return Err(Error::Plan("`heavy` is for an open loop, of some of its connections, with a part below 1"));
        }
        let mut run = Run::new(plan, Instant::now())?;
        for _ in 0..plan.connections {
            self.connect(&mut run)?;
        }
        let opened = run.start + Duration::from_secs_f64(plan.warmup);
        self.turn_until(&mut run, opened)?;
        let before = Accounts::read(plan)?;
        run.open(|key| self.connections.get(key).is_some_and(|connection| connection.heavy));
        self.turn_until(&mut run, opened + Duration::from_secs_f64(plan.seconds))?;
        let after = Accounts::read(plan)?;
        let window = run.close(&before, &after);
        let end = Instant::now() + DRAIN;
        while run.waiting > 0 && Instant::now() < end {
            self.turn(&mut run, end)?;
        }
        self.connections.retain(|_, connection| matches!(connection.role, Role::Backend { .. }));
        if run.waiting > 0 {
            *run.errors.entry("no answer after the end".to_owned()).or_default() += run.waiting as u64;
        }
        Ok(Window { errors: run.errors, ..window })
    }

    fn turn_until(&mut self, run: &mut Run, end: Instant) -> Result<(), Error> {
        while Instant::now() < end {
            self.turn(run, end)?;
        }
        Ok(())
    }

    /// One wait for the kernel, and what comes of it.
    fn turn(&mut self, run: &mut Run, end: Instant) -> Result<(), Error> {
        self.send_due(run)?;
        let start = Instant::now();
        let wake = run.next_due().map_or(end, |due| due.min(end));
        let wait = wake.saturating_duration_since(start);
        let wait = if run.sleeps {
            self.wake_after(wait)?;
            // The timer comes first.
            wait + WATCH
        } else if wait < WATCH {
            Duration::ZERO
        } else {
            wait - WATCH / 2
        };
        if let Err(error) = self.poll.poll(&mut self.events, Some(wait))
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        if self.events.is_empty() {
            if wait.is_zero() {
                run.idle += start.elapsed();
            }
            return Ok(());
        }
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        let result = events.iter().try_for_each(|event| self.take(event, run));
        self.events = events;
        result
    }

    /// Makes an event after this time. The kernel's wait alone knows milliseconds.
    fn wake_after(&self, wait: Duration) -> Result<(), Error> {
        // Zero would stop it.
        let value = Timespec::try_from(wait.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map_err(io::Error::from)?;
        Ok(())
    }

    /// Sends what is due on the connections that are free.
    fn send_due(&mut self, run: &mut Run) -> Result<(), Error> {
        if run.closing {
            return Ok(());
        }
        run.arrive(Instant::now());
        for kind in 0..run.due.len() {
            while let Some(&due) = run.due[kind].front() {
                let Some(key) = run.take_free(kind) else { break };
                if !self.connections.get(key).is_some_and(Connection::is_free) {
                    continue;
                }
                run.due[kind].pop_front();
                if due.elapsed() > LATE {
                    run.late += 1;
                }
                self.send(key, due, run)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, run: &mut Run) -> Result<(), Error> {
        let heavy = run.opens();
        self.open(run, heavy)
    }

    fn open(&mut self, run: &mut Run, heavy: bool) -> Result<(), Error> {
        let mut stream = match TcpStream::connect(run.target) {
            Ok(stream) => stream,
            Err(error) => return run.fail(format!("connect: {}", error.kind())),
        };
        let entry = self.connections.vacant_entry();
        self.poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Connection {
            stream,
            role: Role::Client { answers: Answers::default(), state: State::Connecting },
            heavy,
        });
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            self.poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
            let role = Role::Backend { requests: Requests::default(), owed: 0, sent: 0 };
            entry.insert(Connection { stream, role, heavy: false });
        }
    }

    fn take(&mut self, event: &Event, run: &mut Run) -> Result<(), Error> {
        if event.token() == LISTENER {
            return Ok(self.accept()?);
        }
        if event.token() == TIMER {
            // Not read: set anew, it makes another event.
            return Ok(());
        }
        let Token(key) = event.token();
        // Closed by an earlier event of the same batch.
        let Some(connection) = self.connections.get(key) else { return Ok(()) };
        match connection.role {
            Role::Backend { .. } => {
                if let Err(reason) = self.serve(key) {
                    self.connections.remove(key);
                    if let Some(reason) = reason {
                        return run.fail(reason);
                    }
                }
                Ok(())
            }
            Role::Client { state: State::Connecting, .. } => {
                if event.is_writable() || event.is_error() {
                    self.connected(key, run)
                } else {
                    Ok(())
                }
            }
            Role::Client { .. } => {
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.receive(key, run)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn connected(&mut self, key: usize, run: &mut Run) -> Result<(), Error> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let ready = match connection.stream.take_error() {
            Ok(None) => connection.stream.set_nodelay(true),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        if let Err(error) = ready {
            self.connections.remove(key);
            return run.fail(format!("connect: {}", error.kind()));
        }
        if let Role::Client { state, .. } = &mut connection.role {
            *state = State::Free;
        }
        self.next(key, run)
    }

    /// Gives a connection that became free its next request.
    fn next(&mut self, key: usize, run: &mut Run) -> Result<(), Error> {
        if run.closing {
            return Ok(());
        }
        if run.schedule.is_some() {
            run.frees(key, self.connections.get(key).is_some_and(|connection| connection.heavy));
            return Ok(());
        }
        run.offered += 1;
        self.send(key, Instant::now(), run)
    }

    fn send(&mut self, key: usize, due: Instant, run: &mut Run) -> Result<(), Error> {
        let Some(Connection { stream, role: Role::Client { state, .. }, heavy }) = self.connections.get_mut(key) else {
            return Ok(());
        };
        run.sent[usize::from(*heavy)] += 1;
        *state = State::Waiting(due);
        run.waiting += 1;
        match stream.write(&run.request) {
            Ok(sent) if sent == run.request.len() => Ok(()),
            // A request is far smaller than an empty socket buffer, and the last one was answered.
            Ok(_) => self.replace(key, run, "request not taken whole".to_owned()),
            Err(error) => self.replace(key, run, format!("write: {}", error.kind())),
        }
    }

    /// Reads what came for the client.
    fn receive(&mut self, key: usize, run: &mut Run) -> Result<(), Error> {
        loop {
            let Some(Connection { stream, role: Role::Client { answers, state }, .. }) = self.connections.get_mut(key)
            else {
                return Ok(());
            };
            let count = match stream.read(&mut self.read) {
                Ok(0) => return self.closed(key, run),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.replace(key, run, format!("read: {}", error.kind())),
            };
            let State::Waiting(due) = *state else {
                return self.replace(key, run, "an answer that nobody asked for".to_owned());
            };
            match answers.push(&self.read[..count], self.size) {
                Ok(true) => {
                    *state = State::Free;
                    run.answered(due);
                    self.next(key, run)?;
                    // An answer that fitted leaves nothing behind it. Its end, if it has one, makes an event.
                    if count < self.read.len() {
                        return Ok(());
                    }
                }
                Ok(false) => {}
                Err(reason) => return self.replace(key, run, reason.to_owned()),
            }
        }
    }

    /// The target has closed a connection: which it may while nothing is under way.
    fn closed(&mut self, key: usize, run: &mut Run) -> Result<(), Error> {
        let Some(Connection { role: Role::Client { answers, state }, heavy, .. }) = self.connections.get(key) else {
            return Ok(());
        };
        let heavy = *heavy;
        if matches!(state, State::Waiting(_)) {
            let reason = if answers.is_empty() { "closed instead of an answer" } else { "closed in an answer" };
            return self.replace(key, run, reason.to_owned());
        }
        run.closed += 1;
        self.connections.remove(key);
        self.open(run, heavy)
    }

    /// Counts a failure, and goes on with a new connection.
    fn replace(&mut self, key: usize, run: &mut Run, reason: String) -> Result<(), Error> {
        let Connection { role, heavy, .. } = self.connections.remove(key);
        if let Role::Client { state: State::Waiting(_), .. } = role {
            run.waiting -= 1;
        }
        run.fail(reason)?;
        if run.closing { Ok(()) } else { self.open(run, heavy) }
    }

    /// Reads requests and answers them. An error without text is the peer's orderly end.
    fn serve(&mut self, key: usize) -> Result<(), Option<String>> {
        let Some(Connection { stream, role: Role::Backend { requests, owed, sent }, .. }) =
            self.connections.get_mut(key)
        else {
            return Ok(());
        };
        loop {
            let read = match stream.read(&mut self.read) {
                Ok(0) => return Err(None),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // A proxy that ends resets what it has pooled.
                Err(_) if *owed == 0 => return Err(None),
                Err(error) => return Err(Some(format!("backend: read: {}", error.kind()))),
            };
            *owed += requests.push(&self.read[..read]).map_err(|reason| Some(reason.to_owned()))?;
            if read < self.read.len() {
                break;
            }
        }
        while *owed > 0 {
            match stream.write(&self.answer[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Some(format!("backend: write: {}", error.kind()))),
            }
            if *sent == self.answer.len() {
                *owed -= 1;
                *sent = 0;
            }
        }
        Ok(())
    }
}

impl Connection {
    fn is_free(&self) -> bool {
        matches!(self.role, Role::Client { state: State::Free, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arrivals, Heavy};
    use std::process;

    fn plan(target: SocketAddr) -> Plan {
        Plan {
            target,
            host: "delta".to_owned(),
            connections: 3,
            warmup: 0.05,
            seconds: 0.2,
            rate: None,
            arrivals: Arrivals::Constant,
            pids: vec![process::id()],
            sleeps: false,
            heavy: None,
        }
    }

    fn generator(size: usize) -> (Generator, SocketAddr) {
        let generator = Generator::bind(([127, 0, 0, 1], 0).into(), size).unwrap();
        let backend = generator.backend().unwrap();
        (generator, backend)
    }

    #[test]
    fn loads_its_own_backend_in_a_closed_loop() {
        // The second does not fit a socket buffer: answers leave and come in pieces.
        for size in [0, 1024, 4 << 20] {
            let (mut generator, backend) = generator(size);
            for _ in 0..2 {
                let window = generator.run(&plan(backend)).unwrap();
                assert!(window.done > 0 && window.errors.is_empty(), "{size}: {window:?}");
                assert!(window.offered.abs_diff(window.done) <= 3, "{window:?}");
                assert!(window.latency.p50 > 0.0 && window.latency.max >= window.latency.p50, "{window:?}");
                assert_eq!(window.processes.len(), 1);
                assert!(window.processes[0].cpu_ns > 0, "{window:?}");
            }
        }
    }

    #[test]
    fn keeps_an_offered_rate() {
        for (arrivals, sleeps) in [(Arrivals::Constant, false), (Arrivals::Poisson, false), (Arrivals::Constant, true)]
        {
            let (mut generator, backend) = generator(100);
            let plan = Plan { rate: Some(1000.0), arrivals, sleeps, seconds: 0.5, ..plan(backend) };
            // A machine that is busy with something else holds the generator up: one window in which it does not is enough.
            let kept = (0..100).any(|_| {
                let window = generator.run(&plan).unwrap();
                assert!(window.generator_idle_ns == 0 || !sleeps, "{window:?}");
                assert!(window.errors.is_empty(), "{window:?}");
                println!("{window:?}");
                (350..650).contains(&window.offered) && window.done.abs_diff(window.offered) <= 50
            });
            assert!(kept, "see above");
        }
    }

    /// The connections that are named carry what they are to carry, from when they are to.
    #[test]
    fn loads_some_connections_more_than_others() {
        for late in [false, true] {
            let (mut generator, backend) = generator(100);
            let heavy = Heavy { of: vec![2, 5], part: 0.8, late };
            let plan = Plan { rate: Some(2000.0), connections: 8, heavy: Some(heavy), ..plan(backend) };
            let mut run = Run::new(&plan, Instant::now()).unwrap();
            for _ in 0..plan.connections {
                generator.connect(&mut run).unwrap();
            }
            let until = |run: &mut Run, generator: &mut Generator, millis| {
                generator.turn_until(run, run.start + Duration::from_millis(millis)).unwrap();
                run.sent
            };
            let before = until(&mut run, &mut generator, 200);
            run.open(|key| generator.connections.get(key).is_some_and(|connection| connection.heavy));
            let after = until(&mut run, &mut generator, 600);
            let part = |counts: [u64; 2]| counts[1] as f64 / (counts[0] + counts[1]).max(1) as f64;
            // Before that each of the eight gets as much as the others.
            assert!((part(before) - if late { 0.25 } else { 0.8 }).abs() < 0.05, "{late}: {before:?}");
            let rest = [after[0] - before[0], after[1] - before[1]];
            assert!((part(rest) - 0.8).abs() < 0.05 && rest[1] > 100, "{late}: {before:?}, then {rest:?}");
            assert!(run.errors.is_empty(), "{:?}", run.errors);
        }
        let (mut generator, backend) = generator(100);
        for heavy in [Heavy { of: vec![3], part: 0.5, late: false }, Heavy { of: vec![0], part: 1.0, late: false }] {
            assert!(generator.run(&Plan { rate: Some(10.0), heavy: Some(heavy), ..plan(backend) }).is_err());
        }
        assert!(
            generator
                .run(&Plan { heavy: Some(Heavy { of: vec![0], part: 0.5, late: false }), ..plan(backend) })
                .is_err()
        );
    }

    /// A target that takes a second for each answer must show as seconds, however few requests it let through: latency
    /// counts from when a request was due.
    #[test]
    fn counts_the_wait_of_requests_that_a_slow_target_holds_up() {
        let (mut generator, backend) = generator(4 << 20);
        let plan = Plan { rate: Some(100_000.0), connections: 1, warmup: 0.0, ..plan(backend) };
        let window = generator.run(&plan).unwrap();
        assert!(window.done > 1 && window.done < window.offered / 2, "it must not keep up: {window:?}");
        assert!(window.late > 0 && window.latency.max > 100_000.0, "{window:?}");
    }

    #[test]
    fn counts_what_a_target_does_wrong() {
        let (mut other, wrong) = generator(11);
        let (mut generator, _) = generator(10);
        let thread = std::thread::spawn(move || {
            let plan = Plan { connections: 0, seconds: 0.5, pids: Vec::new(), ..plan(wrong) };
            other.run(&plan).map(|_| ())
        });
        let plan = Plan { rate: Some(50.0), ..plan(wrong) };
        let window = generator.run(&plan).unwrap();
        thread.join().unwrap().unwrap();
        assert_eq!(window.done, 0);
        assert!(window.errors.contains_key("content-length is not what the backend sent"), "{window:?}");
    }

    #[test]
    fn says_what_is_wrong_with_a_plan() {
        let (mut generator, backend) = generator(10);
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let window = generator.run(&plan(closed)).unwrap();
        assert_eq!((window.done, window.errors.get("connect: connection refused")), (0, Some(&3)), "{window:?}");
        assert!(generator.run(&Plan { seconds: 0.0, ..plan(backend) }).is_err());
        assert!(generator.run(&Plan { rate: Some(0.0), ..plan(backend) }).is_err());
        assert!(generator.run(&Plan { pids: vec![u32::MAX], ..plan(backend) }).is_err());
    }
}

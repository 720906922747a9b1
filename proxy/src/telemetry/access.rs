//! The access log: one JSON line for each request, written off the path.
//!
//! A worker moves a [`Record`] into a bounded channel; a [`Writer`] on a thread of its own formats and writes. A record
//! that finds the channel full is dropped and counted: nothing on the path waits for a log. The keys are Istio's where
//! Istio has one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use http::uri::{Authority, PathAndQuery};

use super::cell::Counter;
use super::labels::{Authorization, Direction, Link, Outcome};
use super::metrics::{Metrics, Registry};
use crate::fault::Reason;
use crate::identity::SpiffeId;

/// Records that may wait for the writer, of all workers together. The writer looks every 10 ms, so this is 200,000
/// records a second; at about 1 KiB each with the header values they hold, 2 MiB.
pub const MAX_WAITING: usize = 2048;

/// Longest value in a line, in bytes before escaping; the rest is cut and marked with `…`.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Opens the log at a path: a file, which is appended to, a pipe, or `/dev/stdout` or `/dev/stderr`. The writer must be
/// [run](Writer::run) on a thread that may block.
///
/// # Errors
/// If the file cannot be opened.
pub fn open(path: &Path) -> io::Result<(Queue, Writer)> {
    let sink = Sink::open(path, true)?;
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let reopen = Arc::new(AtomicBool::new(false));
    let queue = Queue { sender, reopen: reopen.clone() };
    Ok((
        queue,
        Writer { receiver, reopen, path: path.to_owned(), sink, lines: Vec::new(), failing: false, torn: false },
    ))
}

/// Whether the log at a path can be opened on this machine. Makes no file: where there is none, its directory has to be there.
///
/// # Errors
/// Those of the system.
pub fn check(path: &Path) -> io::Result<()> {
    match (Sink::open(path, false), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => directory.metadata().map(drop),
        (opened, _) => opened.map(drop),
    }
}

/// The way into the log; clones lead to the same one. The log ends when every clone and every [`AccessLog`] is gone.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
}

impl Queue {
    /// The log as the thread of these metrics writes it.
    pub fn log(&self, metrics: &Metrics) -> AccessLog {
        AccessLog { sender: self.sender.clone(), dropped: metrics.access_log_dropped() }
    }

    /// Opens the path again before the next line, so that a rotated file is let go of.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
        // A full channel wakes the writer as well.
        let _ = self.sender.try_send(Message::Wake);
    }
}

/// The log as one thread writes it.
#[derive(Debug)]
pub struct AccessLog {
    sender: SyncSender<Message>,
    dropped: Arc<Counter>,
}

impl AccessLog {
    /// Hands a record over, or drops and counts it if [`MAX_WAITING`] wait already. Never blocks.
    pub fn write(&self, record: Box<Record>) {
        match self.sender.try_send(Message::Record(record)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.add(1),
        }
    }
}

/// One exchange, with the values it was made of: they are moved or share memory, nothing is formatted.
#[derive(Debug)]
pub struct Record {
    /// When the first byte arrived.
    pub start: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Its method; none for opaque bytes.
    pub method: Option<http::Method>,
    /// Path and query.
    pub path: Text,
    /// What the downstream side spoke; none for opaque bytes.
    pub protocol: Option<http::Version>,
    /// Host and port that were asked for.
    pub authority: Text,
    /// The final status; 0 if none was sent.
    pub status: u16,
    /// Why it failed, or [`Reason::None`].
    pub reason: Reason,
    /// It failed when its response had begun.
    pub broken_off: bool,
    /// It was made to wait on purpose.
    pub delayed: bool,
    /// What the failure was caused by, in words.
    pub failure: Text,
    /// What is said of an answer that is not the service's.
    pub details: Text,
    /// Body bytes from downstream.
    pub bytes_received: u64,
    /// Body bytes to downstream.
    pub bytes_sent: u64,
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
    /// From when it was last sent to the head of its answer; none where that is ours.
    pub upstream_service_time: Option<Duration>,
    /// `x-forwarded-for`
    pub x_forwarded_for: Text,
    /// `user-agent`
    pub user_agent: Text,
    /// `x-request-id`
    pub request_id: Text,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The endpoint that answered, or was tried last.
    pub upstream_host: Option<SocketAddr>,
    /// The service it was sent to.
    pub upstream_cluster: Text,
    /// Our end of that connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Where it was accepted.
    pub downstream_local_address: Option<SocketAddr>,
    /// Who connected.
    pub downstream_remote_address: Option<SocketAddr>,
    /// Server name of the TLS handshake.
    pub requested_server_name: Text,
    /// Name of the route.
    pub route_name: Text,
    /// What carried it between sidecars.
    pub link: Link,
    /// The identity of the peer sidecar: inbound who called, outbound who answered; from the handshake only.
    pub peer: Option<Arc<SpiffeId>>,
    /// How often it was sent upstream.
    pub attempts: u16,
    /// What a rule of authorization refused it, or would have done in its dry run.
    pub authorization: Option<(Authorization, Arc<str>)>,
    /// What each filter said, in the order in which they were asked.
    pub filters: Vec<Verdict>,
}

/// What one filter said of a request.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its name in the configuration.
    pub filter: Arc<str>,
    /// What it said.
    pub outcome: Outcome,
}

/// Text of a record in whatever form the path has it; `null` in the line if there is none.
#[derive(Clone, Debug, Default)]
pub enum Text {
    /// There is none.
    #[default]
    None,
    /// Known when we were compiled.
    Static(&'static str),
    /// Known since the configuration was read.
    Shared(Arc<str>),
    /// A part of a message.
    Bytes(Bytes),
    /// A field's value.
    Value(HeaderValue),
    /// The path of a request target.
    Path(PathAndQuery),
    /// The authority of a request target.
    Authority(Authority),
}

impl Text {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Text::None => None,
            Text::Static(text) => Some(text.as_bytes()),
            Text::Shared(text) => Some(text.as_bytes()),
            Text::Bytes(bytes) => Some(bytes),
            Text::Value(value) => Some(value.as_bytes()),
            Text::Path(path) => Some(path.as_str().as_bytes()),
            Text::Authority(authority) => Some(authority.as_str().as_bytes()),
        }
    }
}

macro_rules! text_from {
    ($($type:ty: $arm:ident),+) => { $(
        impl From<$type> for Text {
            fn from(text: $type) -> Self {
                Text::$arm(text)
            }
        }

        impl From<Option<$type>> for Text {
            fn from(text: Option<$type>) -> Self {
                text.map_or(Text::None, Text::$arm)
            }
        }
    )+ };
}

text_from!(&'static str: Static, Arc<str>: Shared, Bytes: Bytes, HeaderValue: Value, PathAndQuery: Path, Authority: Authority);

/// Formats records and writes them.
#[derive(Debug)]
pub struct Writer {
    receiver: Receiver<Message>,
    reopen: Arc<AtomicBool>,
    path: PathBuf,
    sink: Sink,
    /// Lines not written yet.
    lines: Vec<u8>,
    failing: bool,
    /// A write has failed within a line: what follows begins a new one.
    torn: bool,
}

impl Writer {
    /// Writes until the log ends. Blocks.
    pub fn run(mut self, registry: &Registry) {
        let lost = registry.metrics().access_log_dropped();
        while let Ok(first) = self.receiver.recv() {
            self.turn(first, &lost);
            // A worker that finds the writer asleep must wake it with a system call; one that finds it napping need not.
            thread::sleep(NAP);
        }
    }

    /// Writes what is there, and returns when the channel is empty.
    fn turn(&mut self, first: Message, lost: &Counter) {
        let mut next = Some(first);
        while let Some(message) = next {
            if self.reopen.swap(false, Ordering::Relaxed) {
                self.flush(lost);
                match Sink::open(&self.path, true) {
                    Ok(sink) => {
                        self.torn &= !sink.is_empty();
                        self.sink = sink;
                    }
                    Err(error) => {
                        tracing::warn!(path = %self.path.display(), %error, "access log stays with its old file")
                    }
                }
            }
            if let Message::Record(record) = message {
                line(&record, &mut self.lines);
            }
            if self.lines.len() >= WRITE_BYTES {
                self.flush(lost);
            }
            next = self.receiver.try_recv().ok();
        }
        self.flush(lost);
    }

    fn flush(&mut self, lost: &Counter) {
        if self.lines.is_empty() {
            return;
        }
        let mends = self.torn;
        if mends {
            self.lines.insert(0, b'\n');
        }
        let mut written = 0;
        match self.sink.write(&self.lines, &mut written) {
            Ok(()) => (self.failing, self.torn) = (false, false),
            Err(error) => {
                let (whole, rest) = self.lines.split_at(written);
                self.torn = whole.last().map_or(self.torn, |last| *last != b'\n');
                let ends = rest.iter().filter(|byte| **byte == b'\n').count();
                lost.add((ends - usize::from(mends && whole.is_empty())) as u64);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(path = %self.path.display(), %error, "access log cannot be written; records are lost");
                }
            }
        }
        self.lines.clear();
    }
}

/// How long the writer leaves the channel alone after it was empty: fewer wakes, at the price of a line this late.
const NAP: Duration = Duration::from_millis(10);

/// Bytes of lines that are written at once even if more records wait.
const WRITE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    Wake,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    File(File),
}

impl Sink {
    fn open(path: &Path, create: bool) -> io::Result<Self> {
        // Opening these paths fails where they are sockets, as they are under some supervisors.
        match path.to_str() {
            Some("/dev/stdout") => Ok(Sink::Stdout),
            Some("/dev/stderr") => Ok(Sink::Stderr),
            _ => {
                // To open a pipe for writing alone waits for somebody who reads it.
                let pipe = path.metadata().is_ok_and(|known| known.file_type().is_fifo());
                // Paths, addresses and identities of users: not for everyone's eyes.
                OpenOptions::new().read(pipe).append(true).create(create).mode(0o640).open(path).map(Sink::File)
            }
        }
    }

    /// Whether what follows is the begin of a file.
    fn is_empty(&self) -> bool {
        matches!(self, Sink::File(file) if file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0))
    }

    /// Writes all of it, or says how much was `written` until that failed.
    fn write(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        let out: &mut dyn Write = match self {
            Sink::Stdout => &mut io::stdout().lock(),
            Sink::Stderr => &mut io::stderr().lock(),
            Sink::File(file) => file,
        };
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => *written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.flush()
    }
}

/// Appends the record as a line.
fn line(record: &Record, out: &mut Vec<u8>) {
    // Field by field, so that a new one cannot be forgotten here.
    let Record {
        start,
        direction,
        method,
        path,
        protocol,
        authority,
        status,
        reason,
        broken_off,
        delayed,
        failure,
        details,
        bytes_received,
        bytes_sent,
        duration,
        upstream_service_time,
        x_forwarded_for,
        user_agent,
        request_id,
        trace_id,
        upstream_host,
        upstream_cluster,
        upstream_local_address,
        downstream_local_address,
        downstream_remote_address,
        requested_server_name,
        route_name,
        link,
        peer,
        attempts,
        authorization,
        filters,
    } = record;
    let row = reason.row();
    let (both, flag) = match (*delayed, row.flag) {
        (false, "") => ("", "-"),
        (true, "") => ("", "DI"),
        (true, flag) => ("DI,", flag),
        (false, flag) => ("", flag),
    };
    let mut object = Object::open(out);
    object.plain("start_time", Some(Timestamp(*start)));
    object.text("direction", Some(direction.token().as_bytes()));
    object.text("method", method.as_ref().map(|method| method.as_str().as_bytes()));
    object.text("path", path.bytes());
    object.text("protocol", protocol.map(|version| version_text(version).as_bytes()));
    object.number("response_code", status);
    object.plain("response_flags", Some(format_args!("{both}{flag}")));
    match details.bytes().filter(|_| *reason == Reason::None) {
        None => object.text("response_code_details", Some(reason.details(*broken_off).as_bytes())),
        own => object.text("response_code_details", own),
    }
    object.text("reason", Some(row.token.as_bytes()));
    object.text("upstream_transport_failure_reason", failure.bytes());
    object.number("bytes_received", bytes_received);
    object.number("bytes_sent", bytes_sent);
    object.number("duration", duration.as_millis());
    object.number("duration_us", duration.as_micros());
    match upstream_service_time {
        Some(time) => object.number("upstream_service_time", time.as_millis()),
        None => object.text("upstream_service_time", None),
    }
    object.text("x_forwarded_for", x_forwarded_for.bytes());
    object.text("user_agent", user_agent.bytes());
    object.text("request_id", request_id.bytes());
    object.plain("trace_id", trace_id.map(|id| format!("{:032x}", u128::from_be_bytes(id))));
    object.text("authority", authority.bytes());
    object.plain("upstream_host", *upstream_host);
    object.text("upstream_cluster", upstream_cluster.bytes());
    object.plain("upstream_local_address", *upstream_local_address);
    object.plain("downstream_local_address", *downstream_local_address);
    object.plain("downstream_remote_address", *downstream_remote_address);
    object.text("requested_server_name", requested_server_name.bytes());
    object.text("route_name", route_name.bytes());
    object.text("link", Some(link.token().as_bytes()));
    object.text("peer", peer.as_ref().map(|peer| peer.as_str().as_bytes()));
    object.number("attempts", attempts);
    let rule = authorization.as_ref().map(|(verdict, rule)| format!("{} {rule}", verdict.token()));
    object.text("authorization", rule.as_ref().map(String::as_bytes));
    object.key("filters");
    object.0.push(b'[');
    for (i, Verdict { filter, outcome }) in filters.iter().enumerate() {
        if i > 0 {
            object.0.push(b',');
        }
        let mut verdict = Object::open(object.0);
        verdict.text("filter", Some(filter.as_bytes()));
        verdict.text("outcome", Some(outcome.token().as_bytes()));
        verdict.close();
    }
    object.0.push(b']');
    object.close();
    out.push(b'\n');
}

fn version_text(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// A JSON object being written. Writing to a `Vec` cannot fail, which is why results are let go here.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object(out)
    }

    fn close(self) {
        self.0.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        let _ = write!(self.0, "\"{key}\":");
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        let _ = write!(self.0, "{value}");
    }

    /// Text that needs no escapes.
    fn plain(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        self.key(key);
        let _ = match value {
            Some(value) => write!(self.0, "\"{value}\""),
            None => write!(self.0, "null"),
        };
    }

    /// Text of strangers: what is not UTF-8 becomes U+FFFD; control characters, which could also command a terminal, are
    /// escaped.
    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        let Some(value) = value else {
            self.0.extend_from_slice(b"null");
            return;
        };
        let (value, rest) = value.split_at(value.len().min(MAX_VALUE_BYTES));
        self.0.push(b'"');
        for chunk in value.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' => self.0.extend_from_slice(b"\\\""),
                    '\\' => self.0.extend_from_slice(b"\\\\"),
                    c if c.is_control() => {
                        let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                    }
                    c => self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            if !chunk.invalid().is_empty() {
                self.0.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        if !rest.is_empty() {
            self.0.extend_from_slice("…".as_bytes());
        }
        self.0.push(b'"');
    }
}

/// A moment as RFC 3339 with milliseconds; one outside the years 1970 to 9999 as their nearest end.
pub struct Timestamp(pub SystemTime);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let t = time::UtcDateTime::from_unix_timestamp(seconds).unwrap_or(time::UtcDateTime::MAX);
        let (year, month, day) = t.to_calendar_date();
        let (hour, minute, second) = t.as_hms();
        let (month, millis) = (u8::from(month), since.subsec_millis());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests;

//! The process log: lines on standard error, as text or JSON, with levels that can be changed while it runs. A thread of
//! its own writes them: who reads them may be slow, or have stopped, and nothing that logs may wait for that.
//!
//! Levels are those of Proxy-Wasm. `critical` is an error with the field `critical = true`:
//! `tracing::error!(target: "filter", filter = "auth", critical = true, "no keys")`. What a filter logs has the target
//! `filter` and its name in the field `filter`.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `2026-01-31T12:00:00.000000Z INFO lacis::app: message key=value`.
    Text,
    /// An object with `timestamp`, `level`, `target`, `message` and the fields.
    Json,
}

/// Levels unless the user says otherwise.
pub const DEFAULT_LEVELS: &str = "info";

/// Longest list of levels in bytes: it comes over the admin listener too.
const MAX_DIRECTIVES: usize = 4096;

/// Bytes of lines that may wait to be written; what comes beyond is lost, and told when there is room.
const MAX_WAITING: usize = 256 << 10;

/// How long the end of the process waits for its last lines.
const PATIENCE: Duration = Duration::from_secs(1);

static WAITING: Waiting = Waiting::new();

static LEVELS: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log of this process: once, before the first line.
///
/// # Errors
/// What is wrong with the levels, or that a log runs already.
pub fn start(levels: &str, format: Format) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(directives(levels)?);
    let subscriber = tracing_subscriber::registry().with(filter).with(Lines { format });
    tracing::subscriber::set_global_default(subscriber).map_err(|e| e.to_string())?;
    LEVELS.set(handle).map_err(|_| "the log runs already".to_owned())?;
    let write = || WAITING.write(std::io::stderr());
    thread::Builder::new().name("log".into()).spawn(write).map(drop).map_err(|e| format!("cannot start the log: {e}"))
}

/// Waits until what was logged is written: before the process ends. Not for long, should nobody take it.
pub fn flush() {
    WAITING.flush(PATIENCE);
}

/// Changes the levels: `info,filter=debug` is a level for everything, then one for each target that begins so.
///
/// # Errors
/// What is wrong with the text, and what would be right; or that no log runs.
pub fn set_level(levels: &str) -> Result<(), String> {
    let filter = directives(levels)?;
    LEVELS.get().ok_or("the log does not run")?.reload(filter).map_err(|e| e.to_string())
}

/// The levels in force, in the form that [`set_level`] takes.
pub fn level() -> String {
    let levels = LEVELS.get().and_then(|handle| handle.with_current(text_of).ok());
    levels.unwrap_or_else(|| "off".into())
}

/// Reads a list of levels.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn directives(levels: &str) -> Result<Targets, String> {
    if levels.len() > MAX_DIRECTIVES {
        return Err(format!("the list of levels is longer than {MAX_DIRECTIVES} bytes"));
    }
    let mut targets = Targets::new().with_default(LevelFilter::OFF);
    for item in levels.split(',').map(str::trim) {
        targets = match item.split_once('=') {
            Some(("", _)) => return Err(format!("\"{item}\" has no target; write TARGET=LEVEL such as filter=debug")),
            Some((target, level)) => targets.with_target(target.trim(), filter_of(level.trim())?),
            None => targets.with_default(filter_of(item)?),
        };
    }
    Ok(targets)
}

fn filter_of(level: &str) -> Result<LevelFilter, String> {
    Ok(match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        // The nearest that can be told apart before a line is built.
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => {
            return Err(format!("\"{level}\" is not a level; write trace, debug, info, warn, error, critical or off"));
        }
    })
}

fn text_of(targets: &Targets) -> String {
    let mut items: Vec<String> = targets.iter().map(|(target, level)| format!("{target}={level}")).collect();
    items.sort();
    items.insert(0, targets.default_level().unwrap_or(LevelFilter::OFF).to_string());
    items.join(",")
}

/// Writes every event as one line.
struct Lines {
    format: Format,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        WAITING.put(&line(self.format, OffsetDateTime::now_utc(), event));
    }
}

/// Lines on their way to who reads them.
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: String,
    lost: u64,
    /// Some that were taken from `lines` are being written.
    writing: bool,
}

impl Waiting {
    const fn new() -> Self {
        let state = State { lines: String::new(), lost: 0, writing: false };
        Waiting { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn put(&self, line: &str) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > MAX_WAITING {
            state.lost += 1;
            return;
        }
        state.lines.push_str(line);
        self.changed.notify_all();
    }

    /// Writes what comes, for ever.
    fn write(&self, mut out: impl Write) {
        loop {
            let none = |state: &mut State| state.lines.is_empty();
            let mut state = self.changed.wait_while(self.lock(), none).unwrap_or_else(PoisonError::into_inner);
            let (lines, lost) = (std::mem::take(&mut state.lines), std::mem::take(&mut state.lost));
            state.writing = true;
            drop(state);
            // Where standard error is gone there is nobody left to tell.
            let _ = out.write_all(lines.as_bytes());
            if lost > 0 {
                tracing::warn!(lost, "lines of this log are lost: standard error is read too slowly");
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn flush(&self, patience: Duration) {
        let some = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), patience, some));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(format: Format, now: OffsetDateTime, event: &Event<'_>) -> String {
    let mut fields = Fields { format, message: String::new(), rest: String::new(), critical: false };
    event.record(&mut fields);
    let Fields { message, rest, critical, .. } = fields;
    let level = match *event.metadata().level() {
        Level::ERROR if critical => "critical",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let timestamp = timestamp(now);
    let target = event.metadata().target();
    match format {
        Format::Text => {
            let mut line = format!("{timestamp} {} {target}: ", level.to_uppercase());
            escaped(&mut line, &message);
            line + &rest + "\n"
        }
        Format::Json => {
            let (target, message) = (json(target), json(&message));
            format!(
                "{{\"timestamp\":\"{timestamp}\",\"level\":\"{level}\",\"target\":{target},\"message\":{message}{rest}}}\n"
            )
        }
    }
}

/// RFC 3339 in UTC, always with six digits of a second, so that lines align and sort.
fn timestamp(now: OffsetDateTime) -> String {
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    let (hour, minute, second, micros) = now.to_hms_micro();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The fields of an event, written as they come.
struct Fields {
    format: Format,
    message: String,
    rest: String,
    critical: bool,
}

impl Fields {
    fn put(&mut self, field: &Field, json_value: &str, text_value: impl fmt::Display) {
        // A field never hides one of ours.
        let reserved = matches!(field.name(), "timestamp" | "level" | "target");
        let (name, mark) = (field.name(), if reserved { "_" } else { "" });
        let written = match self.format {
            Format::Text => write!(self.rest, " {name}{mark}={text_value}"),
            Format::Json => write!(self.rest, ",\"{name}{mark}\":{json_value}"),
        };
        debug_assert!(written.is_ok(), "a string takes everything");
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            text.clone_into(&mut self.message);
            return;
        }
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'='));
        let quoted = json(text);
        if plain { self.put(field, &quoted, text) } else { self.put(field, &quoted, &quoted) }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "critical" {
            self.critical = value;
        } else {
            self.put(field, &value.to_string(), value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value.to_string(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value.to_string(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let json = if value.is_finite() { value.to_string() } else { "null".into() };
        self.put(field, &json, value);
    }
}

/// A text as a JSON string; also quotes it for a text line, where control characters must not pass either.
fn json(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c => escape(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

/// A message as it is, but on one line and without what a terminal would obey.
fn escaped(line: &mut String, message: &str) {
    message.chars().for_each(|c| escape(line, c));
}

fn escape(line: &mut String, c: char) {
    match c {
        '\n' => line.push_str("\\n"),
        '\r' => line.push_str("\\r"),
        '\t' => line.push_str("\\t"),
        // All control characters are below U+0100, so four digits hold them.
        c if c.is_control() => {
            let written = write!(line, "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok(), "a string takes everything");
        }
        c => line.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone)]
    struct Capture(Format, Arc<Mutex<String>>);

    impl<S: Subscriber> Layer<S> for Capture {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let now = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1_500_000);
            *self.1.lock().expect("lock") += &line(self.0, now, event);
        }
    }

    fn logged(format: Format, levels: &str, log: impl FnOnce()) -> String {
        let capture = Capture(format, Arc::default());
        let filter = directives(levels).expect("valid");
        let subscriber = tracing_subscriber::registry().with(filter).with(capture.clone());
        tracing::subscriber::with_default(subscriber, log);
        capture.1.lock().expect("lock").clone()
    }

    fn story() {
        tracing::error!(target: "filter", filter = "auth", critical = true, "no \"keys\"\nat all");
        tracing::warn!(target: "lacis::app", level = 3_u64, ratio = 0.5, on = false, error = %"a b", empty = "", "odd");
        tracing::info!(target: "lacis::app", bytes = -1_i64, what = ?Some("x\u{1b}[0m"), "fine");
    }

    #[test]
    fn json_lines() {
        let lines = logged(Format::Json, "info", story);
        for line in lines.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        }
        assert_eq!(
            lines,
            concat!(
                r#"{"timestamp":"1970-01-01T00:00:01.500000Z","level":"critical","target":"filter","message":"no \"keys\"\nat all","filter":"auth"}"#,
                "\n",
                r#"{"timestamp":"1970-01-01T00:00:01.500000Z","level":"warn","target":"lacis::app","message":"odd","level_":3,"ratio":0.5,"on":false,"error":"a b","empty":""}"#,
                "\n",
                r#"{"timestamp":"1970-01-01T00:00:01.500000Z","level":"info","target":"lacis::app","message":"fine","bytes":-1,"what":"Some(\"x\\u{1b}[0m\")"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn text_lines() {
        assert_eq!(
            logged(Format::Text, "info", story),
            concat!(
                "1970-01-01T00:00:01.500000Z CRITICAL filter: no \"keys\"\\nat all filter=auth\n",
                "1970-01-01T00:00:01.500000Z WARN lacis::app: odd level_=3 ratio=0.5 on=false error=\"a b\" empty=\"\"\n",
                "1970-01-01T00:00:01.500000Z INFO lacis::app: fine bytes=-1 what=\"Some(\\\"x\\\\u{1b}[0m\\\")\"\n",
            )
        );
    }

    /// Takes nothing until it is told to, and keeps what it took.
    struct Stuck(std::sync::mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_waits_for_nobody_and_what_waits_is_bounded() {
        let waiting: &'static Waiting = Box::leak(Box::new(Waiting::new()));
        let line = "x".repeat(1023) + "\n";
        let most = MAX_WAITING / line.len();
        (0..=most).for_each(|_| waiting.put(&line));
        assert_eq!(waiting.lock().lines.len(), MAX_WAITING);
        assert_eq!(waiting.lock().lost, 1);
        let (go, told) = std::sync::mpsc::channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let out = Stuck(told, Arc::clone(&taken));
        thread::spawn(move || waiting.write(out));
        waiting.flush(Duration::ZERO);
        assert!(taken.lock().expect("lock").is_empty(), "it is stuck, and nobody waited");
        drop(go);
        waiting.flush(Duration::from_secs(60));
        assert_eq!(taken.lock().expect("lock").len(), MAX_WAITING);
        assert_eq!(waiting.lock().lost, 0, "told");
    }

    #[test]
    fn levels() {
        let count = |levels| logged(Format::Text, levels, story).lines().count();
        assert_eq!(["trace", "warn", "critical", "off", "off,filter=debug"].map(count), [3, 2, 1, 0, 1]);
        assert_eq!(text_of(&directives("info, filter=debug").expect("valid")), "info,filter=debug");
        for wrong in ["", "verbose", "filter", "filter=", "=debug", "info,,", &"x=info,".repeat(1000)] {
            assert!(directives(wrong).is_err(), "{wrong:?}");
        }
    }
}

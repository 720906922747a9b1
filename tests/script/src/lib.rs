//! A filter that does what a request tells it, and logs what every host call answered.
//!
//! A script is what a request has in `x-script`, else what the plugin is configured with. It has sections, separated by
//! `;`, each a name and steps, separated by `,`:
//!
//! ```text
//! rq add 0 x-a 1, get 0 :path, ret 1 ; rs get 2 :status ; lg prop response.code
//! ```
//!
//! Sections are called like the callbacks: `vm` (on_vm_start), `cfg`, `tick`, `queue`, `rq`, `rqb`, `rqt`, `rs`, `rsb`,
//! `rst`, `lg`, `dn` (on_done), `dl` (on_delete). `rqb1` is for the first call only, `rqbe` for the one with the end of
//! the stream. Steps that begin something name a section for its outcome.
//!
//! An argument is percent-decoded; `~` is nothing, `@N` is N times `x`, `$` is what the last step gave. Each callback is
//! logged as one line: the request's `x-case`, the callback and its arguments, each step with its status and value, and
//! what was returned.

mod host;
mod steps;
mod word;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use host::{Arguments, Out};

thread_local!(static STATE: RefCell<State> = RefCell::default());

#[derive(Default)]
struct State {
    contexts: BTreeMap<u32, Context>,
    /// Call-outs in flight.
    calls: BTreeMap<u32, Begun>,
    /// What is to be done at the next tick.
    later: Vec<Begun>,
    last: Last,
}

/// What is to be heard of later: in which context, of which case, in which section.
#[derive(Clone)]
struct Begun {
    context: u32,
    case: String,
    section: String,
}

/// What earlier steps gave.
#[derive(Clone, Default)]
struct Last {
    value: Vec<u8>,
    cas: u32,
    call: u32,
    queue: u32,
    metric: u32,
}

#[derive(Clone, Default)]
struct Context {
    root: u32,
    case: String,
    script: Rc<str>,
    /// No callback has been logged yet.
    fresh: bool,
    /// How often each body callback came.
    pieces: [u32; 2],
}

/// Where steps are done.
struct Run {
    context: u32,
    answer: u32,
    line: String,
}

/// The section of a script, if it has it.
fn section<'a>(script: &'a str, names: &[&str]) -> Option<&'a str> {
    let sections = || script.split(';').map(str::trim).map(|s| s.split_once(' ').unwrap_or((s, "")));
    names.iter().find_map(|name| sections().find(|(own, _)| own == name)).map(|(_, steps)| steps)
}

fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| f(&mut state.borrow_mut()))
}

fn log(text: &str) {
    Arguments::new().number(2).bytes(text.as_bytes()).call("log");
}

/// Does the first of these sections for a context, and logs. Gives what the callback answers.
fn run(context: u32, callback: &str, args: &[u64], names: &[&str], answer: u32) -> u32 {
    let Some(own) = with(|state| {
        let own = state.contexts.get_mut(&context)?;
        Some(std::mem::replace(own, Context { fresh: false, ..own.clone() }))
    }) else {
        return answer;
    };
    let mut line = format!("{} {}{callback}", own.case, if own.fresh { "new " } else { "" });
    for arg in args {
        line += &format!(" {arg}");
    }
    let mut run = Run { context, answer, line };
    for step in section(&own.script, names).unwrap_or("").split(',').map(str::trim).filter(|s| !s.is_empty()) {
        run.step(step);
    }
    // How a body is cut is the libraries' affair: a piece of which nothing is asked is not told.
    let piece = callback.ends_with('b') && args.get(1) == Some(&0) && !run.line.contains('|');
    if !piece {
        log(&format!("{} => {}", run.line, run.answer));
    }
    run.answer
}

/// The header that a request brings its script in, and the script of the plugin itself: `HEADER|SCRIPT`.
fn configured(size: u32) -> (String, String) {
    let mut out = Out::default();
    Arguments::new().number(7).number(0).number(size.into()).data(&mut out).call("get_buffer_bytes");
    let text = String::from_utf8_lossy(&out.bytes()).into_owned();
    match text.split_once('|') {
        Some((header, script)) => (header.to_owned(), script.to_owned()),
        None => ("x-script".to_owned(), text),
    }
}

fn request_header(name: &str) -> Option<String> {
    let mut out = Out::default();
    let status = Arguments::new().number(0).bytes(name.as_bytes()).data(&mut out).call("get_header_map_value");
    (status == 0).then(|| String::from_utf8_lossy(&out.bytes()).into_owned())
}

/// How many lines a map has. How many there are is each proxy's affair; that a callback says the same is not.
fn lines(map: u64) -> u32 {
    let mut out = Out::default();
    Arguments::new().number(map).data(&mut out).call("get_header_map_pairs");
    out.bytes().get(..4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with(|state| {
        let root = if parent == 0 { context } else { parent };
        let script = state.contexts.get(&root).map(|root| Rc::clone(&root.script)).unwrap_or_default();
        let case = if parent == 0 { "root" } else { "-" }.to_owned();
        state.contexts.insert(context, Context { root, case, script, fresh: true, pieces: [0, 0] });
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(root: u32, size: u32) -> u32 {
    // Its configuration says what to do, and cannot be read yet.
    let mut out = Out::default();
    Arguments::new().number(6).number(0).number(size.into()).data(&mut out).call("get_buffer_bytes");
    let script = String::from_utf8_lossy(&out.bytes()).into_owned();
    match section(&script, &["vm"]) {
        Some(_) => {
            with(|state| state.contexts.entry(root).or_default().script = script.into());
            run(root, "vm", &[size.into()], &["vm"], 1)
        }
        None => 1,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: u32) -> u32 {
    let (header, script) = configured(size);
    HEADERS.with(|headers| headers.borrow_mut().insert(root, header));
    with(|state| state.contexts.entry(root).or_default().script = script.as_str().into());
    if section(&script, &["cfg"]).is_some() { run(root, "cfg", &[size.into()], &["cfg"], 1) } else { 1 }
}

thread_local!(static HEADERS: RefCell<BTreeMap<u32, String>> = RefCell::default());

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    let later = with(|state| std::mem::take(&mut state.later));
    if later.is_empty() {
        let script = with(|state| state.contexts.get(&root).map(|root| Rc::clone(&root.script)).unwrap_or_default());
        if section(&script, &["tick"]).is_some() {
            run(root, "tick", &[], &["tick"], 0);
        }
        return;
    }
    Arguments::new().number(0).call("set_tick_period_milliseconds");
    for begun in later {
        begun.go_on("later", &[], "");
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
    with(|state| state.last.queue = queue);
    run(root, "queue", &[], &["queue"], 0);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, count: u32, end: u32) -> u32 {
    let root = with(|state| state.contexts.get(&context).map_or(0, |own| own.root));
    let header = HEADERS.with(|headers| headers.borrow().get(&root).cloned().unwrap_or_default());
    let (script, case) = (request_header(&header), request_header("x-case"));
    with(|state| {
        if let Some(own) = state.contexts.get_mut(&context) {
            own.case = case.unwrap_or_else(|| "-".into());
            if let Some(script) = script {
                own.script = script.into();
            }
        }
    });
    run(context, "rq", &[u64::from(count == lines(0)), end.into()], &["rq"], 0)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context: u32, count: u32, end: u32) -> u32 {
    run(context, "rs", &[u64::from(count == lines(2)), end.into()], &["rs"], 0)
}

/// A body callback.
fn body(context: u32, half: usize, size: u32, end: u32) -> u32 {
    let callback = ["rqb", "rsb"][half];
    let number = with(|state| {
        let Some(own) = state.contexts.get_mut(&context) else { return 0 };
        own.pieces[half] += 1;
        own.pieces[half]
    });
    let numbered = format!("{callback}{number}");
    let last = format!("{callback}e");
    let names: Vec<&str> = match end {
        0 => vec![&numbered, callback],
        _ => vec![&last, &numbered, callback],
    };
    let script = with(|state| state.contexts.get(&context).map(|own| Rc::clone(&own.script)).unwrap_or_default());
    match section(&script, &names) {
        Some(_) => run(context, callback, &[size.into(), end.into()], &names, 0),
        None => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: u32, end: u32) -> u32 {
    body(context, 0, size, end)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context: u32, size: u32, end: u32) -> u32 {
    body(context, 1, size, end)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, count: u32) -> u32 {
    run(context, "rqt", &[count.into()], &["rqt"], 0)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(context: u32, count: u32) -> u32 {
    run(context, "rst", &[count.into()], &["rst"], 0)
}

/// The section that the issuer of a call named; the call is over if `last`.
fn called(id: u32, callback: &str, args: &[u64], suffix: &str, last: bool) {
    let found = with(|state| if last { state.calls.remove(&id) } else { state.calls.get(&id).cloned() });
    match found {
        Some(begun) => begun.go_on(callback, args, suffix),
        None => log(&format!("? {callback} of nobody")),
    }
}

impl Begun {
    fn go_on(&self, callback: &str, args: &[u64], suffix: &str) {
        let Begun { context, case, section } = self;
        if with(|state| state.contexts.contains_key(context)) {
            run(*context, callback, args, &[&format!("{section}{suffix}"), section], 0);
        } else {
            log(&format!("{case} {callback} {args:?} too late"));
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(_root: u32, id: u32, headers: u32, body: u32, trailers: u32) {
    called(id, "call", &[u64::from(headers > 0), body.into(), trailers.into()], "", true);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive_initial_metadata(_root: u32, id: u32, _count: u32) {
    called(id, "grpc-initial", &[], ".initial", false);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(_root: u32, id: u32, size: u32) {
    // A unary call ends with its message; a stream's end is told.
    called(id, "grpc-message", &[size.into()], ".message", false);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive_trailing_metadata(_root: u32, id: u32, _count: u32) {
    called(id, "grpc-trailing", &[], ".trailing", false);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(_root: u32, id: u32, status: u32) {
    called(id, "grpc-close", &[status.into()], ".close", true);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    run(context, "lg", &[], &["lg"], 0);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(context: u32) -> u32 {
    run(context, "dn", &[], &["dn"], 1)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    run(context, "dl", &[], &["dl"], 0);
    with(|state| state.contexts.remove(&context));
}

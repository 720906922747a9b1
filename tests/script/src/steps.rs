//! What a step does.

use std::fmt::Write;

use crate::host::{self, Arguments, Out};
use crate::word::decoded;
use crate::{Begun, Last, Run, log, with};

/// Most bytes of a value that stand in a line.
const SHOWN: usize = 300;

impl Run {
    /// Does one step and notes it.
    pub(crate) fn step(&mut self, text: &str) {
        let last = with(|state| state.last.clone());
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        let args: Vec<Vec<u8>> = words.iter().map(|word| argument(word, &last)).collect();
        let bytes = |at: usize| args.get(at).map_or(&[][..], Vec::as_slice);
        let number = |at: usize| words.get(at).map_or(0, |word| numeric(word, &last));
        let call = Arguments::new;
        let mut out = Out::default();
        // What the step gave, if it gives something to see.
        let mut value = None;
        let status = match name {
            "ret" => {
                self.answer = number(0) as u32;
                return;
            }
            "get" => {
                let status = call().number(number(0)).bytes(bytes(1)).data(&mut out).call("get_header_map_value");
                value = Some(out.bytes());
                status
            }
            "add" | "rep" | "rem" => {
                let call = call().number(number(0)).bytes(bytes(1));
                match name {
                    "add" => call.bytes(bytes(2)).call("add_header_map_value"),
                    "rep" => call.bytes(bytes(2)).call("replace_header_map_value"),
                    _ => call.call("remove_header_map_value"),
                }
            }
            // Names and values, sorted by name; `names` without the values; `order` as they stand.
            "pairs" | "names" | "order" => {
                let status = call().number(number(0)).data(&mut out).call("get_header_map_pairs");
                let bytes = out.bytes();
                let mut lines = list(&bytes);
                if name != "order" {
                    lines.sort_by_key(|(name, _)| *name);
                }
                value = Some(joined(&lines, name != "names"));
                status
            }
            // name=value&name=value
            "set" => call().number(number(0)).bytes(&pairs(bytes(1))).call("set_header_map_pairs"),
            "setraw" => call().number(number(0)).bytes(bytes(1)).call("set_header_map_pairs"),
            "size" => {
                // Of which size, the libraries have a say in.
                let status = call().number(number(0)).out(&mut out).call("get_header_map_size");
                value = Some(if out.number > 0 { b"some".to_vec() } else { b"0".to_vec() });
                status
            }
            "buf" => {
                let call = call().number(number(0)).number(number(1)).number(number(2));
                let status = call.data(&mut out).call("get_buffer_bytes");
                value = Some(out.bytes());
                status
            }
            "bufstat" => {
                let mut flags = Out::default();
                let status = call().number(number(0)).out(&mut out).out(&mut flags).call("get_buffer_status");
                value = Some(format!("{}/{}", out.number, flags.number).into_bytes());
                status
            }
            "setbuf" => {
                let call = call().number(number(0)).number(number(1)).number(number(2));
                call.bytes(bytes(3)).call("set_buffer_bytes")
            }
            "cont" => call().number(number(0)).call("continue_stream"),
            "close" => call().number(number(0)).call("close_stream"),
            // CODE DETAILS BODY HEADERS GRPC
            "reply" => {
                let grpc = if words.len() > 4 { number(4) } else { u64::from(u32::MAX) };
                let call = call().number(number(0)).bytes(bytes(1)).bytes(bytes(2));
                call.bytes(&pairs(bytes(3))).number(grpc).call("send_local_response")
            }
            // UPSTREAM HEADERS SECTION TIMEOUT BODY TRAILERS
            "call" => {
                let timeout = if words.len() > 3 { number(3) } else { 10_000 };
                let call = call().bytes(bytes(0)).bytes(&pairs(bytes(1))).bytes(bytes(4));
                let status = call.bytes(&pairs(bytes(5))).number(timeout).out(&mut out).call("http_call");
                self.called(status, out.number as u32, words.get(2));
                status
            }
            // UPSTREAM SERVICE METHOD SECTION MESSAGE METADATA TIMEOUT
            "gcall" => {
                let timeout = if words.len() > 6 { number(6) } else { 10_000 };
                let call = call().bytes(bytes(0)).bytes(bytes(1)).bytes(bytes(2)).bytes(&pairs(bytes(5)));
                let status = call.bytes(bytes(4)).number(timeout).out(&mut out).call("grpc_call");
                self.called(status, out.number as u32, words.get(3));
                status
            }
            // UPSTREAM SERVICE METHOD SECTION METADATA
            "gstream" => {
                let call = call().bytes(bytes(0)).bytes(bytes(1)).bytes(bytes(2)).bytes(&pairs(bytes(4)));
                let status = call.out(&mut out).call("grpc_stream");
                self.called(status, out.number as u32, words.get(3));
                status
            }
            "gsend" => call().number(number(0)).bytes(bytes(1)).number(number(2)).call("grpc_send"),
            "gcancel" => call().number(number(0)).call("grpc_cancel"),
            "gclose" => call().number(number(0)).call("grpc_close"),
            "status" => {
                let mut said = Out::default();
                let status = call().out(&mut out).data(&mut said).call("get_status");
                let said = said.bytes();
                let space: &[u8] = if said.is_empty() { b"" } else { b" " };
                value = Some([out.number.to_string().as_bytes(), space, &said].concat());
                status
            }
            "sget" => {
                let mut cas = Out::default();
                let status = call().bytes(bytes(0)).data(&mut out).out(&mut cas).call("get_shared_data");
                with(|state| state.last.cas = cas.number as u32);
                value = Some(out.bytes());
                status
            }
            "sset" => call().bytes(bytes(0)).bytes(bytes(1)).number(number(2)).call("set_shared_data"),
            "qreg" => {
                let status = call().bytes(bytes(0)).out(&mut out).call("register_shared_queue");
                with(|state| state.last.queue = out.number as u32);
                status
            }
            "qres" => {
                let status = call().bytes(bytes(0)).bytes(bytes(1)).out(&mut out).call("resolve_shared_queue");
                with(|state| state.last.queue = out.number as u32);
                status
            }
            "qenq" => call().number(number(0)).bytes(bytes(1)).call("enqueue_shared_queue"),
            "qdeq" => {
                let status = call().number(number(0)).data(&mut out).call("dequeue_shared_queue");
                value = Some(out.bytes());
                status
            }
            "mdef" => {
                let status = call().number(number(0)).bytes(bytes(1)).out(&mut out).call("define_metric");
                with(|state| state.last.metric = out.number as u32);
                status
            }
            "minc" => call().number(number(0)).number(number(1)).call("increment_metric"),
            "mrec" => call().number(number(0)).number(number(1)).call("record_metric"),
            "mget" => {
                let status = call().number(number(0)).out(&mut out).call("get_metric");
                value = Some(out.number.to_string().into_bytes());
                status
            }
            // `prop` shows the value, `propn` its length, `props` neither. A dot is the end of a segment, `%2E` is a dot.
            "prop" | "propn" | "props" => {
                let status = call().bytes(&path(words.first())).data(&mut out).call("get_property");
                let bytes = out.bytes();
                value = match name {
                    "prop" => Some(bytes),
                    "propn" => Some(format!("#{}", bytes.len()).into_bytes()),
                    _ => None,
                };
                status
            }
            // Of a map, the names and values.
            "propmap" => {
                let status = call().bytes(&path(words.first())).data(&mut out).call("get_property");
                let bytes = out.bytes();
                let mut lines = list(&bytes);
                lines.sort_by_key(|(name, _)| *name);
                value = Some(joined(&lines, true));
                status
            }
            "setprop" => call().bytes(&path(words.first())).bytes(bytes(1)).call("set_property"),
            "ff" => {
                let call = call().bytes(bytes(0)).bytes(bytes(1));
                let status = call.data(&mut out).call("call_foreign_function");
                value = Some(out.bytes());
                status
            }
            // 0 is the context that runs this script.
            "eff" => {
                let context = match words.first() {
                    Some(&"root") => with(|state| state.contexts.get(&self.context).map_or(0, |own| own.root)).into(),
                    Some(&"own") | None => self.context.into(),
                    Some(_) => number(0),
                };
                call().number(context).call("set_effective_context")
            }
            "tick" => call().number(number(0)).call("set_tick_period_milliseconds"),
            // Does a section at the next tick.
            "later" => {
                let begun = self.begun(words.first());
                with(|state| state.later.push(begun));
                call().number(5).call("set_tick_period_milliseconds")
            }
            "done" => call().call("done"),
            "level" => call().out(&mut out).call("get_log_level"),
            "time" => {
                let status = call().out(&mut out).call("get_current_time_nanoseconds");
                value = Some(u8::from(out.number > 1 << 60).to_string().into_bytes());
                status
            }
            "log" => call().number(number(0)).bytes(bytes(1)).call("log"),
            "raw" => {
                let args: Vec<u64> = (1..words.len()).map(number).collect();
                host::call(words[0], &args).unwrap_or(u32::MAX)
            }
            "env" => {
                value = Some(std::env::var(words[0]).unwrap_or_else(|_| "?".into()).into_bytes());
                0
            }
            "args" => std::env::args().count() as u32,
            "file" => std::fs::read(words[0]).map_or_else(|e| e.raw_os_error().unwrap_or(999) as u32, |_| 0),
            "out" => {
                print!("{}", String::from_utf8_lossy(bytes(0)));
                0
            }
            "err" => {
                eprint!("{}", String::from_utf8_lossy(bytes(0)));
                0
            }
            "trap" => {
                log(&format!("{} | trap", self.line));
                std::process::abort()
            }
            "exit" => {
                log(&format!("{} | exit", self.line));
                std::process::exit(number(0) as i32)
            }
            _ => {
                let _ = write!(self.line, " | no step {name}");
                return;
            }
        };
        let _ = write!(self.line, " | {name} {status}");
        if let Some(value) = value {
            let _ = write!(self.line, " {}", shown(&value));
            with(|state| state.last.value = value);
        }
    }

    fn called(&self, status: u32, id: u32, section: Option<&&str>) {
        if status == 0 {
            let begun = self.begun(section);
            with(|state| {
                state.calls.insert(id, begun);
                state.last.call = id;
            });
        }
    }

    fn begun(&self, section: Option<&&str>) -> Begun {
        let case = with(|state| state.contexts.get(&self.context).map(|own| own.case.clone())).unwrap_or_default();
        Begun { context: self.context, case, section: section.unwrap_or(&"").to_string() }
    }
}

/// A word as bytes.
fn argument(word: &str, last: &Last) -> Vec<u8> {
    match word.strip_prefix('@').and_then(|count| count.parse().ok()) {
        Some(count) => return vec![b'x'; count],
        None if word == "~" => return Vec::new(),
        None if word == "$" => return last.value.clone(),
        None => {}
    }
    decoded(word)
}

/// A word as a number; `q`, `m`, `c`, `k` are the last queue, metric, cas and call.
fn numeric(word: &str, last: &Last) -> u64 {
    match word {
        "q" => last.queue.into(),
        "m" => last.metric.into(),
        "c" => last.cas.into(),
        "k" => last.call.into(),
        _ => word.parse().or_else(|_| word.parse::<i64>().map(|n| n as u64)).unwrap_or(0),
    }
}

/// Segments of a property path, joined by NUL.
fn path(word: Option<&&str>) -> Vec<u8> {
    let word = word.filter(|word| **word != "~").unwrap_or(&"");
    let segments: Vec<Vec<u8>> = word.split('.').map(decoded).collect();
    segments.join(&0)
}

/// `name=value&name=value` in the ABI's form.
fn pairs(text: &[u8]) -> Vec<u8> {
    let lines: Vec<(&[u8], &[u8])> = text
        .split(|b| *b == b'&')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let at = line.iter().position(|b| *b == b'=').unwrap_or(line.len());
            (&line[..at], line.get(at + 1..).unwrap_or_default())
        })
        .collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let mut block = (lines.len() as u32).to_le_bytes().to_vec();
    for (name, value) in &lines {
        block.extend((name.len() as u32).to_le_bytes());
        block.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in &lines {
        block.extend([name, &[0][..], value, &[0]].concat());
    }
    block
}

/// The lines of the ABI's form, without what only proxies add.
fn list(block: &[u8]) -> Vec<(&[u8], &[u8])> {
    let word = |at: usize| block.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let count = word(0);
    let mut at = 4 + count * 8;
    let mut lines = Vec::new();
    for line in 0..count {
        let (name, value) = (word(4 + line * 8), word(8 + line * 8));
        lines.push((&block[at..at + name], &block[at + name + 1..at + name + 1 + value]));
        at += name + value + 2;
    }
    lines.retain(|(name, _)| !OURS.iter().any(|prefix| name.starts_with(prefix)));
    lines
}

fn joined(lines: &[(&[u8], &[u8])], values: bool) -> Vec<u8> {
    let line = |(name, value): &(&[u8], &[u8])| if values { [name, &b"="[..], value].concat() } else { name.to_vec() };
    lines.iter().map(line).collect::<Vec<_>>().join(&b' ')
}

/// What each proxy adds in its own way, and what belongs to the suite.
const OURS: [&[u8]; 10] = [
    b"x-envoy",
    b"x-request-id",
    b"x-forwarded",
    b"traceparent",
    b"proxy-status",
    b"server",
    b"date",
    b"x-script",
    b"x-case",
    b"via",
];

/// Bytes in a line: what is not plain is escaped, what is long is cut.
fn shown(value: &[u8]) -> String {
    let mut text = String::from("'");
    for byte in value.iter().take(SHOWN) {
        match byte {
            b' '..=b'~' if *byte != b'%' && *byte != b'\'' => text.push(*byte as char),
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text.push('\'');
    if value.len() > SHOWN {
        let _ = write!(text, "...{}", value.len());
    }
    text
}

//! What a request showed, without what is each proxy's own affair.

use std::hash::{DefaultHasher, Hash, Hasher};

use lacis_tests::Seen;
use lacis_tests::wire::{Fields, Framing, Response};

/// Fields that every proxy adds in its own way, and that no filter here is about; the beginnings of their names.
/// `server`, `date` and `x-envoy-*` are Envoy's, `proxy-status` (RFC 9209) and `traceparent` are ours; both add
/// `x-request-id` and `x-forwarded-*`, with other values. `x-case` and `x-script` are this suite's own.
const OWN: &[&str] = &[
    "server",
    "date",
    "x-envoy-",
    "proxy-status",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-forwarded-",
    "via",
    "x-case",
    "x-script",
];

/// What a request showed to client, applications and log.
pub(crate) struct Outcome {
    /// To the client; an error if that is no response.
    pub(crate) response: Result<Response, String>,
    /// To the applications, by name.
    pub(crate) seen: Vec<(&'static str, Seen)>,
    /// In the log: plugin, level, message.
    pub(crate) log: Vec<(String, String, String)>,
    /// How it ended.
    pub(crate) end: End,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every context went, and everything begun came to its end.
    Whole,
    /// Not in time.
    Never,
    /// With the proxy.
    Died,
}

impl Outcome {
    /// One line for each thing that is to be the same.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.response {
            Err(_) => lines.push("no whole response".to_owned()),
            Ok(response) => {
                let framing = match response.framing {
                    Framing::Length(_) => "length",
                    Framing::Chunked => "chunked",
                    Framing::Empty => "empty",
                    Framing::Close => "close",
                };
                lines.push(format!("status {} {framing}", response.status()));
                // The application tells there what it saw, which is compared by itself but for the content.
                let echo = response.body.starts_with(b"{\"body\":") && response.body.ends_with(b"}");
                let shown =
                    fields(&response.head.fields).filter(|field| !(echo && field.starts_with("content-length")));
                lines.extend(shown.map(|field| format!("field {field}")));
                let body = match echo {
                    true => response.json()["body"].as_str().unwrap_or_default().to_owned(),
                    false => response.text(),
                };
                lines.push(match body.len() {
                    0..500 => format!("body {body:?}"),
                    length => format!("body of {length}, {:x}", digest(&body)),
                });
                lines.extend(fields(&response.trailers).map(|field| format!("trailer {field}")));
            }
        }
        for (name, seen) in &self.seen {
            let chunked = if seen.chunked { " chunked" } else { "" };
            lines.push(format!("{name}: {} {}{chunked} {} bytes", seen.method, seen.target, seen.length));
            lines.extend(fields(&seen.fields).map(|field| format!("{name}: field {field}")));
            lines.extend(fields(&seen.trailers).map(|field| format!("{name}: trailer {field}")));
        }
        for (plugin, level, message) in &self.log {
            let level = if level == "info" { String::new() } else { format!("{level} ") };
            lines.push(format!("log {plugin}: {level}{message}"));
        }
        match self.end {
            End::Whole => {}
            End::Never => lines.push("never ended".to_owned()),
            End::Died => return vec!["the proxy died".to_owned()],
        }
        lines
    }
}

/// Tells long bodies apart.
fn digest(body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// Fields by name, those of one name in order. Where a field of another name stands means nothing (RFC 9110 section 5.3).
fn fields(fields: &Fields) -> impl Iterator<Item = String> + use<> {
    // That `te` is for the next hop only, ours says beside it (RFC 9110 section 10.1.4).
    let own = |name: &str, value: &str| {
        OWN.iter().any(|prefix| name.starts_with(prefix)) || (name, value) == ("connection", "te")
    };
    let mut fields: Vec<(String, String)> = fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, value)| !own(name, value))
        .collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.into_iter().map(|(name, value)| format!("{name}: {value}"))
}

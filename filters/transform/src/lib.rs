//! Changes headers and JSON bodies of requests and responses.

mod document;
mod operation;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use document::Node;
use lacis_filter_parts::{Source, is_json};
use lacis_sdk::{ConfigError, Filter, Flow, Headers, Reads, Reply, Request, Response};
use operation::{HeaderChange, HeaderEntry, JsonChange, JsonEntry};
use serde::Deserialize;
use template::{Of, Template};

/// The filter's configuration, with `request`, `response` or both.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What changes in requests.
    #[serde(default)]
    request: Changes,
    /// What changes in responses.
    #[serde(default)]
    response: Changes,
    /// What happens to a body that is to be changed and is not JSON.
    #[serde(default)]
    not_json: NotJson,
    /// Most bytes of a body that is changed. A larger request is answered with 413, a larger response with 500. The proxy
    /// has a limit of its own: `limits.buffer`.
    #[serde(default = "default_limit")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1)))]
    limit: usize,
}

/// Changes of one half of an exchange, each in order.
#[derive(Default, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Changes {
    /// Of headers.
    #[serde(default)]
    headers: Vec<HeaderEntry>,
    /// Of a JSON body.
    #[serde(default)]
    json: Vec<JsonEntry>,
}

/// What happens to a body that is to be changed and is not JSON, by its type, its coding or its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum NotJson {
    /// It passes as it is.
    #[default]
    Pass,
    /// It is answered: a request with 415 or 400, a response with 502.
    Refuse,
}

/// To change a body of tiny members costs some 0.02 ms a KiB with three changes, 0.007 with each more, and a callback may take 20 ms
/// (`limits.time`), on slower and busier machines, too: what takes longer ends the virtual machine, for everybody, and callers choose what they send.
const DEFAULT_LIMIT: usize = 256 * 1024;

fn default_limit() -> usize {
    DEFAULT_LIMIT
}

/// The filter.
pub struct Transform {
    request: Half,
    response: Half,
    /// Values of the request that are needed when the response comes.
    needed: Vec<Source>,
    not_json: NotJson,
    limit: usize,
}

struct Half {
    headers: Vec<HeaderChange>,
    json: Vec<JsonChange>,
}

/// Values of the request, kept for its response.
type Kept = BTreeMap<Source, Option<String>>;

/// What no longer says the truth when a body was changed.
const OF_CONTENT: [&str; 5] = ["content-digest", "repr-digest", "digest", "content-md5", "etag"];

impl Filter for Transform {
    type Config = Config;
    const READS: Reads = Reads::BODIES;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { request, response, not_json, limit } = config;
        let (request, response) = (Half::new(request, false)?, Half::new(response, true)?);
        if request.is_empty() && response.is_empty() {
            return Err("it changes nothing; it needs `headers` or `json` in `request` or `response`".into());
        }
        if limit == 0 {
            return Err("`limit` must be at least 1".into());
        }
        let needed: BTreeSet<Source> = response.templates().flat_map(Template::sources).cloned().collect();
        Ok(Self { request, response, needed: needed.into_iter().collect(), not_json, limit })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        if !self.response.is_empty() {
            let kept: Kept = self.needed.iter().map(|source| (source.clone(), source.read(request))).collect();
            request.keep(kept);
        }
        let body = match self.readable(request.headers(), &self.request.json, request.has_body()) {
            Readable::Yes => Some(request.body_up_to(self.limit).await?),
            Readable::No => None,
            Readable::NotJson => return Err(Reply::new(415).body("the body must be JSON\n")),
        };
        let mut changed = None;
        if let Some(body) = &body {
            changed = match change(body, &self.request.json, &|of| of.of_request(request)) {
                Ok(changed) => changed,
                Err(error) if self.not_json == NotJson::Refuse => {
                    return Err(Reply::new(400).body(format!("the body is not JSON: {error}\n")));
                }
                Err(_) => None,
            };
        }
        let values = self.request.values(request);
        let mut made = Ok(());
        for change in &self.request.headers {
            made = made.and_then(|()| change.make(request.headers_mut(), &|headers, of| of.now(headers, &values)));
        }
        // What a caller wrote (into a query, say) was to become a header.
        made.map_err(|error| {
            lacis_sdk::debug!("{error}");
            Reply::new(400).body("a value of the request cannot stand in a header\n")
        })?;
        if let Some(changed) = changed {
            OF_CONTENT.iter().for_each(|name| request.headers_mut().remove(name));
            request.set_body(changed)?;
        }
        Ok(if self.response.is_empty() { Flow::Leave } else { Flow::Continue })
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        // Without them the request never came here: the proxy refused it.
        let values = response.kept::<Kept>().cloned().unwrap_or_default();
        let body = match self.readable(response.headers(), &self.response.json, response.has_body()) {
            Readable::Yes => Some(response.body_up_to(self.limit).await?),
            Readable::No => None,
            Readable::NotJson => return Err(bad_response("its body is not JSON by its type or coding")),
        };
        let mut changed = None;
        if let Some(body) = &body {
            changed = match change(body, &self.response.json, &|of| of.now(response.headers(), &values)) {
                Ok(changed) => changed,
                Err(error) if self.not_json == NotJson::Refuse => return Err(bad_response(&error)),
                Err(_) => None,
            };
        }
        for change in &self.response.headers {
            change.make(response.headers_mut(), &|headers, of| of.now(headers, &values))?;
        }
        if let Some(changed) = changed {
            OF_CONTENT.iter().for_each(|name| response.headers_mut().remove(name));
            response.set_body(changed)?;
        }
        Ok(Flow::Leave)
    }
}

enum Readable {
    Yes,
    /// There is nothing to do.
    No,
    /// There would be, but it is to be refused.
    NotJson,
}

impl Transform {
    fn readable(&self, headers: &Headers, changes: &[JsonChange], has_body: bool) -> Readable {
        if changes.is_empty() || !has_body {
            return Readable::No;
        }
        match (is_json(headers), self.not_json) {
            (true, _) => Readable::Yes,
            (false, NotJson::Pass) => Readable::No,
            (false, NotJson::Refuse) => Readable::NotJson,
        }
    }
}

impl Half {
    fn new(changes: Changes, response: bool) -> Result<Self, String> {
        let half = if response { "response" } else { "request" };
        let Changes { headers, json } = changes;
        let place = |list: &str, index: usize| format!("{half}.{list}[{index}]");
        let headers = headers.into_iter().enumerate().map(|(index, entry)| {
            HeaderChange::new(entry, response).map_err(|error| format!("{}: {error}", place("headers", index)))
        });
        let json = json.into_iter().enumerate().map(|(index, entry)| {
            JsonChange::new(entry, response).map_err(|error| format!("{}: {error}", place("json", index)))
        });
        Ok(Self { headers: headers.collect::<Result<_, _>>()?, json: json.collect::<Result<_, _>>()? })
    }

    fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.json.is_empty()
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let headers = self.headers.iter().flat_map(HeaderChange::templates);
        headers.chain(self.json.iter().flat_map(JsonChange::templates))
    }

    /// The values that changes of headers need and that are not headers themselves: those may change meanwhile.
    fn values(&self, request: &Request) -> Kept {
        let sources = self.headers.iter().flat_map(HeaderChange::templates).flat_map(Template::sources);
        let fixed = sources.filter(|source| !matches!(source, Source::Header(_)));
        fixed.map(|source| (source.clone(), source.read(request))).collect()
    }
}

impl Of {
    fn of_request(&self, request: &Request) -> Option<String> {
        match self {
            Of::Request(source) => source.read(request),
            Of::ResponseHeader(_) | Of::Status => None,
        }
    }

    /// With the headers as they are now, and what was known before.
    fn now(&self, headers: &Headers, values: &Kept) -> Option<String> {
        let header = |name: &str| headers.get(name).map(|value| value.to_text().into_owned());
        match self {
            Of::Request(source) => match (values.get(source), source) {
                (Some(value), _) => value.clone(),
                (None, Source::Header(name)) => header(name),
                (None, _) => None,
            },
            Of::ResponseHeader(name) => header(name),
            Of::Status => header(":status"),
        }
    }
}

/// The body with its changes; none if there are none.
fn change(body: &[u8], changes: &[JsonChange], look: &dyn Fn(&Of) -> Option<String>) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let mut document = Node::new(text).map_err(|error| error.to_string())?;
    let changed = changes.iter().fold(false, |changed, change| change.make(&mut document, look) | changed);
    Ok(changed.then(|| {
        let mut out = String::with_capacity(text.len());
        document.write(&mut out);
        out
    }))
}

fn bad_response(why: &str) -> Reply {
    lacis_sdk::warn!("a response cannot be changed: {why}");
    Reply::new(502)
}

lacis_sdk::filter!(Transform);

#[cfg(test)]
mod tests;

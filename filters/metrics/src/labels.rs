//! A label: where its value comes from, and which values it may have.

use std::collections::BTreeMap;

use lacis_filter_parts::{Paths, Source};
use lacis_sdk::{End, is_header_name};
use serde::Deserialize;

/// A longer value is cut here: metrics are kept for ever. A SPIFFE identity is rarely longer.
const MAX_VALUE_BYTES: usize = 128;

/// The value beyond the bound.
pub(crate) const OTHER: &str = "other";
/// The value of a request that has none.
pub(crate) const NONE: &str = "none";

/// A label as it is configured, with exactly one of `from`, `paths` and `response`.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The label's name.
    name: String,
    /// A value of the request.
    from: Option<Source>,
    /// Patterns of paths, of which the first that matches is the value: `/users/{id}`, `/static/**`.
    paths: Option<Vec<String>>,
    /// A value of the response.
    response: Option<OfResponse>,
    /// The only values that are told apart; empty: those that come first.
    #[serde(default)]
    values: Vec<String>,
    /// How many values are told apart where `values` does not list them.
    #[serde(default = "default_limit")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1, max = 1000)))]
    limit: usize,
}

/// As many values as a chart of them can show.
const DEFAULT_LIMIT: usize = 32;
/// Above this a scrape of the metrics is mostly this filter's.
const MAX_LIMIT: usize = 1000;

fn default_limit() -> usize {
    DEFAULT_LIMIT
}

/// A value of a response.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum OfResponse {
    /// The status, `0` if nothing was sent.
    Status,
    /// `2xx` and the like.
    Class,
    /// The gRPC status, of a gRPC response.
    Grpc,
    /// Why the proxy answered itself or cut it short: Envoy's flags of a response, `-` for none.
    Flags,
    /// The first value of a header.
    Header(String),
}

/// A label.
pub(crate) struct Label {
    pub(crate) name: String,
    value: Value,
    known: Values,
}

enum Value {
    Source(Source),
    Paths(Paths),
    Response(OfResponse),
}

impl Label {
    pub(crate) fn new(entry: Entry) -> Result<Self, String> {
        let Entry { name, from, paths, response, values, limit } = entry;
        if !is_label(&name) {
            return Err(format!(
                "{name:?} is no name of a label: letters, digits and _, no digit first, not `filter`, not `le`"
            ));
        }
        let value = match (from, paths, response) {
            (Some(source), None, None) => {
                source.check()?;
                Value::Source(source)
            }
            (None, Some(paths), None) if !paths.is_empty() => Value::Paths(Paths::new(&paths)?),
            (None, None, Some(OfResponse::Header(name))) if !is_header_name(&name) => {
                return Err(format!("{name:?} is no name of a header"));
            }
            (None, None, Some(response)) => Value::Response(response),
            _ => return Err(format!("label {name:?} needs exactly one of `from`, `paths` (not empty) and `response`")),
        };
        if limit == 0 || limit > MAX_LIMIT || values.len() > MAX_LIMIT {
            return Err(format!("`limit` must be 1 to {MAX_LIMIT}, and `values` at most as many"));
        }
        // Patterns are a list already.
        let known = if matches!(value, Value::Paths(_)) {
            Values::first(usize::MAX)
        } else if values.is_empty() {
            Values::first(limit)
        } else {
            Values::listed(&values)
        };
        Ok(Self { name, value, known })
    }

    /// The number of the value that an exchange has.
    pub(crate) fn index(&mut self, end: &End) -> u32 {
        let value = match &self.value {
            Value::Source(source) => source.read_from(end.request_headers(), end.attributes()),
            Value::Paths(paths) => {
                let path = Source::Path.read_from(end.request_headers(), end.attributes());
                match path.and_then(|path| paths.find(&path)).and_then(|index| paths.text(index)) {
                    Some(pattern) => Some(pattern.to_owned()),
                    None => return Values::OTHER,
                }
            }
            Value::Response(response) => response.read(end),
        };
        self.known.index(value.as_deref())
    }

    /// The value of a number.
    pub(crate) fn value(&self, index: u32) -> &str {
        self.known.value(index)
    }
}

/// As Prometheus allows it; two are Lacis's own.
fn is_label(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !matches!(name, "" | "filter" | "le")
        && name.bytes().all(word)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

impl OfResponse {
    pub(crate) fn read(&self, end: &End) -> Option<String> {
        match self {
            OfResponse::Status => Some(end.status().to_string()),
            OfResponse::Class => match end.status() {
                0 => None,
                status => Some(format!("{}xx", status / 100)),
            },
            OfResponse::Grpc => grpc_status(end),
            OfResponse::Flags => Some(flags(end)),
            OfResponse::Header(name) => end.response_headers().get(name).map(|value| value.to_text().into_owned()),
        }
    }
}

/// Whether the request is gRPC's.
pub(crate) fn is_grpc(end: &End) -> bool {
    let kind = end.request_headers().get("content-type");
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

pub(crate) fn grpc_status(end: &End) -> Option<String> {
    let status = is_grpc(end).then(|| end.attributes().integer(&["response", "grpc_status"])).flatten();
    status.map(|status| status.to_string())
}

/// Envoy's flags of a response by their bits (`response_flag.h`).
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
    "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

pub(crate) fn flags(end: &End) -> String {
    let bits = end.attributes().integer(&["response", "flags"]).unwrap_or(0);
    flag_names(bits)
}

fn flag_names(bits: i64) -> String {
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name);
    let names = set.collect::<Vec<_>>().join(",");
    if names.is_empty() { "-".to_owned() } else { names }
}

/// Gives each value a small number. The set grows up to its bound and never shrinks.
pub(crate) struct Values {
    texts: Vec<String>,
    indices: BTreeMap<String, u32>,
    room: usize,
}

impl Values {
    /// The number of an exchange that has no value.
    const NONE: u32 = 0;
    /// The number of all values beyond the bound.
    pub(crate) const OTHER: u32 = 1;

    /// The values that come first, up to a number of them, are told apart.
    pub(crate) fn first(limit: usize) -> Self {
        let mut values = Self { texts: Vec::new(), indices: BTreeMap::new(), room: limit.saturating_add(2) };
        // A caller who sends "none" or "other" is counted with these.
        values.add(NONE.to_owned());
        values.add(OTHER.to_owned());
        values
    }

    /// Only these values are told apart.
    fn listed(list: &[String]) -> Self {
        let mut values = Self::first(list.len());
        for value in list {
            values.index(Some(value));
        }
        values.room = 0;
        values
    }

    /// The number of a value.
    pub(crate) fn index(&mut self, value: Option<&str>) -> u32 {
        let Some(value) = value else { return Self::NONE };
        let text = clean(value);
        match self.indices.get(&text) {
            Some(&index) => index,
            None if self.texts.len() < self.room => self.add(text),
            None => Self::OTHER,
        }
    }

    /// The text of a number.
    pub(crate) fn value(&self, index: u32) -> &str {
        self.texts.get(index as usize).map_or(OTHER, String::as_str)
    }

    fn add(&mut self, text: String) -> u32 {
        let index = u32::try_from(self.texts.len()).unwrap_or(Self::OTHER);
        self.texts.push(text.clone());
        self.indices.insert(text, index);
        index
    }
}

/// A value as it may stand in the name of a metric: `;` ends it there, and what is not plain text is no use in a label.
fn clean(text: &str) -> String {
    let plain = |c: char| if (c == ' ' || c.is_ascii_graphic()) && !matches!(c, ';' | '"' | '\\') { c } else { '_' };
    text.chars().take(MAX_VALUE_BYTES).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded_and_stable() {
        let mut values = Values::first(2);
        let all: Vec<_> =
            [Some("a"), Some("b;c"), Some("d"), Some("a"), Some("b\"c"), None, Some("none"), Some("other")]
                .map(|value| values.index(value))
                .to_vec();
        assert_eq!(all, [2, 3, Values::OTHER, 2, 3, Values::NONE, Values::NONE, Values::OTHER]);
        assert_eq!([values.value(2), values.value(3), values.value(Values::OTHER)], ["a", "b_c", "other"]);
    }

    #[test]
    fn values_are_cut_and_cleaned() {
        assert_eq!(clean("spiffe://a/b?c=d é\n;.;"), "spiffe://a/b?c=d ___._");
        assert_eq!(clean(&"x".repeat(MAX_VALUE_BYTES)).len(), MAX_VALUE_BYTES);
        assert_eq!(clean(&"é".repeat(MAX_VALUE_BYTES + 1)).len(), MAX_VALUE_BYTES);
    }

    #[test]
    fn flags_are_told_by_name() {
        for (bits, names) in [(0, "-"), (0x2, "UH"), (0x4000, "DC"), (0x20 | 0x8000, "UF,URX"), (0x2000_0000, "UDO")] {
            assert_eq!(flag_names(bits), names);
        }
    }
}

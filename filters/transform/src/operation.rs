//! One change of headers, or of a JSON body.

use lacis_sdk::{Headers, InvalidHeader, is_header_name};
use serde::Deserialize;
use serde_json::Value;

use crate::document::{Node, Pointer};
use crate::template::{Json, Of, Template};

/// A change of headers, with exactly one of `set`, `add`, `remove`, `rename` and `copy`.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderEntry {
    /// The header that gets `value`, in place of what it has. `:path`, `:authority`, `:method` or `:status`, too.
    set: Option<String>,
    /// The header that gets `value`, besides what it has.
    add: Option<String>,
    /// The header that goes.
    remove: Option<String>,
    /// The header that is called `to` from now on.
    rename: Option<String>,
    /// The header whose values `to` gets, too.
    copy: Option<String>,
    /// A text with values in it: `${header:NAME}`, `${identity|nobody}`; see the README.
    value: Option<String>,
    /// The other header of `rename` and `copy`, which loses what it has.
    to: Option<String>,
}

/// A change of a JSON body, with exactly one of `set`, `remove` and `rename`: JSON Pointers (RFC 6901).
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct JsonEntry {
    /// Where `value` is put; objects on the way there are made.
    set: Option<String>,
    /// What goes.
    remove: Option<String>,
    /// What is at `to` from now on.
    rename: Option<String>,
    /// Any JSON; texts in it may have values in them, as those of headers.
    #[serde(default, deserialize_with = "some")]
    value: Option<Value>,
    /// The other place of `rename`.
    to: Option<String>,
}

/// `value: null` is a value.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A change of headers.
#[derive(Debug)]
pub(crate) enum HeaderChange {
    Set(String, Template),
    Add(String, Template),
    Remove(String),
    /// Whether the first one goes.
    Move(String, String, bool),
}

/// A change of a JSON body.
#[derive(Debug)]
pub(crate) enum JsonChange {
    Set(Pointer, Json),
    Remove(Pointer),
    Rename(Pointer, Pointer),
}

impl HeaderChange {
    pub(crate) fn new(entry: HeaderEntry, response: bool) -> Result<Self, String> {
        let HeaderEntry { set, add, remove, rename, copy, value, to } = entry;
        let pseudo: &[&str] = if response { &[":status"] } else { &[":path", ":authority", ":method"] };
        let name = |name: String| {
            if is_header_name(&name) { Ok(name) } else { Err(format!("{name:?} is no name of a header")) }
        };
        let template = |value: String| Template::new(&value, response);
        match (set, add, remove, rename, copy, value, to) {
            (Some(set), None, None, None, None, Some(value), None) if pseudo.contains(&set.as_str()) => {
                Ok(Self::Set(set, template(value)?))
            }
            (Some(set), None, None, None, None, Some(value), None) => Ok(Self::Set(name(set)?, template(value)?)),
            (None, Some(add), None, None, None, Some(value), None) => Ok(Self::Add(name(add)?, template(value)?)),
            (None, None, Some(remove), None, None, None, None) => Ok(Self::Remove(name(remove)?)),
            (None, None, None, Some(from), None, None, Some(to)) => Ok(Self::Move(name(from)?, name(to)?, true)),
            (None, None, None, None, Some(from), None, Some(to)) => Ok(Self::Move(name(from)?, name(to)?, false)),
            _ => Err("write {set: NAME, value: TEXT}, {add: NAME, value: TEXT}, {remove: NAME}, {rename: NAME, to: NAME} or \
                      {copy: NAME, to: NAME}"
                .to_owned()),
        }
    }

    /// Makes it. One whose values are not there does nothing.
    pub(crate) fn make(
        &self,
        headers: &mut Headers,
        look: &dyn Fn(&Headers, &Of) -> Option<String>,
    ) -> Result<(), InvalidHeader> {
        let fill = |headers: &Headers, template: &Template| template.fill(&|of| look(headers, of));
        match self {
            Self::Set(name, template) => match fill(headers, template) {
                Some(value) => headers.set(name, value),
                None => Ok(()),
            },
            Self::Add(name, template) => match fill(headers, template) {
                Some(value) => headers.append(name, value),
                None => Ok(()),
            },
            Self::Remove(name) => {
                headers.remove(name);
                Ok(())
            }
            Self::Move(from, to, gone) => {
                if from.eq_ignore_ascii_case(to) || !headers.contains(from) {
                    return Ok(());
                }
                let all = headers.all();
                headers.remove(to);
                for (_, value) in all.iter().filter(|(name, _)| name.eq_ignore_ascii_case(from)) {
                    headers.append(to, value)?;
                }
                if *gone {
                    headers.remove(from);
                }
                Ok(())
            }
        }
    }

    pub(crate) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Set(_, template) | Self::Add(_, template) => vec![template],
            Self::Remove(_) | Self::Move(..) => Vec::new(),
        }
    }
}

impl JsonChange {
    pub(crate) fn new(entry: JsonEntry, response: bool) -> Result<Self, String> {
        let JsonEntry { set, remove, rename, value, to } = entry;
        let part = |text: &str| {
            let pointer = Pointer::new(text)?;
            if pointer.is_root() { Err("the whole document can only be `set`".to_owned()) } else { Ok(pointer) }
        };
        match (set, remove, rename, value, to) {
            (Some(set), None, None, Some(value), None) => {
                Ok(Self::Set(Pointer::new(&set)?, Json::new(value, response)?))
            }
            (None, Some(remove), None, None, None) => Ok(Self::Remove(part(&remove)?)),
            (None, None, Some(from), None, Some(to)) => Ok(Self::Rename(part(&from)?, part(&to)?)),
            _ => {
                Err("write {set: POINTER, value: JSON}, {remove: POINTER} or {rename: POINTER, to: POINTER}".to_owned())
            }
        }
    }

    /// Makes it; false if nothing changed.
    pub(crate) fn make(&self, document: &mut Node<'_>, look: &dyn Fn(&Of) -> Option<String>) -> bool {
        match self {
            Self::Set(pointer, json) => json.fill(look).is_some_and(|value| document.put(pointer, Node::New(value))),
            Self::Remove(pointer) => document.take(pointer).is_some(),
            Self::Rename(from, to) => {
                let Some(value) = document.take(from) else { return false };
                // What has no place there is gone: it was not to stay where it was.
                let _ = document.put(to, value);
                true
            }
        }
    }

    pub(crate) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Set(_, json) => json.templates(),
            Self::Remove(_) | Self::Rename(..) => Vec::new(),
        }
    }
}

//! Texts with values of the request and the response in them: `Bearer ${cookie:token}`, `${header:x-user|nobody}`.

use lacis_filter_parts::Source;
use lacis_sdk::is_header_name;
use serde_json::Value;

/// A text with values in it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Value { of: Of, otherwise: Option<String> },
}

/// What a value is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Request(Source),
    /// The first value of a header of the response.
    ResponseHeader(String),
    Status,
}

impl Template {
    /// Reads a text. `$$` is a dollar. `response` says whether there is a response by then.
    pub(crate) fn new(text: &str, response: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let inside = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            let Some((inside, after)) = inside else {
                return Err(format!("{text:?}: write ${{header:NAME}} for a value, and $$ for a dollar"));
            };
            let (of, otherwise) = match inside.split_once('|') {
                Some((of, otherwise)) => (of, Some(otherwise.to_owned())),
                None => (inside, None),
            };
            parts.push(Part::Text(std::mem::take(&mut literal)));
            parts.push(Part::Value { of: Of::new(of, response)?, otherwise });
            rest = after;
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        Ok(Self { parts })
    }

    /// The text; absent if a value is, for which the template has nothing else.
    pub(crate) fn fill(&self, look: &dyn Fn(&Of) -> Option<String>) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value { of, otherwise } => text.push_str(&look(of).or_else(|| otherwise.clone())?),
            }
        }
        Some(text)
    }

    /// The values of the request that are in it.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value { of: Of::Request(source), .. } => Some(source),
            _ => None,
        })
    }
}

impl Of {
    fn new(text: &str, response: bool) -> Result<Self, String> {
        match (text, text.strip_prefix("response:")) {
            ("status", _) | (_, Some(_)) if !response => {
                Err(format!("${{{text}}} is of the response, which is not there when the request passes"))
            }
            ("status", _) => Ok(Of::Status),
            (_, Some(name)) if is_header_name(name) => Ok(Of::ResponseHeader(name.to_owned())),
            (_, Some(name)) => Err(format!("{name:?} is no name of a header")),
            _ => text.parse().map(Of::Request).map_err(|error: String| {
                if response { format!("{error}; and of the response: status, response:NAME") } else { error }
            }),
        }
    }
}

/// JSON whose texts are templates.
#[derive(Clone, Debug)]
pub(crate) enum Json {
    Plain(Value),
    Text(Template),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn new(value: Value, response: bool) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::new(&text, response)?),
            Value::Array(items) => {
                Self::Array(items.into_iter().map(|item| Self::new(item, response)).collect::<Result<_, _>>()?)
            }
            Value::Object(members) => {
                let member = |(name, value)| Ok::<_, String>((name, Self::new(value, response)?));
                Self::Object(members.into_iter().map(member).collect::<Result<_, _>>()?)
            }
            plain => Self::Plain(plain),
        })
    }

    /// The value; absent if a value of a template is.
    pub(crate) fn fill(&self, look: &dyn Fn(&Of) -> Option<String>) -> Option<Value> {
        Some(match self {
            Self::Plain(value) => value.clone(),
            Self::Text(template) => Value::String(template.fill(look)?),
            Self::Array(items) => Value::Array(items.iter().map(|item| item.fill(look)).collect::<Option<_>>()?),
            Self::Object(members) => {
                let member = |(name, value): &(String, Self)| Some((name.clone(), value.fill(look)?));
                Value::Object(members.iter().map(member).collect::<Option<_>>()?)
            }
        })
    }

    /// Every template in it.
    pub(crate) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Text(template) => vec![template],
            Self::Array(items) => items.iter().flat_map(Self::templates).collect(),
            Self::Object(members) => members.iter().flat_map(|(_, value)| value.templates()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Option<String> {
        Template::new(text, true).unwrap().fill(&|of| match of {
            Of::Request(Source::Identity) => Some("ada".to_owned()),
            Of::Status => Some("200".to_owned()),
            Of::ResponseHeader(name) => Some(format!("<{name}>")),
            Of::Request(_) => None,
        })
    }

    #[test]
    fn values_are_filled_in() {
        for (text, filled) in [
            ("", Some("")),
            ("plain } text", Some("plain } text")),
            ("$$5 for ${identity}, ${status}", Some("$5 for ada, 200")),
            ("${response:etag}", Some("<etag>")),
            ("a${path}b", None),
            ("a${path|}b${host|x y}", Some("abx y")),
        ] {
            assert_eq!(fill(text).as_deref(), filled, "{text}");
        }
        let json = Json::new(serde_json::json!({"a": ["${identity}", 1], "b": {"c": null}}), true).unwrap();
        let filled = json.fill(&|_| Some("x".to_owned()));
        assert_eq!(filled, Some(serde_json::json!({"a": ["x", 1], "b": {"c": null}})));
        assert_eq!(json.fill(&|_| None), None);
        assert_eq!(json.templates().len(), 1);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, response, why) in [
            ("${path", true, "$$ for a dollar"),
            ("$path", true, "$$ for a dollar"),
            ("${nothing}", false, "there are header:NAME"),
            ("${nothing}", true, "and of the response: status"),
            ("${status}", false, "not there when the request passes"),
            ("${response:a}", false, "not there when the request passes"),
            ("${response:a b}", true, "no name of a header"),
        ] {
            let error = Template::new(text, response).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

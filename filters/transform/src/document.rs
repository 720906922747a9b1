//! A JSON document that is changed in places, and stays as it was written everywhere else: numbers keep their digits,
//! members their order.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

/// A place in a document (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no JSON Pointer; write one like /user/name (RFC 6901)");
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new() });
        }
        let rest = text.strip_prefix('/').ok_or_else(wrong)?;
        let token = |token: &str| {
            let stray = token.replace("~0", "").replace("~1", "").contains('~');
            if stray { Err(wrong()) } else { Ok(token.replace("~1", "/").replace("~0", "~")) }
        };
        Ok(Self { tokens: rest.split('/').map(token).collect::<Result<_, _>>()? })
    }

    /// Whether it is the document itself.
    pub(crate) fn is_root(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// A document, or a part of it. What nobody has looked into is a piece of the text, which is JSON without space around it.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Text(&'a str),
    New(Value),
    Array(Vec<Node<'a>>),
    Object(Vec<(Name<'a>, Node<'a>)>),
}

/// The name of a member: a piece of the text, if no escape is in it.
type Name<'a> = Cow<'a, str>;

impl<'a> Node<'a> {
    /// Reads a document; the error says where it is none.
    pub(crate) fn new(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<&RawValue>(text).map(|document| Node::Text(document.get()))
    }

    /// Puts a value at a place; objects on the way there are made. At an array's end, or at `-`, it is added.
    /// False if there is something else on the way.
    pub(crate) fn put(&mut self, pointer: &Pointer, value: Node<'a>) -> bool {
        let Some((last, parents)) = pointer.tokens.split_last() else {
            *self = value;
            return true;
        };
        match self.descend(parents, true) {
            Some(Node::Object(members)) => {
                match members.iter().position(|(name, _)| name == last) {
                    Some(index) => {
                        members[index].1 = value;
                        // Readers do not agree on which of two members of one name counts.
                        let mut place = 0;
                        members.retain(|(name, _)| {
                            place += 1;
                            name != last || place == index + 1
                        });
                    }
                    None => members.push((last.clone().into(), value)),
                }
                true
            }
            Some(Node::Array(items)) => {
                let place = if last == "-" { Some(items.len()) } else { index(last) };
                match place {
                    Some(place) if place < items.len() => items[place] = value,
                    Some(place) if place == items.len() => items.push(value),
                    _ => return false,
                }
                true
            }
            _ => false,
        }
    }

    /// Takes a value out of its place, with every member of its name. Absent if there is none.
    pub(crate) fn take(&mut self, pointer: &Pointer) -> Option<Node<'a>> {
        let (last, parents) = pointer.tokens.split_last()?;
        match self.descend(parents, false)? {
            // In one go, however many there are of the name.
            Node::Object(members) => members.extract_if(.., |(name, _)| name == last).last().map(|(_, value)| value),
            Node::Array(items) => index(last).filter(|place| *place < items.len()).map(|place| items.remove(place)),
            _ => None,
        }
    }

    /// The text of it.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Node::Text(text) => out.push_str(text),
            Node::New(value) => out.push_str(&value.to_string()),
            Node::Array(items) => {
                out.push('[');
                for (place, item) in items.iter().enumerate() {
                    out.push_str(if place == 0 { "" } else { "," });
                    item.write(out);
                }
                out.push(']');
            }
            Node::Object(members) => {
                out.push('{');
                for (place, (name, value)) in members.iter().enumerate() {
                    out.push_str(if place == 0 { "" } else { "," });
                    match name {
                        // As it was written.
                        Cow::Borrowed(name) => out.extend(["\"", *name, "\""]),
                        Cow::Owned(name) => out.push_str(&Value::from(name.as_str()).to_string()),
                    }
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn descend(&mut self, tokens: &[String], make: bool) -> Option<&mut Node<'a>> {
        let mut node = self;
        node.expand();
        for token in tokens {
            node = match node {
                Node::Object(members) => {
                    // Of several of one name the last one counts, as for most readers.
                    let place = match members.iter().rposition(|(name, _)| name == token) {
                        Some(place) => place,
                        None if make => {
                            members.push((token.clone().into(), Node::Object(Vec::new())));
                            members.len() - 1
                        }
                        None => return None,
                    };
                    &mut members.get_mut(place)?.1
                }
                Node::Array(items) => items.get_mut(index(token)?)?,
                Node::Text(_) | Node::New(_) => return None,
            };
            node.expand();
        }
        Some(node)
    }

    /// Looks one level into an array or an object.
    fn expand(&mut self) {
        let expanded = match self {
            Node::Text(text) => match text.as_bytes().first() {
                Some(b'{') => Scan::inside(text).members().map(Node::Object),
                Some(b'[') => Some(Node::Array(Scan::inside(text).items())),
                _ => None,
            },
            Node::New(Value::Object(members)) => {
                let members = std::mem::take(members).into_iter();
                Some(Node::Object(members.map(|(name, value)| (name.into(), Node::New(value))).collect()))
            }
            Node::New(Value::Array(items)) => {
                Some(Node::Array(std::mem::take(items).into_iter().map(Node::New).collect()))
            }
            _ => None,
        };
        if let Some(expanded) = expanded {
            *self = expanded;
        }
    }
}

/// An index of an array as RFC 6901 writes it: no sign, no zero in front.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    token.parse().ok().filter(|_| plain)
}

/// Finds the parts of an array or an object whose text is known to be JSON. To parse each of them once more takes many times as long, and
/// callers choose how many there are.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// Behind the bracket that it begins with.
    fn inside(text: &'a str) -> Self {
        Scan { text, at: 1 }
    }

    /// The members in their order, those of one name included. None if one has a name that is no text (half of a surrogate pair).
    fn members(mut self) -> Option<Vec<(Name<'a>, Node<'a>)>> {
        let mut members = Vec::new();
        while let Some(name) = self.part() {
            let name = match name.get(1..name.len() - 1)? {
                plain if !plain.contains('\\') => Cow::Borrowed(plain),
                _ => Cow::Owned(serde_json::from_str(name).ok()?),
            };
            members.push((name, Node::Text(self.part()?)));
        }
        Some(members)
    }

    fn items(mut self) -> Vec<Node<'a>> {
        std::iter::from_fn(|| self.part()).map(Node::Text).collect()
    }

    /// The next name or value, if there is one more.
    fn part(&mut self) -> Option<&'a str> {
        while matches!(self.byte()?, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
            self.at += 1;
        }
        let start = self.at;
        match self.byte()? {
            b'"' => self.pass_string(),
            b'{' | b'[' => self.pass_nested(),
            b'}' | b']' => return None,
            _ => {
                while !matches!(self.byte()?, b' ' | b'\t' | b'\r' | b'\n' | b',' | b'}' | b']') {
                    self.at += 1;
                }
            }
        }
        self.text.get(start..self.at)
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn pass_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.byte() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
    }

    fn pass_nested(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    self.pass_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::new(text).unwrap()
    }

    fn edit(text: &str, act: impl FnOnce(&mut Node<'_>) -> bool) -> Option<String> {
        let mut node = Node::new(text).unwrap();
        let changed = act(&mut node);
        let mut out = String::new();
        node.write(&mut out);
        changed.then_some(out)
    }

    #[test]
    fn values_are_put_in_their_places() {
        let put = |text: &str, at: &str| edit(text, |node| node.put(&pointer(at), Node::New(Value::from(1))));
        for (text, at, expected) in [
            (r#"{"a": 0}"#, "/a", Some(r#"{"a":1}"#)),
            (
                r#"{"z": 1.10, "a": {"y": 12345678901234567890123}}"#,
                "/a/b/c",
                Some(r#"{"z":1.10,"a":{"y":12345678901234567890123,"b":{"c":1}}}"#),
            ),
            (r#"{"a": 2, "b": 3, "a": 4}"#, "/a", Some(r#"{"a":1,"b":3}"#)),
            (r#"{"a/~\u00e9": [0, {"b": 0}]}"#, "/a~1~0é/1/b", Some(r#"{"a/~é":[0,{"b":1}]}"#)),
            ("[0]", "/-", Some("[0,1]")),
            ("[0]", "/1", Some("[0,1]")),
            ("[0]", "/0", Some("[1]")),
            ("[0]", "/2", None),
            ("[0]", "/00", None),
            ("[0]", "/+0", None),
            (r#"{"a": "text"}"#, "/a/b", None),
            (r#"{"a": "text"}"#, "", Some("1")),
            ("null", "/a", None),
        ] {
            assert_eq!(put(text, at).as_deref(), expected, "{text} {at}");
        }
    }

    #[test]
    fn values_are_taken_out() {
        let take = |text: &str, at: &str| edit(text, |node| node.take(&pointer(at)).is_some());
        for (text, at, expected) in [
            (r#"{"a": 0, "b" : 1e2}"#, "/a", Some(r#"{"b":1e2}"#)),
            (r#"{"a": 0, "b": 1, "a": 2}"#, "/a", Some(r#"{"b":1}"#)),
            (r#"{"a": [0, 1]}"#, "/a/0", Some(r#"{"a":[1]}"#)),
            (r#"{"a": [0, 1]}"#, "/a/2", None),
            (r#"{"a": [0, 1]}"#, "/b", None),
            (r#"{"a": [0, 1]}"#, "/b/c", None),
            (r#"{"": {"": 1}}"#, "//", Some(r#"{"":{}}"#)),
            (r#"{"a": 0, "\u0061": 1, "b\"\u0041": 2}"#, "/a", Some(r#"{"b\"A":2}"#)),
        ] {
            assert_eq!(take(text, at).as_deref(), expected, "{text} {at}");
        }
    }

    #[test]
    fn parts_are_found_whatever_is_around_and_in_them() {
        let spaced = " {\n\t\"a\" : [ 1 , \"]}\\\"\\\\\" , {\"x\":{}} , -1.5e3 , [ ] , null ] , \"}\\\\\":\r\n true , \"b\":{ } } ";
        let take = |at: &str| edit(spaced, |node| node.take(&pointer(at)).is_some());
        let rest = r#"{"a":[ 1 , "]}\"\\" , {"x":{}} , -1.5e3 , [ ] , null ],"}\\":true}"#;
        assert_eq!(take("/b").as_deref(), Some(rest));
        for (at, left) in [
            ("/a/0", r#"["]}\"\\",{"x":{}},-1.5e3,[ ],null]"#),
            ("/a/1", r#"[1,{"x":{}},-1.5e3,[ ],null]"#),
            ("/a/2/x", r#"[1,"]}\"\\",{},-1.5e3,[ ],null]"#),
            ("/a/3", r#"[1,"]}\"\\",{"x":{}},[ ],null]"#),
            ("/a/4", r#"[1,"]}\"\\",{"x":{}},-1.5e3,null]"#),
            ("/a/5", r#"[1,"]}\"\\",{"x":{}},-1.5e3,[ ]]"#),
        ] {
            let text = take(at).unwrap();
            assert!(text.starts_with(&format!("{{\"a\":{left},")), "{at}: {text}");
        }
        let lone = r#"{"a": 1, "\ud800": 2}"#;
        assert_eq!(edit(lone, |node| node.take(&pointer("/a")).is_some()), None, "a name that is no text");
        for (empty, made) in [("{ }", r#"{"a":1}"#), ("{}", r#"{"a":1}"#)] {
            assert_eq!(edit(empty, |node| node.put(&pointer("/a"), Node::New(Value::from(1)))).as_deref(), Some(made));
        }
        assert_eq!(edit("[ ]", |node| node.put(&pointer("/0"), Node::New(Value::from(1)))).as_deref(), Some("[1]"));
    }

    #[test]
    fn what_was_put_can_be_looked_into() {
        let text = edit("{}", |node| {
            node.put(&pointer("/a"), Node::New(serde_json::json!({"b": [1]})));
            node.put(&pointer("/a/b/0"), Node::New(Value::Null)) && node.take(&pointer("/x")).is_none()
        });
        assert_eq!(text.as_deref(), Some(r#"{"a":{"b":[null]}}"#));
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            edit(&format!(r#"{{"a":1,"b":{deep}}}"#), |node| node.take(&pointer("/a")).is_some()).unwrap().len(),
            200_006
        );
    }

    /// In time that grows with their number, not with its square: this is over before one notices.
    #[test]
    fn many_members_of_one_name_are_no_danger() {
        let many = format!("{{{}\"b\":1}}", "\"a\":1,".repeat(500_000));
        let take = |text: &str| edit(text, |node| node.take(&pointer("/a")).is_some());
        assert_eq!(take(&many).as_deref(), Some(r#"{"b":1}"#));
    }

    #[test]
    fn pointers_are_checked() {
        for text in ["a", "a/b", "/~", "/~2", "/a~"] {
            assert!(Pointer::new(text).unwrap_err().contains("like /user/name"), "{text}");
        }
        assert_eq!(pointer("/a~01b").tokens, ["a~1b"]);
    }
}

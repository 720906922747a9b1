//! YAML text as a tree that remembers where everything stood.
//!
//! Scalars stay text until their reader says what they should be, so nothing is lost by guessing (a hash of digits
//! only, a version `1.10`). Aliases share the node they name: they cost nothing here, and what reading them costs is
//! counted against [`MAX_NODES`] and [`MAX_DEPTH`].

use std::collections::HashMap;

use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, options};

/// What is said of a file without content.
pub(super) const EMPTY: &str = "the file is empty";

/// Largest configuration file in bytes: some 20,000 services, and no memory worth naming.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Deepest nesting of maps and lists, aliases followed: our own keys need 7, a filter's configuration gets the rest;
/// low enough that recursive readers need no care about the stack.
pub const MAX_DEPTH: usize = 32;

/// Most values in a file, aliases followed: bounds the work of reading it, whatever aliases multiply.
pub const MAX_NODES: usize = 500_000;

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Line, from 1.
    pub(super) line: usize,
    /// Column in characters, from 1.
    pub(super) column: usize,
}

/// Which node of a [`Document`].
pub(super) type Id = u32;

/// A document; its root is node 0.
#[derive(Debug)]
pub(super) struct Document {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    place: Place,
    value: Value,
    /// The list or map that it stands in (not those that name it by an alias), and its position there.
    parent: Option<(Id, u32)>,
    /// Nodes in it, itself included, aliases followed.
    size: usize,
    /// Levels in it, itself included, aliases followed.
    height: usize,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    /// A text; `plain`: without quotes, so that it may mean a number, a boolean or nothing.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Id>),
    /// A map, in the order of the text. Keys may repeat; whoever reads it reports that.
    Map(Vec<Entry>),
}

/// A key of a map.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Id,
}

impl Document {
    /// Reads one document.
    ///
    /// # Errors
    /// Where the text stops being YAML that we accept, and why.
    pub(super) fn parse(text: &str) -> Result<Document, (Place, String)> {
        if text.len() > MAX_FILE_BYTES {
            return Err((START, format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20)));
        }
        let options =
            options! { flow_nesting_limit: MAX_DEPTH + 1, block_nesting_limit: MAX_DEPTH + 1, emit_comments: false };
        let mut builder = Builder::default();
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| {
                let right = right(error.kind()).map_or_else(String::new, |right| format!("; {right}"));
                (place(error.marker()), format!("{}{right}", error.info()))
            })?;
            let at = place(&span.start);
            builder.event(event, at).map_err(|message| (at, message))?;
        }
        if builder.nodes.is_empty() {
            return Err((START, EMPTY.into()));
        }
        Ok(Document { nodes: builder.nodes })
    }

    /// What a node is.
    pub(super) fn value(&self, node: Id) -> &Value {
        &self.nodes[node as usize].value
    }

    /// Where it begins.
    pub(super) fn place(&self, node: Id) -> Place {
        self.nodes[node as usize].place
    }

    /// How one gets there from the root: `services.delta.endpoints[1]`; empty for the root.
    pub(super) fn path(&self, node: Id) -> String {
        let Some((parent, position)) = self.nodes[node as usize].parent else { return String::new() };
        let above = self.path(parent);
        match self.value(parent) {
            Value::Map(entries) => join(&above, entries.get(position as usize).map_or("", |e| e.key.as_str())),
            Value::List(_) | Value::Scalar { .. } => format!("{above}[{position}]"),
        }
    }
}

/// The path of `key` in the map at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = clip(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A text from the file as a message may show it: one line, not long.
pub(super) fn clip(text: &str) -> String {
    const LONGEST: usize = 60;
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(LONGEST).map(clean).collect();
    if shown.len() < text.len() && text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// What would be right where the text is no YAML, for the mistakes that people make.
fn right(wrong: &ErrorKind) -> Option<&'static str> {
    Some(match wrong {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => "indent with spaces",
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::InvalidIndentation
        | ErrorKind::InvalidBlockScalarIndent
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::InvalidFlowScalarIndent => {
            "indent this line as those that belong with it, and close what is open before it"
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::UnexpectedEofFlowMapping => {
            "separate what is between { and } by commas, and close it"
        }
        ErrorKind::ExpectedFlowSequenceSeparator | ErrorKind::UnexpectedEofFlowSequence => {
            "separate what is between [ and ] by commas, and close it"
        }
        ErrorKind::UnclosedFlowCollection { .. } | ErrorKind::MismatchedFlowCollectionEnd { .. } => {
            "close each [ with ] and each { with }"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => "write a colon and a space after a key",
        ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed => {
            "each key has a line of its own; put a text that has a colon and a space in it in quotes"
        }
        ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName | ErrorKind::UnexpectedCharacter { .. } => {
            "put a text that begins so in quotes"
        }
        ErrorKind::UnknownQuotedScalarEscape => "in single quotes a backslash is a backslash",
        ErrorKind::UnclosedQuotedScalar => "close it with the same quote",
        _ => return None,
    })
}

const START: Place = Place { line: 1, column: 1 };

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    /// Maps and lists that are still open, outermost first.
    open: Vec<Open>,
    /// Finished nodes that have an anchor.
    anchors: HashMap<usize, Id>,
    /// Nodes so far, aliases followed.
    total: usize,
    documents: usize,
}

struct Open {
    node: Id,
    anchor: usize,
    key: Option<(String, Place)>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: Place) -> Result<(), String> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("a second document; a config file is one document, without `---` in the middle".into());
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                untagged(tag.is_some())?;
                let plain = style == ScalarStyle::Plain;
                if let Some(open) = self.open.last_mut()
                    && open.key.is_none()
                    && matches!(self.nodes[open.node as usize].value, Value::Map(_))
                {
                    if plain && text == "<<" {
                        return Err("merge keys (`<<`) are not supported; write the keys out".into());
                    }
                    open.key = Some((text.into_owned(), at));
                    return Ok(());
                }
                let node = self.add(Value::Scalar { text: text.into_owned(), plain }, at)?;
                self.finish(node, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Value::List(Vec::new()), anchor, tag.is_some(), at)?,
            Event::MappingStart(_, anchor, tag) => self.open(Value::Map(Vec::new()), anchor, tag.is_some(), at)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.finish(open.node, open.anchor);
                }
            }
            Event::Alias(anchor) => {
                let Some(&node) = self.anchors.get(&anchor) else {
                    return Err("an alias to the value that it stands in; write the value out".into());
                };
                self.total = self.total.saturating_add(self.nodes[node as usize].size);
                self.bounded(self.nodes[node as usize].height)?;
                self.attach(node, at)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, value: Value, anchor: usize, tagged: bool, at: Place) -> Result<(), String> {
        untagged(tagged)?;
        let node = self.add(value, at)?;
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn add(&mut self, value: Value, place: Place) -> Result<Id, String> {
        self.total = self.total.saturating_add(1);
        self.bounded(1)?;
        let node = Id::try_from(self.nodes.len()).map_err(|e| e.to_string())?;
        let parent = self.attach(node, place)?;
        self.nodes.push(Node { place, value, parent, size: 1, height: 1 });
        Ok(node)
    }

    /// Puts a node into the innermost open map or list.
    fn attach(&mut self, node: Id, at: Place) -> Result<Option<(Id, u32)>, String> {
        let Some(open) = self.open.last_mut() else { return Ok(None) };
        let position = match &mut self.nodes[open.node as usize].value {
            Value::Map(entries) => {
                let (key, place) = open.key.take().ok_or("a key that is not a text; write a plain word")?;
                entries.push(Entry { key, place, value: node });
                entries.len() - 1
            }
            Value::List(items) => {
                items.push(node);
                items.len() - 1
            }
            Value::Scalar { .. } => return Err(format!("a value inside a text at line {}", at.line)),
        };
        Ok(Some((open.node, u32::try_from(position).map_err(|e| e.to_string())?)))
    }

    /// Takes the measure of a node whose children are complete.
    fn finish(&mut self, node: Id, anchor: usize) {
        let measure = |ids: &mut dyn Iterator<Item = Id>| {
            ids.map(|id| &self.nodes[id as usize])
                .fold((1, 1), |(size, height), n| (size + n.size, height.max(n.height + 1)))
        };
        let (size, height) = match &self.nodes[node as usize].value {
            Value::Scalar { .. } => (1, 1),
            Value::List(items) => measure(&mut items.iter().copied()),
            Value::Map(entries) => measure(&mut entries.iter().map(|e| e.value)),
        };
        let finished = &mut self.nodes[node as usize];
        (finished.size, finished.height) = (size, height);
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
    }

    fn bounded(&self, height: usize) -> Result<(), String> {
        if self.open.len() + height > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.total > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values, aliases followed; make the file smaller"));
        }
        Ok(())
    }
}

fn untagged(tagged: bool) -> Result<(), String> {
    if tagged { Err("YAML tags (`!…`) are not supported; write the value without one".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let (place, message) = Document::parse(text).expect_err("refused");
        format!("{}:{}: {message}", place.line, place.column)
    }

    #[test]
    fn places_and_paths() {
        let document = Document::parse("a:\n  - x\n  - {b: 'y z'}\n").expect("valid");
        let Value::Map(root) = document.value(0) else { panic!("a map") };
        let Value::List(items) = document.value(root[0].value) else { panic!("a list") };
        let Value::Map(inner) = document.value(items[1]) else { panic!("a map") };
        let leaf = inner[0].value;
        assert_eq!(document.path(leaf), "a[1].b");
        assert_eq!(document.place(leaf), Place { line: 3, column: 9 });
        assert_eq!(inner[0].place, Place { line: 3, column: 6 });
    }

    #[test]
    fn aliases_are_followed_and_counted() {
        let document = Document::parse("a: &x [1, 2]\nb: [*x, *x]\n").expect("valid");
        assert_eq!((document.nodes[0].size, document.nodes[0].height), (1 + 3 + 1 + 6, 4));
        assert!(refused("a: &x [*x]\n").starts_with("1:8: an alias to the value"));
        assert!(refused("a: *none\n").starts_with("1:4: "));
    }

    #[test]
    fn depth_has_an_edge() {
        let flow = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Document::parse(&flow(MAX_DEPTH)).is_ok());
        assert!(refused(&flow(MAX_DEPTH + 1)).contains("nested deeper than 32 levels"));
        assert!(Document::parse(&flow(100_000)).is_err());
        let block = |n: usize| format!("{}x\n", "- ".repeat(n));
        assert!(Document::parse(&block(MAX_DEPTH - 1)).is_ok());
        assert!(Document::parse(&block(MAX_DEPTH)).is_err());
        // Depth that only aliases make: every line is one level deeper than the one before.
        let chain =
            |n: usize| (1..n).fold("- &a0 [x]\n".to_owned(), |text, i| format!("{text}- &a{i} [*a{}]\n", i - 1));
        assert!(Document::parse(&chain(MAX_DEPTH - 2)).is_ok());
        assert!(refused(&chain(MAX_DEPTH - 1)).contains("nested deeper"));
    }

    #[test]
    fn size_has_an_edge() {
        let list = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(Document::parse(&list(MAX_NODES - 1)).is_ok());
        assert!(refused(&list(MAX_NODES)).contains("more than 500000 values"));
        let laughs = (1..20).fold("- &a0 x\n".to_owned(), |text, i| {
            format!("{text}- &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))
        });
        assert!(refused(&laughs).contains("more than 500000 values"));
        let blank = |n: usize| format!("a{}", " ".repeat(n - 1));
        assert!(Document::parse(&blank(MAX_FILE_BYTES)).is_ok());
        assert_eq!(refused(&blank(MAX_FILE_BYTES + 1)), "1:1: the file is larger than 4 MiB");
    }

    #[test]
    fn yaml_that_we_do_not_take() {
        for (text, why) in [
            ("", "1:1: the file is empty"),
            ("# only a comment\n", "1:1: the file is empty"),
            ("a: 1\n---\nb: 2\n", "2:1: a second document"),
            ("a: !!str 1\n", "1:10: YAML tags"),
            ("a: {b: 1}\n<<: {c: 2}\n", "2:1: merge keys"),
            ("[a]: 1\n", "1:1: a key that is not a text"),
            ("a: 'open\n", "1:4: unclosed quote; close it"),
            ("a:\n\tb: 1\n", "2:2: tabs disallowed within this context (block indentation); indent with spaces"),
            ("a:\n  b: 1\n c: 2\n", "3:2: while parsing a block mapping, did not find expected key; indent this line"),
            ("a: {b: 1\nc: 2\n", "2:2: "),
            ("a: *.b\n", "1:4: while parsing node, found unknown anchor; put a text that begins so in quotes"),
            ("a: @b\n", "1:4: unexpected character: `@'; put a text that begins so in quotes"),
            ("a: \"\\d\"\n", "1:4: while parsing a quoted scalar, found unknown escape character; in single quotes"),
            ("a: b: c\n", "1:5: mapping values are not allowed in this context; each key"),
        ] {
            assert!(refused(text).starts_with(why), "{text:?}: {}", refused(text));
        }
    }
}

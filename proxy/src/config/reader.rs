//! Reads serde types from a [`Document`] without stopping at the first mistake.
//!
//! Serde stops where a value is refused. Here every value of a section is a [`Field`], which takes the refusal of what
//! it holds, notes it in the [`Report`] with its place, and reads as [`Field::Bad`], so that its siblings are read
//! too. Unknown and repeated keys are noted the same way, before serde sees the map.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::yaml::{Document, Entry, Id, Place, Value, clip, join};

/// What was found wrong, with places, while a document is read and made valid.
pub(super) struct Report<'a> {
    pub(super) document: &'a Document,
    notes: RefCell<Vec<Note>>,
    /// Problems and warnings so far; those beyond [`MAX_PROBLEMS`] each are counted and no more.
    wrong: Cell<usize>,
    warned: Cell<usize>,
}

/// Most problems of a file that are told, and most warnings: more than a person reads, and little memory.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// One thing worth saying about one place.
pub(super) struct Note {
    pub(super) place: Place,
    /// Which key; empty for the file.
    pub(super) path: String,
    pub(super) message: String,
    /// A reason to refuse the file; otherwise only something to know.
    pub(super) wrong: bool,
}

/// A value of a section.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// What stands there was refused and noted.
    Bad,
    /// The value, and where it stands.
    Given(T, Spot),
}

/// Where a value stands: the node, and the key that names it, if one does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    node: Id,
    entry: Option<(Id, u32)>,
}

/// A map with free keys, in the order of the text; the spot of a value is also that of its key.
#[derive(Debug, Default)]
pub(super) struct Entries<T>(pub(super) Vec<(String, Field<T>)>);

/// What a whole file is read as.
pub(super) trait Whole: de::DeserializeOwned {
    /// What the smallest useful one has, in words.
    const SMALLEST: &'static str;
}

impl<'a> Report<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Report { document, notes: RefCell::default(), wrong: Cell::new(0), warned: Cell::new(0) }
    }

    /// Reads the whole document. [`Field::Bad`] if even its outermost map could not be read.
    pub(super) fn read<T: Deserialize<'a>>(&self) -> Field<T> {
        let spot = Spot { node: 0, entry: None };
        match T::deserialize(Reader { report: self, node: 0, entry: None }) {
            Ok(value) => Field::Given(value, spot),
            Err(refused) => {
                self.wrong(spot, refused.0);
                Field::Bad
            }
        }
    }

    /// A value is wrong.
    pub(super) fn wrong(&self, spot: Spot, message: impl Into<String>) {
        self.note(self.document.place(spot.node), self.path(spot), message.into(), true);
    }

    /// A key is wrong, or what is missing under it.
    pub(super) fn wrong_key(&self, spot: Spot, message: impl Into<String>) {
        self.note(self.key(spot), self.path(spot), message.into(), true);
    }

    /// A value is allowed but worth a thought.
    pub(super) fn warn(&self, spot: Spot, message: impl Into<String>) {
        self.note(self.document.place(spot.node), self.path(spot), message.into(), false);
    }

    /// The known word that was probably meant, unless more is wrong than anyone reads.
    pub(super) fn suggest<'w>(&self, wrong: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
        if self.wrong.get() < MAX_PROBLEMS { nearest(wrong, known) } else { None }
    }

    /// The line of a value's key.
    pub(super) fn line(&self, spot: Spot) -> usize {
        self.key(spot).line
    }

    /// Where a value's key stands; of an item of a list, the item.
    pub(super) fn place(&self, spot: Spot) -> Place {
        self.key(spot)
    }

    /// All notes in the order of the text, and how many problems there are beyond them.
    pub(super) fn into_notes(self) -> (Vec<Note>, usize) {
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| (note.place.line, note.place.column));
        (notes, self.wrong.get().saturating_sub(MAX_PROBLEMS))
    }

    fn note(&self, place: Place, path: String, message: String, wrong: bool) {
        let count = if wrong { &self.wrong } else { &self.warned };
        count.set(count.get() + 1);
        if count.get() <= MAX_PROBLEMS {
            self.notes.borrow_mut().push(Note { place, path, message, wrong });
        }
    }

    fn entry(&self, (map, position): (Id, u32)) -> Option<&'a Entry> {
        match self.document.value(map) {
            Value::Map(entries) => entries.get(position as usize),
            Value::List(_) | Value::Scalar { .. } => None,
        }
    }

    fn key(&self, spot: Spot) -> Place {
        spot.entry.and_then(|at| self.entry(at)).map_or_else(|| self.document.place(spot.node), |entry| entry.place)
    }

    fn path(&self, spot: Spot) -> String {
        match spot.entry.and_then(|at| Some((at.0, self.entry(at)?))) {
            Some((map, entry)) => join(&self.document.path(map), &entry.key),
            None => self.document.path(spot.node),
        }
    }
}

impl<T> Field<T> {
    /// The value, if it is there and good.
    pub(super) fn given(self) -> Option<(T, Spot)> {
        match self {
            Field::Given(value, spot) => Some((value, spot)),
            Field::Absent | Field::Bad => None,
        }
    }

    /// The value, or what is meant where the key is absent; nothing where it is bad.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self {
            Field::Absent => Some(default),
            Field::Bad => None,
            Field::Given(value, _) => Some(value),
        }
    }

    /// Where the value stands, if it is there and good.
    pub(super) fn spot(&self) -> Option<Spot> {
        match self {
            Field::Given(_, spot) => Some(*spot),
            Field::Absent | Field::Bad => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Field<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            // Serde's answer for a key that is not there.
            fn visit_none<E>(self) -> Result<Field<T>, E> {
                Ok(Field::Absent)
            }

            // What `FieldAccess` tells: where it stands, then the value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Field<T>, A::Error> {
                let mut part = || access.next_element::<u32>().map(Option::unwrap_or_default);
                let (node, map, position) = (part()?, part()?, part()?);
                let entry = (map != NO_ENTRY).then_some((map, position));
                let value = access.next_element::<T>();
                Ok(value.ok().flatten().map_or(Field::Bad, |value| Field::Given(value, Spot { node, entry })))
            }
        }
        deserializer.deserialize_option(Read(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Read(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

/// The known word nearest to a wrong one, near enough to have been meant.
pub(super) fn nearest<'w>(wrong: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    if wrong.len() > LONGEST_WORD {
        return None;
    }
    let candidates = known.into_iter().filter(|word| word.len() <= LONGEST_WORD).take(MOST_WORDS);
    let (distance, word) =
        candidates.map(|word| (distance(wrong, word), word)).min_by_key(|(distance, _)| *distance)?;
    (distance <= word.chars().count() / 3).then_some(word)
}

/// Longest word that [`nearest`] compares: the comparison costs the product of the lengths.
const LONGEST_WORD: usize = 40;

/// Most words that [`nearest`] compares with: a suggestion is not worth more.
const MOST_WORDS: usize = 200;

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Stands for "no key" among the three numbers of a [`Spot`].
const NO_ENTRY: u32 = u32::MAX;

/// Why a value was refused: what is wrong, and what would be right.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Refused(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Str(text) => format!("the text \"{}\"", clip(text)),
            Unexpected::Signed(number) => format!("the number {number}"),
            Unexpected::Unsigned(number) => format!("the number {number}"),
            // Told from a whole one.
            Unexpected::Float(number) => format!("the number {number:?}"),
            Unexpected::Bool(truth) => truth.to_string(),
            Unexpected::Unit => "nothing".into(),
            Unexpected::Seq => "a list".into(),
            Unexpected::Map => "a map".into(),
            other => other.to_string(),
        };
        let quotes = found.starts_with("the number") || matches!(found.as_str(), "true" | "false");
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "a string" if quotes => return Refused(format!("expected a text, found {found}; put it in quotes")),
            "a string" => "a text",
            "a sequence" if found == "a map" || found.starts_with("the text") => {
                let right = if found == "a map" { "begin each item with `- `" } else { "put it in brackets" };
                return Refused(format!("expected a list, found {found}; {right}"));
            }
            "a sequence" => "a list",
            "a boolean" => "true or false",
            "u8" => "a whole number from 0 to 255",
            "u16" => "a whole number from 0 to 65535",
            "u32" => "a whole number from 0 to 4294967295",
            "u64" | "usize" => "a whole number, not below 0",
            "i32" | "i64" => "a whole number",
            "f64" => "a number",
            other => other,
        };
        Refused(format!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'r, 'a> {
    report: &'r Report<'a>,
    node: Id,
    entry: Option<(Id, u32)>,
}

impl<'a> Reader<'_, 'a> {
    fn value(&self) -> &'a Value {
        self.report.document.value(self.node)
    }

    /// The entries of a map, once each, and only those that `known` lists, if it does.
    fn entries(&self, map: &'a [Entry], known: Option<&[&'static str]>) -> Vec<(u32, &'a Entry)> {
        let mut first = HashMap::new();
        let mut kept = Vec::with_capacity(map.len());
        for (position, entry) in (0..).zip(map) {
            let complain = |message| {
                let path = self.report.path(Spot { node: self.node, entry: self.entry });
                self.report.note(entry.place, path, message, true);
            };
            let key = clip(&entry.key);
            if let Some(line) = first.insert(entry.key.as_str(), entry.place.line) {
                complain(format!("the key \"{key}\" was there before, at line {line}; keep one"));
            } else if let Some(known) = known.filter(|known| !known.contains(&entry.key.as_str())) {
                let colon = |word: &&&str| entry.key.strip_prefix(**word).is_some_and(|rest| rest.starts_with(':'));
                let right = match (known.iter().find(colon), self.report.suggest(&entry.key, known.iter().copied())) {
                    (Some(word), _) => format!("write a space after the colon of \"{word}\""),
                    (None, Some(word)) => format!("did you mean \"{word}\"?"),
                    (None, None) => format!("known: {}", known.join(", ")),
                };
                complain(format!("unknown key \"{key}\"; {right}"));
            } else {
                kept.push((position, entry));
            }
        }
        kept
    }

    fn map<V: Visitor<'a>>(
        self,
        map: &'a [Entry],
        known: Option<&[&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let entries = self.entries(map, known).into_iter();
        visitor.visit_map(Pairs { reader: self, entries, next: None })
    }
}

impl<'a> Deserializer<'a> for Reader<'_, 'a> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.value() {
            Value::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Value::Scalar { text, plain: true } => match Plain::of(text)? {
                Plain::Nothing => visitor.visit_unit(),
                Plain::Truth(truth) => visitor.visit_bool(truth),
                Plain::Natural(number) => visitor.visit_u64(number),
                Plain::Integer(number) => visitor.visit_i64(number),
                Plain::Number(number) => visitor.visit_f64(number),
                Plain::Text => visitor.visit_borrowed_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter() }),
            Value::Map(map) => self.map(map, None, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_seq(FieldAccess { reader: self, told: 0 })
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match self.value() {
            Value::Map(map) => self.map(map, Some(known), visitor),
            // Serde's own visitors would take a list as the fields in order.
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            Value::Scalar { .. } => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

/// The four parts of a [`Field`]: three numbers of its spot, then its value. A refusal of the value is noted here.
struct FieldAccess<'r, 'a> {
    reader: Reader<'r, 'a>,
    told: u8,
}

impl<'a> SeqAccess<'a> for FieldAccess<'_, 'a> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let Reader { report, node, entry } = self.reader;
        let (map, position) = entry.unwrap_or((NO_ENTRY, 0));
        self.told += 1;
        let number: U32Deserializer<Refused> = match self.told {
            1 => node.into_deserializer(),
            2 => map.into_deserializer(),
            3 => position.into_deserializer(),
            _ => {
                let value = seed.deserialize(self.reader);
                return value.map(Some).inspect_err(|refused| report.wrong(Spot { node, entry }, refused.0.as_str()));
            }
        };
        seed.deserialize(number).map(Some)
    }
}

struct Pairs<'r, 'a> {
    reader: Reader<'r, 'a>,
    entries: std::vec::IntoIter<(u32, &'a Entry)>,
    next: Option<(u32, &'a Entry)>,
}

impl<'a> MapAccess<'a> for Pairs<'_, 'a> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.next = self.entries.next();
        let Some((_, entry)) = self.next else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(&entry.key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let (position, entry) = self.next.take().ok_or_else(|| Refused("a value without a key".into()))?;
        let reader =
            Reader { report: self.reader.report, node: entry.value, entry: Some((self.reader.node, position)) };
        seed.deserialize(reader)
    }
}

struct Items<'r, 'a> {
    reader: Reader<'r, 'a>,
    items: std::slice::Iter<'a, Id>,
}

impl<'a> SeqAccess<'a> for Items<'_, 'a> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let Some(&node) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reader { report: self.reader.report, node, entry: None }).map(Some)
    }
}

/// What a scalar without quotes means (YAML 1.2 core schema, section 10.3.2).
#[derive(Debug, PartialEq)]
enum Plain {
    Nothing,
    Truth(bool),
    Natural(u64),
    Integer(i64),
    Number(f64),
    Text,
}

impl Plain {
    fn of(text: &str) -> Result<Plain, Refused> {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Ok(Plain::Nothing),
            "true" | "True" | "TRUE" => return Ok(Plain::Truth(true)),
            "false" | "False" | "FALSE" => return Ok(Plain::Truth(false)),
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
            return Err(Refused(format!("{text} is not a number that JSON has; write a finite one")));
        }
        let too_large = || Refused(format!("the number {} is too large; put it in quotes", clip(text)));
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(digits) = text.strip_prefix(prefix)
                && !digits.is_empty()
                && digits.chars().all(|c| c.is_digit(radix))
            {
                return u64::from_str_radix(digits, radix).map(Plain::Natural).map_err(|_| too_large());
            }
        }
        if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
            let natural = text.parse().map(Plain::Natural);
            return natural.or_else(|_| text.parse().map(Plain::Integer)).map_err(|_| too_large());
        }
        // Rust reads every decimal number of the core schema; the first test keeps its words ("inf", "nan") out.
        let number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && unsigned.contains(|c: char| c.is_ascii_digit());
        match text.parse::<f64>() {
            Ok(value) if number && value.is_finite() => Ok(Plain::Number(value)),
            Ok(_) if number => Err(too_large()),
            _ => Ok(Plain::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars() {
        for (text, meaning) in [
            ("", Plain::Nothing),
            ("~", Plain::Nothing),
            ("True", Plain::Truth(true)),
            ("yes", Plain::Text),
            ("0", Plain::Natural(0)),
            ("-7", Plain::Integer(-7)),
            ("0x1F", Plain::Natural(31)),
            ("0o17", Plain::Natural(15)),
            ("0x", Plain::Text),
            ("1.5e3", Plain::Number(1500.0)),
            (".5", Plain::Number(0.5)),
            (".", Plain::Text),
            ("1s", Plain::Text),
            ("inf", Plain::Text),
            ("10.0.0.4:80", Plain::Text),
        ] {
            assert_eq!(Plain::of(text).expect("valid"), meaning, "{text:?}");
        }
        for text in [".inf", "-.INF", ".nan", "1e999", "99999999999999999999"] {
            assert!(Plain::of(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn suggestions() {
        let known = ["listen", "filters", "allow"];
        assert_eq!(nearest("listn", known), Some("listen"));
        assert_eq!(nearest("filter", known), Some("filters"));
        assert_eq!(nearest("application", known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }
}

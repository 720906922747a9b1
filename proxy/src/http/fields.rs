//! The fields of a message: lines in the order in which they came (RFC 9110 section 5.3).
//!
//! A head has some dozen lines, so a list is looked through sooner than a name is hashed. Lines of one name may stand
//! apart; their order is kept, and so is that of different names. How many there can be is bounded wherever lines come from
//! outside, by [`MAX_FIELDS`](super::rules::MAX_FIELDS) where a message is read and by [`Fields::MOST`] where a filter adds
//! some: no look-up takes longer than that, and nothing does more of them for each line than a constant number.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

/// A name and one of its values.
#[derive(Clone)]
struct Line {
    name: HeaderName,
    value: Part,
}

/// What a value is. To read one out of a head, and to let go of it, costs no count of those who share its block.
#[derive(Clone)]
enum Part {
    /// These bytes of the block that was read: where they begin, and how many they are.
    Read(u32, u32),
    /// What was made here, or decoded.
    Own(HeaderValue),
    /// What was made here of a few bytes, so many: they need no block.
    Few(u8, [u8; FEW]),
}

/// Most bytes that lie in their line: as many as make it no larger.
const FEW: usize = 31;

/// A value of bytes that can be one, for a line.
pub struct Written(Part);

impl Written {
    /// The value of these bytes. None if there are control characters among them, but tabs.
    pub fn of(bytes: &[u8]) -> Option<Written> {
        // Filled with what a value may have, so that all of it can be looked at at once.
        let mut few = [b' '; FEW + 1];
        let Some(room) = few.get_mut(..bytes.len()).filter(|room| room.len() <= FEW) else {
            return HeaderValue::from_bytes(bytes).ok().map(Written::from);
        };
        room.copy_from_slice(bytes);
        // As `HeaderValue` has it (RFC 9110 section 5.5).
        let may_stand = |byte: u8| byte >= b' ' && byte != 0x7f || byte == b'\t';
        let [few @ .., _] = few.iter().fold(true, |all, byte| all & may_stand(*byte)).then_some(few)?;
        Some(Written(Part::Few(bytes.len() as u8, few)))
    }
}

impl From<HeaderValue> for Written {
    fn from(value: HeaderValue) -> Written {
        Written(Part::Own(value))
    }
}

/// What each line counts beside its name and its value (RFC 9113 section 6.5.2).
pub(super) const LINE_OVERHEAD: usize = 32;

/// Lines that there is room for when there is room at all: those of most messages, with what hops add.
const ROOM: usize = 16;

/// Blocks that a worker keeps for later messages, and most lines of one that is kept: 150 KiB at the most.
const BLOCKS: usize = 64;
const LARGEST: usize = 2 * ROOM;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// The fields of a head, or of trailers. Without any they have no block of memory; one that they had is used again by others.
#[derive(Default)]
pub struct Fields {
    /// What was read, if it is kept as it came.
    block: Bytes,
    lines: Vec<Line>,
}

/// Where the lines of a name are: the first, and the last.
#[derive(Clone, Copy)]
pub struct Place {
    first: usize,
    last: usize,
}

/// The value of a line.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    block: &'a Bytes,
    part: &'a Part,
}

/// A value is not visible ASCII.
#[derive(Debug)]
pub struct NotText;

impl Fields {
    /// Most lines that a filter may make of them, far more than any peer reads ([`MAX_FIELDS`](super::rules::MAX_FIELDS)).
    pub const MOST: usize = 1000;

    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Fields { block: Bytes::new(), lines: Vec::new() }
    }

    /// None yet of those in a block that was read, and room for so many.
    pub(super) fn of(block: Bytes, lines: usize) -> Self {
        let mut fields = Fields { block, lines: Vec::new() };
        fields.make_room(lines);
        fields
    }

    /// Adds a line whose value is a part of the block, and can be a value: without control characters but tabs.
    pub(super) fn append_read(&mut self, name: HeaderName, value: &[u8]) {
        let start = (value.as_ptr() as usize).wrapping_sub(self.block.as_ptr() as usize);
        let is = self
            .block
            .get(start..)
            .and_then(|rest| rest.get(..value.len()))
            .is_some_and(|own| own.as_ptr() == value.as_ptr());
        debug_assert!(is, "what is not of the block");
        let part = match (u32::try_from(start), u32::try_from(value.len())) {
            (Ok(start), Ok(length)) if is => Part::Read(start, length),
            _ => Part::Own(HeaderValue::from_bytes(value).unwrap_or(EMPTY)),
        };
        self.push(name, part);
    }

    /// None yet of those in a block that is being read.
    pub(super) fn unread() -> Self {
        Fields::of(Bytes::new(), 0)
    }

    /// Adds a line whose value is in this place of the block that is being read, and can be a value: without control characters but tabs.
    #[inline]
    pub(super) fn append_at(&mut self, name: HeaderName, place: Range<usize>) {
        // Beyond what a block can have there is nothing.
        let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        self.push(name, Part::Read(number(place.start), number(place.len())));
    }

    /// Says which block was read.
    pub(super) fn keep(&mut self, block: Bytes) {
        self.block = block;
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How large they are as HTTP/2 and HTTP/3 count them (RFC 9113 section 6.5.2).
    pub fn section_size(&self) -> usize {
        self.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD).sum()
    }

    /// The value of a name; of several lines, that of the first.
    pub fn get(&self, name: impl Name) -> Option<Value<'_>> {
        let line = self.lines.iter().find(|line| name.is(&line.name))?;
        Some(Value { block: &self.block, part: &line.value })
    }

    /// The values of all lines of a name.
    pub fn get_all(&self, name: impl Name) -> impl Iterator<Item = Value<'_>> {
        self.iter().filter(move |(own, _)| name.is(own)).map(|(_, value)| value)
    }

    /// Whether there is a line of this name.
    pub fn contains_key(&self, name: impl Name) -> bool {
        self.lines.iter().any(|line| name.is(&line.name))
    }

    /// Name and value of each line.
    pub fn iter(&self) -> Iter<'_> {
        Iter { block: &self.block, lines: self.lines.iter() }
    }

    /// The names, each once.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let first = |at: usize, name| self.lines.iter().take(at).all(|line| line.name != name);
        self.lines.iter().enumerate().filter_map(move |(at, line)| first(at, &line.name).then_some(&line.name))
    }

    /// Makes this the one line of a name, in the place of its first if it has some.
    pub fn insert(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        let name = name.into();
        match self.place(&name) {
            Some(place) => self.set(place, value),
            None => self.push(name, Part::Own(value)),
        }
    }

    /// Where a name has lines, until some are added or taken away.
    #[inline]
    pub fn place(&self, name: impl Name) -> Option<Place> {
        // From the end: what hops and filters have added is there.
        let last = self.lines.iter().rposition(|line| name.is(&line.name))?;
        let (before, line) = (self.lines.get(..last)?, self.lines.get(last)?);
        let first = before.iter().position(|other| other.name == line.name).unwrap_or(last);
        Some(Place { first, last })
    }

    /// Whether this is the one value of the name that has a place.
    #[inline]
    pub fn is_only(&self, place: Place, value: &[u8]) -> bool {
        let line = self.lines.get(place.first).filter(|_| place.first == place.last);
        line.is_some_and(|line| Value { block: &self.block, part: &line.value }.as_bytes() == value)
    }

    /// Makes this the one value of the name that has a place.
    pub fn set(&mut self, place: Place, value: impl Into<Written>) {
        let Some(line) = self.lines.get_mut(place.first) else { return };
        line.value = value.into().0;
        if place.first != place.last {
            let name = line.name.clone();
            self.remove_after(place.first, &name);
        }
    }

    /// Adds a line.
    #[inline]
    pub fn append(&mut self, name: impl Into<HeaderName>, value: impl Into<Written>) {
        self.push(name.into(), value.into().0);
    }

    /// Whether a filter may add a line.
    pub fn takes_more(&self) -> bool {
        self.lines.len() < Self::MOST
    }

    /// Takes all lines of a name away. Whether there was one.
    pub fn remove(&mut self, name: impl Name) -> bool {
        let Some(at) = self.lines.iter().position(|line| name.is(&line.name)) else { return false };
        self.remove_after(at, &name);
        self.lines.remove(at);
        true
    }

    /// Takes the lines away whose name is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName) -> bool) {
        self.lines.retain(|line| keep(&line.name));
    }

    /// Takes all lines away.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.block = Bytes::new();
    }

    /// Takes lines of a name away that come after another.
    fn remove_after(&mut self, at: usize, name: &impl Name) {
        if self.lines.iter().skip(at + 1).any(|line| name.is(&line.name)) {
            let mut nth = 0;
            self.lines.retain(|line| {
                nth += 1;
                nth - 1 <= at || !name.is(&line.name)
            });
        }
    }

    #[inline]
    fn push(&mut self, name: HeaderName, value: Part) {
        if self.lines.capacity() == 0 {
            self.make_room(1);
        }
        self.lines.push(Line { name, value });
    }

    /// Room for so many lines, where there is none yet.
    fn make_room(&mut self, lines: usize) {
        // When its thread ends what is kept may be gone before the last exchange.
        self.lines = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        self.lines.reserve_exact(lines.max(ROOM));
    }
}

const EMPTY: HeaderValue = HeaderValue::from_static("");

impl<'a> Value<'a> {
    /// Its bytes: any but control characters, tabs excepted.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        match self.part {
            Part::Read(start, length) => {
                self.block.get(*start as usize..).and_then(|rest| rest.get(..*length as usize)).unwrap_or_default()
            }
            Part::Own(value) => value.as_bytes(),
            Part::Few(length, few) => few.get(..usize::from(*length)).unwrap_or_default(),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// If it is not visible ASCII, with spaces and tabs.
    pub fn to_str(self) -> Result<&'a str, NotText> {
        let bytes = self.as_bytes();
        let visible = bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        std::str::from_utf8(bytes).ok().filter(|_| visible).ok_or(NotText)
    }

    /// How many bytes it has.
    pub fn len(self) -> usize {
        match self.part {
            Part::Read(_, length) => *length as usize,
            Part::Own(value) => value.len(),
            Part::Few(length, _) => usize::from(*length),
        }
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether its sender wants it in no table (RFC 7541 section 7.1.3).
    pub fn is_sensitive(self) -> bool {
        matches!(self.part, Part::Own(value) if value.is_sensitive())
    }

    /// The value for who keeps it: a share of the block that it is in, if it is in one.
    pub fn share(self) -> HeaderValue {
        match self.part {
            Part::Own(value) => value.clone(),
            Part::Few(..) => HeaderValue::from_bytes(self.as_bytes()).unwrap_or(EMPTY),
            Part::Read(..) => HeaderValue::from_maybe_shared(self.block.slice_ref(self.as_bytes())).unwrap_or(EMPTY),
        }
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<str> for Value<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Value<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq<HeaderValue> for Value<'_> {
    fn eq(&self, other: &HeaderValue) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.share(), f)
    }
}

/// The lines of fields, one after the other.
#[derive(Clone)]
pub struct Iter<'a> {
    block: &'a Bytes,
    lines: std::slice::Iter<'a, Line>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a HeaderName, Value<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next()?;
        Some((&line.name, Value { block: self.block, part: &line.value }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.lines.size_hint()
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        if (1..=LARGEST).contains(&self.lines.capacity()) {
            self.lines.clear();
            let lines = std::mem::take(&mut self.lines);
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < BLOCKS {
                    free.push(lines);
                }
            });
        }
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        if self.is_empty() {
            return Fields::new();
        }
        let mut fields = Fields::of(self.block.clone(), self.len());
        fields.lines.extend_from_slice(&self.lines);
        fields
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Extend<(HeaderName, HeaderValue)> for Fields {
    fn extend<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, lines: T) {
        lines.into_iter().for_each(|(name, value)| self.append(name, value));
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: T) -> Self {
        let mut fields = Fields::new();
        fields.extend(lines);
        fields
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a HeaderName, Value<'a>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// What lines are looked for by. Names that HTTP defines are compared as numbers.
pub trait Name {
    /// Whether this is the name.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Name for &HeaderName {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        *self == name
    }
}

/// In lower case.
impl Name for &str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str() == *self
    }
}

/// In lower case; none has it if it cannot be a name.
impl Name for &[u8] {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str().as_bytes() == *self
    }
}

#[cfg(test)]
impl<N: Name> std::ops::Index<N> for Fields {
    type Output = HeaderValue;

    /// What was made, or decoded, and not read.
    fn index(&self, name: N) -> &HeaderValue {
        let value = self.get(name).expect("a field of this name");
        match value.part {
            Part::Own(value) => value,
            Part::Few(..) => Box::leak(Box::new(value.share())),
            Part::Read(..) => panic!("a value that lies where it was read"),
        }
    }
}

#[cfg(test)]
mod tests;

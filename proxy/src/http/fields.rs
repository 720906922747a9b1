//! The fields of a message: lines in the order in which they came (RFC 9110 section 5.3).
//!
//! A head has some dozen lines, so a list is looked through sooner than a name is hashed. Lines of one name may stand
//! apart; their order is kept, and so is that of different names. How many there can be is bounded wherever lines come from
//! outside, by [`MAX_FIELDS`](super::rules::MAX_FIELDS) where a message is read and by [`Fields::MOST`] where a filter adds
//! some: no look-up takes longer than that, and nothing does more of them for each line than a constant number.

use std::cell::RefCell;
use std::fmt;

use http::header::{HeaderName, HeaderValue};

/// A name and one of its values.
type Line = (HeaderName, HeaderValue);

/// Lines that there is room for when there is room at all: those of most messages, with what hops add.
const ROOM: usize = 16;

/// Blocks that a worker keeps for later messages, and most lines of one that is kept: 150 KiB at the most.
const BLOCKS: usize = 64;
const LARGEST: usize = 2 * ROOM;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// The fields of a head, or of trailers. Without any it has no block of memory; one that it had is used again by others.
#[derive(Default, PartialEq, Eq)]
pub struct Fields {
    lines: Vec<Line>,
}

impl Fields {
    /// Most lines that a filter may make of them, far more than any peer reads ([`MAX_FIELDS`](super::rules::MAX_FIELDS)).
    pub const MOST: usize = 1000;

    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Fields { lines: Vec::new() }
    }

    /// None yet, and room for so many.
    #[must_use]
    pub fn with_capacity(lines: usize) -> Self {
        let mut fields = Fields::new();
        fields.make_room(lines);
        fields
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The value of a name; of several lines, that of the first.
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        self.lines.iter().find(|(own, _)| name.is(own)).map(|(_, value)| value)
    }

    /// The values of all lines of a name.
    pub fn get_all(&self, name: impl Name) -> impl Iterator<Item = &HeaderValue> {
        self.lines.iter().filter(move |(own, _)| name.is(own)).map(|(_, value)| value)
    }

    /// Whether there is a line of this name.
    pub fn contains_key(&self, name: impl Name) -> bool {
        self.lines.iter().any(|(own, _)| name.is(own))
    }

    /// Name and value of each line.
    pub fn iter(&self) -> std::slice::Iter<'_, (HeaderName, HeaderValue)> {
        self.lines.iter()
    }

    /// The names, each once.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let first = |at: usize, name| self.lines.iter().take(at).all(|(own, _)| own != name);
        self.lines.iter().enumerate().filter_map(move |(at, (name, _))| first(at, name).then_some(name))
    }

    /// Makes this the one line of a name, in the place of its first if it has some. That one's value.
    pub fn insert(&mut self, name: impl Into<HeaderName>, value: HeaderValue) -> Option<HeaderValue> {
        let name = name.into();
        let Some(at) = self.lines.iter().position(|(own, _)| *own == name) else {
            self.push(name, value);
            return None;
        };
        self.remove_after(at, &name);
        self.lines.get_mut(at).map(|(_, old)| std::mem::replace(old, value))
    }

    /// Adds a line.
    pub fn append(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        self.push(name.into(), value);
    }

    /// Whether a filter may add a line.
    pub fn takes_more(&self) -> bool {
        self.lines.len() < Self::MOST
    }

    /// Takes all lines of a name away. The value of the first.
    pub fn remove(&mut self, name: impl Name) -> Option<HeaderValue> {
        let at = self.lines.iter().position(|(own, _)| name.is(own))?;
        self.remove_after(at, &name);
        Some(self.lines.remove(at).1)
    }

    /// Takes the lines away whose name is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName) -> bool) {
        self.lines.retain(|(name, _)| keep(name));
    }

    /// Takes all lines away.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Takes lines of a name away that come after another.
    fn remove_after(&mut self, at: usize, name: &impl Name) {
        if self.lines.iter().skip(at + 1).any(|(own, _)| name.is(own)) {
            let mut nth = 0;
            self.lines.retain(|(own, _)| {
                nth += 1;
                nth - 1 <= at || !name.is(own)
            });
        }
    }

    #[inline]
    fn push(&mut self, name: HeaderName, value: HeaderValue) {
        if self.lines.capacity() == 0 {
            self.make_room(1);
        }
        self.lines.push((name, value));
    }

    /// Room for so many lines, where there is none yet.
    fn make_room(&mut self, lines: usize) {
        // When its thread ends what is kept may be gone before the last exchange.
        self.lines = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        self.lines.reserve_exact(lines.max(ROOM));
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
        let mut fields = if self.is_empty() { Fields::new() } else { Fields::with_capacity(self.len()) };
        fields.lines.extend_from_slice(&self.lines);
        fields
    }
}

impl Extend<(HeaderName, HeaderValue)> for Fields {
    fn extend<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, lines: T) {
        lines.into_iter().for_each(|(name, value)| self.push(name, value));
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
    type Item = &'a (HeaderName, HeaderValue);
    type IntoIter = std::slice::Iter<'a, (HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.lines.iter().map(|(name, value)| (name, value))).finish()
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

#[cfg(test)]
impl<N: Name> std::ops::Index<N> for Fields {
    type Output = HeaderValue;

    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).expect("a field of this name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn text(fields: &Fields) -> String {
        let lines = fields.iter().map(|(name, value)| format!("{name}={}", value.to_str().expect("text")));
        lines.collect::<Vec<_>>().join(" ")
    }

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn lines_keep_their_order_and_names_their_values() {
        let all = fields(&[("a", "1"), ("host", "h"), ("a", "2"), ("te", "t"), ("a", "3")]);
        assert_eq!(text(&all), "a=1 host=h a=2 te=t a=3");
        assert_eq!(all.get("a"), Some(&value("1")));
        assert_eq!(all.get(&http::header::TE), Some(&value("t")));
        assert_eq!(all.get_all("a").collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(all.names().collect::<Vec<_>>(), ["a", "host", "te"]);
        assert!(all.contains_key("te") && !all.contains_key("b") && all.get("b").is_none());
        assert_eq!(all, all.clone());
        assert_ne!(all, fields(&[("host", "h"), ("a", "1"), ("a", "2"), ("te", "t"), ("a", "3")]));
    }

    #[test]
    fn a_name_is_set_in_its_place_and_removed_with_all_its_lines() {
        let a = HeaderName::from_static("a");
        let mut all = fields(&[("b", "0"), ("a", "1"), ("c", "2"), ("a", "3"), ("d", "4"), ("a", "5")]);
        assert_eq!(all.insert(&a, value("9")), Some(value("1")));
        assert_eq!(text(&all), "b=0 a=9 c=2 d=4");
        assert_eq!(all.insert(&a, value("8")), Some(value("9")));
        all.append(a.clone(), value("7"));
        assert_eq!(all.insert(http::header::TE, value("t")), None);
        assert_eq!(text(&all), "b=0 a=8 c=2 d=4 a=7 te=t");
        assert_eq!((all.remove(&a), all.remove(&a)), (Some(value("8")), None));
        assert_eq!(text(&all), "b=0 c=2 d=4 te=t");
        all.clear();
        assert!(all.is_empty());
    }

    /// Not more than a worker may keep, not more lines than one may have, and nothing of what they were.
    #[test]
    fn blocks_are_used_again() {
        let some = fields(&[("a", "1")]);
        let block = some.lines.as_ptr();
        drop(some);
        let other = Fields::with_capacity(ROOM);
        assert_eq!((other.lines.as_ptr(), other.len()), (block, 0));
        let more: Vec<_> = (0..2 * BLOCKS).map(|_| other.clone()).collect();
        assert!(more.iter().all(|fields| fields.lines.capacity() == 0), "nothing takes no room");
        let more: Vec<_> = (0..2 * BLOCKS).map(|_| fields(&[("a", "1")])).collect();
        drop(more);
        let kept = || FREE.with_borrow(|free| (free.len(), free.iter().all(|block| block.capacity() <= LARGEST)));
        assert_eq!(kept(), (BLOCKS, true));
        let one = Fields::with_capacity(LARGEST + 1);
        assert_eq!(kept(), (BLOCKS - 1, true));
        drop(one);
        assert_eq!(kept(), (BLOCKS - 1, true), "too large to be kept");
    }
}

//! Names of fields as guests write them, each checked and made once: a filter uses the same few for every exchange.

use std::cell::RefCell;

use http::HeaderName;

/// Places for names, in rows of two. Filters of a worker use some dozens.
const ROWS: usize = 64;

/// Most bytes of a name that is kept: what is longer is hardly used twice.
const LONGEST: usize = 64;

/// Two names that want the same place, the one that was used last first.
type Row = [Option<HeaderName>; 2];

/// The names that were used last, of one worker.
#[derive(Default)]
struct Names(Option<Box<[Row; ROWS]>>);

thread_local! {
    static NAMES: RefCell<Names> = const { RefCell::new(Names(None)) };
}

/// A name in lower case as one of a field. None if it cannot be one.
pub(super) fn name(text: &[u8]) -> Option<HeaderName> {
    // When its thread ends the table may be gone before the last exchange.
    let known = NAMES.try_with(|names| names.try_borrow_mut().ok()?.find(text)).ok().flatten();
    known.or_else(|| make(text))
}

#[cold]
fn make(text: &[u8]) -> Option<HeaderName> {
    HeaderName::from_bytes(text).ok()
}

/// A table without names. Apart, for it is made where it then lies too: whoever looks for a name needs no room for it.
#[cold]
fn rows() -> Box<[Row; ROWS]> {
    Box::new([const { [const { None }; 2] }; ROWS])
}

impl Names {
    /// None also for a name that is not kept.
    fn find(&mut self, text: &[u8]) -> Option<HeaderName> {
        let (first, last) = (*text.first()?, *text.last()?);
        if text.len() > LONGEST {
            return None;
        }
        let rows = self.0.get_or_insert_with(rows);
        let middle = text[text.len() / 2];
        let mix = text.len() ^ usize::from(first) << 1 ^ usize::from(middle) << 2 ^ usize::from(last) << 3;
        let row = &mut rows[(mix ^ mix >> 6) % ROWS];
        let is = |name: &Option<HeaderName>| name.as_ref().is_some_and(|name| name.as_str().as_bytes() == text);
        if !is(&row[0]) {
            row.swap(0, 1);
            if !is(&row[0]) {
                row[0] = Some(make(text)?);
            }
        }
        row[0].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_would_be_if_they_were_not_kept() {
        let long = "a".repeat(LONGEST + 1);
        let few = ["x-a", "content-type", "x-b", "", " ", "x y", "x:y", "\u{e9}", &long[1..], &long];
        // Many more than there are places.
        let many: Vec<String> = (0..10 * ROWS).map(|n| format!("x-{n}")).collect();
        for _ in 0..2 {
            for text in few.iter().copied().chain(many.iter().map(String::as_str)) {
                assert_eq!(name(text.as_bytes()), HeaderName::from_bytes(text.as_bytes()).ok(), "{text}");
            }
        }
        NAMES.with_borrow(|names| {
            let kept: Vec<_> = names.0.iter().flat_map(|rows| rows.iter().flatten().flatten()).collect();
            assert!(kept.len() <= 2 * ROWS && kept.iter().all(|name| name.as_str().len() <= LONGEST));
        });
    }

    #[test]
    fn two_names_share_a_row() {
        let mut names = Names::default();
        // Equal in all that a row is chosen by.
        for text in [&b"x-axb-y"[..], b"x-bxc-y", b"x-axb-y", b"x-cxd-y"] {
            assert_eq!(names.find(text).unwrap().as_str().as_bytes(), text);
        }
        let row = names.0.iter().flat_map(|rows| rows.iter()).find(|row| row[0].is_some()).unwrap();
        assert_eq!(row.each_ref().map(|name| name.as_ref().unwrap().as_str()), ["x-cxd-y", "x-axb-y"]);
    }
}

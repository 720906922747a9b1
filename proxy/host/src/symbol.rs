//! Names of guest functions as people write them.
//!
//! They are the module's own and can be anything. A few hundred bytes can stand for terabytes, because each back reference in a
//! mangled name may double what there is; so what is made of a name goes to a writer with little room, which ends the making.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

use crate::limits;

/// How deep a C++ name may be nested. To read one that is wrong takes twice as long with each few levels; those of programs
/// have some twenty.
const DEPTH: u32 = 64;

/// Demangled if it is a mangled name of Rust or C++; at most [`limits::SYMBOL`] bytes and a mark where it was cut off.
pub(crate) fn readable(name: &str) -> String {
    // What does not fit as it is does not fit otherwise.
    let mangled = Some(name).filter(|name| name.len() <= limits::SYMBOL);
    mangled.and_then(|name| rust(name).or_else(|| cpp(name))).unwrap_or_else(|| Line::of(|line| line.write_str(name)))
}

fn rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    Some(Line::of(|line| write!(line, "{symbol}")))
}

fn cpp(name: &str) -> Option<String> {
    let symbol = Symbol::new_with_options(name, &ParseOptions::default().recursion_limit(DEPTH)).ok()?;
    let mut whole = false;
    let text = Line::of(|line| {
        let made = symbol.structured_demangle(line, &DemangleOptions::default());
        whole = made.is_ok() || line.full;
        made
    });
    whole.then_some(text)
}

/// A text with little room.
#[derive(Default)]
struct Line {
    text: String,
    full: bool,
}

impl Line {
    /// What `write` writes, as far as there is room.
    fn of(write: impl FnOnce(&mut Line) -> fmt::Result) -> String {
        let mut line = Line::default();
        // It fails where the room ends.
        let _ = write(&mut line);
        if line.full {
            line.text.push('…');
        }
        line.text
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = limits::SYMBOL - self.text.len();
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        self.full |= text.len() > room;
        if self.full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_people_write_them() {
        for (name, expected) in [
            ("main", "main"),
            ("", ""),
            ("_ZN6filter4Auth5check17h0123456789abcdefE", "filter::Auth::check::h0123456789abcdef"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate[3c1c0]::foo::bar"),
            ("_ZN6filter5checkEi", "filter::check(int)"),
            ("_ZN6filter5checkE?", "_ZN6filter5checkE?"),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let fits = "é".repeat(limits::SYMBOL / 2);
        assert_eq!(readable(&fits), fits);
        assert_eq!(readable(&format!("x{fits}")), format!("x{}…", "é".repeat(limits::SYMBOL / 2 - 1)));
    }

    /// `f(A<int, int>, A<all before, all before>, …)`: 2 to the power of `n` times `int`.
    fn bomb(n: usize) -> String {
        let digit = |n: usize| char::from_digit(n as u32, 36).unwrap().to_ascii_uppercase();
        let doubled = (0..n).map(|n| format!("S_IS{0}_S{0}_E", digit(n)));
        format!("_Z1f1AIiiE{}", doubled.collect::<String>())
    }

    #[test]
    fn a_small_name_for_something_huge_is_cut_off() {
        let small = readable(&bomb(1));
        assert!(small.starts_with("f(A<int, int>, A<A<int, int>, A<int, int> >"), "{small}");
        // Without an end of it this test would have none.
        let huge = readable(&bomb(24));
        assert!(huge.starts_with("f(A<int, int>, ") && huge.len() == limits::SYMBOL + '…'.len_utf8(), "{huge}");
    }

    #[test]
    fn a_name_that_is_slow_to_read_is_left_as_it_is() {
        let deep = format!("_Z1f{}", "St1aI".repeat(90));
        assert_eq!(readable(&deep), deep);
    }
}

//! A case: text that both sides read, of parts that can be left out.

use std::fmt::Write;

/// A case. Parts that stand or fall together have the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(super) words: Vec<(u32, String)>,
    pub(super) scripts: Vec<Script>,
}

/// Sections, each with its steps.
pub(super) type Script = Vec<(String, Vec<(u32, String)>)>;

/// What can never be left out.
pub(super) const FIXED: u32 = 0;

impl Case {
    /// The request, as `request.rs` reads it.
    pub(crate) fn request(&self) -> String {
        self.words.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// The scripts, as `sides.rs` reads them.
    pub(crate) fn scripts(&self) -> String {
        let script = |script: &Script| {
            let section = |(name, steps): &(String, Vec<(u32, String)>)| {
                let steps: Vec<&str> = steps.iter().map(|(_, step)| step.as_str()).collect();
                format!("{name} {}", steps.join(", "))
            };
            script.iter().map(section).collect::<Vec<_>>().join(" ; ")
        };
        let mut text = String::new();
        for (at, own) in self.scripts.iter().enumerate() {
            let _ = write!(text, "{}{}", ["", " [b] ", " [c] "][at], script(own));
        }
        text
    }

    /// The parts that can be left out, the last ones first.
    pub(crate) fn parts(&self) -> Vec<u32> {
        let steps = self.scripts.iter().flatten().flat_map(|(_, steps)| steps);
        let mut parts: Vec<u32> = self.words.iter().chain(steps).map(|(part, _)| *part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts.retain(|part| *part != FIXED);
        parts.reverse();
        parts
    }

    /// The same without a part.
    pub(crate) fn without(&self, part: u32) -> Case {
        let mut case = self.clone();
        case.words.retain(|(own, _)| *own != part);
        for script in &mut case.scripts {
            for (_, steps) in script.iter_mut() {
                steps.retain(|(own, _)| *own != part);
            }
            script.retain(|(_, steps)| !steps.is_empty());
        }
        case
    }
}

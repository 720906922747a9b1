//! Names of services, filters and rules as one worker interns them, for labels; and how a label is written.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::labels::Label;

/// Most names that one worker interns. Names are services of the mesh; beyond this the mesh is too large for one label
/// per service, and further ones are [`NameId::OTHER`].
pub const MAX_NAMES: usize = 4096;

/// A name that a worker has interned; means nothing to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameId(u16);

impl NameId {
    /// Every name beyond [`MAX_NAMES`]: `other`.
    pub const OTHER: NameId = NameId(0);
    /// A service that is not known: `unknown`.
    pub const UNKNOWN: NameId = NameId(1);
}

impl Label for NameId {
    fn write(self, names: &Names, out: &mut String) {
        escape(names.text.get(usize::from(self.0)).map_or("other", |name| name), out);
    }
}

/// The names that one worker has interned.
#[derive(Debug)]
pub struct Names {
    ids: HashMap<Arc<str>, NameId>,
    text: Vec<Arc<str>>,
}

impl Default for Names {
    fn default() -> Self {
        let mut names = Names { ids: HashMap::new(), text: Vec::new() };
        names.id("other");
        names.id("unknown");
        names
    }
}

impl Names {
    /// The id of a name, the same for equal names; [`NameId::OTHER`] once [`MAX_NAMES`] are known.
    pub fn id(&mut self, name: &str) -> NameId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        match u16::try_from(self.text.len()) {
            Ok(next) if self.text.len() < MAX_NAMES => {
                let name: Arc<str> = name.into();
                self.text.push(name.clone());
                self.ids.insert(name, NameId(next));
                NameId(next)
            }
            _ => NameId::OTHER,
        }
    }
}

/// Appends one `name="value"`, after a comma where something stands before it.
pub(super) fn label(out: &mut String, name: &str, value: impl FnOnce(&mut String)) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    value(out);
    out.push('"');
}

/// Appends a label's value with the three escapes of both text formats.
pub(super) fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        assert_eq!(names.id("unknown"), NameId::UNKNOWN);
        let ids: Vec<_> = (2..MAX_NAMES).map(|i| names.id(&format!("s{i}"))).collect();
        assert!(!ids.contains(&NameId::OTHER));
        assert_eq!(names.id("one too many"), NameId::OTHER);
        assert_eq!(names.id("s2"), ids[0]);
    }
}

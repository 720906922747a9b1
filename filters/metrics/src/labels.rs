//! Header values as a bounded set of labels.

use std::collections::BTreeMap;

/// A longer value is cut here: names of metrics are kept for ever.
const MAX_LENGTH: usize = 64;

/// The label of requests without the header.
const NONE: usize = 0;
/// The label of all values beyond the bound.
const OTHER: usize = 1;

/// Gives each value a small number. The set grows up to its bound and never shrinks.
pub(crate) struct Labels {
    names: Vec<String>,
    indices: BTreeMap<String, usize>,
    room: usize,
}

impl Labels {
    /// The values that come first, up to a number of them, have labels of their own.
    pub(crate) fn first(limit: usize) -> Self {
        let mut labels = Self { names: Vec::new(), indices: BTreeMap::new(), room: limit.saturating_add(2) };
        // A caller who sends "none" or "other" is counted with these.
        labels.add("none".to_owned());
        labels.add("other".to_owned());
        labels
    }

    /// Only these values have labels of their own.
    pub(crate) fn listed(values: &[String]) -> Self {
        let mut labels = Self::first(values.len());
        for value in values {
            labels.index(Some(value));
        }
        labels.room = 0;
        labels
    }

    /// The number of a header's value.
    pub(crate) fn index(&mut self, value: Option<&str>) -> usize {
        let Some(value) = value else { return NONE };
        let name = clean(value);
        match self.indices.get(&name) {
            Some(&index) => index,
            None if self.names.len() < self.room => self.add(name),
            None => OTHER,
        }
    }

    /// The text of a label.
    pub(crate) fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("other", String::as_str)
    }

    fn add(&mut self, name: String) -> usize {
        self.names.push(name.clone());
        self.indices.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }
}

/// Text as it may stand in the name of a metric. Done here and not left to the exporter, for which two values that
/// become one name would be two metrics of one name.
pub(crate) fn clean(text: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    match text {
        "" => "_".to_owned(),
        _ => text.chars().take(MAX_LENGTH).map(clean).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_stable() {
        let mut labels = Labels::first(2);
        let all: Vec<_> =
            [Some("a"), Some("b.c"), Some("d"), Some("a"), Some("b/c"), None, Some("none"), Some("other")]
                .map(|value| labels.index(value))
                .to_vec();
        assert_eq!(all, [2, 3, OTHER, 2, 3, NONE, NONE, OTHER]);
        assert_eq!([labels.name(2), labels.name(3), labels.name(OTHER)], ["a", "b_c", "other"]);
    }

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(clean("a-B.9é"), "a_B_9_");
        assert_eq!(clean(""), "_");
        assert_eq!(clean(&"x".repeat(MAX_LENGTH)).len(), MAX_LENGTH);
        assert_eq!(clean(&"x".repeat(MAX_LENGTH + 1)).len(), MAX_LENGTH);
    }
}

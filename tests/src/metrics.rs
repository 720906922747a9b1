//! The Prometheus text format, read strictly enough to notice what a scraper would refuse.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Every sample in order.
    pub samples: Vec<Sample>,
    /// The type that each family declared.
    pub types: BTreeMap<String, String>,
}

/// One line of a scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads an exposition; panics on a line that is none.
    pub fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                let before = metrics.types.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")));
            }
        }
        metrics
    }

    /// The samples of this name that have all these labels.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |s| {
            s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v))
        })
    }

    /// The sum over [`Metrics::select`]; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|s| s.value).sum()
    }
}

/// `name{label="value",…} number [timestamp]`.
fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"}\"} 2\na_total{x=\"1\",y=\"r\"} 3\nb 1\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 5.0);
        assert_eq!(metrics.sum("a_total", &[("y", "q\"}")]), 2.0);
        assert_eq!(metrics.sum("b", &[]), 1.0);
    }
}

//! The exposition: every metric, summed over threads, as Prometheus text 0.0.4 or OpenMetrics 1.0.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::cell::{Bounds, Counter, Gauge, Histogram};
use super::family::{Kind, Readable, Series};
use super::guest::{GuestCell, GuestSeries};
use super::labels::{escape, label};
use super::metrics::{Block, LIST, Registry};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` value asks for; [`Format::Prometheus`] unless OpenMetrics 1.0 weighs at least as much.
    pub fn negotiate(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for item in accept.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match (name.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => open = weight.max(open),
                ("text/plain", None | Some("0.0.4")) => plain = weight.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// The `Content-Type` of the format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything that the threads of a registry have written so far.
pub fn expose(registry: &Registry, format: Format) -> String {
    let blocks = registry.blocks();
    let mut page = Page { format, out: String::new() };
    let mut taken = HashSet::new();
    for (i, metric) in LIST.iter().enumerate() {
        claims(metric.name, metric.kind, |name| {
            taken.insert(name.to_owned());
        });
        page.family(metric.name, metric.kind, metric.help, &builtin(&blocks, i));
    }
    for ((name, kind), series) in guests(&blocks) {
        let name = free_name(name, kind, &mut taken);
        page.family(&name, kind, "Defined by a filter.", &series);
    }
    if format == Format::OpenMetrics {
        page.out.push_str("# EOF\n");
    }
    page.out
}

/// The values of one family by their labels.
type Values = BTreeMap<Arc<str>, Value>;

/// One value, summed over threads.
#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(u64),
    Histogram { bounds: &'static Bounds, buckets: Vec<u64>, sum: u64 },
}

impl Value {
    fn add(&mut self, other: Value) {
        match (self, other) {
            (Value::Counter(a), Value::Counter(b)) | (Value::Gauge(a), Value::Gauge(b)) => *a = a.wrapping_add(b),
            (Value::Histogram { buckets, sum, .. }, Value::Histogram { buckets: more, sum: plus, .. }) => {
                buckets.iter_mut().zip(more).for_each(|(a, b)| *a = a.wrapping_add(b));
                *sum = sum.wrapping_add(plus);
            }
            // One family has one kind: both sides come from the same line of the list, or the same key of `guests`.
            (Value::Counter(_) | Value::Gauge(_) | Value::Histogram { .. }, _) => {}
        }
    }
}

impl From<&Counter> for Value {
    fn from(counter: &Counter) -> Self {
        Value::Counter(counter.read())
    }
}

impl From<&Gauge> for Value {
    fn from(gauge: &Gauge) -> Self {
        Value::Gauge(gauge.read())
    }
}

impl From<&Histogram> for Value {
    fn from(histogram: &Histogram) -> Self {
        let buckets = histogram.buckets().collect();
        Value::Histogram { bounds: histogram.bounds(), buckets, sum: histogram.sum() }
    }
}

fn put(values: &mut Values, labels: Arc<str>, value: Value) {
    match values.get_mut(&labels) {
        Some(sum) => sum.add(value),
        None => {
            values.insert(labels, value);
        }
    }
}

/// The metric at one place of the list.
fn builtin(blocks: &[Arc<Block>], place: usize) -> Values {
    fn read<C>(values: &mut Values, series: Vec<Series<C>>)
    where
        Value: for<'a> From<&'a C>,
    {
        for Series { labels, cell } in series {
            put(values, labels, Value::from(&*cell));
        }
    }
    let mut values = Values::new();
    for family in blocks.iter().filter_map(|block| block.families.get(place)) {
        match family {
            Readable::Counter(shared) => read(&mut values, shared.series()),
            Readable::Gauge(shared) => read(&mut values, shared.series()),
            Readable::Histogram(shared) => read(&mut values, shared.series()),
        }
    }
    values
}

/// What guests have defined, by the name that Prometheus allows. Of a filter's names that would be the same one, those that are
/// not it already are told apart by a label.
fn guests(blocks: &[Arc<Block>]) -> BTreeMap<(String, Kind), Values> {
    let mut defined: BTreeMap<_, BTreeMap<String, BTreeMap<Arc<str>, Value>>> = BTreeMap::new();
    for GuestSeries { filter, kind, name, cell } in blocks.iter().flat_map(|block| block.guests.series()) {
        let (name, mut own) = labelled(&name);
        // In whatever order a guest writes them, they are the same.
        own.sort_unstable();
        let mut labels = String::new();
        label(&mut labels, "filter", |out| escape(&filter, out));
        for (name, value) in own {
            label(&mut labels, name, |out| escape(value, out));
        }
        let value = match &cell {
            GuestCell::Counter(counter) => Value::from(&**counter),
            GuestCell::Gauge(gauge) => Value::from(&**gauge),
            GuestCell::Histogram(histogram) => Value::from(&**histogram),
        };
        put(defined.entry((allowed(name), kind)).or_default().entry(labels).or_default(), name.into(), value);
    }
    let mut families: BTreeMap<_, Values> = BTreeMap::new();
    for (family, series) in defined {
        let values = families.entry(family.clone()).or_default();
        for (labels, named) in series {
            let alone = named.len() == 1;
            for (name, value) in named {
                let mut labels = labels.clone();
                if !alone && *name != *family.0 {
                    label(&mut labels, DEFINED_AS, |out| escape(&name, out));
                }
                put(values, labels.into(), value);
            }
        }
    }
    families
}

/// The label of a guest's metric whose name is that of another one in Prometheus: the name that it was given.
const DEFINED_AS: &str = "defined_as";

/// The labels that a guest has put into a name, as Istio's filters do and its Envoys take them out:
/// `LABEL=.=VALUE;.;LABEL=.=VALUE;.;NAME`. A name with a label that cannot be one is taken as it is.
fn labelled(whole: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((labels, name)) = whole.rsplit_once(";.;") else { return (whole, Vec::new()) };
    let mut found: Vec<(&str, &str)> = Vec::new();
    for part in labels.split(";.;") {
        match part.split_once("=.=") {
            Some((label, value)) if is_label(label) && found.iter().all(|(other, _)| *other != label) => {
                found.push((label, value));
            }
            _ => return (whole, Vec::new()),
        }
    }
    (name, found)
}

/// Whether a guest's label can stand beside ours: `[a-zA-Z_][a-zA-Z0-9_]*`, and not what we set.
fn is_label(name: &str) -> bool {
    !matches!(name, "filter" | "le" | DEFINED_AS)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A name with `_` for what Prometheus does not allow: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
fn allowed(name: &str) -> String {
    let first_is_wrong = name.chars().next().is_none_or(|c| c.is_ascii_digit());
    let rest = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' });
    first_is_wrong.then_some('_').into_iter().chain(rest).collect()
}

/// A guest's name, or where it would be mistaken for another metric's, one with the kind (and a number) at its end.
fn free_name(name: String, kind: Kind, taken: &mut HashSet<String>) -> String {
    let mut candidate = name.clone();
    let mut attempt = 1_u32;
    loop {
        let mut names = Vec::new();
        claims(&candidate, kind, |name| names.push(name.to_owned()));
        if !names.iter().any(|name| taken.contains(name)) {
            taken.extend(names);
            return candidate;
        }
        candidate = match attempt {
            1 => format!("{name}_{}", kind.token()),
            _ => format!("{name}_{}_{attempt}", kind.token()),
        };
        attempt += 1;
    }
}

/// Every name by which a family could be known, in either format.
fn claims(name: &str, kind: Kind, mut claim: impl FnMut(&str)) {
    claim(name);
    match kind {
        Kind::Counter => {
            if let Some(base) = name.strip_suffix("_total") {
                claim(base);
                claim(&format!("{base}_created"));
            }
        }
        Kind::Gauge => {}
        Kind::Histogram => {
            ["_bucket", "_count", "_sum", "_created"].iter().for_each(|end| claim(&format!("{name}{end}")))
        }
    }
}

struct Page {
    format: Format,
    out: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: Kind, help: &str, values: &Values) {
        let (family, token) = match (self.format, kind, name.strip_suffix("_total")) {
            (Format::OpenMetrics, Kind::Counter, Some(base)) => (base, kind.token()),
            // OpenMetrics knows no counter without `_total`; a guest's name stays as it is and loses its type instead.
            (Format::OpenMetrics, Kind::Counter, None) => (name, "unknown"),
            _ => (name, kind.token()),
        };
        self.line(format_args!("# HELP {family} {help}"));
        self.line(format_args!("# TYPE {family} {token}"));
        if self.format == Format::OpenMetrics
            && let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| ends_in_unit(family, unit))
        {
            self.line(format_args!("# UNIT {family} {unit}"));
        }
        for (labels, value) in values {
            match value {
                Value::Counter(n) => self.sample(name, "", labels, "", format_args!("{n}")),
                Value::Gauge(n) => self.sample(name, "", labels, "", format_args!("{}", n.cast_signed())),
                Value::Histogram { bounds, buckets, sum } => self.histogram(name, labels, bounds, buckets, *sum),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, bounds: &Bounds, buckets: &[u64], sum: u64) {
        let mut count = 0_u64;
        let ends = bounds.steps.iter().map(|&(_, text)| text).chain(["+Inf"]);
        for (end, n) in ends.zip(buckets) {
            count = count.wrapping_add(*n);
            self.sample(name, "_bucket", labels, end, format_args!("{count}"));
        }
        match bounds.scale {
            0 | 1 => self.sample(name, "_sum", labels, "", format_args!("{sum}")),
            scale => {
                let digits = scale.ilog10() as usize;
                self.sample(name, "_sum", labels, "", format_args!("{}.{:0digits$}", sum / scale, sum % scale));
            }
        }
        self.sample(name, "_count", labels, "", format_args!("{count}"));
    }

    fn sample(&mut self, name: &str, end: &str, labels: &str, le: &str, value: std::fmt::Arguments<'_>) {
        let comma = if labels.is_empty() { "" } else { "," };
        match (labels, le) {
            ("", "") => self.line(format_args!("{name}{end} {value}")),
            (_, "") => self.line(format_args!("{name}{end}{{{labels}}} {value}")),
            _ => self.line(format_args!("{name}{end}{{{labels}{comma}le=\"{le}\"}} {value}")),
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{text}");
    }
}

fn ends_in_unit(family: &str, unit: &str) -> bool {
    family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'))
}

#[cfg(test)]
mod tests;

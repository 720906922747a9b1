//! Counters and histograms by chosen attributes of requests, and Istio's standard metrics.

mod istio;
mod labels;
mod series;

use std::cell::RefCell;
use std::collections::BTreeSet;

use istio::Istio;
use labels::Label;
use lacis_sdk::{ConfigError, End, Filter};
use serde::Deserialize;
use series::{Group, Kind, Metric, Of};

/// The filter's configuration, with `metrics`, `preset` or both.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Metrics that others have standardized.
    preset: Option<Preset>,
    /// Metrics of one's own.
    #[serde(default)]
    metrics: Vec<Entry>,
    /// Most combinations of values that one metric has on each worker. All beyond are one more, with `other` everywhere.
    /// With that one they are at most 4096 for all metrics together, of which the preset has four.
    #[serde(default = "default_series")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1, max = 4095)))]
    series: usize,
}

/// Metrics that others have standardized.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// Istio's: istio_requests_total, istio_request_duration_milliseconds, istio_request_bytes, istio_response_bytes.
    Istio,
}

/// A metric.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The metric's name.
    name: String,
    /// What is counted or measured.
    #[serde(default = "requests")]
    of: Of,
    /// Default: a counter of requests, a histogram of anything else.
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// The labels, in order.
    #[serde(default)]
    labels: Vec<labels::Entry>,
}

/// The four of the preset and four of one's own fit into what a worker has.
const DEFAULT_SERIES: usize = 500;
/// As many metrics as a worker of Lacis has; a module on the proxy-wasm crate ends when it is refused one.
const MAX_ALL: usize = 4096;
/// As many as there are metrics in Istio's preset.
const OF_PRESET: usize = 4;

fn default_series() -> usize {
    DEFAULT_SERIES
}

fn requests() -> Of {
    Of::Requests
}

/// The filter.
pub struct Metrics {
    own: RefCell<Vec<(Vec<Label>, Group)>>,
    istio: Option<RefCell<Istio>>,
}

impl Filter for Metrics {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { preset, metrics, series } = config;
        if preset.is_none() && metrics.is_empty() {
            return Err("it counts nothing; it needs `metrics`, or `preset: istio`".into());
        }
        let count = metrics.len() + if preset.is_some() { OF_PRESET } else { 0 };
        let most = (MAX_ALL / count).saturating_sub(1);
        if series == 0 || series > most {
            return Err(format!("`series` is {series}; with {count} metrics it may be 1 to {most}").into());
        }
        let mut names = BTreeSet::new();
        let mut own = Vec::new();
        for (index, entry) in metrics.into_iter().enumerate() {
            let made = entry.make(series).map_err(|error| format!("metrics[{index}]: {error}"))?;
            if !names.insert(made.0.clone()) {
                return Err(format!("metrics[{index}]: there is a metric {:?} before it", made.0).into());
            }
            own.push((made.1, made.2));
        }
        let istio = preset.map(|Preset::Istio| RefCell::new(Istio::new(series)));
        Ok(Self { own: RefCell::new(own), istio })
    }

    fn on_end(&self, end: &End) {
        for (labels, group) in self.own.borrow_mut().iter_mut() {
            let values: Vec<u32> = labels.iter_mut().map(|label| label.index(end)).collect();
            group.count(end, &values, || {
                labels.iter().zip(&values).map(|(label, value)| (label.name.as_str(), label.value(*value)))
            });
        }
        if let Some(istio) = &self.istio {
            istio.borrow_mut().count(end);
        }
    }
}

impl Entry {
    fn make(self, most: usize) -> Result<(String, Vec<Label>, Group), String> {
        let Entry { name, of, kind, labels } = self;
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(word) || name.starts_with(|first: char| first.is_ascii_digit()) || name.is_empty() {
            return Err(format!("{name:?} is no name of a metric: letters, digits and _, no digit first"));
        }
        let labels: Vec<Label> = labels.into_iter().map(Label::new).collect::<Result<_, _>>()?;
        let names: BTreeSet<&str> = labels.iter().map(|label| label.name.as_str()).collect();
        if names.len() < labels.len() {
            return Err("two labels have the same name".to_owned());
        }
        let kind = kind.unwrap_or(if of == Of::Requests { Kind::Counter } else { Kind::Histogram });
        if kind == Kind::Histogram && of == Of::Requests {
            return Err("each exchange is one request: a histogram needs another `of`".to_owned());
        }
        let group = Group::new(vec![Metric { name: name.clone(), of, kind }], most);
        Ok((name, labels, group))
    }
}

lacis_sdk::filter!(Metrics);

#[cfg(test)]
mod tests;

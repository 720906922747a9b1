//! Counts requests by the value of a header and the class of the response's status.

mod labels;

use std::cell::RefCell;

use labels::Labels;
use lacis_sdk::{ConfigError, Counter, Filter, Flow, Reply, Request, Response};
use serde::Deserialize;

/// The filter's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header whose values are counted.
    header: String,
    /// What the counters' names begin with; `requests_by_HEADER` unless set.
    name: Option<String>,
    /// The values that are counted on their own; empty: those that come first.
    #[serde(default)]
    values: Vec<String>,
    /// How many values are counted on their own where `values` does not list them.
    #[serde(default = "default_limit")]
    limit: usize,
}

/// Each value costs up to five counters on every worker.
const DEFAULT_LIMIT: usize = 32;
/// Above this a scrape of the metrics is mostly this filter's.
const MAX_LIMIT: usize = 1000;

fn default_limit() -> usize {
    DEFAULT_LIMIT
}

/// The filter.
pub struct Metrics {
    header: String,
    name: String,
    series: RefCell<Series>,
}

struct Series {
    labels: Labels,
    /// By the label's index and the first digit of the status.
    counters: Vec<[Option<Counter>; 5]>,
}

/// The label of a request, kept for its response.
struct Label(usize);

impl Filter for Metrics {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { header, name, values, limit } = config;
        if !lacis_sdk::is_header_name(&header) {
            return Err(format!("`header` is {header:?}, which is no name of a header").into());
        }
        if limit == 0 || limit > MAX_LIMIT || values.len() > MAX_LIMIT {
            return Err(format!("`limit` must be 1 to {MAX_LIMIT}, and `values` at most as many").into());
        }
        let name = labels::clean(&name.unwrap_or_else(|| format!("requests_by_{header}")));
        let labels = if values.is_empty() { Labels::first(limit) } else { Labels::listed(&values) };
        Ok(Self { header, name, series: RefCell::new(Series { labels, counters: Vec::new() }) })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let value = request.headers().get(&self.header);
        let label = self.series.borrow_mut().labels.index(value.as_ref().map(|value| value.to_text()).as_deref());
        request.keep(Label(label));
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        // Without a label the request never came here: the proxy refused it.
        if let Some(&Label(label)) = response.kept() {
            self.count(label, response.status());
        }
        Ok(Flow::Leave)
    }
}

impl Metrics {
    fn count(&self, label: usize, status: u16) {
        let Series { labels, counters } = &mut *self.series.borrow_mut();
        let class = status / 100;
        if counters.len() <= label {
            counters.resize(label + 1, [None; 5]);
        }
        let slot = counters.get_mut(label).and_then(|classes| classes.get_mut(usize::from(class).wrapping_sub(1)));
        if let Some(slot) = slot {
            slot.get_or_insert_with(|| Counter::new(&format!("{}_{}_{class}xx_total", self.name, labels.name(label))))
                .add(1);
        }
    }
}

lacis_sdk::filter!(Metrics);

#[cfg(test)]
mod tests {
    use lacis_sdk::testing::{Message, Plugin};

    use super::*;

    fn pass(plugin: &Plugin<Metrics>, tenant: Option<&[u8]>, status: u16) {
        let mut exchange = plugin.exchange();
        let request = Message::get("/");
        let request = match tenant {
            Some(tenant) => request.header("x-tenant", tenant),
            None => request,
        };
        assert_eq!(exchange.request(request.clone()), Ok(request));
        assert_eq!(exchange.response(Message::response(status)), Ok(Message::response(status)));
    }

    #[test]
    fn requests_are_counted_by_value_and_class() {
        let plugin = Plugin::configure(r#"{"header": "x-tenant"}"#).unwrap();
        for (tenant, status) in [("blue", 200), ("blue", 204), ("blue", 503), ("red/1", 404)] {
            pass(&plugin, Some(tenant.as_bytes()), status);
        }
        pass(&plugin, None, 200);
        pass(&plugin, Some(b"\xff"), 200);
        assert_eq!(plugin.metric("requests_by_x_tenant_blue_2xx_total"), Some(2));
        assert_eq!(plugin.metric("requests_by_x_tenant_blue_5xx_total"), Some(1));
        assert_eq!(plugin.metric("requests_by_x_tenant_red_1_4xx_total"), Some(1));
        assert_eq!(plugin.metric("requests_by_x_tenant_none_2xx_total"), Some(1));
        assert_eq!(plugin.metric("requests_by_x_tenant___2xx_total"), Some(1));
        assert_eq!(plugin.metrics().len(), 5);
    }

    #[test]
    fn callers_cannot_make_counters_without_end() {
        let plugin = Plugin::configure(r#"{"header": "x-tenant", "name": "tenants", "limit": 2}"#).unwrap();
        for number in 0..100 {
            pass(&plugin, Some(format!("t{number}").as_bytes()), 200);
        }
        assert_eq!(plugin.metrics(), ["tenants_t0_2xx_total", "tenants_t1_2xx_total", "tenants_other_2xx_total"]);
        assert_eq!(plugin.metric("tenants_other_2xx_total"), Some(98));
    }

    #[test]
    fn only_listed_values_are_counted_on_their_own() {
        let plugin = Plugin::configure(r#"{"header": "x-tenant", "name": "tenants", "values": ["gold"]}"#).unwrap();
        pass(&plugin, Some(b"blue"), 200);
        pass(&plugin, Some(b"gold"), 200);
        assert_eq!(plugin.metrics(), ["tenants_other_2xx_total", "tenants_gold_2xx_total"]);
    }

    #[test]
    fn a_response_without_a_request_or_a_status_is_not_counted() {
        let plugin = Plugin::<Metrics>::configure(r#"{"header": "x-tenant"}"#).unwrap();
        plugin.exchange().response(Message::response(400)).unwrap();
        pass(&plugin, None, 0);
        pass(&plugin, None, 999);
        assert_eq!(plugin.metrics().len(), 0);
    }

    #[test]
    fn limits_are_checked_at_their_edges() {
        for (limit, fine) in [(0, false), (1, true), (MAX_LIMIT, true), (MAX_LIMIT + 1, false)] {
            let config = format!(r#"{{"header": "x-tenant", "limit": {limit}}}"#);
            assert_eq!(Plugin::<Metrics>::configure(&config).is_ok(), fine, "{limit}");
        }
        let error = Plugin::<Metrics>::configure("").err().unwrap();
        assert!(error.contains("missing field `header`"), "{error}");
        let error = Plugin::<Metrics>::configure(r#"{"header": ""}"#).err().unwrap();
        assert!(error.contains("no name of a header"), "{error}");
    }
}

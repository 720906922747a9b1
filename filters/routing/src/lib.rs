//! Sends requests to another service by a header.

mod rules;

use lacis_sdk::{ConfigError, Filter, Flow, Reply, Request};
use rules::Rule;
use serde::Deserialize;

/// The filter's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules; the first that matches decides.
    rules: Vec<rules::Entry>,
}

/// The filter.
pub struct Routing {
    rules: Vec<Rule>,
}

impl Filter for Routing {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.rules.is_empty() {
            return Err("`rules` is empty: the filter would do nothing".into());
        }
        let rules = config.rules.into_iter().enumerate();
        let rules = rules.map(|(index, entry)| Rule::new(entry).map_err(|error| format!("rules[{index}]: {error}")));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let matching = self.rules.iter().find(|rule| {
            let value = request.headers().get(&rule.header);
            rule.matches(value.as_ref().map(|value| value.as_bytes()))
        });
        if let Some(rule) = matching {
            request.send_to(&rule.service)?;
        }
        Ok(Flow::Leave)
    }
}

lacis_sdk::filter!(Routing);

#[cfg(test)]
mod tests {
    use lacis_sdk::testing::{Message, Plugin};

    use super::*;

    const CONFIG: &str = r#"{"rules": [
        {"header": "x-canary", "value": "yes", "service": "delta-v2"},
        {"header": "x-tenant", "prefix": "blue-", "service": "delta-blue"},
        {"header": "x-debug", "present": true, "service": "delta-debug:8080"},
        {"header": "user-agent", "present": false, "service": "delta-robots"}
    ]}"#;

    fn service(request: Message) -> (String, Option<String>) {
        let plugin = Plugin::<Routing>::configure(CONFIG).unwrap();
        let passed = plugin.exchange().request(request.header(":authority", "delta")).unwrap();
        (passed.value(":authority").unwrap(), passed.value("x-forwarded-host"))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let browser = || Message::get("/").header("user-agent", "curl");
        for (request, expected) in [
            (browser().header("x-canary", "yes"), "delta-v2"),
            (browser().header("x-canary", "yes").header("x-tenant", "blue-1"), "delta-v2"),
            (browser().header("x-canary", "yes!").header("x-tenant", "blue-1"), "delta-blue"),
            (browser().header("x-debug", ""), "delta-debug:8080"),
            (Message::get("/"), "delta-robots"),
        ] {
            assert_eq!(service(request), (expected.to_owned(), Some("delta".to_owned())));
        }
    }

    #[test]
    fn other_requests_stay_as_they_are() {
        let request = Message::get("/").header("user-agent", b"\xff").header("x-tenant", "blue");
        assert_eq!(service(request), ("delta".to_owned(), None));
    }

    #[test]
    fn a_forged_original_is_replaced() {
        let request = Message::get("/").header("x-canary", "yes").header("x-forwarded-host", "forged");
        assert_eq!(service(request), ("delta-v2".to_owned(), Some("delta".to_owned())));
    }

    #[test]
    fn mistakes_in_rules_are_named() {
        for (config, why) in [
            ("", "missing field `rules`"),
            (r#"{"rules": []}"#, "`rules` is empty"),
            (r#"{"rules": [{"header": "a", "service": "b"}]}"#, "rules[0]: exactly one of"),
            (r#"{"rules": [{"header": "a", "value": "b", "present": true, "service": "b"}]}"#, "exactly one of"),
            (r#"{"rules": [{"header": "a b", "value": "b", "service": "b"}]}"#, "no name of a header"),
            (r#"{"rules": [{"header": "a", "value": "b", "service": ""}]}"#, "no name of a service"),
            (r#"{"rules": [{"header": "a", "value": "b", "service": "a b"}]}"#, "no name of a service"),
            (r#"{"rules": [{"header": "a", "regex": "b", "service": "b"}]}"#, "unknown field `regex`"),
        ] {
            let error = Plugin::<Routing>::configure(config).err().unwrap();
            assert!(error.contains(why), "{config}: {error}");
        }
    }
}

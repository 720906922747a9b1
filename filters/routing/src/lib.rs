//! Sends requests to other services: canaries, shares of users, time windows, shadows.

mod rules;
mod window;

use lacis_sdk::{Call, ConfigError, Filter, Flow, Reply, Request};
use rules::{Rule, World};
use serde::Deserialize;

/// The filter's configuration.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules, in order: the first that is for a request and has `to` decides where it goes; those before it that have
    /// no `to` count, too.
    rules: Vec<rules::Entry>,
    /// The header that names the service to which a request is to be mirrored. Nobody else can set it.
    #[serde(default = "default_mark")]
    mark: String,
}

fn default_mark() -> String {
    "x-mirror-to".to_owned()
}

/// The filter.
pub struct Routing {
    rules: Vec<Rule>,
    /// Absent where no rule mirrors.
    mark: Option<String>,
}

impl Filter for Routing {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { rules, mark } = config;
        if rules.is_empty() {
            return Err("`rules` is empty: the filter would do nothing".into());
        }
        if !lacis_sdk::is_header_name(&mark) {
            return Err(format!("`mark` is {mark:?}, which is no name of a header").into());
        }
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(index, entry)| Rule::new(entry).map_err(|error| format!("rules[{index}]: {error}")));
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
        let mark = rules.iter().any(|rule| rule.mirror.is_some()).then_some(mark);
        Ok(Self { rules, mark })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let world = World { now: lacis_sdk::now, random: lacis_sdk::random_u64 };
        if let Some(mark) = &self.mark {
            request.headers_mut().remove(mark);
        }
        for rule in self.rules.iter() {
            if !rule.is_for(request, &world) {
                continue;
            }
            if let Some((mark, service)) = self.mark.as_ref().zip(rule.mirror.as_ref()) {
                request.headers_mut().set(mark, service)?;
            }
            if let Some(service) = &rule.shadow {
                shadow(request, service);
            }
            if let Some(service) = rule.service(request, &world) {
                request.send_to(service)?;
                break;
            }
        }
        Ok(Flow::Leave)
    }
}

/// Headers that are about one connection, or about a body.
const NOT_COPIED: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Sends a copy of a request without a body to another service. As Envoy's, its authority ends in `-shadow`.
fn shadow(request: &Request, service: &str) {
    if request.has_body() {
        return;
    }
    let mut call = Call::new(&request.method(), service, &request.path());
    for (name, value) in request.headers().all() {
        if !name.starts_with(':') && !NOT_COPIED.contains(&name.as_str()) && value.as_str().is_some() {
            call = call.header(&name, value);
        }
    }
    let call = call.authority(&format!("{}-shadow", request.authority()));
    lacis_sdk::spawn(async move {
        // Nobody waits for the answer; what went wrong is in the proxy's own metrics of that service.
        if let Err(error) = call.send().await {
            lacis_sdk::debug!("a copy was not sent: {error}");
        }
    });
}

lacis_sdk::filter!(Routing);

#[cfg(test)]
mod tests;

//! Lets requests with the key in, counts them, and sends some of them to the canary.

use lacis_sdk::{ConfigError, Counter, Filter, Flow, Reply, Request, Response};
use serde::Deserialize;
use subtle::ConstantTimeEq;

#[derive(Deserialize)]
struct Config {
    key: String,
    canary: String,
}

struct Doorkeeper {
    config: Config,
    allowed: Counter,
    denied: Counter,
}

impl Filter for Doorkeeper {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.key.is_empty() || config.canary.is_empty() {
            return Err("the configuration needs `key` and `canary`, two texts".into());
        }
        let allowed = Counter::new("requests_allowed_total");
        Ok(Self { config, allowed, denied: Counter::new("requests_denied_total") })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let key = request.headers().get("x-api-key");
        if !key.is_some_and(|key| key.as_bytes().ct_eq(self.config.key.as_bytes()).into()) {
            self.denied.add(1);
            let reply = Reply::new(401).header("www-authenticate", "ApiKey header=\"x-api-key\"");
            return Err(reply.body("an API key is required (header x-api-key)\n"));
        }
        self.allowed.add(1);
        if request.headers().get("x-canary").is_some_and(|canary| canary == *"yes") {
            request.send_to(&self.config.canary)?;
        }
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        response.headers_mut().set("x-checked-by", "doorkeeper")?;
        Ok(Flow::Continue)
    }
}

lacis_sdk::filter!(Doorkeeper);

#[cfg(test)]
mod tests {
    use lacis_sdk::testing::{Message, Plugin};

    use super::*;

    fn plugin() -> Plugin<Doorkeeper> {
        Plugin::configure(r#"{"key": "open-sesame", "canary": "hello-canary"}"#).unwrap()
    }

    #[test]
    fn a_request_without_the_key_is_refused() {
        let reply = plugin().exchange().request(Message::get("/")).unwrap_err();
        assert_eq!(reply.status(), 401);
    }

    #[test]
    fn some_go_to_the_canary() {
        let request = Message::get("/").header("x-api-key", "open-sesame").header("x-canary", "yes");
        let passed = plugin().exchange().request(request).unwrap();
        assert_eq!(passed.value(":authority").as_deref(), Some("hello-canary"));
    }
}

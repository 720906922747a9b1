//! Adds a greeting to each response.

use lacis_sdk::{ConfigError, Filter, Flow, Reply, Response};
use serde::Deserialize;

#[derive(Deserialize)]
struct Greeting {
    text: String,
}

impl Filter for Greeting {
    type Config = Self;

    fn new(config: Self) -> Result<Self, ConfigError> {
        Ok(config)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        response.headers_mut().set("x-greeting", &self.text)?;
        Ok(Flow::Continue)
    }
}

lacis_sdk::filter!(Greeting);

#[cfg(test)]
mod tests {
    use lacis_sdk::testing::{Message, Plugin};

    use super::*;

    #[test]
    fn responses_are_greeted() {
        let plugin = Plugin::<Greeting>::configure(r#"{"text": "hello"}"#).unwrap();
        let response = plugin.exchange().response(Message::response(200)).unwrap();
        assert_eq!(response.value("x-greeting").as_deref(), Some("hello"));
    }
}

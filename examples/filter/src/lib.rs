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

//! What `benches/filter` does, on the SDK: what is more is what the SDK costs.

use lacis_sdk::{ConfigError, End, Filter, Flow, Reply, Request, Response};

struct Tag;

/// That the path was known, kept with the exchange.
struct Known;

impl Filter for Tag {
    type Config = ();

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Tag)
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let known = request.path().starts_with("/");
        request.headers_mut().set("x-known", if known { "yes" } else { "no" })?;
        if known {
            request.keep(Known);
        }
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        response.headers_mut().set("x-filtered", "yes")?;
        Ok(Flow::Continue)
    }

    fn on_end(&self, end: &End) {
        if end.kept::<Known>().is_some() {
            lacis_sdk::debug!("a known path");
        }
    }
}

lacis_sdk::filter!(Tag);

//! Lets in only requests that carry a known API key.

mod keys;

use keys::Keys;
use lacis_sdk::{ConfigError, Filter, Flow, Reply, Request};
use serde::Deserialize;

/// The filter's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header that carries the key.
    #[serde(default = "default_header")]
    header: String,
    /// The keys that are let in.
    keys: Vec<keys::Entry>,
    /// The header that tells the service the name of the key; absent: none does.
    forward_name: Option<String>,
    /// Whether the service sees the key itself.
    #[serde(default)]
    forward_key: bool,
}

fn default_header() -> String {
    "x-api-key".to_owned()
}

/// The filter.
pub struct Auth {
    header: String,
    keys: Keys,
    forward_name: Option<String>,
    forward_key: bool,
}

impl Filter for Auth {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { header, keys, forward_name, forward_key } = config;
        for name in [Some(&header), forward_name.as_ref()].into_iter().flatten() {
            if !lacis_sdk::is_header_name(name) {
                return Err(format!("{name:?} is no name of a header").into());
            }
        }
        Ok(Self { header, keys: Keys::new(&keys)?, forward_name, forward_key })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let Some(key) = request.headers().get(&self.header) else {
            return Err(self.refuse("an API key is required"));
        };
        let Some(name) = self.keys.find(key.as_bytes()) else {
            return Err(self.refuse("the API key is not known"));
        };
        if !self.forward_key {
            request.headers_mut().remove(&self.header);
        }
        if let Some(header) = &self.forward_name {
            request.headers_mut().set(header, name)?;
        }
        Ok(Flow::Leave)
    }
}

impl Auth {
    fn refuse(&self, why: &str) -> Reply {
        let challenge = format!("ApiKey header=\"{}\"", self.header);
        Reply::new(401).header("www-authenticate", &challenge).body(format!("{why} (header {})\n", self.header))
    }
}

lacis_sdk::filter!(Auth);

#[cfg(test)]
mod tests {
    use lacis_sdk::testing::{Message, Plugin};

    use super::*;

    // printf %s open-sesame | sha256sum
    const SHA256: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

    fn plugin(more: &str) -> Plugin<Auth> {
        let config = format!(r#"{{"keys": [{{"name": "ali-baba", "sha256": "{SHA256}"}}]{more}}}"#);
        Plugin::configure(&config).unwrap()
    }

    #[test]
    fn a_known_key_passes_and_is_not_shown_to_the_service() {
        let request = Message::get("/").header("X-API-Key", "open-sesame");
        let passed = plugin("").exchange().request(request).unwrap();
        assert_eq!(passed, Message::get("/"));
    }

    #[test]
    fn the_service_sees_what_the_configuration_says() {
        let plugin = plugin(r#", "header": "x-token", "forward_name": "x-api-client", "forward_key": true"#);
        let request = Message::get("/").header("x-token", "open-sesame").header("x-api-client", "forged");
        let passed = plugin.exchange().request(request).unwrap();
        assert_eq!(passed.value("x-token").unwrap(), "open-sesame");
        assert_eq!(passed.value("x-api-client").unwrap(), "ali-baba");
    }

    #[test]
    fn other_requests_get_401() {
        let plugin = plugin("");
        for (request, why) in [
            (Message::get("/"), "an API key is required"),
            (Message::get("/").header("x-api-key", ""), "the API key is not known"),
            (Message::get("/").header("x-api-key", "open-sesam"), "the API key is not known"),
            (Message::get("/").header("x-api-key", b"\xff\xfe"), "the API key is not known"),
            (Message::get("/").header("x-api-key", "wrong").header("x-api-key", "open-sesame"), "the API key is not"),
        ] {
            let reply = plugin.exchange().request(request).unwrap_err();
            assert_eq!(reply.status(), 401);
            assert_eq!(reply.header_value("www-authenticate"), Some("ApiKey header=\"x-api-key\""));
            assert!(String::from_utf8_lossy(reply.content()).starts_with(why));
        }
    }

    #[test]
    fn a_configuration_that_protects_nothing_is_refused() {
        let key = |sha256: &str| format!(r#"{{"name": "a", "sha256": "{sha256}"}}"#);
        for (config, why) in [
            (String::new(), "missing field `keys`"),
            (r#"{"keys": []}"#.to_owned(), "`keys` is empty"),
            (format!(r#"{{"keys": [{}]}}"#, key("abc")), "64 hexadecimal digits"),
            (format!(r#"{{"keys": [{0}, {0}]}}"#, key(SHA256)), "the same `sha256`"),
            (format!(r#"{{"keys": [{}], "header": "x y"}}"#, key(SHA256)), "no name of a header"),
            (format!(r#"{{"keys": [{}], "haeder": "x"}}"#, key(SHA256)), "unknown field `haeder`"),
            (format!(r#"{{"keys": [{{"name": "a\nb", "sha256": "{SHA256}"}}]}}"#), "no value of a header"),
        ] {
            let error = Plugin::<Auth>::configure(&config).err().unwrap();
            assert!(error.contains(why), "{config}: {error}");
        }
    }
}

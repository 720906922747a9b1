//! Cross-origin requests of browsers, as the Fetch standard has them (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

mod origin;

use lacis_sdk::{ConfigError, Filter, Flow, InvalidHeader, Reply, Request, Response, is_header_name};
use origin::Origins;
use serde::Deserialize;

/// The filter's configuration.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The origins whose pages may read responses: `https://app.example`, `https://*.example`, `http://localhost:*`,
    /// `null`, or `*` for all.
    origins: Vec<String>,
    /// The methods that they may use, besides GET, HEAD and POST, which need no permission.
    #[serde(default = "default_methods")]
    methods: Vec<String>,
    /// The request headers that they may set, `*` for all.
    #[serde(default)]
    headers: Vec<String>,
    /// The response headers that they may read, `*` for all (not with `credentials`).
    #[serde(default)]
    expose: Vec<String>,
    /// Whether cookies and the like may be sent along. Needs a list of origins.
    #[serde(default)]
    credentials: bool,
    /// Seconds for which a browser may remember the answer to a preflight.
    #[serde(default = "default_max_age")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 0, max = 86400)))]
    max_age: u32,
    /// Whether requests of other origins are refused with 403. Else they pass, and the page cannot read the response.
    #[serde(default)]
    refuse: bool,
}

/// Browsers bound it themselves: Chromium by two hours, Firefox by a day.
const MAX_AGE: u32 = 86_400;
/// A mistake in `origins` is over soon after it was mended.
const DEFAULT_AGE: u32 = 600;

fn default_max_age() -> u32 {
    DEFAULT_AGE
}

fn default_methods() -> Vec<String> {
    ["GET", "HEAD", "POST"].map(str::to_owned).into()
}

/// The filter.
pub struct Cors {
    origins: Origins,
    methods: String,
    headers: Names,
    expose: String,
    credentials: bool,
    max_age: String,
    refuse: bool,
}

/// Names of headers.
enum Names {
    /// Whatever is asked for.
    All,
    List(String),
}

/// What the response will say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Grant {
    /// Nothing: there is no origin, or it is not let in.
    None,
    /// `*`
    All,
    Origin(String),
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";

impl Filter for Cors {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { origins, methods, headers, expose, credentials, max_age, refuse } = config;
        let origins = Origins::new(&origins)?;
        if credentials && origins.are_all() {
            return Err(
                "`origins: [\"*\"]` with `credentials` would let every page act as its visitor; list the origins"
                    .into(),
            );
        }
        for method in &methods {
            if !is_header_name(method) || method == "*" {
                return Err(format!("{method:?} in `methods` is no method; write one like PUT").into());
            }
        }
        let all = |names: &[String]| names.iter().any(|name| name == "*");
        if credentials && all(&expose) {
            return Err("`expose: [\"*\"]` means nothing to a browser with `credentials`; list the headers".into());
        }
        for name in headers.iter().chain(&expose).filter(|name| *name != "*") {
            if !is_header_name(name) {
                return Err(format!("{name:?} is no name of a header").into());
            }
        }
        if max_age > MAX_AGE {
            return Err(format!("`max_age` is {max_age}; it may be 0 to {MAX_AGE}").into());
        }
        let headers = if all(&headers) { Names::All } else { Names::List(headers.join(", ")) };
        let (methods, expose, max_age) = (methods.join(", "), expose.join(", "), max_age.to_string());
        Ok(Self { origins, methods, headers, expose, credentials, max_age, refuse })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_text().into_owned());
        let origin = header("origin");
        let grant = self.grant(origin.as_deref());
        let preflight = request.method() == "OPTIONS" && origin.is_some();
        if preflight && header("access-control-request-method").is_some() {
            return Err(self.preflight(&grant, header("access-control-request-headers")));
        }
        if self.refuse && origin.is_some() && grant == Grant::None {
            return Err(refusal());
        }
        request.keep(grant);
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        // Without one the request never came here: the proxy refused it.
        let grant = response.kept::<Grant>().cloned().unwrap_or(Grant::None);
        self.permit(&grant, response)?;
        Ok(Flow::Continue)
    }
}

impl Cors {
    fn grant(&self, origin: Option<&str>) -> Grant {
        match origin {
            // Whatever the origin is, the answer is the same: caches need not tell them apart.
            _ if self.origins.are_all() => Grant::All,
            Some(origin) if self.origins.allow(origin) => Grant::Origin(origin.to_owned()),
            _ => Grant::None,
        }
    }

    /// The answer to a question that browsers ask before the request itself. Never the application's: it may not know
    /// the method.
    fn preflight(&self, grant: &Grant, wanted: Option<String>) -> Reply {
        let origin = match grant {
            Grant::None => return refusal().header("vary", "Origin"),
            Grant::All => "*",
            Grant::Origin(origin) => origin,
        };
        let mut reply =
            Reply::new(204).header(ALLOW_ORIGIN, origin).header("access-control-allow-methods", &self.methods);
        if self.credentials {
            reply = reply.header(ALLOW_CREDENTIALS, "true");
        }
        match (&self.headers, wanted) {
            // `*` does not cover `authorization`, and is a mere name with credentials: so what was asked for is named.
            (Names::All, Some(wanted)) if !wanted.is_empty() => {
                reply = reply.header("access-control-allow-headers", &wanted);
            }
            (Names::List(names), _) if !names.is_empty() => {
                reply = reply.header("access-control-allow-headers", names);
            }
            _ => {}
        }
        let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        reply.header("access-control-max-age", &self.max_age).header("vary", vary)
    }

    /// What the application says of it is not asked: there must be one who decides.
    fn permit(&self, grant: &Grant, response: &mut Response) -> Result<(), InvalidHeader> {
        let headers = response.headers_mut();
        headers.remove(ALLOW_ORIGIN);
        headers.remove(ALLOW_CREDENTIALS);
        headers.remove("access-control-expose-headers");
        let origin = match grant {
            Grant::None => None,
            Grant::All => Some("*"),
            Grant::Origin(origin) => Some(origin.as_str()),
        };
        if let Some(origin) = origin {
            headers.set(ALLOW_ORIGIN, origin)?;
            if self.credentials {
                headers.set(ALLOW_CREDENTIALS, "true")?;
            }
            if !self.expose.is_empty() {
                headers.set("access-control-expose-headers", &self.expose)?;
            }
        }
        if *grant != Grant::All {
            vary(headers)?;
        }
        Ok(())
    }
}

/// A cache must not give one origin what it got for another, nor what it got for none.
fn vary(headers: &mut lacis_sdk::Headers) -> Result<(), InvalidHeader> {
    let own = headers.get("vary").map(|value| value.to_text().into_owned());
    match own {
        Some(own)
            if own.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin")) =>
        {
            Ok(())
        }
        Some(own) if !own.trim().is_empty() => headers.set("vary", format!("{own}, Origin")),
        _ => headers.set("vary", "Origin"),
    }
}

fn refusal() -> Reply {
    Reply::new(403).body("pages of this origin may not call this service\n")
}

lacis_sdk::filter!(Cors);

#[cfg(test)]
mod tests;

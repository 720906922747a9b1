//! From a request to an answer.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{Admin, requests};
use crate::telemetry::text::{self, Format};

/// The answer to a request; never fails.
pub(super) async fn answer<B>(admin: &Admin, request: &Request<B>, loopback: bool) -> Response<Full<Bytes>> {
    if let Err(why) = trusted(request.headers(), loopback) {
        return plain(StatusCode::FORBIDDEN, format!("{why}\n"));
    }
    let path = request.uri().path();
    let (path, id) = match path.strip_prefix("/requests/") {
        Some(id) => ("/requests", Some(id)),
        None => (path, None),
    };
    let Some((endpoint, ..)) = ENDPOINTS.iter().find(|(_, known, ..)| *known == path) else {
        return plain(StatusCode::NOT_FOUND, format!("there is no {path:?} here; there are:\n{}", index()));
    };
    let method = request.method();
    if !endpoint.methods().contains(method) {
        let allowed = endpoint.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {allowed}\n"));
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(ALLOW, allowed);
        }
        return response;
    }
    match endpoint {
        Endpoint::Index => plain(StatusCode::OK, index()),
        Endpoint::Ready => ready(admin),
        Endpoint::Live => plain(StatusCode::OK, "live\n"),
        Endpoint::Metrics => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let format = Format::negotiate(accept);
            respond(StatusCode::OK, format.content_type(), text::expose(&admin.metrics, format))
        }
        Endpoint::Config => large_page((admin.config)().await).await,
        Endpoint::Clusters => large_page((admin.clusters)().await).await,
        Endpoint::Filters => json_page(&(admin.filters)().await),
        Endpoint::Generations => json_page(&(admin.generations)().await),
        Endpoint::Requests => requests::answer(admin, id, request.uri().query().unwrap_or_default()).await,
        Endpoint::Logging => logging(admin, method, request.uri().query().unwrap_or_default()),
        Endpoint::Drain => {
            (admin.drain)();
            plain(StatusCode::OK, "draining\n")
        }
        Endpoint::Quit => {
            (admin.quit)();
            plain(StatusCode::OK, "quitting\n")
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Index,
    Ready,
    Live,
    Metrics,
    Config,
    Clusters,
    Filters,
    Generations,
    Requests,
    Logging,
    Drain,
    Quit,
}

/// Everything there is, in the order of the index.
const ENDPOINTS: &[(Endpoint, &str, &str)] = &[
    (Endpoint::Index, "/", "this list"),
    (Endpoint::Index, "/help", "this list"),
    (Endpoint::Ready, "/ready", "200 if the sidecar can do its job, else 503 and what is missing"),
    (Endpoint::Live, "/live", "200 if the process runs"),
    (Endpoint::Metrics, "/metrics", "Prometheus text, or OpenMetrics if Accept asks for it"),
    (Endpoint::Config, "/config", "the configuration in use, with the addresses that were bound"),
    (Endpoint::Clusters, "/clusters", "services, endpoints and links, as each worker sees them"),
    (Endpoint::Filters, "/filters", "filters: their VMs, what they did and what they cost"),
    (Endpoint::Generations, "/generations", "configurations: which is in use, which ends, which was refused and why"),
    (
        Endpoint::Requests,
        "/requests",
        "the last requests and why they ended so; /requests/ID one of them; ?format=text",
    ),
    (Endpoint::Logging, "/logging", "log levels; POST ?level=info,filter=debug changes them"),
    (Endpoint::Drain, "/drain", "finish what is running, take nothing new, then end"),
    (Endpoint::Quit, "/quit", "end now"),
];

impl Endpoint {
    /// What changes something takes POST only, so that following a link cannot.
    const fn methods(self) -> &'static [Method] {
        match self {
            Endpoint::Index
            | Endpoint::Ready
            | Endpoint::Live
            | Endpoint::Metrics
            | Endpoint::Config
            | Endpoint::Clusters
            | Endpoint::Filters
            | Endpoint::Generations
            | Endpoint::Requests => &[Method::GET, Method::HEAD],
            Endpoint::Logging => &[Method::GET, Method::HEAD, Method::POST],
            Endpoint::Drain | Endpoint::Quit => &[Method::POST],
        }
    }
}

fn index() -> String {
    let line = |(endpoint, path, help): &(Endpoint, &str, &str)| {
        let methods = endpoint.methods().iter().filter(|method| **method != Method::HEAD);
        let methods = methods.map(Method::as_str).collect::<Vec<_>>().join(", ");
        format!("{methods:<10} {path:<12} {help}\n")
    };
    ENDPOINTS.iter().map(line).collect()
}

/// Refuses what a browser sends on behalf of another site. Such a page can reach a loopback port; it cannot hide its
/// `Origin`, and where it comes by a name of its own that resolves to us (DNS rebinding) it cannot hide that name.
fn trusted(headers: &HeaderMap, loopback: bool) -> Result<(), &'static str> {
    let host = match headers.get(HOST).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err("the Host field is not text"),
    };
    if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        if origin.is_none() || origin != host {
            return Err("requests on behalf of another site are refused");
        }
    }
    if headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return Err("requests on behalf of another site are refused");
    }
    if loopback && !host.is_none_or(is_local) {
        return Err("this listens on a loopback address: ask for it as localhost, or by an IP address");
    }
    Ok(())
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a `Host` value cannot be a stranger's name for us.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn ready(admin: &Admin) -> Response<Full<Bytes>> {
    match admin.readiness.missing() {
        missing if missing.is_empty() => plain(StatusCode::OK, "ready\n"),
        missing => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", missing.join("\n"))),
    }
}

fn logging(admin: &Admin, method: &Method, query: &str) -> Response<Full<Bytes>> {
    let level = match (method == Method::POST, query) {
        (false, "") => None,
        (false, _) => return plain(StatusCode::BAD_REQUEST, "levels are changed by POST\n"),
        (true, query) => match query.strip_prefix("level=").and_then(decode) {
            Some(level) => Some(level),
            None => return plain(StatusCode::BAD_REQUEST, "POST /logging?level=LEVELS, as in --log-level\n"),
        },
    };
    match (admin.logging)(level.as_deref()) {
        Ok(levels) => plain(StatusCode::OK, format!("{levels}\n")),
        Err(why) => plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

/// Percent-decoded text (RFC 3986 section 2.1).
pub(super) fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` alone would take "+1".
        let digits = digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(digits)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A page on which thousands of services may be: probes must not wait until it is written.
async fn large_page(value: Value) -> Response<Full<Bytes>> {
    match spawn_blocking(move || json_page(&value)).await {
        Ok(page) => page,
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

pub(super) fn json_page(value: &Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

pub(super) fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding() {
        assert_eq!(decode("info%2Cfilter%3ddebug").as_deref(), Some("info,filter=debug"));
        assert_eq!(decode("").as_deref(), Some(""));
        for wrong in ["%", "%2", "%+1", "%zz", "%ff", "%é"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_of_strangers_are_not_local() {
        for host in ["localhost", "LOCALHOST:15000", "127.0.0.1", "127.0.0.1:15000", "[::1]:15000", "[::1]", "10.0.0.1"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[evil]", ":1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn requests_on_behalf_of_other_sites_are_refused() {
        let check = |fields: &[(&'static str, &'static str)], loopback| {
            let mut headers = HeaderMap::new();
            for &(name, value) in fields {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            trusted(&headers, loopback).is_ok()
        };
        assert!(check(&[], true));
        assert!(check(&[("host", "localhost:15000"), ("origin", "http://localhost:15000")], true));
        assert!(check(&[("host", "localhost"), ("sec-fetch-site", "none")], true));
        assert!(check(&[("host", "node.example")], false));
        assert!(!check(&[("host", "node.example")], true));
        assert!(!check(&[("host", "node.example"), ("origin", "http://evil.example")], false));
        assert!(!check(&[("host", "localhost"), ("origin", "null")], true));
        assert!(!check(&[("origin", "http://evil.example")], true));
        assert!(!check(&[("host", "localhost"), ("sec-fetch-site", "cross-site")], true));
    }
}

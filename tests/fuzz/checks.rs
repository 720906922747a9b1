//! What must hold for any input at all: one function for each reader of what others wrote. The fuzz targets call them
//! with what libFuzzer finds, `tests/fuzz_smoke.rs` with the corpus and a few thousand changes of it.

mod access;

use std::path::Path;

pub use access::access;

use lacis::config::resolve::{Host, parse};
use lacis::identity::SpiffeId;
use lacis::telemetry::trace::TraceContext;
use lacis_abi::{Encoder, Pairs, encoded_len};

/// A configuration file: any text gives a configuration, or problems that each say where in the file they are.
pub fn config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 2 };
    let Err(problems) = parse(text, "fuzz.yaml", Path::new("/"), &host) else { return };
    assert!(!problems.is_empty());
    let lines = text.lines().count().max(1);
    for problem in problems {
        assert!(problem.line <= lines + 1, "{problem:?} of {lines} lines");
    }
}

/// Heads of requests and responses, and chunked bodies.
pub fn http1(input: &[u8]) {
    lacis::http::h1::fuzzing::parse(input);
}

/// Frames and field sections of HTTP/2.
pub fn http2(input: &[u8]) {
    lacis::http::h2::fuzzing::parse(input);
}

/// Control streams, request streams and field sections of HTTP/3.
pub fn http3(input: &[u8]) {
    lacis::http::h3::fuzzing::parse(input);
}

/// Records of TLS, from whoever is on the way, and from a peer that has the keys.
pub fn tls(input: &[u8]) {
    lacis::tls::fuzzing::parse(input);
}

/// A SPIFFE ID that is accepted is written as it was read, and its parts make it whole.
pub fn identity(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    if let Some(service) = id.service_name() {
        assert!(text.ends_with(&format!("/sa/{service}")));
    }
}

/// A guest's header map: what is accepted is encoded to the same map.
pub fn pairs(input: &[u8]) {
    let Ok(pairs) = Pairs::decode(input) else { return };
    assert_eq!(pairs.iter().count(), pairs.len());
    let mut again = vec![0; encoded_len(pairs.iter())];
    let mut encoder = Encoder::new(&mut again, pairs.len()).expect("room for the lengths");
    for (name, value) in pairs.iter() {
        assert!(encoder.push(name, value));
    }
    assert!(encoder.is_complete());
    let decoded = Pairs::decode(&again).expect("a map of ours");
    assert!(decoded.iter().eq(pairs.iter()));
}

/// A `traceparent` that is accepted goes on with the same ids and the same sampling.
pub fn trace(input: &[u8]) {
    let Some(context) = TraceContext::parse(input) else { return };
    let header = context.header();
    let again = TraceContext::parse(header.as_bytes()).expect("a header of ours");
    assert_eq!(again.trace_id(), context.trace_id());
    assert_eq!(again.span_id(), context.span_id());
    assert_eq!(again.is_sampled(), context.is_sampled());
}

/// A token, as callers of the filter for authentication send it.
pub fn token(input: &[u8]) {
    lacis_filter_auth::fuzzing::token(input);
}

/// The keys of an issuer, as that filter fetches them.
pub fn jwks(input: &[u8]) {
    lacis_filter_auth::fuzzing::keys(input);
}

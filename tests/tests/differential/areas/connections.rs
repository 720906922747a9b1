//! What TLS shows, what becomes of exchanges that do nothing, and several workers.

use super::Row;

/// Where a caller has come with TLS, as alpha to delta.
pub(crate) const INBOUND: &[Row] = &[
    Row(
        "connection",
        "GET /bytes/3",
        "rq propn connection.id, prop connection.mtls, prop connection.requested_server_name, prop connection.tls_version, prop connection.termination_details, prop connection.transport_failure_reason",
    ),
    Row(
        "names",
        "GET /bytes/3",
        "rq prop connection.subject_local_certificate, prop connection.subject_peer_certificate, prop connection.uri_san_local_certificate, prop connection.uri_san_peer_certificate, prop connection.dns_san_local_certificate, prop connection.dns_san_peer_certificate",
    ),
    Row(
        "certificate",
        "GET /bytes/3",
        "rq prop connection.sha256_peer_certificate_digest, prop connection.peer_certificate ; lg propn connection.peer_certificate, prop connection.mtls",
    ),
    Row("nothing", "GET /bytes/3", "rq prop connection.nothing, prop connection.tls_version.more, prop connection"),
    Row(
        "request",
        "GET /bytes/3",
        "rq prop request.scheme, prop request.protocol, get 0 :scheme, props source.address",
    ),
    Row("reply", "GET /bytes/3", "rq reply 403 ~ no ~"),
    Row("body", "POST /echo <hello", "rqb ret 1 ; rqbe buf 0 0 9"),
];

/// Where a service is called with TLS, as alpha calls delta.
pub(crate) const LINK: &[Row] = &[
    Row(
        "names",
        "GET /bytes/3",
        "rs prop upstream.tls_version, prop upstream.subject_local_certificate, prop upstream.subject_peer_certificate, prop upstream.uri_san_local_certificate, prop upstream.uri_san_peer_certificate, prop upstream.dns_san_local_certificate, prop upstream.dns_san_peer_certificate",
    ),
    Row(
        "certificate",
        "GET /bytes/3",
        "rs prop upstream.sha256_peer_certificate_digest, prop upstream.peer_certificate, props upstream.local_address, prop upstream.transport_failure_reason ; lg prop upstream.tls_version, props upstream.local_address",
    ),
    Row(
        "too-early",
        "GET /bytes/3",
        "rq prop upstream.tls_version, prop upstream.local_address, prop upstream.peer_certificate",
    ),
    Row(
        "own-connection",
        "GET /bytes/3",
        "rq prop connection.mtls, prop connection.tls_version, prop connection.uri_san_peer_certificate",
    ),
];

/// With half a second for an exchange that does nothing.
pub(crate) const IDLE: &[Row] = &[
    Row("silent-service", "GET /silent", "lg prop response.code"),
    Row("silent-in-the-middle", "GET /drip", "rs get 2 :status"),
    Row("busy", "GET /bytes/10", "rs get 2 :status"),
];

/// With several workers, each of which may take any of these.
pub(crate) const WORKERS: &[Row] = &[
    Row("data-1", "GET /bytes/1", "rq sget shared, sset shared one 0, sget shared, mdef 0 seen_by_workers, minc m 1"),
    Row("data-2", "GET /bytes/1", "rq sget shared, sset shared two 0, mdef 0 seen_by_workers, minc m 1"),
    Row("data-3", "GET /bytes/1", "rq sget shared, mdef 0 seen_by_workers, minc m 1"),
    Row("queue-1", "GET /bytes/1", "rq qreg items, qenq q a, mdef 0 seen_by_workers, minc m 1"),
    Row(
        "call",
        "GET /bytes/1",
        "rq mdef 0 seen_by_workers, minc m 1, call other :method=GET&:path=/bytes/2&:authority=other got, ret 1 ; got buf 4 0 9, eff own, cont 0",
    ),
    Row("later", "GET /bytes/1", "rq mdef 0 seen_by_workers, minc m 1, later go, ret 1 ; go eff own, cont 0"),
    Row("data-4", "GET /bytes/1", "rq sget shared, mdef 0 seen_by_workers, minc m 1"),
    Row("reply", "GET /bytes/1", "rq mdef 0 seen_by_workers, minc m 1, reply 403 ~ no ~"),
];

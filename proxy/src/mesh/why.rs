//! Which requests can be explained afterwards, and who may ask for it.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

use super::hop::Hop;
use super::outbound::X_REQUEST_ID;
use crate::config::{Tell, Why};
use crate::fault::Reason;
use crate::filter::exchange::{Conn, Exchange};
use crate::http::fields::Value;
use crate::http::head::{RequestHead, ResponseHead, Shared};
use crate::telemetry::labels::{self, Direction};
use crate::telemetry::why::Asked;

/// In a request it asks for an explanation, in a response it says by what id that is found.
const X_LACIS_WHY: HeaderName = HeaderName::from_static("x-lacis-why");

/// Begins the record of a request, if it is to have one. Whether somebody asked for it who may not.
pub(super) fn begin(hop: &Hop, settings: &Why, exchange: &Exchange, head: &RequestHead) -> bool {
    let Why { sample, keep, header: _, trusted } = settings;
    let conn = &exchange.conn;
    let wanted = head.headers.contains_key(X_LACIS_WHY);
    let asked = wanted && may_ask(conn, trusted);
    let refused = wanted && !asked;
    if !asked && (*sample < 100 && hop.chance.borrow_mut().u8(..100) >= *sample) {
        return refused;
    }
    let method = exchange.method();
    // All forms of gRPC are POST; who asks otherwise costs nobody a look for it.
    let grpc = method == labels::Method::Post && head.headers.get(CONTENT_TYPE).is_some_and(is_any_grpc);
    let record = hop.ledger.why.begin(&Asked {
        keep: *keep,
        method: (method == labels::Method::Other).then(|| head.method.as_str()),
        host: head.authority.as_ref().map_or("", |authority| authority.as_str()),
        path: head.path.path(),
        query: head.path.query().is_some(),
        identity: conn.peer.as_ref().map(|peer| &peer.spiffe),
    });
    exchange.trail.record(record, asked, grpc);
    if conn.direction == Direction::Inbound {
        identify(exchange, head);
    }
    refused
}

/// Takes out of a request that somebody asked who may not. Authorization has seen it as it came.
pub(super) fn refuse(head: &mut Shared<RequestHead>) {
    head.headers.remove(X_LACIS_WHY);
}

/// Its id, as the request says it. An outbound request may get one yet, and says it then.
pub(super) fn identify(exchange: &Exchange, head: &RequestHead) {
    if exchange.trail.is_recorded()
        && let Some(id) = head.headers.get(X_REQUEST_ID)
    {
        exchange.trail.identify(id.as_bytes());
    }
}

fn is_any_grpc(content_type: Value<'_>) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// The own application may, for it is the only one that a loopback address lets in; of peers those that are named, whom
/// TLS has verified.
fn may_ask(conn: &Conn, trusted: &[crate::identity::SpiffeId]) -> bool {
    match conn.direction {
        Direction::Outbound => conn.remote.ip().to_canonical().is_loopback(),
        Direction::Inbound => conn.peer.as_ref().is_some_and(|peer| trusted.contains(&peer.spiffe)),
    }
}

/// Says in a response by what id it can be explained, if it is to.
pub(super) fn tell(settings: &Why, exchange: &Exchange, head: &mut Shared<ResponseHead>) {
    let told = match settings.header {
        Tell::Always => true,
        Tell::Failed => exchange.reason() != Reason::None || exchange.status() >= 500 || exchange.trail.is_asked(),
        Tell::Asked => exchange.trail.is_asked(),
    };
    let mut id = None;
    if told {
        exchange.trail.write(|record| id = HeaderValue::from_str(record.id()).ok().filter(|id| !id.is_empty()));
    }
    if let Some(id) = id {
        head.headers.insert(X_LACIS_WHY, id);
    }
}

//! The cases, by area. Nothing in them depends on which of two things is quicker: a request whose body is looked at goes to
//! `/echo` or `/drain`, which answer when they have read all of it.

mod bodies;
mod calls;
mod chain;
mod connections;
mod flow;
mod headers;
mod properties;
mod replies;
mod services;
mod signatures;

pub(crate) use chain::{CHAIN, HELD, OPEN, TRAPS};
pub(crate) use connections::{IDLE, INBOUND, LINK, WORKERS};

/// A case: its name, its request (see [`request`](crate::request)), and the script of its filter (see `tests/script`).
pub(crate) struct Row(pub(crate) &'static str, pub(crate) &'static str, pub(crate) &'static str);

/// What one filter can show.
pub(crate) const ONE_FILTER: &[(&str, &[Row])] = &[
    ("request-headers", headers::REQUEST),
    ("response-headers", headers::RESPONSE),
    ("bodies", bodies::BODIES),
    ("trailers", bodies::TRAILERS),
    ("pauses", flow::PAUSES),
    ("life", flow::LIFE),
    ("replies", replies::REPLIES),
    ("http-calls", calls::HTTP),
    ("grpc-calls", calls::GRPC),
    ("shared-data", services::SHARED_DATA),
    ("queues", services::QUEUES),
    ("metrics", services::METRICS),
    ("foreign", services::FOREIGN),
    ("signatures", signatures::VERIFY),
    ("system", services::SYSTEM),
    ("hostile", services::HOSTILE),
    ("properties", properties::READ),
    ("set-properties", properties::WRITTEN),
];

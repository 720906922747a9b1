//! HTTP/3 (RFC 9114): quinn carries the streams, what is on them is ours.
//!
//! `connection` keeps a connection by its unidirectional streams, of which `control` reads the one that matters; `stream` reads
//! (by `frame`) and writes request streams within limits and resets them on drop, `section` makes heads of field sections and
//! field sections of heads, and `qpack` codes their lines.

mod body;
mod client;
mod code;
mod coding;
mod connection;
mod control;
mod frame;
mod qpack;
mod section;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub use body::{Incoming, Pump};
pub use client::{Link, handshake_fault};
pub use server::serve;

/// What the fuzz targets call.
pub mod fuzzing {
    /// Feeds bytes to the parsers of control streams, request streams and field sections.
    pub fn parse(input: &[u8]) {
        super::control::fuzz(input);
        super::frame::fuzz(input);
        super::qpack::fuzz(input);
        super::section::fuzz(input);
    }
}

use code::Code;

use crate::fault::{Fault, Reason, Retry, Side};
use crate::http::message;

/// Why a stream is of no more use.
#[derive(Debug)]
enum Broken {
    /// The peer reset it, or asked to stop, with this code.
    Reset(u64),
    /// The connection is gone.
    Lost(quinn::ConnectionError),
    /// A malformed message (RFC 9114 section 4.1.2), or another violation that has closed the connection by now.
    Malformed(&'static str),
    /// A request that can be answered with what is wrong.
    Refused(Fault),
    /// A field section that cannot be decoded (RFC 9204 section 6): the connection cannot go on.
    Garbled(&'static str),
    /// The peer ended the stream before the head.
    Incomplete,
    /// A field section over the limit, in bytes or in lines.
    TooLarge,
    /// The peer takes no field section as large as this one.
    Unwanted,
}

impl From<message::Broken> for Broken {
    fn from(broken: message::Broken) -> Self {
        match broken {
            message::Broken::Malformed(what) => Broken::Malformed(what),
            message::Broken::Refused(fault) => Broken::Refused(fault),
            message::Broken::TooLarge => Broken::TooLarge,
        }
    }
}

impl Broken {
    /// As a fault of the peer, who is on this side.
    fn fault(self, peer: Side) -> Fault {
        let upstream = peer == Side::Upstream;
        let pick = |response, request| Fault::new(if upstream { response } else { request });
        match self {
            // RFC 9114 section 4.1.1: a rejected request was not processed.
            Broken::Reset(code) if upstream && Code(code) == Code::REQUEST_REJECTED => {
                Fault::new(Reason::RefusedStream).retry(Retry::Safe)
            }
            Broken::Reset(code) => pick(Reason::StreamReset, Reason::DownstreamAborted).detail(Code(code).to_string()),
            Broken::Lost(error) if upstream && is_certificate_alert(&error) => {
                Fault::new(Reason::TlsCertificateError).from(error)
            }
            Broken::Lost(error) => pick(Reason::ConnectionTerminated, Reason::DownstreamAborted).from(error),
            Broken::Malformed(what) | Broken::Garbled(what) => {
                pick(Reason::HttpProtocolError, Reason::HttpRequestError).detail(what)
            }
            Broken::Refused(fault) => fault,
            Broken::Incomplete => pick(Reason::HttpResponseIncomplete, Reason::RequestIncomplete),
            Broken::TooLarge => pick(Reason::HttpResponseHeaderSectionSize, Reason::RequestHeaderSectionSize),
            Broken::Unwanted => Fault::new(if upstream {
                Reason::RequestHeaderSectionSize
            } else {
                Reason::HttpResponseHeaderSectionSize
            })
            .detail("larger than the peer's SETTINGS_MAX_FIELD_SECTION_SIZE"),
        }
    }
}

/// Whether a certificate, ours or theirs, was the trouble: one of the TLS alerts (RFC 8446 section 6.2) for that, which
/// QUIC carries as 0x100 plus the alert (RFC 9001 section 4.8).
fn is_certificate_alert(error: &quinn::ConnectionError) -> bool {
    let code = match error {
        quinn::ConnectionError::TransportError(error) => error.code,
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return false,
    };
    // bad_certificate to certificate_unknown, unknown_ca, access_denied, decrypt_error (a signature that is not by the
    // authority of that name: two development authorities are called the same), unrecognized_name, certificate_required.
    matches!(u64::from(code).checked_sub(0x100), Some(42..=46 | 48 | 49 | 51 | 112 | 116))
}

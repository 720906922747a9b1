//! Why something was decided: one set of words for all who count decisions.

use std::fmt::Write as _;

use super::{Label, Names, Status};
use crate::fault::Reason;

/// Why a request was repeated, an endpoint ejected, a breaker opened, or a link chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A failure.
    Reason(Reason),
    /// The status of a response.
    Status(u16),
    /// The code of a gRPC answer.
    Grpc(u8),
    /// Far fewer successes than the other endpoints.
    SuccessRate,
    /// Too many requests fail.
    Failures,
    /// Too many answers come late.
    Slow,
    /// `limits.connections` is used up.
    Connections,
    /// `limits.pending` is used up.
    Pending,
    /// `limits.requests` is used up.
    Requests,
    /// `limits.retries` or the budget is used up.
    Retries,
    /// `fault.delay`.
    Delay,
    /// `fault.abort`.
    Abort,
    /// Nothing is known yet.
    Unmeasured,
    /// Answers come earlier; or, where an endpoint is ejected for it, far later than those of the others.
    Latency,
    /// The path loses packets.
    Loss,
    /// It costs less processor time.
    Cpu,
    /// The peer's UDP does not answer.
    Silent,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.write(&Names::default(), &mut text);
        f.write_str(&text)
    }
}

impl Label for Cause {
    fn write(self, names: &Names, out: &mut String) {
        match self {
            Cause::Reason(reason) => reason.write(names, out),
            Cause::Status(status) => Status(status).write(names, out),
            Cause::Connections => out.push_str("connections"),
            Cause::Pending => out.push_str("pending"),
            Cause::Requests => out.push_str("requests"),
            Cause::Retries => out.push_str("retries"),
            Cause::Unmeasured => out.push_str("unmeasured"),
            Cause::Latency => out.push_str("latency"),
            Cause::Loss => out.push_str("loss"),
            Cause::Cpu => out.push_str("cpu"),
            Cause::Silent => out.push_str("silent"),
            Cause::Failures => out.push_str("failures"),
            Cause::Slow => out.push_str("slow"),
            Cause::Delay => out.push_str("delay"),
            Cause::Abort => out.push_str("abort"),
            Cause::SuccessRate => out.push_str("success_rate"),
            Cause::Grpc(code) => {
                let _ = write!(out, "grpc_{code}");
            }
        }
    }
}

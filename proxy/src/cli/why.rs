//! `lacis why`: why did this request end as it did?

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::task::LocalSet;

use super::{Failure, Outcome, Output, print};
use crate::demo::client::Client;

/// Tell why a request ended as it did: which rule, endpoint and link were chosen and why, what filters said, what was tried.
///
/// Asks a running sidecar on this machine that has `telemetry.why`. The id is that of the request (`x-request-id`), which
/// the access log has, and a response in `x-lacis-why` if it was asked for by that field or by the configuration. Each
/// sidecar knows its own part: ask that of the caller, and that of the service. Exit code 1 if it does not know the request.
#[derive(Debug, clap::Args)]
pub struct Why {
    /// The id of the request; without it the last ones are told.
    id: Option<String>,
    /// Where the sidecar's admin endpoints listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = super::address)]
    admin: SocketAddr,
    /// How many of the last ones.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// How the answer is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Why {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let format = match self.output {
            Output::Text => "text",
            Output::Json => "json",
        };
        let id = self.id.map_or_else(String::new, |id| format!("/{}", encoded(&id)));
        let path = format!("/requests{id}?format={format}&limit={}", self.limit);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Input(format!("cannot start: {error}")))?;
        let answer = LocalSet::new()
            .block_on(&runtime, async { Client::new(self.admin).ask("GET", &path, &[], b"").await })
            .map_err(|error| Failure::Input(format!("no sidecar answers at {}: {error}; see --admin", self.admin)))?;
        match answer.status {
            200 if answer.body.is_empty() => {
                Err(Failure::Input("it keeps no record of a request; see `telemetry.why`".into()))
            }
            200 => {
                print(&answer.body);
                Ok(())
            }
            _ => Err(Failure::Input(answer.body.trim_end().to_owned())),
        }
    }
}

/// Percent-encoded (RFC 3986 section 2.1).
fn encoded(id: &str) -> String {
    id.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let written = write!(text, "%{byte:02X}");
            debug_assert!(written.is_ok(), "a string takes everything");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_letter_is_encoded() {
        assert_eq!(super::encoded("a-1.b_~c"), "a-1.b_~c");
        assert_eq!(super::encoded("../é%?"), "..%2F%C3%A9%25%3F");
    }
}

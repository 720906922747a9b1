//! The harness of the black-box tests: whole meshes of real `lacis` processes on loopback ports.
//!
//! A test is plain blocking code that reads like a sentence; everything that must go on meanwhile (applications,
//! relays, load) runs on one background runtime, [`runtime`]. Never call a blocking function of this crate from inside
//! a future of that runtime.
//!
//! ```no_run
//! use lacis_tests::{Link, Pair};
//!
//! let pair = Pair::new(Link::H2); // application → alpha → (h2) → delta → application
//! let answer = pair.get("/echo");
//! assert_eq!(answer.status(), 200);
//! assert_eq!(pair.app.requests(), 1);
//! ```
//!
//! - [`Mesh`]: a directory with a certificate authority; makes sidecars. [`Pair`]: the usual two of them.
//! - [`Sidecar`]: one running `lacis run`; its ports, logs, metrics, access records, memory.
//! - [`App`]: the application behind an inbound listener, with routes that do what applications do, well and badly.
//! - [`client`]: what an application or a stranger sends: HTTP/1.1 as bytes, h2c, load.
//! - [`dns`]: a name server that says what a test wants.
//! - [`Relay`]: a wire between two sidecars that records, mutes UDP, or is cut.
//! - [`Envoy`]: an Envoy with the filters of a test. [`Both`]: one that ships, there and here.
//! - [`Web`]: a server with TLS from which sidecars fetch modules.
//! - [`peer`]: programs that we did not write.

pub mod app;
mod both;
pub mod client;
pub mod dns;
pub mod envoy;
mod examples;
mod guest;
mod guests;
mod h2c;
mod mesh;
mod metrics;
mod peers;
mod process;
mod relay;
mod sidecar;
pub mod tls;
mod web;
pub mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use app::{App, Seen};
pub use both::{Both, Side};
pub use envoy::Envoy;
pub use examples::Example;
pub use guest::{guest, script, sdk};
pub use guests::foreign_guest;
pub use mesh::{Link, Mesh, Pair, TRUST_DOMAIN};
pub use metrics::Metrics;
pub use peers::{Peer, peer, peer_or};
pub use process::{Lines, Process, command, lacis};
pub use relay::Relay;
pub use sidecar::{Sidecar, SidecarBuilder};
pub use web::{Asked, Page, Web};

/// How long anything may take before a test gives up. Generous: eight engineers share two cores, and a debug build is
/// slow. Nothing waits this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime of everything that goes on beside a test.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}

/// Waits for a future, at most [`PATIENCE`].
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("an answer in time") })
}

/// Asks again and again until there is an answer; panics with `what` after [`PATIENCE`]. For what another process
/// shows but does not announce; where there is an event, wait for the event.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A loopback address where nobody listens, and nobody will who is not told so: for programs that take no port 0, and
/// for places where nothing is. A port of 127.0.0.1 that is free now may be anybody's in a moment; of this part of
/// 127.0.0.0/8 each process of tests has an address of its own, by its number (22 bits, `PID_MAX_LIMIT`).
pub fn unused() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(7000);
    let [_, second, third, fourth] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | second, third, fourth], PORT.fetch_add(1, Ordering::Relaxed)))
}

/// Makes one test per link out of one function: `on_links! { [H2, H3] fn trailers_cross(link) { … } }` gives the tests
/// `trailers_cross::h2` and `trailers_cross::h3`.
#[macro_export]
macro_rules! on_links {
    ($($(#[doc = $doc:literal])* [$($link:ident),+] fn $name:ident($arg:ident) $body:block)+) => {
        $($(#[doc = $doc])* mod $name {
            use super::*;
            fn body($arg: $crate::Link) $body
            $($crate::on_links!(@one $link);)+
        })+
    };
    (@one H1) => { #[test] fn h1() { body($crate::Link::H1) } };
    (@one H2) => { #[test] fn h2() { body($crate::Link::H2) } };
    (@one H3) => { #[test] fn h3() { body($crate::Link::H3) } };
    (@one Auto) => { #[test] fn auto() { body($crate::Link::Auto) } };
    (@one Plaintext) => { #[test] fn plaintext() { body($crate::Link::Plaintext) } };
}

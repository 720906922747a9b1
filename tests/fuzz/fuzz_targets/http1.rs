//! Heads of requests and responses, and chunked bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lacis::http::h1::fuzzing::parse(bytes));

//! See `checks.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lacis_fuzz::tls(input));

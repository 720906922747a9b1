//! Host calls of a guest that means harm: the input is the script of the host's own test `hostile.rs`.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the host's tests, which use more of them")]

#[path = "../../../proxy/host/tests/host/abi.rs"]
mod abi;
#[path = "../../../proxy/host/tests/host/guest.rs"]
mod guest;
#[path = "../../../proxy/host/tests/host/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(hostile::play(input)));

//! The host against small guests: what each import answers, in what order callbacks come, what kills a VM.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the lints do not see that helpers of tests are tests")]

mod abi;
mod guest;
mod headers;
mod imports;
mod life;
mod limits;
mod services;
mod wasi;

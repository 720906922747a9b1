//! The host against small guests: what each import answers, in what order callbacks come, what kills a VM.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the lints do not see that helpers of tests are tests")]

mod abi;
mod allow;
mod bodies;
mod callbacks;
mod calls;

mod guest;
mod headers;
mod hostile;
mod imports;
mod life;
mod limits;
mod queues;
mod services;
mod tcp;
mod together;
mod wasi;

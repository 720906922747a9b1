//! The host against small guests: what each import answers, in what order callbacks come, what kills a VM.

mod abi;
mod guest;
mod headers;
mod imports;
mod life;
mod limits;
mod services;
mod wasi;

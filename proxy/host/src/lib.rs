//! Proxy-Wasm host.

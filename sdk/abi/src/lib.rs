//! Proxy-Wasm words.

//! Filters: what runs on each request and response.

pub mod builtin;

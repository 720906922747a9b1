//! Lacis.
fn main() {}

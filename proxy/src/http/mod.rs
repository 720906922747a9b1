//! HTTP messages and the three protocols that carry them.

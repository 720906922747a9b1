//! From the file to valid values.

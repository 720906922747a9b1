//! Lines in the proxy's log: `lacis_sdk::warn!("key {name} expires soon")`.

use std::fmt;

use crate::backend::{Backend, Host};

/// How much a line matters; the operator chooses from which level on lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each step, for finding a mistake in the filter.
    Trace,
    /// What helps to understand one request.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at some day.
    Warn,
    /// What is broken now.
    Error,
    /// What keeps the filter from working at all.
    Critical,
}

/// Writes a line; the macros call it.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(message) => Host::log(level, message),
        None => Host::log(level, &message.to_string()),
    }
}

/// Logs at [`Level::Trace`](crate::log::Level::Trace), with the arguments of `format!`.
#[macro_export]
macro_rules! trace {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Trace, format_args!($($argument)+)) };
}

/// Logs at [`Level::Debug`](crate::log::Level::Debug), with the arguments of `format!`.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Debug, format_args!($($argument)+)) };
}

/// Logs at [`Level::Info`](crate::log::Level::Info), with the arguments of `format!`.
#[macro_export]
macro_rules! info {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Info, format_args!($($argument)+)) };
}

/// Logs at [`Level::Warn`](crate::log::Level::Warn), with the arguments of `format!`.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Warn, format_args!($($argument)+)) };
}

/// Logs at [`Level::Error`](crate::log::Level::Error), with the arguments of `format!`.
#[macro_export]
macro_rules! error {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Error, format_args!($($argument)+)) };
}

/// Logs at [`Level::Critical`](crate::log::Level::Critical), with the arguments of `format!`.
#[macro_export]
macro_rules! critical {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Critical, format_args!($($argument)+)) };
}

//! Data that all virtual machines with one `vm_id` share: those of all workers.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{Backend, Host};
use crate::reply::Reply;

/// How often a change is tried while others change the same value: at each try somebody's has succeeded.
const TRIES: usize = 32;

/// A version that no value has. Hosts take any version for a value that does not exist, and refuse it once there is one.
const NEVER: u32 = u32::MAX;

/// A value that all workers see: those of all filters whose `vm_id` is the same, under its name. It lives as long as
/// one of their virtual machines does, and is kept as JSON.
///
/// ```
/// use lacis_sdk::Shared;
/// # fn count() -> Result<(), lacis_sdk::SharedError> {
/// let visits = Shared::<u64>::new("visits");
/// let now = visits.update(|visits| visits.unwrap_or(0) + 1)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Shared<T> {
    name: String,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Shared<T> {
    /// The value with this name. Nothing can be removed by name, and hosts bound how much there is in all: names that
    /// come from callers need a bound of their own.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), of: PhantomData }
    }

    /// The value; absent if there is none, or one that is no `T`.
    pub fn get(&self) -> Option<T> {
        let (bytes, _) = Host::shared(&self.name)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Sets it, whatever there is.
    ///
    /// # Errors
    ///
    /// If it has no form as JSON, or the host has no room for it.
    pub fn set(&self, value: &T) -> Result<(), SharedError> {
        let bytes = self.bytes(value)?;
        Host::set_shared(&self.name, &bytes, None).map_err(|_| self.error(Kind::Refused))
    }

    /// Changes it: makes a value of the one that there is, and gives what it made. If somebody else was faster, it is
    /// made again of theirs: no change is lost.
    ///
    /// # Errors
    ///
    /// If it has no form as JSON, if the host has no room for it, or others were faster 32 times.
    pub fn update(&self, mut change: impl FnMut(Option<T>) -> T) -> Result<T, SharedError> {
        update(&self.name, |old| {
            let value = change(old.and_then(|old| serde_json::from_slice(old).ok()));
            Ok((self.bytes(&value)?, value))
        })
    }

    fn bytes(&self, value: &T) -> Result<Vec<u8>, SharedError> {
        serde_json::to_vec(value).map_err(|error| self.error(Kind::Json(error.to_string())))
    }

    fn error(&self, kind: Kind) -> SharedError {
        SharedError { name: self.name.clone(), kind }
    }
}

/// Changes a value by compare-and-swap: `change` makes the bytes of the new one, and something to return.
pub(crate) fn update<T>(
    name: &str,
    mut change: impl FnMut(Option<&[u8]>) -> Result<(Vec<u8>, T), SharedError>,
) -> Result<T, SharedError> {
    for _ in 0..TRIES {
        let old = Host::shared(name);
        let (bytes, result) = change(old.as_ref().map(|(bytes, _)| bytes.as_slice()))?;
        let version = old.map_or(NEVER, |(_, version)| version);
        if Host::set_shared(name, &bytes, Some(version)).is_ok() {
            return Ok(result);
        }
    }
    Err(SharedError { name: name.to_owned(), kind: Kind::Refused })
}

/// Why shared data could not be changed. As a [`Reply`] it is 500, with the detail in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedError {
    name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Json(String),
    Refused,
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            Kind::Json(error) => write!(f, "shared data {name:?} has no form as JSON: {error}"),
            Kind::Refused => write!(f, "shared data {name:?} cannot be set: too many change it, or there is no room"),
        }
    }
}

impl std::error::Error for SharedError {}

impl From<SharedError> for Reply {
    fn from(error: SharedError) -> Self {
        crate::error!("{error}");
        Reply::new(500)
    }
}

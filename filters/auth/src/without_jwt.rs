//! What stands in the place of tokens in a module that checks none, `builtin:auth`.

use std::rc::Rc;
use std::time::Duration;

use lacis_sdk::Counter;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::claims::Verified;
use crate::head::{Changes, Head};
use crate::problem::Problem;

/// A configuration that is refused.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Config(#[cfg_attr(not(target_family = "wasm"), schemars(with = "()"))] IgnoredAny);

/// Nothing.
pub(crate) enum Tokens {}

impl Tokens {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let Config(IgnoredAny) = config;
        Err("tokens are checked by `builtin:jwt`, which can do everything that `builtin:auth` can".to_owned())
    }

    pub(crate) fn find<'a>(&'a self, _: &'a Head) -> Result<Option<&'a str>, Problem> {
        match *self {}
    }

    pub(crate) fn use_header(&self, _: &str) -> bool {
        match *self {}
    }

    pub(crate) fn strip(&self, _: &Head, _: &mut Changes) {
        match *self {}
    }

    pub(crate) fn forward(&self, _: &Verified, _: &mut Changes) {
        match *self {}
    }

    pub(crate) fn check(&self, _: &str, _: u64, _: Duration) -> Result<Rc<Verified>, Problem> {
        match *self {}
    }

    pub(crate) async fn keep(&self, _: &Counter) {
        match *self {}
    }

    pub(crate) async fn wait(&self, _: usize, _: Duration) -> bool {
        match *self {}
    }
}

//! What is configured, and what becomes of it.

use lacis_sdk::is_header_name;
use serde::Deserialize;

use crate::external::{self, External};
use crate::jwt::{self, Tokens};
use crate::policy::{ApiKeys, Passwords, Policy};
use crate::rules::{self, Rules};
use crate::{basic, keys};

/// The configuration of the filter. Who has credentials of one of the configured kinds is let in; `rules` and `external`
/// judge who was.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub struct Config {
    /// API keys: who brings one of these is let in.
    keys: Option<Vec<keys::Entry>>,
    /// The header that carries an API key; absent: `x-api-key`.
    header: Option<String>,
    /// The header that tells the service the name of the API key; absent: none does.
    forward_name: Option<String>,
    /// Whether the service sees the API key itself; absent: it does not.
    forward_key: Option<bool>,
    /// Users with passwords.
    basic: Option<basic::Config>,
    /// Tokens of issuers.
    jwt: Option<jwt::Config>,
    /// Whether requests without any credentials are let in, for `rules` and `external` to judge; absent: they are not.
    /// Wrong credentials are never let in.
    #[serde(default)]
    anonymous: bool,
    /// Who may do what.
    rules: Option<rules::Config>,
    /// A service that decides, asked at the end.
    external: Option<external::Config>,
}

/// Reads the configuration into what is used.
pub(crate) fn read(config: Config) -> Result<(Policy, Option<External>), String> {
    let Config { keys, header, forward_name, forward_key, basic, jwt, anonymous, rules, external } = config;
    let api_keys = match keys {
        Some(entries) => Some(ApiKeys::new(header, &entries, forward_name, forward_key)?),
        None if header.is_some() || forward_name.is_some() || forward_key.is_some() => {
            return Err("`header`, `forward_name` and `forward_key` are about `keys`, which is missing".to_owned());
        }
        None => None,
    };
    let passwords = basic.map(Passwords::new).transpose()?;
    let tokens = jwt.map(Tokens::new).transpose()?;
    let rules = rules.map(Rules::new).transpose()?;
    let external = external.map(External::new).transpose()?;
    if api_keys.is_none() && passwords.is_none() && tokens.is_none() {
        if rules.is_none() && external.is_none() {
            return Err(
                "nothing is protected: give at least one of `keys`, `basic`, `jwt`, `rules` and `external`".to_owned()
            );
        }
        if anonymous {
            return Err("`anonymous` says nothing where there is none of `keys`, `basic` and `jwt`".to_owned());
        }
    } else if anonymous && rules.is_none() && external.is_none() {
        return Err("with `anonymous` every request passes unless `rules` or `external` judges it".to_owned());
    }
    if let Some(rules) = &rules {
        if rules.use_claims() && tokens.is_none() {
            return Err("a rule has `claims`, but there is no `jwt`, so it could never match".to_owned());
        }
        if rules.use_names() && api_keys.is_none() && passwords.is_none() {
            return Err("a rule has `names`, but there are neither `keys` nor `basic`".to_owned());
        }
    }
    let in_authorization = api_keys.as_ref().is_some_and(|keys| keys.header() == "authorization");
    if in_authorization
        && (passwords.is_some() || tokens.as_ref().is_some_and(|tokens| tokens.use_header("authorization")))
    {
        return Err(
            "`header` is `authorization`, where `basic` or `jwt` look too: give API keys another one".to_owned()
        );
    }
    Ok((Policy { api_keys, passwords, tokens, anonymous, rules }, external))
}

/// The name of a header, in small letters.
pub(crate) fn header_name(name: &str) -> Result<String, String> {
    if is_header_name(name) { Ok(name.to_ascii_lowercase()) } else { Err(format!("{name:?} is no name of a header")) }
}

//! JSON Web Tokens (RFC 7519, by the advice of RFC 8725): whose they are, whether they hold, and what they say.

mod cache;
mod config;
mod fetch;
mod place;
mod source;

pub(crate) use config::Config;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::claims::{Claims, Place, Times, Verified};
use crate::head::{Changes, Head};
use crate::jose::{Algorithm, KeySet, Token};
use crate::problem::{Malformed, Problem, Refusal};
use cache::Cache;
use fetch::Remote;

/// How many keys one token is tried with. Tokens name their key; without a name, an issuer with more keys of one kind
/// than this would make each token a burden, and all of them must fit into what a callback may take, whoever sends the token.
const TRIES: usize = 4;

/// Checks tokens.
pub(crate) struct Tokens {
    places: Vec<place::Place>,
    forward_token: bool,
    providers: Vec<Provider>,
    cache: RefCell<Cache>,
}

/// An issuer whose tokens are accepted.
struct Provider {
    issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    skew: u64,
    require_expiration: bool,
    max_lifetime: Option<u64>,
    keys: Keys,
    claim_headers: Vec<(Place, String)>,
    forward_payload: Option<String>,
}

enum Keys {
    Inline(KeySet),
    Remote(Box<Remote>),
}

impl Tokens {
    /// The token of a request, if it has one.
    pub(crate) fn find<'a>(&'a self, head: &'a Head) -> Result<Option<&'a str>, Problem> {
        for place in &self.places {
            if let Some(token) = place.find(head).map_err(|place::Twice| Problem::Refused(Refusal::Twice))? {
                return Ok(Some(token));
            }
        }
        Ok(None)
    }

    /// Whether tokens are looked for in a header.
    pub(crate) fn use_header(&self, header: &str) -> bool {
        self.places.iter().any(|place| matches!(place, place::Place::Header { name, .. } if name == header))
    }

    /// Takes away what only this filter may say to the service, and tokens that it is not to see.
    pub(crate) fn strip(&self, head: &Head, changes: &mut Changes) {
        for provider in &self.providers {
            let own = provider.claim_headers.iter().map(|(_, header)| header).chain(&provider.forward_payload);
            own.for_each(|header| changes.remove(header));
        }
        if !self.forward_token {
            self.places.iter().for_each(|place| place.strip(head, changes));
        }
    }

    /// Says to the service what it is to know of a token.
    pub(crate) fn forward(&self, verified: &Verified, changes: &mut Changes) {
        let Some(provider) = self.providers.get(verified.provider) else { return };
        for (place, header) in &provider.claim_headers {
            if let Some(value) = verified.claims.header(place) {
                changes.set(header, value.into_bytes());
            }
        }
        if let (Some(header), Some(payload)) = (&provider.forward_payload, &verified.payload) {
            changes.set(header, payload.clone().into_bytes());
        }
    }

    /// Checks a token. `unix` is the time in seconds since 1970, `steady` that of the clock of [`Source`].
    pub(crate) fn check(&self, text: &str, unix: u64, steady: Duration) -> Result<Rc<Verified>, Problem> {
        // Nobody hashes what is too long.
        if text.len() > crate::jose::LONGEST {
            return Err(Problem::Refused(Refusal::Malformed(Malformed::Long)));
        }
        let name = cache::name(text);
        if let Some(verified) = self.cache.borrow_mut().find(&name) {
            let provider = self.providers.get(verified.provider);
            if unix >= verified.until {
                return Err(Problem::Refused(Refusal::Expired));
            }
            if provider.is_some_and(|provider| provider.has_keys(steady)) {
                return Ok(verified);
            }
        }
        let verified = Rc::new(self.check_anew(text, unix, steady)?);
        self.cache.borrow_mut().remember(name, &verified);
        Ok(verified)
    }

    fn check_anew(&self, text: &str, unix: u64, steady: Duration) -> Result<Verified, Problem> {
        let refused = Problem::Refused;
        let token = Token::parse(text).map_err(|error| refused(Refusal::Malformed(error)))?;
        let claims = Claims::parse(&token.payload).ok_or(refused(Refusal::Claims))?;
        let issuer = claims.issuer().unwrap_or_default();
        let mut problem = refused(Refusal::Issuer);
        let mut tries = TRIES;
        let ours = self.providers.iter().enumerate().filter(|(_, provider)| provider.issuer == issuer);
        for (index, provider) in ours {
            match provider.check(index, &token, &claims, (unix, steady), &mut tries) {
                Ok(until) => {
                    let payload = provider.forward_payload.is_some().then(|| text.split('.').nth(1).map(str::to_owned));
                    let payload = payload.flatten();
                    return Ok(Verified { provider: index, claims, payload, until, length: text.len() });
                }
                // What may get better is what counts.
                Err(refusal @ Problem::Refused(_)) if matches!(problem, Problem::Refused(_)) => problem = refusal,
                Err(Problem::Refused(_)) => {}
                Err(other) => problem = other,
            }
        }
        Err(problem)
    }

    /// Takes the keys that came for a provider, and says how long to wait before the next attempt. Tokens that were
    /// checked with others are checked anew.
    fn arrived(&self, remote: &Remote, steady: Duration, keys: Option<KeySet>) -> Duration {
        if keys.is_some() {
            self.cache.borrow_mut().clear();
        }
        remote.arrived(steady, keys)
    }
}

impl Provider {
    fn has_keys(&self, steady: Duration) -> bool {
        match &self.keys {
            Keys::Inline(_) => true,
            Keys::Remote(remote) => remote.source().keys(steady).is_some(),
        }
    }

    /// Until when the token holds. What is cheap comes first: a token that has expired needs no check of its signature.
    fn check(
        &self,
        index: usize,
        token: &Token,
        claims: &Claims,
        (unix, steady): (u64, Duration),
        tries: &mut usize,
    ) -> Result<u64, Problem> {
        let until = self.holds(token, claims, unix).map_err(Problem::Refused)?;
        match &self.keys {
            Keys::Inline(keys) => signed(keys, token, tries).map_err(Problem::Refused)?,
            Keys::Remote(remote) => {
                let source = remote.source();
                let keys = source.keys(steady).ok_or(Problem::NoKeys(index))?;
                signed(keys, token, tries).map_err(|refusal| match refusal {
                    Refusal::Key => Problem::UnknownKey(index),
                    other => Problem::Refused(other),
                })?;
            }
        }
        Ok(until)
    }

    fn holds(&self, token: &Token, claims: &Claims, unix: u64) -> Result<u64, Refusal> {
        if !self.algorithms.is_empty() && !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        if !self.audiences.is_empty() && !claims.is_for(&self.audiences) {
            return Err(Refusal::Audience);
        }
        let Times { expires, begins, issued } = claims.times().ok_or(Refusal::Claims)?;
        if begins.is_some_and(|begins| unix.saturating_add(self.skew) < begins) {
            return Err(Refusal::Early);
        }
        let Some(expires) = expires else {
            return if self.require_expiration { Err(Refusal::NoExpiration) } else { Ok(u64::MAX) };
        };
        let until = expires.saturating_add(self.skew);
        // "On or after" is too late (RFC 7519 section 4.1.4).
        if unix >= until {
            return Err(Refusal::Expired);
        }
        // A token that does not say when it was made is taken to be of now: the bound holds for what is left of it.
        let lifetime = expires.saturating_sub(issued.unwrap_or(unix).min(unix.saturating_add(self.skew)));
        if self.max_lifetime.is_some_and(|most| lifetime > most.saturating_add(self.skew)) {
            return Err(Refusal::Lifetime);
        }
        Ok(until)
    }
}

/// Checks the signature: [`Refusal::Key`] if there may be a key elsewhere that it was made with.
fn signed(keys: &KeySet, token: &Token, tries: &mut usize) -> Result<(), Refusal> {
    let mut named = false;
    for key in keys.candidates(token) {
        *tries = tries.checked_sub(key.tries()).ok_or(Refusal::Signature)?;
        if token.is_signed_by(key) {
            return Ok(());
        }
        named |= key.is_named();
    }
    // With a name on both sides there is no doubt which key is meant.
    if named && token.key.is_some() { Err(Refusal::Signature) } else { Err(Refusal::Key) }
}

#[cfg(test)]
mod tests;

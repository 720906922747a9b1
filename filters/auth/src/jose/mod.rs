//! Signed tokens in their compact form (RFC 7515) and the keys that their signatures are checked with (RFC 7517).

mod algorithm;
mod key;

pub(crate) use algorithm::Algorithm;
pub(crate) use key::{Key, KeySet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::problem::Malformed;

/// The longest token that is looked at, in bytes. Those of large directories, with a group in every other line, have
/// up to some 8 KiB.
pub(crate) const LONGEST: usize = 16 << 10;

/// A token whose form is right. Nothing of it is to be believed before its signature has been checked.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// The algorithm that it says it is signed by.
    pub(crate) algorithm: Algorithm,
    /// Which key it says it is signed by.
    pub(crate) key: Option<String>,
    /// The bytes of its claims.
    pub(crate) payload: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// What is read of a token's header. Keys and their places (`jwk`, `jku`, `x5c`, `x5u`) come from whoever made the
/// token: they are never looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        if text.len() > LONGEST {
            return Err(Malformed::Long);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Malformed::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Malformed::Form)?;
        // A further dot is no letter of base64url.
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Malformed::Form)?;
        let Header { alg, kid, crit } = header;
        if crit.is_some() {
            return Err(Malformed::Extension);
        }
        let algorithm = Algorithm::named(&alg).ok_or(Malformed::Algorithm)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        Ok(Self { algorithm, key: kid, payload, signed: signed.as_bytes(), signature })
    }

    /// Whether the token was signed by the owner of a key.
    pub(crate) fn is_signed_by(&self, key: &Key) -> bool {
        key.verify(self.algorithm, self.signed, &self.signature)
    }
}

/// Bytes in base64url without padding, in their one right form.
fn decode(text: &str) -> Result<Vec<u8>, Malformed> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Malformed::Form)
}

#[cfg(test)]
mod tests;

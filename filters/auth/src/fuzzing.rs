//! What must hold for any input, for fuzz targets.

use crate::claims::Claims;
use crate::jose::{KeySet, Token};

/// The keys of RFC 7515 appendix A.3 and RFC 8037 appendix A.2, with which nothing of the corpus is signed.
const KEYS: &[u8] = br#"{"keys": [
    {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
     "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A token that is read has three parts, and nobody's signature.
///
/// # Panics
///
/// If that does not hold.
pub fn token(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(token) = Token::parse(text) else { return };
    assert_eq!(text.bytes().filter(|&byte| byte == b'.').count(), 2, "{text}");
    let keys = KeySet::fetched(KEYS);
    assert!(keys.is_ok_and(|keys| !keys.candidates(&token).any(|key| token.is_signed_by(key))), "{text}");
    if let Some(claims) = Claims::parse(&token.payload) {
        let _ = (claims.issuer(), claims.times());
    }
}

/// Keys that somebody served are keys, or there is a reason.
///
/// # Panics
///
/// If that does not hold.
pub fn keys(input: &[u8]) {
    assert!(KeySet::fetched(input).map_or_else(|reason| !reason.is_empty(), |keys| !keys.is_empty()));
}

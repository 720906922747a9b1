//! Keys and tokens that OpenSSL made, for tests: of issuer `https://issuer.example`, for `delta` and `epsilon`, about
//! `ada`, from 1 800 000 000 to an hour later.

use serde_json::Value;

/// When the tokens begin to hold.
pub(crate) const START: u64 = 1_800_000_000;

fn file() -> Value {
    serde_json::from_str(include_str!("../vectors/tokens.json")).unwrap()
}

/// The keys, as a set. Names: `rsa`, `rsa4096`, `p256`, `p384`, `ed25519`.
pub(crate) fn keys() -> Value {
    file()["jwks"].clone()
}

/// One token of each algorithm, that of RS256 first.
pub(crate) fn tokens() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    file()["tokens"].as_array().unwrap().iter().map(|token| (text(&token["alg"]), text(&token["token"]))).collect()
}

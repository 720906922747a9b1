//! The known keys, by their hashes.

use lacis_sdk::is_header_value;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// A SHA-256.
pub(crate) type Hash = [u8; 32];

/// One key as it is configured.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Entry {
    /// Whose key it is; several may share a name while one replaces the other.
    name: String,
    /// The SHA-256 of the key in hexadecimal digits: a random key of 128 bits or more needs no slow hash.
    sha256: String,
}

/// The known keys.
pub(crate) struct Keys {
    names: Vec<String>,
    hashes: Vec<Hash>,
}

impl Keys {
    pub(crate) fn new(entries: &[Entry]) -> Result<Self, String> {
        if entries.is_empty() {
            return Err("`keys` is empty: no request could pass".to_owned());
        }
        let (mut names, mut hashes) = (Vec::new(), Vec::new());
        for Entry { name, sha256 } in entries {
            if name.is_empty() || !is_header_value(name.as_bytes()) {
                return Err(format!("the name {name:?} of a key is no value of a header"));
            }
            let hash = hash(sha256).ok_or_else(|| format!("`sha256` of key {name:?} must be 64 hexadecimal digits"))?;
            if hashes.contains(&hash) {
                return Err(format!("key {name:?} has the same `sha256` as one before it"));
            }
            names.push(name.clone());
            hashes.push(hash);
        }
        Ok(Self { names, hashes })
    }

    /// The name of a key. Takes as long for a known as for an unknown one, whichever it is.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&str> {
        let given: Hash = Sha256::digest(key).into();
        let mut found = u32::MAX;
        for (index, hash) in (0..).zip(&self.hashes) {
            found.conditional_assign(&index, hash.ct_eq(&given));
        }
        self.names.get(found as usize).map(String::as_str)
    }
}

/// A hash in hexadecimal digits.
pub(crate) fn hash(digits: &str) -> Option<Hash> {
    let digits = digits.as_bytes();
    let mut hash = Hash::default();
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_in_either_case() {
        assert_eq!(hash(&"aB".repeat(32)), Some([0xab; 32]));
        for digits in ["", &"0".repeat(63), &"0".repeat(65), &"g0".repeat(32), &"é".repeat(32)] {
            assert_eq!(hash(digits), None);
        }
    }

    #[test]
    fn each_key_is_found_by_its_own_name() {
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            sha256: Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let keys = Keys::new(&["a", "b", "c"].map(entry)).unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(keys.find(name.as_bytes()), Some(name));
        }
        assert_eq!(keys.find(b"d"), None);
    }
}

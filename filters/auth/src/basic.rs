//! Names and passwords (RFC 7617).
//!
//! Passwords are kept as salted SHA-256 and not by a slow hash such as Argon2. A slow one takes a processor for as long
//! for a wrong password as for a right one, in the sidecar and for each request, so strangers could stop it by guessing;
//! with what a filter may take for a request it could not be slow enough to matter. It protects passwords that people
//! think of, in a file that was stolen; machines have random ones, and those need no protection of that kind.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lacis_sdk::is_header_value;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::keys::{Hash, hash};

/// The shortest salt, in bytes.
const SHORTEST_SALT: usize = 8;

/// Users with passwords.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Config {
    /// What a browser shows when it asks for name and password; absent: `lacis`.
    realm: Option<String>,
    /// Who is let in.
    users: Vec<Entry>,
    /// The header that tells the service the user's name; absent: none does.
    pub(crate) forward_name: Option<String>,
    /// Whether the service sees the password; absent: it does not.
    #[serde(default)]
    pub(crate) forward_password: bool,
}

/// One user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct Entry {
    /// The user's name, without `:`.
    name: String,
    /// A text of at least 8 bytes, another one for each user.
    salt: String,
    /// The SHA-256 of salt and password, one after the other, in hexadecimal digits.
    sha256: String,
}

/// The known users.
pub(crate) struct Users {
    /// The challenge for those who bring no password, or a wrong one.
    challenge: String,
    users: HashMap<String, (String, Hash)>,
}

impl Users {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let Config { realm, users: entries, forward_name: _, forward_password: _ } = config;
        let realm = realm.as_deref().unwrap_or("lacis");
        if !is_header_value(realm.as_bytes()) || realm.contains(['"', '\\']) {
            return Err(format!(
                "`basic.realm` {realm:?} cannot stand in a header: no quotes, `\\` or control characters"
            ));
        }
        if entries.is_empty() {
            return Err("`basic.users` is empty: no request could pass".to_owned());
        }
        let mut users = HashMap::new();
        for Entry { name, salt, sha256 } in entries {
            if name.is_empty() || name.contains(':') || !is_header_value(name.as_bytes()) {
                return Err(format!("the name {name:?} of a user must be a value of a header without `:`"));
            }
            if salt.len() < SHORTEST_SALT {
                return Err(format!("`salt` of user {name:?} must have {SHORTEST_SALT} bytes or more"));
            }
            let hash =
                hash(&sha256).ok_or_else(|| format!("`sha256` of user {name:?} must be 64 hexadecimal digits"))?;
            if users.insert(name.clone(), (salt, hash)).is_some() {
                return Err(format!("user {name:?} is there twice"));
            }
        }
        Ok(Self { challenge: format!("Basic realm=\"{realm}\", charset=\"UTF-8\""), users })
    }

    /// What to ask for in `www-authenticate`.
    pub(crate) fn challenge(&self) -> &str {
        &self.challenge
    }

    /// The user whose name and password these are. An unknown user takes as long as one with a wrong password.
    pub(crate) fn find(&self, credentials: &str) -> Option<&str> {
        let text = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        let user = self.users.get_key_value(name);
        let nobody = (String::from("12345678"), Hash::default());
        let (salt, hash) = user.map_or(&nobody, |(_, user)| user);
        let given: Hash = Sha256::new_with_prefix(salt).chain_update(password).finalize().into();
        let is = given.ct_eq(hash);
        user.filter(|_| is.into()).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(realm: Option<&str>, users: Vec<Entry>) -> Result<Users, String> {
        let realm = realm.map(str::to_owned);
        Users::new(Config { realm, users, forward_name: None, forward_password: false })
    }

    fn entry(name: &str, salt: &str, password: &str) -> Entry {
        let hash = Sha256::digest(format!("{salt}{password}"));
        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Entry { name: name.to_owned(), salt: salt.to_owned(), sha256 }
    }

    #[test]
    fn users_are_found_by_name_and_password() {
        let entries =
            vec![entry("ada", "saltsalt", "a:b"), entry("eve", "saltsalu", ""), entry("zoë", "saltsalv", "é")];
        let users = users(None, entries).unwrap();
        let find = |text: &str| users.find(&STANDARD.encode(text)).map(str::to_owned);
        for (text, name) in [("ada:a:b", Some("ada")), ("eve:", Some("eve")), ("zoë:é", Some("zoë"))] {
            assert_eq!(find(text).as_deref(), name);
        }
        for text in ["", ":", "ada", "ada:", "ada:a", "ada:a:b ", "Ada:a:b", "eve:a:b", "nobody:", ":a:b"] {
            assert_eq!(find(text), None, "{text}");
        }
        for text in ["", "!", "YWRhOmE6Yg", "YWRhOmE6Yg== ", "/w=="] {
            assert_eq!(users.find(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let new = |entries: Vec<Entry>| users(None, entries).err().unwrap();
        assert!(new(vec![]).contains("`basic.users` is empty"));
        assert!(new(vec![entry("a:b", "saltsalt", "x")]).contains("without `:`"));
        assert!(new(vec![entry("a\n", "saltsalt", "x")]).contains("a value of a header"));
        assert!(new(vec![entry("a", "saltsal", "x")]).contains("8 bytes or more"));
        assert!(new(vec![entry("a", "saltsalt", "x"), entry("a", "saltsalt", "y")]).contains("is there twice"));
        let short = Entry { sha256: "ab".to_owned(), ..entry("a", "saltsalt", "x") };
        assert!(new(vec![short]).contains("64 hexadecimal digits"));
        let realm = users(Some("a\"b"), vec![entry("a", "saltsalt", "x")]).err().unwrap();
        assert!(realm.contains("`basic.realm`"), "{realm}");
    }
}

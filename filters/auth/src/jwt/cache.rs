//! Tokens that were checked before: a check costs a thousand times what finding it here does.

use std::collections::HashMap;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::claims::Verified;

/// The name of a token here: another text with the same name cannot be found.
pub(crate) type Name = [u8; 32];

/// How many bytes of tokens are remembered in one generation. Claims take a few times the memory of their text.
const BYTES: usize = 256 << 10;

/// Tokens in two generations: when the younger one is full, it becomes the older one, and what that still had is
/// forgotten. What is found in the older one moves to the younger, so what is in use stays.
pub(crate) struct Cache {
    /// How many tokens a generation holds.
    most: usize,
    young: HashMap<Name, Rc<Verified>>,
    old: HashMap<Name, Rc<Verified>>,
    /// The length of the tokens that `young` holds.
    bytes: usize,
}

/// The name of a token.
pub(crate) fn name(token: &str) -> Name {
    Sha256::digest(token).into()
}

impl Cache {
    /// A cache for at most this many tokens.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most / 2, young: HashMap::new(), old: HashMap::new(), bytes: 0 }
    }

    /// A token that was checked before.
    pub(crate) fn find(&mut self, name: &Name) -> Option<Rc<Verified>> {
        if let Some(verified) = self.young.get(name) {
            return Some(verified.clone());
        }
        let verified = self.old.remove(name)?;
        self.remember(*name, &verified);
        Some(verified)
    }

    /// Remembers a token.
    pub(crate) fn remember(&mut self, name: Name, verified: &Rc<Verified>) {
        if self.most == 0 {
            return;
        }
        if self.young.len() >= self.most || self.bytes + verified.length > BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += verified.length;
        self.young.insert(name, verified.clone());
    }

    /// Forgets everything: keys have changed, and one that is gone must not live on here.
    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(length: usize) -> Rc<Verified> {
        Rc::new(Verified { length, ..Verified::default() })
    }

    fn size(cache: &Cache) -> usize {
        cache.young.len() + cache.old.len()
    }

    #[test]
    fn it_is_bounded_by_number_and_keeps_what_is_in_use() {
        let mut cache = Cache::new(8);
        let used = name("used");
        cache.remember(used, &verified(1));
        for index in 0..100 {
            cache.remember(name(&index.to_string()), &verified(1));
            assert!(size(&cache) <= 8);
            assert!(cache.find(&used).is_some(), "{index}");
        }
        assert!(cache.find(&name("99")).is_some());
        assert!(cache.find(&name("0")).is_none());
        cache.clear();
        assert!(cache.find(&used).is_none());
    }

    #[test]
    fn it_is_bounded_by_bytes() {
        let mut cache = Cache::new(1_000_000);
        for index in 0..1000 {
            cache.remember(name(&index.to_string()), &verified(16 << 10));
            assert!(size(&cache) <= 2 * BYTES / (16 << 10));
        }
    }

    #[test]
    fn it_can_be_off() {
        let mut cache = Cache::new(0);
        cache.remember(name("a"), &verified(1));
        assert!(cache.find(&name("a")).is_none());
    }
}

//! A small ordered map. The one of the standard library would be a tenth of a small module.

/// Entries in the order of their keys.
pub(crate) struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Copy, V> Table<K, V> {
    fn place(&self, key: K) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.cmp(&key))
    }

    /// Puts a value in, in the place of the one that the key had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.place(key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (key, value)),
        }
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.place(key).ok().map(|at| self.0.remove(at).1)
    }

    /// The smallest key.
    pub(crate) fn first(&self) -> Option<K> {
        self.0.first().map(|(key, _)| *key)
    }

    /// Takes out the value of the smallest key, if that is one of these.
    pub(crate) fn pop_if(&mut self, fits: impl FnOnce(K) -> bool) -> Option<V> {
        self.first().is_some_and(fits).then(|| self.0.remove(0).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_in_order() {
        let mut table = Table::default();
        for key in [5, 1, 3, 1] {
            table.insert(key, key * 10);
        }
        assert_eq!((table.remove(3), table.remove(3), table.first()), (Some(30), None, Some(1)));
        assert_eq!((table.pop_if(|key| key < 2), table.pop_if(|key| key < 2)), (Some(10), None));
    }
}

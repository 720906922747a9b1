//! What a request says of itself, where it lies beside what else all records have.

/// Bytes of all of them that have room here: most ids have 36, hosts and paths some thirty, identities fifty. One that
/// finds none is kept elsewhere.
const ROOM: usize = 280;

/// One of them, in the sequence in which they come to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Host,
    Path,
    Caller,
    Id,
}

/// How many kinds there are.
pub(super) const WORDS: usize = 4;

/// The words of one request, one behind the other.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Words {
    ends: [u16; WORDS],
    text: [u8; ROOM],
}

impl Default for Words {
    fn default() -> Self {
        Words { ends: [0; WORDS], text: [0; ROOM] }
    }
}

impl Words {
    /// Takes a word, behind those before it; what was said of it and of those behind it is forgotten. Whether there was
    /// room: it is empty otherwise.
    #[inline]
    pub(super) fn put(&mut self, word: Word, text: &[u8]) -> bool {
        let start = self.start(word);
        let end = start + text.len();
        let room = self.text.get_mut(start..end);
        let fits = room.is_some();
        if let Some(room) = room {
            room.copy_from_slice(text);
        }
        let end = if fits { end as u16 } else { start as u16 };
        self.ends.iter_mut().skip(word as usize).for_each(|each| *each = end);
        fits
    }

    /// Becomes as another, without touching what that does not use.
    #[inline]
    pub(super) fn copy(&mut self, other: &Words) {
        let used = usize::from(other.ends[WORDS - 1]);
        if let (Some(to), Some(from)) = (self.text.get_mut(..used), other.text.get(..used)) {
            to.copy_from_slice(from);
        }
        self.ends = other.ends;
    }

    /// What is here of one; not necessarily text.
    pub(super) fn read(&self, word: Word) -> &[u8] {
        self.text.get(self.start(word)..usize::from(self.ends[word as usize])).unwrap_or_default()
    }

    /// Bytes from its beginning to the last that is used.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        std::mem::offset_of!(Words, text) + self.ends.iter().map(|end| usize::from(*end)).max().unwrap_or_default()
    }

    #[inline]
    fn start(&self, word: Word) -> usize {
        match word {
            Word::Host => 0,
            word => usize::from(self.ends[word as usize - 1]),
        }
    }
}

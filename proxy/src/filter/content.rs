//! Content of a message while a filter may see it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use lacis_host::Buffer;

/// Bytes in a guest's hands. A piece that came as one is only copied if the guest changes it or keeps it for more.
#[derive(Debug)]
pub(super) enum Content {
    /// As it came.
    Piece(Bytes),
    /// Collected, or changed.
    Own(BytesMut),
}

impl Default for Content {
    fn default() -> Self {
        Content::Piece(Bytes::new())
    }
}

impl Content {
    /// Adds what came next.
    pub(super) fn append(&mut self, more: Bytes) {
        match self.is_empty() {
            _ if more.is_empty() => {}
            true => *self = Content::Piece(more),
            false => self.change(|own| own.extend_from_slice(&more)),
        }
    }

    /// Everything, for whoever comes next.
    pub(super) fn take(&mut self) -> Bytes {
        match std::mem::take(self) {
            Content::Piece(piece) => piece,
            Content::Own(own) => own.freeze(),
        }
    }

    /// Changes its own bytes.
    fn change(&mut self, change: impl FnOnce(&mut BytesMut)) {
        let mut own = match std::mem::take(self) {
            Content::Own(own) => own,
            Content::Piece(piece) => piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
        };
        change(&mut own);
        *self = Content::Own(own);
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Content::Piece(piece) => piece,
            Content::Own(own) => own,
        }
    }
}

impl Buffer for Content {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn copy(&self, start: usize, out: &mut [u8]) {
        if let Some(part) = self.bytes().get(start..start + out.len()) {
            out.copy_from_slice(part);
        }
    }

    fn replace(&mut self, range: Range<usize>, bytes: &[u8]) {
        if range == (0..self.len()) {
            *self = Content::Own(BytesMut::from(bytes));
            return;
        }
        self.change(|own| {
            let rest = own.split_off(range.end.min(own.len()));
            own.truncate(range.start);
            own.extend_from_slice(bytes);
            own.extend_from_slice(&rest);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &Content) -> String {
        let mut out = vec![0; content.len()];
        content.copy(0, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn any_range_can_be_replaced() {
        for (range, with, whole) in [
            (0..0, "x", "xhello"),
            (5..5, "x", "hellox"),
            (0..5, "x", "x"),
            (0..2, "", "llo"),
            (1..3, "EEE", "hEEElo"),
            (0..5, "", ""),
        ] {
            let mut content = Content::default();
            content.append(Bytes::from_static(b"he"));
            content.append(Bytes::from_static(b"llo"));
            content.replace(range.clone(), with.as_bytes());
            assert_eq!(read(&content), whole, "{range:?} {with}");
            assert_eq!(content.take(), whole);
            assert!(content.is_empty());
        }
    }

    #[test]
    fn what_nobody_changes_is_not_copied() {
        let piece = Bytes::from(vec![1; 100]);
        let mut content = Content::default();
        content.append(piece.clone());
        assert_eq!(content.take().as_ptr(), piece.as_ptr());
    }
}

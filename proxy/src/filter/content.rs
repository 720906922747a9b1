//! Content of a message while a filter may see it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use lacis_host::Buffer;

/// Bytes in a guest's hands. A piece that came as one is only copied if the guest changes it or keeps it for more.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// As it came; empty where there are own bytes.
    piece: Bytes,
    /// Collected, or changed.
    own: Option<BytesMut>,
}

impl Content {
    /// Adds what came next.
    pub(super) fn append(&mut self, more: Bytes) {
        match self.is_empty() {
            _ if more.is_empty() => {}
            true => (self.piece, self.own) = (more, None),
            false => self.own().extend_from_slice(&more),
        }
    }

    /// Everything, for whoever comes next.
    pub(super) fn take(&mut self) -> Bytes {
        match self.own.take() {
            None => std::mem::take(&mut self.piece),
            Some(own) => own.freeze(),
        }
    }

    fn own(&mut self) -> &mut BytesMut {
        let piece = std::mem::take(&mut self.piece);
        self.own.get_or_insert_with(|| piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])))
    }

    fn bytes(&self) -> &[u8] {
        self.own.as_deref().unwrap_or(&self.piece)
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
            *self = Content { piece: Bytes::new(), own: Some(BytesMut::from(bytes)) };
            return;
        }
        let own = self.own();
        let rest = own.split_off(range.end.min(own.len()));
        own.truncate(range.start);
        own.extend_from_slice(bytes);
        own.extend_from_slice(&rest);
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

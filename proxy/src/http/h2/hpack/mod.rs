//! Field sections in HPACK (RFC 7541): lines that were said before are an index.

mod decode;
mod encode;
mod table;

pub(super) use decode::{Decoder, Garbled};
pub(super) use encode::Encoder;
pub(super) use table::Line;

/// Most that the table of a side counts, in bytes: what each side has that says nothing of it (RFC 9113 section 6.5.2).
const TABLE_SIZE: usize = 4096;

/// What a line counts beside its name and value (RFC 7541 section 4.1).
const LINE_OVERHEAD: usize = 32;

/// Feeds bytes to the decoder. What it reads can be written, and read again.
pub(super) fn fuzz(input: &[u8]) {
    let read = |decoder: &mut Decoder, block: &[u8]| {
        let mut lines = Vec::new();
        decoder.decode(block, |line| lines.push(line.into_owned())).ok().map(|()| lines)
    };
    let (mut first, mut second, mut encoder) = (Decoder::default(), Decoder::default(), Encoder::default());
    // The same block several times: its lines move from literals into the table.
    for _ in 0..3 {
        let Some(lines) = read(&mut first, input) else { return };
        let mut out = bytes::BytesMut::new();
        encoder.begin(&mut out);
        for line in &lines {
            let (name, value) = line.parts();
            encoder.line(&mut out, name, value, false);
        }
        assert_eq!(read(&mut second, &out), Some(lines));
    }
}

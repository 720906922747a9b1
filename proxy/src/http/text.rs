//! Which bytes are text, eight at a time.

/// How many bytes there are before the first that no value of a field may have: visible ones of any character set, spaces and tabs may stand
/// there (RFC 9110 section 5.5).
#[inline]
pub(super) fn text(bytes: &[u8]) -> usize {
    let mut length = plain::<b' '>(bytes);
    while bytes.get(length) == Some(&b'\t') {
        length += 1;
        length += plain::<b' '>(bytes.get(length..).unwrap_or_default());
    }
    length
}

/// How many bytes there are before the first that is below `LOWEST` or DEL: eight at a time.
#[inline]
pub(super) fn plain<const LOWEST: u8>(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (nth, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let del = word ^ (ONES * 0x7f);
        // What is borrowed reaches only bytes behind the first that is found.
        let found = (word.wrapping_sub(ONES * LOWEST as u64) & !word | del.wrapping_sub(ONES) & !del) & HIGH;
        if found != 0 {
            return 8 * nth + (found.trailing_zeros() / 8) as usize;
        }
    }
    let plain = rest.iter().position(|&byte| byte < LOWEST || byte == 0x7f).unwrap_or(rest.len());
    8 * words.len() + plain
}

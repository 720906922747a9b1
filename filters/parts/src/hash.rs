//! A hash of text that is the same in every worker, process and version.

/// A number for a text, evenly spread over 64 bits; another `salt` gives numbers that have nothing to do with the first.
/// Not for secrets: whoever knows the salt can choose texts of one number.
///
/// FNV-1a, whose lower bits alone are even, and the finalizer of SplitMix64 after it.
pub fn hash(salt: &str, text: &str) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in salt.bytes().chain([0]).chain(text.bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users keep their side of a canary over updates only as long as these stay.
    #[test]
    fn it_never_changes() {
        assert_eq!(hash("", "ada"), 0xe07f_c5e8_f735_585c);
        assert_eq!(hash("a", ""), 0xd013_7a57_d0ef_408f);
        assert_ne!(hash("a", "b"), hash("", "ab"));
    }

    #[test]
    fn it_is_even_over_numbered_users() {
        let mut shares = [0_u32; 10];
        for user in 0..10_000 {
            shares[(hash("", &format!("user-{user}")) % 10) as usize] += 1;
        }
        // Chi-squared with 9 degrees of freedom: 27.9 is passed by chance once in a thousand salts, and this is one.
        let chi: f64 = shares.iter().map(|&share| (f64::from(share) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 27.9, "{shares:?}: {chi}");
    }
}

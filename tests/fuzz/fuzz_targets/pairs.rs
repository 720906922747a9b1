//! A guest's header map: what is accepted is encoded to the same bytes.
#![no_main]

use lacis_abi::{Encoder, Pairs, encoded_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(pairs) = Pairs::decode(bytes) else { return };
    assert_eq!(pairs.iter().count(), pairs.len());
    let mut again = vec![0; encoded_len(pairs.iter())];
    let mut encoder = Encoder::new(&mut again, pairs.len()).expect("room for the lengths");
    for (name, value) in pairs.iter() {
        assert!(encoder.push(name, value));
    }
    assert!(encoder.is_complete());
    let decoded = Pairs::decode(&again).expect("a map of ours");
    assert!(decoded.iter().eq(pairs.iter()));
});

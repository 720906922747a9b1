//! A SPIFFE ID that is accepted is written as it was read, and its parts make it whole.
#![no_main]

use lacis::identity::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    if let Some(service) = id.service_name() {
        assert!(text.ends_with(&format!("/sa/{service}")));
    }
});

//! Which messages carry JSON.

use lacis_sdk::Headers;

/// Whether a message's body is JSON by its head: `application/json` or `application/…+json`, in UTF-8, not compressed.
pub fn is_json(headers: &Headers) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_text().to_ascii_lowercase());
    let coding = text("content-encoding");
    coding.is_none_or(|coding| matches!(coding.trim(), "" | "identity"))
        && text("content-type").is_some_and(|kind| is_json_type(&kind))
}

/// RFC 8259 section 11: JSON has no charset parameter, and some say that it is UTF-8 all the same.
fn is_json_type(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let json = essence == "application/json"
        || essence.strip_prefix("application/").is_some_and(|kind| kind.len() > 5 && kind.ends_with("+json"));
    json && parts
        .filter_map(|part| part.strip_prefix("charset="))
        .all(|set| matches!(set.trim_matches('"'), "utf-8" | "us-ascii"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_json_are_known() {
        for (kind, json) in [
            ("application/json", true),
            ("application/json; charset=\"utf-8\"", true),
            ("application/problem+json", true),
            ("application/json;charset=utf-16", false),
            ("application/+json", false),
            ("application/jsonp", false),
            ("text/json", false),
            ("", false),
        ] {
            assert_eq!(is_json_type(kind), json, "{kind}");
        }
    }
}

//! What a module says of how it was made: its custom section `producers` (WebAssembly tool conventions).

use wasmparser::{Parser, Payload, ProducersSectionReader};

/// Longest name that is shown, in characters; the module may write anything there.
const NAME_MAX: usize = 64;

/// The source language, such as `Rust`, if the module says one. For display only. The module may be any bytes.
pub(super) fn language(code: &[u8]) -> Option<String> {
    let sections = Parser::new(0).parse_all(code).map_while(Result::ok);
    let producers = sections.filter_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == "producers" => {
            ProducersSectionReader::new(wasmparser::BinaryReader::new(section.data(), 0)).ok()
        }
        _ => None,
    });
    let mut fields = producers.flatten().map_while(Result::ok);
    let language = fields.find(|field| field.name == "language")?;
    let value = language.values.into_iter().next()?.ok()?;
    Some(value.name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_what_the_module_says() {
        let with = |section: &[u8]| {
            let text: String = section.iter().map(|byte| format!("\\{byte:02x}")).collect();
            wat::parse_str(format!("(module (@custom \"producers\" \"{text}\"))")).unwrap()
        };
        // Two fields: `sdk: x 1`, and `language: C11`.
        let whole = b"\x02\x03sdk\x01\x01x\x011\x08language\x01\x03C11\x00";
        assert_eq!(language(&with(whole)), Some("C11".into()));
        let code = with(whole);
        for end in 0..code.len() {
            language(&code[..end]);
        }
        for broken in [&whole[..10], b"", b"\xff\xff\xff\xff\x0f", b"\x01\x08language\x00"] {
            assert_eq!(language(&with(broken)), None, "{broken:?}");
        }
        assert_eq!(language(b"no module"), None);
    }
}

//! The filters that are part of this binary, compiled by `build.rs`: `module: builtin:NAME` in a configuration.

/// The names of the filters, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODULES.iter().map(|(name, _)| *name)
}

/// The WebAssembly module of a filter; absent if there is none of that name.
pub fn module(name: &str) -> Option<&'static [u8]> {
    MODULES.iter().find(|(own, _)| *own == name).map(|(_, module)| *module)
}

static MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// Only for its tests, which cargo runs nowhere else.
#[cfg(test)]
#[path = "../../build.rs"]
#[allow(dead_code, reason = "cargo runs it as a program of its own")]
mod build_script;

#[cfg(test)]
mod tests {
    use wasmparser::{KnownCustom, Name, Parser, Payload};

    use super::*;

    #[test]
    fn each_filter_is_a_module_of_bounded_size() {
        assert_eq!(
            names().collect::<Vec<_>>(),
            ["auth", "cors", "jwt", "metrics", "quota", "routing", "transform", "validate"]
        );
        for name in names() {
            let module = module(name).unwrap();
            assert!(module.starts_with(b"\0asm\x01\0\0\0"), "{name}");
            // Grown by a dependency that nobody meant to add? A worker's memory and start time pay for it. A fifth are the
            // names of functions, which cost the binary only: nobody reads them before there is a trap. Schemas bring
            // patterns and formats with Unicode's tables along.
            let most = match name {
                "auth" => 592 << 10,
                "jwt" => 960 << 10,
                "validate" => 2200 << 10,
                _ => 440 << 10,
            };
            assert!(module.len() < most, "{name}: {} bytes", module.len());
        }
        assert_eq!(module("nothing"), None);
    }

    /// What the backtrace of a trap is made of.
    #[test]
    fn each_filter_names_its_functions() {
        for name in names() {
            let sections = Parser::new(0).parse_all(module(name).unwrap()).filter_map(Result::ok);
            let known = sections.filter_map(|section| match section {
                Payload::CustomSection(section) => Some(section.as_known()),
                _ => None,
            });
            let mut functions = Vec::new();
            for part in known.filter_map(|known| match known {
                KnownCustom::Name(names) => Some(names),
                _ => None,
            }) {
                for part in part.filter_map(Result::ok) {
                    if let Name::Function(all) = part {
                        functions.extend(all.into_iter().filter_map(Result::ok).map(|naming| naming.name));
                    }
                }
            }
            // `jwt` is the package of `auth` with all its features.
            let package = if name == "jwt" { "auth" } else { name };
            let own = format!("lacis_filter_{package}");
            assert!(functions.iter().any(|function| function.contains(&own)), "{name}: {} names", functions.len());
        }
    }
}

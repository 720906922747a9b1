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
    use super::*;

    #[test]
    fn each_filter_is_a_module_of_bounded_size() {
        assert_eq!(names().collect::<Vec<_>>(), ["auth", "metrics", "routing"]);
        for name in names() {
            let module = module(name).unwrap();
            assert!(module.starts_with(b"\0asm\x01\0\0\0"), "{name}");
            // Grown by a dependency that nobody meant to add? A worker's memory and start time pay for it.
            assert!(module.len() < 160 << 10, "{name}: {} bytes", module.len());
        }
        assert_eq!(module("nothing"), None);
    }
}

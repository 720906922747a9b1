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

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(dead_code, reason = "only a part of the build script is tested here")]
    mod build_script {
        include!("../../build.rs");

        pub(super) fn ensured(installed: &[bool], added: Result<(), String>) -> Result<(), String> {
            let answers = std::cell::RefCell::new(installed.iter());
            ensure_target(|| *answers.borrow_mut().next().unwrap(), || added)
        }

        pub(super) fn leaking(name: &str) -> bool {
            leaks(OsStr::new(name))
        }
    }

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

    #[test]
    fn a_missing_target_is_added_or_the_error_says_what_to_do() {
        assert_eq!(build_script::ensured(&[true], Err("not asked".to_owned())), Ok(()));
        assert_eq!(build_script::ensured(&[false, true], Ok(())), Ok(()));
        for added in [Ok(()), Err("rustup does not start: No such file or directory (os error 2)".to_owned())] {
            let error = build_script::ensured(&[false, false], added).unwrap_err();
            assert!(error.contains("run `rustup target add wasm32-wasip1`"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_build_of_the_proxy_does_not_leak_into_that_of_the_filters() {
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO", "CARGO"] {
            assert!(build_script::leaking(name), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE", "RUSTUP_TOOLCHAIN"] {
            assert!(!build_script::leaking(name), "{name}");
        }
    }
}

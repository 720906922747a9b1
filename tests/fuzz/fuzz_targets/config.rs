//! A configuration file: any text gives a configuration, or problems that each say where in the file they are.
#![no_main]

use std::path::Path;

use lacis::config::resolve::{Host, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 2 };
    let Err(problems) = parse(text, "fuzz.yaml", Path::new("/"), &host) else { return };
    assert!(!problems.is_empty());
    let lines = text.lines().count().max(1);
    for problem in problems {
        assert!(problem.line <= lines + 1, "{problem:?} of {lines} lines");
    }
});

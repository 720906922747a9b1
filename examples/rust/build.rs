//! Has the linker pack the addresses in the code, which makes the module a tenth smaller. Debug information would be wrong
//! after that, so a build with it stays as it is.

use std::env::var;

fn main() {
    let is = |name, wanted| var(name).is_ok_and(|value| value == wanted);
    if is("CARGO_CFG_TARGET_FAMILY", "wasm") && is("DEBUG", "false") {
        println!("cargo::rustc-link-arg-cdylib=--compress-relocations");
    }
}

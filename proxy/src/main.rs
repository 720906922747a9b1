//! Arguments to command to exit code; everything else is in the library.

/// Every worker allocates on its own thread; mimalloc's heaps are per thread too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    give_memory_back();
    lacis::cli::main(std::env::args_os())
}

/// How many milliseconds memory that was freed stays with the process, and its place in mimalloc's list of options (`mimalloc.h`, version 3),
/// which its bindings do not name. With the default of a second hardly anything goes back: it goes only with a later call of the thread that
/// freed it, and after a crowd of connections has left there are few. After 5,000 of them 180 MiB stayed, with this 37.
const PURGE_DELAY: (std::ffi::c_int, std::ffi::c_long) = (15, 10);

/// Sets it, unless `MIMALLOC_PURGE_DELAY` does.
#[expect(unsafe_code, reason = "mimalloc has no safe call for its options")]
fn give_memory_back() {
    // SAFETY: options may be set while there is one thread; it stores a number, and checks that there is such an option.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY.0, PURGE_DELAY.1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "as above")]
    fn it_is_the_option_that_is_meant() {
        // SAFETY: it reads a number.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY.0) };
        assert_eq!(delay(), 1000, "mimalloc's default, which no other option has: else the list has changed");
        give_memory_back();
        assert_eq!(delay(), PURGE_DELAY.1);
    }
}

//! Arguments to command to exit code; everything else is in the library.

/// Every worker allocates on its own thread; mimalloc's heaps are per thread too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    lacis::cli::main(std::env::args_os())
}

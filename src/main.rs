//! The `nodens` command: runs the library's command line and exits with its exit code (sysexits.h).

use std::process::ExitCode;

use nodens::cli::run;

/// Allocator of the process. A miss allocates about twenty times; with the C library's allocator (musl's above all) that
/// would be its largest cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()).code())
}

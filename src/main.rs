//! The `nodens` command: the library does the work, this turns its outcome into an exit code (sysexits.h).

use std::process::ExitCode;

use nodens::cli::run;

/// A miss allocates some twenty times, and the C library's allocator (musl's above all) makes that its largest cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()).code())
}

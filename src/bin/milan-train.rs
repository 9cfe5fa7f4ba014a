use std::process::ExitCode;

use milan::cli;

// Maps of megabytes come and go with every op; the system's allocator fetches each afresh.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::train::main()
}

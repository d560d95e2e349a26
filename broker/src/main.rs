//! The program `grapnel`: the broker on the allocator it is meant to run on. All it does is in `grapnel::program`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    grapnel::program::main(None)
}

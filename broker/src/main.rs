//! The program `grapnel`: sets the allocator and runs `grapnel::program`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    grapnel::program::main(None)
}

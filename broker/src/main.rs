//! The program `grapnel`: the broker on its allocator. Everything it does is in `grapnel::program`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    grapnel::program::main(None)
}

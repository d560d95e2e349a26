//! The program `grapnel-ctl`: shows and changes a running broker over its control socket.
//! Everything is in `grapnel::ctl`.

fn main() -> std::process::ExitCode {
    grapnel::ctl::main()
}

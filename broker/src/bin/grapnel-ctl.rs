//! `grapnel-ctl`: looks at a running broker and changes it, over its control socket. Everything is in `grapnel::ctl`.

fn main() -> std::process::ExitCode {
    grapnel::ctl::main()
}

//! Grapnel as an operator sees it: start and stop, configuration, grapnel-ctl, and plugins that
//! come and go while clients are connected. Real processes, real sockets, real `.so` files.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod check;
mod ctl;
mod declared;
mod door;
mod faults;
mod fetch;
mod hands;
mod held;
mod hooks;
mod life;
mod lifecycle;
mod log;
mod memory;
mod misbehaving;
mod plugins;
mod refusals;
mod resting;
mod verbs;

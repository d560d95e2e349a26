//! Grapnel as an operator sees it: start and stop, configuration, grapnel-ctl, and plugins that
//! come and go while clients are connected. Real processes, real sockets, real `.so` files.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod access;
mod check;
mod config_reload;
mod ctl;
mod declared;
mod faults;
mod fetch;
mod hooks;
mod lifecycle;
mod log;
mod memory;
mod misbehaving;
mod mount_point;
mod operator_mistakes;
mod plugin_commands;
mod plugins;
mod refusals;
mod stalled;
mod suspended;
mod verbs;

//! What plugins may do under load: come and go, and answer later. What clients may do to a broker, and what others feel of it.
//! Every message and every client is judged; rates and times are printed and never asserted.
#![allow(clippy::print_stderr, reason = "the tests say what load they made and how fast it went")]

mod deferred;
mod reloads;

use grapnel_tests::Broker;

/// Loads a plugin with these settings, each as `KEY=VALUE`.
fn load_plugin(broker: &Broker, name: &str, settings: &[&str]) {
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    let command = ["plugins", "load", name, "--once"].into_iter().chain(settings);
    broker.ctl_ok(&command.collect::<Vec<_>>());
}

//! Plugins under load: they are loaded, unloaded, and answer later. Heavy load from clients, and
//! its effect on other clients. Every message and every client is checked; rates and times are
//! printed and never asserted.
#![allow(clippy::print_stderr, reason = "the tests say what load they made and how fast it went")]

mod deferred;
mod misuse;
mod neighbours;
mod reloads;

use grapnel_tests::{Broker, Client, Connect, Packet, Version};

/// Loads a plugin with these settings, each as `KEY=VALUE`.
fn load_plugin(broker: &Broker, name: &str, settings: &[&str]) {
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    let command = ["plugins", "load", name, "--once"].into_iter().chain(settings);
    broker.ctl_ok(&command.collect::<Vec<_>>());
}

/// Connects clients of these names, a hundred at a time.
fn connect_all(broker: &Broker, names: &[String]) -> Vec<Client> {
    let connect = |name: &String| {
        let mut client = Client::dial(broker, Version::V5);
        client.send(&Connect::new(Version::V5, name).encode());
        client
    };
    let mut all: Vec<Client> = Vec::with_capacity(names.len());
    for names in names.chunks(100) {
        let mut clients: Vec<Client> = names.iter().map(connect).collect();
        for client in &mut clients {
            let packet = client.receive();
            assert!(matches!(packet, Packet::Connack { code: 0, .. }), "{packet:?} instead of CONNACK");
        }
        all.append(&mut clients);
    }
    all
}

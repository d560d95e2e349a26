//! SIGTERM with clients on every kind of listener: each is told on each of its layers.

use grapnel_tests::{Client, Kind, PATIENCE, Version};
use rustix::process::Signal;

on_both! {
    /// DISCONNECT 0x8B (server shutting down, section 3.14.2.1), then the end of each layer: a close
    /// frame (RFC 6455 section 7.1.1) and close_notify (RFC 8446 section 6.1).
    fn a_stop_ends_every_layer(site) {
        let mut clients: Vec<(Kind, Client)> =
            Kind::ALL.map(|kind| (kind, site.hello(kind, Version::V5, kind.name()))).into();
        // Handshakes that nobody ends do not delay the stop.
        let half: Vec<_> = Kind::ALL.map(|kind| site.socket(kind)).into();
        site.broker().process().signal(Signal::TERM);
        for (kind, client) in &mut clients {
            assert_eq!(client.end(), Some(0x8B), "{kind:?}");
            if kind.has_websocket() {
                assert_eq!(client.end_of_layers().close_code, Some(1000), "{kind:?}");
            }
            if kind.has_tls() {
                assert!(client.end_of_layers().close_notify, "{kind:?}");
            }
        }
        // Closed ends: what the broker waits for.
        drop(clients);
        drop(half);
        site.broker().process().wait_for_ending(PATIENCE);
        assert!(!site.unix().exists(), "the file of the socket is removed");
    }
}

//! Clients that do not read what they are sent, through layers.

use std::time::Instant;

use grapnel_tests::bystander::resident;
use grapnel_tests::{Connect, Kind, PATIENCE, Publish, Version};

on_both! {
    /// A client that takes nothing for `write_stall_timeout_ms` counts as gone; meanwhile others are
    /// served, and what waits for it is within the limits of its queue.
    fn a_client_that_does_not_read_is_disconnected(site in |plan| plan.config(
        "[limits]\nwrite_stall_timeout_ms = 1500\nsession_queue_bytes_max = 4194304\noutbound_bytes_max = 4194304\noutbound_burst_bytes_max = 8388608"
    )) {
        let before = resident(site.broker());
        for kind in [Kind::Tls, Kind::Wss] {
            let mut slow = site.connect(kind, &Connect::new(Version::V5, kind.name()));
            slow.subscribe("much", 0);
            let mut reader = site.hello(kind, Version::V5, "reader");
            reader.subscribe("much", 0);
            let mut publisher = site.hello(Kind::Tcp, Version::V5, "publisher");
            let payload = vec![7; 60_000];
            let connected = || site.broker().ctl_json(&["clients", "list"])["clients"]
                .as_array().unwrap().iter().any(|row| row["client_id"] == kind.name() && row["connected"] == true);
            let begun = Instant::now();
            loop {
                for _ in 0..50 {
                    publisher.publish(&Publish::new("much", &payload).qos(1));
                    assert_eq!(reader.message().payload.len(), payload.len());
                }
                if !connected() {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{kind:?} is not disconnected");
            }
        }
        let grown = resident(site.broker()).saturating_sub(before) >> 20;
        // Two clients with a burst each, and what the allocator keeps.
        assert!(grown < 160, "the broker has grown by {grown} MiB");
    }
}

//! A broker whose clients are silent does nothing.

use std::time::{Duration, Instant};

use grapnel_tests::client::Event;
use grapnel_tests::{Client, Kind, PATIENCE, Site, Version};

/// How often each shard has gone to sleep so far.
fn sleeps(site: &Site) -> Vec<(String, u64)> {
    let tasks = format!("/proc/{}/task", site.broker().process().id());
    let mut sleeps: Vec<(String, u64)> = std::fs::read_dir(tasks)
        .unwrap()
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            let name = value("Name:")?.to_owned();
            let count = value("voluntary_ctxt_switches:")?.parse().ok()?;
            name.starts_with("shard-").then_some((name, count))
        })
        .collect();
    sleeps.sort();
    sleeps
}

on_both! {
    /// Some hundred clients without keep alive, on all listeners: no shard wakes up.
    fn shards_with_silent_clients_sleep(site in |plan| plan.config("[limits]\nconnect_timeout_ms = 1000")
        .tls("handshake_timeout_ms = 1000"))
    {
        let mut clients: Vec<Client> = (0..240)
            .map(|n| site.hello(Kind::ALL[n % Kind::ALL.len()], Version::V5, &n.to_string()))
            .collect();
        let before = sleeps(site);
        assert_eq!(before.len(), site.broker().shards(), "{before:?}");
        // The deadlines of their handshakes pass first.
        let until = Instant::now() + PATIENCE;
        let mut quiet = |time: Duration| {
            let before = sleeps(site);
            assert_eq!(clients[0].next(time), Event::Silence);
            (before == sleeps(site)).then_some(()).ok_or_else(|| (before, sleeps(site)))
        };
        while let Err(changes) = quiet(Duration::from_millis(1500)) {
            assert!(Instant::now() < until, "the shards do not come to rest: {changes:?}");
        }
        assert_eq!(quiet(Duration::from_secs(4)), Ok(()), "a shard woke up");
    }
}

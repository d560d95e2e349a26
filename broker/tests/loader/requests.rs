//! Tests of the bound on the requests on behalf of clients that a plugin makes while it is not
//! called: during a reload, after one that was taken back, and after one that has handed the state
//! over. The plugin `stateful` makes five requests whenever its file `ask` appears.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use grapnel_engine::hook::{HookPoint, PluginHandle};
use grapnel_engine::limits::Limits;
use serde_json::{Value, json};

use crate::shards::{Fixture, LONG};

/// Requests that a plugin that is not called may make.
const MAX: u64 = 3;

fn broker(config: Value) -> Fixture {
    let limits = Arc::new(Limits { behalf_requests_max: MAX, ..Limits::default() });
    let broker = Fixture::with(1, |settings| settings.message_limits = limits);
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", config).unwrap();
    broker
}

/// Lets the version with this folder make five requests; returns how many were taken.
fn taken(folder: &Path) -> u64 {
    std::fs::write(folder.join("ask"), "").unwrap();
    let (answer, deadline) = (folder.join("answer"), Instant::now() + LONG);
    loop {
        if let Ok(count) = std::fs::read_to_string(&answer) {
            std::fs::remove_file(&answer).unwrap();
            return count.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "it makes requests");
        std::thread::yield_now();
    }
}

/// The version that the shard calls.
fn called(broker: &Fixture) -> PluginHandle {
    let links = broker.shards.links(0, HookPoint::MessagePublish);
    links.iter().find(|link| link.name.starts_with("stateful/")).unwrap().plugin
}

/// While the new version may still fail, the answers for the old one have to be stored. When the
/// reload is taken back, the old one is called again.
#[test]
fn a_version_that_leaves_is_bounded_until_the_reload_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(json!({"stateless": true, "asks": folder.path()}));
    assert_eq!(taken(folder.path()), 5);
    let old = called(&broker);
    std::thread::scope(|scope| {
        let fails = json!({"stateless": true, "fail_activate_after": 1});
        let reload = scope.spawn(|| broker.manager.reload("stateful", Some(fails)));
        let deadline = Instant::now() + LONG;
        while called(&broker) == old {
            assert!(Instant::now() < deadline, "the new version is called");
            std::thread::yield_now();
        }
        assert_eq!(taken(folder.path()), MAX);
        broker.shards.publish(0, 1);
        reload.join().unwrap().unwrap_err();
    });
    assert_eq!(called(&broker), old);
    assert_eq!(taken(folder.path()), 5, "it is called again");
}

/// A version that has the state gets the answers for the version before, too: they count together.
#[test]
fn a_version_that_takes_over_has_the_requests_of_the_one_before() {
    let [old, new] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let broker = broker(json!({"asks": old.path()}));
    broker.manager.disable("stateful").unwrap();
    assert_eq!(taken(old.path()), MAX);
    broker.manager.reload("stateful", Some(json!({"asks": new.path()}))).unwrap();
    assert_eq!(taken(new.path()), 0, "as many answers as may wait for it already");
    broker.manager.enable("stateful").unwrap();
    assert_eq!(taken(new.path()), 5);
}

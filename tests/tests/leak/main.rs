//! Leak tests: actions that clients and operators repeat a hundred thousand times leave no
//! allocation and no file behind. They run `grapnel-counted`, the same library with another
//! allocator. Each test does its work once, so that tables reach their size, takes counts, does the
//! work again, and compares after the end.

mod connections;
mod plugins;
mod retained;
mod sessions;
mod subscriptions;

use grapnel_tests::Broker;

#[test]
fn only_the_counting_broker_shows_allocations() {
    let counted = Broker::builder().counted().start();
    let allocations = counted.ctl_json(&["status"])["allocations"].clone();
    let number = |name: &str| allocations[name].as_u64().unwrap_or(0);
    assert!(0 < number("live") && number("live") < number("total"), "{allocations}");
    assert!(0 < number("live_bytes") && number("live_bytes") < number("total_bytes"), "{allocations}");
    assert!(counted.ctl_ok(&["status"]).contains("allocations"));

    let usual = Broker::builder().grapnel_only().start();
    assert!(usual.ctl_json(&["status"])["allocations"].is_null());
    assert!(!usual.ctl_ok(&["status"]).contains("allocations"));
}

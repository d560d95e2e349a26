//! Leak tests: what clients and operators do a hundred thousand times leaves no allocation and no
//! file behind. They run `grapnel-counted`, the same library on another allocator. Each test does
//! its work once so that what grows once has grown, takes counts, does the work again, and compares
//! when everything has ended.

mod connections;
mod plugins;
mod retained;
mod sessions;
mod subscriptions;

use grapnel_tests::Broker;

#[test]
fn a_broker_that_counts_its_allocations_says_so_and_no_other_does() {
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

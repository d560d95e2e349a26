//! Which links of a chain an event visits, and how calls are counted: the direct walk of an event
//! that concerns all links, and the walk that checks each link (the design's sections on dispatch
//! and on topic filters).

use std::cell::RefCell;
use std::rc::Rc;

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link, LinkStats};
use grapnel_engine::packet::QoS;
use grapnel_plugin_abi::raw::{Field, Flow, Status};
use proptest::prelude::*;

use crate::hooks::{Call, Log, link, mount, noting, pair};
use crate::world::World;

const POINT: HookPoint = HookPoint::MessagePublish;

fn only(topics: &[&str], link: Link) -> (HookPoint, Link) {
    (POINT, Link { topics: Some(topics.iter().map(|topic| Box::from(*topic)).collect()), ..link })
}

fn stats(world: &World) -> Vec<LinkStats> {
    world.shards[0].chains().chain(POINT).links().map(|(_, stats)| stats).collect()
}

#[test]
fn a_link_with_filters_sees_the_topics_that_match_one_of_them() {
    let (mut world, _, publisher) = pair();
    let log = Log::default();
    let noting = |name| noting(&log, name, Flow::CONTINUE);
    mount(
        &mut world,
        vec![
            only(&["a/+", "b/#"], link(1, 0, FaultPolicy::Ignore, noting("first"))),
            (POINT, link(2, 0, FaultPolicy::Ignore, noting("all"))),
            only(&["a/x"], link(3, 0, FaultPolicy::Ignore, noting("last"))),
        ],
    );
    for (topic, expected) in [
        ("a/x", &["first", "all", "last"][..]),
        ("b", &["first", "all"]),
        ("c", &["all"]),
        ("a/x/y", &["all"]),
    ] {
        world.publish(publisher, topic, "x", QoS::AtMostOnce, 0);
        assert_eq!(log.take(), expected, "{topic}");
    }
    assert_eq!(stats(&world).iter().map(|stats| stats.calls).collect::<Vec<_>>(), [2, 4, 1]);
}

#[test]
fn a_rewritten_topic_is_matched_again_for_later_links() {
    let (mut world, _, publisher) = pair();
    let log = Log::default();
    let noting = |name| noting(&log, name, Flow::CONTINUE);
    let rewrites = |call: &mut Call<'_>| {
        assert_eq!(call.set(Field::TOPIC, 0, "new", ""), Status::OK);
        Flow::CONTINUE
    };
    mount(
        &mut world,
        vec![
            only(&["new"], link(1, 0, FaultPolicy::Ignore, noting("in front"))),
            only(&["old"], link(2, 0, FaultPolicy::Ignore, rewrites)),
            only(&["new"], link(3, 0, FaultPolicy::Ignore, noting("new"))),
            only(&["old"], link(4, 0, FaultPolicy::Ignore, noting("old"))),
            only(&["new", "old"], link(5, 0, FaultPolicy::Ignore, noting("both"))),
        ],
    );
    world.publish(publisher, "old", "x", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["new", "both"], "what is in front is not visited again");
}

/// Action of a link at its next call, in the comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    GoOn,
    Stop,
    Change,
    Fault(FaultPolicy),
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => Just(Does::GoOn),
        1 => Just(Does::Stop),
        1 => Just(Does::Change),
        1 => Just(Does::Fault(FaultPolicy::Ignore)),
        1 => Just(Does::Fault(FaultPolicy::Deny)),
    ]
}

/// The links that were called, and the counters of each, after so many publishes. The first
/// publishes are timed, so that both walks are used.
fn played(script: &[Does], publishes: usize, looked_at: bool) -> (Vec<Vec<u64>>, Vec<LinkStats>) {
    let (mut world, _, publisher) = pair();
    let calls: Rc<RefCell<Vec<u64>>> = Rc::default();
    let links = script.iter().zip(0_u32..).map(|(does, at)| {
        let (calls, does) = (Rc::clone(&calls), *does);
        let policy = if let Does::Fault(policy) = does { policy } else { FaultPolicy::Ignore };
        let mut link = link(at, 0, policy, move |call| {
            calls.borrow_mut().push(at.into());
            match does {
                Does::GoOn => Flow::CONTINUE,
                Does::Stop => Flow::STOP,
                Does::Change => {
                    assert_eq!(call.set(Field::PAYLOAD, 0, &format!("{at}"), ""), Status::OK);
                    Flow::CONTINUE
                }
                Does::Fault(_) => Flow::FAULT,
            }
        });
        if looked_at && at == 0 {
            // A filter that every topic matches makes the chain check each link.
            link.topics = Some([Box::from("#")].into());
        }
        (POINT, link)
    });
    mount(&mut world, links.collect());
    let runs = (0..publishes).map(|_| {
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        std::mem::take(&mut *calls.borrow_mut())
    });
    (runs.collect(), stats(&world))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn both_ways_to_run_a_chain_call_and_count_the_same_links(script in prop::collection::vec(does(), 1..8)) {
        let publishes = 400;
        let (straight, counted) = played(&script, publishes, false);
        let (looked_at, expected) = played(&script, publishes, true);
        prop_assert_eq!(&straight, &looked_at);
        let counts = |stats: &[LinkStats]| {
            stats.iter().map(|s| (s.calls, s.stops, s.faults)).collect::<Vec<_>>()
        };
        prop_assert_eq!(counts(&counted), counts(&expected));
        for (at, stats) in counted.iter().enumerate() {
            let seen = straight.iter().flatten().filter(|link| **link == at as u64).count();
            prop_assert_eq!(stats.calls, seen as u64, "link {} of {:?}", at, script);
        }
    }
}

/// The first calls of a chain are timed, and then one in 64.
#[test]
fn one_call_in_many_is_timed() {
    let (mut world, _, publisher) = pair();
    mount(&mut world, vec![(POINT, link(1, 0, FaultPolicy::Ignore, |_: &mut Call<'_>| Flow::CONTINUE))]);
    let mut timed = Vec::new();
    for count in [1, 255, 1, 63, 1, 300] {
        for _ in 0..count {
            world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        }
        timed.push((stats(&world)[0].calls, stats(&world)[0].latency.samples));
    }
    assert_eq!(timed, [(1, 1), (256, 256), (257, 256), (320, 257), (321, 257), (621, 261)]);
}

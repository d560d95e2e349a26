//! Examples of retained messages, and random operations between the slices of a scan, compared with
//! a plain map.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::route::tests::{filters, naive_match, topics};

fn store(messages: usize, bytes: usize) -> Retained<String> {
    let limits = RetainedLimits {
        retained_messages_max: messages,
        retained_bytes_max: bytes,
        ..RetainedLimits::default()
    };
    Retained::new(limits, ahash::RandomState::with_seeds(1, 2, 3, 4))
}

fn put(store: &mut Retained<String>, topic: &str) -> Result<Option<Arc<String>>, Full> {
    store.set(topic, Arc::new(topic.to_owned()), 10, None, &"c".into())
}

fn page(
    store: &Retained<String>,
    filter: &str,
    cursor: Cursor,
    budget: usize,
    now_ms: u64,
    out: &mut Vec<Arc<String>>,
) -> Option<Cursor> {
    let take = |_: u64, message: &Arc<String>| {
        out.push(Arc::clone(message));
        true
    };
    store.scan(filter, cursor, budget, now_ms, take).next
}

fn all(store: &Retained<String>, filter: &str, now_ms: u64) -> Vec<String> {
    let mut out = Vec::new();
    assert_eq!(page(store, filter, Cursor::until(u64::MAX), usize::MAX, now_ms, &mut out), None);
    out.iter().map(|message| message.to_string()).collect()
}

#[test]
fn a_scan_finds_what_section_4_7_says_in_the_order_of_the_tree() {
    let mut store = store(100, 10_000);
    for topic in ["a", "a/b", "a/b/c", "a!", "b/b", "/b", "a/", "$SYS/b", "$SYS", "%/b", "a/x/c"] {
        put(&mut store, topic).unwrap();
    }
    assert_eq!(all(&store, "#", 0), ["/b", "%/b", "a", "a/", "a/b", "a/b/c", "a/x/c", "a!", "b/b"]);
    assert_eq!(all(&store, "a/#", 0), ["a", "a/", "a/b", "a/b/c", "a/x/c"]);
    assert_eq!(all(&store, "+/b", 0), ["/b", "%/b", "a/b", "b/b"]);
    assert_eq!(all(&store, "+", 0), ["a", "a!"]);
    assert_eq!(all(&store, "a/+/c", 0), ["a/b/c", "a/x/c"]);
    assert_eq!(all(&store, "a/b", 0), ["a/b"]);
    assert_eq!(all(&store, "$SYS/+", 0), ["$SYS/b"]);
    assert_eq!(all(&store, "$SYS/#", 0), ["$SYS", "$SYS/b"]);
    assert!(all(&store, "a/b/c/d/#", 0).is_empty());
}

#[test]
fn a_scan_from_a_mark_passes_over_what_is_set_later() {
    let mut store = store(100, 10_000);
    for topic in ["a", "b", "c", "d"] {
        put(&mut store, topic).unwrap();
    }
    let mark = store.mark();
    for topic in ["b", "d", "e"] {
        put(&mut store, topic).unwrap();
    }
    let (mut out, mut cursor) = (Vec::new(), Some(Cursor::until(mark)));
    while let Some(at) = cursor {
        cursor = page(&store, "+", at, 1, 0, &mut out);
    }
    assert_eq!(out.iter().map(|message| message.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(all(&store, "+", 0), ["a", "b", "c", "d", "e"]);
}

#[test]
fn limits_refuse_what_is_new_and_let_what_fits_be_replaced() {
    let mut store = store(2, 40);
    put(&mut store, "a").unwrap();
    put(&mut store, "b").unwrap();
    assert_eq!(store.bytes(), 22);
    assert_eq!(put(&mut store, "c"), Err(Full::Messages(2)));
    let new = Arc::new("new".to_owned());
    assert_eq!(store.set("a", Arc::clone(&new), 29, None, &"c".into()), Err(Full::Bytes(40)));
    assert_eq!(store.get("a", 0).unwrap().as_str(), "a", "the refused one has changed nothing");
    assert_eq!(store.set("a", Arc::clone(&new), usize::MAX, None, &"c".into()), Err(Full::Bytes(40)));
    assert_eq!(store.set("a", new, 28, None, &"c".into()).unwrap().unwrap().as_str(), "a");
    assert_eq!((store.len(), store.bytes()), (2, 40));
    assert_eq!(store.clear("a").unwrap().as_str(), "new");
    assert_eq!(store.clear("a"), None);
    assert_eq!((store.len(), store.bytes()), (1, 11));
}

#[test]
fn messages_expire_once_and_at_their_time() {
    let mut store = store(100, 10_000);
    for (topic, at) in [("a/1", Some(10)), ("a/2", Some(20)), ("a/3", None), ("a/4", Some(10))] {
        store.set(topic, Arc::new(topic.to_owned()), 1, at, &"c".into()).unwrap();
    }
    store.set("a/4", Arc::new("a/4".to_owned()), 1, Some(30), &"c".into()).unwrap();
    assert_eq!(all(&store, "a/+", 9), ["a/1", "a/2", "a/3", "a/4"]);
    assert_eq!(all(&store, "a/+", 10), ["a/2", "a/3", "a/4"]);
    assert!(store.get("a/1", 9).is_some() && store.get("a/1", 10).is_none());
    assert_eq!(store.next_expiry_ms(), Some(10));

    let mut gone = Vec::new();
    assert_eq!(store.expire(9, 9, |topic, _| gone.push(topic.to_owned())), 0);
    assert_eq!(store.expire(30, 2, |topic, _| gone.push(topic.to_owned())), 2);
    assert_eq!(store.expire(30, 2, |topic, _| gone.push(topic.to_owned())), 1);
    assert_eq!(gone, ["a/1", "a/2", "a/4"]);
    assert_eq!((store.len(), store.bytes(), store.next_expiry_ms()), (1, 4, None));
}

#[test]
fn a_scan_looks_at_matching_branches_only() {
    let mut store = store(1_000_000, 1 << 30);
    for one in 0..100 {
        for two in 0..100 {
            put(&mut store, &format!("{one}/{two}/x")).unwrap();
        }
        put(&mut store, &format!("{one}/y")).unwrap();
    }
    let looked_at = |filter: &str, wanted: usize| {
        let (mut out, mut slices, mut cursor) = (Vec::new(), 0, Some(Cursor::until(u64::MAX)));
        while let Some(at) = cursor {
            slices += 1;
            cursor = page(&store, filter, at, 1, 0, &mut out);
        }
        assert_eq!(out.len(), wanted);
        slices
    };
    assert!(looked_at("7/#", 101) <= 102);
    assert!(looked_at("+/y", 100) <= 202);
    assert!(looked_at("+/42/x", 100) <= 202);
    assert!(looked_at("5/+/x", 100) <= 103);
    assert!(looked_at("5/5/x", 1) <= 2);
    assert!(looked_at("nothing/#", 0) <= 2);
    assert!(looked_at("#", 10_100) <= 10_101);
}

#[derive(Clone, Debug)]
enum Act {
    Set(String, Option<u64>),
    Clear(String),
    Slice(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let expiry = prop::option::weighted(0.2, 0..100u64);
    let act = prop_oneof![
        3 => (topics(), expiry).prop_map(|(topic, at)| Act::Set(topic, at)),
        2 => topics().prop_map(Act::Clear),
        3 => (0..4usize).prop_map(Act::Slice),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sliced_scan_skips_nothing_and_repeats_nothing(
        before in prop::collection::btree_set(topics(), 0..60),
        filter in filters(),
        acts in acts(),
    ) {
        let mut store = store(1000, 100_000);
        for topic in &before {
            put(&mut store, topic).unwrap();
        }
        // Messages present throughout must be found; those present at any time may be found.
        let (mut throughout, mut ever, mut now) = (before.clone(), before.clone(), before);
        let mut out = Vec::new();
        let mut cursor = Some(Cursor::until(u64::MAX));
        for act in acts.into_iter().chain([Act::Slice(usize::MAX)]) {
            match act {
                Act::Set(topic, expires_at_ms) => {
                    let old = store.set(&topic, Arc::new(topic.clone()), 10, expires_at_ms, &"c".into()).unwrap();
                    prop_assert_eq!(old.is_some(), now.contains(&topic));
                    now.insert(topic.clone());
                    if expires_at_ms.is_some() {
                        throughout.remove(&topic);
                    }
                    ever.insert(topic);
                }
                Act::Clear(topic) => {
                    prop_assert_eq!(store.clear(&topic).is_some(), now.remove(&topic));
                    throughout.remove(&topic);
                }
                Act::Slice(budget) => {
                    let found = out.len();
                    if let Some(at) = cursor.take() {
                        cursor = page(&store, &filter, at, budget, 50, &mut out);
                    }
                    prop_assert!(out.len() - found <= budget.max(1));
                }
            }
        }
        prop_assert_eq!(cursor, None);
        let found: BTreeSet<String> = out.iter().map(|message| message.to_string()).collect();
        prop_assert_eq!(found.len(), out.len(), "nothing twice");
        for topic in &found {
            prop_assert!(naive_match(&filter, topic) && ever.contains(topic), "{} is none of {}", topic, filter);
        }
        for topic in throughout.iter().filter(|topic| naive_match(&filter, topic)) {
            prop_assert!(found.contains(topic), "{} misses {}", filter, topic);
        }
        prop_assert_eq!(store.len(), now.len());
        prop_assert_eq!(store.bytes(), now.iter().map(|topic| topic.len() + 10).sum::<usize>());
        store.expire(u64::MAX, usize::MAX, |topic, _| { now.remove(topic); });
        prop_assert_eq!((store.len(), store.next_expiry_ms()), (now.len(), None));
    }
}

/// Each holder is charged for its messages while they exist.
#[test]
fn a_holder_pays_for_what_it_has_set() {
    let limits = RetainedLimits {
        retained_client_messages_max: 2,
        retained_client_bytes_max: 40,
        ..RetainedLimits::default()
    };
    let mut store = Retained::new(limits, ahash::RandomState::with_seeds(1, 2, 3, 4));
    let (ann, bob, nobody) = (Arc::from("ann"), Arc::from("bob"), Arc::from(""));
    let mut set = |topic: &str, bytes, holder: &Arc<str>| {
        let expires = topic.starts_with('x').then_some(10);
        store.set(topic, Arc::new(topic.to_owned()), bytes, expires, holder).map(|_| ())
    };
    assert_eq!(set("a", 9, &ann), Ok(()));
    assert_eq!(set("x", 9, &ann), Ok(()));
    assert_eq!(set("c", 9, &ann), Err(Full::ClientMessages(2)), "two is the limit");
    assert_eq!(set("a", 29, &ann), Ok(()), "30 and 10 bytes are the limit");
    assert_eq!(set("a", 30, &ann), Err(Full::ClientBytes(40)), "one byte beyond");
    assert_eq!(set("c", 9, &bob), Ok(()), "another holder");
    // A message that replaces another is charged to its own holder.
    assert_eq!(set("a", 9, &bob), Ok(()));
    assert_eq!(set("d", 29, &ann), Ok(()));
    assert_eq!(set("e", 0, &bob), Err(Full::ClientMessages(2)));
    for n in 0..9 {
        assert_eq!(
            set(&format!("n{n}"), 100, &nobody),
            Ok(()),
            "the broker's own have the store's limits alone"
        );
    }
    store.clear("a");
    store.expire(10, 9, |_, _| {});
    assert!(store.set("f", Arc::new(String::new()), 0, None, &bob).is_ok());
    assert!(store.set("g", Arc::new(String::new()), 9, None, &ann).is_ok());
    for topic in ["c", "d", "f", "g"] {
        assert!(store.clear(topic).is_some());
    }
    assert!(store.holders.is_empty(), "nobody is charged for nothing");
}

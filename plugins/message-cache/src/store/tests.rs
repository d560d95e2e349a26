//! Tests of stored and removed messages, and of pages.
#![allow(clippy::unwrap_used)]

use grapnel_plugin_abi::EVICTED_AT_ONCE;

use super::*;

const LIMITS: ShareLimits = ShareLimits {
    entries_max: u64::MAX,
    bytes_max: 1 << 30,
    owner_entries_max: u64::MAX,
    owner_bytes_max: 1 << 30,
};

fn all(store: &Store, filter: &str) -> (Vec<Item>, usize) {
    let (mut items, mut pages, mut after, mut upto) = (Vec::new(), 0, 0, u64::MAX);
    loop {
        let page = store.page(Span { filter, after, upto, room: PAGE_BYTES });
        items.extend(page.items);
        (pages, upto) = (pages + 1, page.upto);
        match page.next {
            Some(next) => after = next,
            None => return (items, pages),
        }
    }
}

fn texts(store: &Store, filter: &str) -> Vec<String> {
    let text = |item: Item| format!("{}={}", item.topic, String::from_utf8_lossy(&item.payload));
    all(store, filter).0.into_iter().map(text).collect()
}

#[test]
fn the_last_messages_of_each_topic_are_stored() {
    let mut store = Store::new(2, LIMITS);
    for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("a/b", "5")] {
        store.keep(1, "me", topic, payload.as_bytes());
    }
    assert_eq!(texts(&store, "#"), ["b=2", "a=3", "a=4", "a/b=5"]);
    assert_eq!(texts(&store, "a"), ["a=3", "a=4"]);
    assert_eq!(texts(&store, "+/b"), ["a/b=5"]);
    assert_eq!(texts(&store, "c"), Vec::<String>::new());
    let newer: Vec<u32> = all(&store, "a").0.iter().map(|item| item.newer).collect();
    assert_eq!(newer, [1, 0]);
    let mut other = Store::new(1, LIMITS);
    other.keep(1, "me", "trial", b"gone");
    let mut left = DropQueue::default();
    other.clear_into(&mut left);
    assert_eq!((other.stored.len(), other.stored.bytes(), other.topics.len()), (0, 0, 0));
    while left.free(1) {}
    let mut last = None;
    while let Some(number) = store.next_number(last.as_ref()) {
        let mut value = Vec::new();
        assert!(store.write(number, &mut value));
        // Taking over a message twice has no effect.
        (0..2).for_each(|_| other.put(number, &value).unwrap());
        assert!(other.put(number + 100, &value[1..]).is_err());
        last = Some(number);
    }
    assert_eq!(texts(&other, "#"), texts(&store, "#"), "limits are not looked at");
    assert!(!store.write(1000, &mut Vec::new()), "no such message");
    store.keep(2, "me", "a", b"6");
    other.keep(2, "me", "a", b"6");
    assert_eq!(other.stored.newest(), store.stored.newest(), "numbers go on");
}

/// 1.2 million empty messages used 40 times the memory that they were counted with.
#[test]
fn empty_messages_are_charged() {
    let mut store = Store::new(9, ShareLimits { bytes_max: 100_000, ..LIMITS });
    for n in 0..10_000 {
        store.keep(1, "me", &format!("{n}"), b"");
    }
    assert!(store.stored.bytes() <= 100_000);
    assert!((200..500).contains(&store.stored.len()), "{}", store.stored.len());
    assert_eq!(store.topics.len(), store.stored.len());
    assert_eq!(texts(&store, "#").last().map(String::as_str), Some("9999="));
}

#[test]
fn a_client_evicts_its_own_entries_only() {
    let one = |payload: usize| {
        let mut store = Store::new(9, LIMITS);
        store.keep(1, "c", "a", &vec![0; payload]);
        store.stored.bytes()
    };
    let limits = ShareLimits { owner_entries_max: 2, bytes_max: 4 * one(5), ..LIMITS };
    let mut store = Store::new(9, limits);
    for (client, topic, payload) in [("c", "a", "1"), ("d", "a", "2"), ("c", "b", "3"), ("c", "c", "4")] {
        store.keep(1, client, topic, payload.as_bytes());
    }
    assert_eq!(texts(&store, "#"), ["a=2", "b=3", "c=4"]);
    store.keep(1, "e", "x", &vec![0; 1 << 20]);
    assert_eq!(store.stored.len(), 4, "of what can never be kept it is known that it came");
    assert_eq!(
        store.page(Span { filter: "x", after: 0, upto: u64::MAX, room: PAGE_BYTES }).items[0].absent,
        LOST
    );
    store.keep(1, "e", "x", &[b'y'; 100]);
    assert_eq!(store.topics.keys().map(|name| &**name).collect::<Vec<_>>().last(), Some(&"x"));
    assert!(store.stored.bytes() <= limits.bytes_max);
}

/// One large message of a client evicts many of its small ones, which lie between messages of
/// others in the list of their topic.
#[test]
fn many_messages_are_removed_from_the_middle_of_a_topic_at_once() {
    for small in [10, 200, 1_000] {
        let mut store = Store::new(100_000, ShareLimits { owner_bytes_max: 1 << 20, ..LIMITS });
        for n in 0..small {
            store.keep(1, "other", "t", format!("other {n}").as_bytes());
            store.keep(1, "me", "t", format!("me {n}").as_bytes());
        }
        store.keep(1, "me", "t", &vec![b'x'; 900_000]);
        store.keep(1, "me", "large", &vec![b'x'; 900_000]);
        let list: Vec<EntryId> = store.topics.get("t").unwrap().iter().copied().collect();
        let held: Vec<EntryId> = store
            .stored
            .iter_after(EntryId(0))
            .filter(|(.., stored)| &*stored.topic == "t")
            .map(|(id, ..)| id)
            .collect();
        assert_eq!(list, held, "{small}");
        let of_others = list.iter().filter(|id| store.stored.owner_of(**id) == Some("other")).count();
        assert_eq!((of_others, list.len() < 2 * small), (small, true));
    }
}

/// A page examines a limited number of messages, and all pages together are complete.
#[test]
fn pages_are_bounded_and_complete() {
    let mut store = Store::new(9, LIMITS);
    let count = 3 * PAGE_LOOKED_AT;
    for n in 0..count {
        store.keep(1, "me", if n % 500 == 0 { "rare" } else { "often" }, b"");
        store.keep(1, "me", &format!("x/{n}"), b"");
    }
    let (items, pages) = all(&store, "x/#");
    assert_eq!((items.len(), pages), (count, count.div_ceil(PAGE_MESSAGES)));
    assert!(items.windows(2).all(|two| two[0].number < two[1].number));
    let (none, pages) = all(&store, "none/+");
    assert_eq!((none.len(), pages), (0, 4), "three times as many as one page looks at, and some");
    assert_eq!(all(&store, "rare").0.len(), 7);

    // New messages during the reading are not part of the answer; removed messages do not disturb
    // it.
    let first = store.page(Span { filter: "x/#", after: 0, upto: u64::MAX, room: PAGE_BYTES });
    store.keep(1, "me", "x/new", b"");
    let next = first.next.unwrap();
    let (oldest, second) = (store.stored.oldest().unwrap(), EntryId(next));
    store.stored.remove(second);
    store.stored.remove(oldest);
    let rest = store.page(Span { filter: "x/#", after: next, upto: first.upto, room: PAGE_BYTES });
    assert!(rest.items[0].number > next && rest.upto == first.upto);
}

/// Lower limits are applied in steps, and no new message evicts more than the maximum.
#[test]
fn each_call_evicts_a_bounded_number() {
    let mut before = Store::new(10_000, LIMITS);
    for n in 0..1_000 {
        before.keep(1, if n % 2 == 0 { "me" } else { "you" }, &format!("{}", n % 4), b"");
    }
    let mut store = Store::new(10, ShareLimits { owner_bytes_max: 5_000, ..LIMITS });
    let mut number = None;
    while let Some(next) = before.next_number(number.as_ref()) {
        let mut value = Vec::new();
        before.write(next, &mut value);
        store.put(next, &value).unwrap();
        number = Some(next);
    }
    store.check_all_topics();
    let count = |store: &mut Store, call: &mut dyn FnMut(&mut Store)| {
        let before = store.stored.len();
        call(store);
        before.saturating_sub(store.stored.len())
    };
    assert!(
        count(&mut store, &mut |store| store.keep(1, "me", "0", b""))
            <= EVICTED_FOR_ONE + EVICTED_AT_ONCE + 3
    );
    let mut more = true;
    while more {
        assert!(count(&mut store, &mut |store| more = store.evict_over_limit(20)) <= 20);
    }
    assert!(store.topics.values().all(|list| list.len() <= 10 && list.capacity() < 100));
    assert!(["me", "you"].iter().all(|client| store.stored.used_by(client).1 <= 5_000));
    assert!(store.stored.len() > 10 && texts(&store, "#").len() == store.stored.len());
}

/// A page stays within its memory limit. A larger message comes alone without its payload, and
/// complete if there is memory.
#[test]
fn a_page_is_no_larger_than_its_room() {
    let mut store = Store::new(9, LIMITS);
    for payload in [100, 10_000, 100, 100] {
        store.keep(1, "me", "a/b", &vec![7; payload]);
    }
    let sizes = |room: u64, filter: &str| {
        let page = store.page(Span { filter, after: 0, upto: u64::MAX, room });
        let held: u64 = page.items.iter().map(|item| 2 * size_of::<Item>() as u64 + item.heap_bytes()).sum();
        assert!(page.items.len() == 1 || held <= room, "{held} of {room}");
        let sizes = page.items.iter().map(|item| (item.payload.len() as u64, item.absent));
        (sizes.collect::<Vec<_>>(), page.next)
    };
    let (small, large) = (bytes_in_page("a/b", 100), bytes_in_page("a/b", 10_000));
    let stub = bytes_in_page("a/b", 0);
    for filter in ["a/b", "#"] {
        assert_eq!(sizes(0, filter), (vec![(0, 100)], Some(1)), "one always");
        assert_eq!(sizes(small - 1, filter).0, [(0, 100)]);
        assert_eq!(sizes(small, filter), (vec![(100, 0)], Some(1)));
        assert_eq!(sizes(small + stub, filter), (vec![(100, 0), (0, 10_000)], Some(2)));
        assert_eq!(sizes(large, filter), (vec![(100, 0)], Some(1)), "the large one begins the next page");
        assert_eq!(sizes(PAGE_BYTES, filter), (vec![(100, 0), (10_000, 0), (100, 0), (100, 0)], None));
    }
}

#[test]
fn newer_messages_on_this_shard_are_counted_by_position() {
    let mut store = Store::new(9, LIMITS);
    for at_ms in [10, 20, 15] {
        store.keep(at_ms, "me", "a", b"");
    }
    let newer = |shard, number, at_ms| store.newer(1, u64::MAX, "a", Position { at_ms, shard, number });
    assert_eq!(
        [newer(0, 1, 9), newer(0, 1, 10), newer(2, 1, 10), newer(0, 9, 20), newer(2, 9, 20)],
        [3, 3, 2, 2, 0]
    );
    assert_eq!(store.newer(1, 2, "a", Position { at_ms: 9, shard: 0, number: 1 }), 2, "up to the second");
    assert_eq!(store.newer(1, 2, "b", Position { at_ms: 9, shard: 0, number: 1 }), 0);
}

/// Consecutive large messages that replace many small ones are all stored: each evicts enough.
#[test]
fn the_newest_messages_stay_if_room_is_short() {
    let limits = ShareLimits { bytes_max: 8 << 20, ..LIMITS };
    let mut store = Store::new(1, limits);
    for n in 0..30_000 {
        store.keep(1, "me", &format!("{n}"), b"");
    }
    for _ in 0..2 {
        for topic in 0..20 {
            store.keep(2, "me", &format!("large/{topic}"), &vec![1; 500_000]);
            let page = store.page(Span {
                filter: &format!("large/{topic}"),
                after: 0,
                upto: u64::MAX,
                room: u64::MAX / 2,
            });
            let [item] = &page.items[..] else { panic!("{} of {topic}", page.items.len()) };
            assert_eq!((item.at_ms, item.payload.len(), item.absent), (2, 500_000, 0), "{topic}");
            assert!(store.stored.bytes() <= (8 << 20) + 1_000, "{}", store.stored.bytes());
        }
    }
    let large_count = |store: &Store| {
        let large = store.stored.iter().filter(|(_, _, stored)| stored.payload.len() == 500_000);
        large.count()
    };
    assert_eq!(large_count(&store), 16, "as many as there is room for");
    while store.evict_over_limit(100) {}
    assert!(store.stored.bytes() <= 8 << 20);
    store.keep(3, "me", "large/0", &vec![2; 500_000]);
    assert_eq!(
        store.page(Span { filter: "large/0", after: 0, upto: u64::MAX, room: u64::MAX / 2 }).items[0].absent,
        0
    );
    // It is transferred as it is.
    store.keep(4, "me", "lost", &vec![2; 9 << 20]);
    let (number, mut value) = (store.stored.newest().unwrap().0, Vec::new());
    assert!(store.write(number, &mut value));
    let mut other = Store::new(1, limits);
    other.put(number, &value).unwrap();
    let page = other.page(Span { filter: "lost", after: 0, upto: u64::MAX, room: 10_000 });
    assert_eq!((page.items[0].absent, page.items[0].payload.len()), (LOST, 0));
}

/// A message that is larger than one call may evict exceeds the limit alone. The next such message
/// is not stored until there is memory again, but its arrival is: no older message is treated as
/// the last one.
#[test]
fn evictions_for_the_largest_messages_are_bounded() {
    let mut store = Store::new(9, ShareLimits { bytes_max: 48 << 20, ..LIMITS });
    for n in 0..260_000 {
        store.keep(1, "me", &format!("{n}"), b"");
    }
    let large = vec![1; 4 << 20];
    let mut seen = Vec::new();
    for n in 0..60 {
        let before = store.stored.len();
        store.keep(2, "me", "large", &large);
        let gone = before + 1 - store.stored.len();
        assert!(gone <= EVICTED_FOR_ONE + EVICTED_AT_ONCE + GONE_FOR_LARGE + 1, "{gone} for one");
        assert!(
            store.stored.bytes() <= (48 << 20) + large.len() as u64 + 1_000,
            "the limit is passed by one alone"
        );
        let span = Span { filter: "large", after: 0, upto: u64::MAX, room: u64::MAX / 2 };
        seen.push(store.page(span).items.last().unwrap().absent == 0);
        if n == 20 {
            while store.evict_over_limit(256) {}
        }
    }
    assert_eq!(
        (seen[0], seen[1], seen[21]),
        (true, false, true),
        "the first, the next, and once there is room"
    );
    let stored = seen.iter().filter(|stored| **stored).count();
    assert!((8..60).contains(&stored), "{stored}");
}

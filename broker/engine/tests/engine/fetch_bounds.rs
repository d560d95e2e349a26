//! Costs of pages of retained messages that plugins read on behalf of clients. Their bytes are
//! charged while they are under way, within the same limit as other requests for the client, and
//! their messages are authorized within the budget of a turn.

use bytes::Bytes;
use grapnel_engine::codec;
use grapnel_engine::hook::{ChainTable, FaultPolicy, Link};
use grapnel_engine::id::ShardId;
use grapnel_engine::packet::{
    Filters, Packet, Properties, QoS, Subscribe, SubscriptionOptions, Version, push_subscription,
};
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{BehalfAction, BehalfClient, Command, Lane, OnBehalf, Scope};
use grapnel_plugin_abi::raw::{FROM_BROKER, Field, Flow};

use crate::deferral::{DeferredTickets, allow, deny};
use crate::fetch::{Fixture, READER, deliveries_later, even_alone, fetch, topics};
use crate::hooks::{Call, Log, link};
use crate::world::{ConnectRequest, id};

impl Fixture {
    /// Bytes of pages in the ledger of the client's shard, and the bytes charged to the client.
    fn charged(&mut self) -> (u64, usize) {
        let shard = &mut self.world.shards[self.home];
        shard.settle_memory();
        let ledger = shard.ledger();
        assert_eq!(ledger, shard.recount());
        (ledger.pages, shard.client("c").expect("it is there").memory_bytes)
    }
}

/// The bytes of a page are charged to the shard and shown with the client until the page ends, in
/// any way.
#[test]
fn a_page_is_charged_while_it_is_open() {
    for end in ["comes", "is not answered", "is late", "nobody gets it", "begins anew"] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
        let payload = "x".repeat(10_000);
        for topic in ["r/0", "r/1", "r/2"] {
            fixture.world.publish_with(fixture.client, topic, &payload, QoS::AtMostOnce, 0, true, &[]);
        }
        let (none, before) = fixture.charged();
        assert_eq!(none, 0);
        fixture.request(1, fetch("r/#"));
        let (all, with_page) = fixture.charged();
        assert!((30_000..33_000).contains(&all), "{all}");
        assert_eq!(with_page - before, all as usize);
        fixture.complete(tickets.ticket(0), Flow::STOP, deny(0x87));
        let (less, _) = fixture.charged();
        assert!((10_000..10_500).contains(&(all - less)), "what it may not have is let go of: {all} {less}");
        match end {
            "comes" => {
                (1..3).for_each(|number| fixture.complete(tickets.ticket(number), Flow::STOP, allow()))
            }
            "is not answered" => fixture.complete(tickets.ticket(1), Flow::FAULT, Vec::new()),
            "is late" => {
                for number in 1..8 {
                    fixture.world.pass_ms(900);
                    if number < tickets.about().len() {
                        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
                    }
                }
            }
            "nobody gets it" => {
                fixture.world.shards[fixture.home].swap_chains(ChainTable::compile(2, Vec::new()));
                fixture.world.shards[fixture.home].forget_plugin(READER);
                fixture.world.drive();
            }
            _ => {
                fixture.world.shards[fixture.home].command(Command::Invalidate(Scope::All));
                let mut number = 1;
                while number < tickets.about().len() {
                    fixture.complete(tickets.ticket(number), Flow::STOP, allow());
                    number += 1;
                }
            }
        }
        assert_eq!(fixture.charged(), (0, before), "{end}");
        assert_eq!(fixture.messages().len(), usize::from(end != "nobody gets it"), "{end}");
    }
}

/// A page that waits for its plugin is charged too.
#[test]
fn a_page_that_waits_for_its_plugin_is_charged() {
    let mut fixture = Fixture::with(1, Vec::new(), |_| {});
    fixture.world.publish_with(fixture.client, "r", &"x".repeat(10_000), QoS::AtMostOnce, 0, true, &[]);
    fixture.suspend_reader();
    fixture.request(1, fetch("r"));
    let (stored_bytes, _) = fixture.charged();
    assert!((10_000..10_500).contains(&stored_bytes), "{stored_bytes}");
    fixture.mount(Vec::new());
    assert_eq!((fixture.charged().0, fixture.page().messages.len()), (0, 1));
}

impl Fixture {
    /// Suspends the reader, has it owed `codes` one-byte answers and these pages, and calls it
    /// again: it gets the first of what is stored at once, and the rest in the next turns.
    fn settle_behind(&mut self, codes: u64, pages: &[&str]) {
        self.suspend_reader();
        for number in 0..codes {
            let bytes = Bytes::from_static(&[0]);
            let code = Command::InstanceMessage { plugin: READER, from: FROM_BROKER, number, bytes };
            self.world.shards[self.home].command(code);
        }
        for (page, number) in pages.iter().zip(codes..) {
            self.request(number, Fetch { bytes_max: 500_000, ..fetch(page) });
        }
        let table = self.table(Vec::new(), &[READER], Vec::new());
        self.world.shards[self.home].swap_chains(table);
    }
}

/// A page is charged also while what is stored for its plugin is handed over in slices.
#[test]
fn a_page_is_charged_until_its_plugin_has_received_it() {
    for (codes, is_charged) in [(1_023, false), (1_024, true), (3_000, true)] {
        let mut fixture = Fixture::with(1, Vec::new(), |_| {});
        fixture.world.publish_with(fixture.client, "r", &"x".repeat(10_000), QoS::AtMostOnce, 0, true, &[]);
        fixture.settle_behind(codes, &["r"]);
        let (charged, _) = fixture.charged();
        assert!((if is_charged { 10_000..10_500 } else { 0..1 }).contains(&charged), "{codes}: {charged}");
        fixture.world.drive();
        assert_eq!((fixture.charged().0, fixture.messages().len() as u64), (0, codes + 1));
    }
}

/// Such a page is ended like any other where the shard has too much, and no client with fewer
/// bytes is.
#[test]
fn a_finished_page_is_dropped_before_a_client_with_fewer_bytes_is_ended() {
    let mut fixture = Fixture::with(1, Vec::new(), |limits| limits.shard_bytes_max = 1 << 20);
    let holder =
        fixture.world.connect("holder", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
    fixture.world.subscribe(holder, "q", QoS::AtLeastOnce);
    fixture.world.lose(holder);
    for topic in ["r/1", "r/2"] {
        fixture.world.publish_with(
            fixture.client,
            topic,
            &"x".repeat(400_000),
            QoS::AtMostOnce,
            0,
            true,
            &[],
        );
    }
    fixture.settle_behind(1_024, &["r/1", "r/2"]);
    assert!(fixture.charged().0 > 800_000);
    fixture.world.publish(fixture.client, "q", &"q".repeat(310_000), QoS::AtLeastOnce, 1);
    let messages = fixture.messages();
    assert_eq!(messages.len(), 1_026);
    let ends: Vec<bool> = messages[1_024..].iter().map(|(_, bytes)| *bytes == [0x97]).collect();
    assert_eq!(ends, [false, true], "one of them is refused, and each comes in its place");
    let ended = ["sessions_evicted", "connections_evicted"].map(|name| fixture.counter(name));
    assert_eq!((ended, fixture.counter("behalf_no_room"), fixture.charged().0), ([0, 0], 1, 0));
}

/// A page that is dropped leaves no ticket behind.
#[test]
fn a_page_that_is_dropped_closes_its_ticket() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 1);
    let before = fixture.world.shards[0].timers();
    fixture.request(1, fetch("r/#"));
    assert_ne!(fixture.world.shards[0].timers(), before, "its ticket has a deadline");
    fixture.world.shards[0].swap_chains(ChainTable::compile(2, Vec::new()));
    fixture.world.shards[0].forget_plugin(READER);
    fixture.world.drive();
    assert_eq!(fixture.world.shards[0].timers(), before);
    fixture.world.pass_ms(60_000);
    assert_eq!(fixture.counter("tickets_expired"), 0);
}

/// If pages exceed the memory limit of a shard, pages are ended, also those that wait for their
/// plugin, and no client with fewer bytes is disconnected. The plugin receives a refusal for each.
#[test]
fn pages_are_ended_when_pages_exceed_the_memory_limit() {
    for is_authorized in [false, true] {
        let tickets = DeferredTickets::default();
        let links = || if is_authorized { Vec::new() } else { vec![deliveries_later(&tickets)] };
        let mut fixture = Fixture::with(1, links(), |limits| limits.shard_bytes_max = 1 << 20);
        let bystander = fixture
            .world
            .connect("bystander", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V5) });
        fixture.world.subscribe(bystander, "q", QoS::AtLeastOnce);
        fixture.world.lose(bystander);
        fixture.world.publish(fixture.client, "q", &"q".repeat(20_000), QoS::AtLeastOnce, 1);
        for n in 0..6 {
            let (topic, payload) = (format!("r/{n}"), "x".repeat(300_000));
            fixture.world.publish_with(fixture.client, &topic, &payload, QoS::AtMostOnce, 0, true, &[]);
        }
        if is_authorized {
            fixture.suspend_reader();
        }
        for n in 0..6 {
            fixture.request(n, Fetch { bytes_max: 400_000, ..fetch(&format!("r/{n}")) });
            fixture.world.pass_ms(10);
        }
        let (held, _) = fixture.charged();
        assert!((900_000..1 << 20).contains(&held), "{held}");
        if is_authorized {
            fixture.mount(links());
        }
        let refused = fixture.messages().into_iter().filter(|(_, bytes)| *bytes == [0x97]).count();
        let counted = ["behalf_no_room", "behalf_refused"].map(|name| fixture.counter(name));
        assert_eq!((refused, counted), (3, [3, 3]), "kept: {is_authorized}");
        let logged = fixture.logged();
        assert!(matches!(&logged[..], [(READER, text)] if text.starts_with("a page of r/")), "{logged:?}");
        let ended = ["sessions_evicted", "connections_evicted"].map(|name| fixture.counter(name));
        assert_eq!(ended, [0, 0]);
    }
}

/// At nearly the same size, a page is refused before a client is disconnected.
#[test]
fn a_page_is_refused_before_a_client_of_the_same_size_is_ended() {
    for is_authorized in [false, true] {
        let tickets = DeferredTickets::default();
        let links = if is_authorized { Vec::new() } else { vec![deliveries_later(&tickets)] };
        // The client's message is charged twice while its delivery is authorized.
        let shard_bytes_max = if is_authorized { 500_000 } else { 800_000 };
        let mut fixture = Fixture::with(1, links, |limits| limits.shard_bytes_max = shard_bytes_max);
        let holder = fixture
            .world
            .connect("holder", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
        fixture.world.subscribe(holder, "q", QoS::AtLeastOnce);
        fixture.world.lose(holder);
        fixture.world.publish_with(fixture.client, "r", &"x".repeat(300_000), QoS::AtMostOnce, 0, true, &[]);
        if is_authorized {
            fixture.suspend_reader();
        }
        fixture.request(1, Fetch { bytes_max: 400_000, ..fetch("r") });
        fixture.world.pass_ms(10);
        let (held, _) = fixture.charged();
        assert!((300_000..301_000).contains(&held), "{held}");
        fixture.world.publish(fixture.client, "q", &"q".repeat(310_000), QoS::AtLeastOnce, 1);
        fixture.world.pass_ms(10);
        assert_eq!(fixture.charged().0, 0, "kept: {is_authorized}");
        let ended = ["sessions_evicted", "connections_evicted"].map(|name| fixture.counter(name));
        assert_eq!((ended, fixture.counter("behalf_refused")), ([0, 0], 1), "kept: {is_authorized}");
    }
}

/// The largest page is found at once, whatever else is stored for plugins.
#[test]
fn the_largest_page_is_found_without_a_search() {
    let units = [500, 1_000].map(|kept| {
        let mut fixture = Fixture::with(1, Vec::new(), |limits| limits.shard_bytes_max = 1 << 20);
        for n in 0..6 {
            let (topic, payload) = (format!("r/{n}"), "x".repeat(300_000));
            fixture.world.publish_with(fixture.client, &topic, &payload, QoS::AtMostOnce, 0, true, &[]);
        }
        fixture.suspend_reader();
        for number in 0..kept {
            let (client, action) =
                (BehalfClient::Client("c".into()), BehalfAction::Unsubscribe { filter: "r".into() });
            let request = OnBehalf { plugin: READER, client, answer: Some(number), action };
            fixture.world.shards[0].command(Command::As(Box::new(request)));
        }
        fixture.world.drive();
        for n in 0..6 {
            fixture.request(n, Fetch { bytes_max: 400_000, ..fetch(&format!("r/{n}")) });
        }
        let before = fixture.counter("work_units");
        fixture.world.pass_ms(10);
        assert_eq!(fixture.counter("behalf_no_room"), 3);
        fixture.counter("work_units") - before
    });
    assert_eq!(units[0], units[1]);
}

/// A page that a plugin requests without a limit has at most a client's limit of waiting bytes, and
/// leaves space for others.
#[test]
fn one_page_leaves_room_for_others() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |limits| {
        limits.behalf_bytes_max = 1 << 20;
    });
    let payload = "x".repeat(100_000);
    for n in 0..4 {
        fixture.world.publish_with(
            fixture.client,
            &format!("r/{n}"),
            &payload,
            QoS::AtMostOnce,
            0,
            true,
            &[],
        );
    }
    for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        fixture.world.connect(name, &ConnectRequest::v(Version::V5));
        let client = BehalfClient::Client(name.into());
        fixture.request_for(client, number as u64, Fetch { bytes_max: u32::MAX, ..fetch("r/#") });
    }
    assert_eq!((fixture.messages(), tickets.about().len()), (vec![], 4), "all four are under way");
    for number in 0..4 {
        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
    }
    // Two messages are more than an eighth of a MiB.
    assert!(fixture.messages().iter().all(|(_, bytes)| (100_000..110_000).contains(&bytes.len())));
}

/// A message larger than a client's limit of waiting bytes is delivered if nothing else waits for
/// the client, and is refused until then, from any shard.
#[test]
fn a_large_first_message_is_a_page_of_its_own() {
    for shards in [1, 3] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(shards, vec![deliveries_later(&tickets)], |limits| {
            limits.behalf_client_bytes_max = 100_000;
        });
        fixture.retain("r", 1);
        let large: Vec<String> = (0..4).map(|n| format!("large/{n}")).collect();
        for topic in &large {
            let payload = "x".repeat(500_000);
            fixture.world.publish_with(fixture.client, topic, &payload, QoS::AtMostOnce, 0, true, &[]);
        }
        let small = || Fetch { bytes_max: 10_000, ..fetch("r/#") };
        fixture.request(1, small());
        for topic in &large {
            fixture.request(2, Fetch { bytes_max: 10_000, ..fetch(topic) });
            assert_eq!(fixture.messages(), [(2, vec![0x97])], "{topic} of {shards} shards");
        }
        assert_eq!((fixture.counter("behalf_no_room"), tickets.about().len()), (4, 1));
        let (held, _) = fixture.charged();
        assert!(held < 10_000, "{held}");
        fixture.complete(tickets.ticket(0), Flow::STOP, allow());
        assert_eq!(fixture.page().messages.len(), 1);
        for topic in &large {
            fixture.request(3, Fetch { bytes_max: 10_000, ..fetch(topic) });
            // There is no space for another one beside it.
            fixture.request(4, small());
            assert_eq!(fixture.messages(), [(4, vec![0x97])]);
            fixture.complete(tickets.ticket(tickets.about().len() - 1), Flow::STOP, allow());
            assert_eq!(fixture.page().topics(), [topic.as_str()]);
        }
    }
}

/// Subscribers receive their retained messages while many pages of other shards are authorized.
#[test]
fn pages_being_authorized_leave_turns_to_scans() {
    let log = Log::default();
    let mut fixture = Fixture::with(2, vec![even_alone(&log)], |limits| limits.turn_budget_deliveries = 64);
    let (home, other) = (fixture.home, 1 - fixture.home);
    fixture.retain("r", 600);
    fixture.retain("s", 60);
    let subscriber = fixture.world.connect_at(other, "subscriber", &ConnectRequest::v(Version::V5));
    let mut filters = Vec::new();
    push_subscription(&mut filters, "s/#", SubscriptionOptions::of_qos(QoS::AtMostOnce));
    let (properties, filters) = (Properties::default(), Filters::from_encoded(&filters));
    let subscribe = Packet::Subscribe(Subscribe { packet_id: id(7), properties, filters });
    let mut bytes = Vec::new();
    codec::encode(&subscribe, Version::V5, &mut bytes);
    let place = FetchPlace::decode(&[1, other as u8]).expect("a place");
    for number in 0..8 {
        let action = BehalfAction::Fetch(Fetch { place: place.clone(), ..fetch("r/#") });
        let client = BehalfClient::Client("c".into());
        let request = OnBehalf { plugin: READER, client, answer: Some(number), action };
        fixture.world.shards[home].command(Command::As(Box::new(request)));
    }
    fixture.world.offer_bytes(subscriber, &bytes);
    let (mut got, mut turns) = (0, 0);
    while got < 61 {
        assert!(fixture.world.turn() && turns < 1_000, "{got} after {turns} turns");
        turns += 1;
        got += fixture.world.take(subscriber).len();
    }
    assert_eq!(fixture.messages().len(), 0, "the pages go on after {turns} turns");
    fixture.world.drive();
    assert_eq!(fixture.messages().len(), 8);
}

/// Pages count with their possible size towards the client's limit of waiting bytes. A client
/// without waiting bytes gets a page of any size.
#[test]
fn pages_of_a_client_share_its_bytes() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |limits| {
        limits.behalf_client_bytes_max = 100_000;
        limits.behalf_page_bytes_max = 200_000;
    });
    fixture.world.connect("other", &ConnectRequest::v(Version::V5));
    fixture.retain("r", 1);
    let page = |bytes_max| Fetch { bytes_max, ..fetch("r/#") };
    fixture.request(1, page(60_000));
    fixture.request(2, page(60_000));
    assert_eq!((fixture.messages(), fixture.counter("behalf_no_room")), (vec![(2, vec![0x97])], 1));
    fixture.request(3, page(30_000));
    fixture.request_for(BehalfClient::Client("other".into()), 4, page(200_000));
    assert_eq!((fixture.messages(), tickets.about().len()), (vec![], 3), "each within its own");
    for number in 0..3 {
        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
    }
    assert_eq!(fixture.messages().len(), 3);
    fixture.request(5, page(60_000));
    assert_eq!(fixture.messages(), [], "there is room again");
}

/// A plugin that requests more messages than the settings allow gets the allowed number, and the
/// others with the next pages.
#[test]
fn a_page_is_no_larger_than_its_limits() {
    for (bytes_max, most) in [(1 << 20, 3), (1_024, 2)] {
        let mut fixture = Fixture::with(1, Vec::new(), |limits| {
            (limits.behalf_page_messages_max, limits.behalf_page_bytes_max) = (3, bytes_max);
        });
        let payload = "x".repeat(250);
        for n in 0..7 {
            fixture.world.publish_with(
                fixture.client,
                &format!("r/{n}"),
                &payload,
                QoS::AtMostOnce,
                0,
                true,
                &[],
            );
        }
        let all = Fetch { messages_max: u32::MAX, bytes_max: u32::MAX, ..fetch("r/#") };
        let pages = fixture.pages(&all);
        assert_eq!((topics(&pages).len(), pages[0].messages.len()), (7, most));
        assert!(pages.iter().all(|page| page.messages.len() <= most));
    }
}

/// The messages of another shard are authorized within the budget of a turn, not on arrival.
#[test]
fn messages_from_another_shard_are_authorized_within_the_turn_budget() {
    let log = Log::default();
    let mut fixture = Fixture::with(2, vec![even_alone(&log)], |limits| limits.turn_budget_deliveries = 64);
    let (home, other) = (fixture.home, 1 - fixture.home);
    fixture.retain("r", 600);
    fixture.world.lanes_open = false;
    // A place that covers the other shard alone.
    let place = FetchPlace::decode(&[1, other as u8]).expect("a place");
    fixture.request(1, Fetch { place, ..fetch("r/#") });
    log.take();
    let (mut turns, mut batch) = (0, Vec::new());
    while fixture.messages().is_empty() {
        for (from, to) in [(home, other), (other, home)] {
            fixture.world.shards[from].outbox().take_batch(ShardId(to as u8), Lane::Control, 64, &mut batch);
            for envelope in batch.drain(..) {
                fixture.world.shards[to].envelope(ShardId(from as u8), envelope);
            }
            assert_eq!(log.take(), [""; 0], "nothing is judged where it comes");
            fixture.world.shards[to].advance(fixture.world.now);
            let requested = log.take().len();
            assert!(requested <= 64, "{requested} in one turn");
            turns += usize::from(requested > 0);
        }
        assert!(turns < 1_000);
    }
    assert!(turns > 2, "in several turns: {turns}");
    fixture.world.lanes_open = true;
    fixture.world.drive();
}

/// A plugin that continuously changes the rules of other clients does not restart a page.
#[test]
fn changes_for_other_clients_restart_no_page() {
    let tickets = DeferredTickets::default();
    let inner = tickets.clone();
    // The authorization of the subscription is deferred too.
    let later = link(3, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.action() == 1 {
            call.set(Field::VERDICT, 1, "", "");
            return Flow::STOP;
        }
        inner.note(call.topic(), call.defer().expect("the point may wait"));
        Flow::DEFER
    });
    let mut fixture = Fixture::with(1, vec![Link { deliver: true, ..later }], |_| {});
    fixture.retain("r", 3);
    fixture.request(1, fetch("r/#"));
    for number in 0..4 {
        for busy in 0..20 {
            fixture.world.shards[0].invalidate(Scope::Client(format!("busy{busy}").into()));
        }
        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
    }
    assert_eq!((fixture.page().messages.len(), tickets.about().len()), (3, 4));
}

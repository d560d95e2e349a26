//! Reads of retained messages by plugins on behalf of clients. A read covers all shards, in bounded
//! pages, and each message is authorized like its delivery. No state remains when the client or the
//! plugin goes or the rules change.

use std::cell::RefCell;
use std::ffi::c_void;
use std::net::Ipv4Addr;
use std::rc::Rc;

use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint, InstanceEntry, Link, PluginHandle};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{Property, QoS, Version};
use grapnel_engine::session::Identity;
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{
    BehalfAction, BehalfClient, BehalfRefused, Command, Completion, OnBehalf, OwnedChange, Scope,
};
use grapnel_plugin_abi::host::ClientIdentity;
use grapnel_plugin_abi::raw::{FROM_BROKER, Field, Flow, Slice, Ticket};

use crate::deferral::{DeferredTickets, allow, deny};
use crate::hooks::{Call, Log, link};
use crate::world::{ClientId, ConnectRequest, World};

/// Defaults of `behalf_pages_max` and `behalf_client_pages_max`.
const PAGES_OF_PLUGIN_MAX: usize = 64;
const PAGES_OF_CLIENT_MAX: usize = 8;
/// The plugin that reads.
pub(crate) const READER: PluginHandle = PluginHandle(9);
const AUTHORIZE: HookPoint = HookPoint::ClientAuthorize;

/// Request numbers and bytes of the instance messages that an instance has received.
#[derive(Default)]
struct InstanceMessages(RefCell<Vec<(u64, Vec<u8>)>>);

unsafe extern "C" fn on_timer(_instance: *mut c_void, _timer: u64, _number: u64) {}

unsafe extern "C" fn on_instance_message(instance: *mut c_void, from: u32, number: u64, bytes: Slice) {
    // SAFETY: the instance is a leaked `InstanceMessages` of this thread, and the bytes are alive
    // during the call.
    let (messages, bytes) = unsafe { (&*instance.cast::<InstanceMessages>(), bytes.bytes()) };
    assert_eq!(from, FROM_BROKER);
    messages.0.borrow_mut().push((number, bytes.to_vec()));
}

/// A page, decoded as ABI.md describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) next: Vec<u8>,
    /// Fields of each message, as number and bytes.
    pub(crate) messages: Vec<Vec<(u32, Vec<u8>)>>,
}

fn part(bytes: &mut &[u8]) -> Vec<u8> {
    let (len, rest) = bytes.split_first_chunk().expect("a length");
    let (part, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
    *bytes = rest;
    part.to_vec()
}

fn page(bytes: &[u8]) -> Page {
    let (&0, mut rest) = bytes.split_first().expect("a first byte") else { panic!("refused: {bytes:?}") };
    let next = part(&mut rest);
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let fields = part(&mut rest);
        let (mut fields, mut message) = (&fields[..], Vec::new());
        while let Some((field, behind)) = fields.split_first_chunk() {
            fields = behind;
            message.push((u32::from_le_bytes(*field), part(&mut fields)));
        }
        messages.push(message);
    }
    Page { next, messages }
}

impl Page {
    fn values(&self, field: Field) -> Vec<String> {
        let text = |(_, bytes): &(u32, Vec<u8>)| String::from_utf8_lossy(bytes).into_owned();
        self.messages.iter().flatten().filter(|(number, _)| *number == field.0).map(text).collect()
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.values(Field::TOPIC)
    }
}

pub(crate) struct Fixture {
    pub(crate) world: World,
    pub(crate) client: ClientId,
    /// The client's home shard.
    pub(crate) home: usize,
    messages: &'static InstanceMessages,
    /// The client's identity. The hook stores it when the client publishes to `keep`.
    kept: Rc<RefCell<Vec<u8>>>,
}

impl Fixture {
    /// A scene with a client `c`, on whose shard these links are mounted.
    pub(crate) fn with(shards: usize, links: Vec<Link>, limits: impl FnOnce(&mut Limits)) -> Fixture {
        let mut world = World::with(shards, limits);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        let home = world.shard_of(client);
        let messages: &'static InstanceMessages = Box::leak(Box::default());
        let mut fixture = Fixture { world, client, home, messages, kept: Rc::default() };
        fixture.mount(links);
        fixture
    }

    pub(crate) fn mount(&mut self, links: Vec<Link>) {
        self.mount_with(links, Vec::new());
    }

    /// Suspends the reading plugin.
    pub(crate) fn suspend_reader(&mut self) {
        self.mount_with(Vec::new(), vec![READER]);
    }

    fn mount_with(&mut self, links: Vec<Link>, suspended: Vec<PluginHandle>) {
        self.mount_versions(links, &[READER], suspended);
    }

    /// The same with these versions of the reader, or other plugins, that share one instance.
    pub(crate) fn mount_versions(
        &mut self,
        links: Vec<Link>,
        versions: &[PluginHandle],
        suspended: Vec<PluginHandle>,
    ) {
        let table = self.table(links, versions, suspended);
        self.world.shards[self.home].swap_chains(table);
        self.world.drive();
    }

    /// The chains with these links and versions.
    pub(crate) fn table(
        &self,
        links: Vec<Link>,
        versions: &[PluginHandle],
        suspended: Vec<PluginHandle>,
    ) -> ChainTable {
        let pointer = std::ptr::from_ref(self.messages).cast_mut().cast();
        // SAFETY: never freed, and the test has one thread.
        let entry = unsafe { InstanceEntry::new(on_timer, on_instance_message, pointer) };
        let kept = Rc::clone(&self.kept);
        let storing_link = link(9, 100, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            if call.topic() == "keep" {
                *kept.borrow_mut() = call.identity().expect("the client is in");
            }
            Flow::CONTINUE
        });
        let mut links: Vec<_> = links.into_iter().map(|link| (AUTHORIZE, link)).collect();
        links.push((HookPoint::MessagePublish, storing_link));
        let instances = versions.iter().map(|version| (*version, entry)).collect();
        ChainTable::compile(1, links).with_instances(instances).with_suspended_plugins(suspended)
    }

    fn stored_identity(&mut self) -> BehalfClient {
        self.world.publish(self.client, "keep", "", QoS::AtMostOnce, 0);
        let kept = self.kept.borrow();
        let kept = ClientIdentity::decode(&kept).expect("an identity");
        BehalfClient::Identity(Box::new(Identity::from_stored(&kept).expect("a client's")))
    }

    /// Stores a retained message at each of the topics `PREFIX/0` and so on.
    pub(crate) fn retain(&mut self, prefix: &str, count: usize) -> Vec<String> {
        let topics: Vec<String> = (0..count).map(|n| format!("{prefix}/{n}")).collect();
        for topic in &topics {
            self.world.publish_with(self.client, topic, "0123456789", QoS::AtMostOnce, 0, true, &[]);
        }
        topics
    }

    pub(crate) fn request(&mut self, number: u64, fetch: Fetch) {
        self.request_for(BehalfClient::Client("c".into()), number, fetch);
    }

    pub(crate) fn request_for(&mut self, client: BehalfClient, number: u64, fetch: Fetch) {
        self.request_by(READER, client, number, fetch);
    }

    pub(crate) fn request_by(
        &mut self,
        plugin: PluginHandle,
        client: BehalfClient,
        number: u64,
        fetch: Fetch,
    ) {
        let request = OnBehalf { plugin, client, answer: Some(number), action: BehalfAction::Fetch(fetch) };
        self.world.shards[self.home].command(Command::As(Box::new(request)));
        self.world.drive();
    }

    /// Instance messages since the last call.
    pub(crate) fn messages(&self) -> Vec<(u64, Vec<u8>)> {
        self.messages.0.take()
    }

    pub(crate) fn page(&self) -> Page {
        let messages = self.messages();
        let [(_, bytes)] = &messages[..] else { panic!("one page, not {messages:?}") };
        page(bytes)
    }

    /// All pages of a filter, in order.
    pub(crate) fn pages(&mut self, fetch: &Fetch) -> Vec<Page> {
        let mut pages = Vec::new();
        let mut place = FetchPlace::first();
        loop {
            self.request(1, Fetch { place, ..fetch.clone() });
            let page = self.page();
            let last = page.next.is_empty();
            place = FetchPlace::decode(&page.next).expect("a place");
            pages.push(page);
            assert!(pages.len() < 10_000, "no end");
            if last {
                return pages;
            }
        }
    }

    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let rows = self.world.shards[self.home].counters().rows();
        rows.iter().find(|(row, ..)| *row == name).expect("a counter").1
    }

    /// Refusals that were logged.
    pub(crate) fn logged(&mut self) -> Vec<(PluginHandle, String)> {
        let refused = std::mem::take(&mut self.world.shards[self.home].outbox().behalf_refused);
        let text =
            |one: &BehalfRefused| format!("{} {} for {}: {}", one.what, one.topic, one.client_id, one.reason);
        refused.iter().map(|one| (one.plugin, text(one))).collect()
    }

    pub(crate) fn complete(&mut self, ticket: Ticket, flow: Flow, changes: Vec<OwnedChange>) {
        let completion = Completion { ticket: ticket.0, flow, changes };
        self.world.shards[self.home].complete(completion);
        self.world.drive();
    }
}

pub(crate) fn fetch(filter: &str) -> Fetch {
    Fetch {
        filter: filter.into(),
        qos: QoS::AtMostOnce,
        place: FetchPlace::first(),
        messages_max: 256,
        bytes_max: 65_536,
    }
}

pub(crate) fn topics(pages: &[Page]) -> Vec<String> {
    let mut topics: Vec<String> = pages.iter().flat_map(Page::topics).collect();
    topics.sort();
    topics
}

/// Refuses deliveries of topics that end in an odd number, and the subscription to `secret/#`.
pub(crate) fn even_alone(log: &Log) -> Link {
    let log = log.clone();
    let act = move |call: &mut Call<'_>| {
        log.note(format!("{} {}", call.action(), call.topic()));
        let odd = call.topic().ends_with(['1', '3', '5', '7', '9']);
        let refused = if call.action() == 3 { odd } else { call.topic().starts_with("secret") };
        call.set(Field::VERDICT, if refused { 2 } else { 1 }, "", "");
        Flow::STOP
    };
    Link { deliver: true, ..link(3, 0, FaultPolicy::Deny, act) }
}

/// Defers the verdict for each delivery.
pub(crate) fn deliveries_later(tickets: &DeferredTickets) -> Link {
    let tickets = tickets.clone();
    let act = move |call: &mut Call<'_>| {
        if call.action() != 3 {
            call.set(Field::VERDICT, 1, "", "");
            return Flow::STOP;
        }
        tickets.note(call.topic(), call.defer().expect("the point may wait"));
        Flow::DEFER
    };
    Link { deliver: true, ..link(3, 0, FaultPolicy::Deny, act) }
}

#[test]
fn every_matching_message_is_read_once_with_any_page_size() {
    for shards in [1, 3] {
        let mut fixture = Fixture::with(shards, Vec::new(), |limits| {
            limits.retained_page_messages_max = 5;
            limits.choices.allow_dollar_topics = true;
        });
        let mut expected = fixture.retain("r/a", 40);
        fixture.retain("other", 7);
        fixture.retain("$hidden", 3);
        expected.extend(fixture.retain("r/b", 3));
        expected.sort();
        let bounds = [(1, 1 << 20, 1), (7, 1 << 20, 7), (256, 1 << 20, 256), (256, 1, 1), (256, 1_000, 9)];
        for (messages_max, bytes_max, most) in bounds {
            let pages = fixture.pages(&Fetch { messages_max, bytes_max, ..fetch("r/#") });
            assert_eq!(topics(&pages), expected, "{shards} {messages_max} {bytes_max}");
            assert!(pages.iter().all(|page| page.messages.len() <= most), "{messages_max} {bytes_max}");
            if most == 256 {
                assert_eq!(pages.len(), 1, "there is room for all");
            }
        }
        assert_eq!(topics(&fixture.pages(&fetch("r/a/7"))), ["r/a/7"], "of the only shard that can have it");
        assert_eq!(topics(&fixture.pages(&fetch("none/here"))), [""; 0]);
        assert_eq!(topics(&fixture.pages(&fetch("#"))).len(), 50, "[MQTT-4.7.2-1]");
        assert_eq!(fixture.counter("messages_fetched"), 5 * 43 + 1 + 50);
        assert_eq!(fixture.counter("behalf_refused"), 0);
    }
}

#[test]
fn a_fetched_message_has_all_its_fields() {
    let mut fixture = Fixture::with(1, Vec::new(), |_| {});
    let properties = [
        Property::ContentType("text"),
        Property::MessageExpiry(60),
        Property::User("k", "v"),
        Property::User("k", "w"),
    ];
    fixture.world.publish_with(fixture.client, "r", "x", QoS::AtLeastOnce, 5, true, &properties);
    fixture.world.pass_ms(2_000);
    fixture.request(1, Fetch { qos: QoS::ExactlyOnce, ..fetch("r") });
    let page = fixture.page();
    for (field, expected) in [
        (Field::TOPIC, &["r"][..]),
        (Field::PAYLOAD, &["x"]),
        (Field::QOS, &["\u{1}\0\0\0\0\0\0\0"]),
        (Field::FROM, &["c"]),
        (Field::CONTENT_TYPE, &["text"]),
        (Field::MESSAGE_EXPIRY_S, &[":\0\0\0\0\0\0\0"]),
        (Field::USER_PROPERTY, &["\u{1}\0\0\0kv", "\u{1}\0\0\0kw"]),
        (Field::RESPONSE_TOPIC, &[]),
    ] {
        assert_eq!(page.values(field), expected, "{field:?}");
    }
    fixture.request(1, fetch("r"));
    assert_eq!(fixture.page().values(Field::QOS), ["\0\0\0\0\0\0\0\0"], "that of the subscription");
    fixture.world.pass_ms(60_000);
    fixture.request(1, fetch("r"));
    assert_eq!(fixture.page().messages.len(), 0, "it has expired");
}

#[test]
fn the_filter_and_with_a_delivery_hook_each_message_are_authorized() {
    let log = Log::default();
    let mut fixture = Fixture::with(3, vec![even_alone(&log)], |_| {});
    fixture.retain("secret", 4);
    fixture.retain("open", 10);
    log.take();
    fixture.request(5, fetch("secret/#"));
    assert_eq!(fixture.messages(), [(5, vec![0x87])]);
    assert_eq!(log.take(), ["2 secret/#"]);
    assert_eq!(fixture.counter("behalf_refused"), 1);
    let refused = fixture.world.shards[fixture.home].outbox().behalf_refused.pop().expect("it is logged");
    assert_eq!(&*refused.topic, "secret/#");
    let pages = fixture.pages(&Fetch { messages_max: 2, ..fetch("open/#") });
    assert_eq!(topics(&pages), ["open/0", "open/2", "open/4", "open/6", "open/8"]);
    let requested = log.take();
    assert_eq!(requested.iter().filter(|about| *about == "2 open/#").count(), pages.len(), "of each page");
    assert_eq!(requested.iter().filter(|about| about.starts_with("3 open/")).count(), 10, "{requested:?}");
    // No plugin authorizes deliveries any more.
    let all = link(3, 0, FaultPolicy::Deny, |call| {
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    fixture.mount(vec![all]);
    assert_eq!(topics(&fixture.pages(&fetch("open/#"))).len(), 10);
}

#[test]
fn a_page_waits_for_deferred_verdicts_and_leaves_out_unanswered_messages() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 4);
    fixture.request(1, fetch("r/#"));
    fixture.complete(tickets.ticket(0), Flow::STOP, allow());
    fixture.complete(tickets.ticket(1), Flow::STOP, deny(0x87));
    fixture.complete(tickets.ticket(1), Flow::STOP, allow());
    assert_eq!(tickets.about(), ["r/0", "r/1", "r/2"], "one after the other");
    assert_eq!(fixture.messages(), []);
    fixture.complete(tickets.ticket(2), Flow::STOP, deny(0x87));
    fixture.complete(tickets.ticket(3), Flow::STOP, allow());
    assert_eq!(fixture.page().topics(), ["r/0", "r/3"]);
    // A missing verdict is an error, not a page without the message.
    fixture.request(2, fetch("r/#"));
    fixture.complete(tickets.ticket(4), Flow::STOP, allow());
    fixture.world.pass_ms(1_100);
    assert_eq!((fixture.messages(), tickets.about().len()), (vec![(2, vec![0x88])], 6));
}

/// A page examines a bounded number of messages, even if the client may read almost none, and slow
/// plugins end a page.
#[test]
fn a_page_examines_a_bounded_number_of_messages_in_bounded_time() {
    let log = Log::default();
    let mut fixture = Fixture::with(1, vec![even_alone(&log)], |_| {});
    for n in 0..100 {
        fixture.world.publish_with(fixture.client, &format!("r/{n}1"), "x", QoS::AtMostOnce, 0, true, &[]);
    }
    log.take();
    fixture.request(1, Fetch { messages_max: 10, ..fetch("r/#") });
    let page = fixture.page();
    assert_eq!((page.messages.len(), page.next.is_empty(), log.take().len()), (0, false, 11));
    let tickets = DeferredTickets::default();
    fixture.mount(vec![deliveries_later(&tickets)]);
    fixture.request(1, fetch("r/#"));
    for number in 0..7 {
        fixture.world.pass_ms(900);
        if number < tickets.about().len() {
            fixture.complete(tickets.ticket(number), Flow::STOP, allow());
        }
    }
    let page = fixture.page();
    assert_eq!((page.messages.len(), tickets.about().len()), (6, 6));
    let next = FetchPlace::decode(&page.next).expect("a place");
    fixture.mount(Vec::new());
    fixture.request(1, Fetch { place: next, ..fetch("r/#") });
    assert_eq!(fixture.page().messages.len(), 94, "it goes on behind them");
}

/// Another principal with the same client identifier does not get the page, also if the rules
/// change at the same time.
#[test]
fn a_page_is_not_given_to_another_user_with_the_same_client_identifier() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 1);
    fixture.request(1, fetch("r/#"));
    fixture
        .world
        .connect("c", &ConnectRequest { username: Some("somebody"), ..ConnectRequest::v(Version::V5) });
    fixture.world.shards[fixture.home].command(Command::Invalidate(Scope::All));
    let mut number = 0;
    while number < tickets.about().len() {
        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
        number += 1;
    }
    assert_eq!(fixture.messages(), [(1, vec![0x85])]);
}

/// Rules that change repeatedly end a page.
#[test]
fn a_page_restarts_a_bounded_number_of_times() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 1);
    fixture.request(1, fetch("r/#"));
    let mut number = 0;
    while number < tickets.about().len() {
        assert!(number < 100, "no end");
        fixture.world.shards[fixture.home].command(Command::Invalidate(Scope::All));
        fixture.complete(tickets.ticket(number), Flow::STOP, allow());
        number += 1;
        if number < tickets.about().len() {
            fixture.complete(tickets.ticket(number), Flow::STOP, allow());
            number += 1;
        }
        if !fixture.messages.0.borrow().is_empty() {
            break;
        }
    }
    let messages = fixture.messages();
    assert_eq!(messages.len(), 1);
}

/// A suspended plugin receives its page, or the refusal for lack of space, when it is called again.
/// No answer is lost.
#[test]
fn a_page_without_room_is_answered_with_a_refusal() {
    let mut fixture = Fixture::with(2, Vec::new(), |limits| {
        (limits.behalf_bytes_max, limits.behalf_client_bytes_max) = (1 << 30, 1 << 30);
    });
    let large = "x".repeat(900_000);
    for n in 0..2 {
        fixture.world.publish_with(fixture.client, &format!("r/{n}"), &large, QoS::AtMostOnce, 0, true, &[]);
    }
    fixture.world.lanes_open = false;
    (0..8).for_each(|number| fixture.request(number, Fetch { bytes_max: 1 << 20, ..fetch("r/#") }));
    fixture.suspend_reader();
    fixture.world.lanes_open = true;
    fixture.world.drive();
    assert_eq!(fixture.messages(), [], "it rests");
    fixture.mount(Vec::new());
    let mut messages = fixture.messages();
    messages.sort();
    assert_eq!(messages.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let refused = messages.iter().filter(|(_, bytes)| *bytes == [0x97]).count();
    assert!((1..8).contains(&refused), "{refused}");
    let counted = ["behalf_refused", "behalf_no_room"].map(|name| fixture.counter(name) as usize);
    assert_eq!(counted, [refused; 2]);
    assert_eq!(fixture.logged(), [(READER, "a page of r/# for c: 0x97 quota exceeded".to_owned())]);
}

#[test]
fn a_page_for_an_absent_client_needs_a_stored_identity() {
    for (end, is_stored) in [("goes", false), ("goes", true), ("comes as another", false), ("stays", false)] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
        fixture.retain("r", 2);
        let client = match is_stored {
            true => fixture.stored_identity(),
            false => BehalfClient::Client("c".into()),
        };
        fixture.request_for(client, 1, fetch("r/#"));
        fixture.complete(tickets.ticket(0), Flow::STOP, allow());
        match end {
            "goes" => fixture.world.lose(fixture.client),
            "comes as another" => {
                fixture.world.connect(
                    "c",
                    &ConnectRequest { username: Some("somebody"), ..ConnectRequest::v(Version::V5) },
                );
            }
            _ => {}
        }
        fixture.complete(tickets.ticket(1), Flow::STOP, allow());
        let messages = fixture.messages();
        let [(1, bytes)] = &messages[..] else { panic!("{end}: {messages:?}") };
        if is_stored || end == "stays" {
            assert_eq!(page(bytes).topics(), ["r/0", "r/1"], "{end}");
        } else {
            assert_eq!(bytes, &[0x85], "{end}");
        }
    }
}

#[test]
fn retained_messages_are_not_read_for_absent_sessions() {
    let mut fixture = Fixture::with(1, Vec::new(), |_| {});
    fixture.request_for(BehalfClient::Client("nobody".into()), 3, fetch("#"));
    assert_eq!(fixture.messages(), [(3, vec![0x85])]);
}

/// After a reload was taken back, the previous version receives the pages that it has requested,
/// whatever other plugin is unloaded. It also receives the pages of the version that was taken
/// back, if that version's state came back.
#[test]
fn pages_go_to_the_old_version_if_a_reload_is_undone() {
    for comes_back in [true, false] {
        let tickets = DeferredTickets::default();
        let (first, second, other) = (READER, PluginHandle(1 << 32 | READER.0), PluginHandle(8));
        let mut fixture = Fixture::with(1, Vec::new(), |_| {});
        fixture.retain("r", 1);
        let links = || vec![deliveries_later(&tickets)];
        let request = |fixture: &mut Fixture, plugin, number| {
            fixture.request_by(plugin, BehalfClient::Client("c".into()), number, fetch("r/#"));
        };
        fixture.mount_versions(links(), &[first, other], Vec::new());
        request(&mut fixture, first, 1);
        fixture.world.shards[0].redirect_answers(first, second);
        fixture.mount_versions(links(), &[second, other], Vec::new());
        request(&mut fixture, second, 2);
        if comes_back {
            fixture.world.shards[0].redirect_answers(second, first);
        }
        fixture.mount_versions(links(), &[first, other], Vec::new());
        fixture.world.shards[0].forget_plugin(second);
        request(&mut fixture, first, 3);
        fixture.mount_versions(links(), &[first], Vec::new());
        let mut number = 0;
        while number < tickets.about().len() {
            fixture.complete(tickets.ticket(number), Flow::STOP, allow());
            number += 1;
        }
        let mut numbers: Vec<u64> = fixture.messages().into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        // No version receives the pages of the second one if its state did not come back.
        assert_eq!(numbers, if comes_back { &[1, 2, 3][..] } else { &[1, 3] }, "{comes_back}");
    }
}

/// The same without a state handover, with a page and an answer that arrive while the other version
/// is called.
#[test]
fn pages_and_answers_wait_for_the_old_version_while_a_reload_may_be_undone() {
    for is_taken_back in [true, false] {
        let tickets = DeferredTickets::default();
        let (first, second) = (READER, PluginHandle(1 << 32 | READER.0));
        let mut fixture = Fixture::with(1, Vec::new(), |_| {});
        let links = || vec![deliveries_later(&tickets)];
        for prefix in ["r", "s"] {
            fixture.retain(prefix, 1);
        }
        fixture.mount_versions(links(), &[first], Vec::new());
        for (number, filter) in [(0, "r/#"), (1, "s/#")] {
            fixture.request_by(first, BehalfClient::Client("c".into()), number, fetch(filter));
        }
        let allow_all = |fixture: &mut Fixture, prefix: &str| {
            let mut number = 0;
            while number < tickets.about().len() {
                if tickets.about()[number].contains(prefix) {
                    fixture.complete(tickets.ticket(number), Flow::STOP, allow());
                }
                number += 1;
            }
        };
        fixture.mount_versions(links(), &[second], Vec::new());
        // Another plugin is unloaded meanwhile.
        fixture.world.shards[0].forget_plugin(PluginHandle(8));
        allow_all(&mut fixture, "r/");
        assert_eq!(fixture.messages(), []);
        if is_taken_back {
            fixture.mount_versions(links(), &[first], Vec::new());
            fixture.world.shards[0].forget_plugin(second);
            allow_all(&mut fixture, "s/");
        } else {
            fixture.world.shards[0].forget_plugin(first);
            assert_eq!(fixture.counter("plugin_mail_stale"), 1);
        }
        let numbers: Vec<u64> = fixture.messages().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, if is_taken_back { &[0, 1][..] } else { &[] });
        let (armed, held) = fixture.world.shards[0].timers();
        assert_eq!(armed, held);
    }
}

/// Requests of a version whose load has failed, and which was never in a chain, end with that
/// version.
#[test]
fn pages_of_a_version_that_never_became_active_are_dropped_with_it() {
    for fails in [false, true] {
        let tickets = DeferredTickets::default();
        let mut fixture = Fixture::with(1, Vec::new(), |_| {});
        fixture.retain("r", 1);
        let next = PluginHandle(1 << 32 | READER.0);
        let links = || vec![deliveries_later(&tickets)];
        fixture.mount_versions(links(), &[READER], Vec::new());
        fixture.request_by(next, BehalfClient::Client("c".into()), 1, fetch("r/#"));
        assert_eq!(tickets.about().len(), 1);
        if fails {
            fixture.world.shards[0].forget_plugin(next);
        }
        fixture.complete(tickets.ticket(0), Flow::STOP, allow());
        fixture.mount_versions(links(), &[next], Vec::new());
        assert_eq!(fixture.messages().len(), usize::from(!fails));
    }
}

/// A client and a plugin may have a bounded number of pages waiting for another shard; one more is
/// refused. Each page that ends makes space, whether the plugin is there to receive it or not.
#[test]
fn open_pages_are_limited() {
    let mut fixture = Fixture::with(2, Vec::new(), |limits| limits.slots_max = 1_000);
    fixture.retain("r", 6);
    // As many clients on this shard as a plugin may have pages.
    let mut clients = vec!["c".to_owned()];
    for n in 0..200 {
        let name = format!("c{n}");
        // Each from an address of its own, so that none is charged for another.
        fixture.world.host = Ipv4Addr::new(10, 0, 0, n).into();
        let client = fixture.world.connect(&name, &ConnectRequest::v(Version::V5));
        if fixture.world.shard_of(client) == fixture.home
            && clients.len() * PAGES_OF_CLIENT_MAX <= PAGES_OF_PLUGIN_MAX
        {
            clients.push(name);
        }
    }
    let most = PAGES_OF_PLUGIN_MAX / PAGES_OF_CLIENT_MAX;
    assert_eq!(clients.len(), most + 1);
    for is_there in [true, false, true] {
        fixture.world.lanes_open = false;
        for name in &clients[..most] {
            for number in 0..PAGES_OF_CLIENT_MAX {
                fixture.request_for(BehalfClient::Client(name.as_str().into()), number as u64, fetch("r/#"));
            }
        }
        assert_eq!(fixture.messages(), []);
        for (name, number) in [(&clients[0], 100), (&clients[most], 101)] {
            fixture.request_for(BehalfClient::Client(name.as_str().into()), number, fetch("r/#"));
            assert_eq!(fixture.messages(), [(number, vec![0x97])]);
        }
        if !is_there {
            fixture.world.shards[fixture.home].swap_chains(ChainTable::compile(1, Vec::new()));
        }
        fixture.world.lanes_open = true;
        fixture.world.drive();
        let messages = fixture.messages();
        assert_eq!(messages.len(), if is_there { PAGES_OF_PLUGIN_MAX } else { 0 });
        assert!(messages.iter().all(|(_, bytes)| page(bytes).messages.len() == 6));
        fixture.world.pass_ms(61_000);
        fixture.mount(Vec::new());
        fixture.messages();
    }
}

/// Whoever is not verified has one account for all clients of its address: however many there are,
/// they leave room for another address.
#[test]
fn clients_of_one_address_leave_pages_for_others() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 1);
    let names: Vec<String> = (0..10).map(|n| format!("c{n}")).collect();
    for name in &names {
        fixture.world.connect(name, &ConnectRequest::v(Version::V5));
        for number in 0..PAGES_OF_CLIENT_MAX {
            fixture.request_for(BehalfClient::Client(name.as_str().into()), number as u64, fetch("r/#"));
        }
    }
    let refused = fixture.messages();
    assert_eq!(refused.len(), names.len() * PAGES_OF_CLIENT_MAX - PAGES_OF_PLUGIN_MAX / 2);
    assert!(refused.iter().all(|(_, bytes)| *bytes == [0x97]));
    fixture.world.host = Ipv4Addr::new(10, 0, 0, 1).into();
    fixture.world.connect("other", &ConnectRequest::v(Version::V5));
    fixture.request_for(BehalfClient::Client("other".into()), 100, fetch("r/#"));
    assert_eq!((fixture.messages(), tickets.about().len()), (vec![], PAGES_OF_PLUGIN_MAX / 2 + 1));
}

#[test]
fn one_client_leaves_pages_for_others() {
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 1);
    fixture.world.connect("other", &ConnectRequest::v(Version::V5));
    (0..=PAGES_OF_CLIENT_MAX as u64).for_each(|number| fixture.request(number, fetch("r/#")));
    assert_eq!(fixture.messages(), [(PAGES_OF_CLIENT_MAX as u64, vec![0x97])]);
    fixture.request_for(BehalfClient::Client("other".into()), 50, fetch("r/#"));
    assert_eq!(tickets.about().len(), PAGES_OF_CLIENT_MAX + 1);
    fixture.complete(tickets.ticket(PAGES_OF_CLIENT_MAX), Flow::STOP, allow());
    assert_eq!(fixture.messages().len(), 1);
    // The others get no verdict.
    fixture.world.pass_ms(6_000);
    let messages = fixture.messages();
    assert_eq!(messages.len(), PAGES_OF_CLIENT_MAX);
    assert!(messages.iter().all(|(_, bytes)| *bytes == [0x88]));
    fixture.request(7, fetch("none"));
    assert_eq!(fixture.page().messages.len(), 0, "there is room again");
}

#[test]
fn a_page_is_authorized_completely_by_the_rules_after_a_change() {
    let log = Log::default();
    let tickets = DeferredTickets::default();
    let mut fixture = Fixture::with(1, vec![deliveries_later(&tickets)], |_| {});
    fixture.retain("r", 3);
    fixture.request(1, fetch("r/#"));
    fixture.complete(tickets.ticket(0), Flow::STOP, allow());
    fixture.mount(vec![even_alone(&log)]);
    fixture.world.shards[fixture.home].command(Command::Invalidate(Scope::All));
    fixture.complete(tickets.ticket(1), Flow::STOP, allow());
    assert_eq!(fixture.page().topics(), ["r/0", "r/2"]);
    assert_eq!(log.take().iter().filter(|about| *about == "2 r/#").count(), 1, "it is asked anew");
}

#[test]
fn superusers_are_not_authorized() {
    let log = Log::default();
    let mut fixture = Fixture::with(1, Vec::new(), |_| {});
    fixture.retain("secret", 3);
    let BehalfClient::Identity(identity) = fixture.stored_identity() else { panic!("an identity") };
    fixture.mount(vec![even_alone(&log)]);
    // Another principal than that of the session: the stored one.
    let superuser = Identity { superuser: true, username: Some("root".into()), ..*identity };
    fixture.request_for(BehalfClient::Identity(Box::new(superuser)), 1, fetch("secret/#"));
    assert_eq!((fixture.page().messages.len(), log.take().len()), (3, 0));
}

/// The cost of a read grows linearly with what is read, however small the pages are.
#[test]
fn work_grows_linearly_with_the_input() {
    let work = |count: usize| {
        let mut fixture = Fixture::with(1, Vec::new(), |_| {});
        fixture.retain("r", count);
        let before = fixture.counter("work_units");
        let pages = fixture.pages(&Fetch { messages_max: 10, ..fetch("r/#") });
        assert_eq!(topics(&pages).len(), count);
        fixture.counter("work_units") - before
    };
    let (once, twice) = (work(500), work(1_000));
    assert!(twice <= 2 * once + 50, "{once} and {twice}");
    assert!(once <= 500 * 8, "{once}");
}

/// A page that finds nothing in a large store continues in later turns, and other requests are
/// served meanwhile.
#[test]
fn a_long_search_takes_several_turns() {
    let mut fixture = Fixture::with(1, Vec::new(), |limits| {
        limits.turn_budget_deliveries = 64;
        limits.retained_page_messages_max = 16;
    });
    fixture.retain("r", 2_000);
    let request = |number, filter| {
        Command::As(Box::new(OnBehalf {
            plugin: READER,
            client: BehalfClient::Client("c".into()),
            answer: Some(number),
            action: BehalfAction::Fetch(fetch(filter)),
        }))
    };
    fixture.world.shards[fixture.home].command(request(1, "r/+/none"));
    assert_eq!(fixture.messages().len(), 0, "it goes on in the next turn");
    fixture.world.shards[fixture.home].command(request(2, "r/7"));
    fixture.world.drive();
    let numbers: Vec<u64> = fixture.messages().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
}

#[test]
fn an_invalid_cursor_finds_nothing() {
    for bytes in [&b"\x02\x00"[..], b"\x01", b"x", b"\x01\x00\xff"] {
        assert_eq!(FetchPlace::decode(bytes), None, "{bytes:?}");
    }
    let mut fixture = Fixture::with(2, Vec::new(), |_| {});
    fixture.retain("r", 6);
    for place in [&b"\x01\x02"[..], b"\x01\xff", b"\x01\x01zzz"] {
        let place = FetchPlace::decode(place).expect("it is one");
        fixture.request(1, Fetch { place, ..fetch("r/#") });
        let page = fixture.page();
        assert_eq!((page.messages.len(), &page.next[..]), (0, &b""[..]));
    }
    let place = FetchPlace::decode(b"\x01\x00a").expect("it is one");
    fixture.request(1, Fetch { place, ..fetch("r/#") });
    assert_eq!(fixture.page().messages.len(), 6, "before the first that matches");
}

//! What is stored of logins, for which client, and how much.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::state::ENTRY;
use super::*;

const ANN: Connection<'_> = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
const EVE: Connection<'_> = Connection { port: 2, ..ANN };
/// Who is charged.
const OWNER: u64 = 7;

fn kept() -> LoginStore {
    kept_of(100, 100_000)
}

fn kept_of(one_max: usize, all_max: usize) -> LoginStore {
    LoginStore::new((one_max, all_max), 4, None)
}

fn gave<'a>(whose: Connection<'a>, bytes: &'a [u8], epoch: u64) -> Gave<'a> {
    Gave { whose, bytes, anew: None, epoch, number: 0 }
}

/// Connects a client and stores data of its login. Returns whether there was room.
fn keep(logins: &LoginStore, whose: Connection<'_>, bytes: &[u8], owner: u64) -> bool {
    logins.enter(whose, 0, owner, false);
    logins.store(gave(whose, bytes, 1), 0);
    logins.of(whose, 0, owner).is_some()
}

fn bytes(logins: &LoginStore) -> usize {
    logins.lock().bytes()
}

fn count(logins: &LoginStore) -> usize {
    let state = logins.lock();
    state.count + state.lost.len()
}

fn doubted(logins: &LoginStore) -> usize {
    logins.lock().doubted()
}

fn of(client_id: &str) -> Connection<'_> {
    Connection { client_id, ..ANN }
}

#[test]
fn a_login_is_its_connections_and_its_sessions() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    assert_eq!(logins.of(ANN, 0, OWNER).as_deref(), Some(&b"ann"[..]));
    assert_eq!(logins.of(EVE, 0, OWNER), None, "another connection under the same identifier");
    assert_eq!(logins.stored("c", 0, 1), None, "that process has it itself");
    assert_eq!(logins.stored("c", 0, 2).as_deref(), Some(&b"ann"[..]));
    logins.forget(EVE, 0);
    assert!(logins.of(ANN, 0, OWNER).is_some());
    logins.forget(ANN, 0);
    assert!(logins.of(ANN, 0, OWNER).is_none() && logins.shows_nothing());
    assert_eq!(logins.lock().bytes(), 0);
}

/// Nothing is stored for a client that was not seen to connect, or whose session has ended.
#[test]
fn nothing_is_kept_where_there_is_no_session() {
    let logins = kept();
    logins.store(gave(ANN, b"ann", 1), 0);
    assert!(logins.shows_nothing());
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.over("c", 0);
    logins.store(gave(ANN, b"late", 1), 0);
    assert!(logins.shows_nothing());
    assert_eq!(logins.lock().bytes(), 0);
    assert_eq!(logins.take_not_stored().count(), 0);
}

/// Data of an answered login belongs to the session when its client connects, not earlier.
#[test]
fn what_is_kept_with_an_answer_is_the_sessions_when_the_client_is_in() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.store_of_login(gave(EVE, b"eve", 1), 0, Instant::now());
    assert_eq!((logins.of(EVE, 0, OWNER), logins.stored("c", 0, 2).as_deref()), (None, Some(&b"ann"[..])));
    logins.refused(EVE, 0);
    logins.enter(EVE, 0, OWNER, false);
    assert_eq!(logins.of(EVE, 0, OWNER), None, "another plugin did not let her in");
    logins.store_of_login(gave(EVE, b"eve", 1), 0, Instant::now());
    logins.over("c", 0);
    logins.enter(EVE, 0, OWNER, false);
    assert_eq!((logins.of(EVE, 0, OWNER).as_deref(), logins.of(ANN, 0, OWNER)), (Some(&b"eve"[..]), None));
    // If the new data has no room, the session's earlier data is removed too.
    logins.store_of_login(gave(ANN, &[0; 101], 1), 0, Instant::now());
    logins.enter(ANN, 0, OWNER, false);
    assert!(logins.shows_nothing());
    assert_eq!(logins.take_not_stored(), NotStored { too_long: 1, ..NotStored::default() });
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.none_coming(EVE, 0, Instant::now());
    logins.enter(EVE, 0, OWNER, false);
    assert!(logins.shows_nothing(), "the worker cannot say what it gave");
    // Pending logins that never connect do not stay forever.
    for port in 0..9 {
        logins.store_of_login(gave(Connection { port, ..ANN }, b"x", 1), 0, Instant::now());
    }
    assert_eq!(logins.lock().count, 4);
    assert_eq!(logins.take_not_stored(), NotStored { of_coming: 5, ..NotStored::default() });
    logins.clear(0);
    assert_eq!((logins.lock().bytes(), logins.shows_nothing()), (0, true));
}

#[test]
fn a_description_is_told_with_its_login() {
    let logins = kept();
    let described = |port: u16, (user, anonymous): (&str, bool), is_entering: bool| {
        let mut about = Vec::new();
        let mut out = Writer(&mut about);
        out.map(5 + usize::from(is_entering)).text("client_id").text("c");
        out.text("peer_host").text("10.0.0.1").text("peer_port").number(port);
        out.text("username").text(user).text("anonymous").flag(anonymous);
        if is_entering {
            out.text("will").nil();
        }
        logins.described(&about, 0)
    };
    let ann = ("ann", false);
    assert_eq!(described(1, ann, false), None);
    assert!(keep(&logins, ANN, b"ann", owner_of(Some("ann"), "")));
    let bytes = described(1, ann, false).unwrap();
    let value = rmpv::decode::read_value_ref(&mut bytes.as_slice()).unwrap();
    assert_eq!(get(&value, "login").and_then(crate::wire::bytes_ref), Some(&b"ann"[..]));
    assert_eq!(described(2, ann, false), None);
    assert_eq!(logins.described(b"nonsense", 0), None);
    // Another user with the same address, port and identifier, or one that is not in yet.
    assert_eq!(described(1, ("eve", false), false), None);
    assert_eq!(described(1, ("ann", true), false), None);
    assert_eq!(described(1, ann, true), None);
    assert_eq!(logins.of(ANN, 0, owner_of(None, "10.0.0.1")), None);
}

#[test]
fn no_more_is_kept_than_there_is_room_for() {
    let kept = kept_of(10, 2 * (ENTRY + 1 + 8 + 10));
    assert!(keep(&kept, of("a"), &[0; 10], 1));
    assert!(!keep(&kept, of("a"), &[0; 11], 1), "and what there was is no longer true");
    assert!(keep(&kept, of("a"), &[0; 10], 1));
    assert!(keep(&kept, of("b"), &[0; 10], 2));
    assert!(!keep(&kept, of("c"), b"", 3));
    let unkept = kept.take_not_stored();
    assert_eq!(unkept, NotStored { too_long: 1, of_all: 1, ..NotStored::default() });
    assert_eq!(
        unkept.to_string(),
        "data of 2 logins is not stored for the next worker, where hooks that need it fail: 1 longer than login_bytes_max, \
         1 beyond logins_bytes_max"
    );
    kept.forget(of("b"), 0);
    assert!(keep(&kept, of("c"), &[0; 10], 3));
    assert_eq!(kept.take_not_stored().count(), 0);
}

/// However many client identifiers a user has, others find room: one user gets an eighth of what
/// the others leave free.
#[test]
fn a_user_with_many_identifiers_has_a_share() {
    let one = ENTRY + 4 + 8 + 10;
    let logins = kept_of(10, 80 * one);
    let names: Vec<_> = (1000..1080).map(|n| n.to_string()).collect();
    let fits = |owner, names: &[String]| {
        names.iter().filter(|name| keep(&logins, of(name), &[0; 10], owner)).count()
    };
    assert_eq!(fits(1, &names[..40]), 10);
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 30, ..NotStored::default() });
    assert_eq!(fits(2, &names[40..]), 8, "an eighth of 70");
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 32, ..NotStored::default() });
    // One login of each user finds room as long as there is any.
    let more: Vec<_> = (2000..2100).map(|n| n.to_string()).collect();
    let found =
        more.iter().zip(3..).filter(|(name, owner)| keep(&logins, of(name), &[0; 10], *owner)).count();
    assert_eq!(found, 62);
    assert_eq!(logins.take_not_stored(), NotStored { of_all: 38, ..NotStored::default() });
    names.iter().chain(&more).for_each(|name| logins.over(name, 0));
    assert_eq!(logins.lock().bytes(), 0);
    assert_eq!(fits(1, &names), 10, "what they gave back is there again");
}

/// Room that a user was granted stays granted when other users come, through a reload and when an
/// entry of the same size replaces the first.
#[test]
fn what_was_granted_stays_so() {
    let one = ENTRY + 4 + 8 + 10;
    let (logins, next) = (kept_of(10, 80 * one), kept_of(10, 80 * one));
    let names: Vec<_> = (1000..1080).map(|n| n.to_string()).collect();
    assert!(names[..10].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(names[10..].iter().zip(2..).all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    // By now the first user has more than an eighth of what is left.
    for name in &names[..10] {
        logins.store(gave(of(name), &[1; 10], 1), 0);
        assert_eq!(logins.of(of(name), 0, 1).as_deref(), Some(&[1; 10][..]));
    }
    let mut after = None;
    while let Some(client_id) = logins.next(0, after.as_deref()) {
        logins.each_of(0, &client_id, |over| next.take_over(0, over, Instant::now()));
        after = Some(client_id);
    }
    assert!(names[..10].iter().all(|name| next.of(of(name), 0, 1).is_some()));
    assert!(names[10..].iter().zip(2..).all(|(name, owner)| next.of(of(name), 0, owner).is_some()));
    assert_eq!((next.take_not_stored().count(), logins.take_not_stored().count()), (0, 0));
    assert_eq!(next.lock().bytes(), logins.lock().bytes());
}

/// A user is charged by name if the name was verified, otherwise by address.
#[test]
fn owners_are_users_or_addresses() {
    let near = [owner_of(None, "2001:db8::1"), owner_of(None, "2001:db8::2")];
    assert_eq!(near[0], near[1], "one host has as many addresses as it likes");
    assert_eq!(owner_of(None, "::ffff:10.0.0.1"), owner_of(None, "10.0.0.1"));
    assert_eq!(owner_of(Some("ann"), "h"), owner_of(Some("ann"), "g"));
    assert_ne!(owner_of(Some("ann"), "h"), owner_of(Some("bob"), "h"));
    assert_ne!(owner_of(None, "h"), owner_of(None, "g"));
    assert_ne!(owner_of(Some("h"), "h"), owner_of(None, "h"));
}

/// However often a client connects, and from where, it has one entry of limited size.
#[test]
fn a_client_has_one_entry() {
    let logins = kept_of(10, 1000);
    for port in 0..1000 {
        assert!(keep(&logins, Connection { port, ..ANN }, &[0; 10], OWNER));
    }
    let state = logins.lock();
    assert_eq!((state.count, state.bytes()), (1, ENTRY + 1 + 8 + 10));
}

#[test]
fn those_of_a_shard_are_told_apart() {
    let logins = kept_of(10, 10_000);
    assert!(keep(&logins, ANN, b"0", OWNER));
    for client_id in ["e", "d"] {
        logins.enter(of(client_id), 1, OWNER, false);
        logins.store(gave(of(client_id), b"1", 1), 1);
    }
    logins.store_of_login(gave(of("c2"), b"1", 1), 1, Instant::now());
    assert_eq!(
        [None, Some("c2"), Some("d"), Some("e")].map(|after| logins.next(1, after)),
        [Some("c2".to_owned()), Some("d".to_owned()), Some("e".to_owned()), None]
    );
    let each = |shard, client_id| {
        let mut found = Vec::new();
        logins.each_of(shard, client_id, |over| {
            found.push((over.whose.port, over.bytes.unwrap().to_vec(), over.is_coming));
        });
        found
    };
    assert_eq!(each(1, "d"), [(1, b"1".to_vec(), false)]);
    assert_eq!(each(1, "c2"), [(1, b"1".to_vec(), true)]);
    assert_eq!(each(0, "d"), []);
    logins.clear(1);
    assert!(logins.of(ANN, 0, OWNER).is_some());
    assert_eq!(logins.lock().count, 1);
}

#[test]
fn changes_are_noted_while_somebody_wants_to_know() {
    let logins = kept_of(10, 10_000);
    let changes = || logins.take_changes(0).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(keep(&logins, of("a"), b"1", OWNER));
    logins.note_changes(0, true);
    assert!(keep(&logins, of("b"), b"1", OWNER));
    logins.enter(of("c"), 1, OWNER, false);
    logins.store(gave(of("c"), b"1", 1), 1);
    logins.note_changes(0, true);
    logins.forget(of("a"), 0);
    assert!(!keep(&logins, of("d"), &[0; 11], OWNER));
    logins.store_of_login(gave(of("e"), b"1", 1), 0, Instant::now());
    assert_eq!(changes(), ["a", "b", "d", "e"]);
    assert!(changes().is_empty());
    assert_eq!(logins.store(gave(of("b"), b"2", 1), 0), Some(OWNER), "the next version is to hear of it");
    logins.note_changes(0, false);
    assert!(keep(&logins, of("f"), b"1", OWNER));
    assert_eq!((logins.store(gave(of("f"), b"2", 1), 0), changes().len()), (None, 0));
}

/// Late data from the worker of the version before is taken while it may come, except for a session
/// that has ended meanwhile.
#[test]
fn what_comes_late_is_taken_unless_its_session_has_ended() {
    let logins = kept();
    let now = Instant::now();
    let over = |whose, bytes| HandedOver {
        whose,
        bytes,
        anew: None,
        owner: OWNER,
        is_coming: false,
        is_doubted: false,
        number: 0,
    };
    assert!(!logins.take_late(0, over(ANN, Some(b"x")), now), "nobody is expected to say more");
    logins.expect_more(0, now + Duration::from_secs(1));
    assert!(logins.take_late(0, over(ANN, Some(b"x")), now));
    assert_eq!(logins.of(ANN, 0, OWNER).as_deref(), Some(&b"x"[..]));
    assert!(logins.take_late(0, over(ANN, None), now) && logins.shows_nothing(), "it is no longer true");
    logins.over("c", 0);
    assert!(!logins.take_late(0, over(ANN, Some(b"x")), now));
    assert!(logins.take_late(0, over(of("d"), Some(b"x")), now));
    assert_eq!(logins.take_not_stored().handed_over, 1, "what came when nobody was expected to say more");
    // More sessions have ended than are recorded: later data is lost, and counted.
    for name in ["e", "f", "g", "h"] {
        logins.over(name, 0);
    }
    assert!(!logins.take_late(0, over(of("i"), Some(b"x")), now));
    assert!(!logins.take_late(0, over(of("i"), None), now));
    assert_eq!(logins.take_not_stored(), NotStored { handed_over: 1, ..NotStored::default() });
    // After the time is over, nothing is recorded any more.
    assert_eq!(logins.lock().of(0).ends_noted(), Some(4));
    logins.expire(now + Duration::from_secs(2));
    assert_eq!(logins.lock().of(0).ends_noted(), None);
    logins.expect_more(0, now + Duration::from_secs(1));
    assert!(!logins.take_late(0, over(of("i"), Some(b"x")), now + Duration::from_secs(2)));
}

/// A client that connects and closes repeatedly uses no share of others at its address: its pending
/// logins are evicted by later ones there, and expire.
#[test]
fn what_is_on_its_way_makes_room_for_others() {
    let (logins, now) = (LoginStore::new((100, 100_000), 10_000, None), Instant::now());
    let from = |port| Connection { port, ..ANN };
    for port in 0..1000 {
        logins.store_of_login(gave(from(port), &[0; 100], 1), 0, now);
    }
    assert!(logins.lock().bytes() <= 100_000 / 8);
    let dropped = logins.take_not_stored();
    assert!(dropped.of_coming > 900 && dropped.count() == dropped.of_coming, "{dropped:?}");
    logins.enter(from(999), 0, OWNER, false);
    assert!(logins.of(from(999), 0, OWNER).is_some(), "the last one is there");
    let other = Connection { client_id: "d", host: "10.0.0.2", port: 1 };
    logins.store_of_login(gave(other, b"x", 1), 0, now + Duration::from_secs(1));
    // Expired in batches.
    (0..2).for_each(|_| logins.expire(now + coming::ON_THE_WAY_MAX));
    assert_eq!(logins.lock().count, 2);
    logins.expire(now + coming::ON_THE_WAY_MAX + Duration::from_secs(1));
    assert_eq!(logins.lock().count, 1);
    logins.over("c", 0);
    assert_eq!(logins.lock().bytes(), 0);
}

/// If a login's data found no room, or was evicted, the session's earlier data is not used for it.
#[test]
fn a_login_without_room_leaves_nothing_of_the_one_before() {
    let one = ENTRY + 4 + 8 + 10;
    let now = Instant::now();
    let old = |logins: &LoginStore| {
        assert!(keep(logins, ANN, b"old", OWNER));
        logins.take_not_stored();
    };
    let is_gone = |logins: &LoginStore| {
        assert!(logins.stored("c", 0, 2).is_some());
        logins.enter(EVE, 0, OWNER, true);
        assert_eq!((logins.of(EVE, 0, OWNER), logins.stored("c", 0, 2)), (None, None));
    };
    // Refused: sessions use up the share of its address.
    let logins = kept_of(10, 80 * one);
    let names: Vec<_> = (1000..1010).map(|n| n.to_string()).collect();
    assert!(names.iter().all(|name| keep(&logins, of(name), &[0; 10], owner_of(None, "10.0.0.1"))));
    old(&logins);
    logins.store_of_login(gave(EVE, b"eve", 1), 0, now);
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 1, ..NotStored::default() });
    is_gone(&logins);
    // Others come from its address before it is in. Its loss is counted once, and charged to
    // nobody.
    let logins = LoginStore::new((10, 80 * one), 50, None);
    old(&logins);
    logins.store_of_login(gave(EVE, b"eve", 1), 0, now);
    let others: Vec<_> = (1000..1040).map(|n| n.to_string()).collect();
    for name in &others {
        logins.store_of_login(gave(of(name), &[0; 10], 1), 0, now);
    }
    let unkept = logins.take_not_stored();
    assert!(unkept.of_coming > 0 && unkept.count() == unkept.of_coming, "{unkept:?}");
    assert_eq!(count(&logins), 42);
    is_gone(&logins);
    others.iter().for_each(|name| logins.refused(of(name), 0));
    assert_eq!((bytes(&logins), count(&logins)), (0, 0));
}

/// Records of logins without room are numbers: they take little memory whatever the client
/// identifiers, and are charged to nobody.
#[test]
fn logins_without_room_take_little_of_it() {
    let (logins, now) = (LoginStore::new((100, 100_000), 100_000, None), Instant::now());
    logins.store_of_login(gave(EVE, b"eve", 1), 0, now);
    let name = "n".repeat(10_000);
    let charged = bytes(&logins);
    for n in 0..20_000_u32 {
        let (client_id, host) =
            (format!("{name}{}", n / 10_000), format!("10.1.{}.{}", (n >> 8) & 255, n & 255));
        logins.none_coming(
            Connection { client_id: &client_id, host: &host, port: (n % 10_000) as u16 },
            0,
            now,
        );
    }
    assert!(count(&logins) <= 5000, "{}", count(&logins));
    assert_eq!((bytes(&logins), logins.take_not_stored().count()), (charged, 0));
    logins.enter(EVE, 0, OWNER, false);
    assert!(logins.of(EVE, 0, OWNER).is_some(), "they take nobody's place");
    logins.clear(0);
    logins.expire(now + coming::ON_THE_WAY_MAX);
    assert_eq!((count(&logins), bytes(&logins)), (0, 0));
}

/// Logins without room are recorded one by one up to a limit. Above it, every client from their
/// address without login data may be one of them: its session has no data then. Clients from
/// elsewhere are not affected, nor later ones.
#[test]
fn who_may_be_one_without_room_has_nothing_of_the_login_before() {
    for (count, is_told_apart) in [(lost::SHARE_MAX, true), (lost::SHARE_MAX + 1, false)] {
        let (logins, now) = (kept(), Instant::now());
        assert!(["c", "d", "e"].into_iter().all(|name| keep(&logins, of(name), b"old", OWNER)));
        for port in 0..count {
            logins.none_coming(Connection { port: port as u16, ..of("other") }, 0, now);
        }
        logins.enter(EVE, 0, OWNER, true);
        assert_eq!(logins.stored("c", 0, 2).is_some(), is_told_apart, "{count}");
        assert_eq!(
            logins.take_not_stored(),
            NotStored { untold: u64::from(!is_told_apart), ..NotStored::default() }
        );
        logins.enter(Connection { host: "10.0.0.2", ..of("d") }, 0, OWNER, true);
        assert!(logins.stored("d", 0, 2).is_some(), "another address");
        logins.expire(now + coming::ON_THE_WAY_MAX);
        logins.enter(Connection { port: 9, ..of("e") }, 0, OWNER, true);
        assert!(logins.stored("e", 0, 2).is_some(), "{count}");
        logins.clear(0);
        assert_eq!(count_of_lost(&logins), 0);
    }
}

/// Number of records of logins without room.
fn count_of_lost(logins: &LoginStore) -> usize {
    logins.lock().lost.len()
}

/// If there are too many addresses too, every client may be one.
#[test]
fn too_many_addresses_without_room_are_anybody() {
    let (logins, now) = (kept(), Instant::now());
    assert!(keep(&logins, ANN, b"old", OWNER) && keep(&logins, of("d"), b"old", OWNER));
    let host = |n: usize| format!("10.{}.{}.2", n / 200, n % 200);
    let lose = |n: usize, port: u16| {
        let host = host(n);
        logins.none_coming(Connection { client_id: "other", host: &host, port }, 0, now);
    };
    // As many as are recorded one by one, and one more for each of as many addresses as are
    // recorded.
    (0..8).for_each(|n| (0..lost::SHARE_MAX).for_each(|port| lose(n, port as u16)));
    (0..lost::SHARE_MAX).for_each(|n| lose(n, 1000));
    logins.enter(EVE, 0, OWNER, true);
    assert!(logins.stored("c", 0, 2).is_some(), "it comes from elsewhere");
    lose(lost::SHARE_MAX, 1000);
    logins.enter(Connection { port: 9, ..of("d") }, 0, OWNER, true);
    assert_eq!(logins.stored("d", 0, 2), None);
    assert_eq!(count_of_lost(&logins), lost::LOST_MAX + lost::SHARE_MAX + 1);
    assert_eq!(logins.take_not_stored().untold, lost::SHARE_MAX as u64 + 1);
}

/// A client that is in after a gap stores data from then on, even if none was stored before.
#[test]
fn who_is_in_after_a_gap_keeps_what_it_gives() {
    let logins = kept();
    logins.enter(ANN, 0, OWNER, false);
    logins.doubt(0);
    logins.expire(Instant::now());
    logins.store(gave(ANN, b"ann", 1), 0);
    assert!(logins.shows_nothing(), "nobody has seen it since");
    logins.confirm_once(ANN, 0, true, || OWNER);
    logins.store(gave(ANN, b"ann", 1), 0);
    assert_eq!(logins.of(ANN, 0, OWNER).as_deref(), Some(&b"ann"[..]));
    // The same if an earlier connection's data is stored.
    logins.doubt(0);
    logins.confirm(EVE, 0, || OWNER);
    logins.store(gave(EVE, b"eve", 1), 0);
    assert_eq!((logins.of(EVE, 0, OWNER), logins.stored("c", 0, 2)), (None, None), "it may have been over");
    logins.confirm_once(EVE, 0, true, || OWNER);
    assert_eq!(logins.stored("c", 0, 2), None);
    logins.store(gave(EVE, b"eve", 1), 0);
    assert_eq!(logins.of(EVE, 0, OWNER).as_deref(), Some(&b"eve"[..]));
}

/// If too many logins are pending, a session does not keep the data of the earlier login.
#[test]
fn where_too_many_are_on_their_way_a_session_keeps_nothing() {
    let now = Instant::now();
    for is_known in [false, true] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"old", OWNER));
        if is_known {
            logins.store_of_login(gave(EVE, b"eve", 1), 0, now);
        } else {
            logins.none_coming(EVE, 0, now);
        }
        for port in 100..104 {
            let host = format!("10.0.1.{port}");
            logins.store_of_login(gave(Connection { port, host: &host, ..ANN }, b"x", 1), 0, now);
        }
        logins.enter(EVE, 0, OWNER, true);
        assert_eq!((logins.of(EVE, 0, OWNER), logins.stored("c", 0, 2)), (None, None), "{is_known}");
    }
}

/// A refused login leaves no data, even if its data could not be stored.
#[test]
fn who_was_refused_leaves_nothing() {
    let logins = kept();
    logins.none_coming(EVE, 0, Instant::now());
    logins.refused(EVE, 0);
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.enter(EVE, 0, OWNER, true);
    assert_eq!(logins.stored("c", 0, 2).as_deref(), Some(&b"ann"[..]));
    // A new session has no data of an earlier login, even if the end of the old session was not
    // reported.
    logins.enter(EVE, 0, OWNER, false);
    assert!(logins.shows_nothing());
}

/// While session ends are not reported, stored data may belong to another session: only an event of
/// its own connection makes it valid.
#[test]
fn what_may_be_another_sessions_is_shown_to_nobody() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER) && keep(&logins, of("d"), b"bob", OWNER));
    logins.store_of_login(gave(EVE, b"eve", 1), 0, Instant::now());
    logins.is_away();
    assert_eq!((logins.of(ANN, 0, OWNER), logins.stored("c", 0, 2)), (None, None));
    logins.is_back();
    assert_eq!((logins.of(ANN, 0, OWNER), logins.stored("c", 0, 2), count(&logins)), (None, None, 3));
    logins.refused(EVE, 0);
    logins.store(gave(ANN, b"late", 1), 0);
    logins.confirm(EVE, 0, || OWNER);
    logins.confirm(ANN, 0, || OWNER + 1);
    assert_eq!(logins.of(ANN, 0, OWNER), None, "another connection, or another user");
    logins.confirm(ANN, 0, || OWNER);
    assert_eq!(logins.of(ANN, 0, OWNER).as_deref(), Some(&b"ann"[..]));
    assert!(logins.store(gave(ANN, b"more", 1), 0).is_none() && logins.stored("c", 0, 2).is_some());
    // A client connects under the identifier; it is unknown whether it has the old session.
    logins.enter(Connection { port: 9, ..of("d") }, 0, OWNER, false);
    logins.confirm(of("d"), 0, || OWNER);
    assert_eq!((logins.of(of("d"), 0, OWNER), logins.stored("d", 0, 2)), (None, None));
    logins.over("c", 0);
    assert_eq!((bytes(&logins), doubted(&logins)), (0, 0));
}

/// Doubted entries are charged to nobody and are evicted when room is needed, the owner's own
/// first.
#[test]
fn what_is_doubted_makes_room() {
    let one = ENTRY + 4 + 8 + 10;
    let logins = kept_of(10, 80 * one);
    let names: Vec<_> = (1000..1200).map(|n| n.to_string()).collect();
    assert!(names[..10].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(names[10..70].iter().zip(2..).all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    logins.doubt(0);
    logins.expire(Instant::now());
    assert_eq!(doubted(&logins), 70);
    // An eighth of all the room that is not charged to a confirmed owner.
    assert!(names[100..110].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(!keep(&logins, of("1110"), &[0; 10], 1));
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 1, ..NotStored::default() });
    assert_eq!(doubted(&logins), 70, "there was room for these");
    assert!(names[111..119].iter().all(|name| keep(&logins, of(name), &[0; 10], 62)), "an eighth of 70");
    assert_eq!(doubted(&logins), 62);
    assert_eq!(logins.take_not_stored(), NotStored { of_doubted: 8, ..NotStored::default() });
    // Room that was granted stays granted, besides later entries.
    logins.confirm(of("1069"), 0, || 61);
    assert!(logins.of(of("1069"), 0, 61).is_some());
    let others = names[120..181].iter().zip(100..);
    assert!(others.into_iter().all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    assert_eq!(doubted(&logins), 0);
    assert_eq!(logins.take_not_stored(), NotStored { of_doubted: 61, ..NotStored::default() });
    assert!(!keep(&logins, of("1199"), &[0; 10], 9999));
    assert!(logins.of(of("1069"), 0, 61).is_some() && logins.of(of("1100"), 0, 1).is_some());
    names.iter().for_each(|name| logins.over(name, 0));
    assert_eq!((bytes(&logins), count(&logins)), (0, 0));
}

/// A gap doubts all entries of its shard at once, without visiting them; they are listed in
/// batches.
#[test]
fn a_gap_doubts_all_of_its_shard_at_once() {
    let logins = LoginStore::new((100, 100 << 20), 4, None);
    let names: Vec<_> = (0..3 * state::SLICE).map(|n| format!("{n:05}")).collect();
    assert!(names.iter().all(|name| keep(&logins, of(name), b"x", OWNER)));
    logins.enter(of("elsewhere"), 1, OWNER, false);
    logins.store(gave(of("elsewhere"), b"x", 1), 1);
    logins.doubt(0);
    assert!(names.iter().all(|name| logins.stored(name, 0, 2).is_none()));
    assert!(logins.stored("elsewhere", 1, 2).is_some());
    logins.confirm(of("00007"), 0, || OWNER);
    for listed in [1, 2, 3, 3] {
        logins.expire(Instant::now());
        assert_eq!(doubted(&logins), listed * state::SLICE - 1);
    }
    // Listed ones too; a second gap doubts them again.
    logins.confirm(of("00008"), 0, || OWNER);
    let shown = || ["00007", "00008"].map(|name| logins.stored(name, 0, 2).is_some());
    assert_eq!(shown(), [true; 2]);
    logins.doubt(0);
    assert_eq!(shown(), [false; 2]);
    for _ in 0..4 {
        logins.expire(Instant::now());
    }
    assert_eq!(doubted(&logins), 3 * state::SLICE);
    names.iter().for_each(|name| logins.over(name, 0));
    logins.over("elsewhere", 1);
    assert_eq!((bytes(&logins), count(&logins), doubted(&logins)), (0, 0, 0));
}

/// A new session has no data of an earlier login, even if the end of the old session was not
/// reported.
#[test]
fn a_session_that_begins_has_nothing_of_the_one_before() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.store_of_login(gave(EVE, b"eve", 1), 0, Instant::now());
    logins.enter(EVE, 0, OWNER, false);
    assert!(logins.of(EVE, 0, OWNER).is_some());
}

/// A login that requests to resume a session has different data if a new one begins: data that
/// another user's plugins stored in the old session is not used.
#[test]
fn who_begins_anew_has_nothing_of_the_session_before() {
    let logins = kept();
    let both = |whose| Gave {
        whose,
        bytes: b"of the session, and her own",
        anew: Some(b"her own"),
        epoch: 1,
        number: 0,
    };
    for (port, goes_on) in [(1, true), (2, false)] {
        let whose = Connection { port, ..ANN };
        logins.store_of_login(both(whose), 0, Instant::now());
        logins.enter(whose, 0, OWNER, goes_on);
        let expected = if goes_on { &b"of the session, and her own"[..] } else { b"her own" };
        assert_eq!(logins.of(whose, 0, OWNER).as_deref(), Some(expected));
        // The report of the version before comes only now.
        let late = Connection { port: port + 10, ..ANN };
        logins.enter(late, 0, OWNER, goes_on);
        logins.store_of_login(both(late), 0, Instant::now());
        logins.enter_again(late, 0);
        assert_eq!(logins.of(late, 0, OWNER).as_deref(), Some(expected));
    }
    // Both are charged, and neither may exceed the limit for one login.
    let long = |bytes, anew| Gave { whose: EVE, bytes, anew: Some(anew), epoch: 1, number: 0 };
    for (bytes, anew) in [(&[0; 101][..], &b""[..]), (b"", &[0; 101])] {
        logins.store_of_login(long(bytes, anew), 0, Instant::now());
        logins.enter(EVE, 0, OWNER, true);
        assert_eq!(logins.of(EVE, 0, OWNER), None);
    }
    assert_eq!(logins.take_not_stored(), NotStored { too_long: 2, ..NotStored::default() });
    assert_eq!(bytes(&logins), 0);
}

//! Logins whose data found no room.

use super::*;

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
        assert!(logins.stored("c", 0, S, 2).is_some());
        logins.enter(EVE, 0, (S, OWNER), true);
        assert_eq!((logins.of(EVE, 0, (S, OWNER)), logins.stored("c", 0, S, 2)), (None, None));
    };
    // Refused: sessions use up the share of its address.
    let logins = kept_of(10, 80 * one);
    let names: Vec<_> = (1000..1010).map(|n| n.to_string()).collect();
    assert!(names.iter().all(|name| keep(&logins, of(name), &[0; 10], owner_of(None, "10.0.0.1"))));
    old(&logins);
    logins.store_of_login(data(EVE, b"eve", 1), 0, now);
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 1, ..NotStored::default() });
    is_gone(&logins);
    // Others come from its address before it is in. Its loss is counted once, and charged to
    // nobody.
    let logins = LoginStore::new((10, 80 * one), 50, None);
    old(&logins);
    logins.store_of_login(data(EVE, b"eve", 1), 0, now);
    let others: Vec<_> = (1000..1040).map(|n| n.to_string()).collect();
    for name in &others {
        logins.store_of_login(data(of(name), &[0; 10], 1), 0, now);
    }
    let unkept = logins.take_not_stored();
    assert!(unkept.of_pending > 0 && unkept.count() == unkept.of_pending, "{unkept:?}");
    assert_eq!(count(&logins), 42);
    is_gone(&logins);
    others.iter().for_each(|name| logins.refused(of(name), 0));
    assert_eq!((bytes(&logins), count(&logins)), (0, 0));
}

/// Records of logins without room are numbers: they take little memory whatever the client
/// identifiers, and are charged to nobody.
#[test]
fn records_of_logins_without_room_are_small() {
    let (logins, now) = (LoginStore::new((100, 100_000), 100_000, None), Instant::now());
    logins.store_of_login(data(EVE, b"eve", 1), 0, now);
    let name = "n".repeat(10_000);
    let charged = bytes(&logins);
    for n in 0..20_000_u32 {
        let (client_id, host) =
            (format!("{name}{}", n / 10_000), format!("10.1.{}.{}", (n >> 8) & 255, n & 255));
        logins.pending_without_data(
            Connection { client_id: &client_id, host: &host, port: (n % 10_000) as u16 },
            0,
            now,
        );
    }
    assert!(count(&logins) <= 5000, "{}", count(&logins));
    assert_eq!((bytes(&logins), logins.take_not_stored().count()), (charged, 0));
    logins.enter(EVE, 0, (S, OWNER), false);
    assert!(logins.of(EVE, 0, (S, OWNER)).is_some(), "they take nobody's place");
    logins.clear(0);
    logins.expire(now + pending::PENDING_TIME_MAX);
    assert_eq!((count(&logins), bytes(&logins)), (0, 0));
}

/// Logins without room are recorded one by one up to a limit. Above it, every client from their
/// address without login data may be one of them: its session has no data then. Clients from
/// elsewhere are not affected, nor later ones.
#[test]
fn a_login_that_may_have_lost_its_data_gets_no_earlier_data() {
    for (count, is_told_apart) in [(lost::SHARE_MAX, true), (lost::SHARE_MAX + 1, false)] {
        let (logins, now) = (kept(), Instant::now());
        assert!(["c", "d", "e"].into_iter().all(|name| keep(&logins, of(name), b"old", OWNER)));
        for port in 0..count {
            logins.pending_without_data(Connection { port: port as u16, ..of("other") }, 0, now);
        }
        logins.enter(EVE, 0, (S, OWNER), true);
        assert_eq!(logins.stored("c", 0, S, 2).is_some(), is_told_apart, "{count}");
        assert_eq!(
            logins.take_not_stored(),
            NotStored { indistinguishable: u64::from(!is_told_apart), ..NotStored::default() }
        );
        logins.enter(Connection { host: "10.0.0.2", ..of("d") }, 0, (S, OWNER), true);
        assert!(logins.stored("d", 0, S, 2).is_some(), "another address");
        logins.expire(now + pending::PENDING_TIME_MAX);
        logins.enter(Connection { port: 9, ..of("e") }, 0, (S, OWNER), true);
        assert!(logins.stored("e", 0, S, 2).is_some(), "{count}");
        logins.clear(0);
        assert_eq!(count_of_lost(&logins), 0);
    }
}

/// If there are too many addresses too, every client may be one.
#[test]
fn too_many_addresses_without_room_are_anybody() {
    let (logins, now) = (kept(), Instant::now());
    assert!(keep(&logins, ANN, b"old", OWNER) && keep(&logins, of("d"), b"old", OWNER));
    let host = |n: usize| format!("10.{}.{}.2", n / 200, n % 200);
    let lose = |n: usize, port: u16| {
        let host = host(n);
        logins.pending_without_data(Connection { client_id: "other", host: &host, port }, 0, now);
    };
    // As many as are recorded one by one, and one more for each of as many addresses as are
    // recorded.
    (0..8).for_each(|n| (0..lost::SHARE_MAX).for_each(|port| lose(n, port as u16)));
    (0..lost::SHARE_MAX).for_each(|n| lose(n, 1000));
    logins.enter(EVE, 0, (S, OWNER), true);
    assert!(logins.stored("c", 0, S, 2).is_some(), "it comes from elsewhere");
    lose(lost::SHARE_MAX, 1000);
    logins.enter(Connection { port: 9, ..of("d") }, 0, (S, OWNER), true);
    assert_eq!(logins.stored("d", 0, S, 2), None);
    assert_eq!(count_of_lost(&logins), lost::LOST_MAX + lost::SHARE_MAX + 1);
    assert_eq!(logins.take_not_stored().indistinguishable, lost::SHARE_MAX as u64 + 1);
}

/// If too many logins are pending, a session does not keep the data of the earlier login.
#[test]
fn with_too_many_pending_logins_no_earlier_data_is_kept() {
    let now = Instant::now();
    for is_known in [false, true] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"old", OWNER));
        if is_known {
            logins.store_of_login(data(EVE, b"eve", 1), 0, now);
        } else {
            logins.pending_without_data(EVE, 0, now);
        }
        for port in 100..104 {
            let host = format!("10.0.1.{port}");
            logins.store_of_login(data(Connection { port, host: &host, ..ANN }, b"x", 1), 0, now);
        }
        logins.enter(EVE, 0, (S, OWNER), true);
        assert_eq!((logins.of(EVE, 0, (S, OWNER)), logins.stored("c", 0, S, 2)), (None, None), "{is_known}");
    }
}

/// Number of records of logins without room.
fn count_of_lost(logins: &LoginStore) -> usize {
    logins.lock().lost.len()
}

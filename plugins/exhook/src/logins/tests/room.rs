//! How much is stored, and for whom.

use super::*;

#[test]
fn stored_login_data_is_limited() {
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
    names.iter().chain(&more).for_each(|name| logins.over(name, 0, S));
    assert_eq!(logins.lock().bytes(), 0);
    assert_eq!(fits(1, &names), 10, "what they gave back is there again");
}

/// Room that a user was granted stays granted when other users come, through a reload and when an
/// entry of the same size replaces the first.
#[test]
fn granted_room_stays_granted() {
    let one = ENTRY + 4 + 8 + 10;
    let (logins, next) = (kept_of(10, 80 * one), kept_of(10, 80 * one));
    let names: Vec<_> = (1000..1080).map(|n| n.to_string()).collect();
    assert!(names[..10].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(names[10..].iter().zip(2..).all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    // By now the first user has more than an eighth of what is left.
    for name in &names[..10] {
        logins.store(data(of(name), &[1; 10], 1), 0);
        assert_eq!(logins.of(of(name), 0, (S, 1)).as_deref(), Some(&[1; 10][..]));
    }
    let mut after = None;
    while let Some(client_id) = logins.next(0, after.as_deref()) {
        logins.each_of(0, &client_id, |over| next.take_over(0, over, Instant::now()));
        after = Some(client_id);
    }
    assert!(names[..10].iter().all(|name| next.of(of(name), 0, (S, 1)).is_some()));
    assert!(names[10..].iter().zip(2..).all(|(name, owner)| next.of(of(name), 0, (S, owner)).is_some()));
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

/// A client that connects and closes repeatedly uses no share of others at its address: its pending
/// logins are evicted by later ones there, and expire.
#[test]
fn pending_logins_do_not_use_the_share_of_others() {
    let (logins, now) = (LoginStore::new((100, 100_000), 10_000, None), Instant::now());
    let from = |port| Connection { port, ..ANN };
    for port in 0..1000 {
        logins.store_of_login(data(from(port), &[0; 100], 1), 0, now);
    }
    assert!(logins.lock().bytes() <= 100_000 / 8);
    let dropped = logins.take_not_stored();
    assert!(dropped.of_pending > 900 && dropped.count() == dropped.of_pending, "{dropped:?}");
    logins.enter(from(999), 0, (S, OWNER), false);
    assert!(logins.of(from(999), 0, (S, OWNER)).is_some(), "the last one is there");
    let other = Connection { client_id: "d", host: "10.0.0.2", port: 1 };
    logins.store_of_login(data(other, b"x", 1), 0, now + Duration::from_secs(1));
    // Expired in batches.
    (0..2).for_each(|_| logins.expire(now + pending::PENDING_TIME_MAX));
    assert_eq!(logins.lock().count, 2);
    logins.expire(now + pending::PENDING_TIME_MAX + Duration::from_secs(1));
    assert_eq!(logins.lock().count, 1);
    logins.over("c", 0, S);
    assert_eq!(logins.lock().bytes(), 0);
}

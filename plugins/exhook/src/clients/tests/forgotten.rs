//! Who is forgotten, and whom of that a process is told.

use super::*;

/// The place that one had before it went is not the one it has now.
#[test]
fn who_has_come_back_is_not_the_one_described_first() {
    let line = line();
    let mut clients = Clients::new(0, places(2, 2), none());
    let named = |name| Who { client_id: name, ..who(1) };
    let mut tell = |name| number(&line, &mut clients, &named(name), None).number;
    tell("a");
    let b = tell("b");
    leave(&line, &mut clients, &named("a"), 7);
    number(&line, &mut clients, &named("a"), None);
    sent(&line, &none());
    number(&line, &mut clients, &named("c"), None);
    let calls = waiting(&line);
    assert!(calls.contains(&(FORGOTTEN, b)), "the oldest goes: {calls:?}");
    assert!(clients.known.get("a").is_some() && clients.known.get("c").is_some());
}

/// A process that was told of a client because of a call that waited for one before it forgets that client, too: when another takes
/// its place, and when its last call finds no room.
#[test]
fn who_was_told_with_a_call_that_went_over_is_forgotten() {
    for is_last in [false, true] {
        let line = line_of(64 << 10);
        let mut clients = Clients::new(0, places(1, 1), none());
        let client = number(&line, &mut clients, &who(1), None);
        sent(&line, &none());
        call(&line, &who(1), client.clone(), 5);
        next_process(&line);
        let mut frame = Frame::new(line.epoch());
        let fill = |frame: &mut Frame| {
            let (count, bytes) = frame.fill(&line, &none(), &mut AllAsked::new());
            let mut rest = bytes;
            let calls: Vec<_> =
                (0..count).map(|_| part(&rmpv::decode::read_value(&mut rest).unwrap(), 1)).collect();
            line.release(&mut frame.calls);
            calls
        };
        assert_eq!(fill(&mut frame), [DESCRIBED, 5]);
        if is_last {
            let place = clients.place(&who(1), Moment::IsIn);
            clients.last_call(&mut write(&line, &who(1)), &who(1), (place, POINT), |line, client| {
                line.call(0, 7, client, |data| {
                    data.bytes(&vec![0; 100_000]);
                });
            });
            assert_eq!(fill(&mut frame), [FORGOTTEN]);
        } else {
            number(&line, &mut clients, &Who { client_id: "d", ..who(1) }, None);
            assert_eq!(fill(&mut frame), [FORGOTTEN, DESCRIBED]);
        }
        // A process that has heard nothing of it hears nothing of its end.
        next_process(&line);
        assert_eq!(fill(&mut Frame::new(line.epoch())), Vec::<i64>::new());
    }
}

/// Who was not let in is forgotten, and nobody else who wants to be that client, or is.
#[test]
fn who_was_refused_is_forgotten() {
    let (line, kept) = (line(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&kept));
    let refused = |clients: &mut Clients, who: &Who<'_>| {
        let place = clients.place(who, Moment::IsRefused);
        let mut writing = line.write_forgotten(owner(who, place)).unwrap();
        clients.is_gone(Some((&mut writing, place)), who);
        writing.done();
    };
    let in_already = number(&line, &mut clients, &who(1), None).number;
    let first = number(&line, &mut clients, &who(2), Some(&Entering::default())).number;
    let second = number(&line, &mut clients, &who(3), Some(&Entering::default())).number;
    sent(&line, &kept);
    refused(&mut clients, &who(2));
    assert_eq!(waiting(&line), [(FORGOTTEN, first)]);
    refused(&mut clients, &who(3));
    assert_eq!(waiting(&line), [(FORGOTTEN, second)]);
    refused(&mut clients, &who(4));
    assert_eq!(waiting(&line), []);
    assert_eq!(number(&line, &mut clients, &who(1), None).number, in_already);
    // Nobody takes calls: there is nobody to tell.
    number(&line, &mut clients, &who(2), Some(&Entering::default()));
    line.cut(Vec::new());
    assert!(line.write_forgotten(Owner::Address("127.0.0.1")).is_none());
    clients.is_gone(None, &who(2));
    assert_eq!((clients.visitors.len(), clients.known.len()), (0, 1));
}

/// What a login gave and the version before has said late is told with the next call.
#[test]
fn a_login_that_comes_late_is_told() {
    let (line, kept) = (line(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&kept));
    let tell = |clients: &mut Clients, who: &Who<'_>| {
        number(&line, clients, who, None);
        sent(&line, &kept).iter().map(|call| has(call, "login")).collect::<Vec<_>>()
    };
    assert!(!clients.login_came(who(1).connection()), "nobody knows it");
    assert_eq!(tell(&mut clients, &who(1)), [false]);
    keeps(&kept, &clients, &who(1), b"login", 0);
    assert!(!clients.login_came(who(2).connection()), "another connection's");
    assert_eq!(tell(&mut clients, &who(1)), [false; 0]);
    assert!(clients.login_came(who(1).connection()));
    assert_eq!(tell(&mut clients, &who(1)), [true]);
    assert_eq!(tell(&mut clients, &who(1)), [false; 0], "once");
}

/// Who was known before a gap and is heard of after it has kept what it gives. Who was not may have gone with its session: of that
/// nothing is noted, which nobody would take out again.
#[test]
fn who_was_known_before_a_gap_is_in_after_it() {
    let (line, kept) = (line(), none());
    let mut clients = Clients::new(3, PLACES, Arc::clone(&kept));
    let give = |who: &Who<'_>| {
        kept.keep(Gave { whose: who.connection(), bytes: b"x", anew: None, epoch: 1, number: 0 }, 3);
        kept.of(who.connection(), 3, who.owner()).is_some()
    };
    let other = Who { client_id: "d", ..who(2) };
    clients.enter(&who(1), false);
    number(&line, &mut clients, &who(1), None);
    kept.doubt(3);
    assert!(!give(&who(1)), "nobody has heard of it since");
    for _ in 0..2 {
        number(&line, &mut clients, &who(1), None);
        number(&line, &mut clients, &other, None);
        assert!(give(&who(1)) && !give(&other));
        kept.expire(Instant::now());
    }
}

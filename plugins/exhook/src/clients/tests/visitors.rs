//! Connections that want to come in.

use super::*;

/// Somebody who calls itself by a client's identifier has a number of its own, also in the worker: nothing of what is said of the one is
/// taken for the other's. When it has come in, its number is the client's, and the one before is not named again.
#[test]
fn who_wants_to_come_in_is_not_the_client_that_it_names() {
    let line = line();
    let mut clients = Clients::new(0, MAX, none());
    let (ann, eve) = (who(1), who(2));
    let entering = Entering { password: Some(b"x"), ..Entering::default() };
    let first = number(&line, &mut clients, &ann, None);
    assert_eq!(waiting(&line), [(DESCRIBED, first.number)]);
    let second = number(&line, &mut clients, &eve, Some(&entering));
    assert_ne!(second.number, first.number);
    // What the two say goes on side by side, each in its own order.
    call(&line, &ann, first.clone(), 5);
    assert!(!clients.is_in(&eve, Moment::Unsaid) && clients.is_in(&ann, Moment::Unsaid));
    assert_eq!(number(&line, &mut clients, &ann, None).number, first.number);
    assert_eq!(waiting(&line), [(DESCRIBED, second.number), (5, first.number)], "nothing is described anew");
    // Refused, which is the last of it; the client stays.
    let owner = owner(&eve, false);
    let refused = |clients: &mut Clients, who: &Who<'_>| {
        clients.last_call(&mut write_for(&line, owner), who, POINT, |line, client| {
            line.call(0, 6, client, |data| {
                data.nil();
            });
        });
        waiting(&line)
    };
    let n = second.number;
    assert_eq!(refused(&mut clients, &eve), [(DESCRIBED, n), (6, n), (FORGOTTEN, n)]);
    assert_eq!((clients.visitors.len(), clients.known.len()), (0, 1));
    assert_eq!(number(&line, &mut clients, &ann, None).number, first.number);
    // One of which nothing was heard before.
    let stranger = refused(&mut clients, &who(9));
    assert_eq!(stranger.iter().map(|call| call.0).collect::<Vec<_>>(), [DESCRIBED, 6, FORGOTTEN]);
    // It comes again, and in: behind what waits of it at its address.
    let third = number(&line, &mut clients, &eve, Some(&entering)).number;
    assert_eq!(number(&line, &mut clients, &eve, None).number, third);
    assert_eq!(waiting(&line), [(DESCRIBED, third), (FORGOTTEN, first.number), (DESCRIBED, third)]);
    assert!(clients.is_in(&eve, Moment::Unsaid) && !clients.is_in(&ann, Moment::Unsaid));
    assert_eq!((clients.visitors.len(), clients.known.len()), (0, 1));
}

/// Who never comes in takes no client's place in the table.
#[test]
fn visitors_have_an_eighth_of_the_table() {
    let line = line();
    let mut clients = Clients::new(0, MAX, none());
    number(&line, &mut clients, &who(1), None);
    let mut numbers = Vec::new();
    for port in 2..2 + MAX as u16 {
        numbers.push(number(&line, &mut clients, &who(port), Some(&Entering::default())).number);
    }
    assert_eq!((clients.visitors.len(), clients.known.len()), (MAX / 8, 1));
    let mut forgotten = Vec::new();
    loop {
        let calls = waiting(&line);
        if calls.is_empty() {
            break;
        }
        forgotten.extend(calls.iter().filter(|call| call.0 == FORGOTTEN).map(|call| call.1));
    }
    assert_eq!(forgotten, numbers[..MAX - MAX / 8], "those that came first");
}

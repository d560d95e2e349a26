//! The amount of work under one lock.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

const MANY: u64 = 100_000;
/// The number of calls in a frame.
const AT_ONCE: u64 = 512;

fn line() -> CallQueue {
    let (calls, bytes) = (2 * MANY, 1 << 30);
    let limits = Limits {
        calls_max: calls,
        bytes_max: bytes,
        client_calls_max: calls,
        client_bytes_max: bytes,
        address_calls_max: calls,
        address_bytes_max: bytes,
    };
    CallQueue::new(limits, WorkerStats::none()).unwrap()
}

fn notify(queue: &CallQueue, who: &str) {
    let (who, point) = (Owner::Client(who), HookPoint::MessageDelivered);
    let mut writing = queue.write((who, who), Kind::Notification, point).unwrap();
    writing.call(0, point as i64, NamedClient::default(), |data| {
        data.nil();
    });
    assert!(writing.is_taken(point));
    writing.done();
}

/// Work on calls while the lock is held.
fn work(queue: &CallQueue) -> u64 {
    queue.lock().queue.work()
}

/// When a worker ends, shards do not wait until all its queued calls have been freed.
#[test]
fn the_lock_is_released_between_slices() {
    let queue = line();
    for n in 0..MANY {
        notify(&queue, &format!("c{}", n % 10_000));
    }
    let mut here = Vec::new();
    queue.take(AT_ONCE as usize, usize::MAX, &mut here, &mut PendingCalls::new());
    let before = work(&queue);
    let (_, lost) = queue.cut(here);
    assert_eq!(lost as u64, MANY);
    assert!(work(&queue) - before <= AT_ONCE, "{}", work(&queue) - before);
    assert!(
        queue
            .write((Owner::Client("c"), Owner::Client("c")), Kind::Question, HookPoint::ClientConnect)
            .is_none()
    );
    assert_eq!(queue.usage(), Default::default());
    let said = queue.take_lost().to_string();
    assert_eq!(said, "", "nobody has found no room");
    queue.open();
    notify(&queue, "c");
}

/// Overdue calls are taken out in slices, and no other calls are visited.
#[test]
fn the_overdue_leave_in_slices() {
    let now = Instant::now();
    let at = |n: u64| now + Duration::from_millis(n);
    let mut pending = PendingCalls::new();
    for n in 0..MANY {
        pending.insert(n, PendingCall { ticket: (), since: at(n), client: n % 100 });
    }
    let (mut count, mut slices) = (0, 0);
    loop {
        let overdue = take_overdue(&mut pending, at(50_000));
        assert!(overdue.len() <= OVERDUE_MAX && overdue.iter().all(|each| each.since <= at(50_000)));
        (count, slices) = (count + overdue.len(), slices + 1);
        if overdue.is_empty() {
            break;
        }
    }
    assert_eq!(
        (count, pending.len() as u64, slices),
        (50_001, MANY - 50_001, 50_001_usize.div_ceil(OVERDUE_MAX) + 1)
    );
}

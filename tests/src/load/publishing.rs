//! The publishers of the load: one message after the other at the planned rate, each publisher in
//! turn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Shared, message};
use crate::Packet;
use crate::line::{Line, ready};

/// Publishes of one client that may wait for their PUBACK; well below every broker's Receive
/// Maximum.
const WINDOW: u64 = 30;

struct Publisher {
    line: Line,
    sent: u64,
    acknowledged: u64,
}

pub(super) fn run(shared: &Shared, lines: Vec<Line>) {
    let mut publishers: Vec<Publisher> =
        lines.into_iter().map(|line| Publisher { line, sent: 0, acknowledged: 0 }).collect();
    let interval = Duration::from_secs(1) / shared.plan.per_second;
    let mut due = shared.start.elapsed();
    let mut turn = 0;
    let mut stopping = false;
    loop {
        stopping |= shared.stop.load(Ordering::SeqCst);
        while !stopping && due <= shared.start.elapsed() {
            due += interval;
            publish(shared, &mut publishers[turn], turn);
            turn = (turn + 1) % shared.plan.pairs;
        }
        let left = due.saturating_sub(shared.start.elapsed()).as_micros() as u64;
        if let Err(error) = serve(shared, &mut publishers, if stopping { 1000 } else { left }) {
            shared.wrong(format!("publisher {error}"));
            return;
        }
        if stopping && publishers.iter().all(|publisher| publisher.sent == publisher.acknowledged) {
            break;
        }
    }
    shared.published_all.store(true, Ordering::SeqCst);
    for publisher in &mut publishers {
        publisher.line.queue(&[0xE0, 0]);
        // An error here changes no result.
        drop(publisher.line.flush());
    }
}

fn publish(shared: &Shared, publisher: &mut Publisher, pair: usize) {
    if publisher.sent - publisher.acknowledged >= WINDOW {
        return;
    }
    let id = (publisher.sent % 60_000) as u16 + 1;
    publisher.line.queue(&message(shared, pair, publisher.sent, id));
    publisher.sent += 1;
    shared.published.fetch_add(1, Ordering::SeqCst);
    if let Err(error) = publisher.line.flush() {
        shared.wrong(format!("publisher {pair} {error}"));
    }
}

fn serve(shared: &Shared, publishers: &mut [Publisher], microseconds: u64) -> Result<(), String> {
    let places = ready(publishers.iter().map(|publisher| &publisher.line), microseconds);
    for place in places {
        let publisher = &mut publishers[place];
        let mut wrong = None;
        let (first, acknowledged) = (publisher.acknowledged, &mut publisher.acknowledged);
        publisher.line.read(|packet| match packet {
            // PUBACKs come in the order of the publishes, [MQTT-4.6.0-2].
            Packet::Puback(ack) if ack.code < 0x80 && u64::from(ack.id) == *acknowledged % 60_000 + 1 => {
                *acknowledged += 1
            }
            other => wrong = Some(format!("{place}: {other:?} instead of PUBACK")),
        })?;
        shared.acknowledged.fetch_add(publisher.acknowledged - first, Ordering::SeqCst);
        publisher.line.flush()?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
    }
    Ok(())
}

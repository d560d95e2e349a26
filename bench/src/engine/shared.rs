//! State that the clients of a run share: counts, the record of messages, and the time. Clients
//! write it for every message; `load` and `scenario` read it between two turns of the engine.
//! Nothing here waits or uses a socket.

use super::counts::Counts;
use super::ledger::Ledger;
use super::schedule::Schedule;
use crate::header;
use crate::plan::Setup;
use crate::sequence::Tracker;

/// State that the clients of a run share; the engine sets the time before it calls them.
#[derive(Debug)]
pub struct Shared<'s> {
    /// The settings of the run.
    pub setup: &'s Setup,
    /// The counters.
    pub counts: Counts,
    /// The record of messages.
    pub record: MessageRecord,
    /// The schedule of an open loop, once it has begun.
    pub schedule: Option<Schedule>,
    /// Messages still to send until the limit, over all publishers that have not failed; none
    /// without a limit.
    pub remaining: Option<u64>,
    /// Bytes to send of the client that is being called.
    pub out: Vec<u8>,
    /// Nanoseconds since the start.
    pub now_ns: u64,
    /// Wall time of the start, nanoseconds since 1970.
    pub wall_at_zero_ns: u64,
}

/// The record of messages.
#[derive(Debug)]
pub enum MessageRecord {
    /// Publishers and receivers are in this process: every message is tracked.
    Ledger(Ledger),
    /// They are not: only the headers of messages give data.
    Headers {
        /// Sequence numbers that receivers saw.
        trackers: Vec<Tracker>,
        /// The tracker of each subscriber.
        tracker_of: Vec<usize>,
        /// Stored gaps of each tracker per publisher.
        gaps_max: usize,
        /// Whether a message without a header is an error.
        expected: bool,
    },
}

impl MessageRecord {
    /// Whether every message is tracked.
    #[inline]
    pub fn is_ledger(&self) -> bool {
        matches!(self, Self::Ledger(_))
    }

    /// How many messages a publisher may send now.
    #[inline]
    pub fn available(&self, publisher: usize) -> u64 {
        if let Self::Ledger(ledger) = self { ledger.available(publisher) } else { u64::MAX }
    }
}

impl Shared<'_> {
    /// Records a publisher's next message. Returns its number, topic and due time.
    #[inline]
    pub(super) fn enter(&mut self, publisher: usize) -> (u64, usize, u64) {
        let MessageRecord::Ledger(ledger) = &mut self.record else { return (0, 0, self.now_ns) };
        let entry = ledger.send(publisher);
        let due_ns = match &self.schedule {
            Some(schedule) => schedule.due_of(publisher, entry.sequence),
            None => self.now_ns,
        };
        (entry.sequence, entry.topic, due_ns)
    }

    /// Counts a message that a subscriber, or a client without a subscription, received.
    #[inline]
    pub(super) fn received(&mut self, subscriber: Option<usize>, payload: &[u8]) {
        let stamp = header::read(payload);
        let counts = &mut self.counts;
        let now_ns = self.wall_at_zero_ns + self.now_ns;
        match &mut self.record {
            MessageRecord::Ledger(ledger) => {
                let sent = stamp.and_then(|stamp| Some((stamp.sequence?, stamp.due_ns?)));
                let known = sent.and_then(|((publisher, sequence), due_ns)| {
                    Some((subscriber?, publisher.client_of(self.setup.messages.run)?, sequence, due_ns))
                });
                let Some((subscriber, publisher, sequence, due_ns)) = known else {
                    ledger.stray += 1;
                    return;
                };
                if ledger.receive(subscriber, publisher, sequence) {
                    counts.received_bytes += payload.len() as u64;
                    counts.latency.record(now_ns.saturating_sub(due_ns));
                }
            }
            MessageRecord::Headers { trackers, tracker_of, gaps_max, expected } => {
                counts.received += 1;
                counts.received_bytes += payload.len() as u64;
                counts.receiving.touch(self.now_ns);
                let Some(stamp) = stamp else {
                    if *expected {
                        counts.error("message without a payload header");
                    }
                    return;
                };
                if let Some(due_ns) = stamp.due_ns {
                    counts.from_the_future += u64::from(due_ns > now_ns);
                    counts.latency.record(now_ns.saturating_sub(due_ns));
                }
                if let (Some((publisher, sequence)), Some(subscriber)) = (stamp.sequence, subscriber) {
                    trackers[tracker_of[subscriber]].see(publisher, sequence, *gaps_max);
                }
            }
        }
    }

    /// Counts a QoS 2 message that arrived again before its PUBREL.
    pub(super) fn received_again(&mut self) {
        self.counts.redelivered += 1;
        if self.record.is_ledger() {
            self.counts.error("QoS 2 message once more before its PUBREL");
        }
    }
}

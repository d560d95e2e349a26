//! Tracks the messages of a run: which are under way, who must still receive them, which were lost
//! or duplicated, and so how many each publisher may send. Called for every message sent and
//! received; it handles neither packets nor time.

use crate::plan::{NOT_RECEIVED, Shape, SubscriberShape};
use crate::sequence::{Seen, Stream, Tally};
use std::collections::VecDeque;

/// Gaps that one receiver stores per publisher.
const GAPS_MAX: usize = 4096;

/// All publishers and subscribers of a run.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    listeners: Vec<Listener>,
    /// Number of deliveries that the sent messages must cause.
    pub expected: u64,
    /// Number of deliveries, each counted once.
    pub delivered: u64,
    /// Messages that no publisher sent, or not to that subscriber.
    pub stray: u64,
    /// Publishers that got credit since the last call of `take_freed`.
    freed: Vec<usize>,
}

/// One publisher.
#[derive(Debug)]
struct Account {
    sent: u64,
    turn: usize,
    receivers: Vec<u32>,
    credit: Option<Credit>,
    /// The publisher is in `freed`.
    is_freed: bool,
}

/// One subscriber.
#[derive(Debug)]
struct Listener {
    first_publisher: usize,
    received_by: Vec<ExpectedMessages>,
}

/// The messages of one publisher that one subscriber must receive, and has received.
#[derive(Debug)]
struct ExpectedMessages {
    ranks: Vec<u32>,
    /// Number of topics of a round that the subscriber receives.
    matched: u64,
    stream: Stream,
}

/// A message just recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number among its publisher's messages, from 1.
    pub sequence: u64,
    /// Index of its topic.
    pub topic: usize,
}

impl Ledger {
    /// No messages yet. `window` is the credit of each publisher, `None` in an open loop.
    pub fn new(shape: &Shape, window: Option<u32>) -> Self {
        let account = |receivers: &Vec<u32>| Account {
            sent: 0,
            turn: 0,
            receivers: receivers.clone(),
            credit: window.map(Credit::new),
            is_freed: false,
        };
        let expected_messages = |ranks: &Vec<u32>| ExpectedMessages {
            ranks: ranks.clone(),
            matched: ranks.iter().filter(|rank| **rank != NOT_RECEIVED).count() as u64,
            stream: Stream::from_the_start(),
        };
        let listener = |subscriber: &SubscriberShape| Listener {
            first_publisher: subscriber.first_publisher,
            received_by: subscriber.received.iter().map(expected_messages).collect(),
        };
        Self {
            accounts: shape.publishers.iter().map(|publisher| account(&publisher.receivers)).collect(),
            listeners: shape.subscribers.iter().map(listener).collect(),
            expected: 0,
            delivered: 0,
            stray: 0,
            freed: Vec::new(),
        }
    }

    /// How many messages this publisher may send now.
    pub fn available(&self, publisher: usize) -> u64 {
        self.accounts[publisher].credit.as_ref().map_or(u64::MAX, Credit::available)
    }

    /// Records a publisher's next message.
    #[inline]
    pub fn send(&mut self, publisher: usize) -> Entry {
        let account = &mut self.accounts[publisher];
        let topic = account.turn;
        account.turn = if topic + 1 == account.receivers.len() { 0 } else { topic + 1 };
        account.sent += 1;
        let receivers = account.receivers[topic];
        if let Some(credit) = &mut account.credit {
            credit.sent(receivers);
        }
        self.expected += u64::from(receivers);
        Entry { sequence: account.sent, topic }
    }

    /// Records that a subscriber received a message; true if it is the first time.
    #[inline]
    pub fn receive(&mut self, listener: usize, publisher: u32, sequence: u64) -> bool {
        let listener = &mut self.listeners[listener];
        let publisher = publisher as usize;
        let expected_messages =
            publisher.checked_sub(listener.first_publisher).and_then(|at| listener.received_by.get_mut(at));
        let (Some(expected_messages), Some(account)) = (expected_messages, self.accounts.get_mut(publisher))
        else {
            self.stray += 1;
            return false;
        };
        let ordinal = expected_messages.ordinal(sequence).filter(|_| (1..=account.sent).contains(&sequence));
        let Some(ordinal) = ordinal else {
            self.stray += 1;
            return false;
        };
        let mut freed = false;
        match expected_messages.stream.see(ordinal, GAPS_MAX) {
            Seen::Next => {}
            Seen::Ahead(missing) => {
                // Messages of one publisher keep their order [MQTT-4.6.0-6]: a skipped message is
                // unlikely to arrive, and must not block the window forever. If it arrives later,
                // it counts, but gives no credit twice.
                for skipped in expected_messages.skipped(sequence, missing) {
                    freed |= account.arrived(skipped);
                }
            }
            Seen::Late => {
                self.delivered += 1;
                return true;
            }
            Seen::Again => return false,
        }
        self.delivered += 1;
        freed |= account.arrived(sequence);
        if freed && !account.is_freed {
            account.is_freed = true;
            self.freed.push(publisher);
        }
        true
    }

    /// Moves the publishers with new credit since the last call into `into`, each once.
    pub fn take_freed(&mut self, into: &mut Vec<usize>) {
        for publisher in &self.freed {
            self.accounts[*publisher].is_freed = false;
        }
        into.append(&mut self.freed);
    }

    /// Deliveries that are still expected, or lost.
    pub fn outstanding(&self) -> u64 {
        self.expected - self.delivered
    }

    /// Calls `each` with the publisher and the number of every expected delivery after the last one
    /// made, if publishers have had `due` messages to send until now, sent or not. Linear in the
    /// number of expected deliveries and of topics.
    pub fn awaited(&self, due: impl Fn(usize) -> u64, mut each: impl FnMut(usize, u64)) {
        for listener in &self.listeners {
            for (publisher, expected_messages) in (listener.first_publisher..).zip(&listener.received_by) {
                let newest_first = (1..=due(publisher)).rev();
                for sequence in newest_first.take_while(|sequence| expected_messages.awaits(*sequence)) {
                    if expected_messages.ordinal(sequence).is_some() {
                        each(publisher, sequence);
                    }
                }
            }
        }
    }

    /// Errors so far at all subscribers. Its `lost` does not include messages after the last
    /// received one.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for expected_messages in self.listeners.iter().flat_map(|listener| &listener.received_by) {
            sum.add(expected_messages.stream.tally());
        }
        sum
    }
}

impl Account {
    #[inline]
    fn arrived(&mut self, sequence: u64) -> bool {
        self.credit.as_mut().is_some_and(|credit| credit.arrived(sequence))
    }
}

impl ExpectedMessages {
    /// The number of a message among those of its publisher for this subscriber, from 1.
    #[inline]
    fn ordinal(&self, sequence: u64) -> Option<u64> {
        if self.ranks.is_empty() {
            return Some(sequence);
        }
        let topics = self.ranks.len() as u64;
        let (round, turn) = (sequence.checked_sub(1)? / topics, (sequence - 1) % topics);
        let rank = *self.ranks.get(usize::try_from(turn).ok()?)?;
        (rank != NOT_RECEIVED).then(|| round * self.matched + u64::from(rank) + 1)
    }

    /// Whether a message is after the last one received. A message for another subscriber has any
    /// number.
    fn awaits(&self, sequence: u64) -> bool {
        let hears_any = self.ranks.is_empty() || self.matched > 0;
        hears_any && self.ordinal(sequence).is_none_or(|ordinal| ordinal >= self.stream.awaited())
    }

    /// The `missing` messages before `sequence` that are for this subscriber.
    fn skipped(&self, sequence: u64, missing: u64) -> impl Iterator<Item = u64> + '_ {
        let before = (1..sequence).rev().filter(|before| self.ordinal(*before).is_some());
        before.take(usize::try_from(missing).unwrap_or(usize::MAX))
    }
}

/// The credit of one publisher: the number of missing deliveries of each message from the oldest one
/// that some subscriber has not received.
#[derive(Debug)]
struct Credit {
    window: u64,
    /// The number of that oldest message.
    first: u64,
    awaited: VecDeque<u32>,
}

impl Credit {
    fn new(window: u32) -> Self {
        let awaited = VecDeque::with_capacity(window as usize);
        Self { window: u64::from(window), first: 1, awaited }
    }

    fn available(&self) -> u64 {
        self.window - self.awaited.len() as u64
    }

    #[inline]
    fn sent(&mut self, receivers: u32) {
        self.awaited.push_back(receivers);
        self.finish();
    }

    /// Records one more delivery of a message; true if that gives credit.
    #[inline]
    fn arrived(&mut self, sequence: u64) -> bool {
        let at = sequence.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(missing) = at.and_then(|at| self.awaited.get_mut(at)) else {
            // A message that is new to a subscriber was not yet received by all.
            debug_assert!(false, "message {sequence} is not under way");
            return false;
        };
        *missing = missing.saturating_sub(1);
        self.finish()
    }

    /// Whether the oldest messages have been received by all.
    #[inline]
    fn finish(&mut self) -> bool {
        let first = self.first;
        while self.awaited.front() == Some(&0) {
            self.awaited.pop_front();
            self.first += 1;
        }
        self.first > first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Kind, Scenario, shape_of};

    fn ledger(kind: Kind, window: u32) -> Ledger {
        let mut scenario = Scenario::new(kind);
        scenario.publishers = scenario.publishers.min(3);
        scenario.subscribers = scenario.subscribers.min(3);
        Ledger::new(&shape_of(&scenario, 1), Some(window))
    }

    fn freed(ledger: &mut Ledger) -> Vec<usize> {
        let mut freed = Vec::new();
        ledger.take_freed(&mut freed);
        freed
    }

    #[test]
    fn credit_is_used_up_and_comes_back_in_order() {
        let mut ledger = ledger(Kind::OneToOne, 3);
        let sequences: Vec<_> = (0..3).map(|_| ledger.send(0).sequence).collect();
        assert_eq!((sequences, ledger.available(0)), (vec![1, 2, 3], 0));
        assert!(ledger.receive(0, 0, 1));
        assert_eq!((ledger.available(0), freed(&mut ledger), freed(&mut ledger)), (1, vec![0], vec![]));
        assert!(ledger.receive(0, 0, 2) && ledger.receive(0, 0, 3));
        assert_eq!((ledger.available(0), ledger.outstanding()), (3, 0));
        assert_eq!(freed(&mut ledger), [0], "once, although two messages freed it");
    }

    #[test]
    fn a_message_is_received_when_its_last_subscriber_has_it() {
        let mut ledger = ledger(Kind::FanOut, 2);
        ledger.send(0);
        ledger.send(0);
        for subscriber in 0..2 {
            assert!(ledger.receive(subscriber, 0, 1) && ledger.receive(subscriber, 0, 2));
        }
        assert_eq!((ledger.available(0), freed(&mut ledger)), (0, vec![]), "one subscriber has nothing yet");
        ledger.receive(2, 0, 1);
        assert_eq!((ledger.available(0), ledger.outstanding()), (1, 1));
    }

    #[test]
    fn a_message_that_comes_twice_gives_credit_once() {
        let mut ledger = ledger(Kind::OneToOne, 2);
        ledger.send(0);
        ledger.send(0);
        assert!(ledger.receive(0, 0, 1));
        assert!(!ledger.receive(0, 0, 1));
        assert_eq!((ledger.available(0), ledger.delivered, ledger.tally().duplicated), (1, 1, 1));
    }

    #[test]
    fn skipped_messages_count_as_lost_and_free_the_window() {
        let mut ledger = ledger(Kind::OneToOne, 4);
        for _ in 0..4 {
            ledger.send(0);
        }
        assert!(ledger.receive(0, 0, 3));
        assert_eq!((ledger.available(0), ledger.tally().lost, ledger.outstanding()), (3, 2, 3));
        assert_eq!(freed(&mut ledger), [0]);
        assert!(ledger.receive(0, 0, 2), "late, but there");
        assert_eq!((ledger.available(0), ledger.tally().lost, ledger.tally().out_of_order), (3, 1, 1));
    }

    #[test]
    fn awaited_messages_are_expected_messages_not_yet_received() {
        let mut scenario = Scenario::new(Kind::FanIn);
        (scenario.publishers, scenario.subscribers) = (2, 2);
        let mut ledger = Ledger::new(&shape_of(&scenario, 1), None);
        let awaited = |ledger: &Ledger, due: [u64; 2]| {
            let mut all = Vec::new();
            ledger.awaited(|publisher| due[publisher], |publisher, sequence| all.push((publisher, sequence)));
            all
        };
        assert_eq!(awaited(&ledger, [0, 0]), []);
        for publisher in [0, 0, 1] {
            ledger.send(publisher);
        }
        assert!(ledger.receive(0, 0, 1) && ledger.receive(0, 1, 1) && ledger.receive(1, 0, 2));
        // The third message of the first publisher was due, and is not sent yet; its first was
        // skipped on the way to the second subscriber, so it counts as lost.
        assert_eq!(awaited(&ledger, [3, 1]), [(0, 3), (0, 2), (0, 3), (1, 1)]);

        let mut scenario = Scenario::new(Kind::Wildcards);
        (scenario.filters, scenario.publishers, scenario.subscribers) = (40, 2, 10);
        let mut ledger = Ledger::new(&shape_of(&scenario, 1), None);
        for _ in 0..3 {
            ledger.send(0);
        }
        assert_eq!(
            awaited(&ledger, [3, 0]).len() as u64,
            ledger.expected,
            "only by those who hear the topic"
        );
    }

    #[test]
    fn messages_nobody_sent_are_stray() {
        let mut ledger = ledger(Kind::Pairs, 4);
        ledger.send(1);
        assert!(!ledger.receive(0, 1, 1), "of another pair");
        assert!(!ledger.receive(1, 1, 2), "not sent yet");
        assert!(!ledger.receive(1, 1, 0) && !ledger.receive(1, 77, 1));
        assert_eq!((ledger.stray, ledger.delivered), (4, 0));
    }

    #[test]
    fn a_subscriber_of_some_topics_expects_those_alone() {
        let mut scenario = Scenario::new(Kind::Wildcards);
        (scenario.filters, scenario.publishers, scenario.subscribers) = (40, 2, 10);
        let shape = shape_of(&scenario, 1);
        let mut ledger = Ledger::new(&shape, Some(1));
        let rounds = shape.publishers[0].topics.len() * 2 + 3;
        for _ in 0..rounds {
            let entry = ledger.send(0);
            for (number, subscriber) in shape.subscribers.iter().enumerate() {
                if subscriber.received[0][entry.topic] != NOT_RECEIVED {
                    assert!(ledger.receive(number, 0, entry.sequence));
                }
            }
            assert_eq!((ledger.available(0), ledger.outstanding()), (1, 0), "after {entry:?}");
        }
        assert_eq!((ledger.stray, ledger.tally()), (0, Tally::default()));
        assert!(ledger.delivered > rounds as u64);
    }

    #[test]
    fn without_a_window_nothing_holds_a_publisher_back() {
        let mut scenario = Scenario::new(Kind::Paced);
        scenario.publishers = 1;
        let mut ledger = Ledger::new(&shape_of(&scenario, 1), None);
        for _ in 0..10_000 {
            ledger.send(0);
        }
        assert_eq!((ledger.available(0), ledger.outstanding()), (u64::MAX, 10_000));
    }
}

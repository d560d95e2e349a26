//! The wills that must be published, those that must not, and those that are uncertain. The engine
//! counts the published ones, and clients that have subscribed to them receive them.

use std::collections::BTreeMap;

use crate::checker::{Checker, Rule};

/// What must happen to a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Must,
    /// The client has requested it with a reason code of DISCONNECT.
    MustByReason,
    MustNot,
    /// The client has discarded it with a DISCONNECT that waited.
    MustNotWaiting,
    /// The same, with a session expiry that CONNECT had requested and not received.
    MustNotExpiry,
    Either,
}

/// A will whose connection has ended and whose delay has not.
struct Waiting {
    number: u32,
    client: usize,
    due_ms: u64,
    /// The end itself may still wait in the engine.
    unsure: bool,
}

#[derive(Default)]
pub struct Wills {
    decided: BTreeMap<u32, Due>,
    waiting: Vec<Waiting>,
}

/// Maximum delay of a timer: its wheel turns once a second.
const SLACK_MS: u64 = 2500;

impl Wills {
    pub fn decide(&mut self, number: u32, due: Due) {
        self.decided.insert(number, due);
    }

    /// The connection has ended without a DISCONNECT that discards the will, and its session
    /// continues.
    pub fn wait(&mut self, number: u32, client: usize, due_ms: u64, unsure: bool) {
        self.waiting.push(Waiting { number, client, due_ms, unsure });
    }

    /// The client has connected again at some time from `since_ms` on: to its session, to a new
    /// one, or to an uncertain one.
    pub fn client_is_back(&mut self, client: usize, resumed: Option<bool>, (since_ms, now_ms): (u64, u64)) {
        let (back, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.client == client);
        self.waiting = waiting;
        for will in back {
            let due = match resumed {
                Some(false) => Due::Must,
                Some(true) if will.unsure => Due::Either,
                Some(true) if now_ms + SLACK_MS < will.due_ms => Due::MustNot,
                Some(true) if since_ms > will.due_ms + SLACK_MS => Due::Must,
                Some(true) | None => Due::Either,
            };
            self.decided.insert(will.number, due);
        }
    }

    /// The operator has ended the session, or only the connection.
    pub fn discarded(&mut self, client: usize, discard: bool) {
        if discard {
            self.client_is_back(client, Some(false), (0, 0));
        }
    }

    /// Every delay is over.
    pub fn all_due(&mut self) {
        for will in std::mem::take(&mut self.waiting) {
            self.decided.insert(will.number, Due::Must);
        }
    }

    /// A client has received a will.
    pub fn received(&mut self, checker: &mut Checker, number: u32) {
        checker.check(self.decided.get(&number) != Some(&Due::MustNot), Rule::WillUnwanted, || {
            format!("will {number} came")
        });
    }

    /// Compares with the count of the engine.
    pub fn compare(&self, checker: &mut Checker, counted: u64) {
        let of = |due: Due| self.decided.values().filter(|d| **d == due).count() as u64;
        let (must, either) = (of(Due::Must), of(Due::Either));
        let by_reason = of(Due::MustByReason);
        let (waiting, expiry) = (of(Due::MustNotWaiting), of(Due::MustNotExpiry));
        let listed = || {
            let list: Vec<_> = self.decided.iter().collect();
            format!("{counted} wills were published of {list:?}")
        };
        checker.check(counted >= must, Rule::WillMissing, listed);
        checker.check(counted >= must + by_reason || counted < must, Rule::WillReason, listed);
        let most = must + by_reason + either;
        checker.check(counted <= most + waiting + expiry, Rule::WillUnwanted, listed);
        if counted <= most + waiting + expiry {
            checker.check(counted <= most + expiry || waiting == 0, Rule::WillWaiting, listed);
            checker.check(counted <= most + waiting || expiry == 0, Rule::WillExpiry, listed);
            checker.check(
                counted <= most,
                if waiting > 0 { Rule::WillWaiting } else { Rule::WillExpiry },
                listed,
            );
        }
    }
}

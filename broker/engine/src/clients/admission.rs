//! The stored state of a CONNECT that is not decided yet, and of a re-authentication.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;

use crate::hook::HookPoint;
use crate::hook::suspended::Suspended;
use crate::hook::verdict::ClientVerdict;
use crate::id::SessionKey;
use crate::packet::{OwnedConnect, QoS};
use crate::session::{Identity, Will};

/// The step of a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// At client.connect.
    Connect,
    /// At client.authenticate.
    Authenticate,
    /// The broker waits for the next AUTH of the client.
    Client,
    /// At client.authorize, for the will.
    Will,
    /// At client.authorize, for the contents of a session of another principal.
    Inherit,
}

impl Step {
    /// The hook point of the step; for `Client` the one after the client's answer.
    pub(crate) const fn point(self) -> HookPoint {
        match self {
            Step::Connect => HookPoint::ClientConnect,
            Step::Authenticate | Step::Client => HookPoint::ClientAuthenticate,
            Step::Will | Step::Inherit => HookPoint::ClientAuthorize,
        }
    }
}

/// A CONNECT that is not decided yet.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The CONNECT packet; set when it first has to wait.
    pub(crate) packet: Option<Rc<OwnedConnect>>,
    /// The client, as client.connect left it.
    pub(crate) identity: Rc<Identity>,
    /// Whether the broker chose the client id.
    pub(crate) assigned: bool,
    pub(crate) step: Step,
    /// Progress in the chain of its step, with the verdict so far.
    pub(crate) suspended: Suspended<ClientVerdict>,
    /// Data of the client's last AUTH.
    pub(crate) data: Option<Bytes>,
    /// Data for CONNACK.
    pub(crate) final_auth_data: Option<Bytes>,
    pub(crate) will: Option<Box<Will>>,
    /// The session of another principal that it is to take over.
    pub(crate) inheritance: Option<Box<Inheritance>>,
    /// Whether it is in the queue for the next turn.
    pub(crate) queued: bool,
}

/// A re-authentication.
#[derive(Debug)]
pub(crate) enum Renewal {
    /// The broker waits for the next AUTH of the client.
    Client,
    /// A link of client.authenticate has deferred.
    Suspended {
        /// Data of the client's last AUTH.
        data: Bytes,
        /// Progress in the chain.
        suspended: Box<Suspended<ClientVerdict>>,
    },
}

impl Admission {
    /// Starts another step, which no link has seen.
    pub(crate) fn go_to(&mut self, step: Step) {
        self.step = step;
        self.suspended.next_event(step.point());
    }

    /// The ticket for which it waits.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.suspended.ticket()
    }
}

/// A session that is to be taken over by another principal.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) session: SessionKey,
    /// Epoch of the session, to detect that it has changed.
    pub(crate) epoch: u32,
    /// Version of the rules under which it is authorized.
    pub(crate) rules: u64,
    /// Items that are still to be authorized; the last is next.
    pub(crate) open: Vec<Item>,
    pub(crate) filters: HashMap<Box<str>, bool, ahash::RandomState>,
    pub(crate) topics: HashMap<Box<str>, bool, ahash::RandomState>,
    pub(crate) rounds: u32,
}

/// An item to be authorized for the new principal of a session.
#[derive(Debug)]
pub(crate) enum Item {
    /// A subscription, by its full filter.
    Filter(Box<str>, QoS),
    /// Messages of a topic that are queued or in flight.
    Topic(Box<str>, QoS, bool),
}

impl Renewal {
    /// The ticket for which it waits.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        match self {
            Renewal::Client => None,
            Renewal::Suspended { suspended, .. } => suspended.ticket(),
        }
    }

    /// Bytes that it is charged for.
    pub(crate) fn bytes(&self) -> usize {
        let data = match self {
            Renewal::Client => 0,
            Renewal::Suspended { data, suspended } => {
                data.len() + suspended.accumulator.bytes() + suspended.before_bytes()
            }
        };
        size_of::<Renewal>() + data
    }
}

impl Admission {
    /// Bytes that it is charged for.
    pub(crate) fn bytes(&self) -> usize {
        let data = [&self.data, &self.final_auth_data].into_iter().flatten().map(Bytes::len);
        let will = self.will.as_ref().map_or(0, |will| will.bytes());
        let inheritance = self.inheritance.as_ref().map_or(0, |inheritance| inheritance.bytes());
        size_of::<Admission>()
            + self.packet.as_ref().map_or(0, |packet| size_of::<OwnedConnect>() + packet.bytes())
            + self.suspended.accumulator.bytes()
            + self.suspended.before_bytes()
            + data.sum::<usize>()
            + will
            + inheritance
    }
}

impl Inheritance {
    /// Bytes that it is charged for; no more than the session itself is charged for.
    pub(crate) fn bytes(&self) -> usize {
        let open: usize = self.open.iter().map(|item| size_of::<Item>() + item.text().len()).sum();
        let decided = self.filters.keys().chain(self.topics.keys());
        open + decided.map(|text| size_of::<(Box<str>, bool)>() + text.len()).sum::<usize>()
    }
}

impl Item {
    /// Its filter or topic.
    fn text(&self) -> &str {
        match self {
            Item::Filter(text, _) | Item::Topic(text, ..) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inheritance_is_charged_for_every_text() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut inheritance = Inheritance {
            session: SessionKey { index: 1, generation: 1 },
            epoch: 1,
            rules: 1,
            open: Vec::new(),
            filters: HashMap::with_hasher(hasher.clone()),
            topics: HashMap::with_hasher(hasher),
            rounds: 0,
        };
        let text = |length: usize| -> Box<str> { "x".repeat(length).into() };
        inheritance.open.push(Item::Filter(text(1_000), QoS::AtMostOnce));
        inheritance.open.push(Item::Topic(text(2_000), QoS::AtMostOnce, false));
        inheritance.filters.insert(text(4_000), true);
        inheritance.topics.insert(text(8_000), false);
        let places = 2 * size_of::<Item>() + 2 * size_of::<(Box<str>, bool)>();
        assert_eq!(inheritance.bytes(), 15_000 + places);
    }
}

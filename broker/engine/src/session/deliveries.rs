//! Deliveries of a session that client.authorize decides one by one: verdicts that are remembered, and what waits for one.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use crate::held::Held;
use crate::hook::suspended::AuthorizationRequest;
use crate::session::delivery::Delivery;
use crate::session::identity::Identity;

/// Deliveries of a session that are authorized one by one.
#[derive(Debug)]
pub struct Deliveries {
    /// The client as it was when the verdicts were given: they are not another's, nor those of its next
    /// connection.
    pub(crate) client: Rc<Identity>,
    /// What was said for a topic, and under which rules.
    pub(crate) said: HashMap<Box<str>, (bool, u64), ahash::RandomState>,
    /// Bytes of those topics.
    pub(crate) said_bytes: usize,
    /// The request that waits for a plugin, with the delivery it is about.
    pub(crate) asked: Option<(AuthorizationRequest, Delivery)>,
    /// What comes behind it, or waits for room in the window, in order.
    pub(crate) behind: VecDeque<Delivery>,
    /// Bytes of `asked` and `behind`.
    pub(crate) bytes: usize,
    /// Whether the session stands in the row of those whose first delivery is to be authorized.
    pub(crate) in_row: bool,
}

impl Deliveries {
    pub(crate) fn new(client: Rc<Identity>, hasher: ahash::RandomState) -> Deliveries {
        let said = HashMap::with_hasher(hasher);
        Deliveries {
            client,
            said,
            said_bytes: 0,
            asked: None,
            behind: VecDeque::new(),
            bytes: 0,
            in_row: false,
        }
    }

    /// Forgets what was said about another client, or about an earlier connection of this one.
    pub(crate) fn belong_to(&mut self, client: &Rc<Identity>) {
        if !Rc::ptr_eq(&self.client, client) {
            self.client = Rc::clone(client);
            self.said.clear();
            self.said_bytes = 0;
        }
    }

    /// The ticket that one of them waits for.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.asked.as_ref()?.0.ticket()
    }

    /// All messages that wait.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Held> {
        let asked = self.asked.as_ref().map(|(_, delivery)| delivery);
        asked.into_iter().chain(&self.behind).map(|delivery| &delivery.message)
    }

    /// Bytes that they are charged for, with the verdicts that are remembered.
    pub(crate) fn charge(&self) -> usize {
        let said = self.said.len() * size_of::<(Box<str>, (bool, u64))>() + self.said_bytes;
        self.bytes + said + self.behind.len() * size_of::<Delivery>()
    }

    /// How many deliveries wait.
    pub fn len(&self) -> usize {
        usize::from(self.asked.is_some()) + self.behind.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push_back(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.bytes();
        self.behind.push_back(delivery);
    }

    /// The first delivery, unless the one before it waits for a plugin.
    pub(crate) fn pop_front(&mut self) -> Option<Delivery> {
        if self.asked.is_some() {
            return None;
        }
        let delivery = self.behind.pop_front()?;
        self.bytes -= delivery.message.bytes();
        if self.behind.is_empty() {
            self.behind = VecDeque::new();
        }
        Some(delivery)
    }
}

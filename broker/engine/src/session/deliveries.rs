//! Deliveries of a session that client.authorize decides one by one: cached verdicts, and the
//! deliveries that wait for one.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use crate::hook::suspended::AuthorizationRequest;
use crate::session::delivery::Delivery;
use crate::session::identity::Identity;
use crate::shared_message::SharedMessage;

/// Deliveries of a session that are authorized one by one.
#[derive(Debug)]
pub struct Deliveries {
    /// The client for which the verdicts were given. They do not apply to another client or another
    /// connection.
    pub(crate) client: Rc<Identity>,
    /// The verdict for each topic, with the version of the rules under which it was given.
    pub(crate) verdicts: HashMap<Box<str>, (bool, u64), ahash::RandomState>,
    /// Bytes of these topics.
    pub(crate) verdicts_bytes: usize,
    /// The request that waits for a plugin, and its delivery.
    pub(crate) pending: Option<(AuthorizationRequest, Delivery)>,
    /// Deliveries behind `pending`, or without room in the window, in order.
    pub(crate) waiting: VecDeque<Delivery>,
    /// Bytes of `pending` and `waiting`.
    pub(crate) bytes: usize,
    /// Whether the session is in the queue of those whose first delivery is to be authorized.
    pub(crate) is_queued: bool,
}

impl Deliveries {
    pub(crate) fn new(client: Rc<Identity>, hasher: ahash::RandomState) -> Deliveries {
        let verdicts = HashMap::with_hasher(hasher);
        Deliveries {
            client,
            verdicts,
            verdicts_bytes: 0,
            pending: None,
            waiting: VecDeque::new(),
            bytes: 0,
            is_queued: false,
        }
    }

    /// Drops the verdicts of another client, or of an earlier connection of this one.
    pub(crate) fn belong_to(&mut self, client: &Rc<Identity>) {
        if !Rc::ptr_eq(&self.client, client) {
            self.client = Rc::clone(client);
            self.verdicts.clear();
            self.verdicts_bytes = 0;
        }
    }

    /// The ticket for which the pending delivery waits.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.pending.as_ref()?.0.ticket()
    }

    /// All messages that wait.
    pub(crate) fn shared_messages(&self) -> impl Iterator<Item = &SharedMessage> {
        let asked = self.pending.as_ref().map(|(_, delivery)| delivery);
        asked.into_iter().chain(&self.waiting).map(|delivery| &delivery.message)
    }

    /// Bytes that the deliveries and the cached verdicts are charged for.
    pub(crate) fn charge(&self) -> usize {
        let verdicts = self.verdicts.len() * size_of::<(Box<str>, (bool, u64))>() + self.verdicts_bytes;
        self.bytes + verdicts + self.waiting.len() * size_of::<Delivery>()
    }

    /// Number of deliveries that wait.
    pub fn len(&self) -> usize {
        usize::from(self.pending.is_some()) + self.waiting.len()
    }

    /// Whether no delivery waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the deliveries that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push_back(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.bytes();
        self.waiting.push_back(delivery);
    }

    /// Takes the first waiting delivery; `None` while `pending` is set.
    pub(crate) fn pop_front(&mut self) -> Option<Delivery> {
        if self.pending.is_some() {
            return None;
        }
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.bytes();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(delivery)
    }
}

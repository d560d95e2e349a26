//! Sets of subscriptions of one filter or one group: small ones inline, large ones with an index.
//! Called by `filters` and `group`; independent of filters.

use ahash::RandomState;
use std::collections::HashMap;

use super::SubOptions;
use crate::id::SessionKey;

/// From this size on, a set has an index of its sessions.
const INDEX_FROM: usize = if cfg!(test) { 4 } else { 24 };
/// Below this size the index is dropped. It is lower than `INDEX_FROM`, so that a single change
/// does not rebuild the index each time.
const INDEX_UNTIL: usize = if cfg!(test) { 3 } else { 12 };

/// One session's subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    pub(super) session: SessionKey,
    pub(super) options: SubOptions,
}

/// An unordered list of subscriptions, each session at most once. Only [`SubscriberSet::swap`] and
/// removal change an index.
#[derive(Default)]
pub(super) struct SubscriberSet {
    list: Vec<Subscriber>,
    index: Option<HashMap<SessionKey, u32, RandomState>>,
}

impl SubscriberSet {
    pub(super) fn list(&self) -> &[Subscriber] {
        &self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn position(&self, session: SessionKey) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&session).map(|at| *at as usize),
            None => self.list.iter().position(|one| one.session == session),
        }
    }

    pub(super) fn set_options(&mut self, at: usize, options: SubOptions) {
        self.list[at].options = options;
    }

    /// Adds a session that is not in the list; returns its index, the last one.
    pub(super) fn push(&mut self, one: Subscriber) -> usize {
        let at = self.list.len();
        self.list.push(one);
        match &mut self.index {
            Some(index) => {
                index.insert(one.session, at as u32);
            }
            None if self.list.len() >= INDEX_FROM => {
                // The broker chooses session keys, so clients cannot cause collisions, and fixed
                // seeds are safe.
                let mut index = HashMap::with_capacity_and_hasher(
                    self.list.len() * 2,
                    RandomState::with_seeds(0x5EED, 0xC0DE, 0xF00D, 0xCAFE),
                );
                index.extend(self.list.iter().enumerate().map(|(at, one)| (one.session, at as u32)));
                self.index = Some(index);
            }
            None => {}
        }
        at
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.list.swap(a, b);
        if let Some(index) = &mut self.index {
            index.insert(self.list[a].session, a as u32);
            index.insert(self.list[b].session, b as u32);
        }
    }

    /// Removes the last one.
    pub(super) fn pop(&mut self) -> Option<Subscriber> {
        let gone = self.list.pop()?;
        if self.list.len() < INDEX_UNTIL {
            self.index = None;
        }
        if let Some(index) = &mut self.index {
            index.remove(&gone.session);
        }
        // Frees memory after a large set has become small.
        if self.list.capacity() > 64 && self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
            if let Some(index) = &mut self.index {
                index.shrink_to(self.list.len() * 2);
            }
        }
        Some(gone)
    }

    pub(super) fn swap_remove(&mut self, at: usize) -> Option<Subscriber> {
        self.swap(at, self.list.len().checked_sub(1)?);
        self.pop()
    }
}

/// The plain subscriptions of one filter on this shard. Most filters have one, so the type has only
/// 16 bytes.
#[derive(Default)]
pub(super) enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<SubscriberSet>),
}

impl Subscribers {
    pub(super) fn as_slice(&self) -> &[Subscriber] {
        match self {
            Subscribers::None => &[],
            Subscribers::One(one) => std::slice::from_ref(one),
            Subscribers::Many(set) => set.list(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Subscribers::None)
    }

    /// Whether a session is among them.
    pub(super) fn has(&self, session: SessionKey) -> bool {
        match self {
            Subscribers::None => false,
            Subscribers::One(one) => one.session == session,
            Subscribers::Many(set) => set.position(session).is_some(),
        }
    }

    /// Adds a subscription, or replaces the options of an existing one [MQTT-3.8.4-3]; returns
    /// whether it is new.
    pub(super) fn insert(&mut self, new: Subscriber) -> bool {
        match self {
            Subscribers::None => *self = Subscribers::One(new),
            Subscribers::One(one) if one.session == new.session => {
                one.options = new.options;
                return false;
            }
            Subscribers::One(one) => {
                let mut set = Box::<SubscriberSet>::default();
                set.push(*one);
                set.push(new);
                *self = Subscribers::Many(set);
            }
            Subscribers::Many(set) => match set.position(new.session) {
                Some(at) => {
                    set.set_options(at, new.options);
                    return false;
                }
                None => {
                    set.push(new);
                }
            },
        }
        true
    }

    /// Removes a session's subscription; returns whether there was one.
    pub(super) fn remove(&mut self, session: SessionKey) -> bool {
        match self {
            Subscribers::One(one) if one.session == session => *self = Subscribers::None,
            Subscribers::None | Subscribers::One(_) => return false,
            Subscribers::Many(set) => {
                let Some(at) = set.position(session) else { return false };
                set.swap_remove(at);
                if let [last] = set.list() {
                    *self = Subscribers::One(*last);
                }
            }
        }
        true
    }
}

//! Retained messages (MQTT 5.0 section 3.3.1.3). A topic's message belongs to one shard. A subscriber asks the owner twice: behind
//! the barrier for a mark, so that what is set after SUBACK comes live and only live [MQTT-3.3.1-9 of 3.1.1], and then for pages
//! of what is older, as it has room.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::deliver::Manner;
use super::envelope::EnvelopeBody;
use super::route::hold;
use super::subscribe::lower;
use super::{Lane, Shard};
use crate::hook::told::RetainedChange;
use crate::id::{SessionKey, ShardId, ShardSet};
use crate::message::{Message, MessageView};
use crate::route::retained::{Cursor, Full};
use crate::session::slots::Granted;
use crate::session::{Fetch, Held};
use crate::topic;

/// A page of this shard's own store that is to be looked through.
#[derive(Debug)]
pub(super) struct Scan {
    /// Who asks, and under which number.
    pub(super) asker: ShardId,
    pub(super) id: u64,
    pub(super) filter: Arc<str>,
    pub(super) cursor: Cursor,
}

impl Shard {
    /// Stores or clears the message of a topic that this shard owns.
    pub(super) fn store_retained(
        &mut self,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) -> Result<(), Full> {
        if view.payload.as_slice().is_empty() {
            // An empty payload clears [MQTT-3.3.1-6] [MQTT-3.3.1-7].
            if let Some(cleared) = self.retained.clear(view.topic) {
                self.tell_retained(&cleared.view(), RetainedChange::Cleared);
            }
            return Ok(());
        }
        let message: Arc<Message> = Arc::clone(hold(view, held));
        let bytes = message.bytes();
        self.retained.set(view.topic, message, bytes, view.expires_at_ms)?;
        self.tell_retained(view, RetainedChange::Set);
        Ok(())
    }

    /// Another shard's publish to a topic that this shard owns.
    pub(super) fn store_for(&mut self, from: ShardId, id: u64, message: &Arc<Message>) {
        let mut held = Some(Held::new(Arc::clone(message)));
        let full = self.store_retained(&message.view(), &mut held).is_err();
        self.push_envelope(from, Lane::Control, EnvelopeBody::Stored { id, full });
    }

    /// Asks for marks in the retained messages of a new subscription; the number of the fetch.
    pub(super) fn mark_retained(&mut self, session_key: SessionKey, grant: &Granted) -> Option<u64> {
        let id = self.next_fetch;
        let open = if topic::has_wildcard(&grant.filter) {
            ShardSet::all(self.setup.shards)
        } else {
            let mut one = ShardSet::EMPTY;
            one.insert(self.routes.owner_of(&grant.filter));
            one
        };
        let hasher = self.hasher.clone();
        let session = self.sessions.get_mut(session_key)?;
        self.next_fetch += 1;
        let me = self.setup.id;
        let mut unmarked = open;
        unmarked.remove(me);
        let held_back = if open.contains(me) { vec![(me, self.retained.mark())] } else { Vec::new() };
        session.fetches.push(Fetch {
            id,
            filter: Rc::from(&*grant.filter),
            options: grant.options,
            subscription_id: grant.id,
            unmarked,
            begun: false,
            open,
            live: std::collections::HashSet::with_hasher(hasher),
            held_back,
        });
        self.fetches.insert(id, session_key);
        let filter: Arc<str> = Arc::from(&*grant.filter);
        for shard in unmarked.iter() {
            let body = EnvelopeBody::Fetch { id, filter: Arc::clone(&filter), cursor: None };
            self.push_envelope(shard, Lane::Control, body);
        }
        Some(id)
    }

    /// SUBACK is out: pages of these fetches may come.
    pub(super) fn begin_fetches(&mut self, session_key: SessionKey, fetches: &[u64]) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        for fetch in &mut session.fetches {
            fetch.begun |= fetches.contains(&fetch.id);
        }
        self.pull_retained(session_key);
    }

    fn ask(&mut self, shard: ShardId, id: u64, filter: Arc<str>, cursor: Cursor) {
        if shard == self.setup.id {
            self.scans.push_back(Scan { asker: shard, id, filter, cursor });
        } else {
            let body = EnvelopeBody::Fetch { id, filter, cursor: Some(cursor) };
            self.push_envelope(shard, Lane::Control, body);
        }
    }

    /// Looks through one page each for those who asked.
    pub(super) fn scan_retained(&mut self) {
        // Only those that wait now: a small one leads to the next of its own at once.
        for _ in 0..self.scans.len().min(16) {
            let Some(scan) = self.scans.pop_front() else { break };
            let mut found = Vec::new();
            let budget = self.setup.limits.retained_page_messages_max as usize;
            let next = self.retained.scan(&scan.filter, scan.cursor, budget, self.now.mono_ms, &mut found);
            if scan.asker == self.setup.id {
                self.fetched(scan.asker, scan.id, found, next);
            } else {
                let body = EnvelopeBody::Fetched { id: scan.id, messages: found, next };
                self.push_envelope(scan.asker, Lane::Control, body);
            }
        }
    }

    /// A page has come, or the mark before the first.
    pub(super) fn fetched(
        &mut self,
        from: ShardId,
        id: u64,
        messages: Vec<Arc<Message>>,
        next: Option<Cursor>,
    ) {
        let Some(&session_key) = self.fetches.get(&id) else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let Some(fetch) = session.fetches.iter().find(|fetch| fetch.id == id) else { return };
        let (options, subscription_id) = (fetch.options, fetch.subscription_id);
        let fresh: Vec<Arc<Message>> = messages
            .into_iter()
            .filter(|message| !fetch.live.contains(&self.hasher.hash_one(&*message.topic)))
            .collect();
        // The deliveries below are the stored ones, not live ones that would make others stale.
        let fetches = std::mem::take(&mut session.fetches);
        for message in fresh {
            let mut subscription_ids = SmallVec::new();
            if subscription_id != 0 {
                subscription_ids.push(subscription_id);
            }
            let manner = Manner {
                qos: lower(message.qos, options.qos.as_u8()),
                // [MQTT-3.3.1-8]
                retain: true,
                subscription_ids,
                group: None,
                cached: false,
            };
            let mut held = Some(Held::new(Arc::clone(&message)));
            self.deliver(session_key, manner, &message.view(), &mut held);
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.fetches = fetches;
        let Some(place) = session.fetches.iter().position(|fetch| fetch.id == id) else { return };
        let fetch = &mut session.fetches[place];
        fetch.unmarked.remove(from);
        let may_begin = !fetch.begun && fetch.unmarked.is_empty();
        match next {
            Some(cursor) => fetch.held_back.push((from, cursor)),
            None => {
                fetch.open.remove(from);
                if fetch.open.is_empty() {
                    session.fetches.remove(place);
                    self.fetches.remove(&id);
                }
            }
        }
        if may_begin {
            self.pump_slots(session_key);
        } else {
            self.pull_retained(session_key);
        }
    }

    /// Asks for the next pages of a session that has room for them.
    pub(super) fn pull_retained(&mut self, session_key: SessionKey) {
        let limits = &self.setup.limits;
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if session.fetches.is_empty() {
            return;
        }
        let out = session.conn.and_then(|conn| self.conns.get(conn)).map_or(0, |conn| conn.out.len());
        let queue_room = (session.queue.len() as u64) * 2 <= limits.session_queue_messages_max;
        if !queue_room || out as u64 * 2 > limits.outbound_bytes_max {
            return;
        }
        let pages: Vec<(u64, Rc<str>, ShardId, Cursor)> = session
            .fetches
            .iter_mut()
            .filter(|fetch| fetch.begun)
            .flat_map(|fetch| {
                let (id, filter) = (fetch.id, Rc::clone(&fetch.filter));
                std::mem::take(&mut fetch.held_back)
                    .into_iter()
                    .map(move |(shard, cursor)| (id, Rc::clone(&filter), shard, cursor))
            })
            .collect();
        for (id, filter, shard, cursor) in pages {
            self.ask(shard, id, Arc::from(&*filter), cursor);
        }
    }
}

//! What plugins ask for outside of an answer: publish, kick, subscribe, mail, timers. A command runs between two events, never
//! inside one, so that no plugin is called while a call of it is going on. Its messages know which plugins led to them.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::ALL_SHARDS;
use smallvec::SmallVec;

use super::Shard;
use super::authority::Scope;
use super::timers::Deadline;
use crate::hook::message::{Draft, Extra};
use crate::hook::{PluginHandle, Untimely};
use crate::id::SessionKey;
use crate::message::Message;
use crate::packet::{SubscriptionOptions, Version};
use crate::reason::ReasonCode;
use crate::session::{Identity, PublishSlot, Slot, SlotBody, Source, Stage};

/// How long mail and timers of a plugin that is not in the chains yet wait for it, milliseconds.
const EARLY_MS: u64 = 60_000;
/// How often a timer of such a plugin is looked at again, milliseconds.
const EARLY_STEP_MS: u64 = 50;
/// Sessions that a plugin is told of in one turn.
const REPLAY_SLICE: usize = 256;
/// Mails that are kept for such plugins, and for those that are disabled or tripped.
const KEPT_MAILS_MAX: usize = 1024;
/// Bytes of them.
const KEPT_MAIL_BYTES_MAX: usize = 16 << 20;

/// What a plugin asks of a shard.
#[derive(Debug)]
pub enum Command {
    /// Publish a message, which is checked already. Its ancestry names its maker.
    Publish {
        /// Whose it is: publishes of one plugin keep their order.
        plugin: PluginHandle,
        /// The message.
        message: Message,
    },
    /// Disconnect a client of this shard.
    Kick {
        /// Client identifier.
        client_id: Box<str>,
        /// With this reason.
        reason: ReasonCode,
        /// Whether its session ends too.
        discard: bool,
    },
    /// Subscribe a client of this shard; the filter is valid.
    Subscribe {
        /// Client identifier.
        client_id: Box<str>,
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
        /// Options.
        options: SubscriptionOptions,
        /// Subscription identifier, 0 for none.
        id: u32,
    },
    /// Take a subscription from a client of this shard.
    Unsubscribe {
        /// Client identifier.
        client_id: Box<str>,
        /// Topic filter, `$share` prefix included.
        filter: Box<str>,
    },
    /// Bytes for the plugin's instance on this shard.
    Mail {
        /// Whose.
        plugin: PluginHandle,
        /// Sending shard, [`ALL_SHARDS`] for a thread.
        from: u32,
        /// The sender's number.
        number: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Call the instance after a time.
    Timer {
        /// Whose.
        plugin: PluginHandle,
        /// Its number, unique in the process.
        timer: u64,
        /// Milliseconds from now.
        after_ms: u64,
        /// The plugin's number.
        number: u64,
    },
    /// Tell a plugin, and nobody else, of the sessions and subscriptions that are there.
    Replay {
        /// Which.
        plugin: PluginHandle,
    },
    /// Ask client.authorize again.
    Invalidate(Scope),
    /// Forget a timer.
    CancelTimer {
        /// Whose.
        plugin: PluginHandle,
        /// Its number.
        timer: u64,
    },
}

/// Mail for a plugin that is not in the chains yet, or is not to be called for now.
#[derive(Debug)]
struct KeptMail {
    plugin: PluginHandle,
    from: u32,
    number: u64,
    bytes: Bytes,
    /// Until then one that is in no chain table is waited for.
    until_ms: u64,
}

/// What a shard keeps for plugins beside their links.
#[derive(Debug, Default)]
pub(super) struct PluginDesk {
    /// Sessions that no client has: what a plugin publishes waits in order in the slots of its own.
    sessions: HashMap<u64, SessionKey>,
    /// Timers that are armed, with the time until which an unknown plugin is waited for.
    timers: HashMap<u64, (PluginHandle, u64)>,
    /// Timers that fell due while their plugin was disabled or tripped, in this order, each with the plugin's number.
    held: Vec<(u64, u64)>,
    mails: VecDeque<KeptMail>,
    mails_bytes: usize,
    replays: VecDeque<Replay>,
}

/// A plugin that is being told of what was there before it.
#[derive(Debug)]
struct Replay {
    plugin: PluginHandle,
    /// The next place in the table of sessions.
    place: usize,
    until_ms: u64,
}

impl Shard {
    /// Does what a plugin has asked for. Between two events.
    pub fn command(&mut self, command: Command) {
        match command {
            Command::Publish { plugin, message } => self.publish_for(plugin, message),
            Command::Kick { client_id, reason, discard } => {
                self.kick(&client_id, reason, discard);
            }
            Command::Subscribe { client_id, filter, options, id } => {
                self.subscribe_for(&client_id, &filter, options, id);
            }
            Command::Unsubscribe { client_id, filter } => self.unsubscribe_for(&client_id, &filter),
            Command::Mail { plugin, from, number, bytes } => self.mail(plugin, from, number, bytes),
            Command::Timer { plugin, timer, after_ms, number } => {
                let due_ms = self.now.mono_ms.saturating_add(after_ms);
                self.desk.timers.insert(timer, (plugin, due_ms.saturating_add(EARLY_MS)));
                self.deadlines.arm(due_ms, Deadline::Plugin { timer, number });
            }
            Command::CancelTimer { plugin, timer } => {
                if self.desk.timers.get(&timer).is_some_and(|(owner, _)| *owner == plugin) {
                    self.desk.timers.remove(&timer);
                }
            }
            Command::Invalidate(scope) => self.invalidate(scope),
            Command::Replay { plugin } => {
                self.desk.replays.push_back(Replay {
                    plugin,
                    place: 0,
                    until_ms: self.now.mono_ms + EARLY_MS,
                });
            }
        }
        self.calls.set_timers(self.desk.timers.len() as u64);
    }

    /// Whether a plugin has not been told of everything yet.
    pub(super) fn has_replays(&self) -> bool {
        !self.desk.replays.is_empty()
    }

    /// Tells of a slice of the sessions.
    pub(super) fn replay(&mut self) {
        let Some(replay) = self.desk.replays.front_mut() else { return };
        let (plugin, from) = (replay.plugin, replay.place);
        if self.chains.instance(plugin).is_none() {
            // It may be on its way into the chains; other work goes on meanwhile.
            if self.now.mono_ms >= replay.until_ms {
                self.desk.replays.pop_front();
            }
            return;
        }
        let end = (from + REPLAY_SLICE).min(self.sessions.places());
        replay.place = end;
        if end == self.sessions.places() {
            self.desk.replays.pop_front();
        }
        for place in from..end {
            if let Some(key) = self.sessions.key_at(place) {
                self.replay_session(plugin, key);
            }
        }
    }

    /// A message of a plugin's own, behind what the plugin has published before.
    pub(super) fn publish_for(&mut self, plugin: PluginHandle, mut message: Message) {
        message.id = self.next_message_id();
        message.wall_ms = self.now.wall_ms;
        message.expires_at_ms = message.expires_at_ms.map(|after_ms| self.now.mono_ms + after_ms);
        let session_key = self.session_of_plugin(plugin, &message.from);
        let (slots_max, bytes_max) = (self.limits().slots_max, self.limits().slot_bytes_max);
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let bytes = message.bytes();
        if session.slots.len() as u64 >= slots_max || (session.slots.bytes() + bytes) as u64 > bytes_max {
            // It cannot be paused; beyond its reserve there is a counted drop.
            self.count_drop(super::tell::Loss::QueueFull, &message.view(), None);
            return;
        }
        self.counters.messages_plugins += 1;
        let publish = PublishSlot {
            packet_qos: message.qos,
            message,
            packet_id: None,
            dup: false,
            source: Source::Plugin,
            stage: Stage::Unstarted,
            visited: SmallVec::new(),
            ask: None,
            draft: Draft::default(),
            refusal: None,
        };
        session.slots.push(Slot { conn: None, bytes, body: SlotBody::Publish(Box::new(publish)) });
        self.pump_slots(session_key);
    }

    /// What links have added to a publish that has taken effect.
    #[expect(clippy::box_collection, reason = "it keeps the draft small, which most publishes leave empty")]
    #[inline]
    pub(super) fn publish_extra(&mut self, extra: Option<Box<Vec<Extra>>>) {
        if let Some(extra) = extra {
            self.publish_added(*extra);
        }
    }

    fn publish_added(&mut self, extra: Vec<Extra>) {
        for Extra { plugin, mut message } in extra {
            if message.from.is_empty() {
                message.from = self.chains.plugin_name(plugin).unwrap_or("a plugin").into();
            }
            self.publish_for(plugin, message);
        }
    }

    /// The session in whose slots a plugin's publishes wait. No list shows it and no client can have it.
    fn session_of_plugin(&mut self, plugin: PluginHandle, name: &Arc<str>) -> SessionKey {
        // The name's number: later versions go on in the same order.
        let number = plugin.0 & u64::from(u32::MAX);
        if let Some(key) = self.desk.sessions.get(&number) {
            return *key;
        }
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let identity = Rc::new(Identity {
            client_id: Arc::clone(name),
            username: None,
            superuser: true,
            peer: nowhere,
            peer_host: "".into(),
            local: nowhere,
            listener: "".into(),
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 0,
            expiry_s: u32::MAX,
            receive_maximum: u16::MAX,
            connected_at_ms: self.now.wall_ms,
            connection: 0,
            anonymous: false,
            local_host: "".into(),
            properties: Box::default(),
        });
        let key = self.new_session(&identity);
        if let Some(session) = self.sessions.get_mut(key) {
            session.orphan = true;
        }
        self.desk.sessions.insert(number, key);
        key
    }

    /// Sessions that no client has.
    pub(super) fn plugin_sessions(&self) -> usize {
        self.desk.sessions.len()
    }

    fn mail(&mut self, plugin: PluginHandle, from: u32, number: u64, bytes: Bytes) {
        match self.chains.instance_awake(plugin) {
            Some(instance) => {
                self.calls.enter_untimely(plugin, Untimely::Mail);
                instance.mail(from, number, &bytes);
                self.calls.leave();
            }
            None => {
                let until_ms = self.now.mono_ms + EARLY_MS;
                self.keep_mail(KeptMail { plugin, from, number, bytes, until_ms });
            }
        }
    }

    fn keep_mail(&mut self, mail: KeptMail) {
        let bytes = self.desk.mails_bytes + mail.bytes.len();
        if self.desk.mails.len() >= KEPT_MAILS_MAX || bytes > KEPT_MAIL_BYTES_MAX {
            self.counters.plugin_mail_stale += 1;
            return;
        }
        self.desk.mails_bytes = bytes;
        self.desk.mails.push_back(mail);
    }

    pub(super) fn plugin_timer_due(&mut self, timer: u64, number: u64) {
        let Some(&(plugin, until_ms)) = self.desk.timers.get(&timer) else { return };
        match self.chains.instance_awake(plugin) {
            Some(instance) => {
                self.desk.timers.remove(&timer);
                self.calls.enter_untimely(plugin, Untimely::Timer);
                instance.timer(timer, number);
                self.calls.leave();
            }
            // It is brought when its plugin is called again.
            None if self.chains.is_resting(plugin) => self.desk.held.push((timer, number)),
            // Armed while it was loaded: it may still come into the chains.
            None if self.now.mono_ms < until_ms => {
                let again_ms = self.now.mono_ms + EARLY_STEP_MS;
                self.deadlines.arm(again_ms, Deadline::Plugin { timer, number });
            }
            None => {
                self.desk.timers.remove(&timer);
            }
        }
        self.calls.set_timers(self.desk.timers.len() as u64);
    }

    /// The chains have been swapped: what plugins that are gone had armed is forgotten, and what waited for those that are in the
    /// chains now, or are called again, is handed over.
    pub(super) fn settle_plugins(&mut self, gone: &[PluginHandle]) {
        if !gone.is_empty() {
            self.desk.timers.retain(|_, (plugin, _)| !gone.contains(plugin));
            self.desk.replays.retain(|replay| !gone.contains(&replay.plugin));
            self.calls.set_timers(self.desk.timers.len() as u64);
        }
        for (timer, number) in std::mem::take(&mut self.desk.held) {
            match self.desk.timers.get(&timer) {
                Some((plugin, _)) if self.chains.is_resting(*plugin) => self.desk.held.push((timer, number)),
                Some(_) => self.deadlines.arm(self.now.mono_ms, Deadline::Plugin { timer, number }),
                // Cancelled, or its plugin has gone.
                None => {}
            }
        }
        self.desk.mails_bytes = 0;
        for mail in std::mem::take(&mut self.desk.mails) {
            let late = mail.until_ms <= self.now.mono_ms && !self.chains.is_resting(mail.plugin);
            if gone.contains(&mail.plugin) {
                self.counters.plugin_mail_stale += 1;
            } else if self.chains.instance_awake(mail.plugin).is_some() {
                self.mail(mail.plugin, mail.from, mail.number, mail.bytes);
            } else if late {
                self.counters.plugin_mail_stale += 1;
            } else {
                self.keep_mail(mail);
            }
        }
    }
}

/// The sender of mail that comes from no shard.
pub const FROM_A_THREAD: u32 = ALL_SHARDS;

//! The points that only tell: each method asks first whether anybody listens, so that where nobody does it costs one length
//! test. Called wherever something of the kind happens; decides nothing.

use std::rc::Rc;

use grapnel_plugin_abi::raw::FLAG_REPLAY;

use super::Shard;
use crate::hook::chain::{Audience, Course};
use crate::hook::client::ClientView;
use crate::hook::told::{About, BrokerView, RetainedChange, SubscriptionView, Told};
use crate::hook::{HookPoint, PluginHandle};
use crate::id::{ConnKey, SessionKey};
use crate::message::MessageView;
use crate::packet::PacketType;
use crate::reason::ReasonCode;
use crate::session::Delivery;
use crate::session::slots::Granted;

/// Why a message was dropped. Each is a counter, and the word that message.dropped has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    NoSubscribers,
    QueueFull,
    Expired,
    TooLarge,
    Hook,
    LaneFull,
    NoMember,
    NotAuthorized,
}

impl Loss {
    const fn word(self) -> &'static str {
        match self {
            Loss::NoSubscribers => "no_subscribers",
            Loss::QueueFull => "queue_full",
            Loss::Expired => "expired",
            Loss::TooLarge => "too_large",
            Loss::Hook => "hook",
            Loss::LaneFull => "lane_full",
            Loss::NoMember => "no_member",
            Loss::NotAuthorized => "not_authorized",
        }
    }
}

/// Whom message.dropped names where a message was dropped for nobody in particular.
const NODE: &str = "node";

impl Shard {
    /// Whether anybody listens at a point.
    #[inline]
    pub(super) fn is_heard(&self, point: HookPoint) -> bool {
        !self.chains.chain(point).is_empty()
    }

    fn tell(&mut self, point: HookPoint, client: Option<ClientView<'_>>, about: About<'_>) {
        let chain = self.chains.chain_mut(point);
        if chain.is_empty() {
            return;
        }
        let mut told = Told::new(point, client, about, self.now.mono_ms);
        let mut event = told.event(self.setup.id, self.now.wall_ms);
        chain.run((point, &self.calls), told.course(), &mut event, &mut told);
    }

    /// Tells of a session; `end` where it ends.
    pub(super) fn tell_session(
        &mut self,
        point: HookPoint,
        key: SessionKey,
        end: Option<(&'static str, ReasonCode)>,
    ) {
        if !self.is_heard(point) {
            return;
        }
        let Some(session) = self.sessions.get(key) else { return };
        let (identity, view) = (Rc::clone(&session.identity), session.view());
        self.tell(point, Some(identity.view()), About::Session(view, end));
    }

    /// Tells of subscriptions that are in force from now on.
    pub(super) fn tell_subscribed(&mut self, key: SessionKey, granted: &[Granted]) {
        if !self.is_heard(HookPoint::SessionSubscribed) {
            return;
        }
        for grant in granted {
            let is_new = Some(grant.is_new);
            let view = SubscriptionView {
                filter: &grant.filter,
                options: grant.options,
                id: grant.id,
                is_new,
                cause: None,
            };
            self.tell_subscription(HookPoint::SessionSubscribed, key, view);
        }
    }

    /// Tells of a subscription that is gone: `cause` says by whom or why, in one word.
    pub(super) fn tell_unsubscribed(
        &mut self,
        key: SessionKey,
        filter: &str,
        gone: crate::session::Subscription,
        cause: &'static str,
    ) {
        let cause = Some(cause);
        let view = SubscriptionView { filter, options: gone.options, id: gone.id, is_new: None, cause };
        self.tell_subscription(HookPoint::SessionUnsubscribed, key, view);
    }

    fn tell_subscription(&mut self, point: HookPoint, key: SessionKey, subscription: SubscriptionView<'_>) {
        if !self.is_heard(point) {
            return;
        }
        let Some(session) = self.sessions.get(key) else { return };
        let (identity, view) = (Rc::clone(&session.identity), session.view());
        self.tell(point, Some(identity.view()), About::Subscription(view, subscription));
    }

    /// Tells one plugin of a session that is there already, with its subscriptions.
    pub(super) fn replay_session(&mut self, plugin: PluginHandle, key: SessionKey) {
        let Some(session) = self.sessions.get(key).filter(|session| !session.orphan) else { return };
        let (identity, view, connected) =
            (Rc::clone(&session.identity), session.view(), session.conn.is_some());
        let client = Some(identity.view());
        let about = About::Session(view, None);
        if connected {
            self.tell_one(plugin, HookPoint::ClientConnected, client, about);
        }
        self.tell_one(plugin, HookPoint::SessionCreated, client, about);
        if !self.is_heard(HookPoint::SessionSubscribed) {
            return;
        }
        let Some(session) = self.sessions.get(key) else { return };
        let subscriptions: Vec<_> = session
            .subscriptions
            .iter()
            .map(|(filter, subscription)| (filter.clone(), *subscription))
            .collect();
        for (filter, subscription) in subscriptions {
            let subscription = SubscriptionView {
                filter: &filter,
                options: subscription.options,
                id: subscription.id,
                is_new: Some(false),
                cause: None,
            };
            let about = About::Subscription(view, subscription);
            self.tell_one(plugin, HookPoint::SessionSubscribed, client, about);
        }
    }

    fn tell_one(
        &mut self,
        plugin: PluginHandle,
        point: HookPoint,
        client: Option<ClientView<'_>>,
        about: About<'_>,
    ) {
        let mut told = Told::new(point, client, about, self.now.mono_ms);
        let mut event = told.event(self.setup.id, self.now.wall_ms);
        event.flags |= FLAG_REPLAY;
        let course = Course { audience: Audience::Plugin(plugin), ..Course::WHOLE };
        self.chains.chain_mut(point).run((point, &self.calls), course, &mut event, &mut told);
    }

    /// Tells of a message that a subscriber has acknowledged for good.
    #[inline]
    pub(super) fn tell_acked(&mut self, key: SessionKey, delivery: &Delivery) {
        if self.is_heard(HookPoint::MessageAcked) {
            self.tell_acked_to(key, delivery);
        }
    }

    #[cold]
    fn tell_acked_to(&mut self, key: SessionKey, delivery: &Delivery) {
        let Some(session) = self.sessions.get(key) else { return };
        let identity = Rc::clone(&session.identity);
        let view = MessageView { qos: delivery.qos, retain: delivery.retain, ..delivery.message.view() };
        self.tell(HookPoint::MessageAcked, Some(identity.view()), About::Acked(view));
    }

    /// Counts a message that is dropped and tells of it: for the client of a session, or for nobody in particular.
    pub(super) fn count_drop(&mut self, why: Loss, view: &MessageView<'_>, of: Option<SessionKey>) {
        let counters = &mut self.counters;
        counters.messages_dropped += 1;
        match why {
            Loss::NoSubscribers => counters.messages_dropped_no_subscribers += 1,
            Loss::QueueFull => counters.messages_dropped_queue_full += 1,
            Loss::Expired => counters.messages_dropped_expired += 1,
            Loss::TooLarge => counters.messages_dropped_too_large += 1,
            Loss::Hook => counters.messages_dropped_hook += 1,
            Loss::LaneFull => counters.messages_dropped_lane_full += 1,
            Loss::NoMember => counters.messages_dropped_no_member += 1,
            Loss::NotAuthorized => counters.messages_dropped_not_authorized += 1,
        }
        if let (Loss::QueueFull | Loss::TooLarge, Some(session)) =
            (why, of.and_then(|key| self.sessions.get_mut(key)))
        {
            session.dropped += 1;
        }
        if self.is_heard(HookPoint::MessageDropped) {
            self.tell_dropped(why, view, of);
        }
    }

    #[cold]
    fn tell_dropped(&mut self, why: Loss, view: &MessageView<'_>, of: Option<SessionKey>) {
        let session = of.and_then(|key| self.sessions.get(key));
        let identity = session.map(|session| Rc::clone(&session.identity));
        let client = identity.as_deref().map(crate::session::Identity::view);
        let by = client.map_or(NODE, |client| client.client_id);
        self.tell(HookPoint::MessageDropped, client, About::Dropped(*view, by, why.word()));
    }

    /// Tells what became of a retained message of a topic that this shard owns.
    pub(super) fn tell_retained(&mut self, view: &MessageView<'_>, change: RetainedChange) {
        self.tell(HookPoint::MessageRetained, None, About::Retained(*view, change));
    }

    /// Tells of a packet that was read.
    #[inline]
    pub(super) fn tell_received(&mut self, key: ConnKey, kind: PacketType, whole: &[u8]) {
        if self.is_heard(HookPoint::PacketReceived) {
            self.tell_received_from(key, kind, whole);
        }
    }

    #[cold]
    fn tell_received_from(&mut self, key: ConnKey, kind: PacketType, whole: &[u8]) {
        let Some(identity) = self.conns.get(key).and_then(|conn| conn.identity.clone()) else { return };
        self.tell(HookPoint::PacketReceived, Some(identity.view()), About::Packet(kind, whole, whole.len()));
    }

    /// Tells of a packet of `len` bytes that was queued, the last `copied` of what was copied into the connection's queue.
    #[inline]
    pub(super) fn tell_sent(&mut self, key: ConnKey, kind: PacketType, copied: usize, len: usize) {
        if self.is_heard(HookPoint::PacketSent) {
            self.tell_sent_to(key, kind, copied, len);
        }
    }

    #[cold]
    fn tell_sent_to(&mut self, key: ConnKey, kind: PacketType, copied: usize, len: usize) {
        let Some(conn) = self.conns.get(key) else { return };
        let Some(identity) = conn.identity.clone() else { return };
        let point = HookPoint::PacketSent;
        let about = About::Packet(kind, conn.out.copied_tail(copied), len);
        let mut told = Told::new(point, Some(identity.view()), about, self.now.mono_ms);
        let mut event = told.event(self.setup.id, self.now.wall_ms);
        self.chains.chain_mut(point).run((point, &self.calls), told.course(), &mut event, &mut told);
    }

    /// Tells of the broker itself: one of the points named `broker.…`. The shell calls it on one shard alone.
    pub fn tell_broker(&mut self, point: HookPoint, broker: BrokerView<'_>) {
        self.tell(point, None, About::Broker(broker));
    }
}

//! Shared subscriptions (MQTT 5.0 section 4.8.2): members of this shard, and the pick of the shard
//! and the member that get a message. The table of groups is in `group.rs`.

use super::group::Group;
use super::interest::Interest;
use super::subscriber_set::Subscriber;
use super::{GroupId, GroupRef, MemberCount, Routes, SubOptions, Subscribed};
use crate::id::{SessionKey, ShardId, ShardSet};

impl Routes {
    /// Adds a session to a shared subscription, or replaces its options. `filter` has no
    /// `$share/…/`.
    pub fn subscribe_shared(
        &mut self,
        group: &str,
        filter: &str,
        session: SessionKey,
        options: SubOptions,
        connected: bool,
    ) -> Subscribed {
        let key = self.obtain_group(self.hashes.group_id(group, filter), group, filter);
        let Some(group) = self.groups.get_mut(key) else {
            return Subscribed { is_new: false, interest: Interest::Acknowledged, barrier_seq: 0, filter: 0 };
        };
        let filter = group.filter;
        let before = group.local();
        let is_new = group.insert(Subscriber { session, options }, connected);
        if group.announced_seq == 0 && self.shards > 1 {
            group.announced_seq = self.outbox.next_seq();
        }
        let told = group.announced_seq;
        if group.local() != before {
            self.announce_counts(key);
        }
        self.subscriptions += usize::from(is_new);
        let (interest, barrier_seq) = self.outbox.wait_for(told);
        Subscribed { is_new, interest, barrier_seq, filter }
    }

    /// Removes a member; returns whether it existed.
    pub fn unsubscribe_shared(&mut self, group: &str, filter: &str, session: SessionKey) -> bool {
        let Some(key) = self.group_by_name(group, filter) else { return false };
        if !self.groups.get_mut(key).is_some_and(|group| group.remove(session)) {
            return false;
        }
        self.subscriptions -= 1;
        self.announce_counts(key);
        self.settle_group(key);
        true
    }

    /// Records that a member has connected or disconnected; connected members are picked first.
    pub fn set_connected(&mut self, group: &str, filter: &str, session: SessionKey, connected: bool) {
        let Some(key) = self.group_by_name(group, filter) else { return };
        if self.groups.get_mut(key).is_some_and(|group| group.set_connected(session, connected)) {
            self.announce_counts(key);
        }
    }

    /// Picks the shard that gets the next message of a group. `random` is any uniform number. The
    /// probability is proportional to the connected members; if none is connected anywhere, to all
    /// members. `None`: no members.
    pub fn pick_shared(&mut self, group: GroupRef, random: u64) -> Option<ShardId> {
        self.pick_shared_among(group, ShardSet::all(self.shards), random)
    }

    /// As [`Routes::pick_shared`] among these shards, for a message that is forwarded once.
    pub fn pick_shared_among(&self, group: GroupRef, among: ShardSet, random: u64) -> Option<ShardId> {
        self.groups.get(group)?.pick_shard(self.me, among, random)
    }

    /// The next member on this shard that `eligible` accepts, connected ones first.
    pub fn pick_member(
        &mut self,
        group: GroupRef,
        eligible: impl FnMut(SessionKey) -> bool,
    ) -> Option<(SessionKey, SubOptions)> {
        let member = self.groups.get_mut(group)?.pick_member(eligible)?;
        Some((member.session, member.options))
    }

    /// Records whether a picked member has many waiting messages. Returns true if that was so for
    /// as many picks in a row as there are members here; then check whether
    /// [`Routes::set_group_full`] is due.
    pub fn note_pick(&mut self, group: GroupRef, busy: bool) -> bool {
        self.groups.get_mut(group).is_some_and(|group| group.note_pick(busy))
    }

    /// Sets whether the members on this shard have many waiting messages. Other members are then
    /// picked if possible. A message that is here already stays, because a detour could put it
    /// after a later one.
    pub fn set_group_full(&mut self, group: GroupRef, full: bool) {
        if self.groups.get_mut(group).is_some_and(|group| group.set_full(full)) {
            self.announce_counts(group);
        }
    }

    /// Whether the members on this shard have many waiting messages, as last set.
    pub fn is_group_full(&self, group: GroupRef) -> bool {
        self.groups.get(group).is_some_and(Group::is_full)
    }

    /// Group name and filter.
    pub fn group_name(&self, group: GroupRef) -> Option<(&str, &str)> {
        let group = self.groups.get(group)?;
        Some((&group.name, &self.filters.get(group.filter).name))
    }

    /// The id of the group on all shards.
    pub fn group_id(&self, group: GroupRef) -> Option<GroupId> {
        self.groups.get(group).map(|group| group.id)
    }

    /// The group with this name and filter (without `$share/…/`), if a shard has a member.
    pub fn group_by_name(&self, group: &str, filter: &str) -> Option<GroupRef> {
        self.groups.find(self.hashes.group_id(group, filter))
    }

    /// The group with the id in an envelope.
    pub fn group_by_id(&self, id: GroupId) -> Option<GroupRef> {
        self.groups.find(id)
    }

    /// The members of each shard, as last notified; shards without members are left out.
    pub fn group_counts(&self, group: GroupRef) -> impl Iterator<Item = (ShardId, MemberCount)> + '_ {
        self.groups.get(group).into_iter().flat_map(|group| group.counts(self.me))
    }

    /// The members on this shard, connected ones first.
    pub fn group_members(&self, group: GroupRef) -> impl Iterator<Item = (SessionKey, SubOptions)> + '_ {
        let members = self.groups.get(group).map_or(&[][..], Group::members);
        members.iter().map(|member| (member.session, member.options))
    }

    pub(super) fn obtain_group(&mut self, id: GroupId, name: &str, filter: &str) -> GroupRef {
        if let Some(key) = self.groups.find(id) {
            return key;
        }
        let at = self.filters.obtain(filter);
        let key = self.groups.insert(Group::new(name, id, at));
        self.filters.get_mut(at).add_group(key);
        self.outdate(at);
        key
    }

    /// Sends the counts of a group in the next batch.
    fn announce_counts(&mut self, key: GroupRef) {
        if self.shards == 1 {
            return;
        }
        if let Some(group) = self.groups.get_mut(key)
            && !group.dirty
        {
            group.dirty = true;
            self.dirty_groups.push(key);
        }
    }

    /// Removes a group that has no member on any shard.
    pub(super) fn settle_group(&mut self, key: GroupRef) {
        if self.groups.get(key).is_some_and(Group::has_ended)
            && let Some(group) = self.groups.remove(key)
        {
            self.filters.get_mut(group.filter).remove_group(key);
            self.outdate(group.filter);
            self.filters.release(group.filter);
        }
    }
}

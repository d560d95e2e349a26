//! Shared subscriptions (section 4.8.2): the members on this shard, the member counts of the
//! others, and the pick of the next member. `Routes` calls it. Of a session it stores only the key
//! and whether it is connected.

use smallvec::SmallVec;

use super::hash::HashedMap;
use super::subscriber_set::{Subscriber, SubscriberSet};
use crate::id::{Key, SessionKey, ShardId, ShardSet, Table};

/// The id of a shared subscription on all shards: a keyed fingerprint of group name and filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u128);

/// A shared subscription in one shard's table. It finds nothing once the group is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupRef {
    /// Index in the table.
    pub index: u32,
    /// How often that index was used before.
    pub generation: u32,
}

impl Key for GroupRef {
    fn from_parts(index: u32, generation: u32) -> Self {
        GroupRef { index, generation }
    }

    fn parts(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

/// Number of members of a shared subscription on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCount {
    /// Members that are connected.
    pub connected: u32,
    /// All members.
    pub total: u32,
}

/// The members on this shard, connected ones first.
#[derive(Default)]
struct Members {
    set: SubscriberSet,
    connected: usize,
    /// Index of the next connected member.
    turn: usize,
    /// Index of the next member that is not connected, counted from the first such member.
    idle_turn: usize,
}

impl Members {
    fn count(&self) -> MemberCount {
        MemberCount { connected: self.connected as u32, total: self.set.len() as u32 }
    }

    /// Adds a member or changes one; returns whether it is new.
    fn insert(&mut self, member: Subscriber, connected: bool) -> bool {
        let known = self.set.position(member.session);
        match known {
            Some(at) => self.set.set_options(at, member.options),
            None => {
                self.set.push(member);
            }
        }
        self.set_connected(member.session, connected);
        known.is_none()
    }

    /// Returns whether the state has changed.
    fn set_connected(&mut self, session: SessionKey, connected: bool) -> bool {
        let Some(at) = self.set.position(session) else { return false };
        if (at < self.connected) == connected {
            return false;
        }
        if connected {
            self.set.swap(at, self.connected);
            self.connected += 1;
        } else {
            self.connected -= 1;
            self.set.swap(at, self.connected);
        }
        true
    }

    fn remove(&mut self, session: SessionKey) -> bool {
        self.set_connected(session, false);
        let Some(at) = self.set.position(session) else { return false };
        self.set.swap_remove(at);
        true
    }

    /// The next eligible member; connected ones first.
    fn pick(&mut self, mut eligible: impl FnMut(SessionKey) -> bool) -> Option<Subscriber> {
        let (connected, others) = self.set.list().split_at(self.connected);
        next_in_turn(connected, &mut self.turn, &mut eligible)
            .or_else(|| next_in_turn(others, &mut self.idle_turn, &mut eligible))
    }
}

fn next_in_turn(
    list: &[Subscriber],
    turn: &mut usize,
    eligible: &mut impl FnMut(SessionKey) -> bool,
) -> Option<Subscriber> {
    if *turn >= list.len() {
        *turn = 0;
    }
    let (before, from) = list.split_at(*turn);
    let at = from.iter().chain(before).position(|one| eligible(one.session))?;
    let at = (*turn + at) % list.len();
    *turn = at + 1;
    Some(list[at])
}

/// One shared subscription.
pub(super) struct Group {
    pub(super) name: Box<str>,
    pub(super) id: GroupId,
    /// Number of its filter.
    pub(super) filter: u32,
    members: Members,
    /// The other shards that have members.
    others: SmallVec<[(ShardId, MemberCount); 2]>,
    /// The sequence number of the batch that announced a member here; 0 = not announced.
    pub(super) announced_seq: u64,
    /// Whether its count is to be sent in the next batch.
    pub(super) dirty: bool,
    /// Whether its members on this shard have many waiting messages. They then count as not
    /// connected, so that others are picked.
    full: bool,
    /// Number of picks in a row of members with many waiting messages.
    busy_picks: u32,
}

impl Group {
    pub(super) fn new(name: &str, id: GroupId, filter: u32) -> Self {
        Group {
            name: name.into(),
            id,
            filter,
            members: Members::default(),
            others: SmallVec::new(),
            announced_seq: 0,
            dirty: false,
            full: false,
            busy_picks: 0,
        }
    }

    pub(super) fn insert(&mut self, member: Subscriber, connected: bool) -> bool {
        let is_new = self.members.insert(member, connected);
        if is_new {
            self.full = false;
            self.busy_picks = 0;
        }
        is_new
    }

    /// Returns whether the state has changed.
    pub(super) fn set_full(&mut self, full: bool) -> bool {
        self.busy_picks = 0;
        std::mem::replace(&mut self.full, full) != full
    }

    /// Whether its members here have many waiting messages.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Records whether a picked member has many waiting messages. Returns whether that was so for
    /// as many picks in a row as there are members.
    pub(super) fn note_pick(&mut self, busy: bool) -> bool {
        self.busy_picks = if busy { self.busy_picks.saturating_add(1) } else { 0 };
        !self.full && self.busy_picks as usize >= self.members.connected.max(1)
    }

    /// Returns whether it was a member. The remaining members may have room.
    pub(super) fn remove(&mut self, session: SessionKey) -> bool {
        self.full = false;
        self.busy_picks = 0;
        self.members.remove(session)
    }

    pub(super) fn set_connected(&mut self, session: SessionKey, connected: bool) -> bool {
        self.members.set_connected(session, connected)
    }

    pub(super) fn pick_member(&mut self, eligible: impl FnMut(SessionKey) -> bool) -> Option<Subscriber> {
        self.members.pick(eligible)
    }

    pub(super) fn members(&self) -> &[Subscriber] {
        self.members.set.list()
    }

    /// The member count of this shard.
    pub(super) fn local(&self) -> MemberCount {
        let count = self.members.count();
        if self.full { MemberCount { connected: 0, ..count } } else { count }
    }

    /// Sets the count of another shard.
    pub(super) fn set_other(&mut self, shard: ShardId, count: MemberCount) {
        self.others.retain(|(other, _)| *other != shard);
        if count.total > 0 {
            let connected = count.connected.min(count.total);
            self.others.push((shard, MemberCount { connected, ..count }));
        }
    }

    /// Whether no shard has a member and no notification of that is left to send.
    pub(super) fn has_ended(&self) -> bool {
        self.local().total == 0 && self.others.is_empty() && !self.dirty
    }

    /// The shards with members, this one (`me`) first.
    pub(super) fn counts(&self, me: ShardId) -> impl Iterator<Item = (ShardId, MemberCount)> + Clone + '_ {
        let own = Some((me, self.local())).filter(|(_, count)| count.total > 0);
        own.into_iter().chain(self.others.iter().copied())
    }

    /// A shard of `among`, with a probability proportional to its connected members, or to all if
    /// none is connected.
    pub(super) fn pick_shard(&self, me: ShardId, among: ShardSet, random: u64) -> Option<ShardId> {
        let counts = self.counts(me).filter(|(shard, _)| among.contains(*shard));
        let connected: u64 = counts.clone().map(|(_, count)| u64::from(count.connected)).sum();
        if connected > 0 {
            weighted(counts.map(|(shard, count)| (shard, count.connected)), connected, random)
        } else {
            let total = counts.clone().map(|(_, count)| u64::from(count.total)).sum();
            weighted(counts.map(|(shard, count)| (shard, count.total)), total, random)
        }
    }
}

fn weighted(weights: impl Iterator<Item = (ShardId, u32)>, sum: u64, random: u64) -> Option<ShardId> {
    // Scales the random number to 0..sum without the bias and the cost of a remainder.
    let mut left = ((u128::from(random) * u128::from(sum)) >> 64) as u64;
    for (shard, weight) in weights {
        match left.checked_sub(u64::from(weight)) {
            Some(less) => left = less,
            None => return Some(shard),
        }
    }
    None
}

/// All shared subscriptions that one shard stores.
#[derive(Default)]
pub(super) struct Groups {
    table: Table<Group>,
    by_id: HashedMap<GroupId, GroupRef>,
}

impl Groups {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn find(&self, id: GroupId) -> Option<GroupRef> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, key: GroupRef) -> Option<&Group> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: GroupRef) -> Option<&mut Group> {
        self.table.get_mut(key)
    }

    pub(super) fn insert(&mut self, group: Group) -> GroupRef {
        let id = group.id;
        let key = self.table.insert_with(|_| group);
        self.by_id.insert(id, key);
        key
    }

    pub(super) fn remove(&mut self, key: GroupRef) -> Option<Group> {
        let gone = self.table.remove(key)?;
        self.by_id.remove(&gone.id);
        Some(gone)
    }
}

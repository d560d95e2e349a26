//! The calls that wait for one worker: one queue for each connected client, and one for each
//! address with pending logins. Each queue keeps its order. Calls go in the order of arrival, but
//! an owner with many calls takes turns with the others. A connection that has just connected is in
//! its client's queue, after its calls in the queue of its address. Memory is counted for each
//! owner, for all clients of an account, and in all; notifications get at most half of either, so that requests find room. Used
//! under the lock of `call_queue.rs`; it does not depend on processes or tickets.

mod account;
mod call;
mod room;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use grapnel_plugin_abi::allocated;

pub use account::Account;
use account::Accounts;
pub use call::{Call, Description, Kind, NamedClient, Owner};
use call::{Charge, Name};

use crate::shrink;
pub use room::{Full, Limits, Usage};

/// How many calls of one owner go in the order of arrival. Its further calls wait for these, so
/// that another owner waits for at most this number of them.
const IN_ORDER: usize = 32;

/// The calls of one owner, and what it is charged.
#[derive(Debug)]
struct Entry {
    calls: VecDeque<Call>,
    /// Number of its places in `turns`.
    turns: usize,
    /// Connections that have connected while calls of them are in the queue of their address. Until
    /// those are taken, the client's calls get no more turns.
    waiting_connections: usize,
    usage: Usage,
    /// Number of calls that are charged to it, queued or being sent.
    charged: usize,
    /// Memory of this entry itself, and the kind of call that it was created for.
    own: (Kind, u64),
    /// The account that is charged with that.
    account: Option<Account>,
}

impl Entry {
    /// Memory of an entry: its place in a table that has doubled, its name, the first places of its
    /// list, and its account.
    fn cost(name: &str) -> u64 {
        let places = 2 * size_of::<(Arc<str>, Entry)>();
        places as u64 + Accounts::COST + allocated(16 + name.len()) + allocated(4 * size_of::<Call>())
    }
}

/// All owners with queued or charged calls.
#[derive(Default, Debug)]
struct Entries {
    clients: HashMap<Arc<str>, Entry>,
    addresses: HashMap<Arc<str>, Entry>,
}

impl Entries {
    fn of(&self, is_address: bool) -> &HashMap<Arc<str>, Entry> {
        if is_address { &self.addresses } else { &self.clients }
    }

    fn of_mut(&mut self, is_address: bool) -> &mut HashMap<Arc<str>, Entry> {
        if is_address { &mut self.addresses } else { &mut self.clients }
    }

    fn get(&self, owner: Owner<'_>) -> Option<&Entry> {
        self.of(owner.is_address()).get(owner.name())
    }

    fn get_mut(&mut self, name: &Name) -> Option<&mut Entry> {
        self.of_mut(name.is_address).get_mut(&name.text)
    }
}

/// A connection that is not in yet, or has just connected: its calls in the queue of its address,
/// and calls that were taken from there and may be put back.
#[derive(Debug)]
struct NewConnection {
    queue: Name,
    waiting: usize,
    taken: usize,
    /// The queue of its client, which continues when no call is left here.
    next: Option<Name>,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    entries: Entries,
    accounts: Accounts,
    /// By client number.
    new_connections: HashMap<u64, NewConnection>,
    /// Whose turn is next: one place for each of the first calls of every owner.
    turns: VecDeque<Name>,
    /// Notices that a client's number is not used again, where none of its calls are queued. They
    /// go first. Each follows at least two other calls (the description and a call), so there are
    /// never more of them than descriptions.
    forgotten: VecDeque<Call>,
    usage: Usage,
    waiting: usize,
    #[cfg(test)]
    work: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Queue {
        Queue {
            limits,
            entries: Entries::default(),
            accounts: Accounts::default(),
            new_connections: HashMap::new(),
            turns: VecDeque::new(),
            forgotten: VecDeque::new(),
            usage: Usage::default(),
            waiting: 0,
            #[cfg(test)]
            work: 0,
        }
    }

    /// Replaces it with an empty one and returns the old one.
    pub fn take_all(&mut self) -> Queue {
        let all = std::mem::replace(self, Queue::new(self.limits));
        #[cfg(test)]
        {
            self.work = all.work;
        }
        all
    }

    /// Number of calls that were put in, taken out or released.
    #[cfg(test)]
    pub fn work(&self) -> u64 {
        self.work
    }

    fn count_work(&mut self) {
        #[cfg(test)]
        {
            self.work += 1;
        }
    }

    /// Calls and memory in use, including calls that are being sent.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether no call is queued.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether there is room for a call, before it is encoded.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn has_room(&self, owner: Owner<'_>, account: Option<Account>, kind: Kind) -> Result<(), Full> {
        let usage = self.entries.get(owner).map_or_else(Usage::default, |entry| entry.usage);
        self.fits((owner, usage), account, kind, (1, size_of::<Call>() as u64))
    }

    fn fits(
        &self,
        (owner, usage): (Owner<'_>, Usage),
        account: Option<Account>,
        kind: Kind,
        more: (u64, u64),
    ) -> Result<(), Full> {
        let limits = &self.limits;
        let (full, owner_max) = match owner {
            Owner::Client(_) => (Full::Client, (limits.client_calls_max, limits.client_bytes_max)),
            Owner::Address(_) => (Full::Address, (limits.address_calls_max, limits.address_bytes_max)),
        };
        if kind == Kind::Forgotten {
            Ok(())
        } else if !usage.fits(kind, more, owner_max) {
            Err(full)
        } else if !self.accounts.fits(account, (limits, self.usage), kind, more) {
            Err(Full::Account)
        } else if !self.usage.fits(kind, more, (limits.calls_max, limits.bytes_max)) {
            Err(Full::All)
        } else {
            Ok(())
        }
    }

    /// Puts calls that belong together into a queue, all or none. `owner` is charged, and the account
    /// of the calls, which is the same for all.
    ///
    /// # Errors
    /// The limit that is reached. Nothing has changed then, and the calls are dropped.
    pub fn push(
        &mut self,
        (queue, owner): (Owner<'_>, Owner<'_>),
        kind: Kind,
        calls: &mut Vec<Call>,
    ) -> Result<(), Full> {
        let account = calls.first().and_then(|call| call.account);
        let mut more = (0, 0);
        for call in &mut *calls {
            (call.kind, call.queue.is_address) = (kind, queue.is_address());
            more = (more.0 + call.count(), more.1 + call.cost());
            if let Some(about) = call.client.about.as_ref().filter(|about| !about.is_charged()) {
                // Several of these calls may share it. It is charged once, below; to count it more
                // often here only makes the check stricter.
                more.1 += about.cost();
            }
        }
        let usage = match self.entries.get(owner) {
            Some(entry) => entry.usage,
            None => {
                more.1 += Entry::cost(owner.name());
                Usage::default()
            }
        };
        if let Err(full) = self.fits((owner, usage), account, kind, more) {
            calls.clear();
            return Err(full);
        }
        let (queue, same) = (self.name(queue, kind, account), queue == owner);
        let owner = if same { queue.clone() } else { self.name(owner, kind, account) };
        for mut call in calls.drain(..) {
            (call.queue, call.owner) = (queue.clone(), owner.clone());
            self.charge(&call);
            self.put(call, false);
        }
        Ok(())
    }

    /// Puts in the notice that a client's number is not used again, after its queued calls, at its
    /// address or in its client's queue. If none is queued, the order does not matter.
    pub fn push_forgotten(&mut self, queue: Option<Owner<'_>>, mut call: Call) {
        call.kind = Kind::Forgotten;
        let queue = match self.new_connections.get(&call.client.number) {
            Some(new_connections) => {
                let name = new_connections.next.as_ref().unwrap_or(&new_connections.queue).clone();
                Some(self.name(name.owner(), Kind::Notification, None))
            }
            None => {
                let there = queue.filter(|queue| self.entries.get(*queue).is_some());
                there.map(|queue| self.name(queue, Kind::Notification, None))
            }
        };
        let Some(queue) = queue else {
            self.count_work();
            self.waiting += 1;
            return self.forgotten.push_back(call);
        };
        call.owner = queue.clone();
        call.queue = queue;
        self.put(call, false);
    }

    /// The name of an owner. Creates its entry if there is none.
    fn name(&mut self, owner: Owner<'_>, kind: Kind, account: Option<Account>) -> Name {
        let (entries, is_address) = (self.entries.of_mut(owner.is_address()), owner.is_address());
        if let Some((text, _)) = entries.get_key_value(owner.name()) {
            return Name { is_address, text: Arc::clone(text) };
        }
        let (text, bytes) = (Arc::<str>::from(owner.name()), Entry::cost(owner.name()));
        let mut usage = Usage::default();
        usage.add(kind, 0, bytes);
        self.usage.add(kind, 0, bytes);
        self.accounts.add(account, kind, 0, bytes);
        let own = (kind, bytes);
        let calls = VecDeque::new();
        let entry = Entry { calls, turns: 0, waiting_connections: 0, usage, charged: 0, own, account };
        entries.insert(Arc::clone(&text), entry);
        Name { is_address, text }
    }

    /// Puts a call into its queue, whose entry exists, at the front or at the end.
    fn put(&mut self, call: Call, first: bool) {
        self.count_work();
        let (number, queue) = (call.client.number, &call.queue);
        if queue.is_address && number != 0 {
            self.enters_address_queue(number, queue, first);
        }
        let Some(entry) = self.entries.get_mut(queue) else { return };
        if !queue.is_address
            && !first
            && let Some(new_connections) =
                self.new_connections.get_mut(&number).filter(|new_connections| new_connections.next.is_none())
        {
            // Its client has connected.
            new_connections.next = Some(queue.clone());
            entry.waiting_connections += usize::from(new_connections.waiting > 0);
        }
        if first {
            self.turns.push_front(queue.clone());
            entry.turns += 1;
            entry.calls.push_front(call);
        } else {
            if entry.waiting_connections == 0 && entry.turns < IN_ORDER {
                self.turns.push_back(queue.clone());
                entry.turns += 1;
            }
            entry.calls.push_back(call);
        }
        self.waiting += 1;
    }

    /// A call of this connection enters the queue of its address; `again` if it was taken before.
    fn enters_address_queue(&mut self, number: u64, queue: &Name, again: bool) {
        let new = || NewConnection { queue: queue.clone(), waiting: 0, taken: 0, next: None };
        let new_connections = self.new_connections.entry(number).or_insert_with(new);
        new_connections.waiting += 1;
        new_connections.taken = new_connections.taken.saturating_sub(usize::from(again));
        if new_connections.waiting > 1 {
            return;
        }
        match new_connections.next.as_ref().and_then(|next| self.entries.get_mut(next)) {
            Some(next) => next.waiting_connections += 1,
            None => new_connections.next = None,
        }
    }

    /// A call that was taken from the queue of an address will not be put back.
    fn call_dropped(&mut self, number: u64) {
        let Some(new_connections) = self.new_connections.get_mut(&number) else { return };
        new_connections.taken = new_connections.taken.saturating_sub(1);
        if new_connections.waiting + new_connections.taken > 0 {
            return;
        }
        self.new_connections.remove(&number);
        shrink::table(&mut self.new_connections, shrink::TABLE_MIN);
    }

    /// A call has left the queue of an address. After the last one of its connection, the client's
    /// calls get their turns.
    fn has_left(&mut self, number: u64) {
        let Some(new_connections) = self.new_connections.get_mut(&number) else { return };
        (new_connections.waiting, new_connections.taken) =
            (new_connections.waiting - 1, new_connections.taken + 1);
        if new_connections.waiting > 0 {
            return;
        }
        let Some(next) = new_connections.next.clone() else { return };
        let Some(entry) = self.entries.get_mut(&next) else { return };
        entry.waiting_connections = entry.waiting_connections.saturating_sub(1);
        while entry.waiting_connections == 0 && entry.turns < entry.calls.len().min(IN_ORDER) {
            entry.turns += 1;
            self.turns.push_back(next.clone());
        }
    }

    fn charge(&mut self, call: &Call) {
        self.count_in((&call.owner, call.account), call.kind, call.count(), call.cost());
        if let Some(about) = &call.client.about
            && about.waiting.fetch_add(1, Relaxed) == 0
        {
            let (kind, bytes) = (call.kind, about.cost());
            self.count_in((&call.owner, call.account), kind, 0, bytes);
            *about.charge() = Some(Charge { kind, bytes, owner: call.owner.clone(), account: call.account });
        }
    }

    fn count_in(&mut self, (owner, account): (&Name, Option<Account>), kind: Kind, calls: u64, bytes: u64) {
        self.usage.add(kind, calls, bytes);
        self.accounts.add(account, kind, calls, bytes);
        if let Some(owner) = self.entries.get_mut(owner) {
            owner.usage.add(kind, calls, bytes);
            owner.charged += 1;
        }
    }

    fn count_out(&mut self, (owner, account): (&Name, Option<Account>), kind: Kind, calls: u64, bytes: u64) {
        self.usage.take(kind, calls, bytes);
        self.accounts.take(account, kind, calls, bytes);
        if let Some(owner) = self.entries.get_mut(owner) {
            owner.usage.take(kind, calls, bytes);
            owner.charged = owner.charged.saturating_sub(1);
        }
        self.remove_owner(owner);
    }

    /// A call that was taken is no longer charged.
    pub fn release(&mut self, call: Call) {
        self.count_work();
        if call.queue.is_address {
            self.call_dropped(call.client.number);
        }
        if call.kind == Kind::Forgotten {
            return self.remove_owner(&call.queue);
        }
        if let Some(about) = &call.client.about
            && about.waiting.fetch_sub(1, Relaxed) == 1
            && let Some(Charge { kind, bytes, owner, account }) = about.charge().take()
        {
            self.count_out((&owner, account), kind, 0, bytes);
        }
        self.count_out((&call.owner, call.account), call.kind, call.count(), call.cost());
        if call.queue != call.owner {
            self.remove_owner(&call.queue);
        }
    }

    /// Removes an owner without calls and charges.
    fn remove_owner(&mut self, name: &Name) {
        let entries = self.entries.of_mut(name.is_address);
        let Some(entry) = entries.get(&name.text) else { return };
        if !entry.calls.is_empty() || entry.charged > 0 {
            return;
        }
        let ((kind, bytes), account) = (entry.own, entry.account);
        entries.remove(&name.text);
        self.usage.take(kind, 0, bytes);
        self.accounts.take(account, kind, 0, bytes);
        // Returns memory after a peak.
        if shrink::table(entries, shrink::TABLE_MIN) {
            self.turns.shrink_to(self.turns.len() * 2);
        }
    }

    /// Takes out calls in the order of turns, at most `calls_max` and `bytes_max`; one call that is
    /// longer is taken alone. They stay charged until they are released.
    pub fn take(&mut self, calls_max: usize, bytes_max: usize, into: &mut Vec<Call>) {
        let forgotten = self.forgotten.len().min(calls_max.div_ceil(2));
        into.extend(self.forgotten.drain(..forgotten));
        self.waiting -= forgotten;
        shrink::list(&mut self.forgotten);
        let mut bytes: usize = into.iter().map(|call| call.bytes.len()).sum();
        while into.len() < calls_max {
            let Some(name) = self.turns.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let Some(len) = entry.calls.front().map(|call| call.bytes.len()) else { continue };
            if !into.is_empty() && bytes + len > bytes_max {
                self.turns.push_front(name);
                return;
            }
            let Some(call) = entry.calls.pop_front() else { continue };
            bytes += len;
            entry.turns -= 1;
            self.waiting -= 1;
            shrink::list(&mut entry.calls);
            let len = entry.calls.len();
            if entry.waiting_connections == 0 && len > entry.turns && entry.turns < IN_ORDER {
                entry.turns += 1;
                self.turns.push_back(name);
            }
            if call.queue.is_address {
                self.has_left(call.client.number);
            }
            into.push(call);
            self.count_work();
        }
    }

    /// Puts taken calls back to the front.
    pub fn put_back(&mut self, calls: Vec<Call>) {
        for mut call in calls.into_iter().rev() {
            // The entry may have been removed meanwhile if the call was not counted.
            call.queue = self.name(call.queue.clone().owner(), Kind::Notification, None);
            self.put(call, true);
        }
    }

    /// Takes out all queued calls; they stay charged until they are released.
    pub fn drain(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.is_empty() {
            self.take(usize::MAX, usize::MAX, &mut calls);
        }
        calls
    }
}

#[cfg(test)]
mod tests;

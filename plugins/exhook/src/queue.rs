//! The calls that wait for one worker, in a queue for each client: a client's calls keep their order, and they go in the order in which
//! they came as long as no client has many; clients that have take turns with the others. What is held is counted as memory, for each client and in all; notifications have at most half of either, so that questions find room
//! beside them. Used under the lock of `line.rs`; it knows of no process and no ticket.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use grapnel_plugin_abi::{allocated, tree_entry_bytes};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls of all clients together.
    pub calls_max: u64,
    /// Bytes of memory that they take.
    pub bytes_max: u64,
    /// Calls of one client.
    pub client_calls_max: u64,
    /// Bytes of memory that they take.
    pub client_bytes_max: u64,
}

/// What a call is for the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nobody waits for an answer; it may be dropped.
    Notification,
    /// The broker waits for an answer.
    Question,
    /// That a client will not be named again: taken whatever waits, since there is one at most for each client that is described.
    Forgotten,
}

/// Why a call was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client has as much waiting as one may have.
    Client,
    /// All clients together have.
    All,
}

/// A description of a client, which all calls share that may have to be given to another process than was told of it.
#[derive(Debug)]
pub struct About {
    bytes: Box<[u8]>,
    /// How many calls that wait have it, and what the first of them was charged for it: bytes, above a bit for the kind.
    waiting: AtomicU32,
    charged: AtomicU64,
}

impl About {
    /// Of these bytes: a map, as MessagePack has it.
    pub fn new(bytes: Vec<u8>) -> Arc<About> {
        Arc::new(About { bytes: bytes.into(), waiting: AtomicU32::new(0), charged: AtomicU64::new(0) })
    }

    /// The description.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn cost(&self) -> u64 {
        allocated(self.bytes.len()) + allocated(16 + size_of::<About>())
    }
}

/// A client as calls name it.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Its number; 0 for nobody.
    pub number: u64,
    /// Its description for a process that has not been told of it.
    pub about: Option<Arc<About>>,
}

/// A call that waits.
#[derive(Debug)]
pub struct Call {
    /// As it is sent.
    pub bytes: Box<[u8]>,
    /// What an answer to it names; 0 where nobody waits.
    pub id: u64,
    /// The hook point, or one of the numbers of `line.rs`.
    pub point: i64,
    /// Whom it is about.
    pub client: Named,
    /// The process that it was put together for.
    pub epoch: u64,
    kind: Kind,
    /// Whose queue it waits in, and who is charged for it.
    queue: Arc<str>,
    owner: Arc<str>,
}

impl Call {
    /// A call that belongs to nobody yet.
    pub fn new(bytes: &[u8], id: u64, point: i64, client: Named, epoch: u64) -> Call {
        let nobody: Arc<str> = Arc::default();
        let (queue, owner) = (Arc::clone(&nobody), nobody);
        Call { bytes: bytes.into(), id, point, client, epoch, kind: Kind::Forgotten, queue, owner }
    }

    /// 0 for what comes beside a call: it is counted in bytes alone.
    fn count(&self) -> u64 {
        u64::from(self.point >= 0)
    }

    fn cost(&self) -> u64 {
        // Its place in two lists that have doubled, and where somebody waits for its answer, that.
        let place = 2 * (size_of::<Call>() + size_of::<Arc<str>>()) as u64;
        let waited_for = if self.kind == Kind::Question { WAITED_FOR } else { 0 };
        place + waited_for + allocated(self.bytes.len())
    }
}

/// How many calls of a client go in the order in which they came, beside those of others. Those behind them wait until one of these
/// has gone: whoever comes waits for so many of each client, and not for all that it has left.
const IN_ORDER: usize = 32;

/// What is held for an answer: an entry of a tree with a ticket in it.
const WAITED_FOR: u64 = tree_entry_bytes(64);

/// How much somebody holds, or all do.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Held {
    /// Calls; what only describes a client is none.
    pub calls: u64,
    /// Bytes of memory, descriptions included.
    pub bytes: u64,
    /// Calls among them that are notifications.
    pub notifications: u64,
    /// What those take.
    pub notification_bytes: u64,
}

impl Held {
    fn add(&mut self, kind: Kind, calls: u64, bytes: u64) {
        match kind {
            Kind::Forgotten => return,
            Kind::Question => {}
            Kind::Notification => {
                self.notifications += calls;
                self.notification_bytes += bytes;
            }
        }
        self.calls += calls;
        self.bytes += bytes;
    }

    fn take(&mut self, kind: Kind, calls: u64, bytes: u64) {
        match kind {
            Kind::Forgotten => return,
            Kind::Question => {}
            Kind::Notification => {
                self.notifications = self.notifications.saturating_sub(calls);
                self.notification_bytes = self.notification_bytes.saturating_sub(bytes);
            }
        }
        self.calls = self.calls.saturating_sub(calls);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether so much more of a kind fits: notifications take at most half.
    fn fits(&self, kind: Kind, (calls, bytes): (u64, u64), (calls_max, bytes_max): (u64, u64)) -> bool {
        let half = kind != Kind::Notification
            || (self.notifications + calls <= calls_max / 2
                && self.notification_bytes + bytes <= bytes_max / 2);
        half && self.calls + calls <= calls_max && self.bytes + bytes <= bytes_max
    }
}

/// The calls of one client, and what it is charged for.
#[derive(Debug)]
struct Client {
    calls: VecDeque<Call>,
    /// How often it is among the turns: the first of its calls.
    turns: usize,
    held: Held,
    /// How many calls are charged to it, waiting or on their way.
    charged: usize,
    /// What this entry itself costs, and for a call of which kind it was made.
    own: (Kind, u64),
}

impl Client {
    /// What an entry costs: its place in a table that has doubled, its name, and the first places of its list.
    fn cost(name: &str) -> u64 {
        let places = 2 * size_of::<(Arc<str>, Client)>();
        places as u64 + allocated(16 + name.len()) + allocated(4 * size_of::<Call>())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    clients: HashMap<Arc<str>, Client>,
    /// Whose turn is next: a place for each of the first calls of every client.
    turns: VecDeque<Arc<str>>,
    held: Held,
    waiting: usize,
}

impl Queue {
    /// Empty.
    pub fn new(limits: Limits) -> Queue {
        Queue { limits, clients: HashMap::new(), turns: VecDeque::new(), held: Held::default(), waiting: 0 }
    }

    /// How much is held, what is on its way to the worker included.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Whether no call waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether there is room for a call at all, before it is put together.
    ///
    /// # Errors
    /// What is full.
    pub fn has_room(&self, owner: &str, kind: Kind) -> Result<(), Full> {
        let held = self.clients.get(owner).map_or_else(Held::default, |client| client.held);
        self.fits(held, kind, (1, size_of::<Call>() as u64))
    }

    fn fits(&self, owner: Held, kind: Kind, more: (u64, u64)) -> Result<(), Full> {
        let Limits { calls_max, bytes_max, client_calls_max, client_bytes_max } = self.limits;
        if kind == Kind::Forgotten {
            Ok(())
        } else if !owner.fits(kind, more, (client_calls_max, client_bytes_max)) {
            Err(Full::Client)
        } else if !self.held.fits(kind, more, (calls_max, bytes_max)) {
            Err(Full::All)
        } else {
            Ok(())
        }
    }

    /// Takes calls that belong together into a client's queue, all or none; whoever is `owner` is charged for them.
    ///
    /// # Errors
    /// What is full; nothing has changed then, and the calls are gone.
    pub fn push(
        &mut self,
        (queue, owner): (&str, &str),
        kind: Kind,
        calls: &mut Vec<Call>,
    ) -> Result<(), Full> {
        let mut more = (0, 0);
        for call in &mut *calls {
            call.kind = kind;
            more = (more.0 + call.count(), more.1 + call.cost());
            if let Some(about) = call.client.about.as_ref().filter(|about| about.waiting.load(Relaxed) == 0) {
                // Several of these calls may share it; it is counted once, below, and too much of it here is on the safe side.
                more.1 += about.cost();
            }
        }
        let held = match self.clients.get(owner) {
            Some(client) => client.held,
            None => {
                more.1 += Client::cost(owner);
                Held::default()
            }
        };
        if let Err(full) = self.fits(held, kind, more) {
            calls.clear();
            return Err(full);
        }
        let queue = self.name(queue, kind);
        let owner = if *queue == *owner { Arc::clone(&queue) } else { self.name(owner, kind) };
        for mut call in calls.drain(..) {
            (call.queue, call.owner) = (Arc::clone(&queue), Arc::clone(&owner));
            self.charge(&call);
            self.put(call, false);
        }
        Ok(())
    }

    /// Takes the word that a client will not be named again, behind what waits of that client.
    pub fn push_forgotten(&mut self, queue: &str, mut call: Call) {
        // Where nothing waits there is nothing that it could come before.
        let queue = if self.clients.contains_key(queue) { queue } else { "" };
        call.kind = Kind::Forgotten;
        call.queue = self.name(queue, Kind::Notification);
        call.owner = Arc::clone(&call.queue);
        self.put(call, false);
    }

    /// The name of a client, whose entry is made if there is none.
    fn name(&mut self, name: &str, kind: Kind) -> Arc<str> {
        if let Some((name, _)) = self.clients.get_key_value(name) {
            return Arc::clone(name);
        }
        let (name, bytes) = (Arc::<str>::from(name), Client::cost(name));
        let mut held = Held::default();
        held.add(kind, 0, bytes);
        self.held.add(kind, 0, bytes);
        let client = Client { calls: VecDeque::new(), turns: 0, held, charged: 0, own: (kind, bytes) };
        self.clients.insert(Arc::clone(&name), client);
        name
    }

    /// Puts a call into its queue, whose entry is there, behind all others or before them.
    fn put(&mut self, call: Call, first: bool) {
        let Some(client) = self.clients.get_mut(&call.queue) else { return };
        if first {
            self.turns.push_front(Arc::clone(&call.queue));
            client.turns += 1;
            client.calls.push_front(call);
        } else {
            if client.turns < IN_ORDER {
                self.turns.push_back(Arc::clone(&call.queue));
                client.turns += 1;
            }
            client.calls.push_back(call);
        }
        self.waiting += 1;
    }

    fn charge(&mut self, call: &Call) {
        let (mut bytes, kind) = (call.cost(), call.kind);
        if let Some(about) = &call.client.about
            && about.waiting.fetch_add(1, Relaxed) == 0
        {
            let cost = about.cost();
            about.charged.store(cost << 1 | u64::from(kind == Kind::Notification), Relaxed);
            bytes += cost;
        }
        self.held.add(kind, call.count(), bytes);
        if let Some(owner) = self.clients.get_mut(&call.owner) {
            owner.held.add(kind, call.count(), bytes);
            owner.charged += 1;
        }
    }

    /// A call that was taken is held no longer.
    pub fn release(&mut self, call: Call) {
        let mut parts = [(call.kind, call.count(), call.cost()), (Kind::Forgotten, 0, 0)];
        if let Some(about) = &call.client.about
            && call.kind != Kind::Forgotten
            && about.waiting.fetch_sub(1, Relaxed) == 1
        {
            // In the room in which the first call with it was counted.
            let charged = about.charged.load(Relaxed);
            let kind = if charged & 1 == 1 { Kind::Notification } else { Kind::Question };
            parts[1] = (kind, 0, charged >> 1);
        }
        for (kind, calls, bytes) in parts {
            self.held.take(kind, calls, bytes);
            if let Some(owner) = self.clients.get_mut(&call.owner) {
                owner.held.take(kind, calls, bytes);
            }
        }
        if call.kind != Kind::Forgotten
            && let Some(owner) = self.clients.get_mut(&call.owner)
        {
            owner.charged = owner.charged.saturating_sub(1);
        }
        self.let_go(&call.owner);
        if call.queue != call.owner {
            self.let_go(&call.queue);
        }
    }

    /// Removes a client that has nothing any more.
    fn let_go(&mut self, name: &Arc<str>) {
        let Some(client) = self.clients.get(name) else { return };
        if !client.calls.is_empty() || client.charged > 0 {
            return;
        }
        let (kind, bytes) = client.own;
        self.clients.remove(name);
        self.held.take(kind, 0, bytes);
        // What a storm has taken is given back.
        if self.clients.capacity() > 64 && self.clients.len() * 8 < self.clients.capacity() {
            self.clients.shrink_to(self.clients.len() * 2);
            self.turns.shrink_to(self.turns.len() * 2);
        }
    }

    /// Takes out calls of the clients whose turns they are, at most so many and so many bytes, but for a
    /// single call that is longer. They are held until they are released.
    pub fn take(&mut self, calls_max: usize, bytes_max: usize, into: &mut Vec<Call>) {
        let mut bytes: usize = into.iter().map(|call| call.bytes.len()).sum();
        while into.len() < calls_max {
            let Some(name) = self.turns.pop_front() else { return };
            let Some(client) = self.clients.get_mut(&name) else { continue };
            let Some(len) = client.calls.front().map(|call| call.bytes.len()) else { continue };
            if !into.is_empty() && bytes + len > bytes_max {
                self.turns.push_front(name);
                return;
            }
            bytes += len;
            into.extend(client.calls.pop_front());
            client.turns -= 1;
            self.waiting -= 1;
            let (len, capacity) = (client.calls.len(), client.calls.capacity());
            if capacity > 64 && len * 4 < capacity {
                client.calls.shrink_to(len * 2);
            }
            if len > client.turns && client.turns < IN_ORDER {
                client.turns += 1;
                self.turns.push_back(name);
            }
        }
    }

    /// Puts back what was taken and not released, where it was.
    pub fn put_back(&mut self, calls: Vec<Call>) {
        for mut call in calls.into_iter().rev() {
            // The entry of one that is not counted may have gone meanwhile.
            call.queue = self.name(&Arc::clone(&call.queue), Kind::Notification);
            self.put(call, true);
        }
    }

    /// Takes out all that waits; it is held until it is released.
    pub fn drain(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.take(usize::MAX, usize::MAX, &mut calls);
        calls
    }
}

#[cfg(test)]
mod tests;

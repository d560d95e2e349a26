//! A call that waits for a worker: whom it is about, in whose queue it waits, and what it costs.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grapnel_plugin_abi::{allocated, tree_entry_bytes};

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

/// In whose queue a call waits, or who is charged for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner<'a> {
    /// A client that has come in, by its identifier; nobody where that is empty.
    Client(&'a str),
    /// An address: somebody there wants to come in, under whichever identifier.
    Address(&'a str),
}

impl<'a> Owner<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Owner::Client(name) | Owner::Address(name) => name,
        }
    }

    pub(super) fn is_address(self) -> bool {
        matches!(self, Owner::Address(_))
    }
}

/// An owner, kept.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Name {
    pub(super) is_address: bool,
    pub(super) text: Arc<str>,
}

impl Name {
    pub(super) fn owner(&self) -> Owner<'_> {
        if self.is_address { Owner::Address(&self.text) } else { Owner::Client(&self.text) }
    }
}

/// A description of a client, which all calls share that may have to be given to another process than was told of it.
#[derive(Debug)]
pub struct About {
    bytes: Box<[u8]>,
    /// How many calls that wait have it, and who is charged for it as long as some do. Both change under the lock of the line.
    pub(super) waiting: AtomicU32,
    pub(super) charged: Mutex<Option<Charge>>,
}

/// What a description is charged with: in the room of the first call that had it.
#[derive(Clone, Debug)]
pub(super) struct Charge {
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) owner: Name,
}

impl About {
    /// Of these bytes: a map, as MessagePack has it.
    pub fn new(bytes: Vec<u8>) -> Arc<About> {
        Arc::new(About { bytes: bytes.into(), waiting: AtomicU32::new(0), charged: Mutex::new(None) })
    }

    /// The description.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn cost(&self) -> u64 {
        allocated(self.bytes.len()) + allocated(16 + size_of::<About>())
    }

    pub(super) fn charge(&self) -> MutexGuard<'_, Option<Charge>> {
        self.charged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_charged(&self) -> bool {
        self.waiting.load(Relaxed) > 0
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
    /// The hook point, or one of the numbers of `call_queue.rs`.
    pub point: i64,
    /// Whom it is about.
    pub client: Named,
    /// The process that it was put together for.
    pub epoch: u64,
    pub(super) kind: Kind,
    /// Whose queue it waits in, and who is charged for it.
    pub(super) queue: Name,
    pub(super) owner: Name,
}

impl Call {
    /// A call that belongs to nobody yet.
    pub fn new(bytes: &[u8], id: u64, point: i64, client: Named, epoch: u64) -> Call {
        let nobody = Name::default();
        let (queue, owner) = (nobody.clone(), nobody);
        Call { bytes: bytes.into(), id, point, client, epoch, kind: Kind::Forgotten, queue, owner }
    }

    /// 0 for what comes beside a call: it is counted in bytes alone.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.point >= 0)
    }

    pub(super) fn cost(&self) -> u64 {
        // Its place in two lists that have doubled, what is noted of a connection that comes in, and where somebody waits for its
        // answer, that.
        let place = 2 * (size_of::<Call>() + size_of::<Name>()) as u64;
        let entering = if self.queue.is_address { 2 * size_of::<(u64, super::Entering)>() as u64 } else { 0 };
        let waited_for = if self.kind == Kind::Question { WAITED_FOR } else { 0 };
        place + entering + waited_for + allocated(self.bytes.len())
    }
}

/// What is held for an answer: an entry of a tree with a ticket in it.
pub(super) const WAITED_FOR: u64 = tree_entry_bytes(64);

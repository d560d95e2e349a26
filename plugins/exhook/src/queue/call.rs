//! A queued call: which client it is about, whose queue it is in, and what it costs.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grapnel_plugin_abi::{allocated, tree_entry_bytes};

use super::account::Account;

/// The kind of a call, for the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nobody waits for an answer; it may be dropped.
    Notification,
    /// The broker waits for an answer.
    Question,
    /// A client's number is not used again. Always taken, since there is at most one for each
    /// described client.
    Forgotten,
}

/// Whose queue a call is in, or who is charged for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner<'a> {
    /// A connected client, by its identifier; empty for no client.
    Client(&'a str),
    /// An address with pending logins, under any identifier.
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

/// The owned form of [`Owner`].
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

/// The description of a client. It is shared by all calls that may be sent to another process than
/// the one that has it.
#[derive(Debug)]
pub struct Description {
    bytes: Box<[u8]>,
    /// Number of queued calls that refer to it, and who is charged while there are any. Both change
    /// under the lock of the call queue.
    pub(super) waiting: AtomicU32,
    pub(super) charged: Mutex<Option<Charge>>,
}

/// The charge of a description, in the quota of the first call that refers to it.
#[derive(Clone, Debug)]
pub(super) struct Charge {
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) owner: Name,
    pub(super) account: Option<Account>,
}

impl Description {
    /// From a map in MessagePack.
    pub fn new(bytes: Vec<u8>) -> Arc<Description> {
        Arc::new(Description { bytes: bytes.into(), waiting: AtomicU32::new(0), charged: Mutex::new(None) })
    }

    /// The description.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn cost(&self) -> u64 {
        allocated(self.bytes.len()) + allocated(16 + size_of::<Description>())
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
pub struct NamedClient {
    /// Its number; 0 for no client.
    pub number: u64,
    /// Its description, for a process that does not have it.
    pub about: Option<Arc<Description>>,
    /// The number of its session; before it is in, of the session under its client identifier. 0
    /// for none.
    pub session: u64,
}

/// A queued call.
#[derive(Debug)]
pub struct Call {
    /// In encoded form.
    pub bytes: Box<[u8]>,
    /// The number that its answer names; 0 if no answer is expected.
    pub id: u64,
    /// The hook point, or one of the numbers of `call_queue.rs`.
    pub point: i64,
    /// The client.
    pub client: NamedClient,
    /// Number of the process that it was encoded for.
    pub epoch: u64,
    pub(super) kind: Kind,
    /// Whose queue it is in, and who is charged.
    pub(super) queue: Name,
    pub(super) owner: Name,
    /// The account that is charged too.
    pub account: Option<Account>,
}

impl Call {
    /// A call without an owner.
    pub fn new(bytes: &[u8], id: u64, point: i64, client: NamedClient, epoch: u64) -> Call {
        let nobody = Name::default();
        let (queue, owner) = (nobody.clone(), nobody);
        Call {
            bytes: bytes.into(),
            id,
            point,
            client,
            epoch,
            kind: Kind::Forgotten,
            queue,
            owner,
            account: None,
        }
    }

    /// 0 for descriptions and notices: only their bytes are counted.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.point >= 0)
    }

    pub(super) fn cost(&self) -> u64 {
        // Its place in two lists that have doubled, the record of a pending login, and the record
        // of a pending answer.
        let place = 2 * (size_of::<Call>() + size_of::<Name>()) as u64;
        let new_connections =
            if self.queue.is_address { 2 * size_of::<(u64, super::NewConnection)>() as u64 } else { 0 };
        let waited_for = if self.kind == Kind::Question { WAITED_FOR } else { 0 };
        place + new_connections + waited_for + allocated(self.bytes.len())
    }
}

/// Memory of a pending answer: an entry of a tree with a ticket in it.
pub(super) const WAITED_FOR: u64 = tree_entry_bytes(64);

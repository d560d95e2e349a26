//! Which entries of a state have changed since they were sent, and the format of the transferred
//! entries.

use std::collections::BTreeSet;

use super::{Entries, StateKey};
use crate::sdk::Error;

/// Maximum number of noted keys. With one more, the transfer starts again from the first entry.
/// This limits the memory. A state that changes faster than that does not finish within the time
/// limit of the broker.
const NOTED_MAX: usize = 65_536;

/// Which entries have changed since they were sent to the version that replaces this one. A field
/// of the instance. Without a reload, it costs one comparison for each change.
#[derive(Debug)]
pub struct Journal<K> {
    phase: Phase<K>,
    pub(super) noted: BTreeSet<K>,
    version: u32,
    /// The written bytes, and the position of the first unsent one: an entry may be larger than a
    /// piece.
    pub(super) out: Vec<u8>,
    sent: usize,
    /// On the receiving side: the beginning of an entry whose rest has not arrived yet.
    pub(super) taken: Vec<u8>,
}

#[derive(Debug)]
enum Phase<K> {
    /// No reload is active.
    Idle,
    /// Entries up to this key have been sent.
    Copy(Option<K>),
    /// All entries have been sent.
    Follow,
}

impl<K> Default for Journal<K> {
    fn default() -> Journal<K> {
        Journal {
            phase: Phase::Idle,
            noted: BTreeSet::new(),
            version: 0,
            out: Vec::new(),
            sent: 0,
            taken: Vec::new(),
        }
    }
}

impl<K: StateKey> Journal<K> {
    /// Reports that the entry with this key was added, changed or removed. Call it before or after
    /// the change, but within the same call of the plugin.
    #[inline]
    pub fn note(&mut self, key: &K) {
        match &self.phase {
            Phase::Idle => {}
            // An entry with a higher key has yet to be sent, and is sent as it is then.
            Phase::Copy(upto) if upto.as_ref().is_none_or(|upto| key > upto) => {}
            Phase::Copy(_) | Phase::Follow => self.keep(key),
        }
    }

    /// Whether an export is active, so that changes are noted.
    #[inline]
    pub fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    #[cold]
    fn keep(&mut self, key: &K) {
        if self.noted.len() < NOTED_MAX {
            self.noted.insert(key.clone());
        } else if !self.noted.contains(key) {
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        self.noted.clear();
        self.phase = Phase::Copy(None);
        Record::All(self.version).write(&mut self.out);
    }

    pub(super) fn begun(version: u32) -> Journal<K> {
        let mut journal = Journal { version, ..Journal::default() };
        journal.begin_anew();
        journal
    }

    pub(super) fn following(version: u32) -> Journal<K> {
        Journal { phase: Phase::Follow, version, ..Journal::default() }
    }

    /// Passes the next piece to `write`; returns whether more follow.
    pub(super) fn write_piece<S: Entries<Key = K>>(
        &mut self,
        state: &S,
        bytes_max: usize,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        if matches!(self.phase, Phase::Idle) {
            return Err(Error::new(
                "a piece of its state is requested, but no export has begun or the last one failed",
            ));
        }
        let mut end = self.sent.saturating_add(bytes_max);
        while self.out.len() < end && self.write_entry(state) {}
        end = end.min(self.out.len());
        write(&self.out[self.sent..end])?;
        self.sent = end;
        // Not each time: this would move the rest of a very large entry once for each of its
        // pieces.
        if self.sent >= self.out.len() - self.sent {
            self.out.drain(..self.sent);
            self.sent = 0;
            // Memory for an entry that was larger than a piece is released.
            self.out.shrink_to(bytes_max.saturating_mul(4));
        }
        Ok(!(self.out.is_empty() && self.noted.is_empty() && matches!(self.phase, Phase::Follow)))
    }

    /// Writes one more entry; returns false if there is none.
    fn write_entry<S: Entries<Key = K>>(&mut self, state: &S) -> bool {
        if let Phase::Copy(upto) = &mut self.phase
            && self.noted.len() <= NOTED_MAX / 2
        {
            match state.next_key(upto.as_ref()) {
                Some(key) => {
                    entry_of(state, &key, &mut self.out);
                    *upto = Some(key);
                }
                None => self.phase = Phase::Follow,
            }
            return true;
        }
        let Some(key) = self.noted.pop_first() else { return false };
        entry_of(state, &key, &mut self.out);
        true
    }
}

fn entry_of<S: Entries>(state: &S, key: &S::Key, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + Record::HEAD, 0);
    key.write(out);
    let key_end = out.len();
    let kind = if state.write(key, out) { Record::PUT } else { Record::REMOVED };
    if kind == Record::REMOVED {
        out.truncate(key_end);
    }
    let (key_len, value_len) = (key_end - start - Record::HEAD, out.len() - key_end);
    out[start..start + Record::HEAD].copy_from_slice(&Record::head(kind, key_len, value_len));
}

/// One record of a transferred state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// All entries follow, in this format; earlier records are void.
    All(u32),
    /// Key and value.
    Put(&'a [u8], &'a [u8]),
    /// The key of a removed entry.
    Removed(&'a [u8]),
}

impl<'a> Record<'a> {
    /// Kind, length of the key, length of the value.
    const HEAD: usize = 1 + 8 + 8;
    const ALL: u8 = 0;
    const PUT: u8 = 1;
    const REMOVED: u8 = 2;

    fn head(kind: u8, key_len: usize, value_len: usize) -> [u8; Record::HEAD] {
        let mut head = [0; Record::HEAD];
        head[0] = kind;
        head[1..9].copy_from_slice(&(key_len as u64).to_le_bytes());
        head[9..].copy_from_slice(&(value_len as u64).to_le_bytes());
        head
    }

    fn write(&self, out: &mut Vec<u8>) {
        let version;
        let (kind, key, value): (u8, &[u8], &[u8]) = match self {
            Record::All(of) => {
                version = of.to_le_bytes();
                (Record::ALL, &[], &version)
            }
            Record::Put(key, value) => (Record::PUT, key, value),
            Record::Removed(key) => (Record::REMOVED, key, &[]),
        };
        out.extend_from_slice(&Record::head(kind, key.len(), value.len()));
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }

    /// Reads the next record; `None` if the rest of it has not arrived yet.
    pub(super) fn read(rest: &mut &'a [u8]) -> Result<Option<Record<'a>>, Error> {
        let Some((head, body)) = rest.split_first_chunk::<{ Record::HEAD }>() else { return Ok(None) };
        let len = |at: usize| {
            let bytes: [u8; 8] = std::array::from_fn(|byte| head[at + byte]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let Some((key, after)) = body.split_at_checked(len(1)) else { return Ok(None) };
        let Some((value, after)) = after.split_at_checked(len(9)) else { return Ok(None) };
        let record = match (head[0], <[u8; 4]>::try_from(value)) {
            (Record::ALL, Ok(version)) => Record::All(u32::from_le_bytes(version)),
            (Record::PUT, _) => Record::Put(key, value),
            (Record::REMOVED, _) => Record::Removed(key),
            (kind, _) => {
                return Err(Error::new(format!("an entry of its state is of an unknown kind ({kind})")));
            }
        };
        *rest = after;
        Ok(Some(record))
    }
}

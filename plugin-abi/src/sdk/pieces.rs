//! Transfers the state to a new generation in pieces while events continue: entries by key, and a
//! journal of the changes after an entry was sent. Plugins implement [`Entries`]; the functions
//! that `plugin!` exports do the rest.

mod journal;
mod key;

pub use journal::Journal;
pub use key::StateKey;

use super::Error;
use crate::raw::ExportStep;
use journal::Record;

/// The state of a shard's instance as entries, each with a key. [`super::Plugin::pieces`] returns
/// it to the broker. A reload can then transfer a state of any size, and no client waits longer
/// than for one piece.
///
/// The broker requests one piece between two turns of the shard, and hooks are called in between as
/// usual. So all code that adds, changes or removes an entry must report the key to the
/// [`Journal`]: an entry that was sent already is then sent again.
/// [`crate::testing::TestPlugin::reloaded_while`] finds code that does not report.
pub trait Entries {
    /// The key of an entry. The same type in the version that takes over.
    type Key: StateKey;

    /// Number of the format of the entries. Change it when the format changes.
    const VERSION: u32 = 1;

    /// The journal; a field of the instance.
    fn journal(&mut self) -> &mut Journal<Self::Key>;

    /// The lowest key above `after`; the lowest of all for `None`. Called once for each entry: must
    /// not be slower than a look-up.
    fn next_key(&self, after: Option<&Self::Key>) -> Option<Self::Key>;

    /// Appends the entry's value, without the key. Returns false if there is no such entry (any
    /// more).
    fn write(&self, key: &Self::Key, out: &mut Vec<u8>) -> bool;

    /// Takes over an entry; it replaces an entry with the same key. Do not check limits yet: if the
    /// old version removes an entry during the transfer, [`Entries::remove`] is called later.
    ///
    /// # Errors
    /// Any; the reload is cancelled, and the operator gets the text.
    fn put(&mut self, key: Self::Key, value: &[u8]) -> Result<(), Error>;

    /// Removes an entry, if it exists.
    fn remove(&mut self, key: &Self::Key);

    /// Removes all entries: a complete new transfer follows.
    fn clear(&mut self);

    /// Whether this version reads entries of this format. If not, the reload is cancelled.
    fn takes(version: u32) -> bool {
        version == Self::VERSION
    }

    /// All entries are taken over, and the hooks of this instance are called next. Set timers here,
    /// and apply limits that are lower than those of the old version. May be called again: after a
    /// reload that was reverted, on the instance of the old version, whose timers are cancelled.
    ///
    /// # Errors
    /// Any; the reload is cancelled, and the operator gets the text.
    fn completed(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// [`Entries`] as the exported functions call them. Sealed: no other type can implement it.
pub trait Pieces: sealed::Sealed {
    /// Does one step; returns whether more steps follow. Calls `write` with the piece, at most
    /// once.
    #[doc(hidden)]
    fn export(
        &mut self,
        step: ExportStep,
        bytes_max: usize,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error>;

    /// Takes over a piece.
    #[doc(hidden)]
    fn import(&mut self, piece: &[u8], last: bool) -> Result<(), Error>;
}

mod sealed {
    pub trait Sealed {}
    impl<S: super::Entries> Sealed for S {}
}

impl<S: Entries> Pieces for S {
    fn export(
        &mut self,
        step: ExportStep,
        bytes_max: usize,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        match step {
            ExportStep::BEGIN => *self.journal() = Journal::begun(S::VERSION),
            ExportStep::NEXT => {}
            ExportStep::FOLLOW => {
                *self.journal() = Journal::following(S::VERSION);
                return Ok(false);
            }
            _ => {
                *self.journal() = Journal::default();
                return Ok(false);
            }
        }
        // Taken out of the state, because the state is read meanwhile. After an error no export is
        // active any more.
        let mut journal = std::mem::take(self.journal());
        let more = journal.write_piece(&*self, bytes_max, write)?;
        *self.journal() = journal;
        Ok(more)
    }

    fn import(&mut self, piece: &[u8], last: bool) -> Result<(), Error> {
        let mut taken = std::mem::take(&mut self.journal().taken);
        taken.extend_from_slice(piece);
        let mut rest = taken.as_slice();
        while let Some(record) = Record::read(&mut rest)? {
            take_over(self, &record)?;
        }
        if last && !rest.is_empty() {
            return Err(Error::new("its state ends within an entry"));
        }
        let read = taken.len() - rest.len();
        taken.drain(..read);
        if taken.is_empty() {
            taken = Vec::new();
        }
        self.journal().taken = taken;
        if last { self.completed() } else { Ok(()) }
    }
}

/// All entries in a stream of pieces, by key; for the tests of plugins.
pub(crate) fn entries_of(mut stream: &[u8]) -> Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let mut entries = std::collections::BTreeMap::new();
    while let Some(record) = Record::read(&mut stream)? {
        match record {
            Record::All(_) => entries.clear(),
            Record::Put(key, value) => drop(entries.insert(key.to_vec(), value.to_vec())),
            Record::Removed(key) => drop(entries.remove(key)),
        }
    }
    Ok(entries)
}

fn take_over<S: Entries>(state: &mut S, record: &Record<'_>) -> Result<(), Error> {
    let key = |bytes| S::Key::read(bytes).ok_or_else(|| Error::new("the key of an entry cannot be read"));
    match record {
        Record::All(version) if S::takes(*version) => state.clear(),
        Record::All(version) => {
            let text = format!(
                "its state has form {version}, and this version of the plugin reads form {}; where the state may be \
                 lost, unload it and load this version",
                S::VERSION
            );
            return Err(Error::new(text));
        }
        Record::Put(bytes, value) => state.put(key(bytes)?, value)?,
        Record::Removed(bytes) => state.remove(&key(bytes)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests;

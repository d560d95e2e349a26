//! State that goes to a new generation in pieces while events go on: entries by key, and a journal
//! of what changes after it went over. Plugins implement [`Entries`]; the functions that `plugin!`
//! exports do the rest.

mod journal;
mod key;

pub use journal::Journal;
pub use key::StateKey;

use super::Error;
use crate::raw::ExportStep;
use journal::Record;

/// The state of a shard's instance, as entries that each have a key: what [`super::Plugin::pieces`] gives the broker, so that a
/// state of any size goes over in a reload and no client waits for more than a piece of it.
///
/// The broker asks for piece after piece between two turns of the shard, and hooks are called in between as ever. So each place
/// that adds, changes or removes an entry tells the [`Journal`] its key: what had gone over already is sent once more.
/// [`crate::testing::TestPlugin::reloaded_while`] finds a place that was forgotten.
pub trait Entries {
    /// What an entry is known by. It is the same in the version that takes over.
    type Key: StateKey;

    /// Number of the form that entries are written in: another one for another form.
    const VERSION: u32 = 1;

    /// The journal, which is a field of the instance.
    fn journal(&mut self) -> &mut Journal<Self::Key>;

    /// The lowest key above this one; the lowest of all for `None`. Asked once for each entry: no slower than a look-up.
    fn next_key(&self, after: Option<&Self::Key>) -> Option<Self::Key>;

    /// Appends what an entry holds beside its key; false where there is no such entry (any more).
    fn write(&self, key: &Self::Key, out: &mut Vec<u8>) -> bool;

    /// Takes an entry over, instead of the one with the same key if there is one. Bounds are not looked at yet: what the version
    /// before has let go of meanwhile comes as a [`Entries::remove`] later.
    ///
    /// # Errors
    /// Any; the reload is called off, and the operator reads the text.
    fn put(&mut self, key: Self::Key, value: &[u8]) -> Result<(), Error>;

    /// Lets go of an entry, if it is there.
    fn remove(&mut self, key: &Self::Key);

    /// Lets go of all entries: all that there are follow.
    fn clear(&mut self);

    /// Whether entries of this form are understood; where they are not, the reload is called off.
    fn takes(version: u32) -> bool {
        version == Self::VERSION
    }

    /// All has been taken over, and the hooks of this instance are called next. Timers are armed here, and a bound that is lower
    /// than that of the version before is seen to. May be called again: after a reload that was taken back, on the instance of the
    /// old version, whose timers are gone.
    ///
    /// # Errors
    /// Any; the reload is called off, and the operator reads the text.
    fn completed(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// [`Entries`] as the exported functions call them; nothing else can be it.
pub trait Pieces: sealed::Sealed {
    /// Does a step; whether more is to come. What is to go over is given to `write`, at most once.
    #[doc(hidden)]
    fn export(
        &mut self,
        step: ExportStep,
        bytes_max: usize,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error>;

    /// Takes a piece over.
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
        // Out of the state, which is read meanwhile. If that fails, no export is under way any more.
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

/// What a whole stream of pieces holds, by key; for the tests of plugins.
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

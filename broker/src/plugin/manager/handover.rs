//! Moves the state of a plugin from the old generation to the new one, shard by shard. If both
//! generations support pieces, the pieces are moved between turns while the old generation serves
//! events; the last piece is moved in the same job as the swap. Otherwise the whole state is moved:
//! once on every shard as a trial before the first swap, and again in the job of the swap. So no
//! event is lost in between. Also moves the state back when the swap is taken back. Used by
//! reloads.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;
use grapnel_plugin_abi::counted;
use grapnel_plugin_abi::raw::ExportStep;

use super::broadcast;
use super::loaded::{Callee, More};
use super::loader_state::{LoaderState, Staged};
use super::settings::Bounds;
use crate::plugin::error::LoadError;
use crate::plugin::host::called_hooks::{self, CalledHooks};
use crate::shard::handle::{ShardHandle, Unanswered};

/// The shards on which a state is handed over, each with both instances.
#[derive(Clone, Default)]
pub(in crate::plugin) struct Handover {
    shards: Vec<(ShardId, InstancePair)>,
    deadline: Option<Instant>,
    pub moved: MoveStats,
}

/// Whether more pieces follow, and what this piece moved; or why it could not be moved.
type NextPiece = Result<(More, MoveStats), String>;

/// Statistics of the pieces that were moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct MoveStats {
    pub pieces: u64,
    pub bytes: u64,
    /// The longest time for which a piece blocked a shard.
    pub longest: Duration,
}

impl MoveStats {
    pub(in crate::plugin) fn add(&mut self, piece: &MoveStats) {
        self.pieces += piece.pieces;
        self.bytes += piece.bytes;
        self.longest = self.longest.max(piece.longest);
    }
}

impl Handover {
    /// What the shard hands over in the step of its swap; `None` if nothing is handed over there.
    pub(in crate::plugin) fn on(&self, shard: ShardId) -> Option<InstancePair> {
        self.shards.iter().find(|(of, _)| *of == shard).map(|(_, passing)| *passing)
    }

    /// The version whose state is handed over on some shard, and the version that gets it.
    pub(in crate::plugin) fn handles(&self) -> Option<(PluginHandle, PluginHandle)> {
        self.shards.first().map(|(_, passing)| passing.handles)
    }

    /// What the shard hands back in the step in which it swaps back; `None` if nothing comes back.
    pub(in crate::plugin) fn moved_back_on(&self, shard: ShardId) -> Option<InstancePair> {
        self.on(shard).map(|passing| InstancePair {
            from: passing.to,
            to: passing.from,
            handles: (passing.handles.1, passing.handles.0),
            ..passing
        })
    }

    /// Without the shards on which the handover failed: the old instance has the newer state there.
    pub(in crate::plugin) fn without(mut self, lost: &[(ShardId, String)]) -> Handover {
        self.shards.retain(|(shard, _)| !lost.iter().any(|(of, _)| of == shard));
        self
    }

    /// Whether the state of some shard is handed over in pieces.
    pub(in crate::plugin) fn has_pieces(&self) -> bool {
        self.shards.iter().any(|(_, passing)| passing.in_pieces)
    }

    /// Returns a reason if no further piece may be waited for.
    pub(in crate::plugin) fn is_late(&self, bounds: &Bounds) -> Option<String> {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        late.then(|| {
            let (MoveStats { pieces, bytes, .. }, ms) = (self.moved, bounds.timeout.as_millis());
            format!(
                "it was not complete after {ms} ms, with {} handed over in {}; raise limits.state_handover_timeout_ms, or \
                 reload it when less of its state changes",
                counted(bytes, "byte"),
                counted(pieces, "piece")
            )
        })
    }
}

/// The old and the new instance of a shard.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct InstancePair {
    from: Callee,
    to: Callee,
    in_pieces: bool,
    bounds: Bounds,
    /// The generations of the two instances: from, to.
    handles: (PluginHandle, PluginHandle),
}

/// The result of the trial.
enum TrialResult {
    /// Nothing is handed over.
    Nothing,
    Whole,
    Pieces(More, MoveStats),
}

impl InstancePair {
    pub(in crate::plugin) fn in_pieces(&self) -> bool {
        self.in_pieces
    }

    /// The version that hands its state over, and the version that takes it.
    pub(in crate::plugin) fn handles(&self) -> (PluginHandle, PluginHandle) {
        self.handles
    }

    /// The instance that takes the state.
    pub(in crate::plugin) fn receiver(&self) -> (PluginHandle, Callee) {
        (self.handles.1, self.to)
    }

    /// The state has been handed over: from the swap in this step on, answers of the broker go to
    /// the new instance.
    pub(in crate::plugin) fn redirect_answers(&self, engine: &mut Shard) {
        engine.redirect_answers(self.handles.0, self.handles.1);
    }

    /// The trial: moves the whole state, or its first piece. On the shard's thread, as all methods
    /// of this type.
    fn begin(&self) -> Result<TrialResult, String> {
        let takes = self.to.import_piece(&[], false).map_err(|reason| format!("import_piece: {reason}"))?;
        if takes && let Some((more, moved)) = self.piece(ExportStep::BEGIN, false)? {
            return Ok(TrialResult::Pieces(more, moved));
        }
        self.pass().map(|passed| if passed { TrialResult::Whole } else { TrialResult::Nothing })
    }

    /// Exports the whole state from one instance and imports it into the other. False if one of the
    /// two does not support that.
    pub(in crate::plugin) fn pass(&self) -> Result<bool, String> {
        let state = self.from.export_state(self.bounds.whole_bytes_max);
        let Some(state) = state.map_err(|reason| format!("export_state: {reason}"))? else {
            return Ok(false);
        };
        self.to.import_state(&state).map_err(|reason| format!("import_state: {reason}"))
    }

    /// Moves the next piece. It is never marked as the last one, even if it is.
    fn next(&self) -> Result<(More, MoveStats), String> {
        self.piece(ExportStep::NEXT, false)?.ok_or_else(no_pieces)
    }

    /// Moves the next piece. If it is the last one, both instances now have the same state, and the
    /// instance that takes over records its changes from now on, for a possible way back.
    pub(in crate::plugin) fn last_piece(&self) -> Result<(More, MoveStats), String> {
        let moved = self.piece(ExportStep::NEXT, true)?.ok_or_else(no_pieces)?;
        if moved.0 == More::No {
            self.from.end_pieces();
            let followed = self.to.export_piece(ExportStep::FOLLOW, 0);
            followed.map_err(|reason| format!("export_piece: {reason}"))?;
        }
        Ok(moved)
    }

    /// Moves all remaining pieces in one step. Only for the way back, which must not be delayed.
    fn finish(&self) -> Result<(), String> {
        let mut bytes = 0;
        loop {
            let (more, moved) = self.piece(ExportStep::NEXT, true)?.ok_or_else(no_pieces)?;
            if more == More::No {
                return Ok(());
            }
            bytes += moved.bytes;
            if bytes > self.bounds.whole_bytes_max as u64 {
                return Err(format!(
                    "more than {} bytes were left (limits.state_bytes_max)",
                    self.bounds.whole_bytes_max
                ));
            }
        }
    }

    /// Moves the state back, in the step in which a shard swaps back. Returns a reason if that
    /// failed.
    pub(in crate::plugin) fn move_back(&self) -> Option<String> {
        if self.in_pieces {
            return self.finish().err();
        }
        match self.pass() {
            Ok(true) => None,
            Ok(false) => Some("it was not wanted".to_owned()),
            Err(reason) => Some(reason),
        }
    }

    /// Moves one piece; `None` if the exporting instance writes none.
    fn piece(&self, step: ExportStep, may_be_last: bool) -> Result<Option<(More, MoveStats)>, String> {
        let began = Instant::now();
        let exported = self.from.export_piece(step, self.bounds.piece_bytes_max);
        let Some((piece, more)) = exported.map_err(|reason| format!("export_piece: {reason}"))? else {
            return Ok(None);
        };
        match self.to.import_piece(&piece, may_be_last && more == More::No) {
            Ok(true) => {}
            Ok(false) => return Err("import_piece: it takes no more pieces".to_owned()),
            Err(reason) => return Err(format!("import_piece: {reason}")),
        }
        let moved = MoveStats { pieces: 1, bytes: piece.len() as u64, longest: began.elapsed() };
        Ok(Some((more, moved)))
    }
}

fn no_pieces() -> String {
    "export_piece: it writes no more pieces".to_owned()
}

impl LoaderState {
    /// Tries on every shard whether the state can be handed over. If it is handed over in pieces,
    /// all but the last piece are moved here. After this, only a shard that does not answer or a
    /// failing last piece can prevent the replacement. A caller that gives up must notify the old
    /// version with [`LoaderState::end_pieces`].
    pub(in crate::plugin) fn try_handover(&self, old: &Staged, new: &Staged) -> Result<Handover, LoadError> {
        let bounds = self.state_bounds;
        let passing = |shard| {
            let (from, to) = (old.instances.callee(shard)?, new.instances.callee(shard)?);
            Some(InstancePair { from, to, in_pieces: false, bounds, handles: (old.handle(), new.handle()) })
        };
        let answers = broadcast::call(
            &self.shards,
            self.answer_timeout,
            |shard| {
                let passing = passing(shard);
                Box::new(move |_: &mut Shard| {
                    passing.map_or(Ok(TrialResult::Nothing), |passing| passing.begin())
                })
            },
            // A late answer needs no undo: the caller destroys the new instance with all that it
            // took over.
            |_, _: Result<TrialResult, String>| {},
        );
        let mut handover =
            Handover { deadline: Instant::now().checked_add(bounds.timeout), ..Handover::default() };
        let mut pending = Vec::new();
        for (handle, answer) in self.shards.iter().zip(answers) {
            let (shard, name) = (handle.id(), new.name.to_string());
            let in_pieces = match answer {
                Ok(Ok(TrialResult::Nothing)) => continue,
                Ok(Ok(TrialResult::Whole)) => false,
                Ok(Ok(TrialResult::Pieces(more, moved))) => {
                    handover.moved.add(&moved);
                    pending.extend((more == More::Yes).then(|| handle.clone()));
                    true
                }
                Ok(Err(reason)) => return Err(LoadError::Handover { name, shard, reason }),
                Err(unanswered) => return Err(LoadError::Shard { name, unanswered }),
            };
            handover
                .shards
                .extend(passing(shard).map(|passing| (shard, InstancePair { in_pieces, ..passing })));
        }
        self.move_pieces(&new.name, &mut handover, pending)?;
        Ok(handover)
    }

    /// Moves pieces, one at a time on each shard, until each shard has moved its last piece for
    /// now.
    fn move_pieces(
        &self,
        name: &str,
        handover: &mut Handover,
        mut pending: Vec<ShardHandle>,
    ) -> Result<(), LoadError> {
        while let Some(first) = pending.first() {
            if let Some(reason) = self.must_end(handover) {
                return Err(LoadError::Handover { name: name.to_owned(), shard: first.id(), reason });
            }
            let answers = self.request_pieces(&pending, |shard| handover.on(shard));
            let mut again = Vec::new();
            for (handle, answer) in pending.into_iter().zip(answers) {
                let (shard, name) = (handle.id(), name.to_owned());
                match answer {
                    Ok(Ok((more, moved))) => {
                        handover.moved.add(&moved);
                        again.extend((more == More::Yes).then_some(handle));
                    }
                    Ok(Err(reason)) => return Err(LoadError::Handover { name, shard, reason }),
                    Err(unanswered) => return Err(LoadError::Shard { name, unanswered }),
                }
            }
            pending = again;
        }
        Ok(())
    }

    fn request_pieces(
        &self,
        shards: &[ShardHandle],
        passing: impl Fn(ShardId) -> Option<InstancePair>,
    ) -> Vec<Result<NextPiece, Unanswered>> {
        broadcast::call(
            shards,
            self.answer_timeout,
            |shard| {
                let passing = passing(shard);
                Box::new(move |_: &mut Shard| {
                    passing.map_or(Ok((More::No, MoveStats::default())), |passing| passing.next())
                })
            },
            // A late answer needs no undo: the instance that took the piece is destroyed.
            |_, _| {},
        )
    }

    /// Returns a reason if no more pieces may be moved.
    pub(in crate::plugin) fn must_end(&self, handover: &Handover) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("the broker stops".to_owned());
        }
        handover.is_late(&self.state_bounds)
    }

    /// Moves back in pieces what the new version has recorded since the swap, except for the last
    /// pieces. Returns the shards on which that failed, each with the reason.
    pub(in crate::plugin) fn pieces_back(
        &self,
        shards: &[ShardHandle],
        handed: &Handover,
    ) -> Vec<(ShardId, String)> {
        let deadline = Instant::now().checked_add(self.state_bounds.timeout);
        let mut lost = Vec::new();
        let mut pending: Vec<ShardHandle> = shards
            .iter()
            .filter(|handle| handed.on(handle.id()).is_some_and(|passing| passing.in_pieces))
            .cloned()
            .collect();
        while !pending.is_empty() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let answers = self.request_pieces(&pending, |shard| handed.moved_back_on(shard));
            let mut again = Vec::new();
            for (handle, answer) in pending.into_iter().zip(answers) {
                match answer {
                    Ok(Ok((More::Yes, _))) => again.push(handle),
                    // The shard moves the rest in its step of the swap, even if that comes late.
                    Ok(Ok((More::No, _))) | Err(_) => {}
                    Ok(Err(reason)) => lost.push((handle.id(), reason)),
                }
            }
            pending = again;
        }
        lost
    }

    /// Notifies the instances of a plugin that no further piece of their state will be requested.
    pub(in crate::plugin) fn end_pieces(&self, plugin: &Staged) {
        // A shard that does not answer in time runs this later.
        broadcast::send(&self.shards, self.answer_timeout, |shard| {
            let callee = plugin.instances.callee(shard);
            Box::new(move |_: &mut Shard| {
                if let Some(callee) = callee {
                    callee.end_pieces();
                }
            })
        });
    }

    /// Calls `configured` of every instance of a plugin: its shared part has a new configuration.
    /// False if a shard has not done so in time.
    pub(in crate::plugin) fn notify_configured(&self, plugin: &Staged) -> bool {
        broadcast::send(&self.shards, self.answer_timeout, |shard| {
            let callee = plugin.instances.callee(shard);
            Box::new(move |engine: &mut Shard| {
                if let Some(callee) = callee {
                    let called = CalledHooks::of(engine.chains());
                    called_hooks::show(called.clone(), called, || callee.configured());
                }
            })
        })
    }
}

//! The state of a plugin on its way from the version before to the one that replaces it, shard by shard: tried on every shard
//! before the first one swaps, and done again in the same step as the swap, so that no event falls between; and back in the same
//! way, where the swap is taken back. Used by the reload.

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;

use super::error::LoadError;
use super::everywhere;
use super::loaded::Callee;
use super::transaction::{Staged, Workshop};

/// The shards on which a state is handed over, each with both instances.
#[derive(Clone, Default)]
pub(super) struct Handover(Vec<(ShardId, Passing)>);

impl Handover {
    /// What the shard does in the step of its swap; `None` where nothing is handed over.
    pub(super) fn on(&self, shard: ShardId) -> Option<Passing> {
        self.0.iter().find(|(of, _)| *of == shard).map(|(_, passing)| *passing)
    }

    /// What the shard does in the step in which it swaps back; `None` where nothing comes back.
    pub(super) fn back_on(&self, shard: ShardId) -> Option<Passing> {
        self.on(shard).map(|Passing { from, to, bytes_max }| Passing { from: to, to: from, bytes_max })
    }

    /// The same without the shards on which nothing was handed over after all: the old instance knows more there.
    pub(super) fn without(self, lost: &[(ShardId, String)]) -> Handover {
        let kept = self.0.into_iter().filter(|(shard, _)| !lost.iter().any(|(of, _)| of == shard));
        Handover(kept.collect())
    }
}

/// Both instances of a shard.
#[derive(Clone, Copy)]
pub(super) struct Passing {
    from: Callee,
    to: Callee,
    bytes_max: usize,
}

impl Passing {
    /// Lets one instance write and the other one read. False where one of them does not do that. On the shard's thread.
    pub(super) fn pass(&self) -> Result<bool, String> {
        let state = self.from.export_state(self.bytes_max).map_err(|said| format!("export_state: {said}"))?;
        let Some(state) = state else { return Ok(false) };
        self.to.import_state(&state).map_err(|said| format!("import_state: {said}"))
    }
}

impl Workshop {
    /// Tries on every shard whether the state can be handed over. After this nothing but a shard that does not answer keeps the
    /// new version from taking the old one's place.
    pub(super) fn try_handover(&self, old: &Staged, new: &Staged) -> Result<Handover, LoadError> {
        let passing = |shard| {
            let (from, to) = (old.instances.callee(shard)?, new.instances.callee(shard)?);
            Some(Passing { from, to, bytes_max: self.state_bytes_max })
        };
        let answers = everywhere::ask(
            &self.shards,
            self.answer_timeout,
            |shard| {
                let passing = passing(shard);
                Box::new(move |_: &mut Shard| passing.map_or(Ok(false), |passing| passing.pass()))
            },
            // The new instance, which may have taken something over, is destroyed by whoever gave up.
            |_, _: Result<bool, String>| {},
        );
        let mut handover = Handover::default();
        for (handle, answer) in self.shards.iter().zip(answers) {
            let name = new.name.to_string();
            match answer {
                Ok(Ok(true)) => handover.0.extend(passing(handle.id()).map(|passing| (handle.id(), passing))),
                Ok(Ok(false)) => {}
                Ok(Err(said)) => return Err(LoadError::Handover { name, shard: handle.id(), said }),
                Err(unanswered) => return Err(LoadError::Shard { name, unanswered }),
            }
        }
        Ok(handover)
    }

    /// Tells every instance of a plugin that its shared part has a new configuration. False if a shard has yet to come to it.
    pub(super) fn tell_configured(&self, plugin: &Staged) -> bool {
        everywhere::tell(&self.shards, self.answer_timeout, |shard| {
            let callee = plugin.instances.callee(shard);
            Box::new(move |_: &mut Shard| {
                if let Some(callee) = callee {
                    callee.configured();
                }
            })
        })
    }
}

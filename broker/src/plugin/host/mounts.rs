//! Hooks that a plugin mounts and unmounts at run time, from `load`, from a hook or from a thread
//! of its own. The call returns at once; the chains change when the recompiler (`recompiler`) has
//! compiled them. Used by the services and by the code that compiles chains; nothing here waits for
//! a shard.

use std::sync::{Mutex, MutexGuard, PoisonError};

use grapnel_plugin_abi::counted;
use grapnel_plugin_abi::host::MountRequest;
use grapnel_plugin_abi::raw::Status;

use crate::plugin::file::manifest::Hook;

/// A hook with the number of its mount.
#[derive(Clone)]
pub(in crate::plugin) struct Mounted {
    pub number: u64,
    pub hook: Hook,
}

/// The hooks that one generation has mounted.
pub(in crate::plugin) struct Mounts(Mutex<State>);

#[derive(Default)]
struct State {
    /// The hooks of the plugin's list.
    listed: Vec<Hook>,
    /// Mounted at run time, in order of mounting.
    mounted: Vec<Mounted>,
    /// Changed since the last compilation.
    changed: bool,
}

impl Mounts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No mounts yet; `hooks` are those of the plugin's list.
    pub(in crate::plugin) fn beside(hooks: &[Hook]) -> Mounts {
        Mounts(Mutex::new(State { listed: hooks.to_vec(), ..State::default() }))
    }

    /// Mounts a hook under a number.
    ///
    /// # Errors
    /// INVALID for an invalid mount, or if the function or the name is mounted on that point
    /// already; FULL beyond `max`.
    pub(in crate::plugin) fn add(
        &self,
        number: u64,
        request: &MountRequest<'_>,
        max: u64,
    ) -> Result<(), (Status, String)> {
        let point = request.point.name();
        let hook = Hook::of(request).map_err(|what| (Status::INVALID, what))?;
        let mut state = self.state();
        let others = state.listed.iter().chain(state.mounted.iter().map(|mounted| &mounted.hook));
        for other in others.filter(|other| other.point == hook.point) {
            if other.same_function(&hook) {
                let what =
                    format!("mounts one function twice on {point}: as {} and {}", other.name, hook.name);
                return Err((Status::INVALID, what));
            }
            if other.name == hook.name {
                return Err((Status::INVALID, format!("mounts two hooks named {} on {point}", hook.name)));
            }
        }
        if state.mounted.len() as u64 >= max {
            let what = format!(
                "cannot mount {} on {point}: it may have {} that it mounts at run time (limits.plugin_hooks_max)",
                hook.name,
                counted(max, "hook")
            );
            return Err((Status::FULL, what));
        }
        state.mounted.push(Mounted { number, hook });
        state.changed = true;
        Ok(())
    }

    /// Unmounts a hook.
    ///
    /// # Errors
    /// STALE if it is not mounted.
    pub(in crate::plugin) fn remove(&self, number: u64) -> Result<(), Status> {
        let mut state = self.state();
        let place = state.mounted.iter().position(|mounted| mounted.number == number).ok_or(Status::STALE)?;
        state.mounted.remove(place);
        state.changed = true;
        Ok(())
    }

    /// The mounted hooks.
    pub(in crate::plugin) fn all(&self) -> Vec<Mounted> {
        self.state().mounted.clone()
    }

    /// The mounted hooks, for a compilation; clears the mark of [`Mounts::changed`].
    pub(in crate::plugin) fn taken(&self) -> Vec<Mounted> {
        let mut state = self.state();
        state.changed = false;
        state.mounted.clone()
    }

    /// Whether something has changed since the last [`Mounts::taken`].
    pub(in crate::plugin) fn changed(&self) -> bool {
        self.state().changed
    }
}

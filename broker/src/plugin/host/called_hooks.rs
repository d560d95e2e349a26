//! Which hooks a shard calls before and after a change of its chains, for `hook_calls` of the host
//! table. `manager` shows them while it calls `configured` of instances on the shard's thread;
//! `services` looks them up. Nothing is shown at other times.

use std::cell::RefCell;
use std::collections::HashSet;

use grapnel_engine::hook::{ChainTable, HookPoint, PluginHandle};
use grapnel_plugin_abi::raw::{HOOK_CALLED, HOOK_WAS_CALLED, Status};

/// A hook: its plugin, its point and its name.
type Key = (PluginHandle, HookPoint, Box<str>);

/// The hooks that a table of chains calls.
#[derive(Clone, Default, Debug)]
pub(in crate::plugin) struct CalledHooks(HashSet<Key>);

impl CalledHooks {
    /// The hooks of a table. Those of tripped plugins are not called.
    pub(in crate::plugin) fn of(table: &ChainTable) -> CalledHooks {
        let links = HookPoint::ALL
            .iter()
            .flat_map(|point| table.chain(*point).links().map(move |(link, _)| (*point, link)));
        let called = links.filter(|(_, link)| !link.entry.is_tripped()).map(|(point, link)| {
            // The label is PLUGIN/HOOK, and no name of a plugin has a slash.
            let name = link.name.split_once('/').map_or(&*link.name, |(_, name)| name);
            (link.plugin, point, name.into())
        });
        CalledHooks(called.collect())
    }

    /// The same, with the hooks of one generation as those of another one: a version whose state is
    /// handed over, and the version that gets it.
    pub(in crate::plugin) fn handed_over(self, from: PluginHandle, to: PluginHandle) -> CalledHooks {
        let over = |(plugin, point, name): Key| (if plugin == from { to } else { plugin }, point, name);
        CalledHooks(self.0.into_iter().map(over).collect())
    }

    /// Whether any hook of a generation is called.
    pub(in crate::plugin) fn has_any_of(&self, plugin: PluginHandle) -> bool {
        self.0.iter().any(|(of, ..)| *of == plugin)
    }
}

/// The change that is shown.
struct Change {
    before: CalledHooks,
    after: CalledHooks,
}

thread_local! {
    static SHOWN: RefCell<Option<Change>> = const { RefCell::new(None) };
}

/// Removes what is shown when the calls have ended.
struct Hide;

impl Drop for Hide {
    fn drop(&mut self) {
        SHOWN.take();
    }
}

/// Runs `calls` on this thread while [`look_up`] answers from these hooks.
pub(in crate::plugin) fn show(before: CalledHooks, after: CalledHooks, calls: impl FnOnce()) {
    SHOWN.replace(Some(Change { before, after }));
    let _hide = Hide;
    calls();
}

/// The bits of `hook_calls` for a hook of a generation.
///
/// # Errors
/// WRONG_MOMENT where nothing is shown on this thread.
pub(super) fn look_up(plugin: PluginHandle, point: HookPoint, name: &str) -> Result<u32, Status> {
    let key: Key = (plugin, point, name.into());
    SHOWN.with_borrow(|shown| {
        let Change { before, after } = shown.as_ref().ok_or(Status::WRONG_MOMENT)?;
        let bit = |hooks: &CalledHooks, bit| if hooks.0.contains(&key) { bit } else { 0 };
        Ok(bit(after, HOOK_CALLED) | bit(before, HOOK_WAS_CALLED))
    })
}

//! The function that a plugin exports for its verbs. Called by the broker on the thread of the
//! verb's call, or by `grapnel-ctl` in a separate process.

use std::ffi::c_void;

use super::{Exported, Shared, guarded};
use crate::host::list;
use crate::module::ErrorText;
use crate::raw::{Pair, Slice, StateSink, Status};
use crate::sdk::verb::VerbCall;

pub(super) unsafe extern "C" fn verb<P: Exported>(
    plugin: *mut c_void,
    name: Slice,
    arguments: *const Pair,
    arguments_len: usize,
    out: *const StateSink,
    error: *mut ErrorText,
) -> Status {
    let call = || {
        // SAFETY: the host passes what `load` gave it, before `unload`, or null; nothing but
        // `unload` takes it exclusively.
        let shared = unsafe { plugin.cast::<Shared<P>>().as_ref() };
        // SAFETY: the sink is null or the host's, alive during the call.
        let sink = unsafe { out.as_ref() };
        let sink = sink.ok_or_else(|| (Status::INVALID, "the broker passed no sink".to_owned()))?;
        // SAFETY: the host lends the name, the list and what is in it for the call.
        let (name, arguments): (&str, Vec<(&str, &str)>) = unsafe {
            let pairs = list(arguments, arguments_len).iter();
            (name.text(), pairs.map(|pair| (pair.key.text(), pair.value.text())).collect())
        };
        let call = VerbCall::over(sink);
        let answered = P::verbs().call(name, shared.map(|shared| &shared.plugin), &arguments, &call);
        call.answer(&answered.map_err(|error| (error.status, error.text))?)
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("the verb", error, call) }
}

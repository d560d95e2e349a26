//! The call of a verb, checked as the broker checks it.

use std::ffi::c_void;

use super::with_error;
use crate::module::{Manifest, PluginModuleRef};
use crate::raw::{Pair, Slice, StateSink, Status};
use crate::verb::{Answer, Argument, Form};

pub(super) fn call(
    table: &PluginModuleRef,
    shared: *mut c_void,
    name: &str,
    given: &[(&str, &str)],
) -> Result<Answer, String> {
    let mut manifest = Manifest::EMPTY;
    // SAFETY: `manifest` is ours, and what it shows stays until the next call.
    let json = unsafe {
        table.manifest()(&raw mut manifest);
        manifest.verbs.text()
    };
    let forms = Form::list(json).map_err(|what| format!("its verbs {what}"))?;
    let form =
        forms.iter().find(|form| form.name == name).ok_or_else(|| format!("there is no verb {name}"))?;
    let is_filled_in = |name: &str| form.argument(name).is_some_and(Argument::is_filled_in);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let (filled, given): (Vec<_>, Vec<_>) = given.iter().map(owned).partition(|(name, _)| is_filled_in(name));
    let mut arguments = form.arguments(&given).map_err(|wrong| wrong.to_string())?;
    if !form.local {
        for (name, value) in &given {
            let declared = form.argument(name);
            declared
                .map_or(Ok(()), |declared| declared.fits_broker(value))
                .map_err(|what| format!("{name}: {what}"))?;
        }
    }
    arguments.extend(filled);
    let pair = |(key, value): &(String, String)| Pair {
        key: Slice::of(key.as_bytes()),
        value: Slice::of(value.as_bytes()),
    };
    let pairs: Vec<Pair> = arguments.iter().map(pair).collect();
    let mut answer: Vec<u8> = Vec::new();
    let sink = StateSink { ctx: (&raw mut answer).cast(), write };
    let verb = table.verb().ok_or("the plugin has no function for verbs")?;
    let shared = if form.local { std::ptr::null_mut() } else { shared };
    // SAFETY: `shared` is what `load` gave, or null for a local verb; everything else is alive
    // during the call.
    with_error(|error| unsafe {
        verb(shared, Slice::of(name.as_bytes()), pairs.as_ptr(), pairs.len(), &raw const sink, error)
    })?;
    Answer::read(&answer).map_err(|what| format!("its answer {what}"))
}

unsafe extern "C" fn write(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: `ctx` is the `Vec` of the call that is running, and the plugin lends the bytes for
    // this one.
    unsafe { (*ctx.cast::<Vec<u8>>()).extend_from_slice(bytes.bytes()) };
    Status::OK
}

//! The functions that a plugin exports for its state, as a whole and in pieces. The broker calls
//! them in a reload, on the thread of the instance's shard.

use std::ffi::c_void;

use super::{Exported, guarded, instance_of};
use crate::module::ErrorText;
use crate::raw::{ExportStep, Slice, StateSink, Status};
use crate::sdk::Error;

/// A pointer that the broker passes for a call. It is null only by an error of the broker.
fn lent<T>(passed: Option<T>) -> Result<T, (Status, String)> {
    passed.ok_or_else(|| (Status::INVALID, "the broker passed no instance".to_owned()))
}

/// A part of the ABI that a plugin need not implement.
fn supported<T>(has: Option<T>) -> Result<T, (Status, String)> {
    has.ok_or_else(|| (Status::UNSUPPORTED, String::new()))
}

pub(super) unsafe extern "C" fn export_state<P: Exported>(
    instance: *mut c_void,
    out: *const StateSink,
    error: *mut ErrorText,
) -> Status {
    let export = || {
        // SAFETY: as in `on_timer`, and the sink is null or the host's.
        let (instance, sink) = unsafe { (lent(instance_of::<P::Shard>(instance))?, lent(out.as_ref())?) };
        let state = P::export_state(&instance.shard).map_err(|error| (Status::FAILED, error.to_string()))?;
        let state = supported(state)?;
        // SAFETY: the sink is the host's, for this call, and the bytes are alive during it.
        match unsafe { (sink.write)(sink.ctx, Slice::of(&state)) } {
            Status::OK => Ok(()),
            status => Err((status, format!("the broker does not take {} bytes of state", state.len()))),
        }
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("export_state", error, export) }
}

pub(super) unsafe extern "C" fn import_state<P: Exported>(
    instance: *mut c_void,
    state: Slice,
    error: *mut ErrorText,
) -> Status {
    let import = || {
        // SAFETY: as in `on_timer`, and the host lends the bytes for the call.
        let (instance, state) = unsafe { (lent(instance_of::<P::Shard>(instance))?, state.bytes()) };
        match P::import_state(&mut instance.shard, state) {
            Ok(true) => Ok(()),
            Ok(false) => Err((Status::UNSUPPORTED, String::new())),
            Err(error) => Err((Status::FAILED, error.to_string())),
        }
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("import_state", error, import) }
}

pub(super) unsafe extern "C" fn export_piece<P: Exported>(
    instance: *mut c_void,
    step: ExportStep,
    bytes_max: u64,
    out: *const StateSink,
    error: *mut ErrorText,
) -> Status {
    let export = || {
        // SAFETY: as in `on_timer`, and the sink is null or the host's.
        let (instance, sink) = unsafe { (lent(instance_of::<P::Shard>(instance))?, lent(out.as_ref())?) };
        let pieces = supported(P::pieces(&mut instance.shard))?;
        let mut write = |piece: &[u8]| {
            // SAFETY: the sink is the host's, for this call, and the bytes are alive during it.
            match unsafe { (sink.write)(sink.ctx, Slice::of(piece)) } {
                Status::OK => Ok(()),
                _ => Err(Error::new(format!("the broker does not take a piece of {} bytes", piece.len()))),
            }
        };
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        match pieces.export(step, bytes_max, &mut write) {
            Ok(true) => Ok(()),
            Ok(false) => Err((Status::ABSENT, String::new())),
            Err(error) => Err((Status::FAILED, error.to_string())),
        }
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("export_piece", error, export) }
}

pub(super) unsafe extern "C" fn import_piece<P: Exported>(
    instance: *mut c_void,
    last: u32,
    piece: Slice,
    error: *mut ErrorText,
) -> Status {
    let import = || {
        // SAFETY: as in `on_timer`, and the host lends the bytes for the call.
        let (instance, piece) = unsafe { (lent(instance_of::<P::Shard>(instance))?, piece.bytes()) };
        supported(P::pieces(&mut instance.shard))?
            .import(piece, last != 0)
            .map_err(|error| (Status::FAILED, error.to_string()))
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("import_piece", error, import) }
}

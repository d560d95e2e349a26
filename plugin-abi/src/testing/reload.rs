//! A reload in a test: transfers the exported state of a plugin to another load of it, as the
//! broker does, as a whole or in pieces.

use std::collections::BTreeMap;
use std::ffi::c_void;

use super::{TestPlugin, fake_host, load_at, with_error};
use crate::raw::{ExportStep, Slice, StateSink, Status};
use crate::sdk::Exported;

/// Size of a piece if the test does not set it, bytes. Small, so that there are many pieces.
const PIECE_BYTES: u64 = 256;

unsafe extern "C" fn take_state(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: `ctx` was made from a vector that is valid during the call, and the plugin lends the
    // bytes for the call.
    let (state, bytes) = unsafe { (&mut *ctx.cast::<Vec<u8>>(), bytes.bytes()) };
    state.extend_from_slice(bytes);
    Status::OK
}

/// The end of a piece.
#[derive(PartialEq, Eq)]
enum Piece {
    More,
    Last,
    Unsupported,
}

impl<P: Exported> TestPlugin<P> {
    /// Replaces the plugin by a new load of itself with another configuration, as a reload does.
    /// The new one is loaded beside the old one. The old one exports its state on every shard: in
    /// pieces if it supports them, otherwise twice, as in the broker. Outstanding answers to
    /// publishes on behalf of clients are given to the new one.
    ///
    /// # Errors
    /// The sentence that the operator would get.
    pub fn reloaded(mut self, config: &str) -> Result<TestPlugin<P>, String> {
        let mut new = self.beside(config)?;
        if self.begin_pieces(&mut new)? {
            self.move_pieces(&mut new, &mut |_| {})?;
        } else {
            self.move_whole(&mut new)?;
        }
        fake_host::pass_answers(self.handle, new.handle);
        Ok(new)
    }

    /// As [`TestPlugin::reloaded`] for a state in pieces. Between two pieces, `meanwhile` uses the
    /// old plugin, which stays in service until the end; it is called at least once. After that
    /// both states must be identical, byte for byte. If they differ, a change was not reported to
    /// the [`crate::Journal`].
    ///
    /// # Errors
    /// The sentence that the operator would get, or the first entry that differs.
    pub fn reloaded_while(
        mut self,
        config: &str,
        mut meanwhile: impl FnMut(&mut TestPlugin<P>),
    ) -> Result<TestPlugin<P>, String> {
        let mut new = self.beside(config)?;
        if !self.begin_pieces(&mut new)? {
            return Err("it has no state in pieces".to_owned());
        }
        meanwhile(&mut self);
        self.move_pieces(&mut new, &mut meanwhile)?;
        for shard in 0..self.shards.len() {
            let (old, new) = (self.all_entries(shard)?, new.all_entries(shard)?);
            let differs = old.iter().chain(&new).find(|(key, _)| old.get(*key) != new.get(*key));
            if let Some((key, _)) = differs {
                return Err(format!(
                    "on shard {shard} the entry with the key {key:?} is not the same in both: record each change in the journal"
                ));
            }
        }
        fake_host::pass_answers(self.handle, new.handle);
        Ok(new)
    }

    fn beside(&self, config: &str) -> Result<TestPlugin<P>, String> {
        load_at::<P>(fake_host::FakeCommands::beside(self.handle), self.shards.len() as u32, config)
    }

    /// Whether the state is transferred in pieces. If so, the first piece has been transferred.
    fn begin_pieces(&mut self, new: &mut TestPlugin<P>) -> Result<bool, String> {
        for shard in 0..self.shards.len() {
            if !new.import_piece(shard, &[], false)? {
                return Ok(false);
            }
            let (piece, end) = self.export_piece(shard, ExportStep::BEGIN)?;
            if end == Piece::Unsupported {
                return Ok(false);
            }
            new.import_piece(shard, &piece, false)?;
        }
        Ok(true)
    }

    fn move_pieces(
        &mut self,
        new: &mut TestPlugin<P>,
        meanwhile: &mut dyn FnMut(&mut TestPlugin<P>),
    ) -> Result<(), String> {
        for shard in 0..self.shards.len() {
            loop {
                let (piece, end) = self.export_piece(shard, ExportStep::NEXT)?;
                new.import_piece(shard, &piece, end == Piece::Last)?;
                if end == Piece::Last {
                    break;
                }
                meanwhile(self);
            }
        }
        Ok(())
    }

    fn export_piece(&mut self, shard: usize, step: ExportStep) -> Result<(Vec<u8>, Piece), String> {
        let Some(export) = self.table.export_piece() else { return Ok((Vec::new(), Piece::Unsupported)) };
        let (instance, mut piece, mut end) = (self.shards[shard], Vec::new(), Piece::More);
        let sink = StateSink { ctx: (&raw mut piece).cast(), write: take_state };
        with_error(|error| {
            // SAFETY: the instance lives as long as `self`; the rest lives through the call.
            let status = fake_host::on_shard(shard as u32, || unsafe {
                export(instance, step, PIECE_BYTES, &raw const sink, error)
            });
            end = match status {
                Status::ABSENT => Piece::Last,
                Status::UNSUPPORTED => Piece::Unsupported,
                Status::OK => Piece::More,
                failed => return failed,
            };
            Status::OK
        })?;
        Ok((piece, end))
    }

    fn import_piece(&mut self, shard: usize, piece: &[u8], last: bool) -> Result<bool, String> {
        let Some(import) = self.table.import_piece() else { return Ok(false) };
        let (instance, mut wanted) = (self.shards[shard], true);
        with_error(|error| {
            // SAFETY: as in `export_piece`.
            let status = fake_host::on_shard(shard as u32, || unsafe {
                import(instance, last.into(), Slice::of(piece), error)
            });
            wanted = status != Status::UNSUPPORTED;
            if wanted { status } else { Status::OK }
        })?;
        Ok(wanted)
    }

    /// All entries of a shard, by key.
    fn all_entries(&mut self, shard: usize) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
        let (mut stream, mut step) = (Vec::new(), ExportStep::BEGIN);
        loop {
            let (piece, end) = self.export_piece(shard, step)?;
            stream.extend(piece);
            if end != Piece::More {
                break;
            }
            step = ExportStep::NEXT;
        }
        self.export_piece(shard, ExportStep::END)?;
        crate::sdk::entries_of(&stream).map_err(|error| error.to_string())
    }

    fn move_whole(&mut self, new: &mut TestPlugin<P>) -> Result<(), String> {
        for _ in ["the trial", "the swap"] {
            for (shard, (from, to)) in self.shards.iter().zip(&new.shards).enumerate() {
                let mut state = Vec::new();
                let sink = StateSink { ctx: (&raw mut state).cast(), write: take_state };
                let mut exported = Status::OK;
                let export = with_error(|error| {
                    // SAFETY: the instance lives as long as `self`; the rest lives through the
                    // call.
                    exported = unsafe { self.table.export_state()(*from, &raw const sink, error) };
                    if exported == Status::UNSUPPORTED { Status::OK } else { exported }
                });
                export?;
                if exported == Status::UNSUPPORTED {
                    continue;
                }
                let import = with_error(|error| {
                    // SAFETY: the instance lives as long as `new`; the rest lives through the call.
                    let status = fake_host::on_shard(shard as u32, || unsafe {
                        new.table.import_state()(*to, Slice::of(&state), error)
                    });
                    if status == Status::UNSUPPORTED { Status::OK } else { status }
                });
                import?;
            }
        }
        Ok(())
    }
}

//! A reload in a test: what a plugin exports goes to another load of it, as the broker does it, as
//! a whole or in pieces.

use std::collections::BTreeMap;
use std::ffi::c_void;

use super::{TestPlugin, fake_host, load_at, with_error};
use crate::raw::{ExportStep, Slice, StateSink, Status};
use crate::sdk::Exported;

/// Bytes of a piece where the test does not say: few, so that there are many.
const PIECE_BYTES: u64 = 256;

unsafe extern "C" fn take_state(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: whoever exports made it of a vector that lives through the call, and the plugin lends the bytes for it.
    let (state, bytes) = unsafe { (&mut *ctx.cast::<Vec<u8>>(), bytes.bytes()) };
    state.extend_from_slice(bytes);
    Status::OK
}

/// Where a piece ended.
#[derive(PartialEq, Eq)]
enum Piece {
    More,
    Last,
    Unsupported,
}

impl<P: Exported> TestPlugin<P> {
    /// Replaces the plugin by itself with a new configuration, as a reload does: the new one is loaded beside the old one, which
    /// hands over its state on every shard, in pieces where it does that, else twice, as the broker does. What the old one has
    /// published on behalf of clients and is not answered yet is answered to the new one.
    ///
    /// # Errors
    /// The sentence that the operator would read.
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

    /// The same for a state in pieces, and between any two of them `meanwhile` does something with the old plugin, which serves
    /// until the end. It is called at least once. After that both must hold the same, to the byte: where they do not, a change was
    /// not told to the [`crate::Journal`].
    ///
    /// # Errors
    /// The sentence that the operator would read, or which entry differs.
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

    /// Whether the state goes over in pieces. The first one has gone over then.
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

    /// What there is on a shard, by key.
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
                    // SAFETY: the instance lives as long as `self`; the rest lives through the call.
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

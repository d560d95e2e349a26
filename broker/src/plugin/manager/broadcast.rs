//! Runs work on every shard and waits for all answers with one deadline. If a shard does the work
//! after the caller has given up, the work is undone on that shard. Used by transactions on
//! plugins; never on a shard's thread.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;

use crate::shard::handle::{ShardHandle, Unanswered};

enum Progress<R> {
    Waiting,
    Answered(R),
    /// The caller has given up: a late answer is undone.
    Abandoned,
}

type Cell<R> = Arc<Mutex<Progress<R>>>;

fn lock<R>(cell: &Cell<R>) -> MutexGuard<'_, Progress<R>> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on every shard at the same time. A shard that has not answered in time gives
/// [`Unanswered`]. If it has not begun the work by then, it skips the work. If it finishes the work
/// later, `undo` gets its answer on that shard.
pub(in crate::plugin) fn call<R: Send + 'static>(
    shards: &[ShardHandle],
    timeout: Duration,
    work: impl Fn(ShardId) -> Box<dyn FnOnce(&mut Shard) -> R + Send>,
    undo: impl Fn(&mut Shard, R) + Send + Sync + 'static,
) -> Vec<Result<R, Unanswered>> {
    let (sender, receiver) = mpsc::channel();
    let undo = Arc::new(undo);
    let mut cells = Vec::with_capacity(shards.len());
    for handle in shards {
        let cell: Cell<R> = Arc::new(Mutex::new(Progress::Waiting));
        cells.push(Arc::clone(&cell));
        let (work, undo, sender) = (work(handle.id()), Arc::clone(&undo), sender.clone());
        handle.submit(Box::new(move |shard| {
            if matches!(*lock(&cell), Progress::Abandoned) {
                return;
            }
            let answer = work(shard);
            let mut progress = lock(&cell);
            if matches!(*progress, Progress::Abandoned) {
                drop(progress);
                undo(shard, answer);
                return;
            }
            *progress = Progress::Answered(answer);
            // The caller may have given up in between; it has then taken the answer from the cell.
            let _ = sender.send(());
        }));
    }
    drop(sender);
    await_answers(&receiver, shards.len(), timeout);
    let waited_ms = timeout.as_millis() as u64;
    let answers = shards.iter().zip(cells).map(|(handle, cell)| {
        match std::mem::replace(&mut *lock(&cell), Progress::Abandoned) {
            Progress::Answered(answer) => Ok(answer),
            _ => Err(Unanswered { shard: handle.id(), waited_ms }),
        }
    });
    answers.collect()
}

/// Runs `work` on every shard, even if that is late. Waits for the answers at most for the timeout.
/// Returns whether all answers have come.
pub(in crate::plugin) fn send(
    shards: &[ShardHandle],
    timeout: Duration,
    mut work: impl FnMut(ShardId) -> Box<dyn FnOnce(&mut Shard) + Send>,
) -> bool {
    let (sender, receiver) = mpsc::channel();
    for handle in shards {
        let (work, sender) = (work(handle.id()), sender.clone());
        handle.submit(Box::new(move |shard| {
            work(shard);
            // The caller may have given up; the work is done nevertheless.
            let _ = sender.send(());
        }));
    }
    drop(sender);
    await_answers(&receiver, shards.len(), timeout) == shards.len()
}

fn await_answers(receiver: &mpsc::Receiver<()>, expected: usize, timeout: Duration) -> usize {
    let deadline = Instant::now() + timeout;
    let mut come = 0;
    while come < expected {
        let left = deadline.saturating_duration_since(Instant::now());
        if receiver.recv_timeout(left).is_err() {
            break;
        }
        come += 1;
    }
    come
}

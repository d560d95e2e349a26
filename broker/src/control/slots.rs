//! The bounded number of connections to the API. An idle connection makes room for a new one, and a
//! connection whose client does not read the answer is closed. Used by `server`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes of an answer that must be taken in each `control.stall_timeout_ms`.
pub(super) const STALL_BYTES_MIN: usize = 4096;

static STALLED: AtomicU64 = AtomicU64::new(0);

/// Connections that were closed since the start because their client did not read the answer. Any
/// thread.
pub(super) fn stalled() -> u64 {
    STALLED.load(Ordering::Relaxed)
}

/// The connection slots of one listening socket.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    room: Arc<Semaphore>,
    max: u32,
    /// Slots in use; those that have been idle longest are first.
    taken: Mutex<VecDeque<Arc<ConnectionSlot>>>,
    /// Notified when a connection has become idle.
    idle: Notify,
}

impl ConnectionSlots {
    pub(super) fn new(max: usize) -> Arc<ConnectionSlots> {
        Arc::new(ConnectionSlots {
            room: Arc::new(Semaphore::new(max)),
            max: u32::try_from(max).unwrap_or(u32::MAX),
            taken: Mutex::default(),
            idle: Notify::new(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, VecDeque<Arc<ConnectionSlot>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for an accepted connection. If all are in use, the connection that has been idle
    /// longest is closed and its slot is used. Waits while none is idle.
    pub(super) async fn take(self: &Arc<ConnectionSlots>) -> HeldSlot {
        let permit = loop {
            let became_idle = self.idle.notified();
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                break Some(permit);
            }
            self.close_idle_one();
            tokio::select! {
                // The semaphore is never closed, so this always succeeds.
                permit = Arc::clone(&self.room).acquire_owned() => break permit.ok(),
                () = became_idle => {}
            }
        };
        let place = Arc::<ConnectionSlot>::default();
        self.taken().push_back(Arc::clone(&place));
        HeldSlot { places: Arc::clone(self), place, _permit: permit }
    }

    fn close_idle_one(&self) {
        let taken = self.taken();
        // A connection that is already closing frees a slot.
        if taken.iter().any(|place| place.leaving.load(Ordering::Relaxed)) {
            return;
        }
        if let Some(idle) = taken.iter().find(|place| place.is_idle()) {
            idle.leaving.store(true, Ordering::Relaxed);
            idle.leave.notify_one();
        }
    }

    /// Waits until no slot is in use.
    pub(super) async fn all_free(&self) {
        let _ = self.room.acquire_many(self.max).await;
    }

    /// Moves a slot behind those that have been idle longer.
    fn became_idle(&self, place: &Arc<ConnectionSlot>) {
        let mut taken = self.taken();
        if let Some(at) = taken.iter().position(|other| Arc::ptr_eq(other, place)) {
            taken.remove(at);
            taken.push_back(Arc::clone(place));
        }
        drop(taken);
        self.idle.notify_one();
    }
}

/// The state of a connection.
#[derive(Debug, Default)]
struct ConnectionSlot {
    /// A request is being processed, or its answer is being written.
    busy: AtomicBool,
    /// A part of an answer has not been read by the client yet.
    unsent: AtomicBool,
    /// The connection has been told to close, because a new one needs the slot.
    leaving: AtomicBool,
    leave: Notify,
}

impl ConnectionSlot {
    fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Relaxed) && !self.unsent.load(Ordering::Relaxed)
    }
}

/// The slot of one connection. Dropping this frees it.
#[derive(Debug)]
pub(super) struct HeldSlot {
    places: Arc<ConnectionSlots>,
    place: Arc<ConnectionSlot>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl HeldSlot {
    /// Waits until another connection needs the slot and this one is idle.
    pub(super) async fn is_needed(&self) {
        loop {
            self.place.leave.notified().await;
            if self.place.is_idle() {
                return;
            }
            // A request arrived first. Another connection will be closed, or this one when it is
            // idle again.
            self.place.leaving.store(false, Ordering::Relaxed);
        }
    }

    /// Marks the requests of the connection.
    pub(super) fn activity(&self) -> Activity {
        Activity { places: Arc::clone(&self.places), place: Arc::clone(&self.place) }
    }

    /// Wraps the connection's stream. Writes fail with `TimedOut` if the client reads less than
    /// [`STALL_BYTES_MIN`] within `patience`.
    pub(super) fn watch<S>(&self, inner: S, patience: Duration) -> Watched<S> {
        Watched { inner, place: Arc::clone(&self.place), patience, window: None, taken_bytes: 0 }
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        self.places.taken().retain(|other| !Arc::ptr_eq(other, &self.place));
    }
}

/// Marks a connection as busy while it has a request.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    places: Arc<ConnectionSlots>,
    place: Arc<ConnectionSlot>,
}

impl Activity {
    /// Marks the start of a request.
    pub(super) fn begin(&self) -> Busy {
        self.place.busy.store(true, Ordering::Relaxed);
        Busy(self.clone())
    }
}

/// A running request. Dropped when its answer has been passed to the connection.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { places, place } = &self.0;
        place.busy.store(false, Ordering::Relaxed);
        places.became_idle(place);
    }
}

/// The body of an answer. The connection is busy until the body is dropped.
#[derive(Debug)]
pub(super) struct Answer {
    pub body: Body,
    pub _busy: Busy,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose client must read what is written to it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    place: Arc<ConnectionSlot>,
    patience: Duration,
    /// Timer that runs while written bytes wait for the client.
    window: Option<Pin<Box<Sleep>>>,
    /// Bytes that the client took in the window.
    taken_bytes: usize,
}

impl<S> Watched<S> {
    /// Passes on the result of a write. A write that waits longer than the window fails, unless the
    /// client took enough bytes in it.
    fn on_write(&mut self, wrote: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(wrote) = wrote {
            self.taken_bytes += wrote.as_ref().map_or(0, |bytes| *bytes);
            return Poll::Ready(wrote);
        }
        let (window, taken_bytes) = (&mut self.window, &mut self.taken_bytes);
        let window = window.get_or_insert_with(|| {
            *taken_bytes = 0;
            Box::pin(sleep(self.patience))
        });
        self.place.unsent.store(true, Ordering::Relaxed);
        while window.as_mut().poll(cx).is_ready() {
            if *taken_bytes < STALL_BYTES_MIN {
                STALLED.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            *taken_bytes = 0;
            window.as_mut().reset(Instant::now() + self.patience);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.on_write(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.on_write(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// The HTTP library flushes when it has written all its bytes, so nothing waits after a flush.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.window = None;
        self.place.unsent.store(false, Ordering::Relaxed);
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    const PATIENCE: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_new_connection_gets_the_slot_of_the_longest_idle_one() {
        run(async {
            let slots = ConnectionSlots::new(3);
            let (a, b, c) = (slots.take().await, slots.take().await, slots.take().await);
            // `a` has sent a request and got its answer, so `b` has been idle longest. `c` has a
            // running request.
            drop(a.activity().begin());
            let pending = c.activity().begin();
            let newcomer = tokio::spawn({
                let slots = Arc::clone(&slots);
                async move { slots.take().await }
            });
            tokio::time::timeout(LONG, b.is_needed()).await.expect("b is to go");
            drop(b);
            let d = newcomer.await.unwrap();
            // No connection is idle, so a new one waits until one is.
            let (asking_too, asking_as_well) = (a.activity().begin(), d.activity().begin());
            let waiting = tokio::spawn({
                let slots = Arc::clone(&slots);
                async move { slots.take().await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(pending);
            tokio::time::timeout(LONG, c.is_needed()).await.expect("c is to go");
            drop(c);
            let e = waiting.await.unwrap();
            drop((a, d, e, asking_too, asking_as_well));
            tokio::time::timeout(LONG, slots.all_free()).await.expect("all are free");
            assert!(slots.taken().is_empty());
        });
    }

    #[test]
    fn a_closing_connection_is_closed_if_it_reads_nothing() {
        run(async {
            let taken = ConnectionSlots::new(1).take().await;
            let (ours, _deaf) = duplex(1000);
            let mut ours = taken.watch(ours, PATIENCE);
            let before = stalled();
            let error = ours.write_all(&[0; 2000]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(stalled() > before);

            // The write takes several windows; the client reads enough in each.
            let (ours, mut reader) = duplex(STALL_BYTES_MIN);
            let mut ours = taken.watch(ours, PATIENCE);
            let pieces = 16;
            let reading = tokio::spawn(async move {
                let mut piece = [0; 2 * STALL_BYTES_MIN];
                for _ in 0..pieces {
                    tokio::time::sleep(PATIENCE / 10).await;
                    reader.read_exact(&mut piece).await.unwrap();
                }
                reader
            });
            ours.write_all(&vec![0; pieces * 2 * STALL_BYTES_MIN]).await.unwrap();
            ours.flush().await.unwrap();
            assert!(taken.place.is_idle());
            // A time without bytes to read is no fault of the client.
            let mut reader = reading.await.unwrap();
            tokio::time::sleep(PATIENCE + PATIENCE / 10).await;
            let written = tokio::join!(ours.write_all(&[0; 10_000]), async {
                reader.read_exact(&mut [0; 10_000]).await
            });
            written.0.unwrap();
        });
    }

    #[test]
    fn a_closing_connection_that_reads_slowly_is_closed_too() {
        run(async {
            let taken = ConnectionSlots::new(1).take().await;
            let (ours, mut slow) = duplex(100);
            let mut ours = taken.watch(ours, PATIENCE);
            let reading = tokio::spawn(async move {
                while slow.read_exact(&mut [0]).await.is_ok() {
                    tokio::time::sleep(PATIENCE / 10).await;
                }
            });
            let write = tokio::time::timeout(LONG, ours.write_all(&[0; 1 << 20]));
            assert_eq!(write.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(!taken.place.is_idle(), "what was not taken is not forgotten");
            drop(ours);
            reading.await.unwrap();
        });
    }
}

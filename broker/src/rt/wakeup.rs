//! Ends the wait of a shard from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that a driver watches, and whether anybody waits for it. Ringing it costs a system
/// call only while the shard waits.
#[derive(Debug)]
pub(crate) struct Wakeup {
    event: OwnedFd,
    waits: AtomicBool,
}

impl Wakeup {
    /// Nobody waits yet.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Wakeup> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wakeup { event, waits: AtomicBool::new(false) })
    }

    /// The shard is about to wait. It must check once more after this whether there is work: who
    /// rings later writes to the eventfd.
    pub fn begin_wait(&self) {
        self.waits.store(true, Ordering::SeqCst);
    }

    /// The shard waits no longer.
    pub fn end_wait(&self) {
        self.waits.store(false, Ordering::SeqCst);
    }

    /// Ends the wait, if the shard waits. Any thread.
    pub fn ring(&self) {
        if self.waits.swap(false, Ordering::SeqCst) {
            // The counter is never read, because the driver watches for edges. It is full after
            // 2^64 rings, and a failed write has nobody to tell.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

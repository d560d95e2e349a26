//! Whether this process can use io_uring as the shards do. Called by `preflight` before the first
//! shard.

use std::io;
use std::sync::Arc;

use super::{BufferSizes, Driver, Io, Wakeup};

/// Makes a driver as a shard does, and drops it.
///
/// # Errors
/// The kernel's. `EINVAL` means that its io_uring is too old, `ENOSYS` that it has none, `EPERM`
/// that it is forbidden.
pub(crate) fn try_ring() -> io::Result<()> {
    let sizes = BufferSizes { read: 4096, turn: 4096 };
    Driver::new(Io::IoUring, sizes, Arc::new(Wakeup::new()?)).map(drop)
}

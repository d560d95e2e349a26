//! Calls on a socket that do not wait. Most sends fit into the socket buffer, so a shard sends with
//! one system call per connection and step. If a socket is full, the shard waits for room with its
//! driver. Called by `shard`; nothing here reads.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use grapnel_engine::shard::Outbound;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use smallvec::SmallVec;

/// Pieces of an outbound queue that one call sends.
const PIECES: usize = 16;

/// The result of [`send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// Number of bytes sent.
    Bytes(usize),
    /// The socket buffer is full.
    Full,
    /// The connection has ended.
    Closed,
}

/// Sends bytes from the front of a nonempty queue with one system call, without blocking. Does not
/// remove them from the queue.
pub(crate) fn send(socket: BorrowedFd<'_>, outbound: &Outbound) -> Sent {
    match outbound.pieces::<PIECES>().as_slice() {
        [piece] => send_bytes(socket, piece),
        pieces => {
            let slices: SmallVec<[IoSlice<'_>; PIECES]> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let none = &mut SendAncillaryBuffer::default();
            sent(|| rustix::net::sendmsg(socket, &slices, none, FLAGS))
        }
    }
}

/// Sends from the front of nonempty bytes, without blocking.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> Sent {
    sent(|| rustix::net::send(socket, bytes, FLAGS))
}

/// Flags of every send.
const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

fn sent(mut send: impl FnMut() -> rustix::io::Result<usize>) -> Sent {
    loop {
        let sent = send();
        return match sent {
            Ok(bytes) => Sent::Bytes(bytes),
            Err(Errno::INTR) => continue,
            // Lack of socket memory is no fault of the connection; it is treated like a full
            // socket.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
            Err(_) => Sent::Closed,
        };
    }
}

/// Bytes that were sent and that the peer's TCP has not acknowledged; `None` if the socket does not
/// report it.
pub(crate) fn unsent_bytes(socket: BorrowedFd<'_>) -> Option<u64> {
    const OUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: the kernel writes one int for TIOCOUTQ on any socket.
    let request = unsafe { rustix::ioctl::Getter::<OUTQ, libc::c_int>::new() };
    // SAFETY: the call writes only the int of the getter.
    let answer = unsafe { rustix::ioctl::ioctl(socket, request) };
    answer.ok().and_then(|bytes| u64::try_from(bytes).ok())
}

/// Bytes received and not read; 0 if the socket does not report it.
pub(crate) fn unread_bytes(socket: BorrowedFd<'_>) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap_or(0)
}

/// Closes the sending side, after the bytes sent so far.
pub(crate) fn end_sending(socket: BorrowedFd<'_>) {
    // A connection that has ended needs no shutdown.
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

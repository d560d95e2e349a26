//! Calls on a socket without the runtime. Most sends find room, and one call per connection and
//! step is what a shard can afford; if a socket is full, the caller waits through the runtime.
//! Called by `shard`; nothing here reads.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use grapnel_engine::shard::Outbound;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use smallvec::SmallVec;

/// Pieces of an outbound queue that one call sends.
const PIECES: usize = 16;

/// What one call sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// So many bytes left.
    Bytes(usize),
    /// The socket is full.
    Full,
    /// The connection is gone.
    Gone,
}

/// Sends from the front of a queue that is not empty what the socket takes at once, in one system call. Takes nothing off the
/// queue.
pub(crate) fn send(socket: BorrowedFd<'_>, outbound: &Outbound) -> Sent {
    let pieces = outbound.pieces::<PIECES>();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        let sent = match pieces.as_slice() {
            [piece] => rustix::net::send(socket, piece, flags),
            pieces => {
                let slices: SmallVec<[IoSlice<'_>; PIECES]> =
                    pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                rustix::net::sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags)
            }
        };
        return match sent {
            Ok(bytes) => Sent::Bytes(bytes),
            Err(Errno::INTR) => continue,
            // Out of socket memory is not the connection's fault: it waits as with a full socket.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
            Err(_) => Sent::Gone,
        };
    }
}

/// Bytes that have come and not been read; none where the socket does not say.
pub(crate) fn unread_bytes(socket: BorrowedFd<'_>) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap_or(0)
}

/// Tells the peer that nothing more comes, after what has been sent.
pub(crate) fn end_sending(socket: BorrowedFd<'_>) {
    // A connection that is gone already needs no end.
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

//! Sockets on the runtime, and the probe for io_uring. Beside the plugin loader and `fatal.rs`,
//! this is the only file of the shell with `unsafe`. A stream owns its descriptor; code that needs
//! the descriptor longer duplicates it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::io::Errno;
use rustix::io_uring::{IoringRegisterOp, io_uring_params, io_uring_register, io_uring_setup};

/// A connected TCP socket.
#[derive(Debug)]
pub struct Stream {
    inner: TcpStream,
}

impl Stream {
    /// A stream for a connected socket. Inside a task of this thread only.
    pub fn new(socket: OwnedFd) -> Stream {
        Stream { inner: adopt(socket) }
    }

    /// Receives into `buffer`, which must not be empty; 0 means that the peer has closed its
    /// sending side. Calls `recv` at most once; not at all if the last `recv` emptied the socket
    /// and no bytes have arrived since.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }

    /// Sends from `bytes`, which must not be empty. If the socket is full, the task is woken when
    /// there is room.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    /// Bytes that were sent and that the peer's TCP has not acknowledged; `None` if the socket does
    /// not report it.
    pub fn unsent_bytes(&self) -> Option<u64> {
        const OUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
        // SAFETY: the kernel writes one int for TIOCOUTQ on any socket.
        let request = unsafe { rustix::ioctl::Getter::<OUTQ, libc::c_int>::new() };
        // SAFETY: the call writes only the int of the getter.
        let answer = unsafe { rustix::ioctl::ioctl(self.as_fd(), request) };
        answer.ok().and_then(|bytes| u64::try_from(bytes).ok())
    }

    /// The socket, to be moved to another thread. It is a duplicate, because the runtime does not
    /// release its own descriptor.
    ///
    /// # Errors
    /// If the process has no descriptor left. Then the connection is closed.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.as_fd(), 0)?)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `inner` owns the descriptor and closes it only on drop. The returned borrow keeps
        // `self`, and so `inner`, alive.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

/// A listening socket. The runtime watches it, and its owner accepts from it.
#[derive(Debug)]
pub struct Incoming {
    watch: TcpStream,
    spent: bool,
}

impl Incoming {
    /// Watches a listening socket, which must be nonblocking. Inside a task of this thread only.
    pub fn new(socket: OwnedFd) -> Incoming {
        Incoming { watch: adopt(socket), spent: false }
    }

    /// Ready when a connection may be waiting. To be called after `accept` has found none.
    ///
    /// The runtime has no call to wait until a descriptor is readable. Its stream starts a read
    /// with such a wait: it polls through the ring first and then reads, which fails at once on a
    /// listening socket. Each wait uses a new stream.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.spent {
            // SAFETY: the descriptor is open, and the new stream becomes its owner: the old stream
            // is forgotten below, not dropped.
            let fresh = unsafe { TcpStream::from_raw_fd(self.watch.as_raw_fd()) };
            // The old stream has no request in the ring. Besides the descriptor it only holds a
            // weak reference, which is leaked.
            std::mem::forget(std::mem::replace(&mut self.watch, fresh));
            self.spent = false;
        }
        match Pin::new(&mut self.watch).poll_read(cx, &mut [0]) {
            Poll::Ready(_) => {
                self.spent = true;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `watch` owns the descriptor until it is dropped or replaced in `poll_ready`,
        // which needs `&mut self`. Neither can happen while the returned borrow exists.
        unsafe { BorrowedFd::borrow_raw(self.watch.as_raw_fd()) }
    }
}

fn adopt(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open and has no other owner, because `into_raw_fd` has released it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// The result of [`probe_ring`].
#[derive(Debug)]
pub(crate) enum RingProbe {
    /// A ring was created.
    Made {
        /// Numbers of the requested operations that it lacks.
        missing: Vec<u8>,
    },
    /// No ring could be created.
    Refused(Errno),
}

/// Creates a small ring and checks which operations it supports, by their numbers.
pub(crate) fn probe_ring(operations: &[u8]) -> RingProbe {
    let mut params = io_uring_params::default();
    // SAFETY: `params` is a complete, writable io_uring_params. Its flags refer to no memory or
    // descriptor, and nothing is mapped.
    let ring = match unsafe { io_uring_setup(4, &mut params) } {
        Ok(ring) => ring,
        Err(errno) => return RingProbe::Refused(errno),
    };
    // struct io_uring_probe: 16 bytes of header (last_op, ops_len, reserved), then 8 bytes for each
    // operation: op, reserved, flags (u16, bit 0 = supported), reserved.
    const OPERATIONS: usize = 256;
    let mut answer = [0_u64; 2 + OPERATIONS];
    // SAFETY: `answer` is zeroed as the call requires, aligned, writable, alive during the call,
    // and large enough for the header and all 256 requested entries.
    let registered = unsafe {
        io_uring_register(
            &ring,
            IoringRegisterOp::RegisterProbe,
            answer.as_mut_ptr().cast(),
            OPERATIONS as u32,
        )
    };
    if let Err(errno) = registered {
        return RingProbe::Refused(errno);
    }
    let supported = |operation: u8| answer[2 + usize::from(operation)].to_ne_bytes()[2] & 1 != 0;
    RingProbe::Made {
        missing: operations.iter().copied().filter(|&operation| !supported(operation)).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Client};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::rt::Executor;

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    fn pair() -> (Client, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server.into())
    }

    #[test]
    fn a_stream_waits_reads_and_writes() {
        let (mut client, server) = pair();
        let writer = std::thread::spawn(move || {
            client.write_all(b"ping").unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).unwrap();
            answer
        });
        Executor::new().unwrap().run(async move {
            let mut stream = Stream::new(server);
            let mut buffer = [0; 16];
            let count = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
            assert_eq!(&buffer[..count], b"ping");
            assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"pong")).await.unwrap(), 4);
        });
        assert_eq!(writer.join().unwrap(), *b"pong");
    }

    #[test]
    fn a_stream_moves_to_another_executor_and_leaves_no_descriptor_behind() {
        let (mut client, server) = pair();
        let executor = Executor::new().unwrap();
        let with_executor = open_descriptors();
        let (send, receive) = channel();
        executor.run(async move {
            // The stream has a request in the ring when it is converted.
            let mut stream = Stream::new(server);
            let waits = poll_fn(|cx| Poll::Ready(stream.poll_read(cx, &mut [0; 16]).is_pending())).await;
            assert!(waits);
            send.send(stream.into_fd().unwrap()).unwrap();
        });
        assert_eq!(open_descriptors(), with_executor, "one is gone, its duplicate is there");
        let socket = receive.recv().unwrap();
        client.write_all(b"after").unwrap();
        Executor::new().unwrap().run(async move {
            let mut stream = Stream::new(socket);
            let mut buffer = [0; 16];
            let count = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
            assert_eq!(&buffer[..count], b"after");
        });
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "dropped at last, it is closed");
    }

    #[test]
    fn a_listener_is_watched_again_and_again_without_a_descriptor_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (go, wait) = channel();
        let connector = std::thread::spawn(move || {
            for () in wait {
                drop(Client::connect(address).unwrap());
            }
        });
        Executor::new().unwrap().run(async move {
            let mut incoming = Incoming::new(listener.into());
            let before = open_descriptors();
            for round in 0..50 {
                go.send(()).unwrap();
                poll_fn(|cx| {
                    loop {
                        match rustix::net::accept(&incoming) {
                            Ok(_) => return Poll::Ready(()),
                            Err(Errno::AGAIN) => {}
                            Err(errno) => panic!("{errno} in round {round}"),
                        }
                        if incoming.poll_ready(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                })
                .await;
            }
            // The descriptor of the connecting side may still be open for a moment.
            assert!(open_descriptors() <= before + 1, "{} descriptors, {before} before", open_descriptors());
        });
        connector.join().unwrap();
        assert!(Client::connect(address).is_err(), "dropped at last, the listener is closed");
    }
}

//! The task of one listener on one shard: accepts in bursts, pauses when the process has no descriptor left, and ends when the
//! shard drains.

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use grapnel_engine::shard::ListenerInfo;

use super::state::{Shared, State};
use super::turn::spawn_opened;
use crate::net::{Accepted, Listening, accept};
use crate::rt::Incoming;

/// One listener's share of one shard.
pub(crate) struct Acceptor {
    shared: Rc<Shared>,
    incoming: Incoming,
    info: Arc<ListenerInfo>,
    local: SocketAddr,
    /// Place of its waker in the shard's table; a task that nobody can wake is lost with its memory.
    place: Option<usize>,
    /// A descriptor to give up, so that whoever is waiting can be accepted and closed instead of hanging.
    reserve: Option<File>,
    /// Descriptors have run out and have not been seen again.
    exhausted: bool,
}

impl Acceptor {
    /// Inside a task of the shard only.
    pub fn new(shared: Rc<Shared>, listening: Listening) -> Acceptor {
        let Listening { info, local, socket } = listening;
        let incoming = Incoming::new(socket);
        Acceptor { shared, incoming, info, local, place: None, reserve: open_reserve(), exhausted: false }
    }

    /// Accepts who is waiting. Ready when others are to have a turn first.
    fn burst(&mut self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..state.fittings.limits.accept_burst_max {
            match accept(self.incoming.as_fd(), &self.info, self.local) {
                Accepted::Connection(socket, peer) => {
                    if std::mem::take(&mut self.exhausted) {
                        tracing::info!("accepts connections on {} again", self.local);
                        self.reserve = self.reserve.take().or_else(open_reserve);
                    }
                    state.open(socket, peer, None);
                }
                Accepted::Gone => {}
                Accepted::Nobody => {
                    if self.incoming.poll_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Accepted::Exhausted(errno) => {
                    self.pause(state, errno);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// Closes the connection that waits longest, which would otherwise only time out, and accepts nobody for a while.
    fn pause(&mut self, state: &mut State, errno: rustix::io::Errno) {
        if !std::mem::replace(&mut self.exhausted, true) {
            tracing::error!(
                "cannot accept connections on {}: {}; closes new ones until descriptors are free again (raise `ulimit -n`)",
                self.local,
                std::io::Error::from(errno)
            );
        }
        if self.reserve.take().is_some() {
            drop(accept(self.incoming.as_fd(), &self.info, self.local));
        }
        self.reserve = open_reserve();
        let until_ms = state.now.mono_ms + state.fittings.limits.accept_pause_ms;
        self.wait(state, until_ms);
    }

    fn wait(&self, state: &mut State, until_ms: u64) {
        if let Some(slot) = self.place.and_then(|place| state.acceptors.get_mut(place)) {
            slot.0 = until_ms;
        }
    }
}

impl Future for Acceptor {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Rc::clone(&this.shared);
        let mut state = shared.state.borrow_mut();
        state.begin();
        if state.draining {
            if let Some(place) = this.place.take() {
                state.acceptors.remove(place);
            }
            state.finish(true);
            return Poll::Ready(());
        }
        let place = *this.place.get_or_insert_with(|| state.acceptors.insert((0, cx.waker().clone())));
        let now_ms = state.now.mono_ms;
        let (until_ms, waker) = &mut state.acceptors[place];
        waker.clone_from(cx.waker());
        if *until_ms > now_ms {
            state.finish(true);
            return Poll::Pending;
        }
        *until_ms = 0;
        if this.burst(&mut state, cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        state.finish(true);
        drop(state);
        spawn_opened(&shared);
        Poll::Pending
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

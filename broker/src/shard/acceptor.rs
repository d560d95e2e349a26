//! The task of one listener on one shard. It accepts in bursts, pauses when no descriptor is left
//! for clients, and ends when the shard drains.

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
use crate::net::{Accepted, Listening, accept, descriptors_for_clients};
use crate::rt::Incoming;

/// One listener on one shard.
pub(crate) struct Acceptor {
    shared: Rc<Shared>,
    incoming: Incoming,
    info: Arc<ListenerInfo>,
    local: SocketAddr,
    /// Index of its waker in the shard's table. The waker is stored there because a task whose last
    /// waker is dropped is never polled again, and its memory is leaked.
    place: Option<usize>,
    /// A spare descriptor. It is closed when none are left, so that a waiting connection can be
    /// accepted and closed instead of hanging.
    reserve: Option<File>,
    /// Clients get only descriptors with smaller numbers.
    end: u64,
    /// When descriptors were last missing, until the log says that connections are accepted again.
    exhausted_ms: Option<u64>,
}

/// Time without a refusal after which the log says that connections are accepted again. If clients
/// come and go at the limit, there would otherwise be a line for each.
const ENOUGH_AGAIN_MS: u64 = 1000;

impl Acceptor {
    /// Must be called inside a task of the shard.
    pub fn new(shared: Rc<Shared>, listening: Listening) -> Acceptor {
        let Listening { info, local, socket } = listening;
        let incoming = Incoming::new(socket);
        let end = descriptors_for_clients(shared.state.borrow().config.limits.descriptors_free_min);
        Acceptor {
            shared,
            incoming,
            info,
            local,
            place: None,
            reserve: open_reserve(),
            end,
            exhausted_ms: None,
        }
    }

    /// Accepts waiting connections. Ready when other tasks must run first.
    fn burst(&mut self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..state.config.limits.accept_burst_max {
            match accept(self.incoming.as_fd(), &self.info, self.local, self.end) {
                Accepted::Connection(socket, peer) => {
                    let now_ms = state.now.mono_ms;
                    if self.exhausted_ms.is_some_and(|last_ms| now_ms >= last_ms + ENOUGH_AGAIN_MS) {
                        self.exhausted_ms = None;
                        tracing::info!("accepts connections on {} again", self.local);
                        self.reserve = self.reserve.take().or_else(open_reserve);
                    }
                    state.open(socket, peer, None);
                }
                Accepted::Closed => {}
                Accepted::Nobody => {
                    if self.incoming.poll_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Accepted::Reserved => {
                    self.pause(state, None);
                    return Poll::Pending;
                }
                Accepted::Exhausted(errno) => {
                    self.pause(state, Some(errno));
                    if self.reserve.take().is_some() {
                        drop(accept(self.incoming.as_fd(), &self.info, self.local, self.end));
                    }
                    self.reserve = open_reserve();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// Accepts no connection for a while, and logs the reason once. With the last descriptor gone,
    /// the caller then accepts and closes the connection that has waited longest, which would
    /// otherwise time out.
    fn pause(&mut self, state: &mut State, errno: Option<rustix::io::Errno>) {
        let limits = &state.config.limits;
        if self.exhausted_ms.replace(state.now.mono_ms).is_none() {
            let why = errno.map_or_else(
                || {
                    let free = limits.descriptors_free_min;
                    format!("only the {free} descriptors of limits.descriptors_free_min are left, which are not for clients")
                },
                |errno| std::io::Error::from(errno).to_string(),
            );
            tracing::error!(
                "cannot accept connections on {}: {why}; closes new ones until descriptors are free again (raise `ulimit -n`)",
                self.local
            );
        }
        let until_ms = state.now.mono_ms + limits.accept_pause_ms;
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

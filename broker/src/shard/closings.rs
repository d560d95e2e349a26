//! The task that handles connections whose peer closes while the shard does not read them. Bytes
//! that the peer sent before are still offered when the engine reads again. If there are none, or
//! the connection is broken, the connection ends at once.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use grapnel_engine::shard::{Ended, Reading};

use super::conn::{Phase, Token};
use super::state::{Shared, State};
use crate::net::{self, Closed};
use crate::rt::Incoming;

/// Waits for the end of connections that are not read.
pub(crate) struct Closings {
    shared: Rc<Shared>,
    readable: Incoming,
}

impl Closings {
    /// Must be called inside a task of the shard.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(shared: Rc<Shared>) -> std::io::Result<Closings> {
        let readable = Incoming::new(shared.state.borrow().watch.readable()?);
        Ok(Closings { shared, readable })
    }
}

impl Future for Closings {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.shared.state.borrow_mut();
        state.begin();
        while state.take_closed() || this.readable.poll_ready(cx).is_ready() {}
        state.finish(false);
        Poll::Pending
    }
}

impl State {
    /// Watches for the end of a connection that is not read from now on.
    pub(super) fn watch_end(&mut self, token: Token) {
        let conn = &mut *self.conns[token];
        conn.watched = self.watch.watch(conn.stream.as_fd(), conn.mark(token), conn.watched);
    }

    /// Handles the ends that were reported. Returns whether there were any.
    fn take_closed(&mut self) -> bool {
        let closed = self.watch.take();
        for Closed { data, broken } in &closed {
            let token = (data & u64::from(u32::MAX)) as Token;
            let Some(conn) = self.conns.get(token).filter(|conn| conn.mark(token) == *data) else { continue };
            let serving = matches!(conn.phase, Phase::Serving) && matches!(conn.reading, Reading::Paused(_));
            if serving
                && (*broken || (conn.read_buffer.is_empty() && net::unread_bytes(conn.stream.as_fd()) == 0))
            {
                self.connection_closed(token, Ended::ByPeer);
            }
        }
        !closed.is_empty()
    }
}

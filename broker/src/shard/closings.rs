//! The task that handles connections whose peer closes while they are not read. Bytes that the peer
//! sent before are still taken when the engine reads on; if there are none, or the connection is
//! broken, it ends at once.

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

/// Waits for ends of connections that are not read.
pub(crate) struct Closings {
    shared: Rc<Shared>,
    readable: Incoming,
}

impl Closings {
    /// Inside a task of the shard only.
    ///
    /// # Errors
    /// When the process has no descriptor left.
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
    /// A connection is not read from now on: its end is told of.
    pub(super) fn watch_end(&mut self, token: Token) {
        let conn = &mut *self.conns[token];
        conn.watched = self.watch.watch(conn.stream.as_fd(), conn.mark(token), conn.watched);
    }

    /// Whether there were any.
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

//! The task of one connection: reads while the engine wants bytes, waits for room while the socket
//! is full, and sends the last bytes. It ends by itself and closes the socket. Its data is in the
//! table of the shard.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use grapnel_engine::shard::{Ended, Outbound, Reading};

use super::conn::{Flushed, Phase, Token, flush};
use super::read_buffer::Step;
use super::state::{Shared, State};
use crate::net;
use crate::rt;
use std::os::fd::AsFd;

/// The task of one connection.
pub(crate) struct Connection {
    pub shared: Rc<Shared>,
    pub token: Token,
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.borrow_mut();
        state.begin();
        let driven = state.drive(self.token, cx);
        if driven == Driven::Again {
            cx.waker().wake_by_ref();
        }
        state.finish(false);
        match driven {
            Driven::Done => Poll::Ready(()),
            Driven::Again | Driven::Waiting => Poll::Pending,
        }
    }
}

/// The state of a connection's task after a poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Driven {
    /// It waits for its socket or for the engine.
    Waiting,
    /// It has more to do, but other tasks must run first.
    Again,
    /// It has ended; the connection has been removed from all tables.
    Done,
}

impl State {
    fn drive(&mut self, token: Token, cx: &mut Context<'_>) -> Driven {
        let conn = &mut *self.conns[token];
        if !conn.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            conn.waker = Some(cx.waker().clone());
        }
        let driven = match conn.phase {
            Phase::Serving => self.serve(token, cx),
            Phase::Lingering(_) => self.linger(token, cx),
            Phase::Ended => Driven::Done,
        };
        if driven == Driven::Done && self.conns.contains(token) {
            drop(self.remove(token));
        }
        driven
    }

    fn serve(&mut self, token: Token, cx: &mut Context<'_>) -> Driven {
        if self.conns[token].full.is_some() && !self.write_on(token, cx) {
            return Driven::Done;
        }
        if let Reading::Paused(_) = self.conns[token].reading {
            return Driven::Waiting;
        }
        if std::mem::take(&mut self.conns[token].resumed)
            && let Some(driven) = self.offer(token, 0)
        {
            return driven;
        }
        self.read(token, cx)
    }

    /// Reads until the socket is empty or other tasks must run.
    fn read(&mut self, token: Token, cx: &mut Context<'_>) -> Driven {
        let mut read_bytes = 0;
        loop {
            match self.conns[token].stream.poll_read(cx, &mut self.scratch) {
                Poll::Pending => return Driven::Waiting,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.connection_closed(token, Ended::ByPeer);
                    return Driven::Done;
                }
                Poll::Ready(Ok(count)) => {
                    if let Some(driven) = self.offer(token, count) {
                        return driven;
                    }
                    read_bytes += count as u64;
                }
            }
            if read_bytes >= self.config.limits.read_turn_bytes_max || rt::should_yield() {
                return Driven::Again;
            }
        }
    }

    /// Offers the read buffer and the first `count` bytes of the scratch buffer to the engine.
    /// `None` if the caller should read more.
    fn offer(&mut self, token: Token, count: usize) -> Option<Driven> {
        let State { engine, conns, scratch, .. } = self;
        let conn = &mut *conns[token];
        let key = conn.key;
        let before = conn.read_buffer.memory();
        let mut taken = 0;
        let step = conn.read_buffer.offer(&scratch[..count], |input| {
            let received = engine.receive(key, input);
            taken += received.consumed;
            received
        });
        let after = conn.read_buffer.memory();
        if taken > 0 && !matches!(step, Step::Handoff(..)) {
            conn.peer = None;
        }
        if after != before {
            engine.charge_read_buffer(key, after);
        }
        match step {
            Step::Read => {
                self.count_offered(token, count as u64);
                None
            }
            Step::Pause => {
                self.conns[token].reading = self.engine.reading(key).unwrap_or_default();
                self.watch_end(token);
                // The client has sent something, and the engine does not count silence while it
                // reads nothing.
                self.count_offered(token, u64::MAX);
                Some(Driven::Waiting)
            }
            Step::Handoff(shard, unread) => {
                let conn = self.remove(token);
                self.hand_off(*conn, shard, unread);
                Some(Driven::Done)
            }
            Step::Closed => {
                // The last bytes are in the outbox under `closing`. They replace this empty queue
                // when the outbox is emptied.
                self.linger_with(token, Outbound::default());
                Some(Driven::Waiting)
            }
        }
    }

    /// Counts offered bytes of a connection whose deadline is being checked. When all bytes that
    /// had arrived in time were offered, the engine decides.
    pub(super) fn count_offered(&mut self, token: Token, count: u64) {
        let conn = &mut *self.conns[token];
        let Some(unheard) = conn.deadline_bytes else { return };
        let left = unheard.saturating_sub(count);
        conn.deadline_bytes = (left > 0).then_some(left);
        if left == 0 {
            self.engine.deadline_checked(conn.key);
        }
    }

    /// Continues to send after the socket was full, and waits for room again. False if the
    /// connection is broken.
    fn write_on(&mut self, token: Token, cx: &mut Context<'_>) -> bool {
        let conn = &mut *self.conns[token];
        let key = conn.key;
        let mut left = 0;
        let mut full = false;
        while let Some(outbound) = self.engine.outbound(key) {
            // An empty piece at the front would be sent as zero bytes, again and again.
            if outbound.front().is_empty() {
                outbound.advance(0);
            }
            if outbound.is_empty() {
                outbound.release();
                break;
            }
            match conn.stream.poll_write(cx, outbound.front()) {
                Poll::Pending => {
                    full = true;
                    break;
                }
                Poll::Ready(Err(_)) => {
                    self.connection_closed(token, Ended::ByPeer);
                    return false;
                }
                Poll::Ready(Ok(count)) => {
                    outbound.advance(count);
                    left += count;
                }
            }
            // There is room: sends the rest in as few calls as possible.
            let (flushed, count) = flush(&conn.stream, outbound);
            left += count;
            if flushed == Flushed::Broken {
                self.connection_closed(token, Ended::ByPeer);
                return false;
            }
        }
        conn.sent(left);
        if !full {
            conn.full = None;
        }
        if left > 0 {
            self.engine.written(key);
        }
        true
    }

    /// Sends the last bytes, closes the sending side, and waits until the peer has closed its side.
    /// Closing a socket with unread bytes resets the connection, and the peer would lose bytes that
    /// it has not read.
    fn linger(&mut self, token: Token, cx: &mut Context<'_>) -> Driven {
        let read_max = self.config.limits.linger_read_bytes_max;
        let conn = &mut *self.conns[token];
        let Phase::Lingering(linger) = &mut conn.phase else { return Driven::Done };
        while !linger.outbound.is_empty() {
            match flush(&conn.stream, &mut linger.outbound).0 {
                Flushed::All => break,
                Flushed::Broken => return Driven::Done,
                Flushed::Full => {}
            }
            match conn.stream.poll_write(cx, linger.outbound.front()) {
                Poll::Pending => return Driven::Waiting,
                Poll::Ready(Err(_)) => return Driven::Done,
                Poll::Ready(Ok(count)) => linger.outbound.advance(count),
            }
        }
        if !linger.write_closed {
            net::end_sending(conn.stream.as_fd());
            linger.write_closed = true;
        }
        loop {
            match conn.stream.poll_read(cx, &mut self.scratch) {
                Poll::Pending => return Driven::Waiting,
                Poll::Ready(Ok(0) | Err(_)) => return Driven::Done,
                Poll::Ready(Ok(count)) => linger.read_bytes += count as u64,
            }
            if linger.read_bytes > read_max {
                return Driven::Done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::conn::Conn;

    #[test]
    fn a_connection_is_at_most_512_bytes_in_its_task_and_its_table() {
        let bytes = size_of::<Connection>() + size_of::<Conn>();
        assert!(bytes <= 512, "{bytes} bytes: task {}, table {}", size_of::<Connection>(), size_of::<Conn>());
    }
}

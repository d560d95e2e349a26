//! What the completions of the ring mean for sockets and listeners. Each becomes an event, or nothing
//! where its socket was given up.

use io_uring::cqueue;

use super::{Chunk, Fate, Op, Pending, Reading, Uring, op_of};

impl Uring {
    /// Takes all completions, and makes the requests anew that have ended.
    pub(super) fn harvest(&mut self) {
        self.collect();
        self.make_again();
    }

    /// Takes all completions and hands nothing over, so that all that has come by now is in events.
    pub(in crate::rt) fn collect(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for completion in completions.drain(..) {
            self.complete(&completion);
        }
        self.completions = completions;
    }

    /// Makes requests anew that have ended.
    pub(super) fn make_again(&mut self) {
        for (op, place) in std::mem::take(&mut self.again) {
            match op {
                Op::Receive => self.receive(place),
                Op::End => self.watch_end(place),
                Op::Listen => self.watch_listener(place),
                _ => self.watch_wakeup(),
            }
        }
    }

    /// Makes the receives of sockets that found no buffer, those that have waited longest first, as
    /// many as there are buffers now. More would only fail again, each time for all that wait. The
    /// caller must not wait while some are left: those that are fed may have nothing to receive.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.buffers.free().max(1) {
            let Some(place) = self.starved.pop_front() else { return };
            self.receive(place);
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        let (op, place) = op_of(completion.user_data());
        let (result, more) = (completion.result(), cqueue::more(completion.flags()));
        match op {
            Op::Receive => self.received(place, result, completion.flags()),
            Op::End => self.saw_end(place, result),
            Op::Room => {
                let Some(socket) = self.sockets.get_mut(place) else { return };
                socket.watches_room = false;
                socket.requests -= 1;
                self.report(place, Pending::Room(place as u32));
            }
            Op::Cancel => {
                let Some(socket) = self.sockets.get_mut(place) else { return };
                socket.requests -= 1;
            }
            Op::Listen => self.saw_connection(place, result, more),
            Op::CancelListen => self.end_listener(place),
            Op::Wakeup if !more => self.again.push((Op::Wakeup, 0)),
            Op::Send => {
                if let Some(sent @ None) = self.sent.get_mut(place) {
                    *sent = Some(result);
                    self.sending -= 1;
                }
            }
            Op::Wakeup => {}
        }
        if matches!(op, Op::Receive | Op::End | Op::Room | Op::Cancel) {
            self.end_if_unused(place);
        }
    }

    /// Reports what has happened to a socket, unless it was given up.
    fn report(&mut self, place: usize, event: Pending) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        if socket.fate == Fate::Open {
            socket.events += 1;
            self.events.push_back(event);
        }
    }

    fn received(&mut self, place: usize, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.buffers.taken();
        }
        let Some(socket) = self.sockets.get_mut(place) else {
            debug_assert!(false, "a socket stays until its requests have ended");
            return;
        };
        if !cqueue::more(flags) {
            socket.receives = false;
            socket.cancels = false;
            socket.requests -= 1;
        }
        match (result, buffer) {
            (1.., Some(buffer)) => {
                if !socket.receives && socket.reading == Some(Reading::Once) {
                    socket.reading = None;
                }
                if socket.fate == Fate::Removed {
                    self.buffers.give_back(buffer);
                    return;
                }
                socket.events += 1;
                socket.untaken_bytes += result as u32;
                let chunk = Chunk { buffer: Some(buffer), len: result as u32 };
                self.events.push_back(Pending::Received(place as u32, chunk));
            }
            // All buffers are in use, or the receive was cancelled and is wanted again.
            (_, buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.give_back(buffer);
                }
                let ended = !matches!(-result, libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN);
                if ended && result <= 0 {
                    let socket = &mut self.sockets[place];
                    socket.reading = None;
                    return self.report(place, Pending::Ended(place as u32));
                }
            }
        }
        let socket = &self.sockets[place];
        if !socket.receives && socket.reading.is_some() {
            // Whoever got no buffer comes before those that have had some.
            let starved = result == -libc::ENOBUFS && socket.untaken_bytes == 0;
            if starved { self.starved.push_back(place) } else { self.again.push((Op::Receive, place)) }
        }
    }

    fn saw_end(&mut self, place: usize, result: i32) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.watches_end = false;
        socket.requests -= 1;
        if result > 0 && socket.reading.is_none() {
            // A Unix socket whose peer has closed it has POLLHUP too, and may have bytes.
            let broken = result as u32 & libc::POLLERR as u32 != 0;
            self.report(place, Pending::Closed(place as u32, broken));
        }
    }

    fn saw_connection(&mut self, place: usize, result: i32, more: bool) {
        let Some(listener) = self.listeners.get_mut(place) else { return };
        if !more {
            listener.requests -= 1;
        }
        if !listener.open {
            if !more {
                self.drop_listener(place);
            }
            return;
        }
        if !more {
            self.again.push((Op::Listen, place));
        }
        if result >= 0 {
            self.events.push_back(Pending::Waiting(place as u32));
        }
    }

    fn end_listener(&mut self, place: usize) {
        if let Some(listener) = self.listeners.get_mut(place) {
            listener.requests -= 1;
            self.drop_listener(place);
        }
    }

    fn drop_listener(&mut self, place: usize) {
        if self.listeners.get(place).is_some_and(|listener| !listener.open && listener.requests == 0) {
            self.listeners.remove(place);
        }
    }
}

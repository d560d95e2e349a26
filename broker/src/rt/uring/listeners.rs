//! The listeners of the ring: each has one poll that goes on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::opcode;
use io_uring::types::Fd;

use super::{Listener, Op, Uring, user_data};

impl Uring {
    pub(in crate::rt) fn listen(&mut self, fd: OwnedFd, listener: usize) {
        let place = self.listeners.insert(Listener { fd, open: true, requests: 0 });
        self.places.push((listener, place));
        self.watch_listener(place);
    }

    pub(super) fn watch_listener(&mut self, place: usize) {
        let Some(listener) = self.listeners.get_mut(place).filter(|listener| listener.open) else { return };
        listener.requests += 1;
        let fd = Fd(listener.fd.as_raw_fd());
        let request = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(&request.user_data(user_data(Op::Listen, place)));
    }

    fn place_of(&self, listener: usize) -> Option<usize> {
        self.places.iter().find(|(known, _)| *known == listener).map(|(_, place)| *place)
    }

    pub(in crate::rt) fn listener(&self, listener: usize) -> Option<BorrowedFd<'_>> {
        Some(self.listeners.get(self.place_of(listener)?)?.fd.as_fd())
    }

    pub(in crate::rt) fn unlisten(&mut self, listener: usize) {
        let Some(place) = self.place_of(listener) else { return };
        self.places.retain(|(known, _)| *known != listener);
        let Some(found) = self.listeners.get_mut(place) else { return };
        found.open = false;
        if found.requests == 0 {
            self.listeners.remove(place);
            return;
        }
        found.requests += 1;
        let request = opcode::AsyncCancel::new(user_data(Op::Listen, place)).build();
        self.push(&request.user_data(user_data(Op::CancelListen, place)));
    }
}

//! How an event is put on the line of a worker: in whose queue, charged to whom, and where the worker answers, with a ticket in which
//! the event waits. What comes before a login has succeeded is the peer address's, since whoever wants to come in may call itself by
//! any client's identifier.

use std::borrow::Cow;
use std::time::Duration;

use grapnel_plugin_abi::{Flow, HookPoint, Refused, address_share};

use crate::PoolShard;
use crate::clients::{Entering, Moment, Over, Who};
use crate::line::Writing;
use crate::queue::{Kind, Named, Owner};
use crate::verdict::Ticket;
use crate::wire::Writer;

/// Whose share a client takes that has come in, or has not.
fn share_of<'a>(who: &Who<'a>, is_in: bool) -> Cow<'a, str> {
    if is_in { Cow::Borrowed(who.client_id) } else { address_share(who.peer_host.unwrap_or("")) }
}

fn owner(share: &str, is_in: bool) -> Owner<'_> {
    if is_in { Owner::Client(share) } else { Owner::Address(share) }
}

impl PoolShard {
    /// Tells the worker of a client what has happened to it.
    pub(crate) fn tell(
        &mut self,
        point: HookPoint,
        (who, moment): (&Who<'_>, Moment),
        entering: Option<&Entering<'_>>,
        data: impl FnOnce(&mut Writer<'_>),
    ) {
        let worker = self.pool.worker_of(who.client_id);
        let last = self.last(point, moment);
        let (line, clients) = (&self.pool.lines[worker], &mut self.clients[worker]);
        let is_in = clients.is_in(who, moment);
        let share = share_of(who, is_in);
        let owner = owner(&share, is_in);
        let writing = line.write((owner, owner), Kind::Notification, point);
        if let Some(is_over) = last {
            let Some(mut writing) = writing else { return clients.is_gone(who, is_over) };
            let call = |line: &mut Writing<'_>, client| line.call(0, point as i64, client, data);
            clients.last_call(&mut writing, who, (is_over, point), call);
            return writing.done();
        }
        let Some(mut writing) = writing else { return };
        if writing.has_room(point) {
            let client = clients.number(&mut writing, who, entering, is_in);
            writing.call(0, point as i64, client, data);
            if !writing.is_taken(point) {
                clients.not_told(who);
            }
            writing.done();
        }
    }

    /// Whether this may be the last that is heard of a connection, and whether its session is over with it.
    fn last(&self, point: HookPoint, moment: Moment) -> Option<Over> {
        match point {
            HookPoint::SessionTerminated => Some(Over::Is),
            // That comes after this one, if it comes.
            HookPoint::ClientDisconnected if self.pool.wanted.contains_key(&HookPoint::SessionTerminated) => {
                Some(Over::IsNot)
            }
            HookPoint::ClientDisconnected => Some(Over::IfNotTold),
            _ if moment == Moment::IsRefused => Some(Over::IsNot),
            _ => None,
        }
    }

    /// Tells what no client is there for: the worker `of` somebody, in the order of what that one does, or all of them. `owner` is
    /// charged for it.
    pub(crate) fn tell_of_nobody(
        &self,
        point: HookPoint,
        (of, owner): (Option<&str>, &str),
        data: impl Fn(&mut Writer<'_>),
    ) {
        let worker = of.map(|name| self.pool.worker_of(name));
        let whose = (Owner::Client(of.unwrap_or("")), Owner::Client(owner));
        for (index, line) in self.pool.lines.iter().enumerate() {
            if worker.is_some_and(|worker| worker != index) {
                continue;
            }
            let Some(mut writing) = line.write(whose, Kind::Notification, point) else { continue };
            if writing.has_room(point) {
                writing.call(0, point as i64, Named::default(), &data);
                writing.is_taken(point);
                writing.done();
            }
        }
    }

    /// Asks the worker of a client, or tells it where no worker answers; `defer` takes the ticket, which lasts so long. Where nobody
    /// takes the question it is unanswered.
    pub(crate) fn ask(
        &mut self,
        point: HookPoint,
        (who, moment): (&Who<'_>, Moment),
        entering: Option<&Entering<'_>>,
        defer: impl FnOnce(Duration) -> Result<Ticket, Refused>,
        data: impl FnOnce(&mut Writer<'_>),
    ) -> Flow {
        if !self.pool.answers(point) {
            self.tell(point, (who, moment), entering, data);
            return Flow::Continue;
        }
        let worker = self.pool.worker_of(who.client_id);
        let (line, clients) = (&self.pool.lines[worker], &mut self.clients[worker]);
        let is_in = clients.is_in(who, moment);
        let share = share_of(who, is_in);
        let owner = owner(&share, is_in);
        let Some(mut writing) = line.write((owner, owner), Kind::Question, point) else {
            return Flow::Unanswered;
        };
        if !writing.has_room(point) {
            return Flow::Unanswered;
        }
        let client = clients.number(&mut writing, who, entering, is_in);
        let id = writing.next_id();
        writing.call(id, point as i64, client, data);
        if !writing.is_taken(point) {
            clients.not_told(who);
            writing.done();
            return Flow::Unanswered;
        }
        // The broker may have no ticket left; what nobody waits for is then not sent.
        let flow = match defer(self.pool.deadline()) {
            Ok(ticket) => {
                writing.asked(id, ticket);
                Flow::Defer
            }
            Err(_) => {
                line.figures.failed();
                Flow::Unanswered
            }
        };
        writing.done();
        flow
    }
}

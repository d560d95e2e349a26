//! Puts an event into the queue of a worker: chooses the queue and who is charged, and creates a
//! ticket if the worker answers. Events before a successful login are charged to the peer address,
//! because a pending login may claim any client's identifier.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{Flow, HookPoint, Refused, address_share};

use crate::call_queue::QueueWriter;
use crate::clients::{Clients, ConnectDetails, ConnectionState, EventClient};
use crate::queue::{Account, Kind, NamedClient, Owner};
use crate::verdict::Ticket;
use crate::wire::Writer;
use crate::{ExhookShard, LOOK, LOOK_AGAIN, PoolShard};

/// Who is charged for a client, depending on whether it is in.
fn share_of<'a>(who: &EventClient<'a>, is_connected: bool) -> Cow<'a, str> {
    if is_connected { Cow::Borrowed(who.client_id) } else { address_share(who.peer_host.unwrap_or("")) }
}

/// Whose account is charged too: an address before its login has one share only.
fn account_of(who: &EventClient<'_>, is_connected: bool) -> Option<Account> {
    if is_connected { who.account() } else { None }
}

fn owner(share: &str, is_connected: bool) -> Owner<'_> {
    if is_connected { Owner::Client(share) } else { Owner::Address(share) }
}

impl PoolShard {
    /// Notifies the worker of a client about an event.
    pub(crate) fn notify(
        &mut self,
        point: HookPoint,
        (who, connection_state): (&EventClient<'_>, ConnectionState),
        connecting: Option<&ConnectDetails<'_>>,
        data: impl FnOnce(&mut Writer<'_>),
    ) {
        let (is_told, is_last) =
            (self.pool.wanted.contains_key(&point), self.is_last(point, connection_state));
        if !is_told && !is_last && connection_state != ConnectionState::Admitted {
            return;
        }
        let worker = self.pool.worker_of(who.client_id);
        let (queue, clients) = (&self.pool.queues[worker], &mut self.clients[worker]);
        let place = clients.locate(who, connection_state);
        let share = share_of(who, place.is_connected);
        let owner = owner(&share, place.is_connected);
        let writing = if is_told {
            let account = account_of(who, place.is_connected);
            let writing = queue.write((owner, owner), Kind::Notification, point);
            writing.map(|writing| writing.for_account(account))
        } else {
            queue.write_forgotten(owner)
        };
        if is_last {
            let Some(mut writing) = writing else { return clients.connection_ended(None, who) };
            if is_told {
                let call = |writer: &mut QueueWriter<'_>, client| writer.call(0, point as i64, client, data);
                clients.last_call(&mut writing, who, (place, point), call);
            } else {
                clients.connection_ended(Some((&mut writing, place)), who);
            }
            return writing.done();
        }
        let mut writing = writing;
        if connection_state == ConnectionState::Admitted {
            // Even if the worker is not notified, or there is no room for it.
            clients.replace_client(writing.as_mut(), who);
        }
        let Some(mut writing) = writing else { return };
        if !is_told {
            return writing.done();
        }
        if writing.has_room(point) {
            let client = clients.number(&mut writing, who, connecting, place);
            writing.call(0, point as i64, client, data);
            if !writing.is_taken(point) {
                clients.describe_again(who);
            }
            writing.done();
        }
    }

    /// Whether this may be the last event of a connection.
    fn is_last(&self, point: HookPoint, connection_state: ConnectionState) -> bool {
        match point {
            HookPoint::SessionTerminated | HookPoint::ClientDisconnected => true,
            // The packet itself follows.
            HookPoint::ClientConnack if self.pool.wanted.contains_key(&HookPoint::PacketSent) => false,
            _ => connection_state == ConnectionState::Refused,
        }
    }

    /// Removes a batch of expired pending logins. Returns whether there may be more.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut more = false;
        for (queue, clients) in self.pool.queues.iter().zip(&mut self.clients) {
            let mut writing = queue.write_forgotten(Owner::Address(""));
            more |= clients.expire(writing.as_mut(), now);
            writing.into_iter().for_each(QueueWriter::done);
        }
        more
    }

    /// The clients that the worker of a client knows.
    pub(crate) fn clients_of(&self, client_id: &str) -> &Clients {
        &self.clients[self.pool.worker_of(client_id)]
    }

    /// Sends a notification without a client: to the worker `of` a client, in that client's order,
    /// or to all workers. `owner` is charged.
    pub(crate) fn notify_without_client(
        &self,
        point: HookPoint,
        (of, owner): (Option<&str>, &str),
        data: impl Fn(&mut Writer<'_>),
    ) {
        let worker = of.map(|name| self.pool.worker_of(name));
        let connection = (Owner::Client(of.unwrap_or("")), Owner::Client(owner));
        for (index, queue) in self.pool.queues.iter().enumerate() {
            if worker.is_some_and(|worker| worker != index) {
                continue;
            }
            let Some(writing) = queue.write(connection, Kind::Notification, point) else { continue };
            // Who the publisher is can only be told by its client identifier, of which one user may
            // have many. The broker's own events have none.
            let mut writing = writing.for_account((!owner.is_empty()).then_some(Account::PUBLISHERS));
            if writing.has_room(point) {
                writing.call(0, point as i64, NamedClient::default(), &data);
                writing.is_taken(point);
                writing.done();
            }
        }
    }

    /// Requests an answer from the worker of a client, or only notifies it if no worker answers.
    /// `defer` takes the ticket with its deadline. If the request is not taken, the call fails as
    /// unanswered.
    pub(crate) fn request(
        &mut self,
        point: HookPoint,
        (who, connection_state): (&EventClient<'_>, ConnectionState),
        connecting: Option<&ConnectDetails<'_>>,
        defer: impl FnOnce(Duration) -> Result<Ticket, Refused>,
        data: impl FnOnce(&mut Writer<'_>),
    ) -> Flow {
        if !self.pool.answers(point) {
            self.notify(point, (who, connection_state), connecting, data);
            return Flow::Continue;
        }
        let worker = self.pool.worker_of(who.client_id);
        let (queue, clients) = (&self.pool.queues[worker], &mut self.clients[worker]);
        let place = clients.locate(who, connection_state);
        let share = share_of(who, place.is_connected);
        let owner = owner(&share, place.is_connected);
        let Some(writing) = queue.write((owner, owner), Kind::Question, point) else {
            return Flow::Unanswered;
        };
        let mut writing = writing.for_account(account_of(who, place.is_connected));
        if !writing.has_room(point) {
            return Flow::Unanswered;
        }
        let client = clients.number(&mut writing, who, connecting, place);
        let (id, number) = (writing.next_id(), client.number);
        writing.call(id, point as i64, client, data);
        if !writing.is_taken(point) {
            clients.describe_again(who);
            writing.done();
            return Flow::Unanswered;
        }
        // The broker may have no ticket left; then the call is not sent.
        let flow = match defer(self.pool.deadline()) {
            Ok(ticket) => {
                writing.wait_for(id, number, ticket);
                Flow::Defer
            }
            Err(_) => {
                queue.stats.failed();
                Flow::Unanswered
            }
        };
        writing.done();
        flow
    }
}

impl ExhookShard {
    /// Removes expired pending logins, and arms the timer for the next time.
    pub(crate) fn expire_pending(&mut self) {
        let now = Instant::now();
        let more = self.pools.iter_mut().flatten().fold(false, |more, pool| pool.expire(now) | more);
        self.arm_expiry(if more { LOOK_AGAIN } else { LOOK });
    }

    /// Arms the timer, in place of the earlier one.
    pub(crate) fn arm_expiry(&mut self, after: Duration) {
        let Some(host) = self.host else { return };
        if let Some(timer) = self.timer.take() {
            // It may have expired already.
            let _ = host.cancel_timer(timer);
        }
        match host.timer(after, 0) {
            Ok(timer) => self.timer = Some(timer),
            Err(refused) => host.warn(format_args!(
                "connections that close before they are let in are forgotten only where others need their places: {refused}"
            )),
        }
    }
}

impl PoolShard {
    /// A connection gets its CONNACK; `present` says whether it resumes a session. A client is
    /// recorded here and not at client.connected, which follows and which the operator may have
    /// removed: otherwise the data of an earlier login would stay.
    pub(crate) fn is_answered(&mut self, who: &EventClient<'_>, is_let_in: bool, present: bool) {
        if is_let_in {
            if self.pool.stores_logins {
                self.clients_of(who.client_id).enter(who, present);
                self.let_in = Some((who.client_id.into(), if present { 0 } else { who.session }));
            }
            return;
        }
        // If the first CONNACK was too large, the client had been let in just before.
        let let_in = self.let_in.take().filter(|(client_id, _)| **client_id == *who.client_id);
        let clients = self.clients_of(who.client_id);
        clients.refused(who);
        if let Some((_, begun)) = let_in {
            clients.forget_login(who);
            // No event says that a session has ended which has not begun.
            clients.session_ended(&EventClient { session: begun, ..*who });
        }
    }

    /// A connection is in; `connection` is its number.
    pub(crate) fn is_connected(&mut self, who: &EventClient<'_>, connection: u64) {
        let said = self.let_in.take().filter(|(client_id, _)| **client_id == *who.client_id);
        if self.pool.stores_logins && said.is_none() {
            // The operator has removed the hook at client.connack.
            self.clients_of(who.client_id).enter_unanswered(who, connection);
        }
    }
}

#[cfg(test)]
mod tests;

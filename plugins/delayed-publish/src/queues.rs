//! Messages that are due and not published yet, in a queue for each client. Limits the number of
//! published messages without a reply for each client, and stores the end of the pause of clients
//! for which the broker was full. One client's queue does not delay another's. Independent of the
//! clock and the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use grapnel_plugin_abi::{DropQueue, tree_entry_bytes};

use crate::store::Due;

/// Maximum number of a client's published messages without a reply.
pub const WINDOW: usize = 16;

/// The first pause of a client after its message was refused, milliseconds. Each further pause is
/// twice as long, up to the maximum.
pub const PAUSE_MS: u64 = 100;
pub const PAUSE_MS_MAX: u64 = 5_000;

/// Maximum number of pauses that end in one call.
pub const WOKEN_AT_ONCE: usize = 64;

/// Bytes that a message uses here: in its client's queue, or among those without a reply.
pub const BYTES_OF_EACH: u64 = 2 * size_of::<Due>() as u64 + tree_entry_bytes(size_of::<(u64, Due)>());

/// Bytes that a client uses here.
pub const BYTES_OF_CLIENT: u64 = tree_entry_bytes(size_of::<(Arc<str>, Client)>())
    + tree_entry_bytes(size_of::<(Due, Arc<str>)>())
    + tree_entry_bytes(size_of::<(u64, Arc<str>)>());

/// The due messages of a client.
#[derive(Debug)]
struct Client {
    /// In order.
    queue: VecDeque<Due>,
    /// Published messages without a reply, and the end of the wait for it.
    unanswered: Vec<(Due, u64)>,
    /// Maximum number of these: one after a refusal, and one more with each accepted message.
    window: usize,
    /// Its entry in `Queues::ready`.
    ready: Option<Due>,
    /// The end of its pause.
    pause: Option<u64>,
    /// The last pause, milliseconds; 0 after an accepted message.
    last_pause_ms: u64,
}

impl Default for Client {
    fn default() -> Client {
        Client {
            queue: VecDeque::new(),
            unanswered: Vec::new(),
            window: WINDOW,
            ready: None,
            pause: None,
            last_pause_ms: 0,
        }
    }
}

/// The due messages of all clients.
#[derive(Debug, Default)]
pub struct Queues {
    clients: BTreeMap<Arc<str>, Client>,
    /// Clients that may publish, by their first message.
    ready: BTreeSet<(Due, Arc<str>)>,
    /// Clients that pause, by the end of the pause.
    pauses: BTreeSet<(u64, Arc<str>)>,
    /// All messages without a reply, by the end of the wait for it.
    patience: BTreeSet<(u64, Due)>,
}

impl Queues {
    /// Adds a due message, after the earlier ones of its client.
    pub fn push(&mut self, client: &Arc<str>, due: Due) {
        let known = self.clients.entry(Arc::clone(client)).or_default();
        put_in_order(&mut known.queue, due);
        self.settle(client);
    }

    /// The next message to publish: the earliest due message at the front of a queue.
    pub fn first(&self) -> Option<Due> {
        self.ready.first().map(|(due, _)| *due)
    }

    /// The message was published; its reply is waited for until `until_ms`.
    pub fn published(&mut self, client: &Arc<str>, due: Due, until_ms: u64) {
        let Some(known) = self.clients.get_mut(client) else { return };
        take_out(&mut known.queue, due);
        known.unanswered.push((due, until_ms));
        self.patience.insert((until_ms, due));
        self.settle(client);
    }

    /// The old version has published the message, and the reply comes to this version. It is waited
    /// for until `until_ms`.
    pub fn take_over_published(&mut self, client: &Arc<str>, due: Due, until_ms: u64) {
        let known = self.clients.entry(Arc::clone(client)).or_default();
        known.unanswered.push((due, until_ms));
        self.patience.insert((until_ms, due));
        self.settle(client);
    }

    /// Whether the reply has not come yet.
    pub fn is_unanswered(&self, client: &Arc<str>, due: Due) -> bool {
        self.clients.get(client).is_some_and(|known| known.unanswered.iter().any(|(other, _)| *other == due))
    }

    /// The broker has accepted a message.
    pub fn taken(&mut self, client: &Arc<str>) {
        if let Some(known) = self.clients.get_mut(client) {
            known.window = (known.window + 1).min(WINDOW);
            known.last_pause_ms = 0;
        }
    }

    /// The broker was full, or the result is unknown: the message returns to its queue, and its
    /// client pauses.
    pub fn put_off(&mut self, client: &Arc<str>, due: Due, now_ms: u64) {
        self.forget_unanswered(client, due);
        let Some(known) = self.clients.get_mut(client) else { return };
        put_in_order(&mut known.queue, due);
        known.window = 1;
        if known.pause.is_none() {
            known.last_pause_ms = (2 * known.last_pause_ms).clamp(PAUSE_MS, PAUSE_MS_MAX);
            let until_ms = now_ms + known.last_pause_ms;
            known.pause = Some(until_ms);
            self.pauses.insert((until_ms, Arc::clone(client)));
        }
        self.settle(client);
    }

    /// Sets the end of the wait for a reply.
    pub fn wait_on(&mut self, client: &Arc<str>, due: Due, until_ms: u64) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if let Some((_, until)) = known.unanswered.iter_mut().find(|(other, _)| *other == due) {
            self.patience.remove(&(*until, due));
            *until = until_ms;
            self.patience.insert((until_ms, due));
        }
    }

    /// Removes a message from wherever it is.
    pub fn remove(&mut self, client: &Arc<str>, due: Due) {
        self.forget_unanswered(client, due);
        if let Some(known) = self.clients.get_mut(client) {
            take_out(&mut known.queue, due);
            self.settle(client);
        }
    }

    /// Ends pauses that are over, a limited number at a time: after the plugin was disabled for
    /// long, there may be many.
    pub fn wake(&mut self, now_ms: u64) {
        for _ in 0..WOKEN_AT_ONCE {
            if self.pauses.first().is_none_or(|(until_ms, _)| *until_ms > now_ms) {
                return;
            }
            let Some((_, client)) = self.pauses.pop_first() else { return };
            if let Some(known) = self.clients.get_mut(&client) {
                known.pause = None;
            }
            self.settle(&client);
        }
    }

    /// A message whose reply is late.
    pub fn late(&self, now_ms: u64) -> Option<Due> {
        self.patience.first().filter(|(until_ms, _)| *until_ms <= now_ms).map(|(_, due)| *due)
    }

    /// When the next pause or wait ends.
    pub fn next_ms(&self) -> Option<u64> {
        let pause = self.pauses.first().map(|(until_ms, _)| *until_ms);
        let patience = self.patience.first().map(|(until_ms, _)| *until_ms);
        pause.into_iter().chain(patience).min()
    }

    /// Removes all messages; `left` frees them.
    pub fn clear_into(self, left: &mut DropQueue) {
        left.add(self.clients);
        left.add(self.ready);
        left.add(self.pauses);
        left.add(self.patience);
    }

    fn forget_unanswered(&mut self, client: &Arc<str>, due: Due) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if let Some(at) = known.unanswered.iter().position(|(other, _)| *other == due) {
            let (_, until_ms) = known.unanswered.swap_remove(at);
            self.patience.remove(&(until_ms, due));
        }
    }

    /// Adds a client to those that may publish, or removes it. A client without due messages is
    /// removed completely.
    fn settle(&mut self, client: &Arc<str>) {
        let Some(known) = self.clients.get_mut(client) else { return };
        let may = known.pause.is_none() && known.unanswered.len() < known.window;
        let first = known.queue.front().copied().filter(|_| may);
        if known.ready != first {
            if let Some(before) = known.ready.take() {
                self.ready.remove(&(before, Arc::clone(client)));
            }
            known.ready = first;
            self.ready.extend(first.map(|due| (due, Arc::clone(client))));
        }
        if known.queue.is_empty() && known.unanswered.is_empty() {
            if let Some(until_ms) = known.pause {
                self.pauses.remove(&(until_ms, Arc::clone(client)));
            }
            self.clients.remove(client);
        }
    }
}

fn put_in_order(queue: &mut VecDeque<Due>, due: Due) {
    if let Err(at) = queue.binary_search(&due) {
        queue.insert(at, due);
    }
}

fn take_out(queue: &mut VecDeque<Due>, due: Due) {
    if let Ok(at) = queue.binary_search(&due) {
        queue.remove(at);
    }
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes at most `most` messages that may be published.
    fn publish(queues: &mut Queues, names: &[(Arc<str>, u64)], most: usize) -> Vec<u64> {
        let mut order = Vec::new();
        while order.len() < most
            && let Some(due) = queues.first()
        {
            let (client, _) = names.iter().find(|(_, number)| *number == due.1).expect("it was pushed");
            queues.published(client, due, 99);
            order.push(due.1);
        }
        order
    }

    fn pushed(clients: &[(&str, u64)]) -> (Queues, Vec<(Arc<str>, u64)>) {
        let mut queues = Queues::default();
        let mut names = Vec::new();
        for (name, number) in clients {
            let name: Arc<str> = (*name).into();
            queues.push(&name, (10, *number));
            names.push((name, *number));
        }
        (queues, names)
    }

    #[test]
    fn a_client_without_room_waits_longer_each_time_and_delays_no_other() {
        let (mut queues, names) = pushed(&[("a", 1), ("a", 2), ("b", 3), ("b", 4)]);
        assert_eq!(publish(&mut queues, &names, 3), [1, 2, 3]);
        let (a, b) = (Arc::clone(&names[0].0), Arc::clone(&names[2].0));
        // Both were refused; they are retried one after the other.
        queues.put_off(&a, (10, 2), 1_000);
        queues.put_off(&a, (10, 1), 1_000);
        assert_eq!(publish(&mut queues, &names, 9), [4], "the other one goes on");
        let mut now_ms = 1_000;
        for pause_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            queues.wake(now_ms + pause_ms - 1);
            assert_eq!(queues.first(), None);
            now_ms += pause_ms;
            queues.wake(now_ms);
            assert_eq!(publish(&mut queues, &names, 9), [1], "in order, one at a time, after {pause_ms} ms");
            queues.put_off(&a, (10, 1), now_ms);
        }
        queues.wake(now_ms + 5_000);
        assert_eq!(publish(&mut queues, &names, 9), [1]);
        queues.taken(&a);
        queues.remove(&a, (10, 1));
        assert_eq!(publish(&mut queues, &names, 9), [2]);
        queues.put_off(&a, (10, 2), 0);
        queues.wake(PAUSE_MS);
        assert_eq!(queues.first(), Some((10, 2)), "short again");
        queues.remove(&a, (10, 2));
        (3..5).for_each(|number| queues.remove(&b, (10, number)));
        assert!(queues.clients.is_empty() && queues.ready.is_empty());
        assert!(queues.pauses.is_empty() && queues.patience.is_empty());
    }

    #[test]
    fn a_client_has_a_bounded_number_of_messages_in_flight() {
        let clients: Vec<(&str, u64)> = (0..WINDOW as u64 + 1).map(|number| ("a", number)).collect();
        let (mut queues, names) = pushed(&clients);
        let a = Arc::clone(&names[0].0);
        assert_eq!(publish(&mut queues, &names, 99).len(), WINDOW);
        assert_eq!((queues.first(), queues.late(98), queues.late(99)), (None, None, Some((10, 0))));
        queues.wait_on(&a, (10, 0), 200);
        assert_eq!(queues.late(199), Some((10, 1)));
        queues.remove(&a, (10, 5));
        assert_eq!(queues.first(), Some((10, WINDOW as u64)));
        assert!(queues.is_unanswered(&a, (10, 0)) && !queues.is_unanswered(&a, (10, 5)));
    }

    /// However many pauses are over, they end a few at a time, and all of them end.
    #[test]
    fn pauses_end_in_slices() {
        let names: Vec<String> = (0..3 * WOKEN_AT_ONCE).map(|number| number.to_string()).collect();
        let clients: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(0..).collect();
        let (mut queues, names) = pushed(&clients);
        publish(&mut queues, &names, names.len());
        names.iter().for_each(|(name, number)| queues.put_off(name, (10, *number), 0));
        for woken in 1..=3 {
            assert!(queues.next_ms() <= Some(PAUSE_MS), "it goes on at once");
            queues.wake(PAUSE_MS);
            assert_eq!(queues.ready.len(), woken * WOKEN_AT_ONCE);
        }
        assert_eq!(publish(&mut queues, &names, names.len()).len(), names.len());
    }

    /// A client whose messages are removed during a pause leaves no data behind.
    #[test]
    fn a_pause_ends_with_its_last_message() {
        let (mut queues, names) = pushed(&[("a", 1)]);
        let a = Arc::clone(&names[0].0);
        publish(&mut queues, &names, 1);
        queues.put_off(&a, (10, 1), 5);
        assert_eq!(queues.next_ms(), Some(105));
        queues.remove(&a, (10, 1));
        assert_eq!(queues.next_ms(), None);
    }
}

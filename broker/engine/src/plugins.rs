//! What a shard stores for plugins beside their links: sessions for their publishes, request
//! queues, timers, instance messages, replays.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;

use crate::hook::PluginHandle;
use crate::id::SessionKey;
use crate::interface::FROM_THE_BROKER;
use crate::limits::Limits;
use crate::log_rate::LogRate;
use crate::session::fetch::{OpenPage, OpenPages};
use crate::timer::Timer;

mod answers;
mod codes;
pub(crate) mod request_queues;
mod stored;
mod timers;

use answers::Answers;
use codes::Codes;
use request_queues::RequestQueues;
pub(crate) use stored::{PageSubject, StoredInstanceMessage, StoredMessages};
use timers::PluginTimer;

/// Where a page of retained messages for a plugin is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageKey {
    /// Being filled, with this number.
    Open(u64),
    /// Stored for its plugin, with this number.
    Stored(u64),
    /// Stored and to be processed again, with this number.
    Settling(u64),
}

/// What a shard stores for plugins beside their links.
#[derive(Debug, Default)]
pub(crate) struct PluginStore {
    /// Sessions without a client: publishes of a plugin wait in order in the slots of its session.
    sessions: HashMap<u64, SessionKey>,
    request_queues: RequestQueues,
    answers: Answers,
    /// Timers that are armed.
    timers: HashMap<u64, PluginTimer>,
    /// Timers that fell due while their plugin was suspended, in order, with the number of the
    /// plugin.
    suspended_timers: BTreeMap<u64, (u64, u64)>,
    /// Number of such timers so far.
    suspended_timers_count: u64,
    messages: StoredMessages,
    /// Number of stored answers of the broker, in total and for each version of a plugin.
    answers_stored: usize,
    answers_stored_for: HashMap<PluginHandle, usize>,
    /// Stored instance messages that are processed again in slices. They take no room of the stored
    /// ones meanwhile.
    settling: StoredMessages,
    /// The timer of stored messages whose version is in no chain table and not waited for, with the
    /// time for which it is armed.
    lateness: Option<(u64, Timer)>,
    /// Answers beyond those that are stored as instance messages.
    codes: Codes,
    /// Versions that are no longer in the chains but may come back, with their instances.
    detached: BTreeSet<u64>,
    replays: VecDeque<Replay>,
    /// Replays of these versions.
    replays_detached: Vec<Replay>,
    /// Pages of retained messages that plugins read on behalf of clients.
    pages: OpenPages,
    /// Rate limit, by number of a plugin, for the log line about its refused requests.
    refusals: HashMap<u64, LogRate>,
}

/// A plugin that is being notified of the state from before it was loaded.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) plugin: PluginHandle,
    /// The next index in the table of sessions.
    pub(crate) place: usize,
    pub(crate) until_ms: u64,
}

/// What the caller must clean up after something of a plugin was removed.
pub(crate) struct Cleanup {
    /// Timers to cancel in the clock.
    pub(crate) timers: Vec<Timer>,
    /// Tickets that are no longer needed.
    pub(crate) tickets: Vec<Ticket>,
    /// Number of codes that are no longer delivered.
    pub(crate) codes: u64,
}

/// Maximum number of instance messages stored for plugins that cannot be called yet.
const STORED_MESSAGES_MAX: usize = 1024;
/// Room for stored pages, in pages of the largest size; a page beyond it is refused.
const STORED_PAGES: u64 = 4;
/// Maximum bytes of instance messages.
const STORED_MESSAGE_BYTES_MAX: usize = 16 << 20;

impl PluginStore {
    /// The session of a plugin, by the number of the plugin's name.
    pub(crate) fn session(&self, number: u64) -> Option<SessionKey> {
        self.sessions.get(&number).copied()
    }

    /// Adds the session of a plugin.
    pub(crate) fn add_session(&mut self, number: u64, session: SessionKey) {
        self.sessions.insert(number, session);
    }

    /// The queues of requests on behalf of clients.
    pub(crate) fn request_queues(&mut self) -> &mut RequestQueues {
        &mut self.request_queues
    }

    /// A request on behalf of a client was refused. If that is to be logged, returns the number of
    /// earlier refusals that were not.
    pub(crate) fn refused(&mut self, plugin: PluginHandle, now_ms: u64) -> Option<u64> {
        self.refusals.entry(plugin.number()).or_default().record(now_ms)
    }

    /// Which version of a plugin gets the answers to requests of which version.
    pub(crate) fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    // --- pages of retained messages that plugins read on behalf of clients

    /// The pages that are being filled.
    pub(crate) fn pages(&mut self) -> &mut OpenPages {
        &mut self.pages
    }

    /// Adds a page.
    pub(crate) fn begin_page(&mut self, number: u64, page: OpenPage) {
        let owner = self.request_queues.owner_of(&page.identity);
        self.request_queues.begin_page(page.plugin.number(), owner, page.reserved_bytes());
        self.pages.begin(number, page);
    }

    /// A page that is being filled.
    pub(crate) fn page(&self, number: u64) -> Option<&OpenPage> {
        self.pages.get(number)
    }

    /// Changes a page if it is being filled.
    pub(crate) fn change_page<R>(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut OpenPage) -> R,
    ) -> Option<R> {
        let queues = &mut self.request_queues;
        self.pages.change(number, |page| {
            let before = page.reserved_bytes();
            let done = change(page);
            queues.count_page(page.plugin.number(), &page.identity.client_id, before, page.reserved_bytes());
            done
        })
    }

    /// Whether there is room for what a page has found. Its first message may be larger than the
    /// page was to be.
    pub(crate) fn has_room_for_found(&self, number: u64, limits: &Limits) -> bool {
        let Some(page) = self.pages.get(number).filter(|page| page.is_larger_than_requested()) else {
            return true;
        };
        let (plugin, owner) = (page.plugin.number(), self.request_queues.owner_of(&page.identity));
        self.request_queues.has_room_for_grown_page(plugin, owner, page.reserved_bytes(), limits)
    }

    /// Removes a page that is complete.
    pub(crate) fn end_page(&mut self, number: u64) -> Option<OpenPage> {
        let page = self.pages.end(number)?;
        self.request_queues.end_page(page.plugin.number(), &page.identity.client_id, page.reserved_bytes());
        Some(page)
    }

    /// Bytes of the pages that are being filled, stored or processed again.
    pub(crate) fn pages_bytes(&self) -> usize {
        self.pages.charged_bytes(None) + self.messages.pages_bytes() + self.settling.pages_bytes()
    }

    /// Recomputes `pages_bytes`.
    pub(crate) fn recount_pages(&self) -> usize {
        let stored = self.messages.iter().chain(self.settling.iter());
        self.pages.recount() + stored.map(StoredInstanceMessage::page_bytes).sum::<usize>()
    }

    /// Bytes of the pages that are being filled for a client.
    pub(crate) fn pages_bytes_of(&self, client_id: &str) -> usize {
        self.pages.charged_bytes(Some(client_id))
    }

    /// The page with the most bytes.
    pub(crate) fn largest_page(&self) -> Option<(usize, PageKey)> {
        let under_way = self.pages.heaviest().map(|(bytes, number)| (bytes, PageKey::Open(number)));
        let kept = self.messages.largest_page().map(|(bytes, number)| (bytes, PageKey::Stored(number)));
        let settling = self.settling.largest_page();
        let settling = settling.map(|(bytes, number)| (bytes, PageKey::Settling(number)));
        under_way.into_iter().chain(kept).chain(settling).max_by_key(|(bytes, _)| *bytes)
    }

    /// Replaces a stored page by this code. Returns its plugin and its description.
    pub(crate) fn replace_page(
        &mut self,
        place: PageKey,
        code: Bytes,
    ) -> Option<(PluginHandle, Box<PageSubject>)> {
        match place {
            PageKey::Open(_) => None,
            PageKey::Stored(number) => self.messages.replace_page(number, code),
            PageKey::Settling(number) => self.settling.replace_page(number, code),
        }
    }

    /// The sessions whose slots hold requests on behalf of a client.
    pub(crate) fn request_queues_of(&self, client_id: &str) -> impl Iterator<Item = SessionKey> {
        self.request_queues.sessions_of(client_id)
    }

    // --- instance messages

    /// Stores an instance message.
    ///
    /// # Errors
    /// The instance message, if there is no room.
    pub(crate) fn store_instance_message(
        &mut self,
        message: StoredInstanceMessage,
        limits: &Limits,
    ) -> Result<(), StoredInstanceMessage> {
        let is_answer = message.from == FROM_THE_BROKER;
        let has_room = if is_answer {
            // A page of retained messages is larger than a code.
            let pages_bytes = self.messages.pages_bytes() + message.page_bytes();
            let kept = self.answers_stored_for.entry(message.plugin).or_default();
            let fits = (*kept as u64) < answers_max(limits)
                && pages_bytes as u64 <= STORED_PAGES * limits.behalf_page_bytes_max;
            *kept += usize::from(fits);
            fits
        } else {
            let bytes = self.messages.bytes() - self.messages.pages_bytes() + message.charge();
            self.messages.len() - self.answers_stored < STORED_MESSAGES_MAX
                && bytes <= STORED_MESSAGE_BYTES_MAX
        };
        if !has_room {
            return Err(message);
        }
        self.answers_stored += usize::from(is_answer);
        self.messages.push_back(message);
        Ok(())
    }

    /// Puts all stored instance messages into the queue for processing, in order. Returns their
    /// timer, which the caller cancels.
    pub(crate) fn settle_stored_messages(&mut self) -> Option<Timer> {
        self.answers_stored = 0;
        self.answers_stored_for = HashMap::new();
        // Messages still in that queue came after the stored ones.
        let behind = std::mem::take(&mut self.settling);
        self.settling = std::mem::take(&mut self.messages);
        self.settling.append(behind);
        self.lateness.take().map(|(_, timer)| timer)
    }

    /// The timer of stored messages that may be too late for their version, with its time.
    pub(crate) fn lateness(&mut self) -> &mut Option<(u64, Timer)> {
        &mut self.lateness
    }

    /// The instance messages to process again; new ones are added behind them.
    pub(crate) fn settling(&mut self) -> &mut StoredMessages {
        &mut self.settling
    }

    /// Whether instance messages are to be processed again.
    pub(crate) fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Whether instance messages are stored for a version of the same plugin.
    pub(crate) fn has_stored_messages_of(&self, plugin: PluginHandle) -> bool {
        self.messages.iter().any(|message| message.plugin.number() == plugin.number())
    }

    /// Answers beyond those that are stored as instance messages.
    pub(crate) fn codes(&mut self) -> &mut Codes {
        &mut self.codes
    }

    /// A version with such answers, and the version that gets them, if it can be called.
    pub(crate) fn codes_for(
        &self,
        is_called: impl Fn(PluginHandle) -> bool,
    ) -> Option<(PluginHandle, PluginHandle)> {
        let told = self.codes.plugins().map(|requester| (requester, self.answers.of(requester)));
        told.into_iter().find(|(_, plugin)| is_called(*plugin))
    }

    /// Whether one more answer may be stored for a plugin that is suspended.
    pub(crate) fn may_store_answer(&self, plugin: PluginHandle, limits: &Limits) -> bool {
        let kept = self.answers_stored_for.get(&plugin).copied().unwrap_or(0);
        kept == 0 || ((kept + self.request_queues.under_way(plugin.number())) as u64) < answers_max(limits)
    }

    // --- replays

    /// Starts a replay: the plugin is notified of the state from before it was loaded.
    pub(crate) fn begin_replay(&mut self, plugin: PluginHandle, until_ms: u64) {
        self.replays.push_back(Replay { plugin, place: 0, until_ms });
    }

    /// Whether pages of retained messages wait for a turn.
    pub(crate) fn has_pages(&self) -> bool {
        self.pages.row_len() > 0
    }

    /// Whether a replay is not complete.
    pub(crate) fn has_replays(&self) -> bool {
        !self.replays.is_empty()
    }

    /// The replay that continues next.
    pub(crate) fn first_replay(&self) -> Option<&Replay> {
        self.replays.front()
    }

    /// Moves the first replay to this index.
    pub(crate) fn move_replay(&mut self, place: usize) {
        if let Some(replay) = self.replays.front_mut() {
            replay.place = place;
        }
    }

    /// Ends the first replay.
    pub(crate) fn end_replay(&mut self) {
        self.replays.pop_front();
    }

    // --- versions that have left the chains

    /// These versions have left the chains: what is stored for them waits until they return or are
    /// removed.
    pub(crate) fn detach(&mut self, gone: &[PluginHandle]) {
        for plugin in gone {
            self.answers.remove(*plugin);
            self.detached.insert(plugin.0);
        }
        for replay in std::mem::take(&mut self.replays) {
            if gone.contains(&replay.plugin) {
                self.replays_detached.push(replay);
            } else {
                self.replays.push_back(replay);
            }
        }
    }

    /// Whether a version has left the chains and may come back.
    pub(crate) fn is_detached(&self, plugin: PluginHandle) -> bool {
        self.detached.contains(&plugin.0)
    }

    /// Attaches detached versions that are in the chains again. If one got the state of the version
    /// in between, it arms its timers itself; its earlier timers are returned, to be cancelled.
    pub(crate) fn attach_again(&mut self, is_there: impl Fn(PluginHandle) -> bool) -> Vec<Timer> {
        let back = self.detached.extract_if(.., |plugin| is_there(PluginHandle(*plugin)));
        let mut back: Vec<PluginHandle> = back.map(PluginHandle).collect();
        if back.is_empty() {
            return Vec::new();
        }
        let goes_on = |replay: &mut Replay| back.contains(&replay.plugin);
        self.replays.extend(self.replays_detached.extract_if(.., goes_on));
        back.retain(|plugin| self.answers.has_state(*plugin));
        self.take_timers(&back)
    }

    /// Removes the timers, replays, pages and codes of a version for good. `is_there` says whether
    /// a version is in the chains.
    pub(crate) fn forget(&mut self, gone: PluginHandle, is_there: impl Fn(PluginHandle) -> bool) -> Cleanup {
        self.detached.remove(&gone.0);
        self.answers.remove(gone);
        self.refusals.remove(&gone.number());
        let (answers, detached) = (&self.answers, &self.detached);
        let wanted = |requester| {
            let plugin = answers.of(requester);
            is_there(plugin) || detached.contains(&plugin.0) || !answers.was_there(plugin)
        };
        let mut tickets = Vec::new();
        for page in self.pages.take_unwanted(wanted) {
            self.request_queues.end_page(
                page.plugin.number(),
                &page.identity.client_id,
                page.reserved_bytes(),
            );
            tickets.extend(page.ticket());
        }
        let codes = self.codes.remove_unwanted(wanted);
        self.replays.retain(|replay| replay.plugin != gone);
        self.replays_detached.retain(|replay| replay.plugin != gone);
        Cleanup { timers: self.take_timers(&[gone]), tickets, codes }
    }
}

/// Maximum number of answers stored for a plugin: those that may be due when it is suspended, and
/// as many again for requests made before it is called.
fn answers_max(limits: &Limits) -> u64 {
    2 * (limits.behalf_requests_max + limits.behalf_pages_max)
}

//! What a shard keeps for plugins beside their links: sessions for what they publish, lines for what they ask for on behalf of
//! clients, timers, instance messages, replays.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use grapnel_plugin_abi::raw::Ticket;

use crate::hook::PluginHandle;
use crate::id::SessionKey;
use crate::interface::FROM_THE_BROKER;
use crate::limits::Limits;
use crate::log_rate::LogRate;
use crate::session::fetch::{PageUnderWay, PagesUnderWay};
use crate::timer::Timer;

mod answers;
mod codes;
mod kept;
pub(crate) mod request_queues;

use answers::Answers;
use codes::Codes;
pub(crate) use kept::{PageAbout, StoredInstanceMessage};
use request_queues::RequestQueues;

/// Where a page of retained messages is that a plugin has asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PagePlace {
    /// Under way, with this number.
    UnderWay(u64),
    /// Kept for its plugin, at this place.
    Kept(usize),
}

/// What a shard keeps for plugins beside their links.
#[derive(Debug, Default)]
pub(crate) struct PluginStore {
    /// Sessions that no client has: what a plugin publishes waits in order in the slots of its own.
    sessions: HashMap<u64, SessionKey>,
    request_queues: RequestQueues,
    answers: Answers,
    /// Timers that are armed.
    timers: HashMap<u64, PluginTimer>,
    /// Timers that fell due while their plugin was disabled or tripped, in this order, each with the plugin's number.
    suspended_timers: BTreeMap<u64, (u64, u64)>,
    /// How many have been held so far.
    suspended_timers_count: u64,
    messages: VecDeque<StoredInstanceMessage>,
    messages_bytes: usize,
    /// How many of them are answers of the broker, in all and by the version they are for.
    answers_stored: usize,
    answers_stored_for: HashMap<PluginHandle, usize>,
    /// Instance messages that was kept and is looked at again in slices, in order, and what has come since. Nobody is charged for it meanwhile.
    settling: VecDeque<StoredInstanceMessage>,
    /// Answers beyond those that are kept as an instance message.
    codes: Codes,
    /// Bytes of pages among them.
    pages_stored_bytes: usize,
    /// Bytes of each of these pages, with its place.
    pages_kept: BTreeSet<(usize, usize)>,
    /// Versions that have left the chains and whose instances are there still: where a change of the plugins is taken back, they are
    /// called again.
    detached: BTreeSet<u64>,
    replays: VecDeque<Replay>,
    /// Those of versions that have left the chains and may come back.
    replays_detached: Vec<Replay>,
    /// Pages of retained messages that plugins read on behalf of clients.
    pages: PagesUnderWay,
    /// By the number of a plugin: of the line about what was refused to it on behalf of clients.
    refusals: HashMap<u64, LogRate>,
}

/// A timer of a plugin's.
#[derive(Debug)]
struct PluginTimer {
    plugin: PluginHandle,
    /// Until then a plugin that is in no chain table is waited for.
    until_ms: u64,
    armed: Timer,
    /// Its place among those that are held.
    suspended: Option<u64>,
}

/// A plugin that is being told of what was there before it.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) plugin: PluginHandle,
    /// The next place in the table of sessions.
    pub(crate) place: usize,
    pub(crate) until_ms: u64,
}

/// What is to be undone elsewhere where something of a plugin is forgotten.
pub(crate) struct Forgotten {
    /// Timers, which the clock forgets too.
    pub(crate) timers: Vec<Timer>,
    /// Tickets for which nobody waits any more.
    pub(crate) tickets: Vec<Ticket>,
    /// How many codes nobody is told any more.
    pub(crate) codes: u64,
}

/// Instance messages that are stored for plugins that are not in the chains yet, and for those that are disabled or tripped.
const STORED_MESSAGES_MAX: usize = 1024;
/// Pages of retained messages that are kept likewise, of the largest size; one that finds no room is refused instead.
const STORED_PAGES: u64 = 4;
/// Bytes of instance messages.
const STORED_MESSAGE_BYTES_MAX: usize = 16 << 20;

impl PluginStore {
    /// The session of a plugin, by the number of the plugin's name.
    pub(crate) fn session(&self, number: u64) -> Option<SessionKey> {
        self.sessions.get(&number).copied()
    }

    /// A plugin has got a session.
    pub(crate) fn add_session(&mut self, number: u64, session: SessionKey) {
        self.sessions.insert(number, session);
    }

    /// Where waits what plugins ask for on behalf of clients.
    pub(crate) fn request_queues(&mut self) -> &mut RequestQueues {
        &mut self.request_queues
    }

    /// Something was refused to a plugin on behalf of a client: whether that is logged, and how many before it were not.
    pub(crate) fn refused(&mut self, plugin: PluginHandle, now_ms: u64) -> Option<u64> {
        self.refusals.entry(plugin.number()).or_default().say(now_ms)
    }

    /// Who is told what was answered to which generation.
    pub(crate) fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    // --- pages of retained messages that plugins read on behalf of clients

    /// Which go on in a next turn.
    pub(crate) fn pages(&mut self) -> &mut PagesUnderWay {
        &mut self.pages
    }

    /// A page is begun.
    pub(crate) fn begin_page(&mut self, number: u64, page: PageUnderWay) {
        self.request_queues.begin_page(page.plugin.number(), &page.identity.client_id, page.reserved_bytes());
        self.pages.begin(number, page);
    }

    /// A page that is under way.
    pub(crate) fn page(&self, number: u64) -> Option<&PageUnderWay> {
        self.pages.get(number)
    }

    /// Changes a page, if it is under way.
    pub(crate) fn change_page<R>(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut PageUnderWay) -> R,
    ) -> Option<R> {
        let queues = &mut self.request_queues;
        self.pages.change(number, |page| {
            let before = page.reserved_bytes();
            let done = change(page);
            queues.count_page(page.plugin.number(), &page.identity.client_id, before, page.reserved_bytes());
            done
        })
    }

    /// Whether there is room for what a page has found: for its first message, where that has more bytes than the page was to have.
    pub(crate) fn has_room_for_found(&self, number: u64, limits: &Limits) -> bool {
        let Some(page) = self.pages.get(number).filter(|page| page.is_beyond()) else { return true };
        let (plugin, client_id) = (page.plugin.number(), &page.identity.client_id);
        self.request_queues.has_room_for_grown_page(plugin, client_id, page.reserved_bytes(), limits)
    }

    /// A page is at its end.
    pub(crate) fn end_page(&mut self, number: u64) -> Option<PageUnderWay> {
        let page = self.pages.end(number)?;
        self.request_queues.end_page(page.plugin.number(), &page.identity.client_id, page.reserved_bytes());
        Some(page)
    }

    /// Bytes of pages that are under way, and of those that are kept for plugins.
    pub(crate) fn pages_bytes(&self) -> usize {
        self.pages.charged_bytes(None) + self.pages_stored_bytes
    }

    /// The same counted anew.
    pub(crate) fn recount_pages(&self) -> usize {
        self.pages.recount() + self.messages.iter().map(StoredInstanceMessage::page_bytes).sum::<usize>()
    }

    /// Bytes of pages that are under way for a client.
    pub(crate) fn pages_bytes_of(&self, client_id: &str) -> usize {
        self.pages.charged_bytes(Some(client_id))
    }

    /// The page that holds most, with its bytes.
    pub(crate) fn heaviest_page(&self) -> Option<(usize, PagePlace)> {
        let under_way = self.pages.heaviest().map(|(bytes, number)| (bytes, PagePlace::UnderWay(number)));
        let kept = self.pages_kept.last().map(|(bytes, index)| (*bytes, PagePlace::Kept(*index)));
        under_way.into_iter().chain(kept).max_by_key(|(bytes, _)| *bytes)
    }

    /// A page that is kept for a plugin becomes this code; for whom it is, and what it was.
    pub(crate) fn replace_kept_page(
        &mut self,
        index: usize,
        code: Bytes,
    ) -> Option<(PluginHandle, Box<PageAbout>)> {
        let message = self.messages.get_mut(index)?;
        let before = message.charge();
        let page = message.page.take()?;
        message.bytes = code;
        let less = before - message.charge();
        self.pages_kept.remove(&(before, index));
        self.messages_bytes -= less;
        self.pages_stored_bytes -= less;
        Some((message.plugin, page))
    }

    /// The sessions in whose slots waits what is asked for on behalf of a client.
    pub(crate) fn request_queues_of(&self, client_id: &str) -> impl Iterator<Item = SessionKey> {
        self.request_queues.sessions_of(client_id)
    }

    // --- timers

    /// A plugin has armed a timer. Until `until_ms` it is waited for if it is in no chain table.
    pub(crate) fn arm_timer(&mut self, timer: u64, plugin: PluginHandle, until_ms: u64, armed: Timer) {
        self.timers.insert(timer, PluginTimer { plugin, until_ms, armed, suspended: None });
    }

    /// A timer is looked at once more.
    pub(crate) fn rearm_timer(&mut self, timer: u64, armed: Timer) {
        if let Some(known) = self.timers.get_mut(&timer) {
            known.armed = armed;
        }
    }

    /// Forgets a timer, if it is this plugin's, for the clock to forget it too.
    pub(crate) fn cancel_timer(&mut self, timer: u64, plugin: PluginHandle) -> Option<Timer> {
        self.timers.get(&timer).filter(|known| known.plugin == plugin)?;
        let gone = self.timers.remove(&timer)?;
        gone.suspended.map(|place| self.suspended_timers.remove(&place));
        Some(gone.armed)
    }

    /// Whose timer that is, and until when its plugin is waited for; `None` if it is not armed any more.
    pub(crate) fn timer(&self, timer: u64) -> Option<(PluginHandle, u64)> {
        self.timers.get(&timer).map(|known| (known.plugin, known.until_ms))
    }

    /// A timer has run, or nobody is there for it.
    pub(crate) fn end_timer(&mut self, timer: u64) {
        self.timers.remove(&timer);
    }

    /// The same in the clock, of one.
    pub(crate) fn armed(&self, timer: u64) -> Option<Timer> {
        self.timers.get(&timer).map(|known| known.armed)
    }

    /// The same in the clock.
    pub(crate) fn timers(&self) -> impl Iterator<Item = Timer> {
        self.timers.values().map(|timer| timer.armed)
    }

    /// How many timers are armed.
    pub(crate) fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// A timer is due while its plugin is not called.
    pub(crate) fn suspend_timer(&mut self, timer: u64, number: u64) {
        if let Some(known) = self.timers.get_mut(&timer) {
            self.suspended_timers_count += 1;
            known.suspended = Some(self.suspended_timers_count);
            self.suspended_timers.insert(self.suspended_timers_count, (timer, number));
        }
    }

    /// Takes the timers that have fallen due meanwhile, in this order, each with the plugin's number.
    pub(crate) fn take_suspended_timers(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.suspended_timers).into_values().collect()
    }

    // --- instance messages

    /// Keeps instance messages.
    ///
    /// # Errors
    /// The instance messages, if too much is kept.
    pub(crate) fn store_instance_message(
        &mut self,
        message: StoredInstanceMessage,
        limits: &Limits,
    ) -> Result<(), StoredInstanceMessage> {
        let bytes = self.messages_bytes + message.charge();
        let is_answer = message.from == FROM_THE_BROKER;
        let has_room = if is_answer {
            // A page of retained messages has more than a code.
            let pages_bytes = self.pages_stored_bytes + message.page_bytes();
            let kept = self.answers_stored_for.entry(message.plugin).or_default();
            let fits = (*kept as u64) < answers_max(limits)
                && pages_bytes as u64 <= STORED_PAGES * limits.behalf_page_bytes_max;
            if fits {
                *kept += 1;
                self.pages_stored_bytes = pages_bytes;
            }
            fits
        } else {
            self.messages.len() - self.answers_stored < STORED_MESSAGES_MAX
                && bytes - self.pages_stored_bytes <= STORED_MESSAGE_BYTES_MAX
        };
        if !has_room {
            return Err(message);
        }
        self.answers_stored += usize::from(is_answer);
        self.messages_bytes = bytes;
        if message.page.is_some() {
            self.pages_kept.insert((message.charge(), self.messages.len()));
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// All instance messages that is kept is looked at again, in order.
    pub(crate) fn settle_mails(&mut self) {
        (self.messages_bytes, self.answers_stored, self.pages_stored_bytes) = (0, 0, 0);
        self.answers_stored_for = HashMap::new();
        self.pages_kept = BTreeSet::new();
        // What still waits to be looked at has come after what is kept.
        let behind = std::mem::take(&mut self.settling);
        self.settling = std::mem::take(&mut self.messages);
        self.settling.extend(behind);
    }

    /// Instance messages that is to be looked at again; what comes meanwhile waits behind it.
    pub(crate) fn settling(&mut self) -> &mut VecDeque<StoredInstanceMessage> {
        &mut self.settling
    }

    /// Whether instance messages is to be looked at again.
    pub(crate) fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Whether instance messages is kept for some version of the same plugin.
    pub(crate) fn has_mail_of(&self, plugin: PluginHandle) -> bool {
        self.messages.iter().any(|message| message.plugin.number() == plugin.number())
    }

    /// Answers beyond those that are kept as an instance message.
    pub(crate) fn codes(&mut self) -> &mut Codes {
        &mut self.codes
    }

    /// A version that such answers are for, and who is told them, if that is called.
    pub(crate) fn codes_for(
        &self,
        is_called: impl Fn(PluginHandle) -> bool,
    ) -> Option<(PluginHandle, PluginHandle)> {
        let told = self.codes.plugins().map(|asker| (asker, self.answers.of(asker)));
        told.into_iter().find(|(_, plugin)| is_called(*plugin))
    }

    /// Whether one more answer may be owed to a plugin that is not called.
    pub(crate) fn may_owe(&self, plugin: PluginHandle, limits: &Limits) -> bool {
        let kept = self.answers_stored_for.get(&plugin).copied().unwrap_or(0);
        kept == 0 || ((kept + self.request_queues.under_way(plugin.number())) as u64) < answers_max(limits)
    }

    // --- replays

    /// A plugin is to be told of all that was there before it.
    pub(crate) fn begin_replay(&mut self, plugin: PluginHandle, until_ms: u64) {
        self.replays.push_back(Replay { plugin, place: 0, until_ms });
    }

    /// Whether pages of retained messages wait for a turn.
    pub(crate) fn has_pages(&self) -> bool {
        self.pages.row_len() > 0
    }

    /// Whether some plugin has not been told of everything yet.
    pub(crate) fn has_replays(&self) -> bool {
        !self.replays.is_empty()
    }

    /// The replay that goes on next.
    pub(crate) fn first_replay(&self) -> Option<&Replay> {
        self.replays.front()
    }

    /// The replay in front has come to this place.
    pub(crate) fn move_replay(&mut self, place: usize) {
        if let Some(replay) = self.replays.front_mut() {
            replay.place = place;
        }
    }

    /// The replay in front is over.
    pub(crate) fn end_replay(&mut self) {
        self.replays.pop_front();
    }

    // --- versions that have left the chains

    /// These have left the chains: what is kept for them waits until they are in them again, or are forgotten.
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

    /// Whether a version has left the chains, and may come back.
    pub(crate) fn is_detached(&self, plugin: PluginHandle) -> bool {
        self.detached.contains(&plugin.0)
    }

    /// Of those the ones that are in the chains again. Where the state of the version in between has come back with one, it arms its
    /// timers itself, and those of before are handed over for the clock to forget.
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

    /// Forgets the timers, replays, pages and codes of a version that is gone for good, whether it has been in the chains or not;
    /// `is_there` says of one whether it is in them.
    pub(crate) fn forget(
        &mut self,
        gone: PluginHandle,
        is_there: impl Fn(PluginHandle) -> bool,
    ) -> Forgotten {
        self.detached.remove(&gone.0);
        self.answers.remove(gone);
        self.refusals.remove(&gone.number());
        let (answers, detached) = (&self.answers, &self.detached);
        let wanted = |asker| {
            let plugin = answers.of(asker);
            is_there(plugin) || detached.contains(&plugin.0) || !answers.was_there(plugin)
        };
        let mut tickets = Vec::new();
        for page in self.pages.take_unwanted(&wanted) {
            self.request_queues.end_page(
                page.plugin.number(),
                &page.identity.client_id,
                page.reserved_bytes(),
            );
            tickets.extend(page.ticket());
        }
        let codes = self.codes.forget_unwanted(wanted);
        self.replays.retain(|replay| replay.plugin != gone);
        self.replays_detached.retain(|replay| replay.plugin != gone);
        Forgotten { timers: self.take_timers(&[gone]), tickets, codes }
    }

    fn take_timers(&mut self, of: &[PluginHandle]) -> Vec<Timer> {
        if of.is_empty() {
            return Vec::new();
        }
        let held = &mut self.suspended_timers;
        let timers = self.timers.extract_if(|_, timer| of.contains(&timer.plugin));
        let timers = timers.map(|(_, timer)| {
            timer.suspended.map(|place| held.remove(&place));
            timer.armed
        });
        timers.collect()
    }
}

/// Answers that may be kept for a plugin: as many as may be owed to it when it is disabled or tripped, and as many again that it asks
/// for until it is called.
fn answers_max(limits: &Limits) -> u64 {
    2 * (limits.behalf_requests_max + limits.behalf_pages_max)
}

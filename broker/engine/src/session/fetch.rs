//! A plugin reads retained messages on behalf of a client, a page at a time: what it asks for, how far a page has come, and the
//! pages of a shard that are under way. `flow/fetch.rs` does it. Between two pages nothing is kept here: the plugin says where the
//! next one begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use grapnel_plugin_abi::raw::Ticket;

use super::identity::Identity;
use crate::hook::PluginHandle;
use crate::hook::suspended::AuthorizationRequest;
use crate::id::ShardId;
use crate::message::Message;
use crate::packet::QoS;
use crate::reason::ReasonCode;
use crate::route::retained::Cursor;

/// Pieces of a store that are looked through for one page: it comes short, or empty, where they have no more for it.
const PIECES_MAX: u32 = 16;
/// How long a page may wait for plugins, milliseconds: then it comes with what has been authorized.
const AUTHORIZED_FOR_MS: u64 = 5_000;
/// How often a page begins anew because the rules have changed.
pub(crate) const ROUNDS_MAX: u8 = 8;
/// What the first byte of a place says: another layout has another number.
const LAYOUT: u8 = 1;

/// Where a page begins: with which shard's messages, and where among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlace {
    shard: u8,
    key: Box<str>,
}

impl FetchPlace {
    /// Before the first message.
    pub fn first() -> FetchPlace {
        FetchPlace { shard: 0, key: "".into() }
    }

    /// From bytes that a page had, or from none for the first page; `None` for anything else. They mean as much as the broker that
    /// wrote them runs.
    pub fn decode(bytes: &[u8]) -> Option<FetchPlace> {
        match bytes {
            [] => Some(FetchPlace::first()),
            [LAYOUT, shard, key @ ..] => {
                Some(FetchPlace { shard: *shard, key: std::str::from_utf8(key).ok()?.into() })
            }
            _ => None,
        }
    }

    /// Whether a broker of so many shards can have written it.
    pub fn is_within(&self, shards: usize) -> bool {
        usize::from(self.shard) < shards
    }

    /// Its bytes, for the plugin.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.key.len());
        bytes.extend([LAYOUT, self.shard]);
        bytes.extend(self.key.as_bytes());
        bytes
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Valid topic filter, of no shared subscription.
    pub filter: Arc<str>,
    /// What the client would subscribe with: a message has no higher QoS.
    pub qos: QoS,
    /// Where the page begins.
    pub place: FetchPlace,
    /// Messages, from 1; a page has no more than `behalf_page_messages_max` whatever is asked for.
    pub messages_max: u32,
    /// Bytes of them, from 1, and no more than `behalf_page_bytes_max` and what a client may have waiting; the first message may have
    /// more where nothing else waits for the client.
    pub bytes_max: u32,
}

impl Fetch {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Fetch>() + self.filter.len() + self.place.key.len()
    }

    /// Asks for no more messages and bytes than a page may have.
    pub(crate) fn within(self, messages_max: u64, bytes_max: u64) -> Fetch {
        let least = |asked: u32, max: u64| asked.min(u32::try_from(max).unwrap_or(u32::MAX)).max(1);
        Fetch {
            messages_max: least(self.messages_max, messages_max),
            bytes_max: least(self.bytes_max, bytes_max),
            ..self
        }
    }
}

/// A page on its way.
#[derive(Debug)]
pub(crate) struct PageUnderWay {
    pub(crate) plugin: PluginHandle,
    /// The client, as it was when the page was begun.
    pub(crate) identity: Rc<Identity>,
    /// Whether the plugin has named whoever is there, and not a client that it has kept.
    pub(crate) by_id: bool,
    /// How often the rules have changed meanwhile.
    pub(crate) rounds: u8,
    /// The number that comes back with the page.
    pub(crate) answer: Option<u64>,
    pub(crate) fetch: Fetch,
    /// Version of the rules when it was begun.
    pub(crate) epoch: u64,
    /// The shard that is read, and where; `None` when there is no more.
    at: Option<(ShardId, Cursor)>,
    /// Messages that are found, and not authorized yet. The first may be waiting for a plugin.
    pub(crate) found: VecDeque<Arc<Message>>,
    /// How the question about the first of them stands.
    pub(crate) request: Option<AuthorizationRequest>,
    /// Messages that the client may have.
    pub(crate) messages: Vec<Arc<Message>>,
    /// Messages that were found, whether the client may have them or not, and bytes of them.
    seen: usize,
    bytes: usize,
    /// Bytes of `found` and `messages`.
    charged_bytes: usize,
    /// Pieces of stores that were looked through.
    pieces: u32,
    /// The shard whose messages were found last.
    last_read: ShardId,
    /// Whether what comes next has no room.
    full: bool,
    /// Until when it waits for plugins, monotonic milliseconds.
    until_ms: u64,
    /// Why there is no page: a question about one of its messages has found no answer, or it has no room.
    pub(crate) failed: Option<ReasonCode>,
    /// Whether it stands in the row of those that go on in a next turn.
    in_row: bool,
}

impl PageUnderWay {
    /// A page that nothing has been read for, of what one of `shards` shards has, or `only` this one.
    pub(crate) fn new(
        plugin: PluginHandle,
        (identity, by_id): (Rc<Identity>, bool),
        answer: Option<u64>,
        fetch: Fetch,
        (epoch, rounds, now_ms): (u64, u8, u64),
        (shards, only): (usize, Option<ShardId>),
    ) -> PageUnderWay {
        let shard = only.unwrap_or(ShardId(fetch.place.shard));
        let at = (shard.index() < shards).then(|| (shard, Cursor::from_key(&fetch.place.key)));
        PageUnderWay {
            plugin,
            identity,
            by_id,
            rounds,
            answer,
            fetch,
            epoch,
            at,
            found: VecDeque::new(),
            request: None,
            messages: Vec::new(),
            seen: 0,
            bytes: 0,
            charged_bytes: 0,
            pieces: 0,
            last_read: shard,
            full: false,
            until_ms: now_ms + AUTHORIZED_FOR_MS,
            failed: None,
            in_row: false,
        }
    }

    /// What is read next: of which shard, from where, and the messages and bytes that there is room for. `None` when the page is at
    /// its end.
    pub(crate) fn next(&self) -> Option<(ShardId, Cursor, usize, usize)> {
        let messages = (self.fetch.messages_max as usize).saturating_sub(self.seen);
        let bytes = (self.fetch.bytes_max as usize).saturating_sub(self.bytes);
        let goes_on = !self.full && self.failed.is_none() && self.pieces < PIECES_MAX;
        let (shard, cursor) = self.at.as_ref().filter(|_| goes_on && messages > 0 && bytes > 0)?;
        Some((*shard, cursor.clone(), messages, bytes))
    }

    /// That shard has found these, and goes on there; `None` is its end. `following` is read after it.
    pub(crate) fn read(
        &mut self,
        found: impl Iterator<Item = Arc<Message>>,
        next: Option<Cursor>,
        following: Option<ShardId>,
    ) {
        let Some((shard, cursor)) = self.at.take() else { return };
        self.last_read = shard;
        self.pieces += 1;
        for message in found {
            let size = message.bytes();
            let fits = self.seen < self.fetch.messages_max as usize
                && (self.seen == 0 || self.bytes + size <= self.fetch.bytes_max as usize);
            if !fits {
                self.full = true;
                self.at = Some((shard, cursor.at(&message.topic)));
                return;
            }
            self.seen += 1;
            self.bytes += size;
            self.charged_bytes += size;
            self.found.push_back(message);
        }
        self.at = match next {
            Some(next) => Some((shard, next)),
            None => following.map(|shard| (shard, Cursor::until(u64::MAX))),
        };
    }

    /// The client may have the first that is found, or not.
    pub(crate) fn decided(&mut self, may: bool) {
        let Some(message) = self.found.pop_front() else { return };
        if may {
            self.messages.push(message);
        } else {
            self.charged_bytes -= message.bytes();
        }
    }

    /// There is no page, for this reason: it lets go of all that it has.
    pub(crate) fn fail(&mut self, reason: ReasonCode) {
        self.let_go();
        self.charged_bytes -= self.messages.drain(..).map(|message| message.bytes()).sum::<usize>();
        self.failed = Some(reason);
    }

    /// Lets go of what is found and not authorized.
    fn let_go(&mut self) {
        self.charged_bytes -= self.found.drain(..).map(|message| message.bytes()).sum::<usize>();
    }

    /// Bytes that it is charged for, its identity and its messages as if nobody shared them.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.fixed_bytes() + self.charged_bytes
    }

    /// The same counted anew, message by message.
    fn recount(&self) -> usize {
        let messages = self.found.iter().chain(&self.messages);
        self.fixed_bytes() + messages.map(|message| message.bytes()).sum::<usize>()
    }

    /// Whether its first message has more bytes than the page was to have.
    pub(crate) fn is_beyond(&self) -> bool {
        self.charged_bytes > self.fetch.bytes_max as usize
    }

    /// Bytes that it may come to: more only where its first message has more.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.fixed_bytes() + self.charged_bytes.max(self.fetch.bytes_max as usize)
    }

    fn fixed_bytes(&self) -> usize {
        size_of::<PageUnderWay>() + self.identity.bytes() + self.fetch.bytes()
    }

    /// Ends it before the first that is found, if plugins have taken too long over those in front.
    pub(crate) fn end_if_late(&mut self, now_ms: u64) {
        let owner = self.last_read;
        if now_ms >= self.until_ms
            && self.found.len() < self.seen
            && let Some(first) = self.found.front()
        {
            self.at = Some((owner, Cursor::until(u64::MAX).at(&first.topic)));
            self.full = true;
            self.let_go();
        }
    }

    /// The ticket that it waits for.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.request.as_ref()?.ticket()
    }

    /// Where the next page begins; `None` where there is no more.
    pub(crate) fn following(&self) -> Option<FetchPlace> {
        let (shard, cursor) = self.at.as_ref()?;
        Some(FetchPlace { shard: shard.0, key: cursor.key().into() })
    }
}

/// The pages of a shard that are under way, by number.
#[derive(Debug, Default)]
pub(crate) struct PagesUnderWay {
    pages: BTreeMap<u64, PageUnderWay>,
    /// Those that go on in a next turn.
    row: VecDeque<u64>,
    /// Bytes that all of them are charged for.
    charged_bytes: usize,
    /// Bytes that each is charged for, with its number.
    by_weight: BTreeSet<(usize, u64)>,
}

impl PagesUnderWay {
    /// A page is begun.
    pub(crate) fn begin(&mut self, number: u64, page: PageUnderWay) {
        self.charged_bytes += page.charged_bytes();
        self.by_weight.insert((page.charged_bytes(), number));
        self.pages.insert(number, page);
    }

    /// A page that is under way.
    pub(crate) fn get(&self, number: u64) -> Option<&PageUnderWay> {
        self.pages.get(&number)
    }

    /// The tickets that they wait for.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.pages.values().filter_map(PageUnderWay::ticket)
    }

    /// Changes a page, if it is under way.
    pub(crate) fn change<R>(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut PageUnderWay) -> R,
    ) -> Option<R> {
        let page = self.pages.get_mut(&number)?;
        let before = page.charged_bytes();
        let done = change(page);
        let now = page.charged_bytes();
        if before != now {
            self.charged_bytes = self.charged_bytes - before + now;
            self.by_weight.remove(&(before, number));
            self.by_weight.insert((now, number));
        }
        Some(done)
    }

    /// Bytes that they are charged for: of all, or of those of one client. The latter looks at all of them.
    pub(crate) fn charged_bytes(&self, client_id: Option<&str>) -> usize {
        match client_id {
            None => self.charged_bytes,
            Some(client_id) => {
                let own = self.pages.values().filter(|page| &*page.identity.client_id == client_id);
                own.map(PageUnderWay::charged_bytes).sum()
            }
        }
    }

    /// The page that is charged for most bytes, and its number.
    pub(crate) fn heaviest(&self) -> Option<(usize, u64)> {
        self.by_weight.last().copied()
    }

    /// Bytes of all, counted anew, message by message.
    pub(crate) fn recount(&self) -> usize {
        self.pages.values().map(PageUnderWay::recount).sum()
    }

    /// A page goes on in a next turn.
    pub(crate) fn push(&mut self, number: u64) {
        if let Some(page) = self.pages.get_mut(&number)
            && !std::mem::replace(&mut page.in_row, true)
        {
            self.row.push_back(number);
        }
    }

    /// The page that goes on next, of those that wait for a turn.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let number = self.row.pop_front()?;
        if let Some(page) = self.pages.get_mut(&number) {
            page.in_row = false;
        }
        Some(number)
    }

    /// How many wait for a turn.
    pub(crate) fn row_len(&self) -> usize {
        self.row.len()
    }

    /// Takes those that nobody will get.
    pub(crate) fn take_unwanted(&mut self, wanted: impl Fn(PluginHandle) -> bool) -> Vec<PageUnderWay> {
        let unwanted = self.pages.extract_if(.., |_, page| !wanted(page.plugin));
        let let_go = |(number, page): (u64, PageUnderWay)| {
            self.charged_bytes -= page.charged_bytes();
            self.by_weight.remove(&(page.charged_bytes(), number));
            page
        };
        unwanted.map(let_go).collect()
    }

    /// A page is at its end.
    pub(crate) fn end(&mut self, number: u64) -> Option<PageUnderWay> {
        let page = self.pages.remove(&number)?;
        self.charged_bytes -= page.charged_bytes();
        self.by_weight.remove(&(page.charged_bytes(), number));
        Some(page)
    }
}

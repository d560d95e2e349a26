//! Pages of retained messages that a plugin reads on behalf of a client: the request, the progress
//! of a page, and all open pages of a shard. `flow/fetch.rs` processes them. Nothing is stored
//! between two pages: the plugin passes the position at which the next page begins.

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

/// Maximum number of store slices that are searched for one page. After these the page is complete,
/// even if it is short or empty.
const PIECES_MAX: u32 = 16;
/// How long a page may wait for plugins, milliseconds. After this time it contains what has been
/// authorized.
const AUTHORIZED_FOR_MS: u64 = 5_000;
/// How often a page is restarted because the rules changed.
pub(crate) const ROUNDS_MAX: u8 = 8;
/// The first byte of an encoded position: the version of its layout.
const LAYOUT: u8 = 1;

/// Where a page begins: the shard, and the position in its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlace {
    shard: u8,
    key: Box<str>,
}

impl FetchPlace {
    /// The position before the first message.
    pub fn first() -> FetchPlace {
        FetchPlace { shard: 0, key: "".into() }
    }

    /// Decodes the bytes from an earlier page; no bytes mean the first page. `None` if they are
    /// invalid. They are valid only in the run of the broker that wrote them.
    pub fn decode(bytes: &[u8]) -> Option<FetchPlace> {
        match bytes {
            [] => Some(FetchPlace::first()),
            [LAYOUT, shard, key @ ..] => {
                Some(FetchPlace { shard: *shard, key: std::str::from_utf8(key).ok()?.into() })
            }
            _ => None,
        }
    }

    /// Whether a broker with this number of shards can have written it.
    pub fn is_within(&self, shards: usize) -> bool {
        usize::from(self.shard) < shards
    }

    /// Encodes the position for the plugin.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.key.len());
        bytes.extend([LAYOUT, self.shard]);
        bytes.extend(self.key.as_bytes());
        bytes
    }
}

/// A request for a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// A valid topic filter, not of a shared subscription.
    pub filter: Arc<str>,
    /// Maximum QoS of the messages, as for a subscription of the client.
    pub qos: QoS,
    /// Where the page begins.
    pub place: FetchPlace,
    /// Maximum number of messages, at least 1. `behalf_page_messages_max` limits it.
    pub messages_max: u32,
    /// Maximum number of bytes, at least 1. `behalf_page_bytes_max` and the client's limit for
    /// waiting bytes apply too. The first message may be larger if nothing else waits for the
    /// client.
    pub bytes_max: u32,
}

impl Fetch {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        size_of::<Fetch>() + self.filter.len() + self.place.key.len()
    }

    /// Reduces the request to the limits of a page.
    pub(crate) fn within(self, messages_max: u64, bytes_max: u64) -> Fetch {
        let least = |asked: u32, max: u64| asked.min(u32::try_from(max).unwrap_or(u32::MAX)).max(1);
        Fetch {
            messages_max: least(self.messages_max, messages_max),
            bytes_max: least(self.bytes_max, bytes_max),
            ..self
        }
    }
}

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct OpenPage {
    pub(crate) plugin: PluginHandle,
    /// The client, as it was when the page was begun.
    pub(crate) identity: Rc<Identity>,
    /// Whether the plugin named the client by its id, and not by a stored identity.
    pub(crate) by_id: bool,
    /// How often the rules have changed since the page was begun.
    pub(crate) rounds: u8,
    /// The number that is returned with the page.
    pub(crate) answer: Option<u64>,
    pub(crate) fetch: Fetch,
    /// Version of the rules when the page was begun.
    pub(crate) epoch: u64,
    /// The shard that is read, and the position there; `None` at the end.
    at: Option<(ShardId, Cursor)>,
    /// Messages that were found and are not authorized yet. The first one may wait for a plugin.
    pub(crate) found: VecDeque<Arc<Message>>,
    /// The authorization request for the first of them.
    pub(crate) request: Option<AuthorizationRequest>,
    /// Messages that the client is allowed to get.
    pub(crate) messages: Vec<Arc<Message>>,
    /// Number of messages found, allowed or not, and their bytes.
    seen: usize,
    bytes: usize,
    /// Bytes of `found` and `messages`.
    charged_bytes: usize,
    /// Number of store slices searched.
    pieces: u32,
    /// The shard from which the last messages came.
    last_read: ShardId,
    /// Whether the next message does not fit.
    full: bool,
    /// The deadline for plugins, monotonic milliseconds.
    until_ms: u64,
    /// Why the page failed: an authorization request got no answer, or there was no room.
    pub(crate) failed: Option<ReasonCode>,
    /// Whether it is in the queue for the next turn.
    is_queued: bool,
}

impl OpenPage {
    /// A page for which nothing has been read yet: from all `shards` shards, or from `only` this
    /// one.
    pub(crate) fn new(
        plugin: PluginHandle,
        (identity, by_id): (Rc<Identity>, bool),
        answer: Option<u64>,
        fetch: Fetch,
        (epoch, rounds, now_ms): (u64, u8, u64),
        (shards, only): (usize, Option<ShardId>),
    ) -> OpenPage {
        let shard = only.unwrap_or(ShardId(fetch.place.shard));
        let at = (shard.index() < shards).then(|| (shard, Cursor::from_key(&fetch.place.key)));
        OpenPage {
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
            is_queued: false,
        }
    }

    /// The next read: shard, position, and room in messages and bytes. `None` when the page is
    /// complete.
    pub(crate) fn next(&self) -> Option<(ShardId, Cursor, usize, usize)> {
        let messages = (self.fetch.messages_max as usize).saturating_sub(self.seen);
        let bytes = (self.fetch.bytes_max as usize).saturating_sub(self.bytes);
        let goes_on = !self.full && self.failed.is_none() && self.pieces < PIECES_MAX;
        let (shard, cursor) = self.at.as_ref().filter(|_| goes_on && messages > 0 && bytes > 0)?;
        Some((*shard, cursor.clone(), messages, bytes))
    }

    /// Adds the messages found on that shard, and its next position; `None` is its end. `following`
    /// is the shard read after it.
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

    /// Records whether the client may get the first message found.
    pub(crate) fn decided(&mut self, may: bool) {
        let Some(message) = self.found.pop_front() else { return };
        if may {
            self.messages.push(message);
        } else {
            self.charged_bytes -= message.bytes();
        }
    }

    /// Fails the page with this reason and drops its messages.
    pub(crate) fn fail(&mut self, reason: ReasonCode) {
        self.drop_found();
        self.charged_bytes -= self.messages.drain(..).map(|message| message.bytes()).sum::<usize>();
        self.failed = Some(reason);
    }

    /// Drops the messages that are found and not authorized.
    fn drop_found(&mut self) {
        self.charged_bytes -= self.found.drain(..).map(|message| message.bytes()).sum::<usize>();
    }

    /// Bytes that it is charged for. Its identity and its messages count in full even if they are
    /// shared.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.fixed_bytes() + self.charged_bytes
    }

    /// Recomputes `charged_bytes` message by message.
    fn recount(&self) -> usize {
        let messages = self.found.iter().chain(&self.messages);
        self.fixed_bytes() + messages.map(|message| message.bytes()).sum::<usize>()
    }

    /// Whether the first message is larger than the page was to be.
    pub(crate) fn is_larger_than_requested(&self) -> bool {
        self.charged_bytes > self.fetch.bytes_max as usize
    }

    /// Maximum bytes of the page; more only if the first message is larger.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.fixed_bytes() + self.charged_bytes.max(self.fetch.bytes_max as usize)
    }

    fn fixed_bytes(&self) -> usize {
        size_of::<OpenPage>() + self.identity.bytes() + self.fetch.bytes()
    }

    /// Ends the page before the first message found if plugins have used up the time.
    pub(crate) fn end_if_late(&mut self, now_ms: u64) {
        let owner = self.last_read;
        if now_ms >= self.until_ms
            && self.found.len() < self.seen
            && let Some(first) = self.found.front()
        {
            self.at = Some((owner, Cursor::until(u64::MAX).at(&first.topic)));
            self.full = true;
            self.drop_found();
        }
    }

    /// The ticket for which it waits.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.request.as_ref()?.ticket()
    }

    /// Where the next page begins; `None` at the end.
    pub(crate) fn following(&self) -> Option<FetchPlace> {
        let (shard, cursor) = self.at.as_ref()?;
        Some(FetchPlace { shard: shard.0, key: cursor.key().into() })
    }
}

/// The open pages of a shard, by number.
#[derive(Debug, Default)]
pub(crate) struct OpenPages {
    pages: BTreeMap<u64, OpenPage>,
    /// Pages that continue in the next turn.
    row: VecDeque<u64>,
    /// Bytes that all pages are charged for.
    charged_bytes: usize,
    /// Bytes that each page is charged for, and its number.
    by_weight: BTreeSet<(usize, u64)>,
}

impl OpenPages {
    /// Adds a new page.
    pub(crate) fn begin(&mut self, number: u64, page: OpenPage) {
        self.charged_bytes += page.charged_bytes();
        self.by_weight.insert((page.charged_bytes(), number));
        self.pages.insert(number, page);
    }

    /// An open page.
    pub(crate) fn get(&self, number: u64) -> Option<&OpenPage> {
        self.pages.get(&number)
    }

    /// The tickets for which pages wait.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.pages.values().filter_map(OpenPage::ticket)
    }

    /// Changes a page if it is open.
    pub(crate) fn change<R>(&mut self, number: u64, change: impl FnOnce(&mut OpenPage) -> R) -> Option<R> {
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

    /// Bytes that all pages, or those of one client, are charged for. For one client this looks at
    /// every page.
    pub(crate) fn charged_bytes(&self, client_id: Option<&str>) -> usize {
        match client_id {
            None => self.charged_bytes,
            Some(client_id) => {
                let own = self.pages.values().filter(|page| &*page.identity.client_id == client_id);
                own.map(OpenPage::charged_bytes).sum()
            }
        }
    }

    /// The page with the largest charge, as bytes and number.
    pub(crate) fn heaviest(&self) -> Option<(usize, u64)> {
        self.by_weight.last().copied()
    }

    /// Recomputes the bytes of all pages, message by message.
    pub(crate) fn recount(&self) -> usize {
        self.pages.values().map(OpenPage::recount).sum()
    }

    /// Puts a page into the queue for the next turn.
    pub(crate) fn push(&mut self, number: u64) {
        if let Some(page) = self.pages.get_mut(&number)
            && !std::mem::replace(&mut page.is_queued, true)
        {
            self.row.push_back(number);
        }
    }

    /// Takes the next page from the queue.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let number = self.row.pop_front()?;
        if let Some(page) = self.pages.get_mut(&number) {
            page.is_queued = false;
        }
        Some(number)
    }

    /// Length of the queue.
    pub(crate) fn row_len(&self) -> usize {
        self.row.len()
    }

    /// Takes out the pages of plugins for which `wanted` returns false.
    pub(crate) fn take_unwanted(&mut self, wanted: impl Fn(PluginHandle) -> bool) -> Vec<OpenPage> {
        let unwanted = self.pages.extract_if(.., |_, page| !wanted(page.plugin));
        let let_go = |(number, page): (u64, OpenPage)| {
            self.charged_bytes -= page.charged_bytes();
            self.by_weight.remove(&(page.charged_bytes(), number));
            page
        };
        unwanted.map(let_go).collect()
    }

    /// Takes out a page that is complete.
    pub(crate) fn end(&mut self, number: u64) -> Option<OpenPage> {
        let page = self.pages.remove(&number)?;
        self.charged_bytes -= page.charged_bytes();
        self.by_weight.remove(&(page.charged_bytes(), number));
        Some(page)
    }
}

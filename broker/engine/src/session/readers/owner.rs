//! The readers of one shard that owns retained messages, and its page that is on its way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::packet::QoS;
use crate::route::retained::Cursor;

/// Readers that one page may serve.
const READERS_PER_PAGE: usize = 64;
/// Live messages recorded while a page is on its way; with more, it is requested again.
pub(super) const LIVE_PER_PAGE_MAX: usize = 1024;

/// A subscription that is to get its retained messages.
#[derive(Clone, Debug)]
pub struct RetainedSubscription {
    /// Number of the reader, unique on the subscriber's shard.
    pub reader: u64,
    /// The filter.
    pub filter: Arc<str>,
    /// QoS that was granted.
    pub qos: QoS,
    /// Subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// Whether the client's own messages are excluded [MQTT-3.8.3-3].
    pub no_local: bool,
}

/// The request to a shard for one reader.
#[derive(Debug)]
pub struct ReaderRequest {
    /// Which reader.
    pub reader: u64,
    /// Its filter.
    pub filter: Arc<str>,
    /// QoS that was granted.
    pub qos: QoS,
    /// Where to continue.
    pub cursor: Cursor,
}

/// Free room of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Number of deliveries with QoS 1 or 2.
    pub window: usize,
    /// Bytes; the first message of a page may be larger.
    pub bytes: usize,
}

/// A page that has come.
#[derive(Debug)]
pub struct Page {
    live: BTreeMap<u64, u64>,
    /// Whether it must be requested again.
    pub stale: bool,
}

/// Where a reader continues.
#[derive(Debug)]
pub enum Next<'a> {
    /// At this topic, for which there was no room.
    At(&'a str),
    /// At this cursor.
    Cursor(Cursor),
    /// It is done.
    Done,
}

/// Reads the messages of one filter from one shard's store.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) wanted: RetainedSubscription,
    pub(super) batch: u64,
    pub(super) cursor: Cursor,
}

/// A page that is on its way.
#[derive(Debug)]
struct PageInFlight {
    page: u64,
    room: Room,
    /// Fingerprints of the topics that came live meanwhile, with their highest number: a lower one
    /// is older.
    live: BTreeMap<u64, u64>,
    /// Whether too many came: then the page is useless.
    stale: bool,
}

/// The readers of one owner.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// Readers that deliver with QoS 1 or 2 and use the window, by number.
    windowed: BTreeMap<u64, Reader>,
    /// Readers that deliver with QoS 0.
    plain: BTreeMap<u64, Reader>,
    in_flight: Option<PageInFlight>,
}

impl Owner {
    /// Bytes that its readers and the record of live messages are charged with.
    pub(super) fn bytes(&self) -> usize {
        let readers = self.windowed.values().chain(self.plain.values());
        let live = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.live.len());
        readers.map(|reader| size_of::<Reader>() + reader.wanted.filter.len()).sum::<usize>() + live * 16
    }

    pub(super) fn put(&mut self, reader: Reader) {
        let readers = match reader.wanted.qos {
            QoS::AtMostOnce => &mut self.plain,
            _ => &mut self.windowed,
        };
        readers.insert(reader.wanted.reader, reader);
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Reader> {
        self.windowed.remove(&number).or_else(|| self.plain.remove(&number))
    }

    pub(super) fn reader(&self, number: u64) -> Option<&Reader> {
        self.windowed.get(&number).or_else(|| self.plain.get(&number))
    }

    pub(super) fn reader_mut(&mut self, number: u64) -> Option<&mut Reader> {
        self.windowed.get_mut(&number).or_else(|| self.plain.get_mut(&number))
    }

    pub(super) fn is_done(&self) -> bool {
        self.windowed.is_empty() && self.plain.is_empty() && self.in_flight.is_none()
    }

    /// Whether a page is on its way.
    pub(super) fn awaits_page(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The room of its page that is on its way.
    pub(super) fn reserved(&self) -> Option<Room> {
        self.in_flight.as_ref().map(|in_flight| in_flight.room)
    }

    /// Whether a page can be requested when the session's window has this room.
    pub(super) fn is_waiting(&self, window: usize) -> bool {
        !self.awaits_page() && (!self.plain.is_empty() || window > 0 && !self.windowed.is_empty())
    }

    /// Requests a page: returns the readers that it is to serve.
    pub(super) fn request(&mut self, page: u64, room: Room) -> Vec<ReaderRequest> {
        let windowed = self.windowed.values().take(if room.window > 0 { READERS_PER_PAGE } else { 0 });
        let readers =
            windowed.chain(self.plain.values()).take(READERS_PER_PAGE).map(|reader| ReaderRequest {
                reader: reader.wanted.reader,
                filter: Arc::clone(&reader.wanted.filter),
                qos: reader.wanted.qos,
                cursor: reader.cursor.clone(),
            });
        let readers = readers.collect();
        self.in_flight = Some(PageInFlight { page, room, live: BTreeMap::new(), stale: false });
        readers
    }

    /// The page with this number has come.
    pub(super) fn take_page(&mut self, page: u64) -> Option<Page> {
        let in_flight = self.in_flight.take_if(|in_flight| in_flight.page == page)?;
        Some(Page { live: in_flight.live, stale: in_flight.stale })
    }

    /// Records a live message while a page is on its way.
    pub(super) fn note_live(&mut self, topic: u64, number: u64) {
        let Some(in_flight) = &mut self.in_flight else { return };
        if in_flight.live.len() >= LIVE_PER_PAGE_MAX {
            in_flight.stale = true;
            return;
        }
        let known = in_flight.live.entry(topic).or_default();
        *known = number.max(*known);
    }
}

impl Page {
    /// Whether a message is older than one of its topic that came live meanwhile.
    pub(super) fn is_older(&self, topic: u64, number: u64) -> bool {
        self.live.get(&topic).is_some_and(|live| *live > number)
    }
}

//! The pages of answers in progress: requests to other shards by instance messages, and their
//! replies.

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::{EntryId, Reason, Refused, Weigh, counted, tree_entry_bytes};

use super::{CacheShard, TICK};
use crate::answer::{Answer, ShardRequest};
use crate::in_flight::InFlight;
use crate::pool::Share;
use crate::store::{PAGE_BYTES, Page, Span};
use crate::wire::{Reader, put, read_place, write_items, write_places};

/// The kind of an instance message, in the upper half of its number. The lower half is the number
/// of the request.
const REQUEST_PAGE: u64 = 1 << 32;
const PART: u64 = 2 << 32;
const END_OF_PAGE: u64 = 3 << 32;
const REQUEST_COUNTS: u64 = 4 << 32;
const COUNTS: u64 = 5 << 32;
/// To itself: the earlier commands have been executed.
const GO_ON: u64 = 6 << 32;
/// A reply of the broker that arrived on another shard than that of the answer.
const ANSWERED: u64 = 7 << 32;
/// To itself, because there was no timer: the limits are exceeded.
pub(crate) const EVICT_MORE: u64 = 8 << 32;

/// A page is sent in instance messages of this size.
const MESSAGE_BYTES: usize = 64 << 10;

/// Minimum memory for a page, however little is free, bytes. A larger message waits.
const PAGE_BYTES_MIN: u64 = 4 << 10;

/// A shard without a reply gets the request again after this time, milliseconds.
pub(crate) const PATIENCE_MS: u64 = 5_000;

/// Time to retry a message that the broker does not accept: it may be full for a while.
const RETRY_MS: u64 = 5_000;

/// The stage of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Authorization of the filter: to be requested, or requested.
    Filter { requested: bool },
    /// Its messages are published.
    Messages,
    /// Its last message, which reports whether the answer is complete: to be published, or
    /// published.
    End { requested: bool, problem: Option<String> },
    /// All is published. The messages in flight count against the limit until subscribers
    /// acknowledge them.
    Taken,
}

/// A message that does not fit into a page. It is authorized without its payload, and then fetched
/// alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Large {
    /// To be authorized, after this many tries without a verdict.
    Unauthorized(u32),
    /// Authorization is requested: the tries, and the shard of the message.
    Requested(u32, u32),
    /// The client may receive it.
    Allowed,
}

/// A request for a page.
struct PageRequest {
    after: u64,
    upto: u64,
    room: u64,
    serial: u32,
}

/// An answer in progress with its state.
#[derive(Debug)]
pub(crate) struct AnswerProgress {
    pub(crate) request: EntryId,
    pub(crate) answer: Answer,
    pub(crate) stage: Stage,
    pub(crate) in_flight: InFlight,
    /// Messages that the broker has accepted.
    pub(crate) sent: u64,
    /// Messages that the broker has refused, and the last error.
    pub(crate) refused: u64,
    pub(crate) last_refusal: Option<String>,
    /// Time without replies from shards and without replies from the broker.
    pub(crate) silent_ms: u64,
    pub(crate) stalled_ms: u64,
    /// Time for which the broker has not accepted the current message.
    pub(crate) not_taken_ms: Option<u64>,
    /// Whether its subscribers acknowledged nothing for too long, or not everything in time.
    pub(crate) stalled: bool,
    /// Its age, and the time and number of messages since the last authorization of its filter.
    pub(crate) age_ms: u64,
    pub(crate) filter_age_ms: u64,
    pub(crate) since_filter: u64,
    /// Whether the first page has arrived.
    pub(crate) begun: bool,
    /// Whether its client, or all together, have no memory for its next message.
    pub(crate) waits_for_memory: bool,
    pub(crate) large: Large,
    /// Whether an instance message to continue has been sent.
    goes_on: bool,
}

impl AnswerProgress {
    /// The answer to a request, from this many shards.
    pub(crate) fn new(request: EntryId, shards: u32, per_topic: usize) -> AnswerProgress {
        AnswerProgress {
            request,
            answer: Answer::new(shards, per_topic),
            stage: Stage::Filter { requested: false },
            in_flight: InFlight::default(),
            sent: 0,
            refused: 0,
            last_refusal: None,
            silent_ms: 0,
            stalled_ms: 0,
            not_taken_ms: None,
            stalled: false,
            age_ms: 0,
            filter_age_ms: 0,
            since_filter: 0,
            begun: false,
            waits_for_memory: false,
            large: Large::Unauthorized(0),
            goes_on: false,
        }
    }

    /// One tick has passed.
    pub(crate) fn tick(&mut self) {
        let ms = TICK.as_millis() as u64;
        self.silent_ms += ms;
        self.stalled_ms += ms;
        self.age_ms += ms;
        self.filter_age_ms += ms;
        self.not_taken_ms = self.not_taken_ms.map(|waited_ms| waited_ms + ms);
        self.in_flight.tick();
    }

    /// Its messages and bytes in flight.
    pub(crate) fn share(&self) -> Share {
        (self.in_flight.messages(), self.in_flight.bytes())
    }

    /// Bytes of memory in use; charged to its client.
    pub(crate) fn held_bytes(&self) -> u64 {
        let refusal = self.last_refusal.as_ref().map_or(0, String::heap_bytes);
        tree_entry_bytes(size_of::<(u32, AnswerProgress)>())
            + self.answer.held_bytes()
            + self.in_flight.held_bytes()
            + refusal
    }

    /// Why it is incomplete; `None` if it is complete.
    pub(crate) fn problem(&self, stopped: Option<&str>) -> Option<String> {
        let mut problems: Vec<String> = stopped.map(str::to_owned).into_iter().collect();
        if self.answer.left_out() > 0 {
            problems.push(format!("{} did not answer", counted(self.answer.left_out(), "shard")));
        }
        if let Some(refusal) = &self.last_refusal {
            let verb = if self.refused == 1 { "is" } else { "are" };
            problems.push(format!("{} {verb} left out, {refusal}", counted(self.refused, "message")));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// Whether a refused message is retried after a pause. The broker does not report whether it is
    /// full or the message is too large.
    pub(crate) fn tries_again(&mut self, refused: Refused) -> bool {
        let again = refused.status != Status::INVALID && *self.not_taken_ms.get_or_insert(0) < RETRY_MS;
        if again {
            self.in_flight.pause();
        } else {
            self.not_taken_ms = None;
        }
        again
    }

    pub(crate) fn note_refused(&mut self, place: u32, why: String) {
        if self.in_flight.refused(place) {
            self.refused += 1;
            self.last_refusal = Some(why);
        }
    }

    pub(crate) fn put_off(&mut self, place: u32, why: &str) {
        if !self.in_flight.put_off(place) {
            self.note_refused(place, why.to_owned());
        }
    }

    /// Notes progress.
    pub(crate) fn moved(&mut self) {
        (self.stalled_ms, self.not_taken_ms) = (0, None);
    }

    pub(crate) fn moved_when(&mut self, known: bool) {
        if known {
            self.moved();
        }
    }
}

impl CacheShard {
    pub(crate) fn take_message(&mut self, from: u32, message_number: u64, bytes: &[u8]) {
        let number = message_number as u32;
        let mut reader = Reader(bytes);
        let requests = match message_number & !u64::from(u32::MAX) {
            REQUEST_PAGE => return self.send_page(from, number, &mut reader).unwrap_or_default(),
            REQUEST_COUNTS => return self.send_counts(from, number, &mut reader).unwrap_or_default(),
            ANSWERED => {
                if let (Some(full), Some(code)) = (reader.number(), reader.small()) {
                    self.take_answer(full, Reason(code as u8));
                }
                return;
            }
            EVICT_MORE => return self.evict_more_by_message(),
            kind => {
                let Some(in_progress) = self.answers.get_mut(&number) else { return };
                let answer = &mut in_progress.answer;
                match kind {
                    PART => {
                        let Some(serial) = reader.small() else { return };
                        answer.part(from, serial, reader.0);
                        Vec::new()
                    }
                    END_OF_PAGE => {
                        in_progress.silent_ms = 0;
                        end_of_page(answer, from, &mut reader).unwrap_or_default()
                    }
                    COUNTS => {
                        in_progress.silent_ms = 0;
                        let (Some(source), Some(serial)) = (reader.small(), reader.small()) else { return };
                        answer.counts(from, (source, serial), std::iter::from_fn(|| reader.small()));
                        Vec::new()
                    }
                    _ => {
                        in_progress.goes_on = false;
                        Vec::new()
                    }
                }
            }
        };
        self.carry_out(number, requests);
        self.advance(number);
        self.arm();
    }

    /// Sends a page of this shard's messages to the requesting shard.
    fn send_page(&self, to: u32, number: u32, reader: &mut Reader<'_>) -> Option<()> {
        let (after, upto, room) = (reader.number()?, reader.number()?, reader.number()?);
        let (serial, filter) = (reader.small()?, reader.text()?);
        let page = self.store.page(Span { filter, after, upto, room });
        let items = write_items(&page.items);
        let message = |kind: u64, bytes: &[u8]| {
            self.shared.host.instance_message(Some(to), kind | u64::from(number), bytes)
        };
        // If one cannot be sent, the end shows that the page is incomplete, and it is requested
        // again.
        let serial = serial.to_le_bytes();
        let sent = items
            .chunks(MESSAGE_BYTES)
            .try_for_each(|part| message(PART, &[serial.as_slice(), part].concat()));
        let mut end = serial.to_vec();
        end.extend(page.upto.to_le_bytes());
        end.extend(page.next.unwrap_or(u64::MAX).to_le_bytes());
        end.extend((items.len() as u64).to_le_bytes());
        sent.and_then(|()| message(END_OF_PAGE, &end)).ok()
    }

    /// Sends the number of newer messages that this shard has for each message of another shard's
    /// page.
    fn send_counts(&self, to: u32, number: u32, reader: &mut Reader<'_>) -> Option<()> {
        let (source, upto, serial) = (reader.small()?, reader.number()?, reader.small()?);
        let mut counts = source.to_le_bytes().to_vec();
        counts.extend(serial.to_le_bytes());
        while let Some((place, name)) = read_place(reader) {
            counts.extend(self.store.newer(self.shard, upto, name, place).to_le_bytes());
        }
        self.shared.host.instance_message(Some(to), COUNTS | u64::from(number), &counts).ok()
    }

    /// Executes requests: by instance messages on other shards, and at once on this one. A request
    /// that cannot be sent is repeated later.
    pub(crate) fn carry_out(&mut self, number: u32, requests: Vec<ShardRequest>) {
        let page_bytes = self.page_bytes(number, &requests);
        let mut requests = requests;
        while let Some(request) = requests.pop() {
            match request {
                ShardRequest::Page { of, after, upto, room, serial } => {
                    let wanted = PageRequest { after, upto, room: room.unwrap_or(page_bytes), serial };
                    requests.extend(self.request_page(number, of, wanted).unwrap_or_default());
                }
                ShardRequest::Counts { of, source, upto, serial } => {
                    self.request_counts(number, of, (source, serial), upto);
                }
            }
        }
        self.charge(number);
    }

    /// The memory for each of the requested pages: together half of the free part of one half of
    /// the client's limit, and at least a minimum, so that every answer continues. The other half
    /// is for messages that are fetched alone.
    fn page_bytes(&self, number: u32, requests: &[ShardRequest]) -> u64 {
        let count =
            requests.iter().filter(|ask| matches!(ask, ShardRequest::Page { room: None, .. })).count() as u64;
        let request = self.answers.get(&number).map(|in_progress| in_progress.request);
        let client = request.and_then(|request| self.requests.owner_of(request)).unwrap_or_default();
        let (limits, (_, held)) = (self.requests.limits(), self.requests.used_by(client));
        let of_client = (limits.owner_bytes_max / 2).saturating_sub(held);
        let free = of_client.min((limits.bytes_max / 2).saturating_sub(self.requests.bytes()));
        (free / 2 / count.max(1)).clamp(PAGE_BYTES_MIN, PAGE_BYTES)
    }

    /// Charges the client of an answer with its current memory.
    pub(crate) fn charge(&mut self, number: u32) {
        if let Some(in_progress) = self.answers.get(&number) {
            self.requests.charge(in_progress.request, in_progress.held_bytes());
        }
    }

    fn request_page(&mut self, number: u32, of: u32, wanted: PageRequest) -> Option<Vec<ShardRequest>> {
        let (host, PageRequest { after, upto, room, serial }) = (self.shared.host, wanted);
        let in_progress = self.answers.get_mut(&number)?;
        let filter = self.requests.get(in_progress.request)?.filter.as_str();
        if of == self.shard {
            let page = self.store.page(Span { filter, after, upto, room });
            return Some(in_progress.answer.page(of, serial, page));
        }
        in_progress.answer.reserve(of, room);
        let mut message = Vec::new();
        [after, upto, room].iter().for_each(|number| message.extend(number.to_le_bytes()));
        message.extend(serial.to_le_bytes());
        put(&mut message, filter.as_bytes());
        let _ = host.instance_message(Some(of), REQUEST_PAGE | u64::from(number), &message);
        None
    }

    fn request_counts(&mut self, number: u32, of: u32, page: (u32, u32), upto: u64) {
        let Some(in_progress) = self.answers.get_mut(&number) else { return };
        let (source, serial) = page;
        let mut message = source.to_le_bytes().to_vec();
        message.extend(upto.to_le_bytes());
        message.extend(serial.to_le_bytes());
        message.extend(write_places(source, in_progress.answer.items_of(source)));
        if of == self.shard {
            let mut reader = Reader(message.get(16..).unwrap_or_default());
            let places = std::iter::from_fn(|| read_place(&mut reader));
            let counts = places.map(|(place, name)| self.store.newer(of, upto, name, place));
            in_progress.answer.counts(of, page, counts);
        } else {
            let _ = self.shared.host.instance_message(Some(of), REQUEST_COUNTS | u64::from(number), &message);
        }
    }

    /// Continues an answer after its published messages have been processed and others had their
    /// turn.
    pub(crate) fn continue_soon(&mut self, number: u32) {
        let (host, shard) = (self.shared.host, self.shard);
        if let Some(in_progress) = self.answers.get_mut(&number).filter(|in_progress| !in_progress.goes_on) {
            // Otherwise the next tick continues it.
            in_progress.goes_on = host.instance_message(Some(shard), GO_ON | u64::from(number), &[]).is_ok();
        }
    }

    /// Forwards a reply of the broker to the shard of the answer.
    pub(crate) fn pass_on(&self, to: u32, full: u64, reason: Reason) {
        let mut message = full.to_le_bytes().to_vec();
        message.extend(u32::from(reason.0).to_le_bytes());
        // If it is lost, the answer ends after a time without progress.
        let _ = self.shared.host.instance_message(Some(to), ANSWERED | u64::from(full as u32), &message);
    }
}

fn end_of_page(answer: &mut Answer, from: u32, reader: &mut Reader<'_>) -> Option<Vec<ShardRequest>> {
    let (serial, upto, next, len) = (reader.small()?, reader.number()?, reader.number()?, reader.number()?);
    let page = Page { items: Vec::new(), upto, next: (next != u64::MAX).then_some(next) };
    Some(answer.end_of_page(from, serial, page, len))
}

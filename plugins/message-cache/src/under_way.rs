//! Answers at work: what is asked of other shards by mail, what they say, and what is published, never more than subscribers take.

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::{EntryId, OnBehalf, Outgoing, Refused};

use super::{CacheShard, Request, TICK};
use crate::answer::{Answer, Ask, Next};
use crate::store::Span;
use crate::wire::{Reader, put, read_place, write_items, write_places};

/// What a mail is; in the upper half of its number. The lower half is the number of the request.
const ASK_PAGE: u64 = 1 << 32;
const PART: u64 = 2 << 32;
const END_OF_PAGE: u64 = 3 << 32;
const ASK_COUNTS: u64 = 4 << 32;
const COUNTS: u64 = 5 << 32;
/// To itself: what was published before it has been carried out.
const GO_ON: u64 = 6 << 32;

/// A page goes in mails of so many bytes.
const MAIL_BYTES: usize = 64 << 10;

/// After so many milliseconds a shard that does not answer is asked again.
const PATIENCE_MS: u64 = 5_000;

/// For so many milliseconds a message that the broker does not take is tried again: it may be too much at a time, or too large.
const RETRY_MS: u64 = 5_000;

/// An answer under way, with what has become of it.
#[derive(Debug)]
pub(crate) struct UnderWay {
    request: EntryId,
    answer: Answer,
    sent: u64,
    /// Messages that the broker does not take.
    refused: u64,
    last_refusal: Option<Refused>,
    /// For how many milliseconds nothing has come of what was asked, and nothing has been published.
    silent_ms: u64,
    stalled_ms: u64,
    /// The same of a first message that the broker does not take.
    refused_ms: Option<u64>,
    /// Whether a mail to go on is on its way.
    goes_on: bool,
}

impl UnderWay {
    /// With what is to be asked first.
    pub(crate) fn begin(request: EntryId, shards: u32, per_topic: usize) -> (UnderWay, Vec<Ask>) {
        let answer = Answer::new(shards, per_topic);
        let asks = answer.begin();
        let under_way = UnderWay {
            request,
            answer,
            sent: 0,
            refused: 0,
            last_refusal: None,
            silent_ms: 0,
            stalled_ms: 0,
            refused_ms: None,
            goes_on: false,
        };
        (under_way, asks)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        let ms = TICK.as_millis() as u64;
        self.silent_ms += ms;
        self.stalled_ms += ms;
        self.refused_ms = self.refused_ms.map(|waited_ms| waited_ms + ms);
    }

    /// Whether what the broker has not taken is tried again: it may be too much at a time, or too large for ever, which is not said.
    fn tries_again(&mut self, refused: Refused) -> bool {
        refused.status == Status::FULL && *self.refused_ms.get_or_insert(0) < RETRY_MS
    }

    /// Why it is not complete, if it is not.
    fn problem(&self, stalled: bool) -> Option<String> {
        let mut problems = Vec::new();
        if stalled {
            problems.push("its subscribers do not take it".to_owned());
        }
        if self.answer.left_out() > 0 {
            problems.push(format!("{} shards did not answer", self.answer.left_out()));
        }
        if let Some(refusal) = self.last_refusal {
            problems.push(format!("{} messages are left out, {refusal}", self.refused));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

/// What a step of an answer has come to.
enum Step {
    /// There is more to do, but not now.
    Waits,
    /// That was all; whether it ended because nobody takes it.
    Ends { stalled: bool },
}

impl CacheShard {
    pub(crate) fn take_mail(&mut self, from: u32, mail_number: u64, bytes: &[u8]) {
        let number = mail_number as u32;
        let mut reader = Reader(bytes);
        let asks = match mail_number & !u64::from(u32::MAX) {
            ASK_PAGE => return self.send_page(from, number, &mut reader).unwrap_or_default(),
            ASK_COUNTS => return self.send_counts(from, number, &mut reader).unwrap_or_default(),
            kind => {
                let Some(under_way) = self.answers.get_mut(&number) else { return };
                let answer = &mut under_way.answer;
                match kind {
                    PART => {
                        answer.part(from, bytes);
                        Vec::new()
                    }
                    END_OF_PAGE => {
                        under_way.silent_ms = 0;
                        end_of_page(answer, from, &mut reader).unwrap_or_default()
                    }
                    COUNTS => {
                        under_way.silent_ms = 0;
                        let Some(source) = reader.small() else { return };
                        answer.counts(from, source, std::iter::from_fn(|| reader.small()));
                        Vec::new()
                    }
                    _ => {
                        under_way.goes_on = false;
                        Vec::new()
                    }
                }
            }
        };
        self.carry_out(number, asks);
        self.pump(number);
        self.arm();
    }

    /// Sends a page of this shard's messages to the one that asks.
    fn send_page(&self, to: u32, number: u32, reader: &mut Reader<'_>) -> Option<()> {
        let (after, upto, filter) = (reader.number()?, reader.number()?, reader.text()?);
        let page = self.store.page(Span { filter, after, upto });
        let items = write_items(&page.items);
        let mail = |kind: u64, bytes: &[u8]| self.shared.host.mail(Some(to), kind | u64::from(number), bytes);
        // Where one does not go, the end shows that the page is not whole, and it is asked for again.
        let sent = items.chunks(MAIL_BYTES).try_for_each(|part| mail(PART, part));
        let mut end = Vec::new();
        end.extend(page.upto.to_le_bytes());
        end.extend(page.next.unwrap_or(u64::MAX).to_le_bytes());
        end.extend((items.len() as u64).to_le_bytes());
        sent.and_then(|()| mail(END_OF_PAGE, &end)).ok()
    }

    /// Says how many newer messages this shard has for each message of another shard's page.
    fn send_counts(&self, to: u32, number: u32, reader: &mut Reader<'_>) -> Option<()> {
        let (source, upto) = (reader.small()?, reader.number()?);
        let mut counts = source.to_le_bytes().to_vec();
        while let Some((place, name)) = read_place(reader) {
            counts.extend(self.store.newer(self.shard, upto, name, place).to_le_bytes());
        }
        self.shared.host.mail(Some(to), COUNTS | u64::from(number), &counts).ok()
    }

    /// Has what is asked done: by mail on other shards, and here at once. What cannot be sent is asked again in time.
    pub(crate) fn carry_out(&mut self, number: u32, mut asks: Vec<Ask>) {
        let host = self.shared.host;
        while let Some(ask) = asks.pop() {
            let Some(under_way) = self.answers.get_mut(&number) else { return };
            let filter = self.requests.get(under_way.request).map_or("", |request| &request.filter);
            let mut mail = Vec::new();
            match ask {
                Ask::Page { of, after, upto } if of == self.shard => {
                    let page = self.store.page(Span { filter, after, upto });
                    asks.extend(under_way.answer.page(of, page));
                }
                Ask::Page { of, after, upto } => {
                    mail.extend(after.to_le_bytes());
                    mail.extend(upto.to_le_bytes());
                    put(&mut mail, filter.as_bytes());
                    let _ = host.mail(Some(of), ASK_PAGE | u64::from(number), &mail);
                }
                Ask::Counts { of, source, upto } => {
                    mail.extend(source.to_le_bytes());
                    mail.extend(upto.to_le_bytes());
                    mail.extend(write_places(source, under_way.answer.items_of(source)));
                    if of == self.shard {
                        let mut reader = Reader(mail.get(12..).unwrap_or_default());
                        let places = std::iter::from_fn(|| read_place(&mut reader));
                        let counts = places.map(|(place, name)| self.store.newer(of, upto, name, place));
                        under_way.answer.counts(of, source, counts);
                    } else {
                        let _ = host.mail(Some(of), ASK_COUNTS | u64::from(number), &mail);
                    }
                }
            }
        }
    }

    /// Has an answer go on when what has been published so far has been carried out, and others had their turn.
    pub(crate) fn go_on_soon(&mut self, number: u32) {
        let (host, shard) = (self.shared.host, self.shard);
        if let Some(under_way) = self.answers.get_mut(&number).filter(|under_way| !under_way.goes_on) {
            // Otherwise the next tick has it go on.
            under_way.goes_on = host.mail(Some(shard), GO_ON | u64::from(number), &[]).is_ok();
        }
    }

    /// Publishes what has come of an answer, as far as there is room for it.
    pub(crate) fn pump(&mut self, number: u32) {
        match self.step(number) {
            Some(Step::Ends { stalled }) => self.finish(number, stalled),
            Some(Step::Waits) | None => {}
        }
    }

    fn step(&mut self, number: u32) -> Option<Step> {
        let share = (self.shared.config.answers_in_flight_max / self.answers.len().max(1) as u64).max(1);
        let mut room = share.saturating_sub(self.shared.host.in_flight(number));
        loop {
            let under_way = self.answers.get_mut(&number)?;
            match under_way.answer.next() {
                Next::End if room > 0 || under_way.stalled_ms >= self.shared.config.answer_stall_ms => {
                    return Some(Step::Ends { stalled: false });
                }
                Next::Message(_) | Next::End if room == 0 => {
                    let stalled = under_way.stalled_ms >= self.shared.config.answer_stall_ms;
                    return Some(if stalled { Step::Ends { stalled } } else { Step::Waits });
                }
                Next::Message(of) => {
                    if !self.publish_first(number, of)? {
                        return Some(Step::Waits);
                    }
                    room -= 1;
                    self.go_on_soon(number);
                }
                Next::End => return Some(Step::Waits),
                Next::Wait(asks) if asks.is_empty() => {
                    if under_way.silent_ms >= PATIENCE_MS {
                        under_way.silent_ms = 0;
                        let asks = under_way.answer.ask_again();
                        self.carry_out(number, asks);
                        self.go_on_soon(number);
                    }
                    return Some(Step::Waits);
                }
                Next::Wait(asks) => {
                    // One page of this shard's own at a time: it may have looked at much and found nothing.
                    under_way.silent_ms = 0;
                    self.carry_out(number, asks);
                    self.go_on_soon(number);
                    return Some(Step::Waits);
                }
            }
        }
    }

    /// Publishes the first message of a shard's page; whether it is done with.
    fn publish_first(&mut self, number: u32, of: u32) -> Option<bool> {
        let under_way = self.answers.get_mut(&number)?;
        let request = self.requests.get(under_way.request)?;
        let item = under_way.answer.first_of(of)?;
        let message = request
            .message(number, item.payload.as_slice())
            .user_property("topic", item.topic.as_str())
            .user_property("timestamp_ms", item.at_ms.to_string());
        // Whether the client may publish there is told of the first one.
        let client = OnBehalf::of(&request.client);
        let client = if under_way.sent == 0 { client.answered(u64::from(number)) } else { client };
        match self.shared.host.publish_as(client, &message) {
            Ok(()) => under_way.sent += 1,
            Err(refused) if under_way.tries_again(refused) => return Some(false),
            Err(refused) => {
                under_way.refused += 1;
                under_way.last_refusal = Some(refused);
            }
        }
        (under_way.stalled_ms, under_way.refused_ms) = (0, None);
        under_way.answer.took(of);
        Some(true)
    }

    /// An answer ends without another word: its client may not publish to the topic that it has named.
    pub(crate) fn end_refused(&mut self, number: u32) {
        let Some(under_way) = self.answers.remove(&number) else { return };
        if let Some(request) = self.requests.remove(under_way.request) {
            let (client, topic) = (request.client.client_id(), &request.response_topic);
            self.trouble(format_args!("no answer to {client:?}, which may not publish to {topic:?}"));
        }
        self.begin_answers();
    }

    /// The last message of an answer, which says how many there were, and why not all.
    fn finish(&mut self, number: u32, stalled: bool) {
        let Some(under_way) = self.answers.get_mut(&number) else { return };
        let problem = under_way.problem(stalled);
        let Some(request) = self.requests.get(under_way.request) else { return };
        let mut end = request.message(number, &[]).user_property("messages", under_way.sent.to_string());
        if let Some(problem) = &problem {
            end = end.user_property("incomplete", problem.as_str());
        }
        if let Err(refused) = self.shared.host.publish_as(&request.client, &end) {
            if under_way.tries_again(refused) {
                return;
            }
            self.trouble(format_args!("an answer stays without its end: {refused}"));
        }
        let Some(under_way) = self.answers.remove(&number) else { return };
        let client = self.requests.owner_of(under_way.request).unwrap_or("").to_owned();
        let request = self.requests.remove(under_way.request);
        if let (Some(problem), Some(request)) = (problem, request) {
            let Request { filter, .. } = request;
            self.trouble(format_args!("the answer to {client:?} for {filter:?} is incomplete: {problem}"));
        }
        self.begin_answers();
    }
}

fn end_of_page(answer: &mut Answer, from: u32, reader: &mut Reader<'_>) -> Option<Vec<Ask>> {
    let (upto, next, len) = (reader.number()?, reader.number()?, reader.number()?);
    Some(answer.end_of_page(from, upto, (next != u64::MAX).then_some(next), len))
}

impl Request {
    fn message(&self, flow: u32, payload: &[u8]) -> Outgoing {
        Outgoing::new(self.response_topic.as_str(), payload)
            .qos(1)
            .flow(flow)
            .correlation_data(self.correlation_data.as_slice())
    }
}

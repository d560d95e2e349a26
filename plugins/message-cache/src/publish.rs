//! Sends answers to subscribers: authorization, publishing, the broker's replies, and the end of an
//! answer.

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::{OnBehalf, Outgoing, Reason, Refused, Wish};

use super::{CacheShard, GIVEN_UP_AT_ONCE, Request};
use crate::answer::Next;
use crate::pool::Share;
use crate::store::{LOST, bytes_in_page};
use crate::under_way::{Large, PATIENCE_MS, Stage, UnderWay};

/// Kinds of the broker's replies, in the two highest bits of the reply number. Below them is the
/// position of the message; the lower half is the number of the request.
const FILTER: u64 = 0;
const DELIVER: u64 = 1 << 62;
const PUBLISH: u64 = 2 << 62;
const END: u64 = 3 << 62;
const PLACE: u64 = (1 << 30) - 1;
/// The position of a large message, authorized before it is fetched. No other message reaches it.
const PLACE_OF_LARGE: u32 = PLACE as u32;
/// How often its authorization is retried without a verdict.
const LARGE_PUT_OFF_MAX: u32 = 8;

/// The filter is authorized again after this many messages and milliseconds: rights may change.
const FILTER_MESSAGES: u64 = 256;
const FILTER_MS: u64 = 1_000;

/// After this many refused messages, without an accepted one, no more are published.
const REFUSED_MAX: u64 = 16;

/// Time to retry a message that the broker does not accept: it may be full for a while.
const RETRY_MS: u64 = 5_000;

/// Why an answer ends early.
const NOT_TAKEN: &str = "its subscribers do not take it";
const TOO_SLOW: &str = "its subscribers do not take all of it in time";
const NOT_ALLOWED: &str = "its client may not publish there";
const NO_ROOM: &str = "there is no room for its next message";

/// Why a message is omitted.
const TOO_LARGE: &str = "too large for client_requests_bytes_max or requests_bytes_max";
const NOT_STORED: &str = "too large to be kept";

fn number_of(kind: u64, place: u32, number: u32) -> u64 {
    kind | (u64::from(place) & PLACE) << 32 | u64::from(number)
}

/// The result of a step of an answer.
enum Step {
    /// More steps follow, but not now.
    Waits,
    /// More steps follow at once.
    GoesOn,
    /// All messages are out, or the answer ends early for this reason.
    Ends(Option<&'static str>),
    /// The answer has ended.
    Over,
}

impl UnderWay {
    /// Whether a refused message is retried after a pause. The broker does not report whether it is
    /// full or the message is too large.
    fn tries_again(&mut self, refused: Refused) -> bool {
        let again = refused.status != Status::INVALID && *self.not_taken_ms.get_or_insert(0) < RETRY_MS;
        if again {
            self.in_flight.pause();
        } else {
            self.not_taken_ms = None;
        }
        again
    }

    fn note_refused(&mut self, place: u32, why: String) {
        if self.in_flight.refused(place) {
            self.refused += 1;
            self.last_refusal = Some(why);
        }
    }

    /// Omits a message that does not fit into a page, with a reason if the client may know of it.
    fn leave_out_large(&mut self, of: u32, why: Option<String>) {
        self.answer.take(of);
        self.large = Large::Unasked(0);
        if why.is_some() {
            self.refused += 1;
            self.last_refusal = why;
        }
    }

    /// Handles the authorization result for such a message.
    fn answer_large(&mut self, reason: Reason, said: &dyn Fn() -> String) {
        let Large::Requested(of, tries) = self.large else { return };
        if [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            self.in_flight.pause();
            self.large = Large::Unasked(tries + 1);
            if tries == LARGE_PUT_OFF_MAX {
                self.leave_out_large(of, Some(said()));
            }
        } else if reason.0 < 0x80 {
            self.large = Large::Allowed;
            self.moved();
        } else {
            // Without a trace.
            self.leave_out_large(of, None);
            self.moved();
        }
    }

    fn moved_if(&mut self, known: bool) {
        if known {
            self.moved();
        }
    }

    fn put_off(&mut self, place: u32, why: &str) {
        if !self.in_flight.put_off(place) {
            self.note_refused(place, why.to_owned());
        }
    }

    /// Notes progress.
    fn moved(&mut self) {
        (self.stalled_ms, self.not_taken_ms) = (0, None);
    }
}

impl CacheShard {
    /// Does everything that can be done for an answer now.
    pub(crate) fn pump(&mut self, number: u32) {
        let Some(before) = self.answers.get(&number).map(UnderWay::share) else { return };
        let step = self.step(number, before);
        if let Some(now) = self.answers.get(&number).map(UnderWay::share) {
            self.pool.moved(before, now);
        }
        self.charge(number);
        match step {
            Some(Step::GoesOn) => self.go_on_soon(number),
            Some(Step::Ends(stopped)) => self.begin_end(number, stopped),
            Some(Step::Over) => self.end(number),
            Some(Step::Waits) | None => {}
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each state")]
    fn step(&mut self, number: u32, before: Share) -> Option<Step> {
        let (host, config) = (self.shared.host, &self.shared.config);
        let under_way = self.answers.get_mut(&number)?;
        let in_flight = host.in_flight(number);
        if under_way.in_flight.note_in_flight(in_flight) {
            under_way.moved();
        }
        let stopped = if under_way.stalled_ms >= config.answer_stall_ms {
            Some(if std::mem::take(&mut under_way.lacks_room) { NO_ROOM } else { NOT_TAKEN })
        } else {
            (under_way.age_ms >= config.answer_ms_max).then_some(TOO_SLOW)
        };
        match &under_way.stage {
            Stage::Messages if stopped == Some(TOO_SLOW) => return Some(Step::Ends(stopped)),
            Stage::Messages
                if under_way.filter_age_ms >= FILTER_MS || under_way.since_filter >= FILTER_MESSAGES =>
            {
                under_way.stage = Stage::Filter { asked: false };
                return self.authorize_filter(number);
            }
            Stage::Messages => {}
            Stage::Taken => {
                return Some(if in_flight == 0 || stopped.is_some() { Step::Over } else { Step::Waits });
            }
            Stage::Filter { .. } if stopped.is_some() => return Some(Step::Ends(stopped)),
            Stage::Filter { asked: false } if !under_way.in_flight.is_paused() => {
                return self.authorize_filter(number);
            }
            Stage::End { .. } if under_way.stalled_ms >= config.answer_stall_ms => {
                self.trouble(format_args!("an answer stays without its end: nothing has come of it"));
                return Some(Step::Over);
            }
            Stage::End { asked: false, .. } if !under_way.in_flight.is_paused() => {
                return self.publish_end(number);
            }
            Stage::Filter { .. } | Stage::End { .. } => return Some(Step::Waits),
        }
        let mut did_something = self.authorize_and_publish(number)?;
        let room = self.pool.room(before);
        loop {
            let under_way = self.answers.get_mut(&number)?;
            let waits = if did_something { Step::GoesOn } else { Step::Waits };
            match under_way.answer.next() {
                Next::Message(of) => {
                    let item = under_way.answer.first_of(of)?;
                    if item.absent > 0 && under_way.in_flight.has_room(item, room) {
                        let fetches = self.step_large(number, of)?;
                        return Some(match (fetches, stopped) {
                            (true, _) => Step::GoesOn,
                            (false, Some(_)) => Step::Ends(stopped),
                            (false, None) => waits,
                        });
                    }
                    if under_way.in_flight.has_room(item, room) {
                        under_way.in_flight.push(under_way.answer.take(of)?);
                        under_way.since_filter += 1;
                        self.authorize_and_publish(number)?;
                        did_something = true;
                    } else {
                        return Some(if stopped.is_some() { Step::Ends(stopped) } else { waits });
                    }
                }
                // The last message counts against the limit too.
                Next::End
                    if under_way.in_flight.is_empty() && under_way.in_flight.messages() < room.messages =>
                {
                    return Some(Step::Ends(None));
                }
                Next::End => {
                    let left = stopped.filter(|_| !under_way.in_flight.is_empty());
                    return Some(if stopped.is_some() { Step::Ends(left) } else { waits });
                }
                Next::Wait(asks) if asks.is_empty() => {
                    if under_way.silent_ms >= PATIENCE_MS {
                        under_way.silent_ms = 0;
                        let asks = under_way.answer.request_again();
                        self.carry_out(number, asks);
                        return Some(Step::GoesOn);
                    }
                    return Some(waits);
                }
                Next::Wait(asks) => {
                    // One page of this shard at a time: it may take long and find nothing.
                    (under_way.silent_ms, under_way.stalled_ms) = (0, 0);
                    self.carry_out(number, asks);
                    return Some(Step::GoesOn);
                }
            }
        }
    }

    /// Continues with the first message of a shard, which does not fit into a page: authorizes it,
    /// then fetches it. Returns false while it waits.
    fn step_large(&mut self, number: u32, of: u32) -> Option<bool> {
        let under_way = self.answers.get_mut(&number)?;
        let tries = match under_way.large {
            Large::Unasked(tries) => tries,
            Large::Requested(..) => return Some(false),
            Large::Allowed => return self.fetch_large(number, of),
        };
        let item = under_way.answer.first_of(of)?;
        let request = self.requests.get(under_way.request)?;
        let wish = Wish::Deliver(&item.topic, 1);
        let asked = number_of(DELIVER, PLACE_OF_LARGE, number);
        match self.shared.host.authorize_as(&request.client, wish, asked) {
            Ok(()) => under_way.large = Large::Requested(of, tries),
            Err(refused) if under_way.tries_again(refused) => {}
            Err(refused) => {
                under_way.leave_out_large(of, Some(refused.to_string()));
                return Some(true);
            }
        }
        Some(false)
    }

    /// The client may receive it. A message that can never be fetched is omitted and counted.
    fn fetch_large(&mut self, number: u32, of: u32) -> Option<bool> {
        let under_way = self.answers.get_mut(&number)?;
        let item = under_way.answer.first_of(of)?;
        let limits = self.requests.limits();
        if item.absent == LOST {
            under_way.leave_out_large(of, Some(NOT_STORED.to_owned()));
            return Some(true);
        }
        let needed = bytes_in_page(&item.topic, item.absent as usize);
        if needed > limits.owner_bytes_max.min(limits.bytes_max) / 2 {
            under_way.leave_out_large(of, Some(TOO_LARGE.to_owned()));
            return Some(true);
        }
        let client = self.requests.owner_of(under_way.request)?;
        under_way.lacks_room = self.requests.free_bytes(client) < needed;
        if under_way.lacks_room {
            return Some(false);
        }
        let request = under_way.answer.want(of);
        under_way.large = Large::Unasked(0);
        (under_way.silent_ms, under_way.stalled_ms) = (0, 0);
        self.carry_out(number, request.into_iter().collect());
        Some(true)
    }

    fn authorize_filter(&mut self, number: u32) -> Option<Step> {
        let under_way = self.answers.get_mut(&number)?;
        let request = self.requests.get(under_way.request)?;
        let wish = Wish::Subscribe(&request.filter, 1);
        match self.shared.host.authorize_as(&request.client, wish, number_of(FILTER, 0, number)) {
            Ok(()) => under_way.stage = Stage::Filter { asked: true },
            Err(refused) if refused.status == Status::INVALID => {
                under_way.stage =
                    Stage::End { asked: false, problem: Some(format!("its filter is {refused}")) };
                return Some(Step::GoesOn);
            }
            Err(_) => under_way.in_flight.pause(),
        }
        Some(Step::Waits)
    }

    /// Requests authorization for messages and publishes allowed ones; returns whether there were
    /// any.
    fn authorize_and_publish(&mut self, number: u32) -> Option<bool> {
        let host = self.shared.host;
        let under_way = self.answers.get_mut(&number)?;
        let request = self.requests.get(under_way.request)?;
        let client = OnBehalf::of(&request.client);
        let mut did_something = false;
        while let Some((place, item)) = under_way.in_flight.next_to_authorize() {
            let wish = Wish::Deliver(&item.topic, 1);
            match host.authorize_as(client, wish, number_of(DELIVER, place, number)) {
                Ok(()) => under_way.in_flight.requested(place),
                Err(refused) if under_way.tries_again(refused) => return Some(did_something),
                Err(refused) => under_way.note_refused(place, refused.to_string()),
            }
            did_something = true;
        }
        while let Some((place, item)) = under_way.in_flight.next_to_publish() {
            let message = request
                .message(number, item.payload.as_slice())
                .user_property("topic", item.topic.as_str())
                .user_property("timestamp_ms", item.at_ms.to_string());
            match host.publish_as(client.answered(number_of(PUBLISH, place, number)), &message) {
                Ok(()) => under_way.in_flight.published(place),
                Err(refused) if under_way.tries_again(refused) => return Some(did_something),
                Err(refused) => under_way.note_refused(place, refused.to_string()),
            }
            did_something = true;
        }
        Some(did_something)
    }

    /// Handles a reply of the broker. It arrives on the shard of the client. If another plugin is
    /// the client, this may be a different shard than that of the request.
    pub(crate) fn take_answer(&mut self, full: u64, reason: Reason) {
        let (number, place) = (full as u32, (full >> 32 & PLACE) as u32);
        if number >> 26 != self.shard {
            return self.pass_on(number >> 26, full, reason);
        }
        let Some(under_way) = self.answers.get_mut(&number) else { return };
        let before = under_way.share();
        let taken = reason.0 < 0x80;
        // The broker was full or had no verdict: retry.
        let again = [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason);
        let said = || format!("refused with 0x{:02X}", reason.0);
        let (mut over, mut ends) = (None, None);
        match full & !(PLACE << 32 | u64::from(u32::MAX)) {
            FILTER if again => {
                under_way.in_flight.pause();
                under_way.stage = Stage::Filter { asked: false };
            }
            FILTER if under_way.stage == (Stage::Filter { asked: true }) => {
                if taken {
                    under_way.stage = Stage::Messages;
                    (under_way.filter_age_ms, under_way.since_filter) = (0, 0);
                    if !std::mem::replace(&mut under_way.begun, true) {
                        under_way.moved();
                        under_way.silent_ms = 0;
                        let asks = under_way.answer.begin();
                        self.carry_out(number, asks);
                    }
                } else {
                    ends = Some(format!("its filter is {}", said()));
                }
            }
            DELIVER if place == PLACE_OF_LARGE => under_way.answer_large(reason, &said),
            DELIVER | PUBLISH if again => under_way.put_off(place, &said()),
            DELIVER => {
                let in_flight = &mut under_way.in_flight;
                let known = if taken { in_flight.allowed(place) } else { in_flight.left_out(place) };
                under_way.moved_if(known);
            }
            PUBLISH if taken => {
                let known = under_way.in_flight.taken(place);
                under_way.sent += u64::from(known);
                under_way.moved_if(known);
            }
            PUBLISH => {
                under_way.moved();
                under_way.note_refused(place, said());
                if reason == Reason::NOT_AUTHORIZED && under_way.sent == 0 && under_way.refused >= REFUSED_MAX
                {
                    ends = Some(NOT_ALLOWED.to_owned());
                }
            }
            END => over = self.end_answered(number, reason),
            _ => {}
        }
        if let Some(now) = self.answers.get(&number).map(UnderWay::share) {
            self.pool.moved(before, now);
        }
        match over {
            Some(refused) => {
                if refused {
                    self.say_refused(number);
                }
                self.end(number);
            }
            None => match ends {
                Some(stopped) => self.begin_end(number, Some(&stopped)),
                None => self.pump(number),
            },
        }
        self.arm();
    }

    /// Whether the answer has ended, and whether because the client may not publish there.
    fn end_answered(&mut self, number: u32, reason: Reason) -> Option<bool> {
        let under_way = self.answers.get_mut(&number)?;
        if [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            under_way.in_flight.pause();
            if let Stage::End { asked, .. } = &mut under_way.stage {
                *asked = false;
            }
            return None;
        }
        if reason.0 < 0x80 && !under_way.stalled {
            under_way.moved();
            under_way.stage = Stage::Taken;
            return None;
        }
        let refused = reason == Reason::NOT_AUTHORIZED && under_way.sent == 0;
        if reason.0 >= 0x80 && !refused {
            self.trouble(format_args!("an answer stays without its end: refused with 0x{:02X}", reason.0));
        }
        Some(refused)
    }

    fn say_refused(&mut self, number: u32) {
        let request = self.answers.get(&number).map(|under_way| under_way.request);
        let Some(request) = request.and_then(|id| self.requests.get(id)) else { return };
        let (client, topic) = (request.client.client_id().to_owned(), request.response_topic.clone());
        self.trouble(format_args!("no answer to {client:?}, which may not publish to {topic:?}"));
    }

    /// Ends the messages. A last message follows, with their number and the reason if some are
    /// missing.
    fn begin_end(&mut self, number: u32, stopped: Option<&str>) {
        let Some(under_way) = self.answers.get_mut(&number) else { return };
        let problem = under_way.problem(stopped);
        under_way.stage = Stage::End { asked: false, problem: problem.clone() };
        under_way.stalled = stopped.is_some();
        under_way.moved();
        let request = self.requests.get(under_way.request);
        if let (Some(problem), Some(request)) = (problem, request) {
            let (client, filter) = (request.client.client_id().to_owned(), request.filter.clone());
            self.trouble(format_args!("the answer to {client:?} for {filter:?} is incomplete: {problem}"));
        }
        self.pump(number);
    }

    fn publish_end(&mut self, number: u32) -> Option<Step> {
        let under_way = self.answers.get_mut(&number)?;
        let request = self.requests.get(under_way.request)?;
        let Stage::End { asked, problem } = &mut under_way.stage else { return None };
        let mut end = request.message(number, &[]).user_property("messages", under_way.sent.to_string());
        if under_way.refused > 0 {
            end = end.user_property("refused", under_way.refused.to_string());
        }
        if let Some(problem) = problem {
            end = end.user_property("incomplete", problem.as_str());
        }
        let client = OnBehalf::of(&request.client).answered(number_of(END, 0, number));
        match self.shared.host.publish_as(client, &end) {
            Ok(()) => *asked = true,
            Err(refused) if under_way.tries_again(refused) => {}
            Err(refused) => {
                self.trouble(format_args!("an answer stays without its end: {refused}"));
                return Some(Step::Over);
            }
        }
        Some(Step::Waits)
    }

    /// Ends requests that have waited too long, with a last message.
    pub(crate) fn give_up_waiting(&mut self) {
        for _ in 0..GIVEN_UP_AT_ONCE {
            let Some((id, since_ms)) = self.turns.first() else { return };
            if self.now_ms - since_ms < self.shared.config.request_wait_ms_max {
                return;
            }
            if let Some(client) = self.requests.owner_name(id) {
                self.turns.remove(client, id);
            }
            let Some(request) = self.requests.remove(id) else { continue };
            let problem = "other answers took too long";
            let end =
                request.message(0, &[]).user_property("messages", "0").user_property("incomplete", problem);
            let published = self.shared.host.publish_as(&request.client, &end);
            let (client, filter) = (request.client.client_id(), &request.filter);
            match published {
                Ok(()) => self.trouble(format_args!("no answer to {client:?} for {filter:?}: {problem}")),
                Err(refused) => {
                    self.trouble(format_args!(
                        "no answer to {client:?} for {filter:?}, nor its end: {refused}"
                    ));
                }
            }
        }
    }

    /// Removes an answer that has ended.
    fn end(&mut self, number: u32) {
        let Some(under_way) = self.answers.remove(&number) else { return };
        self.pool.moved(under_way.share(), (0, 0));
        if let Some(client) = self.requests.owner_name(under_way.request) {
            self.turns.ended(client);
        }
        self.requests.remove(under_way.request);
        self.begin_answers();
    }
}

impl Request {
    fn message(&self, flow: u32, payload: &[u8]) -> Outgoing {
        let message = Outgoing::new(self.response_topic.as_str(), payload).qos(1).flow(flow);
        match &self.correlation_data {
            Some(data) => message.correlation_data(data.as_slice()),
            None => message,
        }
    }
}

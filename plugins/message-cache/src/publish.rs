//! Sends answers to subscribers, step by step: authorizes the filter, then each message, and publishes
//! what is allowed.

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::{OnBehalf, Outgoing, Wish};

use super::{CacheShard, Request};
use crate::answer::{Next, ShardRequest};
use crate::config::Config;
use crate::pool::Share;
use crate::reply_number::{DELIVER, FILTER, PUBLISH, number_of};
use crate::under_way::{PATIENCE_MS, Stage, UnderWay};

/// The filter is authorized again after this many messages and milliseconds: rights may change.
const FILTER_MESSAGES: u64 = 256;
const FILTER_MS: u64 = 1_000;

/// Why an answer ends early.
const NOT_TAKEN: &str = "its subscribers do not take it";
const TOO_SLOW: &str = "its subscribers do not take all of it in time";
const NO_ROOM: &str = "there is no room for its next message";

/// The result of a step of an answer.
pub(crate) enum Step {
    /// More steps follow, but not now.
    Waits,
    /// More steps follow at once.
    GoesOn,
    /// All messages are out, or the answer ends early for this reason.
    Ends(Option<&'static str>),
    /// The answer has ended.
    Over,
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

    fn step(&mut self, number: u32, before: Share) -> Option<Step> {
        let under_way = self.answers.get_mut(&number)?;
        let in_flight = self.shared.host.in_flight(number);
        if under_way.in_flight.note_in_flight(in_flight) {
            under_way.moved();
        }
        let stall_ms = self.shared.config.answer_stall_ms;
        let stopped = why_stopped(under_way, &self.shared.config);
        let is_paused = under_way.in_flight.is_paused();
        match &under_way.stage {
            Stage::Messages => self.step_messages(number, before, stopped),
            Stage::Taken => Some(if in_flight == 0 || stopped.is_some() { Step::Over } else { Step::Waits }),
            Stage::Filter { .. } if stopped.is_some() => Some(Step::Ends(stopped)),
            Stage::Filter { asked: false } if !is_paused => self.authorize_filter(number),
            Stage::End { .. } if under_way.stalled_ms >= stall_ms => {
                self.trouble(format_args!("an answer stays without its end: nothing has come of it"));
                Some(Step::Over)
            }
            Stage::End { asked: false, .. } if !is_paused => self.publish_end(number),
            Stage::Filter { .. } | Stage::End { .. } => Some(Step::Waits),
        }
    }

    /// A step of an answer whose filter is authorized.
    fn step_messages(&mut self, number: u32, before: Share, stopped: Option<&'static str>) -> Option<Step> {
        let under_way = self.answers.get_mut(&number)?;
        if stopped == Some(TOO_SLOW) {
            return Some(Step::Ends(stopped));
        }
        if under_way.filter_age_ms >= FILTER_MS || under_way.since_filter >= FILTER_MESSAGES {
            under_way.stage = Stage::Filter { asked: false };
            return self.authorize_filter(number);
        }
        let mut did_something = self.authorize_and_publish(number)?;
        let room = self.pool.room(before);
        loop {
            let under_way = self.answers.get_mut(&number)?;
            let waits = if did_something { Step::GoesOn } else { Step::Waits };
            match under_way.answer.next() {
                Next::Message(of) => {
                    let item = under_way.answer.first_of(of)?;
                    if !under_way.in_flight.has_room(item, room) {
                        return Some(if stopped.is_some() { Step::Ends(stopped) } else { waits });
                    }
                    if item.absent > 0 {
                        let fetches = self.step_large(number, of)?;
                        return Some(match (fetches, stopped) {
                            (true, _) => Step::GoesOn,
                            (false, Some(_)) => Step::Ends(stopped),
                            (false, None) => waits,
                        });
                    }
                    under_way.in_flight.push(under_way.answer.take(of)?);
                    under_way.since_filter += 1;
                    self.authorize_and_publish(number)?;
                    did_something = true;
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
                Next::Wait(asks) => {
                    return Some(if self.ask_shards(number, asks)? { Step::GoesOn } else { waits });
                }
            }
        }
    }

    /// The next messages are on other shards: sends these requests to them, or the earlier ones
    /// again if no shard has replied for too long. Returns whether it has.
    fn ask_shards(&mut self, number: u32, mut asks: Vec<ShardRequest>) -> Option<bool> {
        let under_way = self.answers.get_mut(&number)?;
        if asks.is_empty() {
            if under_way.silent_ms < PATIENCE_MS {
                return Some(false);
            }
            asks = under_way.answer.request_again();
        } else {
            // One page of this shard at a time: it may take long and find nothing.
            under_way.stalled_ms = 0;
        }
        under_way.silent_ms = 0;
        self.carry_out(number, asks);
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
}

/// Why an answer ends early; `None` if it goes on.
fn why_stopped(under_way: &mut UnderWay, config: &Config) -> Option<&'static str> {
    if under_way.stalled_ms >= config.answer_stall_ms {
        return Some(if std::mem::take(&mut under_way.lacks_room) { NO_ROOM } else { NOT_TAKEN });
    }
    (under_way.age_ms >= config.answer_ms_max).then_some(TOO_SLOW)
}

impl Request {
    pub(crate) fn message(&self, flow: u32, payload: &[u8]) -> Outgoing {
        let message = Outgoing::new(self.response_topic.as_str(), payload).qos(1).flow(flow);
        match &self.correlation_data {
            Some(data) => message.correlation_data(data.as_slice()),
            None => message,
        }
    }
}

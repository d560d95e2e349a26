//! Sends answers to subscribers, step by step: authorizes the filter, then each message, and publishes
//! what is allowed.

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::{ClientAction, OnBehalf, Outgoing};

use super::{CacheShard, Request};
use crate::answer::{Next, ShardRequest};
use crate::config::Config;
use crate::pool::Share;
use crate::progress::{AnswerProgress, PATIENCE_MS, Stage};
use crate::reply_number::{DELIVER, FILTER, PUBLISH, number_of};

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
    pub(crate) fn advance(&mut self, number: u32) {
        let Some(before) = self.answers.get(&number).map(AnswerProgress::share) else { return };
        let step = self.step(number, before);
        if let Some(now) = self.answers.get(&number).map(AnswerProgress::share) {
            self.pool.moved(before, now);
        }
        self.charge(number);
        match step {
            Some(Step::GoesOn) => self.continue_soon(number),
            Some(Step::Ends(stopped)) => self.begin_end(number, stopped),
            Some(Step::Over) => self.end(number),
            Some(Step::Waits) | None => {}
        }
    }

    fn step(&mut self, number: u32, before: Share) -> Option<Step> {
        let in_progress = self.answers.get_mut(&number)?;
        let in_flight = self.shared.host.in_flight(number);
        if in_progress.in_flight.note_in_flight(in_flight) {
            in_progress.moved();
        }
        let stall_ms = self.shared.config.answer_stall_ms;
        let stopped = why_stopped(in_progress, &self.shared.config);
        let is_paused = in_progress.in_flight.is_paused();
        match &in_progress.stage {
            Stage::Messages => self.step_messages(number, before, stopped),
            Stage::Taken => Some(if in_flight == 0 || stopped.is_some() { Step::Over } else { Step::Waits }),
            Stage::Filter { .. } if stopped.is_some() => Some(Step::Ends(stopped)),
            Stage::Filter { requested: false } if !is_paused => self.authorize_filter(number),
            Stage::End { .. } if in_progress.stalled_ms >= stall_ms => {
                self.note_problem(format_args!("an answer stays without its end: nothing has come of it"));
                Some(Step::Over)
            }
            Stage::End { requested: false, .. } if !is_paused => self.publish_end(number),
            Stage::Filter { .. } | Stage::End { .. } => Some(Step::Waits),
        }
    }

    /// A step of an answer whose filter is authorized.
    fn step_messages(&mut self, number: u32, before: Share, stopped: Option<&'static str>) -> Option<Step> {
        let in_progress = self.answers.get_mut(&number)?;
        if stopped == Some(TOO_SLOW) {
            return Some(Step::Ends(stopped));
        }
        if in_progress.filter_age_ms >= FILTER_MS || in_progress.since_filter >= FILTER_MESSAGES {
            in_progress.stage = Stage::Filter { requested: false };
            return self.authorize_filter(number);
        }
        let mut did_something = self.authorize_and_publish(number)?;
        let room = self.pool.room(before);
        loop {
            let in_progress = self.answers.get_mut(&number)?;
            let waits = if did_something { Step::GoesOn } else { Step::Waits };
            match in_progress.answer.next() {
                Next::Message(of) => {
                    let item = in_progress.answer.first_of(of)?;
                    if !in_progress.in_flight.has_room(item, room) {
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
                    in_progress.in_flight.push(in_progress.answer.take(of)?);
                    in_progress.since_filter += 1;
                    self.authorize_and_publish(number)?;
                    did_something = true;
                }
                // The last message counts against the limit too.
                Next::End
                    if in_progress.in_flight.is_empty()
                        && in_progress.in_flight.messages() < room.messages =>
                {
                    return Some(Step::Ends(None));
                }
                Next::End => {
                    let left = stopped.filter(|_| !in_progress.in_flight.is_empty());
                    return Some(if stopped.is_some() { Step::Ends(left) } else { waits });
                }
                Next::Wait(requests) => {
                    return Some(if self.request_from_shards(number, requests)? {
                        Step::GoesOn
                    } else {
                        waits
                    });
                }
            }
        }
    }

    /// The next messages are on other shards: sends these requests to them, or the earlier ones
    /// again if no shard has replied for too long. Returns whether it has.
    fn request_from_shards(&mut self, number: u32, mut requests: Vec<ShardRequest>) -> Option<bool> {
        let in_progress = self.answers.get_mut(&number)?;
        if requests.is_empty() {
            if in_progress.silent_ms < PATIENCE_MS {
                return Some(false);
            }
            requests = in_progress.answer.request_again();
        } else {
            // One page of this shard at a time: it may take long and find nothing.
            in_progress.stalled_ms = 0;
        }
        in_progress.silent_ms = 0;
        self.carry_out(number, requests);
        Some(true)
    }

    fn authorize_filter(&mut self, number: u32) -> Option<Step> {
        let in_progress = self.answers.get_mut(&number)?;
        let request = self.requests.get(in_progress.request)?;
        let action = ClientAction::Subscribe(&request.filter, 1);
        match self.shared.host.authorize_as(&request.client, action, number_of(FILTER, 0, number)) {
            Ok(()) => in_progress.stage = Stage::Filter { requested: true },
            Err(refused) if refused.status == Status::INVALID => {
                in_progress.stage =
                    Stage::End { requested: false, problem: Some(format!("its filter is {refused}")) };
                return Some(Step::GoesOn);
            }
            Err(_) => in_progress.in_flight.pause(),
        }
        Some(Step::Waits)
    }

    /// Requests authorization for messages and publishes allowed ones; returns whether there were
    /// any.
    fn authorize_and_publish(&mut self, number: u32) -> Option<bool> {
        let host = self.shared.host;
        let in_progress = self.answers.get_mut(&number)?;
        let request = self.requests.get(in_progress.request)?;
        let client = OnBehalf::of(&request.client);
        let mut did_something = false;
        while let Some((place, item)) = in_progress.in_flight.next_to_authorize() {
            let action = ClientAction::Deliver(&item.topic, 1);
            match host.authorize_as(client, action, number_of(DELIVER, place, number)) {
                Ok(()) => in_progress.in_flight.requested(place),
                Err(refused) if in_progress.tries_again(refused) => return Some(did_something),
                Err(refused) => in_progress.note_refused(place, refused.to_string()),
            }
            did_something = true;
        }
        while let Some((place, item)) = in_progress.in_flight.next_to_publish() {
            let message = request
                .message(number, item.payload.as_slice())
                .user_property("topic", item.topic.as_str())
                .user_property("timestamp_ms", item.at_ms.to_string());
            match host.publish_as(client.answered(number_of(PUBLISH, place, number)), &message) {
                Ok(()) => in_progress.in_flight.published(place),
                Err(refused) if in_progress.tries_again(refused) => return Some(did_something),
                Err(refused) => in_progress.note_refused(place, refused.to_string()),
            }
            did_something = true;
        }
        Some(did_something)
    }
}

/// Why an answer ends early; `None` if it goes on.
fn why_stopped(in_progress: &mut AnswerProgress, config: &Config) -> Option<&'static str> {
    if in_progress.stalled_ms >= config.answer_stall_ms {
        return Some(if std::mem::take(&mut in_progress.waits_for_memory) { NO_ROOM } else { NOT_TAKEN });
    }
    (in_progress.age_ms >= config.answer_ms_max).then_some(TOO_SLOW)
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

//! The broker's replies: about the filter of an answer, its messages, and its end.

use grapnel_plugin_abi::Reason;

use crate::CacheShard;
use crate::progress::{AnswerProgress, Stage};
use crate::reply_number::{DELIVER, END, FILTER, PLACE, PLACE_OF_LARGE, PUBLISH};

/// After this many refused messages, without an accepted one, no more are published.
const REFUSED_MAX: u64 = 16;

/// Why an answer ends early.
const NOT_ALLOWED: &str = "its client may not publish there";

impl CacheShard {
    /// Handles a reply of the broker. It arrives on the shard of the client. If another plugin is
    /// the client, this may be a different shard than that of the request.
    pub(crate) fn take_answer(&mut self, full: u64, reason: Reason) {
        let (number, place) = (full as u32, (full >> 32 & PLACE) as u32);
        if number >> 26 != self.shard {
            return self.pass_on(number >> 26, full, reason);
        }
        let Some(in_progress) = self.answers.get_mut(&number) else { return };
        let before = in_progress.share();
        let taken = reason.0 < 0x80;
        // The broker was full or had no verdict: retry.
        let again = [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason);
        let refusal = || format!("refused with 0x{:02X}", reason.0);
        let (mut over, mut ends) = (None, None);
        match full & !(PLACE << 32 | u64::from(u32::MAX)) {
            FILTER if again => {
                in_progress.in_flight.pause();
                in_progress.stage = Stage::Filter { requested: false };
            }
            FILTER if in_progress.stage == (Stage::Filter { requested: true }) => {
                if taken {
                    in_progress.stage = Stage::Messages;
                    (in_progress.filter_age_ms, in_progress.since_filter) = (0, 0);
                    if !std::mem::replace(&mut in_progress.begun, true) {
                        in_progress.moved();
                        in_progress.silent_ms = 0;
                        let requests = in_progress.answer.begin();
                        self.carry_out(number, requests);
                    }
                } else {
                    ends = Some(format!("its filter is {}", refusal()));
                }
            }
            DELIVER if place == PLACE_OF_LARGE => in_progress.answer_large(reason, &refusal),
            DELIVER | PUBLISH if again => in_progress.put_off(place, &refusal()),
            DELIVER => {
                let in_flight = &mut in_progress.in_flight;
                let known = if taken { in_flight.allowed(place) } else { in_flight.left_out(place) };
                in_progress.moved_when(known);
            }
            PUBLISH if taken => {
                let known = in_progress.in_flight.taken(place);
                in_progress.sent += u64::from(known);
                in_progress.moved_when(known);
            }
            PUBLISH => {
                in_progress.moved();
                in_progress.note_refused(place, refusal());
                if reason == Reason::NOT_AUTHORIZED
                    && in_progress.sent == 0
                    && in_progress.refused >= REFUSED_MAX
                {
                    ends = Some(NOT_ALLOWED.to_owned());
                }
            }
            END => over = self.end_answered(number, reason),
            _ => {}
        }
        if let Some(now) = self.answers.get(&number).map(AnswerProgress::share) {
            self.pool.moved(before, now);
        }
        match over {
            Some(refused) => {
                if refused {
                    self.report_refused(number);
                }
                self.end(number);
            }
            None => match ends {
                Some(stopped) => self.begin_end(number, Some(&stopped)),
                None => self.advance(number),
            },
        }
        self.arm();
    }

    /// Whether the answer has ended, and whether because the client may not publish there.
    fn end_answered(&mut self, number: u32, reason: Reason) -> Option<bool> {
        let in_progress = self.answers.get_mut(&number)?;
        if [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            in_progress.in_flight.pause();
            if let Stage::End { requested, .. } = &mut in_progress.stage {
                *requested = false;
            }
            return None;
        }
        if reason.0 < 0x80 && !in_progress.stalled {
            in_progress.moved();
            in_progress.stage = Stage::Taken;
            return None;
        }
        let refused = reason == Reason::NOT_AUTHORIZED && in_progress.sent == 0;
        if reason.0 >= 0x80 && !refused {
            self.note_problem(format_args!(
                "an answer stays without its end: refused with 0x{:02X}",
                reason.0
            ));
        }
        Some(refused)
    }

    fn report_refused(&mut self, number: u32) {
        let request = self.answers.get(&number).map(|in_progress| in_progress.request);
        let Some(request) = request.and_then(|id| self.requests.get(id)) else { return };
        let (client, topic) = (request.client.client_id().to_owned(), request.response_topic.clone());
        self.note_problem(format_args!("no answer to {client:?}, which may not publish to {topic:?}"));
    }
}

//! Messages that do not fit into a page: authorized without their payload, then fetched alone.

use grapnel_plugin_abi::{ClientAction, Reason};

use crate::CacheShard;
use crate::progress::{AnswerProgress, Large};
use crate::reply_number::{DELIVER, PLACE_OF_LARGE, number_of};
use crate::store::{LOST, bytes_in_page};

/// How often its authorization is retried without a verdict.
const LARGE_PUT_OFF_MAX: u32 = 8;

/// Why a message is omitted.
const TOO_LARGE: &str = "too large for client_requests_bytes_max or requests_bytes_max";
const NOT_STORED: &str = "too large to be kept";

impl AnswerProgress {
    /// Omits a message that does not fit into a page, with a reason if the client may know of it.
    fn omit_large(&mut self, of: u32, why: Option<String>) {
        self.answer.take(of);
        self.large = Large::Unauthorized(0);
        if why.is_some() {
            self.refused += 1;
            self.last_refusal = why;
        }
    }

    /// Handles the authorization result for such a message.
    pub(crate) fn answer_large(&mut self, reason: Reason, refusal: &dyn Fn() -> String) {
        let Large::Requested(of, tries) = self.large else { return };
        if [Reason::QUOTA_EXCEEDED, Reason::SERVER_UNAVAILABLE].contains(&reason) {
            self.in_flight.pause();
            self.large = Large::Unauthorized(tries + 1);
            if tries == LARGE_PUT_OFF_MAX {
                self.omit_large(of, Some(refusal()));
            }
        } else if reason.0 < 0x80 {
            self.large = Large::Allowed;
            self.moved();
        } else {
            // Without a trace.
            self.omit_large(of, None);
            self.moved();
        }
    }
}

impl CacheShard {
    /// Continues with the first message of a shard, which does not fit into a page: authorizes it,
    /// then fetches it. Returns false while it waits.
    pub(crate) fn step_large(&mut self, number: u32, of: u32) -> Option<bool> {
        let in_progress = self.answers.get_mut(&number)?;
        let tries = match in_progress.large {
            Large::Unauthorized(tries) => tries,
            Large::Requested(..) => return Some(false),
            Large::Allowed => return self.fetch_large(number, of),
        };
        let item = in_progress.answer.first_of(of)?;
        let request = self.requests.get(in_progress.request)?;
        let action = ClientAction::Deliver(&item.topic, 1);
        let authorization = number_of(DELIVER, PLACE_OF_LARGE, number);
        match self.shared.host.authorize_as(&request.client, action, authorization) {
            Ok(()) => in_progress.large = Large::Requested(of, tries),
            Err(refused) if in_progress.tries_again(refused) => {}
            Err(refused) => {
                in_progress.omit_large(of, Some(refused.to_string()));
                return Some(true);
            }
        }
        Some(false)
    }

    /// The client may receive it. A message that can never be fetched is omitted and counted.
    fn fetch_large(&mut self, number: u32, of: u32) -> Option<bool> {
        let in_progress = self.answers.get_mut(&number)?;
        let item = in_progress.answer.first_of(of)?;
        let limits = self.requests.limits();
        if item.absent == LOST {
            in_progress.omit_large(of, Some(NOT_STORED.to_owned()));
            return Some(true);
        }
        let needed = bytes_in_page(&item.topic, item.absent as usize);
        if needed > limits.owner_bytes_max.min(limits.bytes_max) / 2 {
            in_progress.omit_large(of, Some(TOO_LARGE.to_owned()));
            return Some(true);
        }
        let client = self.requests.owner_of(in_progress.request)?;
        in_progress.waits_for_memory = self.requests.free_bytes(client) < needed;
        if in_progress.waits_for_memory {
            return Some(false);
        }
        let request = in_progress.answer.want(of);
        in_progress.large = Large::Unauthorized(0);
        (in_progress.silent_ms, in_progress.stalled_ms) = (0, 0);
        self.carry_out(number, request.into_iter().collect());
        Some(true)
    }
}

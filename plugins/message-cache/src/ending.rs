//! The end of an answer: its last message, which reports whether it is complete.

use grapnel_plugin_abi::OnBehalf;

use crate::progress::Stage;
use crate::publish::Step;
use crate::reply_number::{END, number_of};
use crate::{CacheShard, GIVEN_UP_AT_ONCE};

impl CacheShard {
    /// Ends the messages. A last message follows, with their number and the reason if some are
    /// missing.
    pub(crate) fn begin_end(&mut self, number: u32, stopped: Option<&str>) {
        let Some(in_progress) = self.answers.get_mut(&number) else { return };
        let problem = in_progress.problem(stopped);
        in_progress.stage = Stage::End { requested: false, problem: problem.clone() };
        in_progress.stalled = stopped.is_some();
        in_progress.moved();
        let request = self.requests.get(in_progress.request);
        if let (Some(problem), Some(request)) = (problem, request) {
            let (client, filter) = (request.client.client_id().to_owned(), request.filter.clone());
            self.note_problem(format_args!(
                "the answer to {client:?} for {filter:?} is incomplete: {problem}"
            ));
        }
        self.advance(number);
    }

    pub(crate) fn publish_end(&mut self, number: u32) -> Option<Step> {
        let in_progress = self.answers.get_mut(&number)?;
        let request = self.requests.get(in_progress.request)?;
        let Stage::End { requested, problem } = &mut in_progress.stage else { return None };
        let mut end = request.message(number, &[]).user_property("messages", in_progress.sent.to_string());
        if in_progress.refused > 0 {
            end = end.user_property("refused", in_progress.refused.to_string());
        }
        if let Some(problem) = problem {
            end = end.user_property("incomplete", problem.as_str());
        }
        let client = OnBehalf::of(&request.client).answered(number_of(END, 0, number));
        match self.shared.host.publish_as(client, &end) {
            Ok(()) => *requested = true,
            Err(refused) if in_progress.tries_again(refused) => {}
            Err(refused) => {
                self.note_problem(format_args!("an answer stays without its end: {refused}"));
                return Some(Step::Over);
            }
        }
        Some(Step::Waits)
    }

    /// Ends requests that have waited too long, with a last message.
    pub(crate) fn expire_waiting(&mut self) {
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
                Ok(()) => {
                    self.note_problem(format_args!("no answer to {client:?} for {filter:?}: {problem}"))
                }
                Err(refused) => {
                    self.note_problem(format_args!(
                        "no answer to {client:?} for {filter:?}, nor its end: {refused}"
                    ));
                }
            }
        }
    }

    /// Removes an answer that has ended.
    pub(crate) fn end(&mut self, number: u32) {
        let Some(in_progress) = self.answers.remove(&number) else { return };
        self.pool.moved(in_progress.share(), (0, 0));
        if let Some(client) = self.requests.owner_name(in_progress.request) {
            self.turns.ended(client);
        }
        self.requests.remove(in_progress.request);
        self.begin_answers();
    }
}

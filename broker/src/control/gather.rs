//! Runs functions on shards and waits for their results for a bounded time: on all shards at once,
//! or one after the other for paged lists. The result names each shard that did not answer.

use std::time::Duration;

use grapnel_engine::id::ShardId;
use grapnel_engine::shard::Shard;
use tokio::task::JoinSet;

use super::answer::ApiError;
use super::wire::UnansweredShard;
use crate::shard::handle::{ShardHandle, Unanswered};

/// The shards, and how long each may take to answer.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    pub handles: Vec<ShardHandle>,
    pub timeout: Duration,
}

/// The results by shard.
#[derive(Debug)]
pub(super) struct Gathered<R> {
    /// In the order of the shards.
    pub answers: Vec<(ShardId, R)>,
    pub unanswered: Vec<Unanswered>,
}

impl<R> Gathered<R> {
    pub fn unanswered_rows(&self) -> Vec<UnansweredShard> {
        self.unanswered.iter().map(unanswered_row).collect()
    }
}

pub(super) fn unanswered_row(unanswered: &Unanswered) -> UnansweredShard {
    UnansweredShard { shard: unanswered.shard.0, error: unanswered.to_string() }
}

impl Shards {
    /// Runs the same function on every shard, at the same time.
    pub async fn call_all<R: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Shard) -> R + Clone + Send + 'static,
    ) -> Gathered<R> {
        let mut calls = JoinSet::new();
        for handle in &self.handles {
            let (handle, timeout, query) = (handle.clone(), self.timeout, query.clone());
            calls.spawn(async move { (handle.id(), handle.call_async(timeout, query).await) });
        }
        let mut gathered = Gathered { answers: Vec::new(), unanswered: Vec::new() };
        while let Some(joined) = calls.join_next().await {
            match joined {
                Ok((shard, Ok(answer))) => gathered.answers.push((shard, answer)),
                Ok((_, Err(unanswered))) => gathered.unanswered.push(unanswered),
                // A task ends without a result only when the runtime ends.
                Err(_) => {}
            }
        }
        gathered.answers.sort_by_key(|(shard, _)| *shard);
        gathered.unanswered.sort_by_key(|unanswered| unanswered.shard);
        gathered
    }

    /// A page of a list over all shards: from the cursor on, about `limit` rows.
    pub async fn page<R: Send + 'static>(
        &self,
        from: Cursor,
        limit: usize,
        query: impl Fn(&mut Shard, usize, usize) -> (Vec<R>, Option<usize>) + Clone + Send + 'static,
    ) -> Page<R> {
        let mut page = Page { rows: Vec::new(), next: None, unanswered: Vec::new() };
        let mut at = from;
        while let Some(handle) = self.handles.get(at.shard) {
            // A shard may return more rows than requested, because it does not split a session.
            let room = limit.saturating_sub(page.rows.len());
            if room == 0 {
                page.next = Some(at);
                break;
            }
            let (query, place) = (query.clone(), at.place);
            match handle.call_async(self.timeout, move |shard| query(shard, place, room)).await {
                Ok((rows, next)) => {
                    page.rows.extend(rows);
                    at = match next {
                        Some(place) => Cursor { place, ..at },
                        None => Cursor { shard: at.shard + 1, place: 0 },
                    };
                }
                Err(unanswered) => {
                    page.unanswered.push(unanswered_row(&unanswered));
                    at = Cursor { shard: at.shard + 1, place: 0 };
                }
            }
        }
        page
    }
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<R> {
    pub rows: Vec<R>,
    pub next: Option<Cursor>,
    pub unanswered: Vec<UnansweredShard>,
}

/// Where the next page of a list begins; written as `SHARD-PLACE`, such as `1-250`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    shard: usize,
    place: usize,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.shard, self.place)
    }
}

impl Cursor {
    /// Parses the `next` of an earlier answer. `None` is the beginning of the list.
    pub fn parse(text: Option<&str>) -> Result<Cursor, ApiError> {
        let Some(text) = text else { return Ok(Cursor::default()) };
        let parsed = text.split_once('-').and_then(|(shard, place)| {
            Some(Cursor { shard: shard.parse().ok()?, place: place.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            ApiError::bad_request(format_args!("\"{text}\" is no cursor; pass on what \"next\" said"))
        })
    }
}

/// Rows of an answer by default.
pub(super) const PAGE_ROWS_DEFAULT: usize = 100;
/// Rows that a request may ask for, at most.
pub(super) const PAGE_ROWS_MAX: usize = 1000;

/// The requested number of rows.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit {
        None => Ok(PAGE_ROWS_DEFAULT),
        Some(limit) if (1..=PAGE_ROWS_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(ApiError::bad_request(format_args!(
            "limit must be between 1 and {PAGE_ROWS_MAX}, not {limit}"
        ))),
    }
}

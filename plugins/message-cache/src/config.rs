//! The configuration and its ranges. Read once at load.

use grapnel_plugin_abi::{Error, ShareLimits, topic};

/// `[plugins.message-cache.config]`.
#[derive(serde::Deserialize)]
pub struct Config {
    /// Topic filters of the messages to store.
    pub filters: Vec<String>,
    /// Maximum number of stored messages of each topic.
    #[serde(default = "defaults::messages_per_topic_max")]
    pub messages_per_topic_max: u64,
    /// Maximum bytes of memory for stored messages on one shard.
    #[serde(default = "defaults::bytes_max")]
    pub bytes_max: u64,
    /// Maximum bytes of these for the messages of one client.
    #[serde(default = "defaults::client_bytes_max")]
    pub client_bytes_max: u64,
    /// Maximum number of requests in progress and waiting on one shard.
    #[serde(default = "defaults::requests_max")]
    pub requests_max: u64,
    /// Maximum bytes of memory of the requests and their answers.
    #[serde(default = "defaults::requests_bytes_max")]
    pub requests_bytes_max: u64,
    /// Maximum bytes of these for the requests and answers of one client.
    #[serde(default = "defaults::client_requests_bytes_max")]
    pub client_requests_bytes_max: u64,
    /// Maximum number of requests of one client.
    #[serde(default = "defaults::client_requests_max")]
    pub client_requests_max: u64,
    /// Maximum number of answers in progress on one shard; further requests wait.
    #[serde(default = "defaults::answers_max")]
    pub answers_max: u64,
    /// Maximum number of these for one client.
    #[serde(default = "defaults::client_answers_max")]
    pub client_answers_max: u64,
    /// Maximum number of messages of all answers of one shard that subscribers have not
    /// acknowledged.
    #[serde(default = "defaults::answers_in_flight_max")]
    pub answers_in_flight_max: u64,
    /// Maximum bytes of their topics and payloads. An answer may exceed it with a single message.
    #[serde(default = "defaults::answers_in_flight_bytes_max")]
    pub answers_in_flight_bytes_max: u64,
    /// An answer ends after this time if its subscribers accept nothing, milliseconds.
    #[serde(default = "defaults::answer_stall_ms")]
    pub answer_stall_ms: u64,
    /// Maximum duration of an answer, milliseconds.
    #[serde(default = "defaults::answer_ms_max")]
    pub answer_ms_max: u64,
    /// A request is refused after waiting this long, milliseconds.
    #[serde(default = "defaults::request_wait_ms_max")]
    pub request_wait_ms_max: u64,
}

mod defaults {
    pub const fn messages_per_topic_max() -> u64 {
        10
    }
    pub const fn bytes_max() -> u64 {
        16 << 20
    }
    // Half: a gateway may publish for many devices, and must leave memory for others.
    pub const fn client_bytes_max() -> u64 {
        8 << 20
    }
    pub const fn requests_max() -> u64 {
        1024
    }
    // A request uses about 500 bytes, and up to 200 KiB with the longest topics and correlation
    // data. Its answer uses 128 KiB for each shard, if available.
    pub const fn requests_bytes_max() -> u64 {
        16 << 20
    }
    // A quarter, as for the answers. Twice the size of the largest message in an answer.
    pub const fn client_requests_bytes_max() -> u64 {
        4 << 20
    }
    pub const fn client_requests_max() -> u64 {
        16
    }
    // Each answer holds a page of each shard.
    pub const fn answers_max() -> u64 {
        8
    }
    // A quarter: one client whose subscribers accept nothing uses a quarter of all answers.
    pub const fn client_answers_max() -> u64 {
        2
    }
    // Below the broker's `limits.behalf_client_requests_max` of 128, which all requests for one
    // client count against.
    pub const fn answers_in_flight_max() -> u64 {
        100
    }
    // Below the broker's `limits.behalf_client_bytes_max` of 4 MiB, and enough for several of the
    // largest packets.
    pub const fn answers_in_flight_bytes_max() -> u64 {
        1 << 20
    }
    pub const fn answer_stall_ms() -> u64 {
        60_000
    }
    // Enough for a million messages to a fast subscriber. A slower one must leave its place to
    // others.
    pub const fn answer_ms_max() -> u64 {
        600_000
    }
    pub const fn request_wait_ms_max() -> u64 {
        60_000
    }
}

impl Config {
    /// Checks all ranges.
    ///
    /// # Errors
    /// The key and its range.
    pub fn check(&self) -> Result<(), Error> {
        for (at, filter) in self.filters.iter().enumerate() {
            topic::check_filter(filter).map_err(|problem| Error::new(format!("filters[{at}]: {problem}")))?;
        }
        for (key, value) in [
            ("messages_per_topic_max", self.messages_per_topic_max),
            ("bytes_max", self.bytes_max),
            ("client_bytes_max", self.client_bytes_max),
            ("requests_max", self.requests_max),
            ("requests_bytes_max", self.requests_bytes_max),
            ("client_requests_bytes_max", self.client_requests_bytes_max),
            ("client_requests_max", self.client_requests_max),
            ("answers_max", self.answers_max),
            ("client_answers_max", self.client_answers_max),
            ("answers_in_flight_max", self.answers_in_flight_max),
            ("answers_in_flight_bytes_max", self.answers_in_flight_bytes_max),
            ("answer_stall_ms", self.answer_stall_ms),
            ("answer_ms_max", self.answer_ms_max),
            ("request_wait_ms_max", self.request_wait_ms_max),
        ] {
            if value == 0 {
                return Err(Error::new(format!("{key} = 0: must be at least 1")));
            }
        }
        Ok(())
    }

    /// Limits of the stored messages on one shard.
    pub fn store_limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: u64::MAX,
            bytes_max: self.bytes_max,
            owner_entries_max: u64::MAX,
            owner_bytes_max: self.client_bytes_max,
        }
    }

    /// Limits of the requests on one shard.
    pub fn request_limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: self.requests_max,
            bytes_max: self.requests_bytes_max,
            owner_entries_max: self.client_requests_max,
            owner_bytes_max: self.client_requests_bytes_max,
        }
    }
}

//! The configuration and its ranges. Read once at load.

use grapnel_plugin_abi::{Error, ShareLimits, topic};

/// `[plugins.message-cache.config]`.
#[derive(serde::Deserialize)]
pub struct Config {
    /// Topics that are kept.
    pub filters: Vec<String>,
    /// Most messages of each topic.
    #[serde(default = "defaults::messages_per_topic_max")]
    pub messages_per_topic_max: u64,
    /// Most bytes of memory that one shard keeps messages in.
    #[serde(default = "defaults::bytes_max")]
    pub bytes_max: u64,
    /// Most bytes of them for the messages of one client.
    #[serde(default = "defaults::client_bytes_max")]
    pub client_bytes_max: u64,
    /// Most requests that are answered or wait on one shard.
    #[serde(default = "defaults::requests_max")]
    pub requests_max: u64,
    /// Most bytes of memory that they and their answers take.
    #[serde(default = "defaults::requests_bytes_max")]
    pub requests_bytes_max: u64,
    /// Most bytes of them for the requests and answers of one client.
    #[serde(default = "defaults::client_requests_bytes_max")]
    pub client_requests_bytes_max: u64,
    /// Most requests of one client among them.
    #[serde(default = "defaults::client_requests_max")]
    pub client_requests_max: u64,
    /// Most answers of one shard that are under way at a time; requests beyond wait.
    #[serde(default = "defaults::answers_max")]
    pub answers_max: u64,
    /// Most of them for one client.
    #[serde(default = "defaults::client_answers_max")]
    pub client_answers_max: u64,
    /// Most messages of all answers of one shard that subscribers have not taken yet.
    #[serde(default = "defaults::answers_in_flight_max")]
    pub answers_in_flight_max: u64,
    /// Most bytes of their topics and payloads, unless an answer has only one under way.
    #[serde(default = "defaults::answers_in_flight_bytes_max")]
    pub answers_in_flight_bytes_max: u64,
    /// Milliseconds after which an answer ends whose subscribers take nothing.
    #[serde(default = "defaults::answer_stall_ms")]
    pub answer_stall_ms: u64,
    /// Milliseconds after which an answer ends, however fast its subscribers take it.
    #[serde(default = "defaults::answer_ms_max")]
    pub answer_ms_max: u64,
    /// Milliseconds after which a request that waits for its turn is given up.
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
    // Half: a gateway may speak for many devices, and leaves room for others.
    pub const fn client_bytes_max() -> u64 {
        8 << 20
    }
    pub const fn requests_max() -> u64 {
        1024
    }
    // A request takes some 500 bytes, and up to 200 KiB with the longest topics and correlation data; its answer 128 KiB for each
    // shard, if there is room.
    pub const fn requests_bytes_max() -> u64 {
        16 << 20
    }
    // A quarter, as of the answers. Twice the largest message that can be answered with.
    pub const fn client_requests_bytes_max() -> u64 {
        4 << 20
    }
    pub const fn client_requests_max() -> u64 {
        16
    }
    // Each holds a page of each shard.
    pub const fn answers_max() -> u64 {
        8
    }
    // A quarter: four clients that take nothing are needed to have all of them.
    pub const fn client_answers_max() -> u64 {
        2
    }
    // Below `limits.behalf_client_requests_max` of the broker, 128, which what is asked for one client has to fit into.
    pub const fn answers_in_flight_max() -> u64 {
        100
    }
    // Below `limits.behalf_client_bytes_max` of the broker, 4 MiB, and enough for several of the largest packets.
    pub const fn answers_in_flight_bytes_max() -> u64 {
        1 << 20
    }
    pub const fn answer_stall_ms() -> u64 {
        60_000
    }
    // Some million messages to a subscriber that keeps up; one that does not gives its place to others then.
    pub const fn answer_ms_max() -> u64 {
        600_000
    }
    pub const fn request_wait_ms_max() -> u64 {
        60_000
    }
}

impl Config {
    /// Whether everything is in its range.
    ///
    /// # Errors
    /// The key, and what it may be.
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

    /// Of the messages that one shard keeps.
    pub fn store_limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: u64::MAX,
            bytes_max: self.bytes_max,
            owner_entries_max: u64::MAX,
            owner_bytes_max: self.client_bytes_max,
        }
    }

    /// Of the requests of one shard.
    pub fn request_limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: self.requests_max,
            bytes_max: self.requests_bytes_max,
            owner_entries_max: self.client_requests_max,
            owner_bytes_max: self.client_requests_bytes_max,
        }
    }
}

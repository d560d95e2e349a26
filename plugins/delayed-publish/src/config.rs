//! The configuration and its ranges. Read once at load.

use grapnel_plugin_abi::{Error, ShareLimits};

/// `[plugins.delayed-publish.config]`.
#[derive(serde::Deserialize)]
pub struct Config {
    /// Maximum delay, seconds.
    #[serde(default = "defaults::delay_s_max")]
    pub delay_s_max: u64,
    /// Maximum number of messages that one shard stores.
    #[serde(default = "defaults::messages_max")]
    pub messages_max: u64,
    /// Maximum bytes of memory that these messages use.
    #[serde(default = "defaults::bytes_max")]
    pub bytes_max: u64,
    /// Maximum number of messages that are stored for one client.
    #[serde(default = "defaults::client_messages_max")]
    pub client_messages_max: u64,
    /// Maximum bytes of memory that the messages of one client use.
    #[serde(default = "defaults::client_bytes_max")]
    pub client_bytes_max: u64,
    /// How long after its due time a message is retried, seconds.
    #[serde(default = "defaults::retry_s_max")]
    pub retry_s_max: u64,
}

// A message of 100 bytes with a short topic uses about 600. So the limits in messages and in bytes
// fit together, in total and for one client, and ten clients at their limit use the total exactly.
mod defaults {
    pub const fn delay_s_max() -> u64 {
        4_294_967
    }
    pub const fn messages_max() -> u64 {
        100_000
    }
    pub const fn bytes_max() -> u64 {
        64 << 20
    }
    pub const fn client_messages_max() -> u64 {
        10_000
    }
    pub const fn client_bytes_max() -> u64 {
        8 << 20
    }
    // Long enough for an operator to find out why the broker is full.
    pub const fn retry_s_max() -> u64 {
        3600
    }
}

impl Config {
    /// Checks all ranges.
    ///
    /// # Errors
    /// The key and its range.
    pub fn check(&self) -> Result<(), Error> {
        for (key, value) in [
            ("delay_s_max", self.delay_s_max),
            ("messages_max", self.messages_max),
            ("bytes_max", self.bytes_max),
            ("client_messages_max", self.client_messages_max),
            ("client_bytes_max", self.client_bytes_max),
            ("retry_s_max", self.retry_s_max),
        ] {
            if value == 0 {
                return Err(Error::new(format!("{key} = 0: must be at least 1")));
            }
        }
        Ok(())
    }

    /// Limits of the messages that one shard stores.
    pub fn limits(&self) -> ShareLimits {
        ShareLimits {
            entries_max: self.messages_max,
            bytes_max: self.bytes_max,
            owner_entries_max: self.client_messages_max,
            owner_bytes_max: self.client_bytes_max,
        }
    }
}

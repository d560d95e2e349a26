//! What a shard keeps for plugins beside their links: sessions for what they publish, timers, mail, replays.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::hook::PluginHandle;
use crate::id::SessionKey;

/// Mail for a plugin that is not in the chains yet, or is not to be called for now.
#[derive(Debug)]
pub(crate) struct KeptMail {
    pub(crate) plugin: PluginHandle,
    pub(crate) from: u32,
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
    /// Until then one that is in no chain table is waited for.
    pub(crate) until_ms: u64,
}

/// What a shard keeps for plugins beside their links.
#[derive(Debug, Default)]
pub(crate) struct PluginDesk {
    /// Sessions that no client has: what a plugin publishes waits in order in the slots of its own.
    pub(crate) sessions: HashMap<u64, SessionKey>,
    /// Timers that are armed, with the time until which an unknown plugin is waited for.
    pub(crate) timers: HashMap<u64, (PluginHandle, u64)>,
    /// Timers that fell due while their plugin was disabled or tripped, in this order, each with the plugin's number.
    pub(crate) held: Vec<(u64, u64)>,
    pub(crate) mails: VecDeque<KeptMail>,
    pub(crate) mails_bytes: usize,
    pub(crate) replays: VecDeque<Replay>,
}

/// A plugin that is being told of what was there before it.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) plugin: PluginHandle,
    /// The next place in the table of sessions.
    pub(crate) place: usize,
    pub(crate) until_ms: u64,
}

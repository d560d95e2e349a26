//! The parts of a shard. A flow takes them as one argument; each part manages its own fields.

use std::ops::Deref;
use std::sync::Arc;

use crate::clients::{Connections, Sessions};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::delivery::{EncodedFrame, FrameCache, Shape};
use crate::id::ShardId;
use crate::interface::Setup;
use crate::ledger::Memory;
use crate::limits::Limits;
use crate::message::{Message, MessageView};
use crate::outbox::Outbox;
use crate::route::retained::{Retained, RetainedLimits};
use crate::route::{RouteLimits, Routes};
use crate::totals::Totals;
use crate::work::Work;

mod hooks;

pub(crate) use hooks::{ChainContext, Hooks};

/// Everything that a shard owns: twelve parts with private fields, and the setup, which flows do not
/// change. Two parts are plain data: the counters and the outbox.
pub(crate) struct Parts {
    /// The configuration of the shard.
    pub(crate) setup: Fixed<Setup>,
    /// The time of the step, and the timers.
    pub(crate) clock: Clock,
    /// Randomness, message numbers, hash keys.
    pub(crate) numbers: Numbers,
    /// Network connections, and traced clients.
    pub(crate) connections: Connections,
    pub(crate) sessions: Sessions,
    /// Subscriptions of this shard, and interest of all shards.
    pub(crate) router: Routes,
    /// Retained messages that this shard owns.
    pub(crate) retained: Retained<Message>,
    /// Chains, tickets, and what is stored for plugins beside their links.
    pub(crate) hooks: Hooks,
    /// The results for the shell.
    pub(crate) out: Outbox,
    pub(crate) counters: Counters,
    pub(crate) encoder: Encoder,
    /// Work that is begun and not finished.
    pub(crate) work: Work,
    /// The memory state of the shard.
    pub(crate) memory: Memory,
}

/// A value that flows can read and not change. [`Parts::set_rules`] replaces a part of it.
pub(crate) struct Fixed<T>(T);

impl<T> Deref for Fixed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Packets that are encoded once for many deliveries, and reusable buffers.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    frames: FrameCache,
    scratch: Vec<u8>,
    topic: String,
}

impl Encoder {
    /// Starts another message.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.frames.begin();
    }

    /// The message in this shape; see [`FrameCache::frame`].
    #[inline]
    pub(crate) fn frame(
        &mut self,
        view: &MessageView<'_>,
        shape: &Shape<'_>,
        cached: bool,
        now_ms: u64,
    ) -> &EncodedFrame {
        self.frames.frame(view, shape, cached, now_ms)
    }

    /// A cleared buffer to use. The caller must give it back with `give_back_scratch`.
    #[inline]
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch
    }

    /// Takes the buffer back.
    #[inline]
    pub(crate) fn give_back_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// A buffer for a topic with its mount point, with any contents. The caller must give it back
    /// with `give_back_topic`.
    pub(crate) fn take_topic(&mut self) -> String {
        std::mem::take(&mut self.topic)
    }

    /// Takes the buffer back.
    pub(crate) fn give_back_topic(&mut self, topic: String) {
        self.topic = topic;
    }
}

/// Random numbers of the shard (splitmix64; for choices, never for secrets), message numbers, and
/// hash keys.
#[derive(Debug)]
pub(crate) struct Numbers {
    shard: ShardId,
    state: u64,
    messages: u64,
    hasher: ahash::RandomState,
}

impl Numbers {
    fn new(setup: &Setup) -> Numbers {
        let [a, b, c, d] = setup.keys;
        let hasher = ahash::RandomState::with_seeds(a, b, c, d);
        Numbers { shard: setup.id, state: setup.seed | 1, messages: 0, hasher }
    }

    /// The next random number.
    pub(crate) fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number for a message: the shard in the highest byte, then a count.
    pub(crate) fn message_id(&mut self) -> u64 {
        self.messages += 1;
        u64::from(self.shard.0) << 56 | self.messages
    }

    /// Hash keys for a table of this shard. They are secret, so clients cannot cause collisions.
    #[inline]
    pub(crate) fn hasher(&self) -> ahash::RandomState {
        self.hasher.clone()
    }

    /// A fingerprint of a text, stable for the life of the shard.
    #[inline]
    pub(crate) fn hash_of(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }
}

fn route_limits(limits: &Limits) -> RouteLimits {
    RouteLimits {
        topic_cache_entries_max: size(limits.topic_cache_entries_max),
        topic_cache_bytes_max: size(limits.topic_cache_bytes_max),
        shard_subscriptions_max: size(limits.shard_subscriptions_max),
        idle_filters_max: size(limits.idle_filters_max),
    }
}

fn retained_limits(limits: &Limits) -> RetainedLimits {
    RetainedLimits {
        retained_messages_max: size(limits.retained_messages_max),
        retained_bytes_max: size(limits.retained_bytes_max),
        retained_client_messages_max: size(limits.retained_client_messages_max),
        retained_client_bytes_max: size(limits.retained_client_bytes_max),
    }
}

fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Parts {
    /// Replaces the limits, and what is allowed if no link of client.authorize decides. The limits
    /// of `Limits::AT_START` keep their effect.
    pub(crate) fn set_rules(&mut self, limits: Arc<Limits>, no_match_allow: bool) {
        self.retained.set_limits(retained_limits(&limits));
        self.router.set_limits(route_limits(&limits));
        let Fixed(setup) = &mut self.setup;
        setup.limits = limits;
        setup.no_match_allow = no_match_allow;
    }

    /// The parts of an empty shard.
    pub(crate) fn new(setup: Setup) -> Parts {
        let limits = Arc::clone(&setup.limits);
        let numbers = Numbers::new(&setup);
        let (hasher, totals) = (&numbers.hasher, Arc::<Totals>::default());
        Parts {
            clock: Clock::new(),
            connections: Connections::new(hasher, Arc::clone(&totals)),
            sessions: Sessions::new(hasher, totals),
            router: Routes::new(setup.id, setup.shards, setup.keys, route_limits(&limits)),
            retained: Retained::new(retained_limits(&limits), hasher.clone()),
            hooks: Hooks::new(setup.id, limits.tickets_max, hasher.clone()),
            out: Outbox::new(setup.shards),
            counters: Counters::default(),
            encoder: Encoder::default(),
            work: Work::new(setup.shards, limits.turn_budget_deliveries, hasher),
            memory: Memory::default(),
            numbers,
            setup: Fixed(setup),
        }
    }
}

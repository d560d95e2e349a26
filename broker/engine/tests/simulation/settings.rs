//! The settings of a world: its number of shards, small limits, plugins, and the habits of its
//! clients. They depend on the seed alone, so that a run is a seed and a list of operations.

use grapnel_engine::limits::Limits;

use crate::random::Random;

/// The settings of one world.
pub struct Settings {
    pub seed: u64,
    pub shards: usize,
    pub limits: Limits,
    pub no_match_allow: bool,
    /// Plugins that are loaded from the beginning, as bits.
    pub plugins: u8,
    /// Whether rules of client.authorize are in force.
    pub rules: bool,
    /// Whether the retained store is so small that publishes are refused.
    pub retained_small: bool,
    /// Weights of the groups of operations.
    pub weights: Weights,
}

/// Frequencies of the groups of operations.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub connections: u64,
    pub publishes: u64,
    pub subscriptions: u64,
    pub sockets: u64,
    pub breaks: u64,
    pub time: u64,
    pub lanes: u64,
    pub plugins: u64,
    pub rules: u64,
    /// Percentage of publishes that are retained.
    pub retained_percent: u64,
    /// Percentage of sockets with a small Maximum Packet Size or Receive Maximum.
    pub small_clients_percent: u64,
}

pub fn settings(seed: u64) -> Settings {
    let mut random = Random::new(seed.wrapping_mul(31).wrapping_add(7));
    let shards = random.pick(&[1, 1, 2, 2, 3, 4, 8]);
    let with_plugins = random.chance(50);
    let rules = with_plugins && random.chance(50);
    let mut limits = base_limits();
    let small = random.chance(60);
    if small {
        small_limits(&mut limits, &mut random);
    }
    let retained_small = random.chance(15);
    if retained_small {
        limits.retained_messages_max = random.below(4);
    }
    let mut on = |percent: u64, weight: u64| if random.chance(percent) { weight } else { 0 };
    let weights = Weights {
        connections: 6 + on(40, 14),
        publishes: 30 + on(40, 20),
        subscriptions: 8 + on(30, 10),
        sockets: 4 + on(60, 10),
        breaks: on(30, 1),
        time: 2 + on(30, 4),
        lanes: if shards > 1 { 2 + on(40, 5) } else { 0 },
        plugins: if with_plugins { 8 + on(40, 15) } else { 0 },
        rules: if rules { 2 } else { 0 },
        retained_percent: 5 + on(40, 40),
        small_clients_percent: on(60, 25),
    };
    Settings {
        seed,
        shards,
        limits,
        no_match_allow: true,
        plugins: if with_plugins { 1 + random.below(7) as u8 } else { 0 },
        rules,
        retained_small,
        weights,
    }
}

impl Settings {
    /// Describes the unusual settings of the world.
    pub fn text(&self) -> String {
        let base = base_limits();
        let mut text = format!("{} shards, plugins {:03b}, rules {}", self.shards, self.plugins, self.rules);
        for setting in Limits::SETTINGS {
            let value = self.limits.value(setting.name);
            if value != base.value(setting.name) {
                text += &format!(", {} {}", setting.name, value.unwrap_or(0));
            }
        }
        text
    }
}

/// Short times, so that they end within a run.
fn base_limits() -> Limits {
    Limits {
        session_expiry_max_s: 600,
        session_expiry_v3_s: 300,
        will_delay_max_s: 120,
        connect_timeout_ms: 10_000,
        defer_deadline_ms: 2000,
        packet_bytes_max: 4096,
        // The queue for a socket keeps to its limit also while the socket accepts bytes.
        outbound_burst_bytes_max: 0,
        ..Limits::default()
    }
}

fn small_limits(limits: &mut Limits, random: &mut Random) {
    let mut maybe = |limit: &mut u64, values: &[u64]| {
        if random.chance(50) {
            *limit = random.pick(values);
        }
    };
    maybe(&mut limits.topic_levels_max, &[8]);
    maybe(&mut limits.session_queue_messages_max, &[2, 5, 20]);
    maybe(&mut limits.session_queue_bytes_max, &[1024, 4096]);
    maybe(&mut limits.inflight_max, &[1, 2, 5]);
    maybe(&mut limits.receive_max, &[1, 2, 5]);
    maybe(&mut limits.awaiting_rel_max, &[1, 3]);
    maybe(&mut limits.outbound_bytes_max, &[4096]);
    maybe(&mut limits.slots_max, &[1, 3, 8]);
    maybe(&mut limits.slot_bytes_max, &[1024]);
    maybe(&mut limits.tickets_max, &[1, 4]);
    maybe(&mut limits.defer_window, &[1, 3]);
    maybe(&mut limits.breaker_faults_max, &[1, 5, 0]);
    maybe(&mut limits.topic_alias_max, &[0, 1, 3]);
    maybe(&mut limits.retained_page_messages_max, &[1, 2, 5]);
    maybe(&mut limits.lane_envelopes_max, &[64]);
    maybe(&mut limits.lane_reserve_envelopes_max, &[0, 10]);
    maybe(&mut limits.subscribe_barrier_ms, &[100, 1000]);
    maybe(&mut limits.topic_cache_entries_max, &[16]);
    maybe(&mut limits.idle_filters_max, &[1, 4]);
    maybe(&mut limits.turn_budget_deliveries, &[64]);
    maybe(&mut limits.subscriptions_max, &[3]);
    maybe(&mut limits.deliver_verdicts_max, &[0, 2]);
    maybe(&mut limits.connects_pending_max, &[1, 4]);
    maybe(&mut limits.connects_pending_per_address_max, &[1, 2]);
    maybe(&mut limits.connections_max, &[6]);
    maybe(&mut limits.behalf_requests_max, &[1, 4]);
    maybe(&mut limits.behalf_client_requests_max, &[1, 3]);
    maybe(&mut limits.behalf_pages_max, &[1, 3]);
    maybe(&mut limits.behalf_client_pages_max, &[1, 2]);
    maybe(&mut limits.behalf_page_messages_max, &[1, 3]);
    maybe(&mut limits.behalf_page_bytes_max, &[1024]);
    maybe(&mut limits.behalf_client_bytes_max, &[1024]);
    maybe(&mut limits.behalf_bytes_max, &[65_536]);
    if random.chance(5) {
        limits.session_expiry_max_s = 0;
    }
}

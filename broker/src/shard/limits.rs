//! The limits of the shell, in the form of the engine's limits: what one shard reads, accepts and
//! stores per turn, and what plugins may use. Both lists are in the table `[limits]` of the
//! configuration. Limits that nobody needs to change are constants beside the code that they limit.

grapnel_engine::bounds! {
    /// The bounds of one shard's sockets and lanes. See [`ShellLimits::SETTINGS`] for ranges and reasons.
    ShellLimits:
    listen_backlog_max = 4096, 1..=65535, "connections per shard that wait to be accepted on a listener; the kernel caps it at net.core.somaxconn";
    accept_burst_max = 64, 1..=65536, "connections accepted before the connected ones get a turn";
    accept_pause_ms = 100, 1..=60000, "time that no connection is accepted after the process has run out of file descriptors";
    descriptors_free_min = 192, 0..=1000000, "file descriptors that clients leave free for grapnel-ctl, plugins and the log; the default is enough for control.connections_max on both sockets, and 64 more";
    start_retry_ms = 2000, 0..=60000, "time that the state folder, a listener's address or the control socket may be in use before the broker refuses to start; a process that has just ended may still hold it";
    read_scratch_bytes_max = 65536, 4096..=4194304, "bytes read from a socket at once; one buffer per shard, not per connection";
    read_turn_bytes_max = 262144, 4096..=1073741824, "bytes read from one connection before the others get a turn";
    write_stall_timeout_ms = 30000, 100..=3600000, "time in which a full socket must take write_stall_bytes_min; otherwise its client counts as gone";
    write_stall_bytes_min = 32768, 1..=1073741824, "bytes that the client's end must take in that time, again and again until all is sent; the default is about one byte per millisecond, which the slowest links reach";
    closing_bytes_max = 67108864, 0..=17179869184, "last bytes per shard for connections that are being closed; beyond it a connection is closed without them";
    linger_ms = 2000, 0..=600000, "time that the last bytes of a closed connection may take, and the client to close its end";
    linger_read_bytes_max = 262144, 0..=1073741824, "bytes that a client may still send into a connection that the broker has closed, so that the client can read the reason";
    lane_batches_max = 64, 2..=65536, "batches of up to 64 envelopes on the way to one other shard; beyond it publishers wait";
    lane_transit_bytes_max = 8388608, 65536..=4294967296, "bytes of these batches";
    turn_envelopes_max = 1024, 64..=1000000, "envelopes taken from other shards before a shard's own connections get a turn";
    turn_jobs_max = 64, 1..=65536, "requests of the control API and the plugin loader that run before connections get a turn";
    turn_completions_max = 1024, 1..=1000000, "deferred verdicts taken before connections get a turn";
    turn_plugin_commands_max = 1024, 1..=1000000, "commands of plugins that run before connections get a turn";
    plugin_commands_max = 65536, 64..=16777216, "commands of plugins that wait for one shard; beyond it they are refused";
    plugin_commands_bytes_max = 67108864, 65536..=17179869184, "bytes of these commands, mostly messages; beyond it they are refused, except one that waits alone";
    plugin_publishes_per_second_max = 100000, 1..=1000000000, "messages that one plugin may publish in a second, those that hooks add not counted; stops loops through a plugin's own thread";
    plugin_mail_bytes_max = 1048576, 64..=1073741824, "bytes of one message between a plugin's instances";
    plugin_timers_max = 100000, 1..=16777216, "armed timers of all plugins on one shard";
    plugin_answer_timeout_ms = 5000, 10..=600000, "time that all shards together may take for one step of loading, reloading or unloading a plugin; after it nothing changes";
    state_bytes_max = 16777216, 0..=4294967296, "bytes of state that a plugin's instance on one shard may hand to its next version in one step; the shard runs nothing else during it. This bounds the whole state if the plugin does not hand it over in pieces";
    state_piece_bytes_max = 65536, 1024..=16777216, "bytes of a piece of state that a plugin hands over in a reload; the shard runs nothing else during one piece";
    state_handover_timeout_ms = 45000, 10..=3600000, "time that the pieces of a plugin's state may take in a reload, on all shards together; after it the old version goes on";
    plugins_retired_max = 4096, 0..=1000000, "generations of unloaded and reloaded plugins whose code stays mapped; beyond it no plugin is loaded until the next start";
    plugin_metrics_max = 256, 0..=65536, "metrics that all versions of one plugin may make";
    plugin_threads_max = 512, 0..=4096, "threads that run at a time for one plugin; a pool of threads that block on a directory or a database needs some hundred";
    plugin_thread_join_ms = 2000, 0..=600000, "time that a plugin's threads have to end at an unload; those that do not end are named in the log and go on";
    plugin_retire_ms_max = 600000, 0..=7200000, "longest time that a plugin's threads may request to finish their work in the background, after an unload or at a stop of the broker";
    plugin_verb_timeout_ms = 10000, 10..=3600000, "time that a call of a plugin's verb may take if the plugin sets none; after it grapnel-ctl stops waiting";
    plugin_verbs_max = 4, 1..=64, "calls of one plugin's verbs that run at a time, with those whose caller has stopped waiting; beyond it no call is started";
    plugin_verb_bytes_max = 1048576, 256..=33554432, "bytes of one answer of a plugin's verb; a longer one is refused";
    plugin_hooks_max = 256, 0..=4096, "hooks that one plugin may have mounted at run time";
    breaker_rearm_ms = 0, 0..=86400000, "time after which a tripped plugin is called again by itself; 0 waits for grapnel-ctl plugins rearm";
    slow_call_ms = 5, 0..=600000, "a call of a plugin that took longer than this is named in the log, at most once a second and shard; 0 names none";
    stall_warning_ms = 200, 10..=600000, "time that one step may block a shard before the log names the shard and what it calls";
}

impl ShellLimits {
    /// Limits that are read only when something is made at the start: buffers, lanes, sockets, the
    /// watchdog, the plugin loader. The others can change while the broker runs.
    pub const AT_START: [&str; 16] = [
        "listen_backlog_max",
        "descriptors_free_min",
        "read_scratch_bytes_max",
        "read_turn_bytes_max",
        "lane_batches_max",
        "lane_transit_bytes_max",
        "plugin_answer_timeout_ms",
        "state_bytes_max",
        "state_piece_bytes_max",
        "state_handover_timeout_ms",
        "plugins_retired_max",
        "plugin_verb_timeout_ms",
        "plugin_verbs_max",
        "plugin_verb_bytes_max",
        "slow_call_ms",
        "stall_warning_ms",
    ];
}

#[cfg(test)]
mod tests {
    use super::ShellLimits;

    #[test]
    fn every_default_is_within_its_own_range_and_named_once() {
        let mut limits = ShellLimits::default();
        for setting in ShellLimits::SETTINGS {
            let value = limits.value(setting.name).expect("a listed setting has a value");
            assert_eq!(limits.set(setting.name, value), Ok(()), "{}", setting.name);
            let engine = grapnel_engine::limits::Limits::SETTINGS;
            assert!(
                engine.iter().all(|other| other.name != setting.name),
                "{} is the engine's too",
                setting.name
            );
            let units = ["_max", "_min", "_ms"];
            assert!(units.iter().any(|unit| setting.name.ends_with(unit)), "{}", setting.name);
        }
    }
}

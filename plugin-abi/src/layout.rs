//! The ABI as data: every table with its fields, and one hash over them and over every number. A plugin carries the hash it
//! was built with, and the loader compares it; a change that the layout check of abi_stable cannot see, such as a renumbered
//! field, is caught by it.

use crate::module::{ErrorText, Manifest, Mount, PluginModule};
use crate::point::HookPoint;
use crate::raw::{
    Action, Change, Disposition, Event, Field, Flow, HostApi, LogLevel, MetricKind, NewMessage, NewMetric,
    NewThread, Pair, Policy, Scope, Slice, StateSink, Status, Value, Verdict,
};

/// One field of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name.
    pub name: &'static str,
    /// Bytes from the beginning of the table.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

/// One table of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLayout {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub size: usize,
    /// Its fields, in order.
    pub fields: &'static [FieldLayout],
}

const fn size_of_field<T, F>(_access: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! tables {
    ($($table:ident { $($field:ident),* $(,)? })*) => {
        /// Every table of the ABI.
        pub const TABLES: &[TableLayout] = &[$(TableLayout {
            name: stringify!($table),
            size: size_of::<$table>(),
            fields: &[$(FieldLayout {
                name: stringify!($field),
                offset: std::mem::offset_of!($table, $field),
                size: size_of_field::<$table, _>(|table| &table.$field),
            }),*],
        }),*];

        // A field that is missing above does not compile.
        const _: fn() = || { $(let _ = |table: $table| { let $table { $($field: _),* } = table; };)* };
    };
}

tables! {
    Slice { ptr, len }
    Event {
        size, point, proto_ver, qos, flags, shard, action, reason_code, reserved, reserved2, wall_ms, client_id, username,
        topic, payload, ctx, args,
    }
    Value { number, bytes, key }
    Change { field, index, number, bytes, key }
    Pair { key, value }
    NewMessage {
        size, qos, retain, payload_format, reserved, message_expiry_s, reserved2, topic, payload, content_type,
        response_topic, correlation_data, from, user_properties, user_properties_len,
    }
    NewMetric { size, kind, name, help, bounds, bounds_len }
    NewThread { size, reserved, name, run, arg }
    StateSink { ctx, write }
    HostApi {
        size, abi_major, abi_minor, plugin, shards, reserved, log, get, set, defer, complete, add_message, hook, unhook,
        publish, kick, subscribe, unsubscribe, invalidate, mail, timer, cancel_timer, spawn, wait_stop, metric, measure,
        adjust, replay,
    }
    ErrorText { ptr, capacity, len }
    Manifest {
        size, reserved, name, version, description, sdk, flags, reserved2, config_schema, depends, depends_len,
    }
    Mount {
        size, point, reserved, priority, deadline_ms, hook, name, flags, policy, topics, topics_len, args,
    }
    PluginModule {
        size, abi_major, abi_minor, abi_hash, manifest, mount, check_config, load, init_shard, drop_shard, activate,
        deactivate, unload, on_timer, on_mail, export_state, import_state, configure, configured,
    }
}

/// FNV-1a over the names, offsets and sizes of [`TABLES`] and over all numbers: fields, flows, statuses and hook points.
pub const ABI_HASH: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut table = 0;
    while table < TABLES.len() {
        hash = number(text(hash, TABLES[table].name), TABLES[table].size as u64);
        let mut field = 0;
        while field < TABLES[table].fields.len() {
            let layout = &TABLES[table].fields[field];
            hash = number(number(text(hash, layout.name), layout.offset as u64), layout.size as u64);
            field += 1;
        }
        table += 1;
    }
    hash = numbers(numbers(numbers(hash, Field::NAMES), Flow::NAMES), Status::NAMES);
    hash = numbers(numbers(hash, Scope::NAMES), MetricKind::NAMES);
    hash = numbers(numbers(hash, Verdict::NAMES), Disposition::NAMES);
    hash = numbers(numbers(numbers(hash, Action::NAMES), LogLevel::NAMES), Policy::NAMES);
    let mut point = 0;
    while point < HookPoint::ALL.len() {
        hash = number(text(hash, HookPoint::ALL[point].name()), HookPoint::ALL[point] as u64);
        point += 1;
    }
    hash
};

const fn text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    // An end mark, so that two texts cannot trade letters.
    (hash ^ 0xff).wrapping_mul(0x0100_0000_01b3)
}

const fn number(mut hash: u64, number: u64) -> u64 {
    let mut shift = 0;
    while shift < 64 {
        hash = (hash ^ ((number >> shift) & 0xff)).wrapping_mul(0x0100_0000_01b3);
        shift += 8;
    }
    hash
}

const fn numbers(mut hash: u64, names: &[(&str, u32)]) -> u64 {
    let mut at = 0;
    while at < names.len() {
        hash = number(text(hash, names[at].0), names[at].1 as u64);
        at += 1;
    }
    hash
}

//! The ABI as data: every table with its fields, the additions of each minor version, and for each
//! minor version one hash over fields and numbers. A plugin contains the hash of the version that
//! it was built with. The loader compares it with its own hash of that version; fields that were
//! added later do not change that hash.

mod signature;

use crate::module::{ErrorText, Manifest, Mount, PluginModule};
use crate::point::HookPoint;
use crate::raw::{ABI_MAJOR, ABI_MINOR};
use crate::raw::{
    Action, Change, Disposition, Event, ExportStep, Field, Flow, HostApi, LogLevel, MetricKind, NewMessage,
    NewMetric, NewThread, OnBehalf, Pair, Policy, Scope, Slice, StateSink, Status, Ticket, Value, Verdict,
};
use signature::{AbiType, SEED, named};

/// One field of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name.
    pub name: &'static str,
    /// Offset from the beginning of the table, bytes.
    pub offset: usize,
    /// Size, bytes.
    pub size: usize,
    /// A number for its type.
    pub signature: u64,
}

/// One table of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLayout {
    /// Its name.
    pub name: &'static str,
    /// Size, bytes.
    pub size: usize,
    /// Its fields, in order.
    pub fields: &'static [FieldLayout],
}

/// A field or number that a minor version added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The first minor version with it.
    pub minor: u16,
    /// A table of [`TABLES`], or an enumeration: `Field`, `Status`, `HookPoint` and so on.
    pub to: &'static str,
    /// Name of the field or number.
    pub name: &'static str,
}

/// All additions since 1.0. Everything else has existed since 1.0.
pub const ADDITIONS: &[Addition] = &[
    #[cfg(feature = "abi-test-grown")]
    Addition { minor: 1, to: "Event", name: "grown" },
    #[cfg(feature = "abi-test-grown")]
    Addition { minor: 1, to: "HostApi", name: "grown" },
    #[cfg(feature = "abi-test-grown")]
    Addition { minor: 1, to: "PluginModule", name: "grown" },
];

/// The first minor version with a field or number.
const fn since(to: &str, name: &str) -> u16 {
    let mut at = 0;
    while at < ADDITIONS.len() {
        if same(ADDITIONS[at].to, to) && same(ADDITIONS[at].name, name) {
            return ADDITIONS[at].minor;
        }
        at += 1;
    }
    0
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A field's bytes and signature.
const fn of_field<T, F: AbiType>(_access: fn(&T) -> &F) -> (usize, u64) {
    (size_of::<F>(), F::SIGNATURE)
}

macro_rules! tables {
    ($($table:ident { $($(#[$meta:meta])* $field:ident),* $(,)? })*) => {
        /// Every table of the ABI.
        pub const TABLES: &[TableLayout] = &[$(TableLayout {
            name: stringify!($table),
            size: size_of::<$table>(),
            fields: &[$($(#[$meta])* {
                let (size, signature) = of_field::<$table, _>(|table| &table.$field);
                FieldLayout {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($table, $field),
                    size,
                    signature,
                }
            }),*],
        }),*];

        named! { $($table),* }

        // A field that is missing in `tables!` is a compile error.
        const _: fn() = || {
            $(let _ = |table: $table| { let $table { $($(#[$meta])* $field: _),* } = table; };)*
        };
    };
}

tables! {
    Slice { ptr, len }
    Event {
        size, point, proto_ver, qos, flags, shard, action, reason_code, reserved, reserved2, wall_ms, client_id, username,
        topic, payload, ctx, args, #[cfg(feature = "abi-test-grown")] grown,
    }
    Value { number, bytes, key }
    Change { field, index, number, bytes, key }
    Pair { key, value }
    NewMessage {
        size, qos, retain, payload_format, store_only, message_expiry_s, flow, topic, payload, content_type,
        response_topic, correlation_data, from, user_properties, user_properties_len, flags, reserved,
    }
    OnBehalf { size, flags, identity, client_id, number }
    NewMetric { size, kind, name, help, bounds, bounds_len }
    NewThread { size, reserved, name, run, arg, join_ms }
    StateSink { ctx, write }
    HostApi {
        size, abi_major, abi_minor, plugin, shards, flags, log, get, set, defer, complete, add_message, hook, unhook,
        publish, kick, subscribe, unsubscribe, invalidate, instance_message, timer, cancel_timer, spawn, wait_stop, metric, measure,
        adjust, replay, file, in_flight, identity, publish_as, subscribe_as, unsubscribe_as, authorize_as, fetch_as,
        reading, hook_calls,
        #[cfg(feature = "abi-test-grown")] grown,
    }
    ErrorText { ptr, capacity, len }
    Manifest {
        size, reserved, name, version, description, sdk, flags, reserved2, config_schema, depends, depends_len,
        verbs,
    }
    Mount {
        size, point, reserved, priority, deadline_ms, hook, name, flags, policy, topics, topics_len, args,
    }
    PluginModule {
        size, abi_major, abi_minor, abi_hash, manifest, mount, check_config, load, init_shard, drop_shard, activate,
        deactivate, unload, on_timer, on_instance_message, export_state, import_state, configure, configured,
        export_piece, import_piece, verb,
        #[cfg(feature = "abi-test-grown")] grown,
    }
}

named! { Action, Disposition, ExportStep, Field, Flow, LogLevel, MetricKind, Policy, Scope, Status, Ticket, Verdict }

/// The hash of this version: plugins that are built now contain it.
pub const ABI_HASH: u64 = hash_of(ABI_MINOR);

/// The hash of a minor version: FNV-1a over the names, offsets, sizes and types of the fields of
/// [`TABLES`] and over all numbers, without later additions.
pub const fn hash_of(minor: u16) -> u64 {
    let mut hash = SEED;
    let mut table = 0;
    while table < TABLES.len() {
        let TableLayout { name, fields, .. } = TABLES[table];
        hash = text(hash, name);
        let mut field = 0;
        while field < fields.len() {
            let FieldLayout { name: field_name, offset, size, signature } = fields[field];
            if since(name, field_name) <= minor {
                hash = number(number(text(hash, field_name), offset as u64), size as u64);
                hash = number(hash, signature);
            }
            field += 1;
        }
        table += 1;
    }
    let mut list = 0;
    while list < NUMBERS.len() {
        let (name, numbers) = NUMBERS[list];
        hash = text(hash, name);
        let mut at = 0;
        while at < numbers.len() {
            let (number_name, value) = numbers[at];
            if since(name, number_name) <= minor {
                hash = number(text(hash, number_name), value as u64);
            }
            at += 1;
        }
        list += 1;
    }
    let mut point = 0;
    while point < HookPoint::ALL.len() {
        if since("HookPoint", HookPoint::ALL[point].name()) <= minor {
            hash = number(text(hash, HookPoint::ALL[point].name()), HookPoint::ALL[point] as u64);
        }
        point += 1;
    }
    hash
}

/// All enumerations with names, except the hook points.
pub const NUMBERS: &[(&str, &[(&str, u32)])] = &[
    ("Field", Field::NAMES),
    ("Flow", Flow::NAMES),
    ("Status", Status::NAMES),
    ("Scope", Scope::NAMES),
    ("MetricKind", MetricKind::NAMES),
    ("Verdict", Verdict::NAMES),
    ("Disposition", Disposition::NAMES),
    ("Action", Action::NAMES),
    ("LogLevel", LogLevel::NAMES),
    ("Policy", Policy::NAMES),
    ("ExportStep", ExportStep::NAMES),
];

/// Size of a table in a minor version, bytes: up to the end of its last field at that time.
pub const fn size_in(table: &str, minor: u16) -> usize {
    let mut size = 0;
    let mut at = 0;
    while at < TABLES.len() {
        if same(TABLES[at].name, table) {
            let fields = TABLES[at].fields;
            let mut field = 0;
            while field < fields.len() {
                if since(table, fields[field].name) <= minor {
                    size = fields[field].offset + fields[field].size;
                }
                field += 1;
            }
        }
        at += 1;
    }
    size
}

/// Why a plugin's tables are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It was built for a version that this broker does not know.
    Version,
    /// It claims a version that this broker knows, but has other tables. The hash is the broker's
    /// for that version.
    Hash(u64),
}

/// Whether a plugin with this version and hash uses only a part of our tables.
///
/// # Errors
/// [`Mismatch`].
pub const fn check(major: u16, minor: u16, hash: u64) -> Result<(), Mismatch> {
    if major != ABI_MAJOR || minor > ABI_MINOR {
        return Err(Mismatch::Version);
    }
    let ours = hash_of(minor);
    if hash == ours { Ok(()) } else { Err(Mismatch::Hash(ours)) }
}

const fn text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    // A terminator, so that two adjacent texts cannot exchange characters.
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

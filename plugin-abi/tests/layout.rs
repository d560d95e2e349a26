//! The ABI byte by byte on 64-bit machines: sizes, offsets and numbers as they were first written down. A change here is a change
//! of the ABI.

use grapnel_plugin_abi::layout::TABLES;
use grapnel_plugin_abi::point::{HookPoint, POINTS};
use grapnel_plugin_abi::raw::{
    Action, Disposition, Field, Flow, LogLevel, MetricKind, Policy, Scope, Status, Verdict,
};

fn table(name: &str) -> (usize, Vec<(&'static str, usize, usize)>) {
    let table = TABLES.iter().find(|table| table.name == name).expect("a table of the ABI");
    (table.size, table.fields.iter().map(|field| (field.name, field.offset, field.size)).collect())
}

#[test]
#[cfg(target_pointer_width = "64")]
fn what_a_hook_gets_lies_where_it_always_lay() {
    let (size, fields) = table("Event");
    assert_eq!(size, 112);
    assert_eq!(
        fields,
        [
            ("size", 0, 4),
            ("point", 4, 2),
            ("proto_ver", 6, 1),
            ("qos", 7, 1),
            ("flags", 8, 4),
            ("shard", 12, 4),
            ("action", 16, 1),
            ("reason_code", 17, 1),
            ("reserved", 18, 2),
            ("reserved2", 20, 4),
            ("wall_ms", 24, 8),
            ("client_id", 32, 16),
            ("username", 48, 16),
            ("topic", 64, 16),
            ("payload", 80, 16),
            ("ctx", 96, 8),
            ("args", 104, 8),
        ]
    );
    assert_eq!(table("Slice"), (16, vec![("ptr", 0, 8), ("len", 8, 8)]));
    assert_eq!(table("Value"), (40, vec![("number", 0, 8), ("bytes", 8, 16), ("key", 24, 16)]));
    let change = vec![("field", 0, 4), ("index", 4, 4), ("number", 8, 8), ("bytes", 16, 16), ("key", 32, 16)];
    assert_eq!(table("Change"), (48, change));
}

#[test]
#[cfg(target_pointer_width = "64")]
fn what_broker_and_plugin_call_lies_where_it_always_lay() {
    let (size, fields) = table("HostApi");
    assert_eq!(size, 200);
    assert_eq!(fields[6], ("log", 24, 8));
    assert_eq!(fields[10], ("complete", 56, 8));
    let (size, fields) = table("PluginModule");
    assert_eq!(size, 136);
    let offsets: Vec<_> = fields.iter().map(|field| (field.0, field.1)).collect();
    assert_eq!(
        offsets,
        [
            ("size", 0),
            ("abi_major", 4),
            ("abi_minor", 6),
            ("abi_hash", 8),
            ("manifest", 16),
            ("mount", 24),
            ("check_config", 32),
            ("load", 40),
            ("init_shard", 48),
            ("drop_shard", 56),
            ("activate", 64),
            ("deactivate", 72),
            ("unload", 80),
            ("on_timer", 88),
            ("on_mail", 96),
            ("export_state", 104),
            ("import_state", 112),
            ("configure", 120),
            ("configured", 128),
        ]
    );
    assert_eq!(table("Manifest").0, 112);
    assert_eq!(table("Mount").0, 72);
    assert_eq!(table("ErrorText").0, 24);
}

#[test]
fn every_table_begins_with_its_size_if_it_may_grow() {
    for name in ["Event", "HostApi", "Manifest", "Mount", "PluginModule"] {
        assert_eq!(table(name).1[0], ("size", 0, 4), "{name}");
    }
}

#[test]
fn no_number_is_given_twice() {
    let others = [Scope::NAMES, MetricKind::NAMES, Verdict::NAMES, Disposition::NAMES, Action::NAMES];
    let levels = [LogLevel::NAMES, Policy::NAMES];
    for names in [Field::NAMES, Flow::NAMES, Status::NAMES].into_iter().chain(others).chain(levels) {
        for (at, (name, number)) in names.iter().enumerate() {
            let twin = names[..at].iter().find(|(_, other)| other == number);
            assert_eq!(twin, None, "{name} has the number of another");
        }
    }
    for (number, point) in HookPoint::ALL.iter().enumerate() {
        assert_eq!(*point as usize, number, "chains are indexed by the number of the point");
        assert_eq!(HookPoint::from_name(point.name()), Some(*point));
        assert_eq!(HookPoint::from_number(number as u16), Some(*point));
    }
    assert_eq!(HookPoint::from_number(POINTS as u16), None);
}

#[test]
fn a_field_fits_the_mask_of_what_a_hook_has_changed() {
    assert!(Field::NAMES.iter().all(|(_, number)| *number < 128));
}

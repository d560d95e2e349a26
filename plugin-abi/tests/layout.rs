//! Tests of the ABI byte by byte on 64-bit machines: the original sizes, offsets and numbers. A
//! change here is a change of the ABI.

use std::fmt::Write;
use std::path::Path;

use grapnel_plugin_abi::layout::{ADDITIONS, Mismatch, NUMBERS, TABLES, check, hash_of, size_in};
use grapnel_plugin_abi::point::{HookPoint, POINTS};
use grapnel_plugin_abi::raw::{ABI_MAJOR, ABI_MINOR, Field};

fn table(name: &str) -> (usize, Vec<(&'static str, usize, usize)>) {
    let table = TABLES.iter().find(|table| table.name == name).expect("a table of the ABI");
    (table.size, table.fields.iter().map(|field| (field.name, field.offset, field.size)).collect())
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_layout_of_events_is_unchanged() {
    let (_, fields) = table("Event");
    assert_eq!(size_in("Event", 0), 112);
    assert_eq!(
        fields[..17],
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
fn the_layout_of_the_function_tables_is_unchanged() {
    let (_, fields) = table("HostApi");
    assert_eq!(size_in("HostApi", 0), 288);
    assert_eq!(fields[6], ("log", 24, 8));
    assert_eq!(fields[10], ("complete", 56, 8));
    let (_, fields) = table("PluginModule");
    assert_eq!(size_in("PluginModule", 0), 160);
    let offsets: Vec<_> = fields[..22].iter().map(|field| (field.0, field.1)).collect();
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
            ("on_instance_message", 96),
            ("export_state", 104),
            ("import_state", 112),
            ("configure", 120),
            ("configured", 128),
            ("export_piece", 136),
            ("import_piece", 144),
            ("verb", 152),
        ]
    );
    assert_eq!(table("Manifest").0, 128);
    assert_eq!(table("Mount").0, 72);
    assert_eq!(table("ErrorText").0, 24);
}

const MAY_GROW: [&str; 9] = [
    "Event",
    "HostApi",
    "Manifest",
    "Mount",
    "NewMessage",
    "NewMetric",
    "NewThread",
    "OnBehalf",
    "PluginModule",
];

#[test]
fn every_table_begins_with_its_size_if_it_may_grow() {
    for name in MAY_GROW {
        assert_eq!(table(name).1[0], ("size", 0, 4), "{name}");
    }
}

/// A new field must be beyond the size in the previous version, and not in its padding.
#[test]
fn no_table_that_may_grow_ends_in_padding() {
    for name in MAY_GROW {
        let (size, fields) = table(name);
        let last = fields.iter().map(|(_, offset, size)| offset + size).max();
        assert_eq!(last, Some(size), "{name}");
    }
}

#[test]
fn no_number_of_the_abi_is_used_twice() {
    for (_, names) in NUMBERS {
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

/// Every table and number of 1.0, a line for each field.
fn written_down() -> String {
    let was_there =
        |to: &str, name: &str| !ADDITIONS.iter().any(|added| (added.to, added.name) == (to, name));
    let mut text = "The plugin ABI 1.0 byte by byte: tables with field, offset, size and signature of the type, and numbers.\n"
        .to_owned();
    for table in TABLES {
        let _ = writeln!(text, "\n{}: {} bytes", table.name, size_in(table.name, 0));
        for field in table.fields.iter().filter(|field| was_there(table.name, field.name)) {
            let _ =
                writeln!(text, "  {} {} {} {:016x}", field.name, field.offset, field.size, field.signature);
        }
    }
    let points: Vec<_> = HookPoint::ALL.iter().map(|point| (point.name(), *point as u32)).collect();
    for (name, numbers) in NUMBERS.iter().copied().chain([("HookPoint", points.as_slice())]) {
        let _ = writeln!(text, "\n{name}");
        for (number_name, number) in numbers.iter().filter(|(number_name, _)| was_there(name, number_name)) {
            let _ = writeln!(text, "  {number_name} {number}");
        }
    }
    text
}

fn committed(name: &str, written: impl Fn(&str) -> String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let written = written(&text);
    if std::env::var_os("GRAPNEL_WRITE_ABI").is_some() {
        std::fs::write(&file, &written).expect("the file can be written");
        return;
    }
    let at = written.lines().zip(text.lines()).position(|(new, old)| new != old).map(|at| at + 1);
    assert!(
        written == text,
        "{name} is not what the source says (line {at:?}). If the ABI was to change, and this version is not released: just abi"
    );
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_abi_is_the_one_that_was_written_down() {
    committed("abi-1.0.txt", |_| written_down());
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_document_has_the_hash() {
    committed("ABI.md", |text| {
        let row = format!("| 1.0 | `0x{:016x}` |", hash_of(0));
        let lines = text.lines().map(|line| if line.starts_with("| 1.0 |") { row.as_str() } else { line });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    });
}

#[test]
fn a_plugin_of_this_version_or_an_earlier_one_is_accepted_by_its_hash() {
    for minor in 0..=ABI_MINOR {
        assert_eq!(check(ABI_MAJOR, minor, hash_of(minor)), Ok(()));
        assert_eq!(check(ABI_MAJOR, minor, !hash_of(minor)), Err(Mismatch::Hash(hash_of(minor))));
        assert_eq!(check(ABI_MAJOR + 1, minor, hash_of(minor)), Err(Mismatch::Version));
    }
    assert_eq!(check(ABI_MAJOR, ABI_MINOR + 1, hash_of(ABI_MINOR)), Err(Mismatch::Version));
    let hashes: std::collections::BTreeSet<_> = (0..=ABI_MINOR).map(hash_of).collect();
    assert_eq!(hashes.len(), usize::from(ABI_MINOR) + 1, "what was added is in the hash");
}

#[test]
fn every_addition_stands_after_the_earlier_fields() {
    for added in ADDITIONS {
        assert!(added.minor != 0 && check(ABI_MAJOR, added.minor, 0) != Err(Mismatch::Version), "{added:?}");
        if let Some(table) = TABLES.iter().find(|table| table.name == added.to) {
            let at = table.fields.iter().position(|field| field.name == added.name).expect("it is a field");
            assert!(table.fields[at].offset >= size_in(added.to, added.minor - 1), "{added:?}");
            continue;
        }
        let named = NUMBERS.iter().find(|(name, _)| *name == added.to);
        assert!(
            named.is_some_and(|(_, numbers)| numbers.iter().any(|(name, _)| *name == added.name))
                || (added.to == "HookPoint" && HookPoint::from_name(added.name).is_some()),
            "{added:?}"
        );
    }
}

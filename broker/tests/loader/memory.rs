//! Tests of the memory that reloads leave: none if the file has not changed; for another file, only
//! the pages that the linker has written.

use std::path::Path;

use serde_json::json;

use crate::shards::{Fixture, plugin_file, request};

/// One mapping of a private copy.
#[derive(Debug)]
struct Mapping {
    writable: bool,
    rss_kib: u64,
    anonymous_kib: u64,
}

/// Mappings of the files of a folder, as the kernel lists them.
fn mapped_from(dir: &Path) -> Vec<Mapping> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut ours = false;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word: &&str| word.parse().ok()).unwrap_or(0);
        if words.first().is_some_and(|first| first.contains('-') && !first.ends_with(':')) {
            ours = words.get(5).is_some_and(|file| Path::new(file).starts_with(dir));
            let writable = words[1].contains('w');
            if ours {
                mappings.push(Mapping { writable, rss_kib: 0, anonymous_kib: 0 });
            }
        } else if let (true, Some(last)) = (ours, mappings.last_mut()) {
            match words[0] {
                "Rss:" => last.rss_kib = number(1),
                "Anonymous:" => last.anonymous_kib = number(1),
                _ => {}
            }
        }
    }
    mappings
}

#[test]
fn a_file_that_has_not_changed_is_not_mapped_again() {
    let broker = Fixture::new(2);
    broker.load("noop", json!({})).unwrap();
    broker.load("stateful", json!({"step": 1})).unwrap();
    let before = mapped_from(broker.dir.path()).len();
    assert!(before > 0, "the private copies are in the folder");
    for step in 2..22 {
        // A failed reload maps nothing either.
        broker.manager.reload("stateful", Some(json!({"fail_activate": true}))).unwrap_err();
        broker.manager.reload("stateful", Some(json!({"step": step}))).unwrap();
    }
    assert_eq!(mapped_from(broker.dir.path()).len(), before);
    assert!(broker.manager.list().retired.is_empty(), "{:?}", broker.manager.list().retired);
    assert_eq!(broker.manager.show("stateful").unwrap().generation, 41);
    // Its mapping is retired with its last load.
    broker.manager.unload("stateful").unwrap();
    let retired = broker.manager.list().retired;
    assert_eq!(
        retired.iter().map(|gone| (gone.name.as_str(), gone.generation)).collect::<Vec<_>>(),
        [("stateful", 41)]
    );
}

#[test]
fn plugins_with_statics_or_another_name_are_mapped_again() {
    let broker = Fixture::with(1, |settings| settings.retired_max = 1);
    broker.load("noop", json!({})).unwrap();
    let before = mapped_from(broker.dir.path()).len();
    let other = grapnel::plugin::LoadRequest { name: Some("other".to_owned()), ..request("noop", json!({})) };
    let other = grapnel::plugin::LoadRequest { source: plugin_file("noop").display().to_string(), ..other };
    broker.manager.load(other).unwrap();
    assert_eq!(mapped_from(broker.dir.path()).len(), 2 * before);

    // The plugin c-entry sets IN_PLACE = false.
    broker.load("c-entry", json!({})).unwrap();
    broker.manager.reload("c-entry", None).unwrap();
    assert_eq!(broker.manager.list().retired.len(), 1);
    let refused = broker.manager.reload("c-entry", None).unwrap_err().to_string();
    assert!(refused.contains("plugins_retired_max"), "{refused}");
    assert_eq!(broker.manager.reload("noop", None).unwrap().generation, 2, "which maps nothing");
}

/// Each reload of a changed file keeps the plugin's variables. It frees the memory that cannot be
/// written: pages as in the file, and those that only the linker has written.
#[test]
fn retired_code_keeps_its_writable_pages() {
    let broker = Fixture::new(1);
    let file = broker.dir.path().join("changing.so");
    let code = std::fs::read(plugin_file("noop")).unwrap();
    let text = b"A hook that does nothing, to load and to measure";
    let at = code.windows(text.len()).position(|window| window == text).unwrap();
    let write = |version: u8| {
        let mut code = code.clone();
        code[at] = b'A' + version;
        std::fs::write(&file, code).unwrap();
    };
    write(0);
    let load = grapnel::plugin::LoadRequest {
        name: Some("noop".to_owned()),
        ..request(&file.display().to_string(), json!({}))
    };
    broker.manager.load(load).unwrap();
    let one = mapped_from(broker.dir.path());
    let reloads = 5;
    for version in 1..=reloads {
        write(version);
        let info = broker.manager.reload("noop", None).unwrap();
        assert!(info.description.starts_with(char::from(b'A' + version)), "{}", info.description);
    }
    assert_eq!(broker.manager.list().retired.len(), usize::from(reloads));
    let all = mapped_from(broker.dir.path());
    let written = |mappings: &[Mapping]| mappings.iter().map(|mapping| mapping.anonymous_kib).sum::<u64>();
    let clean = |mappings: &[Mapping]| {
        mappings.iter().map(|mapping| mapping.rss_kib - mapping.anonymous_kib).sum::<u64>()
    };
    let variables =
        one.iter().filter(|mapping| mapping.writable).map(|mapping| mapping.anonymous_kib).sum::<u64>();
    assert!(variables > 0 && written(&one) > 2 * variables, "the linker has written the rest: {one:?}");
    assert_eq!(written(&all), written(&one) + u64::from(reloads) * variables, "{all:?}");
    assert!(clean(&all) <= clean(&one) + u64::from(reloads) * 32, "{all:?}");
}

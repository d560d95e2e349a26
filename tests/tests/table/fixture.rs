//! A broker with copies of the plugin of a language, and the file in which they record their calls.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use grapnel_tests::plugin::{self, Compiled};
use grapnel_tests::{Broker, Client, PATIENCE, Version};
use tempfile::TempDir;

use crate::action::{Counts, Language};
use crate::points::{Policy, all};

/// Configuration of each copy with its place: the file, and the scripts of the broker's own points.
pub fn plugins(library: &str, copies: usize, record: &Path, scripts: &str, hooks: &str) -> String {
    let each = (0..copies).map(|place| {
        format!(
            "[plugins.table-{place}]\npath = {library:?}\n{hooks}\
             [plugins.table-{place}.config]\nplace = {place}\nrecord = {record:?}\nscripts = {scripts:?}\n"
        )
    });
    each.collect()
}

/// The plugin of a language, built.
pub enum Library {
    Rust(String),
    C(Compiled),
}

impl Library {
    pub fn of(language: Language) -> Library {
        match language {
            Language::Rust => Library::Rust(plugin::argument(&plugin::library("table")).to_owned()),
            Language::C => Library::C(Compiled::of("testing/c-table")),
        }
    }

    pub fn path(&self) -> &str {
        match self {
            Library::Rust(path) => path,
            Library::C(compiled) => compiled.path(),
        }
    }
}

/// One line of the record: the plugin's place, the point, and what it saw there.
pub type Call = (usize, String, String);

/// The record, up to the last read.
pub struct Record {
    file: File,
    rest: Vec<u8>,
    calls: HashMap<usize, Vec<Call>>,
}

impl Record {
    pub fn open(path: &Path) -> Record {
        let file = File::options().read(true).append(true).create(true).open(path);
        Record { file: file.expect("the folder is ours"), rest: Vec::new(), calls: HashMap::new() }
    }

    /// All calls of a case that have been written by now.
    pub fn of(&mut self, case: usize) -> Vec<Call> {
        self.file.read_to_end(&mut self.rest).expect("a file can be read");
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8(self.rest.drain(..=end).collect()).expect("the plugins write text");
            let words: Vec<&str> = line.trim_end().splitn(4, ' ').collect();
            let number = |at: usize| words[at].parse().unwrap_or_else(|_| panic!("{line:?} in the record"));
            let call = (number(1), words[2].to_owned(), words[3].to_owned());
            self.calls.entry(number(0)).or_default().push(call);
        }
        self.calls.get(&case).cloned().unwrap_or_default()
    }
}

/// A broker, its plugins, and their record.
pub struct Fixture {
    broker: Broker,
    record: Mutex<Record>,
    _library: Library,
    _folder: TempDir,
}

impl Fixture {
    /// Starts it. `policy` computes the operator's fault policy from the design's, for every hook.
    pub fn open(language: Language, copies: usize, policy: Option<fn(Policy) -> Policy>) -> Fixture {
        let library = Library::of(language);
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let path = folder.path().join("record");
        let record = Mutex::new(Record::open(&path));
        let hooks = policy.map(|policy| overrides(language, policy)).unwrap_or_default();
        let config = plugins(library.path(), copies, &path, "", &hooks);
        // Every second case is a fault, and none must trip the plugin.
        let config = format!("{config}[limits]\nbreaker_faults_max = 0\n");
        let broker = Broker::builder().grapnel_only().config(&config).start();
        assert_mounted(&broker, copies);
        // Plugin panics are logged as such; any other panic ends the process.
        broker.may_end_badly();
        Fixture { broker, record, _library: library, _folder: folder }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The clients of one player.
    pub fn clients(&self, player: usize) -> Clients<'_> {
        let mut waiting: Vec<usize> = (0..self.broker.shards()).collect();
        let mut clients = Vec::new();
        for number in 0.. {
            let id = format!("desk-{player}-{number}");
            let client = Client::hello(&self.broker, Version::V5, &id);
            let home = self.broker.ctl_json(&["clients", "show", &id])["shard"].as_u64();
            let home = home.expect("every client has a home shard") as usize;
            if let Some(place) = waiting.iter().position(|shard| *shard == home) {
                waiting.swap_remove(place);
                clients.push(client);
            }
            if waiting.is_empty() {
                break;
            }
        }
        Clients { fixture: self, clients }
    }

    /// Calls of a case that the plugins have recorded so far.
    pub fn written(&self, case: usize) -> Vec<Call> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).of(case)
    }

    /// Checks that the broker has counted what the cases expect: point, place of the copy that
    /// acts, and its counters.
    pub fn assert_counted(&self, cases: impl Iterator<Item = (&'static str, usize, Counts)>) {
        let mut due: BTreeMap<(String, String), Counts> = BTreeMap::new();
        for (point, place, counts) in cases {
            *due.entry((point.to_owned(), format!("table-{place}"))).or_default() += counts;
        }
        for row in self.broker.ctl_json(&["hooks", "list"])["rows"].as_array().expect("a list") {
            let text = |key: &str| row[key].as_str().expect("a text").to_owned();
            let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"));
            let counted =
                Counts { stops: number("stops"), deferrals: number("deferrals"), faults: number("faults") };
            let hook = (text("point"), text("plugin"));
            assert_eq!(counted, due.get(&hook).copied().unwrap_or_default(), "{hook:?}");
        }
    }

    /// Ends the broker, which must end cleanly.
    pub fn close(mut self) {
        self.broker.process().signal(rustix::process::Signal::TERM);
        let status = self.broker.wait();
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.broker.process().log());
    }
}

/// A client on each shard: when both have been answered, every earlier step has ended.
pub struct Clients<'a> {
    fixture: &'a Fixture,
    clients: Vec<Client>,
}

impl Clients<'_> {
    /// The plugins that were called at the point of a case, once there are so many or more and
    /// nothing is under way.
    pub fn calls_of(&mut self, case: usize, point: &str, count: usize) -> Vec<(usize, String)> {
        let deadline = Instant::now() + PATIENCE / 4;
        let calls = || -> Vec<(usize, String)> {
            // Calls of client.connected for cases of other points are excluded.
            let written = self.fixture.written(case).into_iter().filter(|call| call.1 == point);
            written.map(|(place, _, saw)| (place, saw)).collect()
        };
        loop {
            let enough = calls().len() >= count || Instant::now() >= deadline;
            for client in &mut self.clients {
                client.ping();
            }
            if enough {
                return calls();
            }
        }
    }
}

/// Checks that every copy has a hook at every point, in the order of the copies.
fn assert_mounted(broker: &Broker, copies: usize) {
    let list = broker.ctl_json(&["hooks", "list"]);
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let rows = list["rows"].as_array().expect("a list").iter();
    let mounted: Vec<(String, String)> = rows.map(|row| (text(row, "point"), text(row, "plugin"))).collect();
    for point in all() {
        let at_point =
            mounted.iter().filter(|(name, _)| name == point.name).map(|(_, plugin)| plugin.clone());
        let due: Vec<String> = (0..copies).map(|place| format!("table-{place}")).collect();
        assert_eq!(at_point.collect::<Vec<_>>(), due, "{}", point.name);
    }
    assert_eq!(mounted.len(), all().count() * copies);
}

/// The overrides of every hook of a copy.
fn overrides(language: Language, policy: fn(Policy) -> Policy) -> String {
    let each = all().map(|point| {
        let (_, event) = point.name.split_once('.').expect("a name has two parts");
        let hook = if language == Language::Rust { event } else { "play" };
        let word = if policy(point.policy) == Policy::Deny { "deny" } else { "ignore" };
        format!("hooks.\"{}/{hook}\".fault_policy = \"{word}\"\n", point.name)
    });
    each.collect()
}

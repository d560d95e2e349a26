//! Tests against Mosquitto 2.0.11 (each case was tried with its clients) and against a slow and
//! simple implementation of the manual.
#![allow(clippy::unwrap_used)]

use grapnel_plugin_abi::topic::matches;
use proptest::prelude::*;

use super::*;

const NOBODY: Client<'_> = Client { id: "c1", username: None };

fn named(name: &str) -> Client<'_> {
    Client { id: "c1", username: Some(name) }
}

fn acl(text: &str) -> Acl {
    Acl::parse(text).unwrap()
}

fn allowed(answer: Answer) -> bool {
    answer == Answer::Allow
}

/// Each row was tried with `mosquitto_pub -V 5 -q 1`, which reports whether the publish was denied.
#[test]
fn publishes_are_decided_as_by_mosquitto() {
    let ann = named("ann");
    for (text, client, topic, expected) in [
        ("user ann\ntopic write a/#\npattern deny a/secret\n", ann, "a/secret", true),
        ("user ann\ntopic deny a/secret\npattern write a/#\n", ann, "a/secret", false),
        ("user ann\ntopic deny a/secret\npattern write a/#\n", ann, "a/x", true),
        ("user ann\ntopic deny a/secret\npattern write a/#\n", named("bob"), "a/secret", true),
        ("topic write g\nuser ann\ntopic write a\n", ann, "g", false),
        ("topic write g\nuser ann\ntopic write a\n", NOBODY, "g", true),
        ("topic write g\nuser ann\ntopic write a\n", ann, "a", true),
        ("topic write g\nuser ann\ntopic write a\n", named("bob"), "g", false),
        ("pattern write d/%c/x\n", NOBODY, "d/c1/x", true),
        ("pattern write d/%c/x\n", NOBODY, "d/c2/x", false),
        ("pattern write dev-%c/x\n", NOBODY, "dev-c1/x", true),
        ("pattern write u/%u-%c\n", ann, "u/ann-c1", true),
        ("pattern write p/%c/%u/%c\n", ann, "p/c1/ann/c1", true),
        ("pattern write p/%u\n", NOBODY, "p/%u", false),
        ("topic write a b\n", NOBODY, "a b", true),
        ("  topic   write   a b  \n", NOBODY, "a b", true),
        ("topic read\n", NOBODY, "read", true),
        ("topic read a\n", NOBODY, "a", false),
        ("user ann lee \ntopic x\nuser bob\ntopic y\nuser ann lee\ntopic z\n", named("ann lee"), "x", true),
        ("user ann lee \ntopic x\nuser bob\ntopic y\nuser ann lee\ntopic z\n", named("ann lee"), "z", true),
        ("user ann lee \ntopic x\nuser bob\ntopic y\n", named("bob"), "x", false),
        ("topic deny a/b\ntopic write a/#\ntopic write a/b\n", NOBODY, "a/b", false),
        ("topic write a/#\ntopic deny a/b\n", NOBODY, "a/b", false),
        ("topic deny a/b\ntopic write a/#\n", NOBODY, "a/c", true),
        ("topic write #\n", NOBODY, "$x/y", false),
        ("topic write $x/#\n", NOBODY, "$x/y", true),
        ("pattern write #\n", NOBODY, "$x/y", false),
        ("pattern write #\n", named("a#b"), "x/y", false),
        ("user ann\ntopic write t\npattern write p/%c\n", named("an+n"), "t", false),
        ("user ann\ntopic write t\npattern write p/%c\n", Client { id: "c#", ..ann }, "t", true),
        ("user ann\ntopic write t\npattern write p/%c\n", Client { id: "c#", ..ann }, "p/x", false),
        ("user ann\ntopic write t\npattern write p/%c\n", ann, "p/c1", true),
        ("topic write a/%c\n", NOBODY, "a/%c", true),
        ("topic write a/%c\n", NOBODY, "a/c1", false),
        ("", NOBODY, "a", false),
        ("# only\n", NOBODY, "a", false),
    ] {
        assert_eq!(
            allowed(acl(text).may(Access::WRITE, client, topic)),
            expected,
            "{text:?} {client:?} {topic}"
        );
    }
}

/// Cases that are stricter than in Mosquitto: an identifier with `/` or a leading `$`, if patterns
/// use it.
#[test]
fn patterns_grant_nothing_to_identifiers_with_wildcards_or_slashes() {
    let file = acl("topic write own\npattern write d/%c/#\npattern write free\n");
    for id in ["a/b", "$SYS"] {
        let client = Client { id, username: None };
        assert_eq!(file.may(Access::WRITE, client, &format!("d/{id}/x")), Answer::Deny, "{id}");
        assert_eq!(file.may(Access::WRITE, client, "free"), Answer::Deny, "{id}");
        assert_eq!(file.may_read_all(client, "free"), Answer::Deny, "{id}");
        assert_eq!(file.may(Access::WRITE, client, "own"), Answer::Allow, "{id}");
    }
    let by_name = acl("pattern write d/%u/#\n");
    assert_eq!(
        by_name.may(Access::WRITE, Client { id: "a/b", username: Some("ann") }, "d/ann/x"),
        Answer::Allow
    );
}

#[test]
fn lines_that_mosquitto_refuses_are_refused_with_their_number() {
    for (line, reason) in [
        (
            "topic a b",
            "unknown access \"a\": expected read, write, readwrite or deny; a filter with spaces needs one of them",
        ),
        (
            "topic\twrite a",
            "unknown word \"topic\\twrite\": expected user, topic or pattern, with spaces behind it",
        ),
        (" # c", "unknown word \"#\": expected user, topic or pattern, with spaces behind it"),
        ("user", "no user name after 'user'"),
        ("topic write a#", "topic filter \"a#\": '#' must be the last level, alone"),
        ("topic", "no topic filter"),
        ("bogus x", "unknown word \"bogus\": expected user, topic or pattern, with spaces behind it"),
    ] {
        let error = Acl::parse(&format!("# first\r\n\r\ntopic a\n{line}\n")).unwrap_err();
        assert_eq!(error, LineError { line: 4, reason: reason.into() });
    }
    let deep = format!("topic {}", "a/".repeat(200));
    assert!(Acl::parse(&deep).unwrap_err().reason.contains("more than 200 levels"));
}

#[test]
fn a_check_costs_no_allocation() {
    let file = acl("topic read pub/#\nuser ann\ntopic a/+/b\ntopic deny a/x/b\npattern write by/%u-%c/+\n");
    let allocated = allocation_counter::measure(|| {
        for topic in ["a/1/b", "a/x/b", "by/ann-c1/7", "by/bob-c1/7", "elsewhere"] {
            for client in [named("ann"), named("bob"), NOBODY] {
                file.may(Access::WRITE, client, topic);
            }
        }
    });
    assert_eq!(allocated.count_total, 0);
}

#[test]
fn a_pattern_for_all_users_gives_a_warning() {
    let file = acl("pattern read a/b\npattern read a/%c\n");
    assert_eq!(file.warnings(), ["pattern \"a/b\" has neither %c nor %u: it holds for every client"]);
    assert_eq!(file.len(), 2);
}

#[test]
fn a_subscription_needs_every_name_it_matches() {
    use Answer::{Allow, Deny, NoMatch};
    let ann = named("ann");
    for (text, filter, expected) in [
        ("user ann\ntopic read a/#\n", "a/#", Allow),
        ("user ann\ntopic read a/#\n", "a/b/+", Allow),
        ("user ann\ntopic read a/#\n", "#", Deny),
        ("user ann\ntopic read a/#\n", "b/#", NoMatch),
        ("user ann\ntopic read a/+\n", "a/#", Deny),
        ("user ann\ntopic read a\ntopic read a/+\n", "a/#", Deny),
        ("user ann\ntopic read a/+\n", "a/+", Allow),
        ("user ann\ntopic read a\ntopic read a/+/#\n", "a/#", Allow),
        ("user ann\ntopic read a\ntopic read a/+\ntopic a/+/+/#\n", "a/#", Allow),
        ("user ann\ntopic read a/#\ntopic deny a/secret\n", "a/#", Deny),
        ("user ann\ntopic read a/#\ntopic deny a/secret\n", "a/+", Deny),
        ("user ann\ntopic read a/#\ntopic deny a/secret\n", "a/open", Allow),
        ("user ann\ntopic read a/#\ntopic deny a/+/x\n", "a/+/y", Allow),
        ("user ann\ntopic write a/#\n", "a/b", NoMatch),
        ("user ann\ntopic read #\n", "#", Allow),
        ("user ann\ntopic read #\n", "$SYS/#", NoMatch),
        ("user ann\ntopic read +/#\n", "#", Allow),
        ("user ann\ntopic read $SYS/#\n", "$SYS/broker/+", Allow),
        ("user ann\ntopic read #\ntopic deny $SYS/#\n", "#", Allow),
        ("user ann\ntopic read +/+/#\n", "/#", Allow),
        ("user ann\ntopic read #\ntopic deny /#\n", "+", Allow),
        ("user ann\ntopic read #\ntopic deny /#\n", "+/a", Deny),
        ("pattern read %u/#\n", "ann/x/#", Allow),
        ("pattern read %u/#\n", "bob/x/#", NoMatch),
        ("pattern read a/#\npattern deny a/%c\n", "a/+", Deny),
        ("pattern read a/#\npattern deny a/%c\n", "a/c2", Allow),
        ("user ann\ntopic read a/c1\npattern read a/#\npattern deny a/%c\n", "a/+", Allow),
        ("user ann\ntopic deny a/x\npattern read a/#\n", "a/+", Deny),
    ] {
        assert_eq!(acl(text).may_read_all(ann, filter), expected, "{text:?} {filter}");
    }
}

type Lines = Vec<(bool, &'static str, String)>;

/// The patterns with the client's names inserted. Those that use a name that the client does not
/// have are omitted.
fn substituted(lines: &Lines, client: Client<'_>) -> Lines {
    let mut lines = lines.clone();
    lines.retain(|(is_pattern, _, filter)| {
        !(*is_pattern && filter.contains("%u") && client.username.is_none())
    });
    for (_, _, filter) in lines.iter_mut().filter(|(is_pattern, _, _)| *is_pattern) {
        *filter = filter.replace("%c", client.id).replace("%u", client.username.unwrap_or_default());
    }
    lines
}

/// The manual, implemented simply: one name against one line after the other.
fn plain(substituted: &Lines, access: &str, topic: &str) -> bool {
    for patterns in [false, true] {
        let has_line = |wanted: &[&str]| {
            substituted.iter().any(|(is_pattern, access, filter)| {
                *is_pattern == patterns && wanted.contains(access) && matches(filter, topic)
            })
        };
        if has_line(&["deny"]) {
            return false;
        }
        if has_line(&[access, "readwrite"]) {
            return true;
        }
    }
    false
}

fn names(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let level = prop::sample::select(words);
    prop::collection::vec(level, 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("no name is empty", |name| !name.is_empty())
}

fn filters(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let open = |name| format!("{name}/#");
    prop_oneof![8 => names(words), 6 => names(words).prop_map(open), 1 => Just("#".into()), 1 => Just("/#".into())]
}

fn files() -> impl Strategy<Value = Lines> {
    let access = prop::sample::select(&["read", "write", "readwrite", "deny", "read", "readwrite"][..]);
    let line = (any::<bool>(), access, filters(&["a", "b", "+", "%c", "$", "", "+", "x%u"]));
    prop::collection::vec(line, 0..6)
}

fn text(lines: &Lines) -> String {
    let line = |(pattern, access, filter): &(bool, &str, String)| {
        format!("{} {access} {filter}\n", if *pattern { "pattern" } else { "topic" })
    };
    lines.iter().map(line).collect()
}

/// Every name of up to four levels, one more than the lines have, with all words of the lines and
/// one that no line contains.
fn every_name() -> Vec<String> {
    let words = ["a", "b", "$", "", "xann", "%c", "x%u", "fresh"];
    let mut names: Vec<String> = Vec::new();
    let mut longest: Vec<String> = words.map(String::from).to_vec();
    for _ in 0..3 {
        let longer = longest.iter().flat_map(|name| words.map(|word| format!("{name}/{word}"))).collect();
        names.append(&mut std::mem::replace(&mut longest, longer));
    }
    names.append(&mut longest);
    names.retain(|name| !name.is_empty());
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The client has no user name. With a user name, the file's `topic` lines would not apply;
    /// both cases are tried.
    #[test]
    fn the_trie_decides_as_the_lines_one_by_one(lines in files(), topic in names(&["a", "b", "$", "", "xann", "%c"])) {
        let text = text(&lines);
        let ann = Client { id: "a", username: Some("ann") };
        let nobody = Client { id: "a", username: None };
        for (client, text) in [(ann, format!("user ann\n{text}")), (nobody, text)] {
            let expected = plain(&substituted(&lines, client), "write", &topic);
            prop_assert_eq!(allowed(acl(&text).may(Access::WRITE, client, &topic)), expected, "{:?}", client);
        }
    }

    /// Allowed if and only if every name that the filter matches may be read.
    #[test]
    fn a_filter_is_allowed_if_every_matching_name_is(lines in files(), filter in filters(&["a", "b", "+", "$", "", "xann"])) {
        let client = Client { id: "a", username: Some("ann") };
        let substituted = substituted(&lines, client);
        let expected = every_name()
            .iter()
            .filter(|name| matches(&filter, name))
            .all(|name| plain(&substituted, "read", name));
        let file = acl(&format!("user ann\n{}", text(&lines)));
        prop_assert_eq!(allowed(file.may_read_all(client, &filter)), expected);
    }
}

#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn form(arguments: serde_json::Value) -> Result<Form, String> {
    let list = json!([{"name": "drivers stats", "help": "what", "arguments": arguments}]);
    Form::list(&list.to_string()).map(|mut forms| forms.remove(0))
}

fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn arguments_are_checked_by_type_and_passed_in_declared_order() {
    let form = form(json!([
        {"name": "who", "positional": true, "required": true, "max": 3},
        {"name": "times", "type": "integer", "min": 1, "max": 5, "default": "2"},
        {"name": "for", "type": "duration", "max": 60_000, "extends_deadline": true},
        {"name": "mode", "type": "one_of", "one_of": ["fast", "safe"]},
        {"name": "tag", "repeated": true},
        {"name": "force", "type": "flag"},
    ]))
    .unwrap();
    let checked = |pairs: &[(&str, &str)]| form.arguments(&given(pairs)).map_err(|Wrong(error)| error);
    assert_eq!(checked(&[("who", "ann")]), Ok(given(&[("who", "ann"), ("times", "2")])));
    let all = [
        ("tag", "b"),
        ("force", "true"),
        ("for", "1.5s"),
        ("mode", "safe"),
        ("tag", "a"),
        ("who", "x"),
        ("times", "5"),
    ];
    let ordered = [
        ("who", "x"),
        ("times", "5"),
        ("for", "1500"),
        ("mode", "safe"),
        ("tag", "b"),
        ("tag", "a"),
        ("force", "1"),
    ];
    assert_eq!(checked(&all), Ok(given(&ordered)));
    assert_eq!(form.deadline_ms(&given(&ordered), 10_000), 11_500);
    let many = given(&[("for", "3000000"), ("for", "3000000"), ("for", "9223372036854775807")]);
    assert_eq!(form.deadline_ms(&many, 10_000), 3_610_000);
    assert_eq!(checked(&[("who", "x"), ("force", "false")]), Ok(given(&[("who", "x"), ("times", "2")])));
    for (pairs, expected) in [
        (&[][..], "the argument who is missing: "),
        (&[("who", "anna")], "who: it has 4 bytes, and may have 0 to 3"),
        (&[("who", "a\0")], "who: it has a zero byte"),
        (&[("who", "x"), ("who", "y")], "the argument who is given more than once"),
        (&[("who", "x"), ("times", "0")], "times: 0 is out of range; it may be 1 to 5"),
        (&[("who", "x"), ("times", "6")], "times: 6 is out of range; it may be 1 to 5"),
        (&[("who", "x"), ("times", "x")], "times: \"x\" is no whole number; it may be 1 to 5"),
        (
            &[("who", "x"), ("times", "9223372036854775808")],
            "times: \"9223372036854775808\" is no whole number",
        ),
        (&[("who", "x"), ("for", "61s")], "for: 61s is out of range; it may be 1m or less"),
        (&[("who", "x"), ("for", "soon")], "for: \"soon\" is no span of time"),
        (&[("who", "x"), ("mode", "slow")], "mode: \"slow\" is none of fast, safe"),
        (&[("who", "x"), ("force", "yes")], "force: \"yes\" is neither true nor false"),
        (&[("who", "x"), ("tme", "1")], "drivers stats has no argument tme; did you mean times?"),
        (&[("who", "x"), ("quality", "1")], "drivers stats has no argument quality"),
    ] {
        let error = checked(pairs).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let many: Vec<_> = (0..=VALUES_MAX).map(|_| ("tag", "a")).chain([("who", "x")]).collect();
    assert_eq!(checked(&many).unwrap_err(), "the argument tag is given more than 1024 times");
    assert!(checked(&many[1..]).is_ok());
}

#[test]
fn there_is_no_prompt_for_a_secret_with_the_flag_that_replaces_it() {
    let form = form(json!([
        {"name": "password", "type": "secret", "required": true, "unless": "delete"},
        {"name": "delete", "type": "flag"},
        {"name": "self", "type": "plugin"},
    ]))
    .unwrap();
    let checked = |pairs: &[(&str, &str)]| form.arguments(&given(pairs)).map_err(|Wrong(error)| error);
    assert_eq!(checked(&[("delete", "true")]), Ok(given(&[("delete", "1")])));
    assert_eq!(checked(&[("password", "p"), ("delete", "false")]), Ok(given(&[("password", "p")])));
    assert!(checked(&[]).unwrap_err().starts_with("the argument password is missing"));
    let both = checked(&[("password", "p"), ("delete", "true")]).unwrap_err();
    assert_eq!(both, "the argument password cannot stand beside delete");
    assert_eq!(
        checked(&[("password", "p"), ("self", "{}")]).unwrap_err(),
        "drivers stats has no argument self"
    );
}

#[test]
fn an_invalid_declaration_is_refused_with_its_position() {
    for (argument, expected) in [
        (json!({"name": "Force"}), "has the argument Force, which is no name"),
        (json!({"name": "json"}), "is no name"),
        (json!({"name": "key-stdin"}), "is no name"),
        (json!({"name": "a", "type": "flag", "required": true}), "is a flag"),
        (json!({"name": "a", "type": "secret", "positional": true}), "can be neither positional"),
        (json!({"name": "a", "type": "integer", "min": 2, "max": 1}), "has a least value above its most"),
        (json!({"name": "a", "type": "integer", "default": "x"}), "has a default that cannot be"),
        (json!({"name": "a", "required": true, "default": "x"}), "is required and has a default"),
        (json!({"name": "a", "type": "one_of"}), "must name what it is one of"),
        (json!({"name": "a", "one_of": ["x"]}), "must name what it is one of"),
        (json!({"name": "a", "extends_deadline": true}), "is no duration"),
        (json!({"name": "a", "prompt": "?"}), "is no secret"),
        (json!({"name": "a", "unless": "b"}), "names in unless what is no other flag"),
        (json!({"name": "a", "type": "flag", "unless": "a"}), "names in unless what is no other flag"),
        (json!({"name": "a", "sort": 1}), "unknown field `sort`"),
        (json!({"name": "a", "type": "colour"}), "which is of a type that this version does not know"),
        (json!({"name": "a", "type": "path", "default": "x"}), "has a default that is no absolute path"),
        (json!({"name": "a", "help": "two\nlines"}), "has a help with a control character"),
        (json!({"name": "a", "help": "x".repeat(LINE_BYTES_MAX + 1)}), "has a help of 1025 bytes"),
        (json!({"name": "a", "default": "\u{1b}"}), "has a default with a control character"),
        (json!({"name": "a", "default": "x".repeat(LINE_BYTES_MAX + 1)}), "has a default of 1025 bytes"),
        (json!({"name": "a", "type": "secret", "prompt": "?\r"}), "has a prompt with a control character"),
        (
            json!({"name": "a", "type": "one_of", "one_of": ["\u{7}"]}),
            "has a choice with a control character",
        ),
        (
            json!({"name": "a", "type": "one_of", "one_of": vec!["x"; 257]}),
            "is one of 257 texts; at most 256",
        ),
    ] {
        let error = form(json!([argument.clone()])).unwrap_err();
        assert!(error.contains(expected), "{argument}: {error}");
    }
    let twice = form(json!([{"name": "a"}, {"name": "a"}])).unwrap_err();
    assert!(twice.ends_with("has two arguments a"), "{twice}");
    let open =
        json!([{"name": "a", "positional": true}, {"name": "b", "positional": true, "required": true}]);
    assert!(form(open).unwrap_err().ends_with("has the argument b behind one that may take its place"));
    let many: Vec<_> = (0..=ARGUMENTS_MAX).map(|at| json!({"name": format!("a{at}")})).collect();
    assert!(form(json!(many)).unwrap_err().ends_with("has more than 32 arguments"));
    assert!(form(json!(many[1..])).is_ok());
    for names in [
        &["Drivers"][..],
        &["a  b"],
        &[""],
        &["a b c d e"],
        &["help"],
        &["a", "a"],
        &["a", "a b"],
        &["a b", "a"],
    ] {
        let list: Vec<_> = names.iter().map(|name| json!({"name": name, "help": ""})).collect();
        assert!(Form::list(&json!(list).to_string()).is_err(), "{names:?}");
    }
    let list = |count: usize| {
        let list: Vec<_> = (0..count).map(|at| json!({"name": format!("v{at}"), "help": ""})).collect();
        Form::list(&json!(list).to_string()).map(|list| list.len())
    };
    assert_eq!(list(VERBS_MAX), Ok(VERBS_MAX));
    assert_eq!(list(VERBS_MAX + 1), Err("are 65; at most 64 can be".to_owned()));
    assert!(Form::list("{").unwrap_err().starts_with("are not declared as they must be"));
    assert_eq!(Form::list(""), Ok(Vec::new()));
}

#[test]
fn the_list_of_an_argument_comes_from_a_verb_without_required_arguments() {
    let list = |listed_in: &str| {
        let about = json!({"name": "about", "type": "plugin", "required": true});
        let list = json!([
            {"name": "disable", "help": "", "changes": true, "arguments": [{"name": "driver", "listed_in": listed_in}]},
            {"name": "drivers list", "help": "", "arguments": [about, {"name": "all", "type": "flag"}]},
            {"name": "drivers of", "help": "", "arguments": [{"name": "whom", "required": true}]},
            {"name": "drivers stop", "help": "", "changes": true},
        ]);
        Form::list(&list.to_string())
    };
    assert!(list("drivers list/driver").is_ok());
    for listed_in in [
        "drivers list",
        "drivers list/",
        "",
        "/driver",
        "none/driver",
        "drivers of/driver",
        "drivers stop/driver",
    ] {
        let error = list(listed_in).unwrap_err();
        let expected =
            "have \"disable\" with the argument driver, which names in listed_in what is no VERB/FIELD";
        assert!(error.starts_with(expected), "{listed_in}: {error}");
    }
}

#[test]
fn unknown_fields_are_refused_in_a_manifest_and_ignored_from_a_newer_broker() {
    let argument = Argument {
        kind: Kind::OneOf,
        positional: true,
        required: true,
        repeated: true,
        min: Some(1),
        max: Some(2),
        extends_deadline: true,
        twice: true,
        ..Argument::named("a", "what").defaults_to("x").one_of(["x"]).prompt("?").listed_in("v/f").unless("b")
    };
    let full = Form {
        name: "v".to_owned(),
        help: "what".to_owned(),
        changes: true,
        local: true,
        deadline_ms: 1,
        arguments: vec![argument],
    };
    // Each field stands in its list, or a manifest could not have it.
    let json = serde_json::to_value(&full).unwrap();
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |fields: &[&str]| {
        let mut fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        fields.sort();
        fields
    };
    assert_eq!(keys(&json), sorted(&FORM_FIELDS));
    assert_eq!(keys(&json["arguments"][0]), sorted(&ARGUMENT_FIELDS));
    let newer = json!({"name": "v", "help": "", "sort": 1, "arguments": [{"name": "a", "colour": "red"}]});
    let read: Form = serde_json::from_value(newer.clone()).unwrap();
    assert_eq!((read.name.as_str(), read.arguments[0].name.as_str()), ("v", "a"));
    let error = Form::list(&json!([newer]).to_string()).unwrap_err();
    assert_eq!(error, "are not declared as they must be: unknown field `sort`");
    assert!(serde_json::from_value::<Column>(json!({"title": "A", "width": 3})).is_ok());
    let long = json!([{"name": "v", "help": "a\nb"}]).to_string();
    assert_eq!(
        Form::list(&long).unwrap_err(),
        "have \"v\", which has a help with a control character or more than one line"
    );
}

#[test]
fn a_path_for_a_broker_must_be_absolute() {
    let path = Argument { kind: Kind::Path, ..Argument::named("file", "") };
    assert_eq!(path.fits_broker("/a/b"), Ok(()));
    for wrong in ["a", "./a", ""] {
        assert_eq!(path.fits_broker(wrong), Err(format!("{wrong:?} is no absolute path")));
    }
    assert_eq!(Argument::named("text", "").fits_broker("a"), Ok(()));
}

#[test]
fn a_value_may_have_a_limited_number_of_levels() {
    let read = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        Answer::read(format!("{{\"value\": {open}{close}}}").as_bytes())
    };
    assert!(read(100).is_ok());
    let expected = "has a value of more than 100 lists and objects within each other";
    assert_eq!(read(101).unwrap_err(), expected);
}

#[test]
fn rows_are_printed_as_a_table_with_a_column_for_each_field() {
    #[derive(Serialize)]
    struct Row {
        worker: &'static str,
        calls_made: u64,
        p50_us: Option<u64>,
        up: bool,
    }
    let rows = [
        Row { worker: "b", calls_made: 7, p50_us: None, up: true },
        Row { worker: "a", calls_made: 12, p50_us: Some(3), up: false },
    ];
    let answer = Answer::rows(&rows).unwrap();
    let columns: Vec<_> = answer.columns.iter().map(|column| (column.title.as_str(), column.right)).collect();
    assert_eq!(columns, [("WORKER", false), ("CALLS MADE", true), ("P50 US", true), ("UP", false)]);
    assert_eq!(answer.rows, [["b", "7", "-", "yes"], ["a", "12", "3", "no"]]);
    assert_eq!(
        answer.value,
        Some(json!([
            {"worker": "b", "calls_made": 7, "p50_us": null, "up": true},
            {"worker": "a", "calls_made": 12, "p50_us": 3, "up": false},
        ]))
    );
    assert_eq!(Answer::read(&serde_json::to_vec(&answer).unwrap()), Ok(answer));
    assert!(Answer::rows(&[1, 2]).is_err());
}

#[test]
fn an_answer_is_text_unless_it_declares_another_form() {
    assert_eq!(Answer::read(b"two\nlines"), Ok(Answer::text("two\nlines")));
    assert_eq!(Answer::read(b""), Ok(Answer::text("")));
    for (bytes, expected) in [
        (&b"\xff"[..], "is not UTF-8"),
        (b"{", "is not what an answer looks like"),
        (br#"{"tabel": 1}"#, "unknown field `tabel`"),
        (
            br#"{"columns": [{"title": "A"}], "rows": [["1"], ["1", "2"]]}"#,
            "has 2 cells in row 2 of a table with 1 columns",
        ),
        (br#"{"rows": [["1"]]}"#, "has 1 cells in row 1 of a table with 0 columns"),
        (br#"{"exit_code": 126}"#, "has the exit code 126; at most 125 can be"),
        (br#"{"exit_code": 256}"#, "is not what an answer looks like"),
        (br#"{"then": [{"do": "reboot"}]}"#, "unknown variant `reboot`"),
    ] {
        let error = Answer::read(bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let then = Answer::read(
        br#"{"then": [{"do": "unmount", "hooks": ["a/b"]}, {"do": "enable"}], "exit_code": 125}"#,
    )
    .unwrap();
    assert_eq!(then.then, [Then::Unmount { hooks: vec!["a/b".to_owned()], force: false }, Then::Enable]);
}

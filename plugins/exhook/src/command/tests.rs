//! How commands are decoded.

#![allow(clippy::unwrap_used)]
use rmpv::Value;

use super::*;

fn list(parts: &[Value]) -> Value {
    Value::Array(parts.to_vec())
}

fn nonsense() -> [Value; 5] {
    [Value::Map(Vec::new()), Value::F64(1.0), (-1).into(), (1_u64 << 40).into(), list(&[1.into()])]
}

/// A command with an invalid `authorize` is refused.
#[test]
fn an_invalid_command_gets_no_wider_right() {
    let behalf = |client: Value| {
        let message = Value::Map(vec![("topic".into(), "t".into()), ("on_behalf_of".into(), client)]);
        read(&list(&["publish".into(), message]).as_ref()).map(|_| ())
    };
    assert_eq!(behalf("c".into()), Ok(()));
    let subscribe = |flag: Value| {
        read(&list(&["subscribe".into(), "c".into(), "f".into(), 0.into(), flag]).as_ref()).map(|_| ())
    };
    let unsubscribe =
        |flag: Value| read(&list(&["unsubscribe".into(), "c".into(), "f".into(), flag]).as_ref()).map(|_| ());
    for flag in [true, false] {
        assert_eq!((subscribe(flag.into()), unsubscribe(flag.into())), (Ok(()), Ok(())));
    }
    for value in nonsense().into_iter().chain([1.into(), Value::Nil]) {
        assert_eq!(behalf(value.clone()).unwrap_err(), "publish: the on_behalf_of must be text");
        assert_eq!(subscribe(value.clone()).unwrap_err(), "subscribe: authorize must be a boolean");
        assert_eq!(unsubscribe(value).unwrap_err(), "unsubscribe: authorize must be a boolean");
    }
    let without = list(&["subscribe".into(), "c".into(), "f".into()]);
    let expected = Command::Subscribe { client: "c", filter: "f", options: 0, authorize: false };
    assert_eq!(read(&without.as_ref()).unwrap(), expected);
}

#[test]
fn invalid_stored_data_removes_nothing() {
    let keep = |at: usize, value: Value| {
        let mut parts = ["keep".into(), 1.into(), "c".into(), "h".into(), 1.into(), Value::Nil];
        parts[at] = value;
        read(&list(&parts).as_ref()).map(|_| ())
    };
    assert_eq!((keep(5, Value::Nil), keep(5, Value::Binary(vec![1]))), (Ok(()), Ok(())));
    for value in nonsense().into_iter().chain([Value::Boolean(true)]) {
        keep(5, value.clone()).unwrap_err();
        keep(3, value).unwrap_err();
    }
    keep(5, 5.into()).unwrap_err();
    keep(4, 65_536.into()).unwrap_err();
    let short = list(&["keep".into(), 1.into(), "c".into(), "h".into(), 1.into()]);
    read(&short.as_ref()).unwrap_err();
}

/// An empty property differs from a missing one.
#[test]
fn an_empty_property_differs_from_a_missing_one() {
    let message = |parts: Vec<(Value, Value)>| {
        let parts = [vec![("topic".into(), "t".into())], parts].concat();
        match read(&list(&["publish".into(), Value::Map(parts)]).as_ref()) {
            Ok(Command::Publish(message, None)) => message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message(Vec::new()), Outgoing::new("t", ""));
    let empty = message(vec![
        ("content_type".into(), "".into()),
        ("correlation_data".into(), Value::Binary(Vec::new())),
        ("user".into(), list(&[list(&["".into(), "".into()])])),
    ]);
    let expected = Outgoing::new("t", "").content_type("").correlation_data([]).user_property("", "");
    assert_eq!(empty, expected);
    assert_ne!(empty, Outgoing::new("t", "").user_property("", ""));
}

#[test]
fn an_invalid_part_of_a_message_is_an_error() {
    let publish = |key: &str, value: Value| {
        let message = Value::Map(vec![("topic".into(), "t".into()), (key.into(), value)]);
        read(&list(&["publish".into(), message]).as_ref()).map(|_| ())
    };
    let keys = [
        "payload",
        "qos",
        "retain",
        "store_only",
        "from",
        "content_type",
        "response_topic",
        "correlation_data",
        "message_expiry_s",
        "user",
    ];
    for key in keys {
        assert_eq!(publish(key, Value::Nil), Ok(()), "{key}");
        for value in nonsense() {
            publish(key, value.clone()).expect_err(&format!("{key}: {value}"));
        }
    }
    for value in nonsense() {
        read(&list(&["kick".into(), "c".into(), value.clone()]).as_ref()).unwrap_err();
        read(&list(&["subscribe".into(), "c".into(), "f".into(), value.clone()]).as_ref()).unwrap_err();
        read(&list(&["invalidate".into(), value]).as_ref()).unwrap_err();
    }
}

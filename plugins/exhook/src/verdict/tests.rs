//! How answers are decoded, field by field.

#![allow(clippy::unwrap_used)]
use rmpv::Value;

use super::*;

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

/// Not a number, text, boolean, bytes or list.
fn nonsense() -> Value {
    Value::Map(Vec::new())
}

fn wrongs(right: &[Value]) -> Vec<Value> {
    let all = [
        Value::Boolean(true),
        1.into(),
        (-1).into(),
        300.into(),
        65_536.into(),
        (1_u64 << 32).into(),
        Value::F64(1.0),
        "x".into(),
        Value::Binary(vec![0xFF]),
        Value::Array(vec![1.into()]),
        nonsense(),
    ];
    all.into_iter().filter(|value| !right.contains(value)).collect()
}

const TRUE: Value = Value::Boolean(true);

fn small() -> Vec<Value> {
    vec![1.into()]
}

fn seconds() -> Vec<Value> {
    vec![1.into(), 300.into(), 65_536.into()]
}

/// Each field with each type of value: a wrong type is an error, and nil is accepted.
#[test]
fn an_invalid_field_of_an_answer_is_an_error() {
    type Read = fn(&ValueRef<'_>) -> Result<(), String>;
    let connect: Read = |value| ConnectAnswer::of(value).map(|_| ());
    let login: Read = |value| LoginAnswer::of(value).map(|_| ());
    let authorize: Read = |value| allowed(value).map(|_| ());
    let publish: Read = |value| PublishAnswer::of(value).map(|_| ());
    let bytes = || vec!["x".into(), Value::Binary(vec![0xFF])];
    let pair = Value::Array(vec![Value::Array(vec!["k".into(), "v".into()])]);
    let fields: [(Read, &str, Vec<Value>); 19] = [
        (connect, "refuse", small()),
        (connect, "keep_alive_s", vec![1.into(), 300.into()]),
        (connect, "session_expiry_s", seconds()),
        (login, "allow", vec![TRUE]),
        (login, "superuser", vec![TRUE]),
        (login, "another_round", bytes()),
        (login, "auth_data", bytes()),
        (authorize, "allow", vec![TRUE]),
        (publish, "reject", small()),
        (publish, "disconnect", small()),
        (publish, "drop", vec![TRUE]),
        (publish, "topic", vec!["x".into()]),
        (publish, "payload", bytes()),
        (publish, "qos", small()),
        (publish, "retain", vec![TRUE]),
        (publish, "content_type", vec!["x".into()]),
        (publish, "response_topic", vec!["x".into()]),
        (publish, "correlation_data", bytes()),
        (publish, "message_expiry_s", seconds()),
    ];
    for (read, key, right) in fields {
        for value in &right {
            assert_eq!(read(&map(&[(key, value.clone())]).as_ref()), Ok(()), "{key}: {value}");
        }
        for value in wrongs(&right) {
            let said = read(&map(&[(key, value.clone())]).as_ref()).expect_err(&format!("{key}: {value}"));
            assert!(said.contains(&format!("`{key}`")), "{key}: {value}: {said}");
        }
    }
    assert_eq!(publish(&map(&[("user", pair)]).as_ref()), Ok(()));
    for value in wrongs(&[]) {
        publish(&map(&[("user", value)]).as_ref()).unwrap_err();
    }
}

#[test]
fn an_invalid_answer_for_any_filter_is_an_error() {
    let rows = |row: [Value; 4]| {
        let value = map(&[("filters", Value::Array(vec![Value::Array(row.to_vec())]))]);
        rows_of(&value.as_ref(), 1).map(|rows| rows.len())
    };
    let nil = || Value::Nil;
    assert_eq!(rows([0.into(), nil(), nil(), nil()]), Ok(1));
    assert_eq!(rows([0.into(), "f".into(), 1.into(), 0x87.into()]), Ok(1));
    let right = [Vec::new(), vec!["x".into()], small(), small()];
    for (at, right) in right.iter().enumerate() {
        for value in wrongs(right) {
            let mut row = [0.into(), nil(), nil(), nil()];
            row[at] = value.clone();
            rows(row).expect_err(&format!("part {at}: {value}"));
        }
    }
    assert!(rows_of(&map(&[("filters", 1.into())]).as_ref(), 1).is_err());
    assert!(rows_of(&map(&[]).as_ref(), 1).is_err());
}

/// A refusal that can be decoded is valid, whatever other fields have.
#[test]
fn a_refusal_holds_beside_invalid_values() {
    let connect = map(&[("refuse", 0x87.into()), ("text", 1.into()), ("keep_alive_s", nonsense())]);
    let says = ConnectAnswer::of(&connect.as_ref()).unwrap();
    assert_eq!(says, ConnectAnswer { refuse: Some((Reason(0x87), "")), ..ConnectAnswer::default() });
    for reason in [300.into(), nonsense(), Value::Nil] {
        let denied = map(&[("allow", false.into()), ("reason", reason), ("superuser", 1.into())]);
        assert_eq!(allowed(&denied.as_ref()), Ok(Some(Err(Reason::NOT_AUTHORIZED))));
        let says = LoginAnswer::of(&denied.as_ref()).unwrap();
        assert_eq!(
            says,
            LoginAnswer { allowed: Some(Err(Reason::NOT_AUTHORIZED)), ..LoginAnswer::default() }
        );
    }
    let rejected = map(&[("reject", 0x87.into()), ("text", 1.into())]);
    assert_eq!(PublishAnswer::of(&rejected.as_ref()).unwrap().reject, Some(Reason(0x87)));
}

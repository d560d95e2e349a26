//! Frames between the broker and a worker (PROTOCOL.md): encodes calls, decodes answers. It does
//! not depend on processes or tickets.

use std::io::{Error, Read};

use rmpv::ValueRef;
use rmpv::decode::value_ref::BorrowRead;

/// Bytes of the length before a frame.
pub const HEAD: usize = 4;

/// Most nesting levels of what a worker sends.
const DEPTH_MAX: usize = 16;

/// Most steps of reading a frame. A value takes one to three steps; a value of one byte takes forty
/// bytes here.
const STEPS_MAX: usize = 1 << 20;

/// Appends MessagePack to a buffer. Writing never fails.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    /// The header of a list of `len` elements.
    pub fn list(&mut self, len: usize) -> &mut Self {
        let _ = rmp::encode::write_array_len(self.0, u32::try_from(len).unwrap_or(u32::MAX));
        self
    }

    /// The header of a map of `len` pairs.
    pub fn map(&mut self, len: usize) -> &mut Self {
        let _ = rmp::encode::write_map_len(self.0, u32::try_from(len).unwrap_or(u32::MAX));
        self
    }

    /// A number.
    pub fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        let _ = rmp::encode::write_uint(self.0, number.into());
        self
    }

    /// A signed number.
    pub fn signed(&mut self, number: i64) -> &mut Self {
        let _ = rmp::encode::write_sint(self.0, number);
        self
    }

    /// A boolean.
    pub fn flag(&mut self, flag: bool) -> &mut Self {
        let _ = rmp::encode::write_bool(self.0, flag);
        self
    }

    /// Text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        let _ = rmp::encode::write_str(self.0, text);
        self
    }

    /// Any bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = rmp::encode::write_bin(self.0, bytes);
        self
    }

    /// Nil.
    pub fn nil(&mut self) -> &mut Self {
        let _ = rmp::encode::write_nil(self.0);
        self
    }

    /// Text or nil.
    pub fn text_or_nil(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.nil(),
        }
    }

    /// Bytes or nil.
    pub fn bytes_or_nil(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.nil(),
        }
    }

    /// A number or nil.
    pub fn number_or_nil(&mut self, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.number(number),
            None => self.nil(),
        }
    }

    /// A JSON value.
    pub fn json(&mut self, value: &serde_json::Value) -> &mut Self {
        use serde_json::Value;
        match value {
            Value::Null => self.nil(),
            Value::Bool(flag) => self.flag(*flag),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    self.number(number)
                } else if let Some(number) = number.as_i64() {
                    self.signed(number)
                } else {
                    let _ = rmp::encode::write_f64(self.0, number.as_f64().unwrap_or(0.0));
                    self
                }
            }
            Value::String(text) => self.text(text),
            Value::Array(list) => {
                self.list(list.len());
                for value in list {
                    self.json(value);
                }
                self
            }
            Value::Object(map) => {
                self.map(map.len());
                for (key, value) in map {
                    self.text(key).json(value);
                }
                self
            }
        }
    }
}

/// Writes one frame: its length, then what `body` writes.
pub fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    body(&mut Writer(out));
    let len = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    out[start..start + HEAD].copy_from_slice(&len.to_le_bytes());
}

/// A message of a worker.
#[derive(Debug)]
pub enum WorkerMessage<'a> {
    /// It is ready, and requests these hooks.
    Ready(Ready),
    /// It cannot run.
    Failed(String),
    /// Answers, and the number of finished calls.
    Answers(Vec<Answer<'a>>, u64),
    /// A line for the log: level and text.
    Log(u64, String),
    /// Commands to the broker.
    Commands(Vec<ValueRef<'a>>),
}

/// The first message of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Name and version of its SDK.
    pub sdk: String,
    /// The hook points that it requests.
    pub hooks: Vec<RequestedHook>,
    /// Whether it returns login data for storage.
    pub stores_logins: bool,
}

/// A hook that a worker requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedHook {
    /// Name of the hook point.
    pub point: String,
    /// Topic filters; none for all topics.
    pub topics: Vec<String>,
    /// Whether it answers.
    pub answers: bool,
    /// At client.authorize: whether it handles deliveries, too.
    pub deliver: bool,
}

/// One answer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Number of the call.
    pub id: u64,
    /// 0 continues the chain, 1 stops it, 2 is a failure.
    pub code: u64,
    /// A map, text, or nil.
    pub value: ValueRef<'a>,
}

/// The length of the frame at the start of `bytes`; `None` while its header is incomplete.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let head: [u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
    Some(u32::from_le_bytes(head) as usize)
}

/// Decodes the content of a frame, without its length.
///
/// # Errors
/// What is wrong with it, as text for the log.
pub fn read(frame: &[u8]) -> Result<WorkerMessage<'_>, String> {
    let mut reading = BoundedReader { rest: frame, steps: STEPS_MAX };
    let value = rmpv::decode::read_value_ref_with_max_depth(&mut reading, DEPTH_MAX).map_err(|error| {
        if reading.steps == 0 {
            return format!("sent a frame of more than {} values", STEPS_MAX / 3);
        }
        format!("sent a frame that is not MessagePack ({error})")
    })?;
    if !reading.rest.is_empty() {
        return Err(format!("sent a frame with {} bytes too many", reading.rest.len()));
    }
    let ValueRef::Array(mut parts) = value else { return Err("sent a frame that is no list".to_owned()) };
    let odd = || Err("sent a frame of no known form".to_owned());
    if parts.is_empty() {
        return odd();
    }
    let kind = parts.remove(0).as_u64();
    match (kind, parts.as_mut_slice()) {
        (Some(0), [ready]) => Ok(WorkerMessage::Ready(ready_of(ready)?)),
        (Some(1), [text]) => Ok(WorkerMessage::Failed(text_of(text).unwrap_or_default())),
        (Some(2), [ValueRef::Array(answers), done]) => {
            let answers = std::mem::take(answers).into_iter().map(answer_of).collect::<Result<_, _>>()?;
            Ok(WorkerMessage::Answers(answers, done.as_u64().unwrap_or(0)))
        }
        (Some(3), [level, text]) => {
            Ok(WorkerMessage::Log(level.as_u64().unwrap_or(3), text_of(text).unwrap_or_default()))
        }
        (Some(4), [ValueRef::Array(commands)]) => Ok(WorkerMessage::Commands(std::mem::take(commands))),
        _ => odd(),
    }
}

/// Reads a frame in a limited number of steps.
struct BoundedReader<'a> {
    rest: &'a [u8],
    steps: usize,
}

impl Read for BoundedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| Error::other("too many values"))?;
        self.rest.read(into)
    }
}

impl<'a> BorrowRead<'a> for BoundedReader<'a> {
    fn fill_buf(&self) -> &'a [u8] {
        self.rest
    }

    fn consume(&mut self, len: usize) {
        self.rest = &self.rest[len..];
    }
}

fn answer_of(value: ValueRef<'_>) -> Result<Answer<'_>, String> {
    let odd = || "sent an answer that is not [id, code, value]".to_owned();
    let ValueRef::Array(mut parts) = value else { return Err(odd()) };
    let (Some(value), 2) = (parts.pop(), parts.len()) else { return Err(odd()) };
    let (Some(id), Some(code)) = (parts[0].as_u64(), parts[1].as_u64()) else { return Err(odd()) };
    Ok(Answer { id, code, value })
}

fn ready_of(value: &ValueRef<'_>) -> Result<Ready, String> {
    let hooks = match get(value, "hooks") {
        Some(ValueRef::Array(hooks)) => hooks,
        _ => return Err("introduced itself without a list of hooks".to_owned()),
    };
    let hooks = hooks.iter().map(|hook| {
        let point = get(hook, "point").and_then(text_of).ok_or("named a hook without a point")?;
        let topics = match get(hook, "topics") {
            Some(ValueRef::Array(topics)) => topics.iter().filter_map(text_of).collect(),
            _ => Vec::new(),
        };
        let flag = |key| get(hook, key).and_then(flag_of).unwrap_or(false);
        Ok(RequestedHook { point, topics, answers: flag("answers"), deliver: flag("deliver") })
    });
    let hooks = hooks.collect::<Result<_, &str>>().map_err(str::to_owned)?;
    let stores_logins = get(value, "keeps").and_then(flag_of).unwrap_or(false);
    Ok(Ready { sdk: get(value, "sdk").and_then(text_of).unwrap_or_default(), hooks, stores_logins })
}

/// The value of a key in a map.
pub fn get<'m, 'a>(map: &'m ValueRef<'a>, key: &str) -> Option<&'m ValueRef<'a>> {
    let ValueRef::Map(pairs) = map else { return None };
    pairs.iter().find(|(found, _)| text_ref(found) == Some(key)).map(|(_, value)| value)
}

/// Reads a value with `of`. `None` if it is nil or missing.
///
/// # Errors
/// The value has another type.
pub fn or_nil<'a, T>(
    value: Option<&ValueRef<'a>>,
    of: impl FnOnce(&ValueRef<'a>) -> Option<T>,
) -> Result<Option<T>, WrongType> {
    match value {
        None | Some(ValueRef::Nil) => Ok(None),
        Some(value) => of(value).map(Some).ok_or(WrongType),
    }
}

/// A value of the wrong type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongType;

/// A non-negative number that fits into `T`.
pub fn number_of<T: TryFrom<u64>>(value: &ValueRef<'_>) -> Option<T> {
    value.as_u64().and_then(|number| T::try_from(number).ok())
}

/// Pairs of texts.
pub fn pairs_of<'a>(value: &ValueRef<'a>) -> Option<Vec<(&'a str, &'a str)>> {
    let ValueRef::Array(pairs) = value else { return None };
    let pair = |pair: &ValueRef<'a>| {
        let ValueRef::Array(pair) = pair else { return None };
        let [key, value] = pair.as_slice() else { return None };
        Some((text_ref(key)?, text_ref(value)?))
    };
    pairs.iter().map(pair).collect()
}

/// A boolean.
pub fn flag_of(value: &ValueRef<'_>) -> Option<bool> {
    if let ValueRef::Boolean(flag) = value { Some(*flag) } else { None }
}

/// Text in UTF-8.
pub fn text_ref<'a>(value: &ValueRef<'a>) -> Option<&'a str> {
    match value {
        ValueRef::String(text) => text.into_str(),
        ValueRef::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// As [`text_ref`], owned.
pub fn text_of(value: &ValueRef<'_>) -> Option<String> {
    text_ref(value).map(str::to_owned)
}

/// Bytes, or the bytes of text.
pub fn bytes_ref<'a>(value: &ValueRef<'a>) -> Option<&'a [u8]> {
    match *value {
        ValueRef::String(text) => text.into_str().map(str::as_bytes),
        ValueRef::Binary(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn written(body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, body);
        assert_eq!(frame_len(&out), Some(out.len() - HEAD));
        out.split_off(HEAD)
    }

    #[test]
    fn a_frame_of_many_small_values_is_refused_before_it_has_grown() {
        let many = |count| {
            written(|out| {
                out.list(2).number(4_u64).list(count);
                (0..count).for_each(|_| {
                    out.nil();
                });
            })
        };
        assert!(
            matches!(read(&many(100_000)), Ok(WorkerMessage::Commands(commands)) if commands.len() == 100_000)
        );
        let error = read(&many(STEPS_MAX)).unwrap_err();
        assert_eq!(error, "sent a frame of more than 349525 values");
    }

    #[test]
    fn a_frame_that_says_more_than_it_has_is_refused() {
        // A list of 4,294,967,295 values.
        for frame in [&b"\xdd\xff\xff\xff\xff\xc0"[..], b"\xdf\xff\xff\xff\xff\xc0", b"\xc6\xff\xff\xff\xff"]
        {
            assert!(read(frame).unwrap_err().starts_with("sent a frame that is not MessagePack"));
        }
        assert_eq!(read(b"\x92\x01\xa1x!").unwrap_err(), "sent a frame with 1 bytes too many");
        let deep = [[0x91; 40].as_slice(), b"\xc0"].concat();
        assert!(read(&deep).unwrap_err().contains("depth"));
    }

    proptest! {
        /// Any bytes are decoded or refused with a text, without a panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        /// The same with bytes that begin like a frame.
        #[test]
        fn any_frame_is_read_or_refused(kind in 0_u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for parts in [2_u8, 3] {
                let _ = read(&[&[0x90 | parts, kind], &bytes[..]].concat());
            }
        }

        /// Answers are decoded as they were encoded.
        #[test]
        fn answers_are_what_they_were(
            answers in proptest::collection::vec((any::<u64>(), 0_u64..3, any::<String>(), any::<Vec<u8>>()), 0..20),
            done in any::<u64>(),
        ) {
            let frame = written(|out| {
                out.list(3).number(2_u64).list(answers.len());
                for (id, code, topic, payload) in &answers {
                    out.list(3).number(*id).number(*code).map(2);
                    out.text("topic").text(topic).text("payload").bytes(payload);
                }
                out.number(done);
            });
            let WorkerMessage::Answers(read, was_done) = read(&frame).unwrap() else { panic!("answers") };
            prop_assert_eq!((read.len(), was_done), (answers.len(), done));
            for (answer, (id, code, topic, payload)) in read.iter().zip(&answers) {
                prop_assert_eq!((answer.id, answer.code), (*id, *code));
                prop_assert_eq!(get(&answer.value, "topic").and_then(text_ref), Some(topic.as_str()));
                prop_assert_eq!(get(&answer.value, "payload").and_then(bytes_ref), Some(&payload[..]));
            }
        }
    }
}

//! Tests of the host functions through the tables: which values pass unchanged, and the status of
//! invalid calls.
#![allow(clippy::unwrap_used)]

use std::ffi::c_void;
use std::sync::Mutex;

use grapnel_plugin_abi::host::{
    BehalfServices, COMPLETION_CHANGES_MAX, ClientIdentity, Entry, EventAccess, FieldChange, FieldValue,
    HostServices, PluginMessage, host_api, install_services,
};
use grapnel_plugin_abi::raw::{Change, Event, Field, Flow, HostApi, Slice, Status, Ticket, Value};

type Copied = (Field, u32, u64, Vec<u8>, Vec<u8>);

fn copied(change: &FieldChange<'_>) -> Copied {
    (change.field, change.index, change.number, change.bytes.to_vec(), change.key.to_vec())
}

/// An event whose fields contain their own numbers.
#[derive(Default)]
struct Recorder {
    changes: Vec<Copied>,
    deadlines: Vec<u32>,
}

impl EventAccess for Recorder {
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status> {
        match field {
            Field::QOS => Ok(FieldValue::Number(2)),
            Field::TOPIC => Ok(FieldValue::Bytes(b"a/b")),
            Field::USER_PROPERTY if index == 3 => Ok(FieldValue::Pair(b"key", b"value")),
            Field::PAYLOAD => Err(Status::ABSENT),
            _ => Err(Status::UNSUPPORTED),
        }
    }

    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status> {
        if change.field == Field::CLIENT_ID {
            return Err(Status::INVALID);
        }
        self.changes.push(copied(&change));
        Ok(())
    }

    fn add_message(&mut self, _message: &PluginMessage<'_>) -> Result<(), Status> {
        Err(Status::UNSUPPORTED)
    }

    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        Ok(ClientIdentity {
            client_id: "c",
            username: None,
            is_certified: false,
            superuser: false,
            anonymous: true,
            clean_start: true,
            proto_ver: 4,
            keep_alive_s: 0,
            expiry_s: 0,
            receive_maximum: 1,
            connected_at_ms: 0,
            connection: 1,
            session: 1,
            peer: None,
            local: None,
            listener: "",
            transport: "tcp",
            tls: None,
            properties: b"",
        })
    }

    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status> {
        self.deadlines.push(deadline_ms);
        if deadline_ms == 9 { Err(Status::FULL) } else { Ok(Ticket(u64::MAX)) }
    }
}

fn event() -> Event {
    Event {
        size: size_of::<Event>() as u32,
        point: 15,
        proto_ver: 5,
        qos: 0,
        flags: 0,
        shard: 0,
        action: 0,
        reason_code: 0,
        reserved: 0,
        reserved2: 0,
        wall_ms: 0,
        client_id: Slice::EMPTY,
        username: Slice::EMPTY,
        topic: Slice::EMPTY,
        payload: Slice::EMPTY,
        ctx: std::ptr::null_mut(),
        args: std::ptr::null_mut(),
    }
}

const CHANGE: Change =
    Change { field: Field::PAYLOAD, index: 4, number: u64::MAX, bytes: Slice::EMPTY, key: Slice::EMPTY };

unsafe extern "C" fn hook(instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the test passes a live host table as the instance, and the event is the one of this
    // call.
    let (host, ctx) = unsafe { (&*instance.cast::<HostApi>(), (*event).ctx) };
    let get = |field, index| {
        let mut value = Value { number: 77, ..Value::EMPTY };
        // SAFETY: the hook's own context, and a value of its own.
        let status = unsafe { (host.get)(ctx, field, index, &raw mut value) };
        // SAFETY: the recorder shows values that are never freed.
        (status, value.number, unsafe { (value.bytes.bytes(), value.key.bytes()) })
    };
    assert_eq!(get(Field::QOS, 0), (Status::OK, 2, (&b""[..], &b""[..])));
    assert_eq!(get(Field::TOPIC, 0), (Status::OK, 0, (&b"a/b"[..], &b""[..])));
    assert_eq!(get(Field::USER_PROPERTY, 3), (Status::OK, 0, (&b"value"[..], &b"key"[..])));
    assert_eq!(get(Field::PAYLOAD, 0), (Status::ABSENT, 0, (&b""[..], &b""[..])));
    assert_eq!(get(Field(999), 0), (Status::UNSUPPORTED, 0, (&b""[..], &b""[..])));

    let set = |change: &Change| {
        // SAFETY: the hook's own context, and a change that lives through the call.
        unsafe { (host.set)(ctx, change) }
    };
    let (mut bytes, key) = (*b"bytes", *b"key");
    assert_eq!(set(&Change { bytes: Slice::of(&bytes), key: Slice::of(&key), ..CHANGE }), Status::OK);
    bytes.fill(b'x');
    assert_eq!(set(&CHANGE), Status::OK);
    assert_eq!(set(&Change { field: Field::CLIENT_ID, ..CHANGE }), Status::INVALID);

    let mut ticket = Ticket(0);
    // SAFETY: the hook's own context, and a ticket of its own.
    assert_eq!(unsafe { (host.defer)(ctx, 250, &raw mut ticket) }, Status::OK);
    assert_eq!(ticket, Ticket(u64::MAX));
    // SAFETY: likewise.
    assert_eq!(unsafe { (host.defer)(ctx, 9, &raw mut ticket) }, Status::FULL);

    let mut room = [0; 256];
    let mut identity = |capacity: usize| {
        let mut len = 7;
        // SAFETY: the hook's own context, and its own buffer and length.
        (unsafe { (host.identity)(ctx, room.as_mut_ptr(), capacity, &raw mut len) }, len)
    };
    let (_, needed) = identity(0);
    assert_eq!(identity(needed - 1), (Status::FULL, needed), "it says how much room it takes");
    assert_eq!(identity(needed), (Status::OK, needed));
    assert_eq!(ClientIdentity::decode(&room[..needed]).map(|identity| identity.client_id), Ok("c"));

    // Invalid calls of a plugin, which must not break the broker.
    let nowhere = std::ptr::null_mut();
    // SAFETY: the functions take null for "nothing".
    unsafe {
        let (no_bytes, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!((host.identity)(ctx, no_bytes, 9, no_len), Status::WRONG_MOMENT);
        assert_eq!((host.identity)(nowhere, no_bytes, 0, &mut 0), Status::WRONG_MOMENT);
        assert_eq!((host.identity)(ctx, no_bytes, 9, &mut 0), Status::FULL);
        assert_eq!((host.publish_as)(1, std::ptr::null(), std::ptr::null()), Status::INVALID);
        assert_eq!((host.subscribe_as)(1, std::ptr::null(), Slice::EMPTY, 256, 0), Status::INVALID);
        assert_eq!((host.get)(ctx, Field::QOS, 0, std::ptr::null_mut()), Status::WRONG_MOMENT);
        assert_eq!((host.get)(nowhere, Field::QOS, 0, &mut Value::EMPTY.clone()), Status::WRONG_MOMENT);
        assert_eq!((host.set)(ctx, std::ptr::null()), Status::WRONG_MOMENT);
        assert_eq!((host.set)(nowhere, &CHANGE), Status::WRONG_MOMENT);
        assert_eq!((host.defer)(ctx, 0, std::ptr::null_mut()), Status::WRONG_MOMENT);
        assert_eq!((host.defer)(nowhere, 0, &raw mut ticket), Status::WRONG_MOMENT);
    }
    Flow(12345)
}

#[test]
fn a_running_hook_changes_its_event_and_the_host_copies_borrowed_bytes() {
    let mut api = host_api(7, 2);
    assert_eq!((api.plugin, api.shards, api.size as usize), (7, 2, size_of::<HostApi>()));
    // SAFETY: the hook is this test's own, and its instance is the table, alive during the call.
    let entry = unsafe { Entry::new(hook, (&raw mut api).cast()) };
    let (mut event, mut recorder) = (event(), Recorder::default());
    assert_eq!(
        entry.call(&mut event, &mut recorder),
        Flow(12345),
        "what a hook returns is passed on as it is"
    );
    assert!(event.ctx.is_null(), "the context does not outlive the call");
    let whole = (Field::PAYLOAD, 4, u64::MAX, b"bytes".to_vec(), b"key".to_vec());
    let empty = (Field::PAYLOAD, 4, u64::MAX, Vec::new(), Vec::new());
    assert_eq!(recorder.changes, [whole, empty]);
    assert_eq!(recorder.deadlines, [250, 9]);
}

#[derive(Default)]
struct Services {
    logs: Mutex<Vec<(u64, u32, String)>>,
    completions: Mutex<Vec<(Ticket, Flow, Vec<Copied>)>>,
}

impl BehalfServices for Services {}

impl HostServices for Services {
    fn log(&self, plugin: u64, level: u32, message: &str) {
        self.logs.lock().unwrap().push((plugin, level, message.to_owned()));
    }

    fn complete(&self, ticket: Ticket, flow: Flow, changes: &[FieldChange<'_>]) -> Result<(), Status> {
        if ticket == Ticket(0) {
            return Err(Status::STALE);
        }
        self.completions.lock().unwrap().push((ticket, flow, changes.iter().map(copied).collect()));
        Ok(())
    }
}

#[test]
fn services_get_logs_and_completions_of_any_thread_within_their_bounds() {
    let api = host_api(7, 1);
    let complete = |ticket, changes: *const Change, count| {
        // SAFETY: `changes` points to at least `count` changes where the host may look at them.
        unsafe { (api.complete)(Ticket(ticket), Flow::STOP, changes, count) }
    };
    assert_eq!(complete(1, std::ptr::null(), 0), Status::WRONG_MOMENT, "nobody is there to take it yet");
    // SAFETY: an empty message.
    unsafe { (api.log)(7, 1, Slice::EMPTY) };

    let services: &'static Services = Box::leak(Box::default());
    assert!(install_services(services));
    assert!(!install_services(services), "once per process");
    // SAFETY: the message lives through the call.
    unsafe { (api.log)(7, 3, Slice::of(b"not UTF-8: \xff")) };
    assert_eq!(*services.logs.lock().unwrap(), [(7, 3, "not UTF-8: \u{fffd}".to_owned())]);

    // A SUBSCRIBE has as many filters as fit into it, and each may be rewritten and refused.
    let many = vec![CHANGE; 4 * 1024];
    assert_eq!(complete(1, many.as_ptr(), many.len()), Status::OK);
    assert_eq!(complete(1, many.as_ptr(), COMPLETION_CHANGES_MAX + 1), Status::FULL, "it is not looked at");
    assert_eq!(complete(1, std::ptr::null(), 1), Status::INVALID);
    assert_eq!(complete(1, std::ptr::null(), 1 << 20), Status::INVALID);
    assert_eq!(complete(0, std::ptr::null(), 0), Status::STALE);
    let completions = services.completions.lock().unwrap();
    assert_eq!(completions.len(), 1);
    assert_eq!((completions[0].0, completions[0].1, completions[0].2.len()), (Ticket(1), Flow::STOP, 4096));
}

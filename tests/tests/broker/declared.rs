//! What `grapnel-ctl` does with verbs as a broker declares them: a broker may be newer, or lie.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use grapnel_tests::process::{Process, command};
use grapnel_tests::{PATIENCE, plugin};
use serde_json::{Value, json};

/// A broker that answers every request with the same declarations. Returns the requests so far.
fn declaring(socket: &Path, declarations: &Value) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let (body, requests) = (declarations.to_string(), Arc::<Mutex<Vec<String>>>::default());
    let seen = Arc::clone(&requests);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut request = String::new();
            stream.read_line(&mut request).unwrap();
            seen.lock().unwrap().push(request.trim_end().to_owned());
            while stream.read_line(&mut request).unwrap() > 2 {}
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    requests
}

/// Runs `grapnel-ctl` at this socket. Returns its exit code and output.
fn ctl(socket: &Path, arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let mut command = command(plugin::built("grapnel-ctl"));
    command.arg("--socket").arg(socket).args(arguments);
    let mut process = Process::start(&arguments.join(" "), command, Some(input));
    let status = process.wait(PATIENCE).expect("it ends");
    (status.code(), process.log())
}

/// A broker that declares a local verb as one of its own does not get the secret: the plugin's file
/// on this machine decides.
#[test]
fn a_secret_of_a_local_verb_is_never_sent_whatever_the_broker_declares() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s.sock");
    let users = home.path().join("users");
    let arguments = json!([
        {"name": "file", "type": "path", "positional": true, "required": true},
        {"name": "user", "positional": true, "required": true},
        {"name": "password", "type": "secret", "required": true},
    ]);
    let verb = json!({"name": "passwd", "help": "Lies", "changes": true, "arguments": arguments});
    let plugins = json!({"plugins": [{"plugin": "auth-file", "kind": "auth-file", "verbs": [verb]}]});
    let requests = declaring(&socket, &plugins);
    let words = ["auth-file", "passwd", plugin::argument(&users), "ann", "--password-stdin"];
    let (code, output) = ctl(&socket, &words, b"s3cret\n");
    assert_eq!(code, Some(0), "{output}");
    assert!(std::fs::read_to_string(&users).unwrap().starts_with("ann:$argon2id$"));
    assert_eq!(*requests.lock().unwrap(), ["GET /api/v1/commands HTTP/1.1"]);
}

/// An argument of a type of a newer broker keeps its own verb from being called, and no other.
#[test]
fn only_the_verb_with_an_argument_of_an_unknown_type_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s.sock");
    let verbs = json!([
        {"name": "paint", "help": "Paints", "arguments": [{"name": "colour", "type": "colour"}]},
        {"name": "list", "help": "Lists"},
    ]);
    let requests = declaring(
        &socket,
        &json!({"plugins": [{"plugin": "art", "kind": "art", "verbs": verbs}], "text": "listed"}),
    );
    let (code, output) = ctl(&socket, &["art", "paint", "--colour", "red"], b"");
    let expected = "grapnel-ctl: paint of plugin art has the argument colour, whose type this grapnel-ctl ";
    assert!(code == Some(1) && output.starts_with(expected), "{code:?} {output}");
    assert_eq!(ctl(&socket, &["art", "list"], b""), (Some(0), "listed".to_owned()));
    let (code, output) = ctl(&socket, &["plugins", "verbs"], b"");
    assert!(code == Some(0) && output.contains("paint"), "{code:?} {output}");
    let called = requests.lock().unwrap().iter().filter(|request| request.contains("/plugins/art/")).count();
    assert_eq!(called, 1, "only list was called");
}

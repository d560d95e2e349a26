//! The bundled plugin auth-file with `grapnel-ctl passwd` and real clients: which are accepted, and
//! that no other client waits for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use grapnel_tests::mosquitto::{Subscriber, publish};
use grapnel_tests::process::command;
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Version, plugin, scenario};

/// Sets a password as an operator does.
fn passwd(file: &Path, user: &str, password: &str) {
    let mut child = command(plugin::built("grapnel-ctl"))
        .args(["passwd", plugin::argument(file), user, "--password-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("grapnel-ctl starts");
    let mut input = child.stdin.take().expect("piped above");
    writeln!(input, "{password}").expect("grapnel-ctl reads");
    drop(input);
    assert!(child.wait().expect("it was started here").success());
}

/// Users ann and bob, and the plugin loaded with these additional `--set`.
fn load(broker: &Broker, more: &[&str]) -> PathBuf {
    let file = broker.home().join("users");
    passwd(&file, "ann", "secret");
    passwd(&file, "bob", "bob's");
    let path = format!("path={}", plugin::argument(&file));
    let mut arguments = vec!["plugins", "load", "auth-file", "--set", &path];
    arguments.extend(more.iter().flat_map(|set| ["--set", *set]));
    broker.ctl_ok(&arguments);
    file
}

/// The CONNACK code for this login.
#[track_caller]
fn code(broker: &Broker, version: Version, login: Option<(&str, &str)>) -> u8 {
    let mut connect = Connect::new(version, "somebody");
    if let Some((user, password)) = login {
        connect = connect.login(user, password);
    }
    Client::attempt(broker, &connect).1.code
}

/// Tries until the code is this one.
#[track_caller]
fn wait_for_code(broker: &Broker, login: (&str, &str), expected: u8) {
    let until = Instant::now() + PATIENCE;
    while code(broker, Version::V5, Some(login)) != expected {
        assert!(Instant::now() < until, "{login:?} never got {expected:#x}");
    }
}

scenario! {
    /// 0x86 of MQTT 5 is return code 5, not authorized, in earlier versions (section 3.2.2.3 of
    /// 3.1.1).
    fn users_of_the_file_can_log_in(broker in Broker::builder().grapnel_only(), version) {
        load(broker, &[]);
        let refused = if version.is_5() { 0x86 } else { 5 };
        for (login, expected) in [
            (Some(("ann", "secret")), 0),
            (Some(("bob", "bob's")), 0),
            (Some(("ann", "Secret")), refused),
            (Some(("ann", "bob's")), refused),
            (Some(("ann", "")), refused),
            (Some(("nobody", "secret")), refused),
            (None, 0),
        ] {
            assert_eq!(code(broker, version, login), expected, "{login:?}");
        }
    }
}

scenario! {
    /// Logins with mosquitto's clients; after an unload every client is admitted again.
    fn mosquitto_clients_can_log_in(broker in Broker::builder().grapnel_only()) {
        load(broker, &[]);
        let mut subscriber = Subscriber::start(broker, Version::V5, &["-u", "ann", "-P", "secret", "-t", "t", "-q", "1"]);
        publish(broker, Version::V311, &["-u", "bob", "-P", "bob's", "-t", "t", "-m", "hello", "-q", "1"]);
        assert_eq!(subscriber.message().payload, "hello");
        broker.ctl_ok(&["plugins", "unload", "auth-file"]);
        publish(broker, Version::V311, &["-u", "stranger", "-P", "any", "-t", "t", "-m", "again", "-q", "1"]);
        assert_eq!(subscriber.message().payload, "again");
    }
}

scenario! {
    /// New passwords are used while it runs; a file with a wrong line is not loaded, and the log
    /// names the line.
    fn a_changed_file_takes_effect(broker in Broker::builder().grapnel_only()) {
        let file = load(broker, &[]);
        let mut connected = Client::connect(broker, &Connect::new(Version::V5, "before").login("ann", "secret"));
        passwd(&file, "eve", "new");
        passwd(&file, "ann", "changed");
        wait_for_code(broker, ("eve", "new"), 0);
        wait_for_code(broker, ("ann", "changed"), 0);
        assert_eq!(code(broker, Version::V5, Some(("ann", "secret"))), 0x86);
        connected.ping();

        let wrong = broker.home().join("wrong");
        std::fs::write(&wrong, "ann:secret\n").expect("the directory is ours");
        std::fs::rename(&wrong, &file).expect("the directory is ours");
        let named = format!("{}:1: user \"ann\"", file.display());
        broker.process().wait_for_line("the wrong line", PATIENCE, |line| {
            (line.contains(&named) && line.contains("the users read before stay")).then_some(())
        });
        assert_eq!(code(broker, Version::V5, Some(("eve", "new"))), 0);
    }
}

scenario! {
    /// More logins at once than may wait: some are admitted, the others are refused with "server
    /// busy" (0x89). Connected clients are not affected, because other threads compute the hashes.
    fn every_login_of_a_flood_is_answered(broker in Broker::builder().grapnel_only()) {
        load(broker, &["threads=1", "queue_max=4"]);
        let mut connected = Client::hello(broker, Version::V5, "connected");
        let mut flood: Vec<Client> = (0..60)
            .map(|n| {
                let mut client = Client::dial(broker, Version::V5);
                client.send(&Connect::new(Version::V5, &format!("flood-{n}")).login("ann", "secret").encode());
                client
            })
            .collect();
        connected.ping();
        let codes: Vec<u8> = flood
            .iter_mut()
            .map(|client| match client.receive() {
                grapnel_tests::Packet::Connack { code, .. } => code,
                other => panic!("{other:?} instead of CONNACK"),
            })
            .collect();
        assert!(codes.contains(&0) && codes.contains(&0x89), "{codes:?}");
        assert!(codes.iter().all(|code| [0, 0x89].contains(code)), "{codes:?}");
        assert_eq!(code(broker, Version::V5, Some(("bob", "bob's"))), 0, "the flood is over");
    }
}

/// An unknown user name takes as long as a wrong password: at least half of it, in the fastest of
/// several tries.
#[test]
fn the_answer_time_does_not_reveal_user_names() {
    let broker = Broker::builder().grapnel_only().start();
    load(&broker, &[]);
    let time = |login: (&str, &str)| {
        let begin = Instant::now();
        assert_eq!(code(&broker, Version::V5, Some(login)), 0x86);
        begin.elapsed()
    };
    // In turn, so that other work of the machine slows down both.
    let (mut user, mut stranger) = (PATIENCE, PATIENCE);
    for _ in 0..10 {
        user = user.min(time(("ann", "wrong")));
        stranger = stranger.min(time(("stranger", "wrong")));
    }
    assert!(stranger > user / 2 && user > stranger / 2, "a user {user:?}, a stranger {stranger:?}");
}

scenario! {
    /// A superuser is allowed where acl-file denies every other client.
    fn a_superuser_may_do_everything(broker in Broker::builder().grapnel_only()) {
        load(broker, &[r#"superusers=["ann"]"#]);
        let acl = broker.home().join("acl");
        std::fs::write(&acl, "# nobody may do anything\n").expect("the directory is ours");
        broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", acl.display())]);
        let publish = |user: &str, password: &str| {
            let connect = Connect::new(Version::V5, user).login(user, password);
            Client::connect(broker, &connect).publish(&Publish::new("t", "").qos(1))
        };
        assert_eq!(publish("ann", "secret"), 0x10, "nobody subscribes");
        assert_eq!(publish("bob", "bob's"), 0x87);
    }
}

#[test]
fn an_unusable_file_is_refused_and_named() {
    let broker = Broker::builder().grapnel_only().start();
    let load = |set: &str| broker.ctl_refused(&["plugins", "load", "auth-file", "--set", set]);
    let error = load("path=/nowhere/users");
    assert!(error.contains("cannot read /nowhere/users: No such file"), "{error}");
    let file = broker.home().join("users");
    std::fs::write(&file, "# first\nann:$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA\n")
        .expect("the directory is ours");
    let error = load(&format!("path={}", file.display()));
    assert!(
        error.contains(&format!("{}:2: user \"ann\": algorithm argon2i is not argon2id", file.display())),
        "{error}"
    );
    let error = load("pat=/nowhere");
    assert!(error.contains("the key pat is not known; did you mean path?"), "{error}");
    Client::hello(&broker, Version::V5, "after").ping();
}

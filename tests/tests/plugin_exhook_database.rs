//! The four uses of hooks that EMQX's users have, with a real database: logins, history, access
//! rules and stored messages in PostgreSQL; and the effect on clients when the database hangs, ends
//! and returns. The hooks are in `exhook/database`: one file for EMQX's SDK, one for our own API.

#![allow(clippy::unwrap_used)]

#[path = "../exhook/database/postgres.rs"]
mod postgres;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grapnel_tests::client::Event;
use grapnel_tests::process::{Process, command};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, paho};
use postgres::Database;

/// Where the hooks are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("exhook/database")
}

/// Time limit of an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Which hooks to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hooks {
    Emqx,
    Own,
}

/// A password of any bytes.
fn bytes() -> Vec<u8> {
    (0..=255).collect()
}

/// A database with the tables of the hooks and a few users, and a broker with the hooks.
fn start(hooks: Hooks) -> (Database, Broker) {
    let database = Database::start();
    database.sql(&std::fs::read_to_string(folder().join("schema.sql")).unwrap());
    let users = [("alice", b"secret".to_vec()), ("bytes", bytes()), ("bob", b"bob's".to_vec())];
    // All at once: each starts a Python process.
    let hashes = users.map(|(user, password)| {
        let mut make = command(paho::python());
        make.arg(folder().join("passwords.py"));
        (user, Process::start("passwords.py", make, Some(&password)))
    });
    for (user, mut hash) in hashes {
        database.sql(&format!("INSERT INTO users VALUES ('{user}', '{}')", hash.succeed(PATIENCE)));
    }
    database.sql(
        "INSERT INTO acl (username, action, topic, allow) VALUES
            ('alice', 'publish', 'store/closed', false),
            ('alice', 'publish', 'store/#', true),
            ('alice', 'subscribe', 'store/+/secret', false),
            ('alice', 'subscribe', 'store/#', true)",
    );
    let broker = Broker::builder()
        .environment("PYTHONPATH", sdk().to_str().unwrap())
        .environment("PGHOST", database.folder().to_str().unwrap())
        .environment("PGUSER", postgres::USER)
        .environment("PGDATABASE", "postgres")
        .start();
    let timeout = format!("call_timeout={}ms", CALL_TIMEOUT.as_millis());
    match hooks {
        Hooks::Emqx => load(&broker, "emqx_store", &[], &[&timeout]),
        Hooks::Own => {
            let dsn = format!(
                "options.dsn=host={} user={} dbname=postgres",
                database.folder().display(),
                postgres::USER
            );
            load(&broker, "own_store", &[], &[&timeout, &dsn, "options.timeout_s=0.5"]);
        }
    }
    (database, broker)
}

/// The SDK in the source tree.
fn sdk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/exhook/sdk/python/src")
}

fn load(broker: &Broker, module: &str, arguments: &[&str], more: &[&str]) {
    let set = [
        "driver=python3".to_owned(),
        format!("python=\"{}\"", paho::python().display()),
        format!("path=\"{}\"", folder().display()),
        format!("init_module={module}"),
        "environment=[\"PYTHONPATH\", \"PGHOST\", \"PGUSER\", \"PGDATABASE\"]".to_owned(),
    ];
    let mut all = [&["plugins", "load", "exhook", "--once"], arguments].concat();
    set.iter().map(String::as_str).chain(more.iter().copied()).for_each(|set| all.extend(["--set", set]));
    broker.ctl_ok(&all);
}

fn login(client_id: &str, user: &str, password: &[u8]) -> Connect {
    let mut connect = Connect::new(Version::V5, client_id).login(user, "");
    connect.password = Some(password.to_vec());
    connect
}

/// Login, history, access rules and messages.
fn the_four_uses(hooks: Hooks) {
    let (database, broker) = start(hooks);
    for (user, password, lets_in) in [
        ("alice", b"secret".to_vec(), true),
        ("alice", b"Secret".to_vec(), false),
        ("alice", Vec::new(), false),
        ("alice", bytes(), false),
        ("bytes", bytes(), true),
        ("bob", b"secret".to_vec(), false),
        ("nobody", b"secret".to_vec(), false),
    ] {
        let (client, connack) = Client::attempt(&broker, &login("login", user, &password));
        let refused = [0x86, 0x87].contains(&connack.code);
        assert!(
            if lets_in { connack.code == 0 } else { refused },
            "{user}, {password:?}: {:#x}",
            connack.code
        );
        if lets_in {
            client.disconnect();
        }
    }
    let (_, connack) = Client::attempt(&broker, &Connect::new(Version::V5, "login"));
    assert!(connack.code >= 0x80, "nobody comes in without a user name");

    let mut alice = Client::connect(&broker, &login("a", "alice", b"secret"));
    let request = Subscribe::to("store/#", 2).and("store/x/secret", 0).and("#", 0).and("other", 0);
    assert_eq!(alice.subscribe_all(&request), [2, 0x87, 0x87, 0x87]);
    for (topic, payload, qos) in
        [("store/a", bytes(), 1), ("store/b", Vec::new(), 2), ("store/c", b"c".to_vec(), 0)]
    {
        let code = alice.publish(&Publish::new(topic, payload.clone()).qos(qos));
        assert_eq!(code, 0, "{topic}");
        let message = alice.message();
        assert_eq!((message.topic.as_str(), message.payload), (topic, payload));
    }
    for topic in ["store/closed", "other"] {
        assert_eq!(alice.publish(&Publish::new(topic, "unseen").qos(1)), 0x87, "{topic}");
    }
    alice.expect_no_message();
    let all: String = bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    database.wait_for(
        "SELECT client, topic, qos, encode(payload, 'hex') FROM messages ORDER BY id",
        &format!("a|store/a|1|{all}\na|store/b|2|\na|store/c|0|63"),
    );

    alice.disconnect();
    Client::connect(&broker, &login("a", "alice", b"secret")).drop_connection();
    // Every row has a time, and those of one client are in order.
    database.wait_for(
        "SELECT client, username, event, reason <> '' FROM history ORDER BY at",
        "login|alice|connected|f\nlogin|alice|disconnected|t\n\
         login|bytes|connected|f\nlogin|bytes|disconnected|t\n\
         a|alice|connected|f\na|alice|disconnected|t\na|alice|connected|f\na|alice|disconnected|t",
    );
    let reasons = database.sql("SELECT DISTINCT reason FROM history WHERE client = 'a' AND reason <> ''");
    assert_eq!(reasons.lines().count(), 2, "a farewell is not a lost connection: {reasons}");
}

#[test]
fn a_database_decides_and_stores_with_hooks_of_emqx() {
    the_four_uses(Hooks::Emqx);
}

#[test]
fn a_database_decides_and_stores_with_hooks_of_our_own() {
    the_four_uses(Hooks::Own);
}

/// A client that only hooks of another worker handle: it does not wait for the database.
struct Bystander<'a>(&'a Broker, Client);

impl Bystander<'_> {
    fn connect(broker: &Broker) -> Bystander<'_> {
        load(broker, "local", &["--name", "local", "--priority", "100"], &[]);
        let mut client = Client::connect(broker, &login("local", "local", b""));
        client.subscribe("local", 0);
        Bystander(broker, client)
    }

    /// Publishes, and logs in other clients of its kind, in less time than a wait for the database
    /// would take.
    fn others_continue(&mut self) {
        let began = Instant::now();
        (0..20).for_each(|n| self.publishes(n));
        Client::connect(self.0, &login("other", "local", b"")).disconnect();
        assert!(began.elapsed() < CALL_TIMEOUT, "held for {:?}", began.elapsed());
    }

    /// Only hooks of the other worker are called for this.
    fn publishes(&mut self, n: usize) {
        assert_eq!(self.1.publish(&Publish::new("local", n.to_string()).qos(1)), 0);
        assert_eq!(self.1.message().text(), n.to_string());
    }
}

/// Alice's login is refused, as `failed_action` says, when the time limit of a call is over.
fn a_login_ends_by_the_policy(broker: &Broker, bystander: &mut Bystander<'_>) {
    let began = Instant::now();
    let mut client = Client::dial(broker, Version::V5);
    client.send(&login("late", "alice", b"secret").encode());
    bystander.others_continue();
    let code = client.receive_where("CONNACK", |packet| match packet {
        grapnel_tests::Packet::Connack { code, .. } => Some(*code),
        _ => None,
    });
    assert_eq!(code, 0x88, "nobody knows whether she may");
    // The rest is for a busy machine.
    assert!(began.elapsed() < CALL_TIMEOUT * 2, "refused after {:?}", began.elapsed());
}

/// Tries until she is admitted.
fn wait_until_alice_connects(broker: &Broker) -> Client {
    let until = Instant::now() + PATIENCE;
    loop {
        let (client, connack) = Client::attempt(broker, &login("b", "alice", b"secret"));
        if connack.code == 0 {
            return client;
        }
        assert!(Instant::now() < until, "she is still refused: {connack:?}");
    }
}

/// The database hangs, ends, and returns; nothing is reloaded.
fn a_database_that_goes_and_comes(hooks: Hooks) {
    let (mut database, broker) = start(hooks);
    let mut bystander = Bystander::connect(&broker);
    let mut alice = Client::connect(&broker, &login("a", "alice", b"secret"));
    alice.subscribe("store/#", 0);
    let mut publish = |text: &str| {
        let code = alice.publish(&Publish::new("store/a", text).qos(1));
        if code == 0 {
            assert_eq!(alice.message().text(), text);
        }
        code
    };
    assert_eq!(publish("before"), 0);
    let stored = "SELECT convert_from(payload, 'UTF8') FROM messages ORDER BY id";
    database.wait_for(stored, "before");
    // EMQX's hooks query the database each time, so she is refused while it is away; our own hooks
    // store her rules.
    let (while_away, expected) = match hooks {
        Hooks::Emqx => (0x87, "before\nafter"),
        Hooks::Own => (0, "before\nhanging\ndead\nafter"),
    };

    let hanging = database.hang();
    a_login_ends_by_the_policy(&broker, &mut bystander);
    let how = match hooks {
        Hooks::Emqx => "has not done anything for 2000 ms and is killed",
        Hooks::Own => "Store.authenticate: psycopg.OperationalError",
    };
    broker.process().wait_for_line(how, PATIENCE, |line| line.contains(how).then_some(()));
    assert_eq!(publish("hanging"), while_away);
    // Rows wait to be written for longer than the time limit of an answer: that must not end the
    // worker.
    let since = Instant::now();
    while since.elapsed() < CALL_TIMEOUT * 3 / 2 {
        bystander.publishes(0);
    }
    database.kill(Some(hanging));
    a_login_ends_by_the_policy(&broker, &mut bystander);
    assert_eq!(publish("dead"), while_away);

    database.restart();
    wait_until_alice_connects(&broker).disconnect();
    assert_eq!(publish("after"), 0);
    database.wait_for(stored, expected);
    database.wait_for("SELECT event FROM history WHERE client = 'b' ORDER BY at", "connected\ndisconnected");
    // Restarted without a query in between: the stored connections are dead, but the first login
    // succeeds.
    database.kill(None);
    database.restart();
    Client::connect(&broker, &login("c", "alice", b"secret")).disconnect();
    bystander.others_continue();
    // A worker with coroutines survives; one that waited for the database was ended with its call.
    let anew = broker.process().log().contains("is restarted");
    assert_eq!(anew, hooks == Hooks::Emqx, "{}", broker.process().log());
}

#[test]
fn a_database_may_restart_with_hooks_of_emqx() {
    a_database_that_goes_and_comes(Hooks::Emqx);
}

#[test]
fn a_database_may_restart_with_hooks_of_our_own() {
    a_database_that_goes_and_comes(Hooks::Own);
}

/// A login with a slow query blocks neither other logins of the same worker nor connected clients.
#[test]
fn a_slow_query_delays_only_its_client() {
    let (database, broker) = start(Hooks::Own);
    // Bob's row exists when the test inserts it.
    database.sql(
        "CREATE TABLE gate ();
         CREATE FUNCTION sleep_until_the_gate_is_there() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.02); END LOOP;
            RETURN true;
         END $$;
         ALTER TABLE users RENAME TO people;
         CREATE VIEW users AS SELECT * FROM people WHERE username <> 'bob' OR sleep_until_the_gate_is_there();",
    );
    broker.ctl_ok(&[
        "plugins",
        "configure",
        "exhook",
        "--set",
        "options.timeout_s=15",
        "--set",
        "call_timeout=30s",
    ]);
    let mut alice = Client::connect(&broker, &login("a", "alice", b"secret"));
    let mut bob = Client::dial(&broker, Version::V5);
    bob.send(&login("b", "bob", b"bob's").encode());
    database.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1");
    alice.subscribe("store/#", 0);
    for n in 0..20 {
        assert_eq!(alice.publish(&Publish::new("store/a", n.to_string()).qos(1)), 0);
        assert_eq!(alice.message().text(), n.to_string());
    }
    for n in 0..5 {
        Client::connect(&broker, &login(&format!("c{n}"), "alice", b"secret")).disconnect();
    }
    database.wait_for("SELECT count(*) FROM messages", "20");
    assert_eq!(bob.next(Duration::from_millis(1)), Event::Silence, "bob is still waited for");
    database.sql("INSERT INTO gate DEFAULT VALUES");
    let code = bob.receive_where("CONNACK", |packet| match packet {
        grapnel_tests::Packet::Connack { code, .. } => Some(*code),
        _ => None,
    });
    assert_eq!(code, 0);
}

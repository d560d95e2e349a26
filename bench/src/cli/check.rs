//! Converts arguments into a `Load`: the checks that concern more than one option, each with a
//! remedy in its message.

use super::{CommonArgs, LoadCommand, PayloadHeader, PubArgs, SubArgs};
use crate::header::{Fields, random_run};
use crate::load::Load;
use crate::plan::{Messages, Names, Pace, PublisherShape, Setup, Shape, Sources, SubscriberShape, Version};
use crate::topic::Template;
use anyhow::{Result, bail, ensure};
use std::time::Duration;

/// Maximum length of MQTT strings and topics (MQTT 5.0 section 1.5.4), less some space for the
/// expansion of placeholders.
const TEXT_BYTES_MAX: usize = 65_000;
/// Largest remaining length (MQTT 5.0 section 1.5.5), less the largest part of a PUBLISH before the
/// payload.
const PAYLOAD_BYTES_MAX: usize = 268_435_455 - 65_535 - 16;

impl LoadCommand {
    /// Checks the arguments and resolves the host.
    pub fn into_load(self) -> Result<Load> {
        let mut setup = connections(self.common(), self.name())?;
        match &self {
            Self::Pub(args) => publish(args, self.limit(), &mut setup)?,
            Self::Sub(args) => subscribe(args, &mut setup)?,
            Self::Conn(_) => {}
        }
        Ok(Load { setup, command: self })
    }
}

/// Makes publishers of the connections.
fn publish(args: &PubArgs, limit: Option<u64>, setup: &mut Setup) -> Result<()> {
    let fields = fields(&args.payload_hdrs);
    check_topic(&args.topic, &args.common)?;
    ensure!(
        !args.topic.literals().contains(['+', '#']),
        "--topic of pub is a topic name and cannot hold the wildcards + and #"
    );
    ensure!(
        args.size >= fields.len(),
        "--size {} is too small for --payload-hdrs, which takes {} bytes; raise it",
        args.size,
        fields.len()
    );
    ensure!(args.size <= PAYLOAD_BYTES_MAX, "--size {} is more than an MQTT packet can hold", args.size);
    let Setup { names, shape, .. } = setup;
    let topic = |index| vec![names.topic(&args.topic, index)];
    shape.publishers = (0..std::mem::take(&mut shape.idle) as usize)
        .map(|index| PublisherShape { topics: topic(index), receivers: Vec::new() })
        .collect();
    setup.pace = Pace::Interval { gap: args.interval_of_msg, limit };
    setup.messages = Messages {
        qos: args.qos,
        retain: args.retain,
        payload: vec![b'a'; args.size].into(),
        fields,
        run: random_run(),
        window: args.window,
    };
    Ok(())
}

/// Makes subscribers of the connections.
fn subscribe(args: &SubArgs, setup: &mut Setup) -> Result<()> {
    for filter in &args.topic {
        check_topic(filter, &args.common)?;
    }
    let shared = args.topic.iter().filter(|filter| filter.starts_with("$share/")).count();
    ensure!(
        shared == 0 || shared == args.topic.len(),
        "shared and plain filters in one run make losses impossible to tell; start one sub for each kind"
    );
    setup.messages.qos = args.qos;
    let Setup { names, shape, .. } = setup;
    let filters = |index| args.topic.iter().map(|filter| names.topic(filter, index)).collect();
    shape.subscribers = (0..std::mem::take(&mut shape.idle) as usize)
        .map(|index| SubscriberShape { filters: filters(index), first_publisher: 0, received: Vec::new() })
        .collect();
    Ok(())
}

/// Clients that only connect. `command` is a part of their default identifiers.
fn connections(args: &CommonArgs, command: &str) -> Result<Setup> {
    let version = args.version;
    ensure!(
        args.session_expiry.is_none() || version == Version::V5,
        "--session-expiry is a property of MQTT 5: use it with -V 5"
    );
    ensure!(
        args.password.is_none() || args.username.is_some() || version == Version::V5,
        "--password needs --username before MQTT 5 [MQTT-3.1.2-22]"
    );
    ensure!(
        !args.username.as_ref().is_some_and(Template::needs_user_name),
        "%u is the user name itself and cannot be part of --username"
    );
    ensure!(
        args.startnumber.checked_add(args.count).is_some(),
        "--startnumber plus --count is more than {}",
        u32::MAX
    );
    ensure!(args.connects_pending_max > 0, "--connects-pending-max must be at least 1");
    for text in [&args.password, &args.prefix].into_iter().flatten() {
        ensure!(
            text.len() <= TEXT_BYTES_MAX,
            "--password and --prefix can have {TEXT_BYTES_MAX} bytes at most"
        );
    }
    let transport = args.transport.settle()?.with_host(&args.address.host)?.fresh();
    let broker = args.address.resolve()?;
    if let Some(foreign) = args.ifaddr.iter().find(|source| source.is_ipv4() != broker.is_ipv4()) {
        bail!("--ifaddr {foreign} is not of the same family as the broker's address {broker}");
    }
    let prefix = args.prefix.clone().unwrap_or_else(|| {
        // Different in each run, since two runs with equal ids would take each other's sessions
        // over; short enough for MQTT 3.1, which allows ids of 23 characters.
        format!("bench_{}_{:06x}_", command, random_run() & 0xFF_FFFF)
    });
    Ok(Setup {
        broker,
        transport,
        sources: Sources::Listed(args.ifaddr.clone()),
        version,
        names: Names {
            prefix,
            first: args.startnumber + 1,
            user_name: args.username.clone(),
            password: args.password.clone(),
        },
        keep_alive_s: args.keepalive,
        clean: args.clean,
        session_expiry_s: args.session_expiry,
        shape: Shape { idle: args.count, ..Shape::default() },
        leaves: false,
        messages: Messages::default(),
        pace: Pace::Interval { gap: Duration::ZERO, limit: None },
        connect_gap: args.interval,
        connects_pending_max: args.connects_pending_max,
        connect_timeout: args.connect_timeout,
        talks: !args.output.quiet,
    })
}

fn check_topic(topic: &Template, args: &CommonArgs) -> Result<()> {
    ensure!(*topic != Template::default(), "--topic is empty");
    ensure!(topic.literals().len() <= TEXT_BYTES_MAX, "--topic can have {TEXT_BYTES_MAX} bytes at most");
    ensure!(
        args.username.is_some() || !topic.needs_user_name(),
        "--topic holds %u, the user name, but there is no --username"
    );
    Ok(())
}

fn fields(names: &[PayloadHeader]) -> Fields {
    Fields { cnt: names.contains(&PayloadHeader::Cnt), ts: names.contains(&PayloadHeader::Ts) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command, load};
    use clap::Parser;

    /// Why a command line is refused.
    fn refusal(arguments: &str) -> String {
        let words = shlex::split(arguments).unwrap();
        let words = std::iter::once("grapnel-bench".to_owned()).chain(words);
        let checked = Cli::try_parse_from(words).map_err(Into::into).and_then(|cli| match cli.command {
            Command::Load(load) => load.into_load().map(drop),
            Command::Run(args) => args.scenario().and_then(|_| args.target.cpus()).map(drop),
            Command::Compare(args) => args.settle().map(drop),
            Command::Floor { .. } => Ok(()),
        });
        format!("{:#}", checked.unwrap_err())
    }

    #[test]
    fn the_command_lines_of_emqtt_bench_are_understood() {
        let arguments = "pub -h 127.0.0.2 -p 1884 -c 50 -i 0 -I 10 -t bench/%i -s 64 -q 1 -V 4 -k 60 -C false -r true -L 9 -F 7 -n 100 -u a%i -P b --prefix x_ --payload-hdrs cnt64,ts --ifaddr 127.0.0.1,127.0.0.3";
        let Load { setup, command } = load(arguments).unwrap();
        assert_eq!(setup.broker.to_string(), "127.0.0.2:1884");
        assert_eq!((setup.shape.clients(), setup.names.number(0), setup.keep_alive_s), (50, 101, 60));
        assert_eq!((setup.version, setup.clean, command.limit()), (Version::V311, false, Some(9)));
        assert_eq!(setup.connect_gap, Duration::ZERO);
        assert_eq!(setup.sources.of(setup.broker, 1), Some("127.0.0.3".parse().unwrap()));
        assert_eq!(setup.names.client_id(0), "x_101");
        assert_eq!(setup.names.user_name(0).as_deref(), Some("a101"));
        assert_eq!(setup.shape.publishers[1].topics, ["bench/102"]);
        let messages = setup.messages;
        assert_eq!((messages.qos, messages.retain, messages.window), (1, true, 7));
        assert_eq!(setup.pace, Pace::Interval { gap: Duration::from_millis(10), limit: Some(9) });
        assert_eq!(messages.payload.len(), 64);
        assert_eq!(messages.fields, Fields { cnt: true, ts: true });
    }

    #[test]
    fn flags_that_take_a_bool_can_stand_alone() {
        let load = load("pub -t a -r -C --json -c 1").unwrap();
        assert!(load.setup.messages.retain && load.setup.clean && load.command.common().output.json);
    }

    #[test]
    fn default_ids_fit_into_mqtt_31_and_differ_between_runs() {
        let id = |index: usize| load("conn -V 3").unwrap().setup.names.client_id(index);
        assert!(id(99_998).len() <= 23, "{}", id(99_998));
        assert_ne!(id(1), id(1));
    }

    #[test]
    fn contradictions_are_refused_with_a_remedy() {
        for (arguments, part) in [
            ("pub -t a/+", "cannot hold the wildcards"),
            ("pub -t a/%u", "there is no --username"),
            ("pub -t a/%x", "unknown placeholder %x"),
            ("pub -t a -s 8 --payload-hdrs cnt", "takes 20 bytes"),
            ("pub -t a -I -5", "unexpected argument"),
            ("pub -t a -I=-5", "must be a time"),
            ("pub -t a -q 3", "3 is not in 0..=2"),
            ("pub -t a -V 6", "6 is not in 3..=5"),
            ("pub", "--topic"),
            ("sub -t a -t $share/g/a", "start one sub for each kind"),
            ("conn -V 4 -x 60", "use it with -V 5"),
            ("conn -V 4 -P secret", "needs --username"),
            ("conn -u %u", "cannot be part of --username"),
            ("conn --ifaddr ::1", "not of the same family"),
            ("conn -c 0", "0 is not in 1.."),
            ("conn -h a..b", "cannot resolve"),
            ("run pairs -w 4 --burst 5", "does not fit into --window 4"),
            ("run pairs -w 4 --rate 5", "choose"),
            ("run paced -w 4", "take one-to-one"),
            ("run idle --rate 5", "sends no messages"),
            ("run pairs -s 27", "must be from 28"),
            ("run fan-out --pairs 3", "fan-out has no --pairs"),
            ("run pairs --filters 3", "pairs has no --filters"),
            ("run pairs --duration 0", "more than nothing"),
            ("run pairs --duration=-1", "must be a time"),
            ("run pairs -w 0", "0 is not in 1..=65535"),
            ("run pairs --broker-cpu 1", "needs --broker or --pid"),
            ("run pairs --broker x --pid 1", "cannot be used with"),
            ("run pairs --bench-cpu x", "not a list such as"),
            ("conn --cafile x", "add --tls, or leave --cafile out"),
            ("conn --no-resume", "add --tls, or leave --no-resume out"),
            ("conn --tls", "needs --cafile"),
            ("conn --ssl --cafile x --insecure", "leave one of them out"),
            ("conn -S --cafile /nowhere", "cannot read --cafile /nowhere"),
            ("conn --tls --cafile Cargo.toml", "has no certificate"),
            ("conn --tls --insecure --cert x", "add --key"),
            ("conn --tls --insecure --keyfile x", "add --cert"),
            ("conn --tls --insecure --certfile /nowhere --key x", "cannot read --cert /nowhere"),
            ("conn --tls --insecure --server-name a..b", "give a host name"),
            ("conn --tls --insecure --tls-version 1.1", "invalid value '1.1'"),
            ("conn --ws-path /x", "add --ws, or leave --ws-path out"),
            ("conn --ws --ws-path x", "must begin with /"),
            ("run pairs --tls", "needs --cafile"),
            ("compare --broker a=x --case pairs,tls", "needs --cafile"),
            ("compare --broker a=x --case pairs,ws", "put {scheme} into a command"),
            ("compare --broker a=x --insecure", "put {scheme} into a command"),
            ("run fly", "invalid value 'fly'"),
            ("compare --broker x", "is not NAME=COMMAND"),
            ("compare --broker 'a= '", "is not NAME=COMMAND"),
            ("compare --broker a=x --broker a=y", "a name of its own"),
            ("compare --broker floor=y", "a name of its own"),
            ("compare --broker a=x --case fly", "no scenario \"fly\""),
            ("compare --broker a=x --duration 0", "more than nothing"),
            ("compare --broker a=x --rounds 0", "0 is not in 1..=1000"),
            ("compare --broker a=x --bench-cpu z", "not a list such as"),
            ("compare", "--broker"),
        ] {
            let refusal = refusal(arguments);
            assert!(refusal.contains(part), "{arguments}: {refusal}");
        }
    }

    #[test]
    fn clap_accepts_its_own_definition() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

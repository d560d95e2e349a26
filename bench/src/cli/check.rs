//! From arguments to a `Plan`: the checks that concern more than one option, each with a remedy in its message.

use super::{CommonArgs, Load, PayloadHeader, PubArgs, SubArgs};
use crate::header::Fields;
use crate::plan::{Names, Output, Plan, PublishPlan, Role, SubscribePlan, Version};
use crate::topic::Template;
use anyhow::{Context, Result, bail, ensure};
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// MQTT strings and topics end here (MQTT 5.0 section 1.5.4); some room is left for what placeholders expand to.
const TEXT_BYTES_MAX: usize = 65_000;
/// Largest remaining length (MQTT 5.0 section 1.5.5), less the largest head of a PUBLISH.
const PAYLOAD_BYTES_MAX: usize = 268_435_455 - 65_535 - 16;

impl Load {
    /// Checks the arguments and resolves the host.
    pub fn into_plan(self) -> Result<Plan> {
        match self {
            Self::Pub(args) => publish(args),
            Self::Sub(args) => subscribe(args),
            Self::Conn(args) => common(args.common, "conn", Role::Hold),
        }
    }

    /// As the summary calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pub(_) => "pub",
            Self::Sub(_) => "sub",
            Self::Conn(_) => "conn",
        }
    }
}

fn publish(args: PubArgs) -> Result<Plan> {
    let fields = fields(&args.payload_hdrs);
    check_topic(&args.topic, &args.common)?;
    ensure!(
        !args.topic.has_literal(&['+', '#']),
        "--topic of pub is a topic name and cannot hold the wildcards + and #"
    );
    ensure!(
        args.size >= fields.len(),
        "--size {} is too small for --payload-hdrs, which takes {} bytes; raise it",
        args.size,
        fields.len()
    );
    ensure!(args.size <= PAYLOAD_BYTES_MAX, "--size {} is more than an MQTT packet can hold", args.size);
    let role = Role::Publish(PublishPlan {
        topic: args.topic,
        qos: args.qos,
        retain: args.retain,
        payload: vec![b'a'; args.size].into(),
        fields,
        interval: millis("--interval-of-msg", args.interval_of_msg)?,
        window: args.window,
        wait_for_all: args.wait_before_publishing,
        run: random_u32(),
    });
    let mut plan = common(args.common, "pub", role)?;
    plan.limit = Some(args.limit).filter(|limit| *limit > 0);
    Ok(plan)
}

fn subscribe(args: SubArgs) -> Result<Plan> {
    for filter in &args.topic {
        check_topic(filter, &args.common)?;
    }
    let shared = args.topic.iter().filter(|filter| filter.starts_with("$share/")).count();
    ensure!(
        shared == 0 || shared == args.topic.len(),
        "shared and plain filters in one run make losses impossible to tell; start one sub for each kind"
    );
    let header_expected = !args.payload_hdrs.is_empty();
    let role = Role::Subscribe(SubscribePlan { filters: args.topic, qos: args.qos, header_expected });
    let mut plan = common(args.common, "sub", role)?;
    plan.limit = Some(args.limit).filter(|limit| *limit > 0);
    plan.idle = args.idle.map(|idle| seconds("--idle", idle)).transpose()?;
    plan.gaps_max = args.gaps_max;
    Ok(plan)
}

fn common(args: CommonArgs, command: &str, role: Role) -> Result<Plan> {
    let version = match args.version {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    };
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
        "%u stands for the user name and cannot be part of --username"
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
    let broker = resolve(&args.host, args.port)?;
    if let Some(foreign) = args.ifaddr.iter().find(|source| source.is_ipv4() != broker.is_ipv4()) {
        bail!("--ifaddr {foreign} is not of the same family as the broker's address {broker}");
    }
    let prefix = args.prefix.unwrap_or_else(|| {
        // Not the same in two runs, which would take each other's sessions over; short enough for
        // MQTT 3.1, which allows ids of 23 characters.
        format!("bench_{command}_{:06x}_", random_u32() & 0xFF_FFFF)
    });
    Ok(Plan {
        broker,
        sources: args.ifaddr,
        version,
        count: args.count,
        start_number: args.startnumber,
        connect_gap: millis("--interval", args.interval)?,
        connects_pending_max: args.connects_pending_max,
        names: Names { prefix, user_name: args.username, password: args.password },
        keep_alive_s: args.keepalive,
        clean: args.clean,
        session_expiry_s: args.session_expiry,
        connect_timeout: seconds("--connect-timeout", args.connect_timeout)?,
        drain_timeout: seconds("--drain-timeout", args.drain_timeout)?,
        duration: args.duration.map(|duration| seconds("--duration", duration)).transpose()?,
        idle: None,
        limit: None,
        gaps_max: 0,
        role,
        output: Output { json: args.json, quiet: args.quiet, ready_file: args.ready_file },
    })
}

fn check_topic(topic: &Template, args: &CommonArgs) -> Result<()> {
    ensure!(*topic != Template::default(), "--topic is empty");
    ensure!(topic.literal_len() <= TEXT_BYTES_MAX, "--topic can have {TEXT_BYTES_MAX} bytes at most");
    ensure!(
        args.username.is_some() || !topic.needs_user_name(),
        "--topic holds %u, the user name, but there is no --username"
    );
    Ok(())
}

fn fields(names: &[PayloadHeader]) -> Fields {
    Fields { cnt: names.contains(&PayloadHeader::Cnt), ts: names.contains(&PayloadHeader::Ts) }
}

fn millis(option: &str, value: f64) -> Result<Duration> {
    seconds(option, value / 1000.0)
}

/// A time in seconds, as given with `option`.
pub fn seconds(option: &str, value: f64) -> Result<Duration> {
    // Everything internal counts nanoseconds in 64 bits; ten years stay clear of its end.
    const MAX_S: f64 = 315_360_000.0;
    ensure!((0.0..=MAX_S).contains(&value), "{option} must be a time from 0 to ten years");
    Ok(Duration::from_secs_f64(value))
}

/// The first address of a host.
pub fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let mut addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve --host {host}; give an address or a name that resolves"))?;
    addresses.next().with_context(|| format!("--host {host} has no address"))
}

/// From the seed that the standard library draws for its hash maps: distinct between runs, which is all it is for.
fn random_u32() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    u32::try_from(random >> 32).expect("32 bits")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn plan(arguments: &str) -> Result<Plan> {
        let words = std::iter::once("grapnel-bench").chain(arguments.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Load(load) => load.into_plan(),
            other => bail!("{other:?} is no load"),
        }
    }

    fn refusal(arguments: &str) -> String {
        format!("{:#}", plan(arguments).unwrap_err())
    }

    #[test]
    fn the_command_lines_of_emqtt_bench_are_understood() {
        let plan = plan("pub -h 127.0.0.2 -p 1884 -c 50 -i 0 -I 10 -t bench/%i -s 64 -q 1 -V 4 -k 60 -C false -r true -L 9 -F 7 -n 100 -u a%i -P b --prefix x_ --payload-hdrs cnt64,ts --ifaddr 127.0.0.1,127.0.0.3").unwrap();
        assert_eq!(plan.broker.to_string(), "127.0.0.2:1884");
        assert_eq!((plan.count, plan.start_number, plan.keep_alive_s), (50, 100, 60));
        assert_eq!((plan.version, plan.clean, plan.limit), (Version::V311, false, Some(9)));
        assert_eq!((plan.connect_gap, plan.sources.len()), (Duration::ZERO, 2));
        assert_eq!(plan.names.client_id(101), "x_101");
        assert_eq!(plan.names.user_name(101, "x_101").as_deref(), Some("a101"));
        let Role::Publish(publish) = plan.role else { panic!("not a publisher") };
        assert_eq!((publish.qos, publish.retain, publish.window), (1, true, 7));
        assert_eq!((publish.interval, publish.payload.len()), (Duration::from_millis(10), 64));
        assert_eq!(publish.fields, Fields { cnt: true, ts: true });
    }

    #[test]
    fn flags_that_take_a_bool_can_stand_alone() {
        let plan = plan("pub -t a -r -C --json -c 1").unwrap();
        let Role::Publish(publish) = plan.role else { panic!("not a publisher") };
        assert!(publish.retain && plan.clean && plan.output.json);
    }

    #[test]
    fn default_ids_fit_into_mqtt_31_and_differ_between_runs() {
        let (one, two) = (plan("conn -V 3").unwrap(), plan("conn -V 3").unwrap());
        assert!(one.names.client_id(99_999).len() <= 23, "{}", one.names.client_id(99_999));
        assert_ne!(one.names.client_id(1), two.names.client_id(1));
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

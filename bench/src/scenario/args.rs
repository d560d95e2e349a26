//! Options of `grapnel-bench run`, checked as a whole and converted into a `Scenario` and a
//! `Target`. `cli` names the arguments, `main` calls [`command`].

use super::target::{parse_cpus, pin, pin_process, usual_cpus};
use super::{FIELDS, Kind, Scenario, Target, Waiting};
use crate::options::{Address, Output, Usage, seconds, version};
use crate::plan::{Pace, Version};
use crate::report::print;
use crate::transport::TransportArgs;
use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use clap::{Args, Parser, ValueEnum};
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Largest payload: an MQTT packet can hold more, but no broker accepts it by default.
const SIZE_MAX: usize = 16 * 1024 * 1024;
/// Maximum window of one publisher, equal to the number of packet identifiers of QoS 1 and 2.
const WINDOW_MAX: u32 = 65_535;
/// Maximum number of clients of one kind, or of filters.
const COUNT_MAX: u32 = 1_000_000;

/// Parses numbers from 1 to `max`.
fn up_to(max: u32) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(max))
}

/// `grapnel-bench run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the scenario to run, or list
    #[arg(value_name = "SCENARIO", value_parser = what())]
    pub what: What,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub output: Output,
}

/// The load of a scenario where it is to differ from its defaults.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// QoS of messages and subscriptions: 0, 1 or 2
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload size in bytes, 28 to 16777216; the first 28 bytes are a header
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 64)]
    pub size: usize,
    /// Protocol version: 3 (MQTT 3.1), 4 (MQTT 3.1.1) or 5 (MQTT 5.0)
    #[arg(short = 'V', long, default_value = "5", value_parser = version())]
    pub version: Version,
    /// Length of the measured window in seconds, more than 0
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds of load before the measured window
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    pub warm_up: Duration,
    /// Closed loop: maximum number of messages of one publisher that not all of their subscribers have received,
    /// 1 to 65535 [default: the scenario's]
    #[arg(short = 'w', long, value_name = "MESSAGES", value_parser = up_to(WINDOW_MAX))]
    pub window: Option<u32>,
    /// Closed loop: a publisher sends this many messages at once, when its window has room for them, 1 to --window
    /// [default: the scenario's]
    #[arg(long, value_name = "MESSAGES", value_parser = up_to(WINDOW_MAX))]
    pub burst: Option<u32>,
    /// Open loop: messages a second of all publishers together, whatever the broker does, 1 to 100000000; latency
    /// counts from when a message was due
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Number of pairs of a publisher and a subscriber (one-to-one, ping-pong, pairs, pairs-one, paced), 1 to 1000000
    /// [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = up_to(COUNT_MAX))]
    pub pairs: Option<u32>,
    /// Number of publishers (fan-in, fan-out, fan-out-burst, wildcards), 1 to 1000000 [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = up_to(COUNT_MAX))]
    pub publishers: Option<u32>,
    /// Number of subscribers (fan-in, fan-out, fan-out-burst; approximate with wildcards), 1 to 1000000
    /// [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = up_to(COUNT_MAX))]
    pub subscribers: Option<u32>,
    /// Number of connections (connect-storm: in total; idle: at the same time), 1 to 1000000 [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = up_to(COUNT_MAX))]
    pub connections: Option<u32>,
    /// Number of filters of all subscribers together (wildcards), 1 to 1000000 [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = up_to(COUNT_MAX))]
    pub filters: Option<u32>,
    /// Maximum number of clients that are connecting at the same time, 1 to 1000000
    #[arg(long, value_name = "CLIENTS", default_value_t = 64, value_parser = up_to(COUNT_MAX))]
    pub connects_pending_max: u32,
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Maximum number of seconds without a delivery: after that the run ends, and outstanding messages count as lost;
    /// also the timeout of a connect
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub patience: Duration,
    /// Count the broker's system calls too, in a second window of the same length (needs root, and tracefs at /sys/kernel/tracing)
    #[arg(long)]
    pub syscalls: bool,
    /// How the generator waits for the next event [default: spin, or sleep if there is only one CPU]
    #[arg(long, value_name = "HOW")]
    pub waiting: Option<Waiting>,
}

/// Who is measured.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub address: Address,
    /// Process id of the broker at that address; without it, CPU time and memory are not measured
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Command that starts the broker, which is ended after the run; {listen} becomes 127.0.0.1:PORT with a free port,
    /// {port} only that port,
    /// {dir} a new directory, {scheme} mqtt, mqtts, ws or wss, as the options of TLS and WebSocket say
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["host", "port", "pid"])]
    pub broker: Option<String>,
    #[command(flatten)]
    pub cpus: CpuArgs,
}

// Named, so that clap takes the list as one value.
type CpuList = Vec<usize>;

/// Which CPUs are asked for.
#[derive(Debug, Clone, Args)]
pub struct CpuArgs {
    /// CPUs of the broker, such as 1 or 2-3,5 [default: the last one, if the broker is started by --broker]
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    broker_cpu: Option<CpuList>,
    /// CPUs of the generator, such as 0 [default: the first one]
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    bench_cpu: Option<CpuList>,
}

/// The first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Lists the scenarios.
    List,
    /// Runs this one.
    Run(Kind),
}

fn what() -> impl TypedValueParser<Value = What> {
    let list = PossibleValue::new("list").help("Print the names of the scenarios");
    let kinds = Kind::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    PossibleValuesParser::new(std::iter::once(list).chain(kinds))
        .map(|word| Kind::from_str(&word, false).map_or(What::List, What::Run))
}

impl RunArgs {
    /// The scenario to run; `None` if the list of them is to be printed.
    pub fn scenario(&self) -> Result<Option<Scenario>> {
        let What::Run(kind) = self.what else { return Ok(None) };
        let mut scenario = self.load.scenario(kind)?;
        scenario.transport = scenario.transport.with_host(&self.target.address.host)?;
        Ok(Some(scenario))
    }
}

/// Carries out `run` and prints the report; true if there was no error.
pub fn command(args: &RunArgs, stop: &AtomicBool) -> Result<bool> {
    let Some(mut scenario) = args.scenario().map_err(Usage)? else { return list().map(|()| true) };
    scenario.progress = !args.output.quiet;
    let cpus = args.target.cpus().map_err(Usage)?;
    let mut target = args.target.start(&cpus, &scenario)?;
    pin(&cpus.bench)?;
    let report = super::run(&scenario, &mut target, stop)?;
    print(&report, args.output.json)?;
    Ok(report.is_success())
}

fn list() -> Result<()> {
    let kinds = Kind::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let line = |kind: PossibleValue| {
        let about = kind.get_help().map(ToString::to_string).unwrap_or_default();
        format!("{:<15}{about}\n", kind.get_name())
    };
    std::io::stdout()
        .write_all(kinds.map(line).collect::<String>().as_bytes())
        .context("cannot write the list")
}

/// The options of a load without a command.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct LoadOptions {
    #[command(flatten)]
    load: LoadArgs,
}

impl Default for LoadArgs {
    fn default() -> Self {
        Self::parse(std::iter::empty()).expect("none of them is required")
    }
}

impl LoadArgs {
    /// Reads `--OPTION=VALUE` and so on.
    pub fn parse(options: impl Iterator<Item = String>) -> Result<Self, clap::Error> {
        LoadOptions::try_parse_from(options).map(|words| words.load)
    }

    /// The scenario of a kind with these options.
    pub fn scenario(&self, kind: Kind) -> Result<Scenario> {
        let mut scenario = Scenario::new(kind);
        ensure!(
            (FIELDS.len()..=SIZE_MAX).contains(&self.size),
            "--size must be from {} (the header that tells messages apart) to {SIZE_MAX} bytes",
            FIELDS.len()
        );
        ensure!(!self.duration.is_zero(), "--duration must be more than nothing");
        scenario.options = self.clone();
        scenario.transport = self.transport.settle()?;
        scenario.waiting = self.waiting.unwrap_or(scenario.waiting);
        scenario.pace = self.pace(kind, scenario.pace)?;
        self.set_counts(&mut scenario)?;
        if kind == Kind::Idle {
            // It receives no messages, so no event can be missed.
            scenario.waiting = Waiting::Sleep;
        }
        Ok(scenario)
    }

    fn pace(&self, kind: Kind, usual: Pace) -> Result<Pace> {
        let closed = self.window.is_some() || self.burst.is_some();
        let name = kind.name();
        ensure!(
            !closed || self.rate.is_none(),
            "--window and --burst belong to a closed loop, --rate to an open one; choose"
        );
        ensure!(
            kind.has_messages() || (!closed && self.rate.is_none()),
            "{name} sends no messages: leave out --window, --burst and --rate"
        );
        if let Some(rate) = self.rate {
            return Ok(Pace::Rate(rate));
        }
        let Pace::Credit { window, burst } = usual else {
            ensure!(!closed, "{name} is an open loop: give --rate, or take one-to-one for a window");
            return Ok(usual);
        };
        let window = self.window.unwrap_or(window.max(self.burst.unwrap_or(1)));
        let burst = self.burst.unwrap_or(burst.min(window));
        ensure!(burst <= window, "--burst {burst} does not fit into --window {window}");
        Ok(Pace::Credit { window, burst })
    }

    fn set_counts(&self, scenario: &mut Scenario) -> Result<()> {
        let kind = scenario.kind;
        let fans = matches!(kind, Kind::FanIn | Kind::FanOut | Kind::FanOutBurst | Kind::Wildcards);
        for (option, count, applies) in [
            ("--pairs", self.pairs, kind.is_pairs()),
            ("--publishers", self.publishers, fans),
            ("--subscribers", self.subscribers, fans),
            ("--connections", self.connections, !kind.has_messages()),
            ("--filters", self.filters, kind == Kind::Wildcards),
        ] {
            if count.is_some() && !applies {
                bail!("{} has no {option}; see grapnel-bench run list", kind.name());
            }
        }
        scenario.publishers = self.pairs.or(self.publishers).unwrap_or(scenario.publishers);
        scenario.subscribers = self.pairs.or(self.subscribers).unwrap_or(scenario.subscribers);
        scenario.connections = self.connections.unwrap_or(scenario.connections);
        scenario.filters = self.filters.unwrap_or(scenario.filters);
        Ok(())
    }
}

/// The CPUs of generator and broker.
#[derive(Debug, Clone)]
pub struct Cpus {
    /// CPUs of the generator; empty if the system selects them.
    pub bench: Vec<usize>,
    /// CPUs of the broker; empty if the system selects them.
    pub broker: Vec<usize>,
}

impl CpuArgs {
    /// The requested CPUs, or the first for the generator and the last for a broker that is started
    /// here.
    pub fn settle(&self, started_here: bool) -> Cpus {
        let (first, last) = usual_cpus();
        let broker = if started_here { last } else { Vec::new() };
        Cpus {
            bench: self.bench_cpu.clone().unwrap_or(first),
            broker: self.broker_cpu.clone().unwrap_or(broker),
        }
    }
}

impl TargetArgs {
    /// The CPUs of the generator and the broker.
    pub fn cpus(&self) -> Result<Cpus> {
        ensure!(
            self.broker.is_some() || self.pid.is_some() || self.cpus.broker_cpu.is_none(),
            "--broker-cpu needs --broker or --pid: whose CPUs are they otherwise?"
        );
        Ok(self.cpus.settle(self.broker.is_some()))
    }

    /// Starts the broker, or uses the running one.
    pub fn start(&self, cpus: &Cpus, scenario: &Scenario) -> Result<Target> {
        if let Some(command) = &self.broker {
            return Target::start(command, &cpus.broker, scenario);
        }
        let mut target = Target::at(self.address.resolve()?, self.pid);
        if let Some(pid) = self.pid {
            pin_process(pid, &cpus.broker)?;
            target.broker.cpus.clone_from(&cpus.broker);
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};

    fn scenario(arguments: &str) -> Result<Scenario> {
        let words = ["grapnel-bench", "run"].into_iter().chain(arguments.split_whitespace());
        let Command::Run(args) = Cli::try_parse_from(words)?.command else { bail!("not run") };
        args.scenario()?.context("no scenario")
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let pairs = scenario("pairs --pairs 7 -q 1 -s 100 -V 4 -w 5 --duration 0.5 --waiting sleep").unwrap();
        assert_eq!((pairs.publishers, pairs.subscribers), (7, 7));
        assert_eq!((pairs.options.qos, pairs.options.size), (1, 100));
        assert_eq!((pairs.options.version, pairs.waiting), (Version::V311, Waiting::Sleep));
        assert_eq!(pairs.pace, Pace::Credit { window: 5, burst: 5 });
        assert_eq!(pairs.options.duration.as_millis(), 500);
        for kind in Kind::value_variants() {
            let usual = Scenario::new(*kind);
            let told = scenario(&kind.name()).unwrap();
            assert_eq!(
                (told.pace, told.publishers, told.filters),
                (usual.pace, usual.publishers, usual.filters)
            );
        }
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        assert_eq!(scenario("paced").unwrap().pace, Pace::Rate(5000));
        assert_eq!(scenario("fan-in --rate 70").unwrap().pace, Pace::Rate(70));
        assert_eq!(
            scenario("one-to-one --burst 1000").unwrap().pace,
            Pace::Credit { window: 1000, burst: 1000 }
        );
    }
}

//! The report as a table.

use super::{Bench, Cpu, MemoryUse, Report, Syscalls, Used, Window};
use crate::report::{Rows, above_zero};
use grapnel_plugin_abi::counted;
use std::fmt;

/// Above this fraction the generator itself may limit the results.
const BUSY_MAX: f64 = 0.95;
/// Above this fraction of time without a CPU a process is named in the report: other processes, or
/// threads of its own, used the CPU.
const WAITED_MAX: f64 = 0.02;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { measured_s, cpu, children, bench, .. } = &self.window;
        let mut rows = Rows { f, width: 22 };
        rows.row("scenario", format!("{}: {}", self.scenario.name(), self.load()))?;
        rows.row("broker", self.who())?;
        rows.row("connects", self.connecting())?;
        rows.some("TLS handshakes", self.connects.handshakes.as_ref())?;
        rows.some("measured", measured_s.map(|measured_s| format!("{measured_s:.3} s")))?;
        if self.scenario.has_messages() {
            let Window { sent, delivered, sent_per_s, delivered_per_s, delivered_bytes_per_s, .. } =
                self.window;
            rows.row("sent", format!("{sent}{}", per_second(sent_per_s)))?;
            let bytes = delivered_bytes_per_s.map(|rate| format!(", {:.1} MB/s", rate / 1e6));
            let (rate, bytes) = (per_second(delivered_per_s), bytes.unwrap_or_default());
            rows.row("delivered", format!("{delivered}{rate}{bytes}"))?;
            rows.row("lost", self.lost)?;
        }
        let disconnects = ("disconnects", self.disconnects.into());
        for (name, count) in self.amiss().into_iter().skip(1).chain([disconnects]) {
            rows.some(name, above_zero(count))?;
        }
        let from = self.latency_from.unwrap_or_default();
        rows.some(&format!("latency from {from}"), self.latency_us.as_ref())?;
        rows.some("ack latency", self.ack_latency_us.as_ref())?;
        rows.some("connect latency", self.connects.latency_us.as_ref())?;
        rows.some("CPU per connect", self.connects.cpu_us_each.map(|each| format!("{each:.1} µs")))?;
        rows.some("broker's CPU", cpu.as_ref())?;
        rows.some("its children's CPU", children.as_ref())?;
        rows.some("broker's memory", self.memory.as_ref())?;
        rows.some("broker's calls", self.syscalls.as_ref())?;
        let why_not = self.syscalls_why_not.as_ref();
        rows.some("broker's calls", why_not.map(|why| format!("not counted: {why}")))?;
        rows.some("generator", bench.as_ref().filter(|_| self.scenario.has_messages()))?;
        rows.some("waited for a CPU", self.waited())?;
        rows.some("interrupted", self.interrupted.then_some("by a signal"))?;
        rows.errors(&self.errors)?;
        rows.some("broker's log", self.broker_log.as_ref())
    }
}

impl Report {
    fn load(&self) -> String {
        let options = &self.options;
        if !self.scenario.has_messages() {
            let connections = counted(options.connections, "connection");
            return format!("{connections}, {}, MQTT version {}", options.scheme, options.version);
        }
        let filters = above_zero(options.filters.into());
        let filters = filters.map(|count| format!(" with {}", counted(count, "filter"))).unwrap_or_default();
        let pace = match (options.window, options.burst, options.rate) {
            (Some(window), Some(burst), _) => format!("window {window}, burst {burst}"),
            (.., Some(rate)) => format!("{rate} messages/s"),
            _ => String::new(),
        };
        format!(
            "{} to {}{filters}, QoS {}, {} bytes, {pace}, {}, version {}",
            options.publishers,
            options.subscribers,
            options.qos,
            options.size,
            options.scheme,
            options.version
        )
    }

    fn who(&self) -> String {
        let pid = self.broker.pid.map_or(String::new(), |pid| format!(", process {pid}"));
        let cpus =
            if self.broker.cpus.is_empty() { String::new() } else { format!(", CPU {:?}", self.broker.cpus) };
        format!("{}{pid}{cpus}", self.broker.address)
    }

    /// A note if a process had to wait long for a CPU.
    fn waited(&self) -> Option<String> {
        let Window { cpu, bench, .. } = &self.window;
        let waited = [cpu.as_ref().map(|cpu| cpu.waited), bench.as_ref().and_then(|bench| bench.waited)];
        waited.iter().flatten().find(|waited| **waited > WAITED_MAX)?;
        let [broker, bench] =
            waited.map(|waited| waited.map_or("?".to_owned(), |waited| format!("{:.0}", waited * 100.0)));
        Some(format!("the broker's threads {broker} %, the generator {bench} % of the time"))
    }

    fn connecting(&self) -> String {
        let connects = &self.connects;
        let failed =
            if connects.failed > 0 { format!(", {} failed", connects.failed) } else { String::new() };
        format!("{} of {}{failed}{}", connects.connected, connects.started, per_second(connects.per_s))
    }
}

impl fmt::Display for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = if self.busy > BUSY_MAX { "; it may limit the results" } else { "" };
        write!(f, "busy {:.0} % of the time{limit}", self.busy * 100.0)
    }
}

impl Used {
    fn show(&self, f: &mut fmt::Formatter<'_>, parts: &str) -> fmt::Result {
        if let Some(each) = self.us_per_delivery {
            write!(f, "{each:.3} µs per delivery{parts}, ")?;
        }
        write!(f, "{:.1} % of one CPU", self.share * 100.0)
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, "")
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.user_us_per_delivery.zip(self.system_us_per_delivery);
        let parts = parts.map(|(user, system)| format!(" (user {user:.3}, system {system:.3})"));
        self.all.show(f, &parts.unwrap_or_default())
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} MiB, at most {:.1} MiB",
            mebibytes(self.now.rss_bytes),
            mebibytes(self.now.rss_peak_bytes)
        )?;
        if let Some(each) = self.bytes_per_connection {
            write!(f, ", {each:.0} bytes per connection")?;
        }
        Ok(())
    }
}

impl fmt::Display for Syscalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per_delivery {
            Some(each) => write!(f, "{each:.4} per delivery ({} for {})", self.count, self.delivered),
            None => write!(f, "{}", self.count),
        }
    }
}

fn per_second(rate: Option<f64>) -> String {
    rate.map_or(String::new(), |rate| format!(" ({rate:.1}/s)"))
}

//! The report as a table for people.

use super::{ChildrenCpu, Cpu, MemoryUse, Report, Syscalls};
use std::fmt;

/// A generator that is busy for more than this may be what limits the figures.
const BUSY_MAX: f64 = 0.95;
/// Who is kept from a CPU for more than this part of the time is told of: others, or threads of its own, were in the
/// way.
const WAITED_MAX: f64 = 0.02;

impl fmt::Display for Report {
    #[allow(clippy::too_many_lines, reason = "one line for each row of the table")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<22}{value}");
        row("scenario", &format!("{}: {}", self.scenario.name(), self.load()))?;
        row("broker", &self.who())?;
        row("connects", &self.connecting())?;
        if let Some(measured_s) = self.measured_s {
            row("measured", &format!("{measured_s:.3} s"))?;
        }
        if self.scenario.has_messages() {
            row("sent", &format!("{}{}", self.sent, per_second(self.sent_per_s)))?;
            let megabytes =
                self.delivered_bytes_per_s.map_or(String::new(), |rate| format!(", {:.1} MB/s", rate / 1e6));
            row("delivered", &format!("{}{}{megabytes}", self.delivered, per_second(self.delivered_per_s)))?;
            row("lost", &self.lost)?;
        }
        for (name, count) in [
            ("duplicated", self.duplicated),
            ("out of order", self.out_of_order),
            ("stray", self.stray),
            ("refused", self.refused),
            ("unacknowledged", self.unacked),
            ("disconnects", self.disconnects.into()),
        ] {
            if count > 0 {
                row(name, &count)?;
            }
        }
        if let Some(latency) = &self.latency_us {
            row(&format!("latency from {}", self.latency_from.unwrap_or_default()), latency)?;
        }
        for (name, latency) in
            [("ack latency", &self.ack_latency_us), ("connect latency", &self.connects.latency_us)]
        {
            if let Some(latency) = latency {
                row(name, latency)?;
            }
        }
        if let Some(each) = self.connects.cpu_us_each {
            row("CPU per connect", &format!("{each:.1} µs"))?;
        }
        if let Some(cpu) = &self.cpu {
            row("broker's CPU", cpu)?;
        }
        if let Some(children) = &self.children {
            row("its children's CPU", children)?;
        }
        if let Some(memory) = &self.memory {
            row("broker's memory", memory)?;
        }
        if let Some(calls) = &self.syscalls {
            row("broker's calls", calls)?;
        }
        if let Some(why) = &self.syscalls_why_not {
            row("broker's calls", &format!("not counted: {why}"))?;
        }
        if let Some(bench) = self.bench.as_ref().filter(|_| self.scenario.has_messages()) {
            let limit = if bench.busy > BUSY_MAX { "; it may be what limits the figures" } else { "" };
            row("generator", &format!("busy {:.0} % of the time{limit}", bench.busy * 100.0))?;
        }
        let waited =
            [self.cpu.as_ref().map(|cpu| cpu.waited), self.bench.as_ref().and_then(|bench| bench.waited)];
        if waited.iter().flatten().any(|waited| *waited > WAITED_MAX) {
            let [broker, bench] = waited
                .map(|waited| waited.map_or(String::from("?"), |waited| format!("{:.0}", waited * 100.0)));
            row(
                "waited for a CPU",
                &format!("the broker's threads {broker} %, the generator {bench} % of the time"),
            )?;
        }
        if self.interrupted {
            row("interrupted", &"by a signal")?;
        }
        for (error, count) in &self.errors {
            row("error", &format!("{count} × {error}"))?;
        }
        if let Some(log) = &self.broker_log {
            row("broker's log", log)?;
        }
        Ok(())
    }
}

impl Report {
    fn load(&self) -> String {
        let options = &self.options;
        if !self.scenario.has_messages() {
            return format!("{} connections, MQTT version {}", options.connections, options.version);
        }
        let filters =
            if options.filters > 0 { format!(" with {} filters", options.filters) } else { String::new() };
        let pace = match (options.window, options.burst, options.rate) {
            (Some(window), Some(burst), _) => format!("window {window}, burst {burst}"),
            (.., Some(rate)) => format!("{rate} messages/s"),
            _ => String::new(),
        };
        format!(
            "{} to {}{filters}, QoS {}, {} bytes, {pace}, version {}",
            options.publishers, options.subscribers, options.qos, options.size, options.version
        )
    }

    fn who(&self) -> String {
        let pid = self.broker.pid.map_or(String::new(), |pid| format!(", process {pid}"));
        let cpus =
            if self.broker.cpus.is_empty() { String::new() } else { format!(", CPU {:?}", self.broker.cpus) };
        format!("{}{pid}{cpus}", self.broker.address)
    }

    fn connecting(&self) -> String {
        let connects = &self.connects;
        let failed =
            if connects.failed > 0 { format!(", {} failed", connects.failed) } else { String::new() };
        format!("{} of {}{failed}{}", connects.connected, connects.started, per_second(connects.per_s))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(each) = self.us_per_delivery {
            write!(f, "{each:.3} µs per delivery")?;
            if let (Some(user), Some(system)) = (self.user_us_per_delivery, self.system_us_per_delivery) {
                write!(f, " (user {user:.3}, system {system:.3})")?;
            }
            write!(f, ", ")?;
        }
        write!(f, "{:.1} % of one CPU", self.share * 100.0)
    }
}

impl fmt::Display for ChildrenCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(each) = self.us_per_delivery {
            write!(f, "{each:.3} µs per delivery, ")?;
        }
        write!(f, "{:.1} % of one CPU", self.share * 100.0)
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} MiB, at most {:.1} MiB", mebibytes(self.rss_bytes), mebibytes(self.rss_peak_bytes))?;
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

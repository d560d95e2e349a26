//! A plugin for the tests of the host functions: metrics of each kind, threads, timers and instance
//! messages, and hooks that are mounted at run time. Its configuration and messages under
//! `host-calls/` select what it does besides counting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{
    Answer, Counter, Error, Fetch, Fetched, Gauge, Histogram, HookId, Host, Identity, InstanceMessage,
    Mounting, Outgoing, Plugin, Publish, Timer,
};

#[derive(serde::Deserialize)]
struct Config {
    /// Also registers a metric with this name, and fails if it is refused.
    #[serde(default)]
    metric: Option<String>,
    /// Number of threads that end when requested.
    #[serde(default)]
    threads: u32,
    /// One more thread ends this many milliseconds after the request.
    #[serde(default)]
    stubborn_ms: u64,
    /// Milliseconds that this thread has announced.
    #[serde(default)]
    patience_ms: u64,
    /// Mounts `late` in `load`, for these topics.
    #[serde(default)]
    mount_in_load: Option<String>,
}

/// What the instances share.
struct HostCalls {
    host: Host,
    metrics: Metrics,
    /// The id of the mounted hook `late`.
    mounted: Mutex<Option<HookId>>,
}

#[derive(Clone, Copy)]
struct Metrics {
    publishes: Counter,
    last_payload: Gauge,
    payload: Histogram,
    late: Counter,
    late_args: Gauge,
    refused: Counter,
    threads: Gauge,
    loaded: Gauge,
}

struct Instance {
    shared: Arc<HostCalls>,
    /// The client on whose behalf retained messages are read, and the filter.
    reads: Option<(Identity, String)>,
}

impl Plugin for HostCalls {
    type Config = Config;
    type Shard = Instance;

    fn load(config: Config, host: &Host) -> Result<HostCalls, Error> {
        if let Some(name) = config.metric {
            host.counter(&name, "as the test asked for")?;
        }
        let metrics = Metrics {
            publishes: host.counter("publishes", "messages that came in")?,
            last_payload: host.gauge("last_payload_bytes", "size of the last one")?,
            payload: host.histogram("payload_bytes", "sizes of all", &[4, 16])?,
            late: host.counter("late", "calls of the hook that is mounted at run time")?,
            late_args: host.gauge("late_args", "what it was mounted with")?,
            refused: host.counter("refused", "mounts and unmounts that the broker refused")?,
            threads: host.gauge("threads", "threads that have not been told to end")?,
            loaded: host.gauge("loaded", "versions that are loaded")?,
        };
        for number in 0..config.threads {
            host.spawn(&format!("polite-{number}"), move |host| {
                metrics.threads.adjust(1);
                while !host.wait_stop(Duration::from_secs(3600)) {}
                metrics.threads.adjust(-1);
            })?;
        }
        if config.stubborn_ms > 0 {
            let stubborn = Duration::from_millis(config.stubborn_ms);
            let patience = Duration::from_millis(config.patience_ms);
            host.spawn_for("stubborn", patience, move |host| {
                while !host.wait_stop(Duration::from_secs(3600)) {}
                let requested_at = Instant::now();
                while requested_at.elapsed() < stubborn {
                    std::thread::park_timeout(stubborn);
                }
                let answer = host.publish(&Outgoing::new("host-calls/last", "words"));
                host.info(format_args!("stubborn: the broker answers: {answer:?}"));
            })?;
        }
        let mounted = match config.mount_in_load {
            Some(topics) => {
                let mounting = Mounting::new().topics([topics]).args(7);
                Some(host.mount::<HostCalls>("late", &mounting)?)
            }
            None => None,
        };
        metrics.loaded.adjust(1);
        Ok(HostCalls { host: *host, metrics, mounted: Mutex::new(mounted) })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Instance, Error> {
        Ok(Instance { shared: Arc::clone(self), reads: None })
    }

    fn on_timer(instance: &mut Instance, _timer: Timer, number: u64) {
        instance.report("timer", number);
    }

    fn on_instance_message(instance: &mut Instance, message: &InstanceMessage<'_>) {
        instance.report("message", message.number);
    }

    fn on_answer(instance: &mut Instance, answer: Answer) {
        instance.report("answer", u64::from(answer.reason.0));
    }

    fn on_fetched(instance: &mut Instance, page: &Fetched<'_>) {
        let host = instance.shared.host;
        for message in page.messages() {
            let copy = message.to_outgoing(format!("fetched/{}", message.topic()));
            if let Err(refused) = host.publish(&copy) {
                host.error(refused);
            }
        }
        match page.next() {
            Some(place) => instance.read_on(place, page.number + 1),
            None => instance.report("end", page.number),
        }
    }
}

impl Drop for HostCalls {
    fn drop(&mut self) {
        self.metrics.loaded.adjust(-1);
    }
}

impl HostCalls {
    fn mount(&self, mounting: &Mounting) {
        match self.host.mount::<HostCalls>("late", mounting) {
            Ok(id) => *self.mounted.lock().unwrap_or_else(PoisonError::into_inner) = Some(id),
            Err(_) => self.metrics.refused.add_one(),
        }
    }

    fn unmount(&self) {
        let id = *self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_none_or(|id| self.host.unmount(id).is_err()) {
            self.metrics.refused.add_one();
        }
    }
}

impl Instance {
    /// Reports an event to the test.
    fn report(&self, what: &str, number: u64) {
        let host = self.shared.host;
        if let Err(refused) = host.publish(&Outgoing::new(format!("came/{what}"), number.to_string())) {
            host.error(refused);
        }
    }

    /// Requests the page with this number, with at most two messages.
    fn read_on(&self, place: &[u8], number: u64) {
        let Some((identity, filter)) = &self.reads else { return };
        let page = Fetch::new(filter).qos(1).messages_max(2).place(place);
        if let Err(refused) = self.shared.host.fetch_as(identity, page, number) {
            self.shared.host.error(refused);
        }
    }

    /// Starts a timer, and a thread that sends instance messages, after this many milliseconds.
    fn later(&self, number: u64) -> Result<(), Error> {
        let (host, after) = (self.shared.host, Duration::from_millis(number));
        host.timer(after, number)?;
        host.spawn("messages", move |host| {
            if !host.wait_stop(after) && host.instance_message(None, number, b"").is_err() {
                host.error("no message");
            }
        })?;
        Ok(())
    }

    fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Error> {
        let Metrics { publishes, last_payload, payload, .. } = self.shared.metrics;
        let bytes = message.payload().len() as i64;
        publishes.add_one();
        last_payload.set(bytes);
        payload.record(bytes);
        match message.topic() {
            "host-calls/mount" => self.shared.mount(&Mounting::new().args(bytes as usize)),
            "host-calls/mount-first" => self.shared.mount(&Mounting::new().priority(100)),
            "host-calls/unmount" => self.shared.unmount(),
            "host-calls/mount-from-a-thread" => {
                let shared = Arc::clone(&self.shared);
                let body = move |_: Host| shared.mount(&Mounting::new().args(3));
                if self.shared.host.spawn("mounts", body).is_err() {
                    self.shared.metrics.refused.add_one();
                }
            }
            "host-calls/later" => {
                let text = std::str::from_utf8(message.payload())?;
                self.later(text.parse()?)?;
            }
            "host-calls/fetch" => {
                let filter = std::str::from_utf8(message.payload())?;
                self.reads = Some((message.identity()?, filter.to_owned()));
                self.read_on(&[], 1);
            }
            "host-calls/fail" => return Err(std::io::Error::other("as the test asked for").into()),
            _ => {}
        }
        Ok(())
    }

    fn late(&mut self, message: &mut Publish<'_>) {
        self.shared.metrics.late.add_one();
        self.shared.metrics.late_args.set(message.args() as i64);
    }
}

grapnel_plugin_abi::plugin!(HostCalls {
    message.publish => Instance::publish,
    message.publish(manual = true) => Instance::late,
});

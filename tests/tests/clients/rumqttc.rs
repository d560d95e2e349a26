//! The crate rumqttc: it has equal names for MQTT 3.1.1 and 5 in two modules, so that one macro
//! makes both drivers. Each connection has a thread that polls its event loop; the end of that
//! thread drops the socket without DISCONNECT.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grapnel_tests::{Broker, PATIENCE, Version};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::oneshot;

use crate::driver::{Driver, Message, Refused, Settings};

/// A report of the event loop.
#[derive(Debug)]
enum LoopReport {
    Connected {
        session_present: bool,
    },
    Subscribed {
        granted: Option<u8>,
    },
    /// A publication is under way, or done if it has no identifier (QoS 0).
    Sent {
        id: u16,
    },
    Acknowledged,
    Message(Message),
    Disconnecting,
    /// The event loop failed or ended; no report follows.
    Ended(String),
}

/// Pause before an event loop connects again.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(50);

/// An event loop on its thread.
struct Loop {
    report: Receiver<LoopReport>,
    inbox: VecDeque<Message>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    /// Runs `run` on a thread, which reports events until it is stopped.
    fn start(run: impl FnOnce(Sender<LoopReport>, oneshot::Receiver<()>) + Send + 'static) -> Loop {
        let ((reports, report), (stop, stopped)) = (channel(), oneshot::channel());
        let thread = std::thread::spawn(move || run(reports, stopped));
        Loop { report, inbox: VecDeque::new(), stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for a report that `pick` accepts; messages that arrive meanwhile are stored.
    #[track_caller]
    fn wait<T>(&mut self, what: &str, pick: impl Fn(&LoopReport) -> Option<T>) -> Result<T, Refused> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.report.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(report) => match (pick(&report), report) {
                    (Some(picked), _) => return Ok(picked),
                    (None, LoopReport::Message(message)) => self.inbox.push_back(message),
                    (None, LoopReport::Ended(error)) => return Err(Refused(error)),
                    (None, _) => {}
                },
                Err(_) => panic!("rumqttc: no {what} in time"),
            }
        }
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Message>, Refused> {
        if let Some(message) = self.inbox.pop_front() {
            return Ok(Some(message));
        }
        let deadline = Instant::now() + timeout;
        loop {
            match self.report.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(LoopReport::Message(message)) => return Ok(Some(message)),
                Ok(LoopReport::Ended(error)) => return Err(Refused(error)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Refused("the event loop ended".to_owned()));
                }
            }
        }
    }

    /// Drops the connection, and waits until the socket is closed.
    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it has ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // That thread has printed its panic; a wait for a message then fails.
            let _ = thread.join();
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.end();
    }
}

/// Connects and subscribes.
#[track_caller]
pub fn open(broker: &Broker, version: Version, settings: &Settings) -> Result<Box<dyn Driver>, Refused> {
    let has_websocket = settings.layers.as_ref().is_some_and(|layers| layers.kind.has_websocket());
    if has_websocket && version != Version::V31 {
        return Err(Refused("built without the feature websocket".to_owned()));
    }
    match version {
        Version::V31 => Err(Refused(announced())),
        Version::V311 => v4::open(settings.port(broker), settings),
        Version::V5 => v5::open(settings.port(broker), settings),
    }
}

/// The version in the lock file; a crate cannot report its own.
pub fn release() -> String {
    let lock = include_str!("../../../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"rumqttc\"\n"));
    let version = package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next());
    version.expect("Cargo.lock has it").to_owned()
}

/// The CONNECT of the older of its two clients; none of its options changes that.
fn announced() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    // Stored while CONNECT is read; its CONNACK is never sent.
    let _client = v4::start(port, &Settings::new("witness"));
    let (mut stream, _) = listener.accept().expect("rumqttc connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("not a zero timeout");
    let mut packet = [0; 9];
    stream.read_exact(&mut packet).expect("rumqttc sends CONNECT");
    format!("its CONNECT says {}, level {}", String::from_utf8_lossy(&packet[4..8]), packet[8])
}

macro_rules! driver {
    (
        $module:ident, $($library:ident)::+, packet: $($packets:ident)::+,
        settings: $configure:expr,
    ) => {
        mod $module {
            use $($library)::+::{AsyncClient, Event, EventLoop, MqttOptions};
            use $($library)::+::mqttbytes::QoS;
            use $($packets)::+::{LastWill, Packet, SubscribeReasonCode};

            use super::*;

            struct Rumqttc {
                client: AsyncClient,
                events: Loop,
                session_present: bool,
            }

            pub fn open(port: u16, settings: &Settings) -> Result<Box<dyn Driver>, Refused> {
                let (client, mut events) = start(port, settings);
                let session_present = events.wait("CONNACK", |report| match report {
                    LoopReport::Connected { session_present } => Some(*session_present),
                    _ => None,
                })?;
                let qos = quality(settings.qos);
                for filter in &settings.filters {
                    client.try_subscribe(filter, qos).map_err(|error| Refused(error.to_string()))?;
                    let granted = events.wait("SUBACK", |report| match report {
                        LoopReport::Subscribed { granted } => Some(*granted),
                        _ => None,
                    })?;
                    assert_eq!(granted, Some(settings.qos), "what SUBACK granted for {filter}");
                }
                Ok(Box::new(Rumqttc { client, events, session_present }))
            }

            /// Connects in the background.
            pub(super) fn start(port: u16, settings: &Settings) -> (AsyncClient, Loop) {
                let mut options = MqttOptions::new(settings.client_id.clone(), "127.0.0.1", port);
                if let Some(layers) = &settings.layers {
                    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(layers.tls.clone())));
                }
                if let Some(will) = &settings.will {
                    let qos = quality(will.qos);
                    options.set_last_will(will_of!($module, will, qos));
                }
                let configure: fn(&mut MqttOptions, &Settings) = $configure;
                configure(&mut options, settings);
                let (client, eventloop) = AsyncClient::new(options, 10);
                let comes_back = settings.comes_back;
(client, Loop::start(move |reports, stopped| run(eventloop, comes_back, &reports, stopped)))
            }

            fn run(mut eventloop: EventLoop, comes_back: bool, reports: &Sender<LoopReport>, mut stopped: oneshot::Receiver<()>) {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                // QoS 2 ends with PUBCOMP: an earlier end would leave half an exchange in the
                // session.
                let mut halves = HashMap::new();
                runtime.expect("a runtime of one thread").block_on(async {
                    loop {
                        tokio::select! {
                            _ = &mut stopped => return,
                            event = eventloop.poll() => match event {
                                // An error means that there is no receiver, which `stopped` reports
                                // next.
                                Ok(event) => drop(translate(event, &mut halves).map(|report| reports.send(report))),
                                // The next poll connects again; the library leaves a pause to its
                                // user.
                                Err(_) if comes_back => tokio::time::sleep(BETWEEN_CONNECTS).await,
                                Err(error) => {
                                    drop(reports.send(LoopReport::Ended(error.to_string())));
                                    return;
                                }
                            },
                        }
                    }
                });
            }

            fn translate(event: Event, halves: &mut HashMap<u16, Message>) -> Option<LoopReport> {
                Some(match event {
                    Event::Incoming(Packet::ConnAck(connack)) => {
                        LoopReport::Connected { session_present: connack.session_present }
                    }
                    Event::Incoming(Packet::SubAck(suback)) => {
                        let granted = match suback.return_codes[..] {
                            [SubscribeReasonCode::Success(qos)] => Some(qos as u8),
                            _ => None,
                        };
                        LoopReport::Subscribed { granted }
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        let message = Message {
                            topic: String::from_utf8(publish.topic.into()).expect("topics are UTF-8"),
                            payload: publish.payload.to_vec(),
                            qos: publish.qos as u8,
                            retain: publish.retain,
                        };
                        if publish.qos == QoS::ExactlyOnce {
                            halves.insert(publish.pkid, message);
                            return None;
                        }
                        LoopReport::Message(message)
                    }
                    Event::Outgoing(Outgoing::PubComp(id)) => LoopReport::Message(halves.remove(&id)?),
                    Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => LoopReport::Acknowledged,
                    Event::Outgoing(Outgoing::Publish(id)) => LoopReport::Sent { id },
                    Event::Outgoing(Outgoing::Disconnect) => LoopReport::Disconnecting,
                    _ => return None,
                })
            }

            fn quality(qos: u8) -> QoS {
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)]
            }

            impl Driver for Rumqttc {
                fn session_present(&self) -> Result<bool, Refused> {
                    Ok(self.session_present)
                }

                fn publish(&mut self, message: &Message) -> Result<(), Refused> {
                    let (qos, payload) = (quality(message.qos), message.payload.clone());
                    self.client
                        .try_publish(message.topic.clone(), qos, message.retain, payload)
                        .map_err(|error| Refused(error.to_string()))?;
                    self.events.wait("end of the publication", |report| match report {
                        LoopReport::Sent { id: 0 } | LoopReport::Acknowledged => Some(()),
                        _ => None,
                    })
                }

                fn next(&mut self, timeout: Duration) -> Result<Option<Message>, Refused> {
                    self.events.next(timeout)
                }

                fn disconnect(mut self: Box<Self>) -> Result<(), Refused> {
                    self.client.try_disconnect().map_err(|error| Refused(error.to_string()))?;
                    self.events.wait("DISCONNECT", |report| matches!(report, LoopReport::Disconnecting).then_some(()))?;
                    // The event loop continues until the broker closes.
                    self.events.wait("end", |report| matches!(report, LoopReport::Ended(_)).then_some(()))
                }

                fn drop_connection(mut self: Box<Self>) {
                    self.events.end();
                }
            }
        }
    };
}

macro_rules! will_of {
    (v4, $will:ident, $qos:ident) => {
        LastWill::new($will.topic.clone(), $will.payload.clone(), $qos, $will.retain)
    };
    (v5, $will:ident, $qos:ident) => {
        LastWill::new($will.topic.clone(), $will.payload.clone(), $qos, $will.retain, None)
    };
}

driver! {
    v4, rumqttc, packet: rumqttc::mqttbytes::v4,
    settings: |options, settings| {
        options.set_clean_session(settings.clean);
        if let Some(bytes) = settings.packet_bytes_max {
            options.set_max_packet_size(bytes as usize, bytes as usize);
        }
    },
}

driver! {
    v5, rumqttc::v5, packet: rumqttc::v5::mqttbytes::v5,
    settings: |options, settings| {
        options.set_clean_start(settings.clean).set_session_expiry_interval(settings.expiry_s());
        options.set_max_packet_size(settings.packet_bytes_max);
    },
}

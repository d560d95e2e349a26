//! A plugin for the tests with a hook at every point. It executes a script there, and writes each
//! call and what it saw to a file. The script of a client is its identifier, or the topic if an
//! event has no client, so that one broker runs many cases at once; scripts for the broker's own
//! points are configured. `c-table` is the same in C; `tests/tests/table` computes the expected
//! result.

mod event;
mod script;

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{Error, Flow, HookPoint, Host, Plugin};

use event::{Answer, ScriptedEvent, Told};
use script::{Action, Ending, Script};

/// Deadline of a verdict that never comes.
const DEADLINE: Duration = Duration::from_millis(20);
/// Deadline of a verdict that comes; never reached.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(serde::Deserialize)]
struct Config {
    /// The number of this copy, from 0; scripts refer to it.
    place: u32,
    /// A file to append to.
    record: String,
    /// Scripts for the broker's own points, separated by `;`.
    #[serde(default)]
    scripts: String,
}

/// A deferred verdict: its ticket, the ending, and whether the change is made.
type Later = (Answer, Ending, bool);

struct Table {
    config: Config,
    record: File,
    later: Sender<Later>,
    /// Tickets that are not completed before the plugin ends.
    unanswered: Mutex<Vec<Answer>>,
}

struct Instance {
    table: Arc<Table>,
}

impl Plugin for Table {
    type Config = Config;
    type Shard = Instance;

    fn load(config: Config, _host: &Host) -> Result<Table, Error> {
        let record = File::options().append(true).create(true).open(&config.record)?;
        let (later, inbox) = channel::<Later>();
        // It ends when the plugin has dropped its sender.
        std::thread::Builder::new().name("table".into()).spawn(move || {
            for (answer, ending, changed) in inbox {
                answer(ending, changed);
            }
        })?;
        Ok(Table { config, record, later, unanswered: Mutex::default() })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Instance, Error> {
        Ok(Instance { table: Arc::clone(self) })
    }
}

impl Table {
    /// One write for each line, so that the lines of all copies stay complete and in order.
    fn write(&self, script: &Script<'_>, point: &str, saw: &str) -> Result<(), Error> {
        let line = format!("{} {} {point} {saw}\n", script.case, self.config.place);
        Ok((&self.record).write_all(line.as_bytes())?)
    }

    fn run_script<'a>(&self, point: &str, event: &mut impl ScriptedEvent<'a>) -> Result<Flow, Error> {
        let Some(script) = self.script_of(point, event) else { return Ok(Flow::Continue) };
        if script.point != point {
            if let Some(notified) = event.notified().filter(|_| self.config.place == 0) {
                self.write(&script, point, &notified)?;
            }
            return Ok(Flow::Continue);
        }
        if !event.is_meant(script.change) {
            return Ok(Flow::Continue);
        }
        self.write(&script, point, event.saw(script.change))?;
        if script.place != self.config.place { Ok(Flow::Continue) } else { self.action(script, event) }
    }

    fn script_of<'s, 'a: 's>(&'s self, point: &str, event: &impl ScriptedEvent<'a>) -> Option<Script<'s>> {
        let configured = || self.config.scripts.split(';').filter_map(Script::parse);
        event
            .texts()
            .into_iter()
            .find_map(Script::parse)
            .or_else(|| configured().find(|script| script.point == point))
    }

    fn action<'a>(&self, script: Script<'_>, event: &mut impl ScriptedEvent<'a>) -> Result<Flow, Error> {
        match script.action {
            Action::Returns(ending, changed) => {
                if changed {
                    event.change(script.change)?;
                }
                match ending {
                    Ending::Continue => Ok(Flow::Continue),
                    Ending::Stop => Ok(Flow::Stop),
                    Ending::Fault => Err(Error::new("as the test asked for")),
                }
            }
            Action::Breaks => {
                event.change(script.change)?;
                // Without the panic hook, which would write to the log: the tests search the log
                // for panics.
                std::panic::resume_unwind(Box::new("as the test asked for"))
            }
            Action::Defers(first, ending, changed) => {
                if first {
                    event.change(script.change)?;
                }
                if let Some(answer) = event.defer(script.change, PATIENCE)? {
                    // If the thread has ended, the ticket is dropped here, which is a fault.
                    let _ = self.later.send((answer, ending, changed));
                }
                Ok(Flow::Defer)
            }
            Action::Deadline(first) => {
                if first {
                    event.change(script.change)?;
                }
                if let Some(answer) = event.defer(script.change, DEADLINE)? {
                    self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                }
                Ok(Flow::Defer)
            }
        }
    }
}

/// What a script can do with an event. Most at points that can be changed; at other points the
/// event is only recorded.
#[rustfmt::skip]
macro_rules! event {
    ($event:ident Connect) => { $event };
    ($event:ident Authenticate) => { $event };
    ($event:ident Authorize) => { $event };
    ($event:ident Connack) => { $event };
    ($event:ident Connected) => { $event };
    ($event:ident Subscribe) => { $event };
    ($event:ident Unsubscribe) => { $event };
    ($event:ident Publish) => { $event };
    ($event:ident Delivered) => { $event };
    ($event:ident Packet) => { $event };
    ($event:ident $notification:ident) => { &mut Told($event.__at_hand()) };
}

/// A hook for each point; at client.authorize also for deliveries.
macro_rules! hooks {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident $about:tt)*) => {
        impl Instance {
            $(fn $hook(&mut self, event: &mut grapnel_plugin_abi::$type<'_>) -> Result<Flow, Error> {
                self.table.run_script(HookPoint::$point.name(), event!(event $type))
            })*
        }

        grapnel_plugin_abi::plugin!(Table {
            $($group.$event(
                name = stringify!($event),
                deliver = matches!(HookPoint::$point, HookPoint::ClientAuthorize),
            ) => Instance::$hook,)*
        });
    };
}

grapnel_plugin_abi::for_each_point! { hooks }

//! A plugin for the tests of verbs: arguments of every type, every kind of answer, and verbs that
//! wait, panic, answer too much, or never answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::verb::{Answer, Then};
use grapnel_plugin_abi::{
    ClientAction, Error, Host, NoArguments, NoConfig, OnBehalf, Plugin, PluginInfo, Publish, Refused, Secret,
    VerbCall, VerbError, Verbs,
};

struct Speaker {
    host: Host,
}

struct SpeakerShard;

grapnel_plugin_abi::arguments! {
    struct Greet {
        /// Whom
        name: String,
        /// How often
        times: u8 { defaults_to: "1", max: 3 },
        /// In which mood
        mood: Option<String> { one_of: ["happy", "sad"] },
        /// What to add
        tag: Vec<String>,
        /// In which time
        within: Option<Duration> { max: 60_000 },
        /// In capital letters
        loud: bool,
    }
}

grapnel_plugin_abi::arguments! {
    struct Exit {
        /// What grapnel-ctl ends with
        code: u8,
    }
}

grapnel_plugin_abi::arguments! {
    struct Flood {
        /// How many bytes to answer with
        bytes: u32,
    }
}

grapnel_plugin_abi::arguments! {
    struct Asks {
        /// How often
        times: u32,
    }
}

grapnel_plugin_abi::arguments! {
    struct Until {
        /// The file that it waits for
        file: PathBuf,
    }
}

grapnel_plugin_abi::arguments! {
    struct Wait {
        /// How long
        time: Duration { max: 3_600_000, extends_deadline: true },
    }
}

grapnel_plugin_abi::arguments! {
    struct Login {
        /// Who
        user: String,
        /// The password
        password: Option<Secret> {
            required: true, prompt: "Password of {user}", max: 16, twice: true, unless: "forget"
        },
        /// Forget the password instead
        forget: bool,
    }
}

grapnel_plugin_abi::arguments! {
    struct Mark {
        /// What is to be done with the hook, or with the plugin
        what: String { one_of: ["on", "off", "away", "back"] },
        /// Also where nobody would decide any more
        force: bool,
        about: PluginInfo,
    }
}

grapnel_plugin_abi::arguments! {
    struct Halves {
        /// The file that it waits for
        file: PathBuf,
        about: PluginInfo,
    }
}

grapnel_plugin_abi::arguments! {
    struct Count {
        /// The file whose bytes are counted
        file: PathBuf,
    }
}

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    calls: u32,
    mean_us: Option<u32>,
}

impl Plugin for Speaker {
    type Config = NoConfig;
    type Shard = SpeakerShard;

    fn load(_config: NoConfig, host: &Host) -> Result<Speaker, Error> {
        Ok(Speaker { host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<SpeakerShard, Error> {
        Ok(SpeakerShard)
    }

    fn verbs() -> Verbs<Self> {
        Verbs::new()
            .read("greet", "Says hello", Speaker::greet)
            .read("table rows", "A table with two rows", Speaker::rows)
            .read("exit", "Ends with a code", |_, Exit { code }, _| Ok(Answer::text("ended").exit_code(code)))
            .read("flood", "Answers with so many bytes", |_, Flood { bytes }, _| {
                Ok(Answer::text("x".repeat(bytes as usize)))
            })
            .read(
                "asks",
                "Requests rights of a client, and shows how often that was not refused",
                Speaker::asks,
            )
            .read("panic", "Panics", |_, NoArguments, _| panic!("as it is told"))
            .read("fail", "Fails", |_, NoArguments, _| Err(VerbError::new("the database is away")))
            .read("miss", "Finds nothing", |_, NoArguments, _| {
                Err(VerbError::absent("there is no such thing"))
            })
            .read("misuse", "Does not like its arguments", |_, NoArguments, _| {
                Err(VerbError::usage("not on a Monday"))
            })
            .read("wait", "Answers after a while, or when the plugin ends", Speaker::wait)
            .read("hang", "Answers only once there is a file, whatever it is told", Speaker::hang)
            .deadline(Duration::from_millis(200))
            .read("stay", "Answers once nobody waits for it", Speaker::stay)
            .read("lie", "Wants a change although it only looks", |_, NoArguments, _| {
                Ok(Answer::default().then(Then::Disable { force: true }))
            })
            .read("login", "Shows how long a password is", Speaker::login)
            .change("mark", "Switches the hook or the plugin", Speaker::mark)
            .change(
                "halves",
                "Takes its hooks out and then wants one changed that there is not",
                Speaker::halves,
            )
            .local("count", "Counts the bytes of a file, without a broker", Speaker::count)
            .local("reach", "Wants a change where there is no broker", |NoArguments, _| {
                Ok(Answer::text("done").then(Then::Enable))
            })
            .local("crash", "Ends its process", |NoArguments, _| std::process::abort())
    }
}

impl Speaker {
    fn greet(self: &Arc<Self>, given: Greet, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let Greet { name, times, mood, tag, within, loud } = given;
        let text = format!("hello {name}\n").repeat(usize::from(times));
        let text = if loud { text.to_uppercase() } else { text };
        let within_ms = within.map_or(0, |within| within.as_millis());
        Ok(Answer::text(format!("{text}{mood:?} {tag:?} {within_ms}")))
    }

    fn rows(self: &Arc<Self>, _given: NoArguments, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let row = |name, calls, mean_us| Row { name, calls, mean_us };
        Ok(Answer::rows(&[row("one", 7, None), row("two", 12, Some(3))])?)
    }

    fn asks(self: &Arc<Self>, Asks { times }: Asks, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let action = ClientAction::Publish("t", 0, false);
        let requests =
            (0..times).map(|number| self.host.authorize_as(OnBehalf::client("c"), action, u64::from(number)));
        Ok(Answer::text(requests.filter(Result::is_ok).count().to_string()))
    }

    fn wait(self: &Arc<Self>, Wait { time }: Wait, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        self.host.info("it waits");
        Ok(Answer::text(if self.host.wait_stop(time) { "the plugin ends" } else { "the time is over" }))
    }

    #[allow(clippy::disallowed_methods, reason = "it hangs, as a plugin may that listens to nothing")]
    fn hang(self: &Arc<Self>, Until { file }: Until, call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        self.host.info("it hangs");
        let mut is_awaited = true;
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(5));
            if is_awaited && !call.is_awaited() {
                is_awaited = false;
                self.host.info("nobody waits for it");
            }
        }
        Ok(Answer::text("there it is"))
    }

    fn stay(self: &Arc<Self>, _: NoArguments, call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        self.host.info("it stays");
        while call.is_awaited() {
            if self.host.wait_stop(Duration::from_millis(5)) {
                return Ok(Answer::text("the plugin ends"));
            }
        }
        self.host.info("nobody waits for it");
        Ok(Answer::default())
    }

    fn login(self: &Arc<Self>, given: Login, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let Login { user, password, forget } = given;
        let bytes = password.map(|Secret(password)| password.len());
        Ok(Answer::text(format!("{user}: {bytes:?} bytes, {forget}")))
    }

    fn mark(self: &Arc<Self>, given: Mark, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let Mark { what, force, about } = given;
        let hooks: Vec<String> = about.hooks.iter().map(|hook| hook.key()).collect();
        let then = match what.as_str() {
            "on" => Then::Mount { hooks },
            "off" => Then::Unmount { hooks, force },
            "away" => Then::Disable { force },
            _ => Then::Enable,
        };
        Ok(Answer::text(format!("{} is {}", about.name, about.state)).then(then))
    }

    fn halves(self: &Arc<Self>, given: Halves, call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let Halves { file, about } = given;
        self.hang(Until { file }, call)?;
        let hooks = about.hooks.iter().map(|hook| hook.key()).collect();
        let wrong = Then::Mount { hooks: vec!["message.publish/none".to_owned()] };
        Ok(Answer::text("half").then(Then::Unmount { hooks, force: false }).then(wrong))
    }

    fn count(Count { file }: Count, _call: &VerbCall<'_>) -> Result<Answer, VerbError> {
        let bytes = std::fs::read(&file)?.len();
        Ok(Answer::text(format!("{bytes} bytes")).value(&bytes)?)
    }
}

impl SpeakerShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        message.add_user_property("marked", "yes")
    }
}

grapnel_plugin_abi::plugin!(Speaker { message.publish => SpeakerShard::publish });

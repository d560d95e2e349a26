//! Documentation tests that must not compile: safe plugin code cannot keep a view of an event after
//! its call. The list of hook points in `lib.rs` makes one test for each point. Nothing of this is
//! in the library.
//!
//! Stable compilers do not compare error codes, so each program that must fail has a second version
//! that must compile and differs only in the tested part.

/// A plugin with this function as its hook at a point, as the program of a documentation test.
#[cfg(doctest)]
macro_rules! program {
    ($group:ident.$event:ident $type:ident, $($hook:expr),+) => {
        concat!(
            "use grapnel_plugin_abi::{Error, Host, InstanceMessage, NoConfig, Plugin, ",
            stringify!($type),
            "};\n",
            "use std::sync::Arc;\n",
            "use std::time::Duration;\n",
            "struct Keeps { text: Option<&'static str>, copy: String, host: Option<Host> }\n",
            "impl Plugin for Keeps {\n",
            "    type Config = NoConfig;\n",
            "    type Shard = Keeps;\n",
            "    fn load(_: NoConfig, host: &Host) -> Result<Keeps, Error> {\n",
            "        Ok(Keeps { text: None, copy: String::new(), host: Some(*host) })\n",
            "    }\n",
            "    fn init_shard(self: &Arc<Self>, _: u32) -> Result<Keeps, Error> {\n",
            "        Ok(Keeps { text: None, copy: String::new(), host: self.host })\n",
            "    }\n",
            "    fn on_instance_message(shard: &mut Keeps, message: &InstanceMessage<'_>) { shard.copy = format!(\"{:?}\", message.bytes); }\n",
            "}\n",
            "impl Keeps {\n",
            $($hook,)+
            "\n}\n",
            "grapnel_plugin_abi::__exported!(Keeps { ",
            stringify!($group),
            ".",
            stringify!($event),
            " => Keeps::hook, });\n"
        )
    };
}

/// For each hook point: a hook that accepts only one lifetime of its event, and the correct hook.
macro_rules! of_each_event {
    ($($point:ident: $group:ident.$event:ident $type:ident;)*) => {
        #[cfg(doctest)]
        mod lifetimes_of_events {
            $(
                #[doc = concat!(
                    "```compile_fail,E0521\n",
                    $crate::lifetimes::program!(
                        $group.$event $type,
                        "fn hook(&mut self, event: &mut ", stringify!($type), "<'static>) { let _ = event.args(); }"
                    ),
                    "```\n\n```\n",
                    $crate::lifetimes::program!(
                        $group.$event $type,
                        "fn hook(&mut self, event: &mut ", stringify!($type), "<'_>) { let _ = event.args(); }"
                    ),
                    "```\n"
                )]
                pub struct $point;
            )*
        }
    };
}

pub(crate) use of_each_event;
#[cfg(doctest)]
pub(crate) use program;

/// Other ways to keep a view: the hook that must not compile, with its error, and the one that must
/// compile.
#[cfg(doctest)]
macro_rules! ways {
    ($($(#[$doc:meta])* $name:ident: $error:literal $bad:literal, $good:literal;)*) => {$(
        $(#[$doc])*
        #[doc = concat!(
            "\n```compile_fail", $error, "\n",
            program!(message.publish Publish, $bad),
            "```\n\n```\n",
            program!(message.publish Publish, $good),
            "```\n"
        )]
        pub struct $name;
    )*};
}

#[cfg(doctest)]
ways! {
    /// A view in the instance.
    InTheInstance: ""
        "fn hook(&mut self, event: &mut Publish<'_>) { self.text = Some(event.topic()); }",
        "fn hook(&mut self, event: &mut Publish<'_>) { self.copy = event.topic().to_owned(); }";
    /// A view in a thread-local.
    InAThreadLocal: ",E0521"
        "fn hook(&mut self, event: &mut Publish<'_>) {
            thread_local! { static KEPT: std::cell::Cell<&'static str> = const { std::cell::Cell::new(\"\") }; }
            KEPT.set(event.topic());
        }",
        "fn hook(&mut self, event: &mut Publish<'_>) {
            thread_local! { static KEPT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) }; }
            KEPT.set(event.topic().len());
        }";
    /// A lifetime parameter with the bound `'static`.
    BoundToBeStatic: ""
        "fn hook<'a>(&mut self, event: &mut Publish<'a>) where 'a: 'static { self.text = Some(event.topic()); }",
        "fn hook<'a>(&mut self, event: &mut Publish<'a>) where 'a: 'a { self.copy = event.topic().to_owned(); }";
    /// The event itself.
    TheEventItself: ",E0521"
        "fn hook(&mut self, _event: &'static mut Publish<'_>) {}",
        "fn hook(&mut self, _event: &mut Publish<'_>) {}";
    /// The instance.
    TheInstance: ",E0521"
        "fn hook(&'static mut self, _event: &mut Publish<'_>) {}",
        "fn hook(&mut self, _event: &mut Publish<'_>) {}";
    /// A view in a thread of the plugin.
    InAThread: ",E0521"
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let topic = event.topic();
            let _ = event.host().spawn(\"t\", move |host| host.info(topic));
        }",
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let topic = event.topic().to_owned();
            let _ = event.host().spawn(\"t\", move |host| host.info(topic));
        }";
    /// The event on another thread; its views belong to the calling thread.
    OnAnotherThread: ",E0277"
        "fn hook(&mut self, event: &mut Publish<'_>) {
            std::thread::scope(|scope| { scope.spawn(|| event.set_qos(1).is_ok()); });
        }",
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let topic = event.topic();
            std::thread::scope(|scope| { scope.spawn(move || topic.len()); });
        }";
    /// An iterator over the user properties, while the event is changed.
    AnIterator: ",E0502"
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let mut properties = event.user_properties();
            let _ = event.remove_user_property(0);
            let _ = properties.next();
        }",
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let _ = event.user_properties().next();
            let _ = event.remove_user_property(0);
        }";
    /// A ticket with a view; a ticket copies its values at once.
    InATicket: ",E0521"
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let Ok(mut ticket) = event.defer(Duration::ZERO) else { return };
            let topic = event.topic();
            let _ = event.host().spawn(\"t\", move |_| { ticket.set_topic(topic); ticket.proceed(); });
        }",
        "fn hook(&mut self, event: &mut Publish<'_>) {
            let Ok(mut ticket) = event.defer(Duration::ZERO) else { return };
            ticket.set_topic(event.topic());
            let _ = event.host().spawn(\"t\", move |_| ticket.proceed());
        }";
    /// An error that is a view: allowed, because it is written before the call ends.
    InAnError: ""
        "fn hook(&mut self, event: &mut Publish<'_>) -> Result<(), &'static str> { Err(event.topic()) }",
        "fn hook<'a>(&mut self, event: &mut Publish<'a>) -> Result<(), &'a str> { Err(event.topic()) }";
}

/// Instance messages.
///
/// ```compile_fail,E0308
/// use grapnel_plugin_abi::{Error, Host, InstanceMessage, NoConfig, Plugin};
/// use std::sync::Arc;
/// struct Keeps(Vec<u8>, &'static [u8]);
/// impl Plugin for Keeps {
///     type Config = NoConfig;
///     type Shard = Keeps;
///     fn load(_: NoConfig, _: &Host) -> Result<Keeps, Error> { Ok(Keeps(Vec::new(), &[])) }
///     fn init_shard(self: &Arc<Self>, _: u32) -> Result<Keeps, Error> { Ok(Keeps(Vec::new(), &[])) }
///     fn on_instance_message(shard: &mut Keeps, message: &InstanceMessage<'static>) { shard.1 = message.bytes; }
/// }
/// ```
///
/// ```
/// use grapnel_plugin_abi::{Error, Host, InstanceMessage, NoConfig, Plugin};
/// use std::sync::Arc;
/// struct Keeps(Vec<u8>, &'static [u8]);
/// impl Plugin for Keeps {
///     type Config = NoConfig;
///     type Shard = Keeps;
///     fn load(_: NoConfig, _: &Host) -> Result<Keeps, Error> { Ok(Keeps(Vec::new(), &[])) }
///     fn init_shard(self: &Arc<Self>, _: u32) -> Result<Keeps, Error> { Ok(Keeps(Vec::new(), &[])) }
///     fn on_instance_message(shard: &mut Keeps, message: &InstanceMessage<'_>) { shard.0 = message.bytes.to_vec(); }
/// }
/// ```
#[cfg(doctest)]
pub struct OfInstanceMessage;

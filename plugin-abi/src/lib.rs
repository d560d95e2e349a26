//! The common code of the Grapnel broker and its plugins, and the SDK for plugin authors.
//!
//! A plugin is a struct (the shared part), an instance per shard, methods, and one macro. This is a
//! complete example; it adds a user property to every incoming message:
//!
//! ```
//! use std::sync::Arc;
//!
//! use grapnel_plugin_abi::{Error, Host, Plugin, Publish, Refused};
//!
//! #[derive(Clone, serde::Deserialize)]
//! struct Stamp {
//!     value: String,
//! }
//!
//! impl Plugin for Stamp {
//!     type Config = Stamp;
//!     type Shard = Stamp;
//!
//!     fn load(config: Stamp, _host: &Host) -> Result<Stamp, Error> {
//!         Ok(config)
//!     }
//!
//!     fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Stamp, Error> {
//!         Ok(Stamp::clone(self))
//!     }
//! }
//!
//! impl Stamp {
//!     fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
//!         message.add_user_property("stamp", &self.value)
//!     }
//! }
//!
//! grapnel_plugin_abi::plugin!(Stamp { message.publish => Stamp::publish });
//!
//! use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};
//!
//! let mut plugin = testing::load::<Stamp>(r#"{"value": "v1"}"#).expect("it loads");
//! let mut message = FakeEvent::publish("a/b", b"hello");
//! assert_eq!(plugin.run(&mut message), Outcome::Continue);
//! assert_eq!(message.user_properties(), [("stamp".into(), "v1".into())]);
//! ```
//!
//! The [`guide`] explains everything, chapter by chapter, for authors in Rust and in C.
//!
//! # Layers
//!
//! [`raw`] and [`module`] are the ABI itself: `repr(C)` tables that only grow. [`layout`] is the
//! same as data. [`host`] is the broker's side. All items at the top of the crate are the SDK.
//! [`testing`] runs a plugin without a broker. [`verb`] has the types of verbs for both sides.

mod counted;
pub mod guide;
pub mod host;
pub mod layout;
pub mod module;
pub mod point;
pub mod raw;
mod sdk;
#[macro_use]
mod lifetimes;
pub mod testing;
pub mod topic;
pub mod verb;

pub use counted::counted;
pub use point::{FaultPolicy, HookPoint};
pub use sdk::notifications::*;
pub use sdk::{
    Action, Answer, ArgumentType, Arguments, Authenticate, AuthenticateTicket, Authorize, AuthorizeTicket,
    ClientAction, Configured, Connack, Connect, ConnectTicket, Connected, Counter, Delivered, Disconnected,
    Disposition, DropQueue, EVICTED_AT_ONCE, Entries, EntryId, Error, Fetch, Fetched, FetchedMessage, Filter,
    FiltersTicket, Flow, Full, Gauge, GaugePart, Histogram, HookCalls, HookId, HookInfo, Host, Identity,
    InstanceMessage, IntoFlow, Journal, Level, Mounting, NoArguments, NoConfig, OnBehalf, Outgoing, Pieces,
    Plugin, PluginInfo, Publish, PublishTicket, Reason, RecheckScope, Refused, Rejected, Secret, ShareLimits,
    Shares, StateKey, Subscribe, Timer, Unsubscribe, VerbCall, VerbError, Verbs, Verdict, Weigh, Will,
    address_share, allocated, tree_entry_bytes,
};

/// Items for the macros only.
#[doc(hidden)]
pub mod __private {
    pub use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};

    pub use crate::module::PluginModuleRef;
    pub use crate::sdk::{Context, Exported, HookEvent, MountSpec, hook_name, module, plugin_name, run_hook};
}

/// Exports a plugin from a `cdylib`: its type, and the methods of its [`Plugin::Shard`] for each
/// hook point.
///
/// ```ignore
/// grapnel_plugin_abi::plugin!(Guard {
///     client.authenticate => GuardShard::authenticate,
///     message.publish(priority = 10, deadline_ms = 500) => GuardShard::publish,
/// });
/// ```
///
/// Name, version and description are those of the package; a leading `grapnel-` of the name is
/// removed. A hook has the name of its method, or the value of `name = "…"`; operators and later
/// versions refer to it by this name. A hook with `manual = true` is mounted only by
/// [`Host::mount`]. A library can contain one plugin.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty {
        $($group:ident . $event:ident $(( $($option:ident = $value:expr),* $(,)? ))? => $hook:path),* $(,)?
    }) => {
        $crate::__exported!($plugin {
            $($group . $event $(( $($option = $value),* ))? => $hook,)*
        });

        const _: () = {
            fn root_module() -> $crate::__private::PluginModuleRef {
                $crate::__private::module::<$plugin>()
            }

            extern "C" fn erased() -> $crate::__private::RootModuleResult {
                $crate::__private::__call_root_module_loader(root_module)
            }

            // The same code as `#[abi_stable::export_root_module]`, so that the plugin needs no
            // dependency on abi_stable.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: $crate::__private::LibHeader = {
                // SAFETY: `erased` returns what was transmuted from a `PluginModuleRef`.
                unsafe {
                    $crate::__private::LibHeader::from_constructor::<$crate::__private::PluginModuleRef>(
                        erased,
                        $crate::__private::CheckTypeLayout::Yes,
                    )
                }
            };
        };
    };
}

/// The part of [`plugin!`] that exports no symbol, so that one test binary can contain several
/// plugins.
#[doc(hidden)]
#[macro_export]
macro_rules! __exported {
    ($plugin:ty {
        $($group:ident . $event:ident $(( $($option:ident = $value:expr),* ))? => $hook:path,)*
    }) => {
        impl $crate::__private::Exported for $plugin {
            const NAME: &'static str = $crate::__private::plugin_name(env!("CARGO_PKG_NAME"));
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const DESCRIPTION: &'static str = env!("CARGO_PKG_DESCRIPTION");
            const MOUNTS: &'static [$crate::__private::MountSpec] = &[$({
                // The hook must accept every lifetime. A hook for only one lifetime does not
                // compile.
                fn call(
                    shard: &mut <$plugin as $crate::Plugin>::Shard,
                    event: &mut $crate::__event!('_, $group.$event),
                ) -> ::core::result::Result<$crate::Flow, ::std::string::String> {
                    $crate::IntoFlow::into_flow($hook(shard, event))
                }

                unsafe extern "C" fn hook(
                    instance: *mut ::core::ffi::c_void,
                    event: *const $crate::raw::Event,
                ) -> $crate::raw::Flow {
                    // SAFETY: the broker calls a hook with an instance of this plugin's, made by
                    // its `init_shard`, and with an event that is alive during the call.
                    unsafe {
                        $crate::__private::run_hook::<
                            <$plugin as $crate::Plugin>::Shard,
                            $crate::__event!('static, $group.$event),
                        >($crate::__point!($group.$event), instance, event, call)
                    }
                }
                $crate::__private::MountSpec::new(
                    $crate::__point!($group.$event),
                    $crate::__private::hook_name(stringify!($hook)),
                    hook,
                )
                $($( .$option($value) )*)?
            }),*];
        }
    };
}

macro_rules! point_macros {
    ($d:tt $($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident $about:tt)*) => {
        #[doc(hidden)]
        #[macro_export]
        macro_rules! __point {
            $(($group.$event) => { $d crate::HookPoint::$point };)*
            ($d($d other:tt)*) => {
                compile_error!(concat!("there is no hook point ", stringify!($d($d other)*)))
            };
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! __event {
            $(($d lifetime:lifetime, $group.$event) => { $d crate::$type<$d lifetime> };)*
            // `__point!` reports the error.
            ($d lifetime:lifetime, $d($d other:tt)*) => { $d crate::Broker<$d lifetime> };
        }

        $crate::lifetimes::of_each_event! { $($point: $group.$event $type;)* }
    };
}

crate::for_each_point! { point_macros $ }

//! Tests of hooks that a plugin mounts at run time: they are not in its list, and the broker
//! receives them with their arguments.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::host::{BehalfServices, HostServices, MountRequest, host_api, install_services};
use grapnel_plugin_abi::module::Mount;
use grapnel_plugin_abi::raw::{Event, Flow, MOUNT_DELIVER, Slice, Status, Ticket};
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};
use grapnel_plugin_abi::{Error, FaultPolicy, HookPoint, Host, Mounting, NoConfig, Plugin, Publish};

struct Late;

impl Plugin for Late {
    type Config = NoConfig;
    type Shard = ();

    fn load(_config: NoConfig, host: &Host) -> Result<Late, Error> {
        let mounting = Mounting::new().priority(7).topics(["a/+", "b"]).args(9);
        let mounting = mounting.deadline(Duration::from_micros(1500)).fault(FaultPolicy::Deny).deliver(true);
        let mounted = host.mount::<Late>("late", &mounting)?;
        host.unmount(mounted)?;
        let again = host.mount::<Late>("late", &Mounting::new().point(HookPoint::MessagePublish))?;
        assert!(host.mount::<Late>("late", &Mounting::new().point(HookPoint::ClientConnect)).is_err());
        assert!(host.mount::<Late>("latest", &Mounting::new()).is_err());
        // The other plugin's hook would treat the instances of this one as its own.
        let other = host.mount::<other::Other>("late", &Mounting::new());
        assert_eq!(other.map_err(|refused| refused.status), Err(Status::INVALID));
        assert_ne!(mounted, again);
        Ok(Late)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<(), Error> {
        Ok(())
    }
}

impl Late {
    fn late(_shard: &mut (), _message: &mut Publish<'_>) {
        unreachable!("the fake broker mounts nothing");
    }

    fn early(_shard: &mut (), message: &mut Publish<'_>) {
        assert_eq!(message.args(), 0, "it was not mounted at run time");
    }
}

grapnel_plugin_abi::plugin!(Late {
    message.publish(manual = true, priority = -3, topics = &["own/#"]) => Late::late,
    message.publish => Late::early,
});

/// Another plugin, whose instance is a string.
mod other {
    use super::{Arc, Error, Host, NoConfig, Plugin, Publish};

    pub struct Other;

    impl Plugin for Other {
        type Config = NoConfig;
        type Shard = String;

        fn load(_config: NoConfig, _host: &Host) -> Result<Other, Error> {
            Ok(Other)
        }

        fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<String, Error> {
            Ok(String::new())
        }
    }

    impl Other {
        fn late(shard: &mut String, message: &mut Publish<'_>) {
            shard.push_str(message.topic());
        }
    }

    grapnel_plugin_abi::__exported!(Other { message.publish(manual = true) => Other::late, });
}

/// Requests to the broker.
#[derive(Default)]
struct Requests(Mutex<Vec<String>>);

impl Requests {
    fn note(&self, what: String) -> u64 {
        let mut requested = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requested.push(what);
        requested.len() as u64
    }
}

impl BehalfServices for Requests {}

impl HostServices for Requests {
    fn log(&self, _plugin: u64, _level: u32, _message: &str) {}

    fn complete(
        &self,
        _ticket: Ticket,
        _flow: grapnel_plugin_abi::raw::Flow,
        _changes: &[grapnel_plugin_abi::host::FieldChange<'_>],
    ) -> Result<(), Status> {
        Err(Status::STALE)
    }

    fn hook(&self, _plugin: u64, mount: &MountRequest<'_>) -> Result<u64, Status> {
        let MountRequest { point, name, priority, topics, args, deadline_ms, policy, deliver, .. } = mount;
        let more = format!("{deadline_ms} ms {policy:?} {deliver}");
        Ok(self.note(format!("mount {name} at {}: {priority} {topics:?} {args} {more}", point.name())))
    }

    fn unhook(&self, _plugin: u64, hook: u64) -> Result<(), Status> {
        self.note(format!("unmount {hook}"));
        Ok(())
    }
}

#[test]
fn a_manual_hook_is_mounted_with_the_given_or_its_own_settings() {
    let request: &'static Requests = Box::leak(Box::default());
    assert!(install_services(request));
    assert_eq!(host_api(1, 1).plugin, 1);
    let mut plugin = testing::load::<Late>("").unwrap();
    let expected = [
        "mount late at message.publish: 7 [\"a/+\", \"b\"] 9 2 ms Some(Deny) true",
        "unmount 1",
        "mount late at message.publish: -3 [\"own/#\"] 0 0 ms None false",
    ];
    assert_eq!(*request.0.lock().unwrap(), expected);
    // Only listed hooks run.
    assert_eq!(plugin.run(&mut FakeEvent::publish("own/x", b"")), Outcome::Continue);
}

#[test]
fn a_mount_with_flags_of_a_later_version_is_refused() {
    unsafe extern "C" fn passes(_instance: *mut std::ffi::c_void, _event: *const Event) -> Flow {
        Flow::CONTINUE
    }
    let requested = |flags| {
        let (name, hook) = (Slice::of(b"late"), Some(passes as grapnel_plugin_abi::raw::HookFn));
        let mount = Mount { point: HookPoint::ClientAuthorize as u16, name, hook, flags, ..Mount::EMPTY };
        // SAFETY: what it points to is static.
        unsafe { MountRequest::of(&mount) }.map(|request| request.deliver)
    };
    assert_eq!((requested(0), requested(MOUNT_DELIVER)), (Ok(false), Ok(true)));
    assert_eq!(requested(2).unwrap_err(), "gives late the flags 0x2, of which this broker knows not all");
}

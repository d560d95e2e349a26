//! A plugin for the tests of `plugins check`: when it is opened, it crashes, hangs or ends the
//! process, depending on the variable GRAPNEL_TESTS_CONSTRUCTOR. Without that variable it is a
//! plugin without a hook.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Host, NoConfig, Plugin};

struct Bad;

impl Plugin for Bad {
    type Config = NoConfig;
    type Shard = Bad;

    fn load(_config: NoConfig, _host: &Host) -> Result<Bad, Error> {
        Ok(Bad)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Bad, Error> {
        Ok(Bad)
    }
}

grapnel_plugin_abi::plugin!(Bad {});

extern "C" fn constructor() {
    match std::env::var("GRAPNEL_TESTS_CONSTRUCTOR").as_deref() {
        Ok("crash") => std::process::abort(),
        Ok("hang") => loop {
            std::thread::park();
        },
        Ok("end") => std::process::exit(0),
        _ => {}
    }
}

// SAFETY: the dynamic linker calls what stands in this section, as functions that take nothing they
// need and return nothing.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = constructor;

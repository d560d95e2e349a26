//! A library for the tests of the loader: it is complete and can be mapped, but exports no plugin.

/// Something to export.
#[unsafe(no_mangle)]
pub extern "C" fn grapnel_not_a_plugin() -> u32 {
    7
}

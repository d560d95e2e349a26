//! A library for the tests of the loader: a valid library that exports no plugin.

/// An export that is not a plugin.
#[unsafe(no_mangle)]
pub extern "C" fn grapnel_not_a_plugin() -> u32 {
    7
}

//! Calls a function of a plugin that may fail with an error text.

use grapnel_plugin_abi::module::ErrorText;
use grapnel_plugin_abi::raw::Status;

/// Calls a function of the plugin with a buffer for its error text.
pub(in crate::plugin) fn with_error(
    call: impl FnOnce(*mut ErrorText) -> Status,
) -> Result<(), (Status, String)> {
    let mut buffer = vec![0; ErrorText::CAPACITY];
    let mut text = ErrorText::over(&mut buffer);
    let status = call(&raw mut text);
    if status == Status::OK {
        return Ok(());
    }
    let len = text.len.min(buffer.len());
    let reason = String::from_utf8_lossy(&buffer[..len]).trim().to_owned();
    Err((
        status,
        if reason.is_empty() { format!("it failed without saying why ({status:?})") } else { reason },
    ))
}

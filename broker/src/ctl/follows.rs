//! Prints the consequences before `grapnel-ctl` removes hooks from the chains, one line each on
//! standard error.

use super::CtlError;
use super::connection::{Broker, encoded};
use super::output::Output;
use crate::control::wire::Follows;

/// Prints the consequences of removing a plugin, or these hooks of it (`POINT/HOOK`), from the
/// chains. Prints nothing for programs, because they get it in the answer.
pub(super) async fn say(
    broker: &Broker,
    plugin: &str,
    hooks: Option<&[String]>,
    output: &mut Output,
) -> Result<(), CtlError> {
    if output.json {
        return Ok(());
    }
    let mut path = format!("/api/v1/follows?plugin={}", encoded(plugin));
    if let Some(hooks) = hooks {
        path += &format!("&hooks={}", encoded(&hooks.join(",")));
    }
    let Follows { follows } = broker.get(&path).await?;
    for sentence in follows {
        output.complain(&sentence);
    }
    Ok(())
}

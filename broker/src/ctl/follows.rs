//! Prints what follows before `grapnel-ctl` takes hooks out of the chains, one line each on
//! standard error.

use super::CtlError;
use super::connection::{Broker, encoded};
use super::output::Output;
use crate::control::wire::Follows;

/// Says what follows if a plugin leaves the chains, or these hooks of it, as `POINT/HOOK`. Programs have it in the answer.
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

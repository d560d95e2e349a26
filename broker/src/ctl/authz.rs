//! `grapnel-ctl authz`: rechecks what client.authorize has allowed.

use clap::{Args, Subcommand};
use grapnel_plugin_abi::counted;
use hyper::Method;

use super::CtlError;
use super::connection::{Broker, complete, encoded};
use super::output::Output;
use crate::control::wire::{Changed, Invalidated, Revoked};

#[derive(Debug, Subcommand)]
pub(super) enum AuthzCommand {
    /// Drop cached verdicts, recheck subscriptions, and revoke those that are no longer allowed
    Invalidate(InvalidateArguments),
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct InvalidateArguments {
    /// Only of one client identifier
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only of clients with this user name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only of subscriptions that can match a topic of this filter
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
}

pub(super) async fn run(broker: &Broker, command: AuthzCommand, output: &mut Output) -> Result<(), CtlError> {
    let AuthzCommand::Invalidate(whose) = command;
    let query = match (&whose.client, &whose.user, &whose.topic) {
        (Some(id), _, _) => format!("?client_id={}", encoded(id)),
        (_, Some(name), _) => format!("?username={}", encoded(name)),
        (_, _, Some(filter)) => format!("?topic={}", encoded(filter)),
        _ => String::new(),
    };
    let path = format!("/api/v1/authz/invalidate{query}");
    let done: Changed<Invalidated> = broker.json(Method::POST, &path, None).await?;
    if output.json {
        output.value(&done)?;
    } else {
        output.line(&format!("rechecks subscriptions on {}", counted(done.now.shards, "shard")))?;
        print_revoked(done.revoked, output)?;
    }
    complete(&done.now.unanswered)
}

/// Prints how many subscriptions a change has revoked. Prints nothing if there were none.
pub(super) fn print_revoked(revoked: Revoked, output: &mut Output) -> Result<(), CtlError> {
    match (revoked.subscriptions, revoked.complete) {
        (0, true) => Ok(()),
        (0, false) => output.line(
            "no subscription has been revoked yet; the recheck continues, and the log says how many it revokes",
        ),
        (1, true) => output.line("1 subscription was revoked, because it is no longer allowed"),
        (count, true) => {
            output.line(&format!("{count} subscriptions were revoked, because they are no longer allowed"))
        }
        (count, false) => output.line(&format!(
            "{} so far, no longer allowed; the recheck continues, and the log says how many it revokes",
            counted(count, "revoked subscription")
        )),
    }
}

//! `grapnel-ctl authz`: has the rules of client.authorize asked again.

use clap::{Args, Subcommand};
use hyper::Method;

use super::CtlError;
use super::connection::{Broker, complete, encoded};
use super::output::Output;
use crate::control::wire::Invalidated;

#[derive(Debug, Subcommand)]
pub(super) enum AuthzCommand {
    /// Forget what plugins have allowed and denied, and take subscriptions that no longer pass
    Invalidate(Whose),
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Whose {
    /// Of one client identifier alone
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Of the clients with one user name alone
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Of subscriptions that could bring a topic of this filter alone
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
    let done: Invalidated = broker.json(Method::POST, &path, None).await?;
    if output.json {
        output.value(&done)?;
    } else {
        output.line(&format!("asked again on {} shards", done.shards))?;
    }
    complete(&done.unanswered)
}

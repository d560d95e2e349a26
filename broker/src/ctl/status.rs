//! `grapnel-ctl status`.

use super::CtlError;
use super::connection::{Broker, complete};
use super::output::Output;
use super::table::{self, Column, duration};
use crate::control::wire::{self, Status};

pub(super) async fn run(broker: &Broker, output: &mut Output) -> Result<(), CtlError> {
    let status: Status = broker.get("/api/v1/status").await?;
    print(&status, output)?;
    complete(&status.unanswered)
}

pub(super) fn print(status: &Status, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(status);
    }
    table::print_pairs(output, pairs(status))?;
    output.line("")?;
    print_shards(status, output)
}

/// What is printed of the broker as a whole.
fn pairs(status: &Status) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("version", status.version.clone()),
        ("process", format!("{}, up {}", status.pid, duration(status.uptime_s))),
        ("listens on", listeners(status)),
        ("waits with", status.io.clone()),
        ("control", status.control_socket.clone()),
    ];
    if let Some(http) = &status.control_http {
        pairs.push(("control http", http.clone()));
    }
    pairs.extend([
        ("config file", status.config_file.clone().unwrap_or_else(|| "none: defaults".to_owned())),
        ("plugins", plugins(status)),
        ("connections", status.connections.to_string()),
        ("sessions", status.sessions.to_string()),
        ("subscriptions", status.subscriptions.to_string()),
        ("retained", status.retained_messages.to_string()),
        (
            "messages",
            format!(
                "{} received, {} sent, {} dropped",
                status.messages_received, status.messages_sent, status.messages_dropped
            ),
        ),
    ]);
    let wire::Memory { total, outbound, read_buffers, slots, messages, .. } = status.memory;
    let text = format!(
        "{total} bytes in use for clients: {outbound} to be sent, {read_buffers} received in part, {slots} waiting, {messages} queued"
    );
    pairs.push(("memory", text));
    if status.log_lines_lost > 0 {
        pairs.push(("log lines lost", status.log_lines_lost.to_string()));
    }
    if let Some(allocations) = &status.allocations {
        let wire::Allocations { live, live_bytes, total, total_bytes } = allocations;
        let text = format!("{live} live ({live_bytes} bytes), {total} since the start ({total_bytes} bytes)");
        pairs.push(("allocations", text));
    }
    pairs
}

fn listeners(status: &Status) -> String {
    let listeners: Vec<String> = status
        .listeners
        .iter()
        .map(|listener| match listener.name.parse::<std::net::SocketAddr>() {
            // The name is only the configured address.
            Ok(_) => listener.address.clone(),
            Err(_) => format!("{} ({})", listener.address, listener.name),
        })
        .collect();
    listeners.join(", ")
}

fn plugins(status: &Status) -> String {
    let mut plugins = if status.plugins.is_empty() { "none".to_owned() } else { status.plugins.join(", ") };
    if !status.plugins_failed.is_empty() {
        plugins += &format!("; failed: {} (see plugins list)", status.plugins_failed.join(", "));
    }
    plugins
}

fn print_shards(status: &Status, output: &mut Output) -> Result<(), CtlError> {
    let columns = [
        Column::Right("SHARD"),
        Column::Right("CONNECTIONS"),
        Column::Right("SESSIONS"),
        Column::Right("SUBSCRIPTIONS"),
        Column::Right("RECEIVED"),
        Column::Right("SENT"),
        Column::Right("MEMORY"),
    ];
    let rows = status.shards.iter().map(|shard| {
        [
            shard.shard.to_string(),
            shard.connections.to_string(),
            shard.sessions.to_string(),
            shard.subscriptions.to_string(),
            shard.messages_received.to_string(),
            shard.messages_sent.to_string(),
            shard.memory.total.to_string(),
        ]
    });
    table::print(output, columns, rows)
}

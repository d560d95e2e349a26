//! `grapnel-ctl clients` and `grapnel-ctl subscriptions`.

use std::num::NonZeroUsize;

use clap::Subcommand;
use hyper::Method;

use super::CtlError;
use super::connection::{Broker, complete, encoded};
use super::output::Output;
use super::printable::printable;
use super::table::{self, Column, or_dash, since, yes};
use crate::control::wire::{Client, ClientDetails, ClientTls, Clients, Kicked, Subscription, Subscriptions};

/// Rows printed by default.
const ROWS_DEFAULT: NonZeroUsize = NonZeroUsize::new(1000).expect("it is not 0");

/// Commands about clients.
#[derive(Debug, Subcommand)]
pub(super) enum ClientsCommand {
    /// List all clients, in no particular order
    List {
        /// Number of rows, at most
        #[arg(long, value_name = "ROWS", default_value_t = ROWS_DEFAULT)]
        limit: NonZeroUsize,
    },
    /// Show the details of one client
    Show {
        /// Its client identifier
        id: String,
    },
    /// Disconnect a client (MQTT 5 clients get the reason code administrative action)
    Kick {
        /// Its client identifier
        id: String,
        /// End its session too: its subscriptions and waiting messages are dropped
        #[arg(long)]
        discard: bool,
    },
}

/// Commands about subscriptions.
#[derive(Debug, Subcommand)]
pub(super) enum SubscriptionsCommand {
    /// List all subscriptions, in no particular order
    List {
        /// Only those of one client
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Number of rows, at most
        #[arg(long, value_name = "ROWS", default_value_t = ROWS_DEFAULT)]
        limit: NonZeroUsize,
    },
}

/// Rows of one request.
const PAGE_ROWS: usize = 500;

pub(super) async fn run(
    broker: &Broker,
    command: ClientsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    match command {
        ClientsCommand::List { limit } => {
            let limit = limit.get();
            let mut all = Clients { clients: Vec::new(), next: None, unanswered: Vec::new() };
            while all.clients.len() < limit {
                let path = page_path("/api/v1/clients?", limit - all.clients.len(), all.next.as_deref());
                let page: Clients = broker.get(&path).await?;
                all.clients.extend(page.clients);
                all.unanswered.extend(page.unanswered);
                all.next = page.next;
                if all.next.is_none() {
                    break;
                }
            }
            print_clients(&all, output)?;
            complete(&all.unanswered)
        }
        ClientsCommand::Show { id } => {
            let details: ClientDetails = broker.get(&format!("/api/v1/clients/{}", encoded(&id))).await?;
            print_client(&details, output)
        }
        ClientsCommand::Kick { id, discard } => {
            let path = format!("/api/v1/clients/{}?discard={discard}", encoded(&id));
            let kicked: Kicked = broker.json(Method::DELETE, &path, None).await?;
            if output.json {
                return output.value(&kicked);
            }
            let session = if kicked.discarded { " and its session ended" } else { "" };
            output.line(&format!("client {} was disconnected{session}", printable(&kicked.client_id)))
        }
    }
}

pub(super) async fn run_subscriptions(
    broker: &Broker,
    command: SubscriptionsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    let SubscriptionsCommand::List { client, limit } = command;
    let limit = limit.get();
    let base = match client {
        Some(client) => format!("/api/v1/subscriptions?client_id={}&", encoded(&client)),
        None => "/api/v1/subscriptions?".to_owned(),
    };
    let mut all = Subscriptions { subscriptions: Vec::new(), next: None, unanswered: Vec::new() };
    while all.subscriptions.len() < limit {
        let path = page_path(&base, limit - all.subscriptions.len(), all.next.as_deref());
        let page: Subscriptions = broker.get(&path).await?;
        all.subscriptions.extend(page.subscriptions);
        all.unanswered.extend(page.unanswered);
        all.next = page.next;
        if all.next.is_none() {
            break;
        }
    }
    print_subscriptions(&all, output)?;
    complete(&all.unanswered)
}

fn page_path(base: &str, room: usize, cursor: Option<&str>) -> String {
    let cursor = cursor.map(|cursor| format!("&cursor={}", encoded(cursor))).unwrap_or_default();
    format!("{base}limit={}{cursor}", room.min(PAGE_ROWS))
}

pub(super) fn print_clients(all: &Clients, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(all);
    }
    if all.clients.is_empty() {
        return output.line("no client is connected and no session is stored");
    }
    let columns = [
        Column::Left("CLIENT"),
        Column::Left("USER"),
        Column::Left("FROM"),
        Column::Left("VIA"),
        Column::Left("MQTT"),
        Column::Right("SUBS"),
        Column::Right("INFLIGHT"),
        Column::Right("QUEUED"),
        Column::Left("CONNECTED"),
    ];
    table::print(output, columns, all.clients.iter().map(client_row))?;
    note_more(all.next.is_some(), output)
}

fn client_row(client: &Client) -> [String; 9] {
    let since = since(client.since_ms);
    [
        client.client_id.clone(),
        or_dash(client.username.as_deref()),
        or_dash(client.peer.as_deref()),
        or_dash(client.transport.as_deref()),
        protocol(client.protocol).to_owned(),
        client.subscriptions.to_string(),
        client.inflight.to_string(),
        client.queued.to_string(),
        if client.connected { since } else { format!("gone {since}") },
    ]
}

fn protocol(level: u8) -> &'static str {
    match level {
        3 => "3.1",
        4 => "3.1.1",
        _ => "5.0",
    }
}

/// Version, cipher suite and server name, as far as they are known.
fn tls_words(tls: Option<&ClientTls>) -> String {
    let Some(tls) = tls else { return "-".to_owned() };
    let known = [&tls.version, &tls.cipher].into_iter().flatten().cloned();
    let name = tls.server_name.iter().map(|name| format!("for {name}"));
    let words: Vec<String> = known.chain(name).collect();
    if words.is_empty() { "yes".to_owned() } else { words.join(" ") }
}

pub(super) fn print_client(details: &ClientDetails, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(details);
    }
    let client = &details.client;
    let ago = since(client.since_ms);
    let expiry = match client.expiry_s {
        u32::MAX => "never".to_owned(),
        seconds => format!("{} after the connection ends", table::duration(seconds.into())),
    };
    let keep_alive = match client.keep_alive_s {
        0 => "off".to_owned(),
        seconds => table::duration(seconds.into()),
    };
    let packet_bytes_max = match details.packet_bytes_max {
        0 => "as the protocol allows".to_owned(),
        bytes => format!("{bytes} bytes"),
    };
    let connected = if client.connected { format!("for {ago}") } else { format!("no, gone for {ago}") };
    table::print_pairs(
        output,
        [
            ("client", client.client_id.clone()),
            ("user", or_dash(client.username.as_deref())),
            ("superuser", yes(details.superuser)),
            ("connected", connected),
            ("from", or_dash(client.peer.as_deref())),
            ("listener", or_dash(client.listener.as_deref())),
            ("transport", or_dash(client.transport.as_deref())),
            ("tls", tls_words(client.tls.as_ref())),
            ("certificate", or_dash(client.tls.as_ref().and_then(|tls| tls.certificate_subject.as_deref()))),
            ("mqtt", protocol(client.protocol).to_owned()),
            ("keep alive", keep_alive),
            ("clean start", yes(details.clean_start)),
            ("session since", format!("{} ago", since(details.created_at_ms))),
            ("session expires", expiry),
            ("will", yes(details.has_will)),
            ("subscriptions", client.subscriptions.to_string()),
            ("in flight", format!("{} of {}", client.inflight, details.receive_maximum)),
            ("queued", client.queued.to_string()),
            ("awaiting PUBREL", details.awaiting_rel.to_string()),
            ("packets waiting", details.slots.to_string()),
            ("outbound", format!("{} bytes", details.outbound_bytes)),
            ("memory", format!("{} bytes", details.memory_bytes)),
            ("not read for", details.paused.clone().unwrap_or_else(|| "nothing: it is read".to_owned())),
            ("dropped", details.dropped.to_string()),
            ("largest packet", packet_bytes_max),
            ("topic aliases", details.topic_alias_max.to_string()),
            ("shard", client.shard.to_string()),
        ],
    )
}

pub(super) fn print_subscriptions(all: &Subscriptions, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(all);
    }
    if all.subscriptions.is_empty() {
        return output.line("there are no subscriptions");
    }
    let columns =
        [Column::Left("CLIENT"), Column::Left("FILTER"), Column::Right("QOS"), Column::Left("OPTIONS")];
    let rows = all
        .subscriptions
        .iter()
        .map(|row| [row.client_id.clone(), row.filter.clone(), row.qos.to_string(), options(row)]);
    table::print(output, columns, rows)?;
    note_more(all.next.is_some(), output)
}

/// The subscription options that differ from MQTT 3, with their names in section 3.8.3.1.
fn options(row: &Subscription) -> String {
    let mut options = Vec::new();
    if row.no_local {
        options.push("no local".to_owned());
    }
    if row.retain_as_published {
        options.push("retain as published".to_owned());
    }
    if row.retain_handling > 0 {
        options.push(format!("retain handling {}", row.retain_handling));
    }
    if row.subscription_id > 0 {
        options.push(format!("id {}", row.subscription_id));
    }
    if options.is_empty() { "-".to_owned() } else { options.join(", ") }
}

fn note_more(more: bool, output: &mut Output) -> Result<(), CtlError> {
    if more { output.line("… there are more; --limit shows them") } else { Ok(()) }
}

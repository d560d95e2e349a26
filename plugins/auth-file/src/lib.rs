//! auth-file: authenticates the users of a file, which contains their passwords as argon2id hashes.
//! A shard only looks up the name; threads of the plugin compute the hashes. The broker loads it as
//! `libgrapnel_auth_file.so`.

pub mod config;
mod entry;
pub mod passwd;
pub mod pool;

use std::collections::HashSet;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grapnel_plugin_abi::{
    Authenticate, AuthenticateTicket, Error, Flow, Host, Plugin, Reason, Refused, Rejected, ShareLimits,
    Shares, Verbs, Verdict as Answered, address_share, counted,
};
use grapnel_watched_file::{Change, View, Watch, WatchedFile};

use config::{Config, Unknown};
use passwd::{Costs, Table};
use pool::{Answer, Job, Pool, Verdict};

/// The users, and the threads that check their passwords.
#[derive(Debug)]
pub struct AuthFile {
    users: WatchedFile<Table>,
    pool: Pool<Login>,
    superusers: HashSet<String>,
    unknown: Unknown,
    deadline: Duration,
    password_bytes_max: usize,
}

/// A shard's view of the file.
#[derive(Debug)]
pub struct AuthShard {
    shared: Arc<AuthFile>,
    users: View<Table>,
}

/// A client whose login is being checked.
#[derive(Debug)]
struct Login {
    ticket: AuthenticateTicket,
    superuser: bool,
}

impl Answer for Login {
    fn answer(mut self, verdict: Verdict) {
        match verdict {
            Verdict::Right => {
                self.ticket.set_superuser(self.superuser);
                self.ticket.allow();
            }
            Verdict::Wrong => self.ticket.deny(Reason::BAD_USERNAME_OR_PASSWORD),
            Verdict::Expired => self.ticket.deny(Reason::SERVER_BUSY),
        }
    }
}

impl Plugin for AuthFile {
    type Config = Config;
    type Shard = AuthShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<AuthFile, Error> {
        config.check().map_err(Error::new)?;
        let users = open(&config, *host)?;
        host.info(format_args!("{} in {}", counted(users.latest().len(), "user"), config.path.display()));
        Ok(AuthFile {
            users,
            pool: Pool::start(config.threads, Shares::new(limits(&config)).with_metrics(host, "logins"))?,
            superusers: config.superusers.into_iter().collect(),
            unknown: config.unknown,
            deadline: Duration::from_millis(config.deadline_ms.into()),
            password_bytes_max: config.password_bytes_max,
        })
    }

    fn verbs() -> Verbs<AuthFile> {
        Verbs::new().local("passwd", "Sets or deletes a password in a file of users", entry::passwd)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<AuthShard, Error> {
        Ok(AuthShard { users: self.users.view(), shared: Arc::clone(self) })
    }
}

/// Limits of waiting logins. Their bytes are limited by the maximum password length.
fn limits(config: &Config) -> ShareLimits {
    ShareLimits {
        entries_max: config.queue_max as u64,
        bytes_max: u64::MAX,
        owner_entries_max: config.address_queue_max as u64,
        owner_bytes_max: u64::MAX,
    }
}

fn open(config: &Config, host: Host) -> Result<WatchedFile<Table>, Error> {
    let watch = Watch {
        path: config.path.clone(),
        every: Duration::from_secs(config.reload_s),
        bytes_max: config.file_bytes_max,
        thread: "auth-file-watch".into(),
    };
    let costs = Costs { memory_kib_max: config.memory_kib_max, passes_max: config.passes_max };
    let chooser = RandomState::new();
    let path = config.path.clone();
    let notify = move |change: Change<'_, Table>| match change {
        Change::Taken(users) => {
            host.info(format_args!("{} in {} now", counted(users.len(), "user"), path.display()));
        }
        Change::Refused(error) => host.error(format_args!("{error}; the users read before stay")),
    };
    Ok(WatchedFile::open(watch, move |text| Table::parse(text, costs, chooser.clone()), notify)?)
}

impl AuthShard {
    fn authenticate(&mut self, client: &mut Authenticate<'_>) -> Result<Flow, Refused> {
        // Without a user name `allow_anonymous` decides. An authentication method of MQTT 5 is not
        // a password login [MQTT-4.12.0-1]. No hash is computed for a client that an earlier plugin
        // has refused.
        let Some(name) = client.username() else { return Ok(Flow::Continue) };
        // Nor is a certificate, whose user has no password to check.
        if client.username_is_certified()
            || client.auth_method().is_some()
            || client.verdict() == Answered::Deny
        {
            return Ok(Flow::Continue);
        }
        let shared = &self.shared;
        let users = self.users.get();
        let (entry, known) = match (users.find(name), shared.unknown) {
            (Some(entry), _) => (Some(entry), true),
            (None, Unknown::Ignore) => return Ok(Flow::Continue),
            (None, Unknown::Deny) => (users.decoy(name), false),
        };
        let Some(entry) = entry else {
            client.deny(Reason::BAD_USERNAME_OR_PASSWORD)?;
            return Ok(Flow::Stop);
        };
        let password = client.password();
        let fits = password.is_some_and(|password| password.len() <= shared.password_bytes_max);
        let ticket = client.defer(shared.deadline)?;
        let job = Job {
            entry: Arc::clone(entry),
            is_always_wrong: !(known && fits),
            password: if fits { password.unwrap_or_default().into() } else { Box::default() },
            expires: Instant::now() + shared.deadline,
            answer: Login { ticket, superuser: known && shared.superusers.contains(name) },
        };
        if let Err(Rejected { value: job, .. }) =
            shared.pool.submit(&address_share(client.peer_host().unwrap_or("")), job)
        {
            // The verdict is given before this hook returns; the broker applies it afterwards, like
            // any other.
            job.answer.ticket.deny(Reason::SERVER_BUSY);
        }
        Ok(Flow::Defer)
    }
}

grapnel_plugin_abi::plugin!(AuthFile { client.authenticate => AuthShard::authenticate });

#[cfg(test)]
mod tests;

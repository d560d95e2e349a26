//! acl-file: decides which topics a client may publish and subscribe to, from a file in Mosquitto's
//! format. The broker loads it as `libgrapnel_acl_file.so`.

pub mod acl;
pub mod config;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grapnel_plugin_abi::{
    Action, Authorize, Error, Flow, Host, InstanceMessage, Plugin, Reason, RecheckScope, Refused, counted,
};
use grapnel_watched_file::{Change, View, Watch, WatchedFile};

use acl::{Access, Acl, Answer, Client};
use config::{Config, NoMatch};

/// The file.
#[derive(Debug)]
pub struct AclFile {
    acl: WatchedFile<Acl>,
    no_match: NoMatch,
    host: Host,
    news: Arc<PendingChange>,
}

/// A shard's view of the file.
#[derive(Debug)]
pub struct AclShard {
    shared: Arc<AclFile>,
    acl: View<Acl>,
}

/// A change on its way to the shards. It is reported when all shards use the new lines and have
/// cleared the verdicts cached for the old ones.
#[derive(Debug)]
struct PendingChange {
    path: PathBuf,
    /// The number of the last change, and the text to log for it.
    last: Mutex<(u64, String)>,
    /// Shards that have not received it.
    missing: AtomicU32,
}

impl PendingChange {
    /// Sends a change to all shards, after the command that clears their cached verdicts.
    fn send(&self, host: Host, acl: &Acl) {
        let summary = self.summary(acl);
        let number = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = (last.0 + 1, summary.clone());
            self.missing.store(host.shards(), Ordering::Release);
            last.0
        };
        // Ends subscriptions that the new lines no longer allow. The plugin may have been unloaded
        // meanwhile.
        if let Err(refused) = host.invalidate(RecheckScope::Everybody) {
            host.warn(format_args!("subscriptions granted before stay: {refused}"));
        }
        if let Err(refused) = host.instance_message(None, number, &[]) {
            host.info(format_args!("{summary}, if not yet on every shard: {refused}"));
        }
    }

    /// A shard has received a change.
    fn arrived(&self, host: Host, number: u64) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 == number && self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            host.info(&last.1);
        }
    }

    fn summary(&self, acl: &Acl) -> String {
        format!("{} in force from {}", counted(acl.len(), "line"), self.path.display())
    }
}

impl Plugin for AclFile {
    type Config = Config;
    type Shard = AclShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<AclFile, Error> {
        let host = *host;
        let watch = Watch {
            path: config.path.clone(),
            every: Duration::from_secs(config.reload_s),
            bytes_max: config.file_bytes_max,
            thread: "acl-file-watch".into(),
        };
        let news =
            Arc::new(PendingChange { path: config.path, last: Mutex::default(), missing: AtomicU32::new(0) });
        let warn = {
            let news = Arc::clone(&news);
            move |acl: &Acl| {
                let path = news.path.display();
                acl.warnings().iter().for_each(|warning| host.warn(format_args!("{path}: {warning}")));
            }
        };
        let notify = {
            let (warn, news) = (warn.clone(), Arc::clone(&news));
            move |change: Change<'_, Acl>| match change {
                Change::Taken(acl) => {
                    warn(acl);
                    news.send(host, acl);
                }
                Change::Refused(error) => {
                    host.error(format_args!("{error}; the lines read before stay in force"))
                }
            }
        };
        let acl = WatchedFile::open(watch, Acl::parse, notify)?;
        warn(&acl.latest());
        host.info(news.summary(&acl.latest()));
        Ok(AclFile { acl, no_match: config.no_match, host, news })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<AclShard, Error> {
        Ok(AclShard { acl: self.acl.view(), shared: Arc::clone(self) })
    }

    /// A change of the file has arrived. The verdicts that the broker cached for the old lines on
    /// this shard are cleared already.
    fn on_instance_message(shard: &mut AclShard, message: &InstanceMessage<'_>) {
        shard.acl.get();
        shard.shared.news.arrived(shard.shared.host, message.number);
    }
}

impl AclShard {
    fn authorize(&mut self, request: &mut Authorize<'_>) -> Result<Flow, Refused> {
        let client = Client { id: request.client_id(), username: request.username() };
        let acl = self.acl.get();
        let answer = match request.action() {
            _ if request.is_superuser() => Answer::Allow,
            Action::Publish | Action::Will => acl.may(Access::WRITE, client, request.topic()),
            Action::Deliver => acl.may(Access::READ, client, request.topic()),
            Action::Subscribe => acl.may_read_all(client, request.topic()),
        };
        match (answer, self.shared.no_match) {
            (Answer::NoMatch, NoMatch::Ignore) => return Ok(Flow::Continue),
            (Answer::Allow, _) => request.allow()?,
            (Answer::Deny | Answer::NoMatch, _) => request.deny(Reason::NOT_AUTHORIZED)?,
        }
        Ok(Flow::Stop)
    }
}

grapnel_plugin_abi::plugin!(AclFile { client.authorize => AclShard::authorize });

#[cfg(test)]
mod tests;

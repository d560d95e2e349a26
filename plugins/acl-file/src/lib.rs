//! acl-file: says who may publish and subscribe where, from a file in Mosquitto's format. The broker loads it as
//! `libgrapnel_acl_file.so`.

pub mod acl;
pub mod config;

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::{Action, Authorize, Error, Flow, Host, Plugin, Reason, Refused, Whose};
use grapnel_watched_file::{Change, View, Watch, WatchedFile};

use acl::{Access, Acl, Answer, Client};
use config::{Config, NoMatch};

/// The file.
#[derive(Debug)]
pub struct AclFile {
    acl: WatchedFile<Acl>,
    no_match: NoMatch,
}

/// What one shard asks.
#[derive(Debug)]
pub struct AclShard {
    acl: View<Acl>,
    no_match: NoMatch,
}

impl Plugin for AclFile {
    type Config = Config;
    type Shard = AclShard;

    fn load(config: Config, host: &Host) -> Result<AclFile, Error> {
        let host = *host;
        let watch = Watch {
            path: config.path.clone(),
            every: Duration::from_secs(config.reload_s),
            bytes_max: config.file_bytes_max,
            thread: "acl-file-watch".into(),
        };
        let path = config.path;
        let say = move |acl: &Acl| {
            acl.warnings()
                .iter()
                .for_each(|warning| host.warn(format_args!("{}: {warning}", path.display())));
            host.info(format_args!("{} lines in force from {}", acl.len(), path.display()));
        };
        let told = {
            let say = say.clone();
            move |change: Change<'_, Acl>| match change {
                Change::Taken(acl) => {
                    say(acl);
                    // Subscriptions that the new lines no longer allow end; the loader may have ended us meanwhile.
                    if let Err(refused) = host.invalidate(Whose::Everybody) {
                        host.warn(format_args!("subscriptions granted before stay: {refused}"));
                    }
                }
                Change::Refused(error) => {
                    host.error(format_args!("{error}; the lines read before stay in force"))
                }
            }
        };
        let acl = WatchedFile::open(watch, Acl::parse, told)?;
        say(&acl.latest());
        Ok(AclFile { acl, no_match: config.no_match })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<AclShard, Error> {
        Ok(AclShard { acl: self.acl.view(), no_match: self.no_match })
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
        match (answer, self.no_match) {
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

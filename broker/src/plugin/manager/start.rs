//! Loads plugins when the broker starts: those of the configuration, then those of the record,
//! needed plugins first. Called before the first client can connect.

use super::PluginManager;
use super::loader_state::LoaderState;
use super::order::{self, Node};
use super::record::{Content, Record, Recorded};
use super::requested::RequestedPlugin;
use super::view::Failed;
use crate::config::PluginConfig;
use crate::plugin::error::LoadError;
use crate::plugin::file::manifest::Opened;
use crate::plugin::report::Origin;

/// A plugin that is still to be loaded.
struct Pending {
    wanted: RequestedPlugin,
    opened: Result<Opened, LoadError>,
}

impl PluginManager {
    /// Loads the plugins of the configuration, then those of the record, each in their order; a
    /// plugin that others need is loaded before them. A plugin that fails is logged and listed as
    /// failed.
    ///
    /// # Errors
    /// The first plugin that is marked `required` and cannot be loaded.
    pub fn start(&self, configured: &[PluginConfig]) -> Result<(), LoadError> {
        // For later loads by hand.
        self.set_configured(configured);
        let _starting = self.services.starting();
        let mut loader = self.begin();
        for plugin in configured {
            loader.overrides.configure(&plugin.name, &plugin.hooks);
        }
        let wanted = self.wanted_at_start(configured);
        let mut pending: Vec<Option<Pending>> = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let opened = self.open(&mut loader, &wanted);
            pending.push(Some(Pending { wanted, opened }));
        }
        let (indexes, cycles) = order_of(&pending);
        let mut result = Ok(());
        for index in indexes {
            let Some(plugin) = pending[index].take() else { continue };
            let cycle = cycles.iter().find(|(of, _)| *of == index).map(|(_, cycle)| cycle.clone());
            if let Err(error) = self.load_pending(&mut loader, plugin, cycle) {
                result = Err(error);
                break;
            }
        }
        for plugin in pending.into_iter().flatten() {
            if let Ok(opened) = &plugin.opened {
                loader.close(opened);
            }
        }
        self.end(loader);
        result
    }

    fn load_pending(
        &self,
        loader: &mut LoaderState,
        plugin: Pending,
        cycle: Option<Vec<String>>,
    ) -> Result<(), LoadError> {
        let Pending { wanted, opened } = plugin;
        let loaded = opened.and_then(|opened| match cycle {
            Some(cycle) => {
                loader.close(&opened);
                Err(LoadError::Cycle { name: opened.name, cycle })
            }
            None => self.load_in(loader, &wanted, opened),
        });
        self.commit_counts(loader);
        loader.drop_reclaimed();
        let Err(error) = loaded else { return Ok(()) };
        tracing::error!("{error}");
        let required = wanted.required.then(|| self.required(&wanted));
        self.view_mut().failed.push(Failed { wanted, reason: error.to_string() }.into());
        match required {
            Some((name, remedy)) => Err(LoadError::Required { error: Box::new(error), name, remedy }),
            None => Ok(()),
        }
    }

    /// The name of a required plugin, and how to start the broker without it.
    fn required(&self, wanted: &RequestedPlugin) -> (String, String) {
        let name = wanted.name.clone().unwrap_or_else(|| wanted.source.clone());
        let remedy = match (wanted.origin, &self.record) {
            (Origin::Recorded, Some(record)) => format!(
                "it was loaded with --required; to start without it, remove its entry from {}",
                record.path().display()
            ),
            _ if !self.is_said_to_be_required(&name) => format!(
                "it was loaded with --required, and plugins.{name}.required does not say otherwise; to start without it, set \
                 plugins.{name}.required to false"
            ),
            _ => format!("plugins.{name}.required is true"),
        };
        (name, remedy)
    }

    /// Whether the configuration says that the plugin of this name is required.
    fn is_said_to_be_required(&self, name: &str) -> bool {
        let configured = self.configured();
        let mut configured = configured.iter();
        configured.any(|plugin| plugin.name == name && plugin.required == Some(true))
    }

    /// The plugins to load at the start.
    fn wanted_at_start(&self, configured: &[PluginConfig]) -> Vec<RequestedPlugin> {
        let Content { plugins, disabled } = self.remembered();
        let mut wanted: Vec<RequestedPlugin> = Vec::new();
        for plugin in configured {
            let mut request = RequestedPlugin::configured(plugin, disabled.contains(&plugin.name));
            // What was required with grapnel-ctl stays so, unless the configuration says otherwise.
            let recorded = || plugins.iter().any(|one| one.name == plugin.name && one.required);
            request.required = plugin.required.unwrap_or_else(recorded);
            wanted.push(request);
        }
        for Recorded { name, source, priority, config, required } in plugins {
            if configured.iter().any(|plugin| plugin.name == name) {
                tracing::info!(
                    plugin = name,
                    "this plugin was also loaded with grapnel-ctl; the configuration file is used"
                );
                continue;
            }
            let disabled = disabled.contains(&name);
            let (name, origin) = (Some(name), Origin::Recorded);
            // If it fails, that is logged and listed; it stays in the record.
            wanted.push(RequestedPlugin { name, source, config, priority, origin, required, disabled });
        }
        wanted
    }

    fn remembered(&self) -> Content {
        self.record.as_ref().map_or(Ok(Content::default()), Record::read).unwrap_or_else(|error| {
            tracing::error!("plugins loaded with grapnel-ctl are not restored: {error}");
            Content::default()
        })
    }
}

/// For each plugin in a circle, its index and the names on the way round.
type Cycles = Vec<(usize, Vec<String>)>;

/// The order of loading. A file that could not be opened has no dependencies; it fails at its
/// position.
fn order_of(pending: &[Option<Pending>]) -> (Vec<usize>, Cycles) {
    let nodes: Vec<Node<'_>> = pending
        .iter()
        .flatten()
        .map(|plugin| Node {
            name: plugin.wanted.name.as_deref().unwrap_or(&plugin.wanted.source),
            needs: plugin.opened.as_ref().map_or(&[], |opened| &opened.about.depends),
        })
        .collect();
    let order::Order { indexes, cycles } = order::sorted(&nodes);
    (indexes, cycles)
}

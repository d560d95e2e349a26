//! `grapnel-ctl PLUGIN VERB`: verbs that plugins declare. The command line and its help are made
//! from the declarations in the broker, or in the plugin's file if there is no broker. Arguments
//! are checked here before a request is sent, and secrets are read from the terminal.

mod line;
mod local;
mod print;
mod secret;

pub(super) use print::of_file;

use std::ffi::OsString;
use std::time::Duration;

use grapnel_plugin_abi::verb::{Form, Kind, Wrong};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};

use super::connection::{Broker, encoded};
use super::output::Output;
use super::{CtlError, Global};
use crate::config::Environment;
use crate::control::wire::{PluginsVerbs, VerbAnswer};
use crate::plugin::PluginVerbs;

/// Aliases: word, plugin and verb. They were commands of the program before plugins had verbs.
const ALIASES: [(&str, &str, &str); 1] = [("passwd", "auth-file", "passwd")];

/// The plugins that a word on the command line means.
#[derive(Debug)]
struct Found {
    /// The loaded plugins with this name, or of this kind.
    loaded: Vec<PluginVerbs>,
    /// The verbs.
    forms: Vec<Form>,
    /// The error of the broker, if the request to it failed.
    why_not: Option<CtlError>,
}

/// A verb with its arguments as they were typed.
#[derive(Debug)]
struct TypedVerb {
    word: String,
    form: Form,
    given: line::Values,
}

/// Runs a command that is not one of the program's own: `words` is the command and its arguments.
pub(super) fn run(
    words: Vec<OsString>,
    global: Global,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CtlError> {
    let words = words.into_iter().map(OsString::into_string).collect::<Result<Vec<String>, _>>();
    let mut words =
        words.map_err(|word| CtlError::Usage(format!("{} is not UTF-8", word.to_string_lossy())))?;
    let first = words.remove(0);
    let alias = ALIASES.iter().find(|(word, ..)| *word == first);
    let (word, shown) = match alias {
        Some((_, plugin, verb)) => {
            words.splice(0..0, verb.split(' ').map(str::to_owned));
            ((*plugin).to_owned(), "grapnel-ctl".to_owned())
        }
        None => (first.clone(), format!("grapnel-ctl {first}")),
    };
    let global = line::global(&words, global)?;
    output.json |= global.json;
    let timeout = Duration::from_secs(global.timeout);
    let broker = Broker::new(global.socket, environment, global.timeout);
    let runtime = super::runtime()?;
    let found = if alias.is_some() {
        // The verbs of aliases work without a broker.
        local::find(&word, environment, timeout)?.ok_or_else(|| missing(&first, &word, environment))?
    } else {
        match runtime.block_on(loaded(&broker, &word)) {
            Ok(found) if !found.loaded.is_empty() => found,
            other => {
                let why_not = other.err();
                match local::find(&word, environment, timeout)? {
                    Some(found) => Found { why_not, ..found },
                    None => return Err(unknown(&first, why_not)),
                }
            }
        }
    };
    let Some((form, given)) = line::parse(&word, &shown, &found.forms, &words, output)? else {
        return Ok(());
    };
    // The broker's declaration decides only that a local file is used. The file and its own
    // declaration decide which code runs. Before a secret is sent, the file is asked whether the
    // verb is local: a broker that says it is not must not get the secret.
    if form.local || has_secret(&form) {
        match local::file(&word, environment, timeout)? {
            Some((file, forms)) if form.local || is_local(&forms, &form.name) => {
                let Some((form, given)) = line::parse(&word, &shown, &forms, &words, output)? else {
                    return Ok(());
                };
                return local::run(&TypedVerb { word, form, given }, &file, timeout, output);
            }
            None if form.local => return Err(missing(&first, &word, environment)),
            _ => {}
        }
    }
    let typed = TypedVerb { word, form, given };
    if found.loaded.is_empty() {
        let word = &typed.word;
        return Err(found.why_not.unwrap_or_else(|| {
            CtlError::Refused(format!(
                "plugin {word} is not loaded; load it with grapnel-ctl plugins load {word}"
            ))
        }));
    }
    let answers = runtime.block_on(ask(&broker, &typed, found.loaded, timeout, output))?;
    print::answers(answers, output)
}

fn has_secret(form: &Form) -> bool {
    form.arguments.iter().any(|argument| argument.kind == Kind::Secret)
}

fn is_local(forms: &[Form], verb: &str) -> bool {
    forms.iter().any(|form| form.name == verb && form.local)
}

/// The verbs of all plugins that are loaded: `grapnel-ctl plugins verbs`.
pub(super) async fn list(broker: &Broker, output: &mut Output) -> Result<(), CtlError> {
    let all: PluginsVerbs = broker.get("/api/v1/commands").await?;
    print::list(&all, output)
}

/// The loaded plugins for a word.
async fn loaded(broker: &Broker, word: &str) -> Result<Found, CtlError> {
    let PluginsVerbs { plugins } = broker.get("/api/v1/commands").await?;
    let same = |name: &str| name == word || name.replace('_', "-") == word.replace('_', "-");
    let (own, kind): (Vec<_>, Vec<_>) = plugins.into_iter().partition(|plugin| plugin.plugin == word);
    // The name of a plugin that differs from its kind means only that plugin. The name of a kind
    // means all plugins of the kind.
    let loaded: Vec<PluginVerbs> = match own.first() {
        Some(plugin) if !same(&plugin.kind) => own,
        _ => own.into_iter().chain(kind.into_iter().filter(|plugin| same(&plugin.kind))).collect(),
    };
    let forms = loaded.first().map(|plugin| plugin.verbs.clone()).unwrap_or_default();
    Ok(Found { loaded, forms, why_not: None })
}

/// Calls the verb of each selected plugin.
async fn ask(
    broker: &Broker,
    typed: &TypedVerb,
    loaded: Vec<PluginVerbs>,
    timeout: Duration,
    output: &mut Output,
) -> Result<Vec<VerbAnswer>, CtlError> {
    let TypedVerb { word, form, given } = typed;
    let receiver = format!("plugin {word} of the broker at {}", broker.socket().display());
    let given = absolute(form, secret::with_secrets(form, given.clone(), Some(&receiver))?)?;
    let checked = form.arguments(&given).map_err(|Wrong(error)| CtlError::Usage(error))?;
    // The deadline of the verb is added to the timeout for an answer.
    let timeout = timeout + Duration::from_millis(form.deadline_ms(&checked, 0));
    let loaded = having(broker, typed, loaded, timeout).await?;
    let meant = meant(typed, loaded)?;
    // Called at the same time, so that rates are measured over the same interval.
    let begin = |plugin: &String| {
        let (broker, (method, path, body)) = (broker.clone(), request(plugin, form, &given));
        tokio::spawn(async move { broker.call::<VerbAnswer>(method, &path, body.as_ref(), timeout).await })
    };
    let calls: Vec<_> = meant.iter().map(begin).collect();
    let mut answers = Vec::new();
    for call in calls {
        let lost = |error| CtlError::Refused(format!("the call was lost: {error}"));
        match call.await.map_err(lost)?? {
            Ok(answer) => {
                say(&answer.follows, output);
                answers.push(answer);
            }
            Err((status, refusal)) => {
                say(&refusal.follows, output);
                let kind =
                    if status == StatusCode::BAD_REQUEST { CtlError::Usage } else { CtlError::Refused };
                return Err(kind(refusal.error));
            }
        }
    }
    Ok(answers)
}

/// Prints the consequences of hooks that were removed from their chains. Programs get them in the
/// answer.
fn say(follows: &[String], output: &mut Output) {
    if !output.json {
        follows.iter().for_each(|sentence| output.complain(sentence));
    }
}

/// For a change with several candidate plugins: those whose list contains the thing that an
/// argument names. If no list contains it, all of them.
async fn having(
    broker: &Broker,
    typed: &TypedVerb,
    loaded: Vec<PluginVerbs>,
    timeout: Duration,
) -> Result<Vec<PluginVerbs>, CtlError> {
    let TypedVerb { form, given, .. } = typed;
    let named = form.arguments.iter().find_map(|argument| {
        let (verb, field) = argument.listed_in.as_ref()?.split_once('/')?;
        let (_, value) = given.iter().find(|(name, _)| *name == argument.name)?;
        Some((verb, field, value))
    });
    let Some((verb, field, value)) = named.filter(|_| form.changes && loaded.len() > 1) else {
        return Ok(loaded);
    };
    let (mut having, mut others) = (Vec::new(), Vec::new());
    for plugin in loaded {
        let Some(list) = plugin.verbs.iter().find(|form| form.name == verb && !form.changes) else {
            others.push(plugin);
            continue;
        };
        let (method, path, _) = request(&plugin.plugin, list, &[]);
        let listed = broker.call::<VerbAnswer>(method, &path, None, timeout).await?;
        let listed = listed.map_err(|(_, refusal)| CtlError::Refused(refusal.error))?;
        let rows = listed.value.as_ref().and_then(Value::as_array);
        let has = rows.is_some_and(|rows| rows.iter().any(|row| row[field] == **value));
        if has { having.push(plugin) } else { others.push(plugin) }
    }
    Ok(if having.is_empty() { others } else { having })
}

/// The plugins to call. A verb that changes nothing is called on all plugins of the kind. A verb
/// that changes something is called on one: the one that the first argument NAME or NAME/… selects,
/// else the one whose name is the typed word.
fn meant(typed: &TypedVerb, loaded: Vec<PluginVerbs>) -> Result<Vec<String>, CtlError> {
    let TypedVerb { word, form, given } = typed;
    let mut names: Vec<String> = loaded.into_iter().map(|plugin| plugin.plugin).collect();
    names.sort();
    if !form.changes || names.len() == 1 {
        return Ok(names);
    }
    let first = given.first().map(|(_, value)| value.split('/').next().unwrap_or(value));
    let named = |wanted: &str| names.iter().find(|name| *name == wanted);
    if let Some(name) = first.and_then(named).or_else(|| named(word)) {
        return Ok(vec![name.clone()]);
    }
    Err(CtlError::Usage(format!(
        "{word} can be any of the plugins {}; name one of them, as in grapnel-ctl {} {}",
        names.join(", "),
        names[0],
        form.name
    )))
}

/// Makes paths absolute, because the broker may run in another folder.
fn absolute(form: &Form, given: line::Values) -> Result<line::Values, CtlError> {
    let is_path = |name: &str| form.argument(name).is_some_and(|argument| argument.kind == Kind::Path);
    let made = given.into_iter().map(|(name, value)| {
        if !is_path(&name) {
            return Ok((name, value));
        }
        let path = std::path::absolute(&value)
            .map_err(|error| CtlError::Refused(format!("cannot tell where {value} is: {error}")))?;
        let path = path.into_os_string().into_string();
        path.map(|path| (name, path)).map_err(|_| CtlError::Usage(format!("where {value} is, is not UTF-8")))
    });
    made.collect()
}

/// Builds the request. Secrets are sent only in a body.
fn request(plugin: &str, form: &Form, given: &[(String, String)]) -> (Method, String, Option<Value>) {
    let words: Vec<String> = form.name.split(' ').map(encoded).collect();
    let path = format!("/api/v1/plugins/{}/commands/{}", encoded(plugin), words.join("/"));
    if !form.changes && !has_secret(form) {
        let query: Vec<String> =
            given.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        return (Method::GET, format!("{path}?{}", query.join("&")), None);
    }
    let mut body: Map<String, Value> = Map::new();
    for (name, value) in given {
        let values = body.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(Value::String(value.clone()));
        }
    }
    (Method::POST, path, Some(Value::Object(body)))
}

/// The error for an alias or a local verb whose plugin is not installed on this machine.
fn missing(word: &str, plugin: &str, environment: &Environment) -> CtlError {
    CtlError::Refused(format!(
        "{word} is a command of the plugin {plugin}, whose file is not in {}; name the folder that has it in \
         GRAPNEL_PLUGINS_DIR",
        local::folder(environment).display()
    ))
}

/// The error for a word that is neither a command nor a plugin.
fn unknown(word: &str, why_not: Option<CtlError>) -> CtlError {
    let nearest = line::nearest_command(word);
    match (nearest, why_not) {
        (Some(near), _) => CtlError::Usage(format!(
            "there is no command {word}, and no plugin of that name with commands; did you mean {near}? see grapnel-ctl --help"
        )),
        (None, None) => CtlError::Usage(format!(
            "there is no command {word}, and no plugin of that name with commands is loaded; see grapnel-ctl --help, and \
             grapnel-ctl plugins verbs for what plugins add"
        )),
        (None, Some(CtlError::Unreachable(why))) => CtlError::Unreachable(format!(
            "there is no command {word}, and whether a plugin adds it cannot be looked up: {why}"
        )),
        (None, Some(other)) => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_plugin_abi::verb::Argument;

    use super::*;

    /// A broker that answers the list of each plugin, until the process ends. Gives the requests.
    fn serve(socket: &std::path::Path) -> std::sync::mpsc::Receiver<String> {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let (requests, received) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
                let asked = lines.next().unwrap();
                lines.find(String::is_empty).unwrap();
                let drivers = if asked.contains("/b/") { ["python3", "java"] } else { ["amqtt", "lua"] };
                let rows = drivers.map(|driver| serde_json::json!({"driver": driver}));
                let body = serde_json::json!({"value": rows}).to_string();
                let head = format!("connection: close\r\ncontent-length: {}", body.len());
                (&stream).write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes()).unwrap();
                requests.send(asked).unwrap();
            }
        });
        received
    }

    /// Where two plugins of a kind are loaded, a change means the one that lists what it names.
    #[test]
    fn a_change_means_the_plugin_that_has_what_it_names() {
        let driver = Argument::named("driver", "").listed_in("drivers list/driver");
        let stop = Form { name: "stop".into(), changes: true, arguments: vec![driver], ..Form::default() };
        let list = Form { name: "drivers list".into(), ..Form::default() };
        let plugin = |name: &str| PluginVerbs {
            plugin: name.to_owned(),
            kind: "k".to_owned(),
            verbs: vec![list.clone(), stop.clone()],
        };
        let dir = tempfile::tempdir().unwrap();
        let runtime = super::super::runtime().unwrap();
        let of_b = "GET /api/v1/plugins/b/commands/drivers/list? HTTP/1.1";
        for (at, (named, expected)) in [
            ("java", Ok("b")),
            ("amqtt", Ok("a")),
            // Nobody has it: none is selected.
            ("perl", Err("k can be any of the plugins a, b; name one of them")),
        ]
        .into_iter()
        .enumerate()
        {
            let socket = dir.path().join(at.to_string());
            let requests = serve(&socket);
            let broker = Broker::new(Some(socket), &Environment::default(), 20);
            let given = vec![("driver".to_owned(), named.to_owned())];
            let typed = TypedVerb { word: "k".to_owned(), form: stop.clone(), given };
            let loaded = vec![plugin("a"), plugin("b")];
            let found = runtime.block_on(having(&broker, &typed, loaded, Duration::from_secs(20))).unwrap();
            let meant = meant(&typed, found).map_err(|error| error.to_string());
            match expected {
                Ok(name) => assert_eq!(meant.unwrap(), [name], "{named}"),
                Err(text) => assert!(meant.unwrap_err().starts_with(text), "{named}"),
            }
            assert!(requests.try_iter().any(|request| request == of_b), "{named}");
        }
    }

    /// A verb that only looks is called on all of them, and nobody is asked first.
    #[test]
    fn a_verb_that_only_looks_means_all_plugins() {
        let driver = Argument::named("driver", "").listed_in("drivers list/driver");
        let look = Form { name: "look".into(), arguments: vec![driver], ..Form::default() };
        let plugin = |name: &str| PluginVerbs {
            plugin: name.to_owned(),
            kind: "k".to_owned(),
            verbs: vec![look.clone()],
        };
        let given = vec![("driver".to_owned(), "java".to_owned())];
        let typed = TypedVerb { word: "k".to_owned(), form: look.clone(), given };
        let broker = Broker::new(Some("/none".into()), &Environment::default(), 1);
        let runtime = super::super::runtime().unwrap();
        let loaded = vec![plugin("b"), plugin("a")];
        let found = runtime.block_on(having(&broker, &typed, loaded, Duration::from_secs(1))).unwrap();
        assert_eq!(meant(&typed, found).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_list_that_no_plugin_has_selects_all_plugins() {
        let driver = Argument::named("driver", "").listed_in("none/driver");
        let form =
            Form { name: "stop".to_owned(), changes: true, arguments: vec![driver], ..Form::default() };
        let plugin = |name: &str| PluginVerbs {
            plugin: name.to_owned(),
            kind: "k".to_owned(),
            verbs: vec![form.clone()],
        };
        let given = vec![("driver".to_owned(), "java".to_owned())];
        let typed = TypedVerb { word: "k".to_owned(), form: form.clone(), given };
        let broker = Broker::new(Some("/none".into()), &Environment::default(), 1);
        let loaded = vec![plugin("a"), plugin("b")];
        let runtime = super::super::runtime().unwrap();
        let found = runtime.block_on(having(&broker, &typed, loaded, Duration::from_secs(1))).unwrap();
        let error = meant(&typed, found).unwrap_err().to_string();
        assert!(error.starts_with("k can be any of the plugins a, b; name one of them"), "{error}");
    }
}

//! The requests about verbs of plugins. A verb runs on a thread of its own. The request waits for
//! its answer until the deadline. Then it makes the changes of hooks that the answer requests.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use grapnel_plugin_abi::verb::{Answer, Form, Kind, Then};
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answer::{ApiError, Json, Name, Payload};
use super::api::Api;
use super::follows::RemovedHooks;
use super::plugins::change_in_place;
use super::wire::{Changed, PluginsVerbs, Revoked, VerbAnswer};
use crate::config::HookOverride;
use crate::plugin::{HookChange, PluginVerbs, VerbError, count_failed_verb, count_invalid_verb};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/plugins/{name}/commands", get(of))
        .route("/api/v1/plugins/{name}/commands/{*verb}", get(look).post(call))
        .route("/api/v1/commands", get(all))
}

impl From<VerbError> for ApiError {
    fn from(error: VerbError) -> ApiError {
        let status = match error {
            VerbError::Plugin(error) => return error.into(),
            VerbError::Unknown { .. } | VerbError::Absent(_) => StatusCode::NOT_FOUND,
            VerbError::Arguments(_) => StatusCode::BAD_REQUEST,
            VerbError::Local { .. } | VerbError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            VerbError::Busy { .. } | VerbError::NotBegun { .. } => StatusCode::SERVICE_UNAVAILABLE,
            VerbError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
            VerbError::Nonsense { .. } | VerbError::TooLarge { .. } => StatusCode::BAD_GATEWAY,
        };
        ApiError::new(status, error)
    }
}

/// `GET /api/v1/commands`.
async fn all(State(api): State<Api>) -> Json<PluginsVerbs> {
    Json(PluginsVerbs { plugins: api.plugins.all_verbs() })
}

/// `GET /api/v1/plugins/NAME/commands`.
async fn of(State(api): State<Api>, Name(name): Name) -> Result<Json<PluginVerbs>, ApiError> {
    Ok(Json(api.plugins.verbs(&name)?))
}

/// `GET /api/v1/plugins/NAME/commands/VERB`: for verbs that change nothing.
async fn look(
    State(api): State<Api>,
    Path((plugin, verb)): Path<(String, String)>,
    Query(given): Query<Vec<(String, String)>>,
) -> Result<Json<VerbAnswer>, ApiError> {
    let form = declared(&api, &plugin, &verb)?;
    let is_secret = |(name, _): &(String, String)| {
        form.argument(name).is_some_and(|argument| argument.kind == Kind::Secret)
    };
    if form.changes || given.iter().any(is_secret) {
        let why = if form.changes { "changes something" } else { "is given a secret" };
        let sentence = format_args!("{} of plugin {plugin} {why}: use POST", form.name);
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, sentence));
    }
    run(&api, &plugin, &form, given).await.map(Json)
}

/// `POST /api/v1/plugins/NAME/commands/VERB`, with the arguments as a JSON object.
async fn call(
    State(api): State<Api>,
    Path((plugin, verb)): Path<(String, String)>,
    Payload(body): Payload<Map<String, Value>>,
) -> Result<Json<VerbAnswer>, ApiError> {
    let form = declared(&api, &plugin, &verb)?;
    let given = given(&body).inspect_err(|_| count_invalid_verb()).map_err(ApiError::bad_request)?;
    run(&api, &plugin, &form, given).await.map(Json)
}

/// The words of a verb are segments of the path.
fn declared(api: &Api, plugin: &str, verb: &str) -> Result<Form, ApiError> {
    Ok(api.plugins.verb(plugin, &verb.replace('/', " "))?)
}

/// Converts the arguments to strings: numbers and flags as in JSON, a list to the values of a
/// repeated argument, null to no value.
fn given(body: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let mut given = Vec::new();
    for (name, value) in body {
        let values = match value {
            Value::Null => continue,
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => {
                    return Err(format!(
                        "the argument {name} must be a text, a number, true or false, or a list of them"
                    ));
                }
            };
            given.push((name.clone(), text));
        }
    }
    Ok(given)
}

/// The permit of a call. It is held until the changes that the answer requests have been made.
type CallPermit = Arc<OwnedSemaphorePermit>;

async fn run(
    api: &Api,
    plugin: &str,
    form: &Form,
    given: Vec<(String, String)>,
) -> Result<VerbAnswer, ApiError> {
    if !form.changes {
        return run_whole(api, plugin, form, given).await;
    }
    // Runs in a task of its own, so that a change is completed even if the client disconnects.
    let (api, plugin, form) = (api.clone(), plugin.to_owned(), form.clone());
    let whole = tokio::spawn(async move { run_whole(&api, &plugin, &form, given).await });
    whole.await.unwrap_or_else(|_| Err(ApiError::failed_here()))
}

async fn run_whole(
    api: &Api,
    plugin: &str,
    form: &Form,
    given: Vec<(String, String)>,
) -> Result<VerbAnswer, ApiError> {
    let is_forced = is_forced(form, &given);
    let place = Arc::new(api.begin_long()?);
    let answer = {
        let (done, answered) = oneshot::channel();
        // If the client has disconnected, the answer is dropped.
        let done = Box::new(move |answer| drop(done.send(answer)));
        let begun = api.plugins.begin_verb(plugin, &form.name, &given, done)?;
        match tokio::time::timeout(begun.deadline, answered).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(begun.is_lost().into()),
            Err(_) => return Err(begun.is_late().into()),
        }
    };
    let Answer { text, columns, rows, value, exit_code, then } = answer;
    if !then.is_empty() && !form.changes {
        let what = "wants a change, and is declared to change nothing".to_owned();
        count_failed_verb();
        return Err(VerbError::Nonsense { plugin: plugin.to_owned(), verb: form.name.clone(), what }.into());
    }
    let (mut revoked, mut follows, mut steps) = (None, Vec::new(), vec![format!("{} has run", form.name)]);
    for step in then {
        let what = shown(&step);
        let done = change(api, plugin, step, (is_forced, &place)).await.map_err(|error| {
            count_failed_verb();
            let all = [std::mem::take(&mut follows), error.follows].concat();
            let sentence = format!("{}; before that, {}", error.sentence, steps.join(", "));
            ApiError { follows: all, sentence, ..error }
        })?;
        steps.push(what);
        follows.extend(done.follows);
        let before = revoked.take().unwrap_or(Revoked { subscriptions: 0, complete: true });
        revoked = Some(Revoked {
            subscriptions: before.subscriptions + done.revoked.subscriptions,
            complete: before.complete && done.revoked.complete,
        });
    }
    Ok(VerbAnswer { text, columns, rows, value, exit_code, revoked, follows })
}

/// Describes a completed step, for the error of a later one.
fn shown(step: &Then) -> String {
    match step {
        Then::Unmount { hooks, .. } => format!("the hooks {} were unmounted", hooks.join(", ")),
        Then::Mount { hooks } => format!("the hooks {} were mounted", hooks.join(", ")),
        Then::Disable { .. } => "the plugin was disabled".to_owned(),
        Then::Enable => "the plugin was enabled".to_owned(),
    }
}

/// Whether the operator has given the flag `force`. Without it, a plugin cannot remove the last
/// hook that decides about clients.
fn is_forced(form: &Form, given: &[(String, String)]) -> bool {
    let is_flag = form.argument("force").is_some_and(|argument| argument.kind == Kind::Flag);
    is_flag && given.iter().any(|(name, value)| name == "force" && matches!(value.as_str(), "true" | "1"))
}

/// Makes one change that an answer requests, in the same way as a request of the operator. It is
/// forced only if the operator has given `force`.
async fn change(
    api: &Api,
    plugin: &str,
    step: Then,
    (is_forced, place): (bool, &CallPermit),
) -> Result<Changed<()>, ApiError> {
    let (name, held) = (plugin.to_owned(), Arc::clone(place));
    match step {
        Then::Enable => {
            change_in_place(api, held, None, move |api| api.plugins.enable(&name).map(drop)).await
        }
        Then::Disable { force } => {
            let force = force && is_forced;
            let leaving = Some(RemovedHooks::plugin(plugin));
            change_in_place(api, held, leaving, move |api| api.plugins.disable_with(&name, force).map(drop))
                .await
        }
        Then::Unmount { hooks, force } => mount(api, plugin, hooks, (false, force && is_forced, place)).await,
        Then::Mount { hooks } => mount(api, plugin, hooks, (true, false, place)).await,
    }
}

async fn mount(
    api: &Api,
    plugin: &str,
    hooks: Vec<String>,
    (mounted, force, place): (bool, bool, &CallPermit),
) -> Result<Changed<()>, ApiError> {
    let Some((first, also)) = hooks.split_first() else { return Ok(Changed::default()) };
    let (point, hook) = first.split_once('/').unwrap_or((first, ""));
    let wanted = HookChange {
        plugin: plugin.to_owned(),
        point: point.to_owned(),
        hook: hook.to_owned(),
        also: also.to_vec(),
        clear: false,
        change: HookOverride { mounted: Some(mounted), ..HookOverride::default() },
        force,
    };
    let leaving = RemovedHooks::hook(&wanted);
    change_in_place(api, Arc::clone(place), leaving, move |api| api.plugins.override_hook(&wanted).map(drop))
        .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_plugin_abi::verb::Argument;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verb_forces_a_change_only_with_a_declared_and_given_flag() {
        let given = |value: &str| vec![("force".to_owned(), value.to_owned())];
        let form = |kind| Form {
            arguments: vec![Argument { kind, ..Argument::named("force", "") }],
            ..Form::default()
        };
        let flag = form(Kind::Flag);
        assert!(is_forced(&flag, &given("true")) && is_forced(&flag, &given("1")));
        assert!(!is_forced(&flag, &given("false")) && !is_forced(&flag, &[]));
        assert!(
            !is_forced(&form(Kind::Text), &given("true")) && !is_forced(&Form::default(), &given("true"))
        );
    }

    #[test]
    fn arguments_in_a_body_are_texts_or_lists_of_texts() {
        let body = json!({"force": true, "names": ["a", 2], "none": null, "who": "ann"});
        let texts: Vec<_> = given(body.as_object().unwrap()).unwrap();
        let texts: Vec<_> = texts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(texts, [("force", "true"), ("names", "a"), ("names", "2"), ("who", "ann")]);
        for wrong in [json!({"a": {}}), json!({"a": [[]]}), json!({"a": [null]})] {
            assert!(given(wrong.as_object().unwrap()).unwrap_err().starts_with("the argument a must be"));
        }
    }
}

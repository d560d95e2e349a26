//! Prints answers of verbs: as a table or text for people, as JSON for programs.

use grapnel_plugin_abi::verb::Form;
use serde_json::{Map, Value, json};

use super::super::CtlError;
use super::super::authz::print_revoked;
use super::super::output::Output;
use super::super::printable::printable;
use super::super::table::{self, Column, yes};
use super::line;
use crate::control::wire::{PluginsVerbs, VerbAnswer};

/// Prints the answers of one or more plugins of a kind as one output: tables with the same columns
/// are merged, and JSON lists are joined.
pub(super) fn answers(answers: Vec<VerbAnswer>, output: &mut Output) -> Result<(), CtlError> {
    let exit_code = answers.iter().map(|answer| answer.exit_code).max().unwrap_or(0);
    if output.json {
        output.value(&joined(answers.into_iter().map(value).collect()))?;
    } else {
        let mut rest = answers.as_slice();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|other| other.columns == first.columns).count();
            let (group, others) = rest.split_at(same);
            people(group, output)?;
            rest = others;
        }
    }
    if exit_code == 0 { Ok(()) } else { Err(CtlError::Ended(exit_code)) }
}

fn people(answers: &[VerbAnswer], output: &mut Output) -> Result<(), CtlError> {
    for line in answers.iter().flat_map(|answer| answer.text.lines()) {
        output.line(&printable(line))?;
    }
    if let Some(first) = answers.first().filter(|first| !first.columns.is_empty()) {
        let columns: Vec<(String, bool)> =
            first.columns.iter().map(|column| (printable(&column.title), column.right)).collect();
        table::print_rows(output, &columns, answers.iter().flat_map(|answer| answer.rows.iter().cloned()))?;
    }
    answers.iter().filter_map(|answer| answer.revoked).try_for_each(|revoked| print_revoked(revoked, output))
}

/// The JSON of an answer for programs. After a change of hooks it also has the revoked
/// subscriptions and the consequences.
fn value(answer: VerbAnswer) -> Value {
    let VerbAnswer { text, value, revoked, follows, .. } = answer;
    let value = value.unwrap_or_else(|| json!({ "text": text }));
    let Some(revoked) = revoked else { return value };
    let mut object = match value {
        Value::Object(object) => object,
        value => Map::from_iter([("value".to_owned(), value)]),
    };
    object.insert("revoked".to_owned(), json!(revoked));
    object.insert("follows".to_owned(), json!(follows));
    Value::Object(object)
}

fn joined(mut values: Vec<Value>) -> Value {
    if values.len() == 1 {
        return values.remove(0);
    }
    let lists = values.into_iter().map(|value| match value {
        Value::Array(list) => list,
        value => vec![value],
    });
    Value::Array(lists.flatten().collect())
}

/// All verbs of all plugins.
pub(super) fn list(all: &PluginsVerbs, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(all);
    }
    if all.plugins.is_empty() {
        output.line("no loaded plugin adds commands: a plugin adds its commands when it is loaded")?;
        return output
            .line("without a broker: grapnel-ctl passwd FILE USER, a command of the plugin auth-file");
    }
    let rows = all.plugins.iter().flat_map(|plugin| {
        plugin
            .verbs
            .iter()
            .map(move |form| [plugin.plugin.clone(), form.name.clone(), yes(form.changes), form.help.clone()])
    });
    let columns =
        [Column::Left("PLUGIN"), Column::Left("VERB"), Column::Left("CHANGES"), Column::Left("WHAT IT DOES")];
    table::print(output, columns, rows)?;
    let notes = all.plugins.iter().filter_map(|plugin| shadowed(&plugin.plugin, &plugin.kind));
    notes.for_each(|note| output.complain(&note));
    Ok(())
}

/// The verbs that a file declares, for `plugins check`.
pub(in crate::ctl) fn of_file(plugin: &str, forms: &[Form], output: &mut Output) -> Result<(), CtlError> {
    if forms.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows =
        forms.iter().map(|form| [form.name.clone(), yes(form.changes), yes(form.local), form.help.clone()]);
    let columns =
        [Column::Left("VERB"), Column::Left("CHANGES"), Column::Left("LOCAL"), Column::Left("WHAT IT DOES")];
    table::print(output, columns, rows)?;
    shadowed(plugin, plugin).into_iter().for_each(|note| output.complain(&note));
    Ok(())
}

/// A note about a plugin that has the name of a command of the program itself.
fn shadowed(plugin: &str, kind: &str) -> Option<String> {
    let instead = match (line::is_own(plugin), line::is_own(kind)) {
        (false, _) => return None,
        (true, false) => format!("call its verbs as grapnel-ctl {kind} VERB"),
        (true, true) => {
            format!(
                "to call its verbs, load it under another name: grapnel-ctl plugins load {kind} --name NAME"
            )
        }
    };
    Some(format!("{plugin} is a command of grapnel-ctl itself, and goes before the plugin; {instead}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_plugin_abi::verb::Column;

    use super::*;

    fn answer(rows: &[&str], value: Value) -> VerbAnswer {
        let columns = vec![Column { title: "NAME".to_owned(), right: false }];
        let rows = rows.iter().map(|cell| vec![(*cell).to_owned()]).collect();
        VerbAnswer { columns, rows, value: Some(value), ..VerbAnswer::default() }
    }

    #[test]
    fn answers_of_several_plugins_are_one_table_and_one_list() {
        let two = || vec![answer(&["a"], json!([1])), answer(&["b\u{1b}"], json!([2]))];
        assert_eq!(joined(two().into_iter().map(value).collect()), json!([1, 2]));
        assert_eq!(joined(vec![value(answer(&[], json!({"x": 1})))]), json!({"x": 1}));
        let text = VerbAnswer { text: "done".to_owned(), ..VerbAnswer::default() };
        assert_eq!(value(text), json!({"text": "done"}));
        let revoked = Some(crate::control::wire::Revoked { subscriptions: 2, complete: true });
        let changed = VerbAnswer { revoked, value: Some(json!({"driver": "java"})), ..VerbAnswer::default() };
        let changed = value(changed);
        assert_eq!((&changed["driver"], &changed["revoked"]["subscriptions"]), (&json!("java"), &json!(2)));
    }

    #[test]
    fn a_plugin_named_like_a_command_is_called_by_its_full_form() {
        assert_eq!(shadowed("exhook", "exhook"), None);
        let free = shadowed("status", "exhook").unwrap();
        assert!(
            free.ends_with("goes before the plugin; call its verbs as grapnel-ctl exhook VERB"),
            "{free}"
        );
        let taken = shadowed("status", "status").unwrap();
        assert!(taken.ends_with("grapnel-ctl plugins load status --name NAME"), "{taken}");
    }

    #[test]
    fn the_exit_code_of_a_verb_is_that_of_grapnel_ctl() {
        let mut output = Output::to(Vec::new(), false, None);
        let ended = answers(vec![VerbAnswer { exit_code: 9, ..VerbAnswer::default() }], &mut output);
        assert_eq!(ended.unwrap_err().exit_code(), 9);
    }
}

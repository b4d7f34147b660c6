//! The network as files that `apply` reads back without a difference: a file for each campaign with its sources, one for
//! each partner with its contracts, and the templates below `templates/`.
//!
//! Keys stand in the order of their declarations, defaults are left out, references to secrets stay references.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Component, Path};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::files::TEMPLATES;
use super::{Fault, ResourceSet};
use crate::model::secret::{SecretText, is_plain_template, is_secret_header};

/// One file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// What it says.
    pub text: String,
    /// Where it holds a secret that is written out: the resource and the key.
    pub secrets: Vec<String>,
}

/// Tables that get a header of their own; others stand on one line while they fit.
const SECTIONS: [&str; 7] = ["fields", "maps", "secrets", "endpoint", "oauth2", "form", "response"];
/// Tables whose entries are data, of which none is a default.
const DATA: [&str; 5] = ["maps", "secrets", "form", "headers", "params"];
/// Characters of a line, about.
const WIDTH: usize = 110;

/// The files of a network, by path below the directory of the export.
///
/// # Errors
/// Templates whose names lead out of the directory, and resources that this version cannot write.
pub fn files(set: &ResourceSet) -> Result<BTreeMap<String, ExportedFile>, Vec<Fault>> {
    let (mut sources, mut contracts) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
    for (id, source) in &set.sources {
        sources.entry(&source.campaign).or_default().push((id.as_str(), source));
    }
    for (id, contract) in &set.contracts {
        contracts.entry(&contract.partner).or_default().push((id.as_str(), contract));
    }
    let campaigns: Vec<_> = set.campaigns.iter().collect();
    let partners: Vec<_> = set.partners.iter().collect();
    let (campaigns, campaign_faults) = written_by_all(&campaigns, |(id, campaign), faults| {
        let mut file = Writer::new("a campaign and its sources");
        file.add("campaign", id.as_str(), campaign.as_ref(), faults);
        for (id, source) in sources.get(id).into_iter().flatten() {
            file.add("source", id, source.as_ref(), faults);
        }
        (format!("campaign-{id}.toml"), file.finish())
    });
    let (partners, partner_faults) = written_by_all(&partners, |(id, partner), faults| {
        let mut file = Writer::new("a partner and its contracts");
        file.add("partner", id.as_str(), partner.as_ref(), faults);
        for (id, contract) in contracts.get(id).into_iter().flatten() {
            file.add("contract", id, contract.as_ref(), faults);
        }
        (format!("partner-{id}.toml"), file.finish())
    });
    let mut files: BTreeMap<_, _> = campaigns.into_iter().chain(partners).collect();
    let mut faults: Vec<_> = campaign_faults.into_iter().chain(partner_faults).collect();
    for (name, text) in &set.templates {
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            faults.push(Fault::new(format!("stored template {name}"), "its name leads out of the directory"));
            continue;
        }
        files.insert(format!("{TEMPLATES}/{name}"), ExportedFile { text: text.clone(), secrets: Vec::new() });
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

/// A file for each of these, in their order, and the faults of all of them; written by all processors.
fn written_by_all<T: Sync>(
    ones: &[T],
    write: impl Fn(&T, &mut Vec<Fault>) -> (String, ExportedFile) + Sync,
) -> (Vec<(String, ExportedFile)>, Vec<Fault>) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = ones.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let write = &write;
        let writers: Vec<_> = ones
            .chunks(share)
            .map(|ones| {
                scope.spawn(move || {
                    let mut faults = Vec::new();
                    let files: Vec<_> = ones.iter().map(|one| write(one, &mut faults)).collect();
                    (files, faults)
                })
            })
            .collect();
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        for writer in writers {
            let (written, found) = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            files.extend(written);
            faults.extend(found);
        }
        (files, faults)
    })
}

struct Writer {
    text: String,
    secrets: Vec<String>,
}

impl Writer {
    fn new(what: &str) -> Self {
        let text = format!(
            "# Written by `gateway export`: {what}. Defaults are left out.\n\
             # `gateway check DIRECTORY` and `gateway apply DIRECTORY` read the directory that this file is in.\n"
        );
        Self { text, secrets: Vec::new() }
    }

    fn add<T: Serialize + DeserializeOwned + PartialEq>(
        &mut self,
        kind: &str,
        id: &str,
        resource: &T,
        faults: &mut Vec<Fault>,
    ) {
        let value = match serde_json::to_value(resource) {
            Ok(Value::Object(value)) => without_defaults(value, resource),
            Ok(_) | Err(_) => return faults.push(Fault::new(format!("{kind} {id}"), "cannot be written as a table")),
        };
        for (name, secret) in value.get("secrets").and_then(Value::as_object).into_iter().flatten() {
            if secret.as_str().is_some_and(|text| !SecretText(text.to_owned()).is_reference()) {
                self.secrets.push(format!("{kind} {id}: secrets.{name}"));
            }
        }
        if let Some(endpoint) = value.get("endpoint") {
            literal_secrets(&format!("{kind} {id}: endpoint"), endpoint, false, &mut self.secrets);
        }
        let _ = writeln!(self.text, "\n[[{kind}]]");
        table(&mut self.text, kind, &value);
    }

    fn finish(self) -> ExportedFile {
        ExportedFile { text: self.text, secrets: self.secrets }
    }
}

/// Leaves out every key without which the resource reads the same.
fn without_defaults<T: DeserializeOwned + PartialEq>(value: Map<String, Value>, whole: &T) -> Map<String, Value> {
    let mut root = Value::Object(value);
    drop_defaults(&mut root, &mut Vec::new(), whole);
    match root {
        Value::Object(value) => value,
        _ => Map::new(),
    }
}

fn drop_defaults<T: DeserializeOwned + PartialEq>(root: &mut Value, path: &mut Vec<String>, whole: &T) {
    let Some(keys) = at(root, path).map(|table| table.keys().cloned().collect::<Vec<_>>()) else { return };
    // Where the present key stands: those before it are needed.
    let mut place = 0;
    for key in keys {
        let Some(value) = at(root, path).and_then(|table| table.shift_remove(&key)) else { continue };
        if T::deserialize(&*root).is_ok_and(|read| read == *whole) {
            continue;
        }
        let data = DATA.contains(&key.as_str());
        if let Some(table) = at(root, path) {
            table.shift_insert(place, key.clone(), value);
        }
        place += 1;
        if !data {
            path.push(key);
            drop_defaults(root, path, whole);
            path.pop();
        }
    }
}

fn at<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(root, |value, key| value.get_mut(key))?.as_object_mut()
}

/// The places below an endpoint where a secret is written out instead of named.
fn literal_secrets(place: &str, value: &Value, in_auth: bool, found: &mut Vec<String>) {
    let Value::Object(table) = value else { return };
    for (key, value) in table {
        let place = format!("{place}.{key}");
        match value {
            Value::String(text) if is_url(key) && url_holds_secret(text) => found.push(place),
            Value::String(_) if is_url(key) => {}
            Value::String(text) => {
                let named = is_secret_header(key) && !names_no_secret(key);
                let literal = !SecretText(text.clone()).is_reference() && !is_plain_template(text) && !text.is_empty();
                if literal && (named || (in_auth && key == "value")) {
                    found.push(place);
                }
            }
            Value::Object(_) if key != "response" => literal_secrets(&place, value, in_auth || key == "auth", found),
            _ => {}
        }
    }
}

fn is_url(key: &str) -> bool {
    matches!(key, "url" | "backup_url" | "token_url")
}

/// Keys that tell where a secret goes or comes from, and are none.
fn names_no_secret(key: &str) -> bool {
    ["url", "_path", "_header", "_name", "_type", "_field"].iter().any(|end| key.ends_with(end))
}

/// Whether a URL that is written out has a password, or a secret by its name in its query.
fn url_holds_secret(url: &str) -> bool {
    if SecretText(url.to_owned()).is_reference() {
        return false;
    }
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let parameters = url.split_once('?').map_or("", |(_, query)| query).split('&');
    authority.contains('@')
        || parameters
            .filter_map(|parameter| parameter.split_once('='))
            .any(|(name, value)| is_secret_header(name) && !value.is_empty() && !is_plain_template(value))
}

/// The entries of a table: those that fit on a line first, then those with a header of their own.
fn table(out: &mut String, path: &str, entries: &Map<String, Value>) {
    let (sections, lines): (Vec<_>, Vec<_>) =
        entries.iter().filter(|(_, value)| !value.is_null()).partition(|(name, value)| is_section(path, name, value));
    for (name, value) in lines {
        let name = key(name);
        let _ = writeln!(out, "{name} = {}", written(value, name.len() + 3));
    }
    for (name, value) in sections {
        let Value::Object(entries) = value else { continue };
        let path = format!("{path}.{}", key(name));
        // A table of tables needs no header of its own.
        if !entries.iter().all(|(name, value)| is_section(&path, name, value)) {
            let _ = writeln!(out, "\n[{path}]");
        }
        table(out, &path, entries);
    }
}

fn is_section(path: &str, name: &str, value: &Value) -> bool {
    let Value::Object(entries) = value else { return false };
    let within = path.rsplit('.').next().unwrap_or_default();
    let declared = SECTIONS.contains(&name) || within == "maps";
    let long = || flat(value).len() + name.len() > WIDTH && !entries.values().any(Value::is_array);
    // What a lead's field, a header or a form's field is called says nothing of its shape.
    let named_by_people = ["fields", "form", "headers", "secrets"].contains(&within);
    !entries.is_empty() && !named_by_people && (declared || long())
}

/// A value, on one line if it fits; long lists with a line for each item.
fn written(value: &Value, column: usize) -> String {
    let line = flat(value);
    if line.len() + column <= WIDTH {
        return line;
    }
    match value {
        Value::Array(items) if !items.is_empty() => {
            let items: Vec<String> = items.iter().map(|item| format!("    {},\n", written(item, 4))).collect();
            format!("[\n{}]", items.concat())
        }
        Value::Object(entries) => entry_list(entries, |value| written(value, column)),
        _ => line,
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => entry_list(entries, flat),
        other => other.to_string(),
    }
}

fn entry_list(entries: &Map<String, Value>, written: impl Fn(&Value) -> String) -> String {
    let entries: Vec<String> = entries
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{} = {}", key(name), written(value)))
        .collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { quoted(name) }
}

fn string(text: &str) -> String {
    let raw = text.contains(['\\', '"']) && !text.contains('\'') && !text.contains(char::is_control);
    if raw { format!("'{text}'") } else { quoted(text) }
}

/// A basic string of TOML, whose escapes are JSON's, and which also wants DEL escaped.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007F")
}

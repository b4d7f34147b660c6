//! Choosing, comparing and typing values.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use super::super::engine::Scene;
use super::{Args, Literals, Value, number, shorten};
use crate::model::contract::Contract;
use crate::model::secret::MASK;

pub(super) fn default<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    Ok(args.values.iter().find(|value| !value.is_empty()).cloned().unwrap_or(Value::Null))
}

pub(super) fn map<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let (name, key) = (args.text(1), args.text(0));
    let table = scene.maps.get(name.as_ref()).ok_or("the contract has no such table in maps")?;
    match table.get(key.as_ref()).or_else(|| table.get("*")) {
        Some(entry) => Ok(entry.clone().into()),
        None if key.is_empty() => Ok("".into()),
        None => Err(format!(
            "the table `{}` has no entry for this value; add one, or `\"*\"` for all the rest",
            shorten(&name)
        )),
    }
}

pub(super) fn check_map(literals: &Literals<'_>, contract: &Contract) -> Result<(), String> {
    match literals.setting(1, "table") {
        Ok(Some(name)) if !contract.maps.contains_key(name.as_ref()) => Err(format!(
            "there is no table `{}`: write [contract.maps.{0}], or use one of {}",
            shorten(&name),
            if contract.maps.is_empty() {
                "none yet".to_owned()
            } else {
                contract.maps.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            }
        )),
        _ => Ok(()),
    }
}

/// JSON text of a value. Typed by the value itself; `type` reads a text as what it says.
pub(super) fn json<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let value = args.value(0);
    let kind = args.option("type");
    if let Value::Parts(parts) = value {
        return Ok(match (kind.as_deref(), args.option(NUMBERS)) {
            (Some("number"), _) => typed_parts(parts, true, &[])?,
            (_, Some(names)) => typed_parts(parts, false, &names.split(' ').collect::<Vec<_>>())?,
            _ => parts.to_string(),
        }
        .into());
    }
    let text = value.text();
    if text.is_empty() {
        return Ok("null".into());
    }
    Ok(match (kind.as_deref(), value) {
        (Some("number"), _) => json_number(text)?.into(),
        (Some("boolean"), _) => json_boolean(text.trim()).ok_or("not true or false")?.into(),
        (None, Value::Boolean(_) | Value::Number(_)) => text.into(),
        (Some("string") | None, _) => Json::from(text.as_ref()).to_string().into(),
        (Some(_), _) => return Err("type is not number, boolean or string".to_owned()),
    })
}

/// The option with the names of the members that are numbers, set where a template is loaded and by no template.
pub(in crate::render) const NUMBERS: &str = "numbers";

/// JSON text of a list field or an entry of it. Decimals are kept as texts: those that are numbers by their type are
/// written as such. (The mask is none.)
fn typed_parts(value: &Json, number: bool, names: &[&str]) -> Result<String, String> {
    match value {
        Json::Array(entries) => {
            let entries = entries.iter().map(|entry| typed_parts(entry, number, names));
            Ok(format!("[{}]", entries.collect::<Result<Vec<_>, _>>()?.join(",")))
        }
        Json::Object(members) => {
            let members = members.iter().map(|(name, member)| {
                let text = typed_parts(member, names.contains(&name.as_str()), &[])?;
                Ok::<_, String>(format!("{}:{text}", Json::from(name.as_str())))
            });
            Ok(format!("{{{}}}", members.collect::<Result<Vec<_>, _>>()?.join(",")))
        }
        Json::String(text) if number && text != MASK => Ok(json_number(text.into())?.into_owned()),
        scalar => Ok(scalar.to_string()),
    }
}

pub(super) fn check_json(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    literals.one_of(usize::MAX, "type", &["number", "boolean", "string"])
}

/// The number as it stands, if JSON can carry it so ("85.50" keeps its zero), else normalised ("+5", "05").
fn json_number(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    let plain = text.trim();
    if serde_json::from_str::<serde_json::Number>(plain).is_err() {
        let read = number::read(plain).map(|value| value.to_string().into());
        return read.ok_or_else(|| "not a number".to_owned());
    }
    Ok(if plain.len() == text.len() { text } else { plain.to_owned().into() })
}

fn json_boolean(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some("true"),
        "false" | "no" | "0" => Some("false"),
        _ => None,
    }
}

/// Equal as text; where a number takes part, equal as numbers too (`85.5` and `"85.50"`).
pub(super) fn equal(args: &Args<'_, '_>) -> bool {
    let (a, b) = (args.text(0), args.text(1));
    a == b
        || (args.values.iter().any(|value| matches!(value, Value::Number(_)))
            && number::read(&a).is_some_and(|a| Some(a) == number::read(&b)))
}

/// By number where both are numbers, else by text (dates written `2026-11-21` order rightly). Nothing is before or
/// after an empty value.
pub(super) fn order(args: &Args<'_, '_>) -> Option<Ordering> {
    let (a, b) = (args.text(0), args.text(1));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    match (number::read(&a), number::read(&b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => Some(a.cmp(&b)),
    }
}

pub(super) fn truths(args: &Args<'_, '_>) -> impl Iterator<Item = bool> {
    args.values.iter().map(|value| value.is_truthy(false))
}

pub(super) fn lookup<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let name = args.text(1);
    Ok(match args.value(0) {
        Value::Parts(Cow::Borrowed(parts)) => parts.get(name.as_ref()).map_or(Value::Null, Value::of),
        Value::Parts(Cow::Owned(parts)) => parts.get(name.as_ref()).cloned().unwrap_or_default().into(),
        _ => Value::Null,
    })
}

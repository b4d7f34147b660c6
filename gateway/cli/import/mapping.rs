//! Which column goes into which field.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::import::Target;

/// The reserved names that a source may post (CONTRACT 7).
const METADATA: [&str; 8] = ["external_id", "click_id", "sub1", "sub2", "sub3", "sub4", "sub5", "test"];

/// The columns that a file of refused rows has behind those of its origin.
pub(super) const REPORT: [&str; 3] = ["line", "status_code", "reasons"];

/// Where a column goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "to", content = "name")]
pub(super) enum To {
    /// A field or a metadata name of the campaign.
    Known(String),
    /// A field that the campaign does not declare and keeps.
    Kept(String),
    /// Nowhere.
    Ignored,
}

/// A column of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Column {
    pub(super) header: String,
    #[serde(flatten)]
    pub(super) to: To,
}

/// Every column's place, or everything that is in the way. `wishes` are header → name; an empty name ignores the column.
pub(super) fn map(
    header: &[String],
    target: &Target,
    wishes: &BTreeMap<String, String>,
    ignore_unmapped: bool,
) -> Result<Vec<Column>, Vec<String>> {
    let mut faults = Vec::new();
    let reports =
        header.len().checked_sub(REPORT.len()).filter(|at| header.get(*at..).is_some_and(|end| end == REPORT));
    for wish in wishes.keys().filter(|wish| !header.contains(*wish)) {
        let columns: Vec<String> = header.iter().map(|name| format!("\"{name}\"")).collect();
        faults.push(format!("there is no column \"{wish}\"; there are {}", columns.join(", ")));
    }
    let mut columns = Vec::with_capacity(header.len());
    for (at, name) in header.iter().enumerate() {
        let to = if reports.is_some_and(|reports| at >= reports) {
            To::Ignored
        } else {
            place(name, target, wishes, ignore_unmapped).unwrap_or_else(|fault| {
                faults.push(fault);
                To::Ignored
            })
        };
        columns.push(Column { header: name.clone(), to });
    }
    faults.extend(given_twice(&columns, target));
    let given = |field: &String| {
        columns.iter().any(|column| {
            matches!(&column.to, To::Known(name) if name == field || list_of(name, target) == Some(field.as_str()))
        })
    };
    for field in target.required.iter().filter(|field| !given(field)) {
        faults.push(format!(
            "no column goes into `{field}`, which campaign {} requires; name one: --map \"COLUMN={field}\"",
            target.campaign
        ));
    }
    if faults.is_empty() { Ok(columns) } else { Err(faults) }
}

fn place(name: &str, target: &Target, wishes: &BTreeMap<String, String>, ignore_unmapped: bool) -> Result<To, String> {
    let known = |wanted: &str| {
        target.fields.iter().any(|field| field == wanted)
            || METADATA.contains(&wanted)
            || list_of(wanted, target).is_some()
    };
    if let Some(wish) = wishes.get(name) {
        return match wish.as_str() {
            "" => Ok(To::Ignored),
            wish if known(wish) => Ok(To::Known(wish.to_owned())),
            wish if target.refuses_unknown => Err(format!(
                "`{wish}` is no field of campaign {}; there are {}",
                target.campaign,
                target.fields.join(", ")
            )),
            wish => Ok(To::Kept(wish.to_owned())),
        };
    }
    // `interests[]`, `vehicles[0].make`: as a form would name it.
    if list_of(name, target).is_some() {
        return Ok(To::Known(name.to_owned()));
    }
    let plain = plain(name);
    let mut alike =
        target.fields.iter().map(String::as_str).chain(METADATA).filter(|known| self::plain(known) == plain);
    match (alike.next(), alike.next()) {
        (Some(one), None) => Ok(To::Known(one.to_owned())),
        (Some(one), Some(other)) => {
            Err(format!("column \"{name}\" may be `{one}` or `{other}`; say which: --map \"{name}={one}\""))
        }
        (None, _) if ignore_unmapped || name.is_empty() => Ok(To::Ignored),
        (None, _) if target.refuses_unknown => Err(format!(
            "column \"{name}\" is no field of campaign {}, which takes no others; say where it goes (--map \"{name}=FIELD\"), \
             leave it out (--map \"{name}=\"), or leave out all such columns (--ignore-unmapped)",
            target.campaign
        )),
        (None, _) => Ok(To::Kept(name.to_owned())),
    }
}

/// A name without what people write differently: case, spaces, `_`, `-`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_whitespace() && *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
}

/// The list that a name gives an entry of, or a part of one, as a form would.
fn list_of<'t>(name: &str, target: &'t Target) -> Option<&'t str> {
    let lists = target.lists.iter().map(String::as_str);
    lists
        .filter(|list| name.strip_prefix(list).is_some_and(|rest| rest.starts_with(['[', '.'])))
        .max_by_key(|list| list.len())
}

/// Names that several columns go into; a list takes them all.
fn given_twice(columns: &[Column], target: &Target) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for column in columns {
        if let To::Known(name) | To::Kept(name) = &column.to {
            by_name.entry(name).or_default().push(&column.header);
        }
    }
    let takes_all = |name: &str| target.lists.iter().any(|list| list == name || name.strip_suffix("[]") == Some(list));
    let twice = by_name.into_iter().filter(|(name, headers)| headers.len() > 1 && !takes_all(name));
    twice
        .map(|(name, headers)| {
            let headers: Vec<String> = headers.iter().map(|header| format!("\"{header}\"")).collect();
            format!("columns {} all go into `{name}`; rename or leave out all but one", headers.join(" and "))
        })
        .collect()
}

//! Which names a template may use, and what stands behind them.

use std::collections::BTreeSet;

use handlebars::{Path, PathSeg};

use super::helpers::Spec;
use crate::model::campaign::{Campaign, Field, FieldType};
use crate::model::contract::Contract;

/// The group of the contract's secrets, whose members each contract names itself.
pub(super) const SECRET: &str = "secret";

/// The group of the request's own parts, as far as they are rendered.
pub(super) const REQUEST: &str = "request";

/// A group of variables: `source.id`, `meta.sub1`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) members: &'static [&'static str],
}

/// Every group beside `lead`; `now` stands alone.
pub(super) static GROUPS: &[Group] = &[
    Group {
        name: "meta",
        members: &[
            "external_id",
            "click_id",
            "sub1",
            "sub2",
            "sub3",
            "sub4",
            "sub5",
            "ip",
            "user_agent",
            "received_at",
        ],
    },
    Group { name: "source", members: &["id", "name", "payout"] },
    Group { name: "campaign", members: &["id", "name"] },
    Group { name: "partner", members: &["id", "name"] },
    Group { name: "contract", members: &["id", "name", "price"] },
    Group { name: "delivery", members: &["id"] },
    Group { name: "attempt", members: &["number"] },
    Group { name: REQUEST, members: &["body", "path", "query", "url", "method", "timestamp"] },
];

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// All variables.
    Root,
    /// All fields of the lead.
    Lead,
    /// A group.
    Group(&'static Group),
    /// A list written in the template.
    List,
    /// A list field.
    Entries(Entries),
    /// One entry of a list of groups: that of the campaign's field with this number.
    Entry(usize),
    /// One value.
    Value(Kind),
}

/// What the entries of a list field are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    /// Single values.
    Values(Kind),
    /// Groups: those of the campaign's field with this number.
    Groups(usize),
}

impl Entries {
    /// What one entry is.
    pub(super) fn one(self) -> Shape {
        match self {
            Self::Values(kind) => Shape::Value(kind),
            Self::Groups(field) => Shape::Entry(field),
        }
    }
}

/// What kind of value it is, as far as known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
    /// JSON text.
    Json,
}

impl Kind {
    pub(super) fn of(field: FieldType) -> Self {
        match field {
            FieldType::Integer | FieldType::Decimal => Self::Number,
            FieldType::Boolean => Self::Boolean,
            FieldType::Text
            | FieldType::Email
            | FieldType::Phone
            | FieldType::Date
            | FieldType::OneOf
            | FieldType::Postcode
            | FieldType::Url
            | FieldType::Ip
            | FieldType::List => Self::Text,
        }
    }
}

/// What a template refers to, so that only that is put together for it.
#[derive(Clone, Default)]
pub(super) struct Uses {
    /// Fields by name.
    pub(super) fields: BTreeSet<String>,
    /// Those of them that are lists.
    pub(super) lists: BTreeSet<String>,
    /// The lead as a whole (`each`, `lookup`, `json`).
    pub(super) whole_lead: bool,
    /// Names of groups, and `now`.
    pub(super) groups: BTreeSet<&'static str>,
    /// Helpers that look at the delivery.
    pub(super) scenic: Vec<&'static Spec>,
    /// Parts of the request.
    pub(super) request: BTreeSet<&'static str>,
    /// Names of the contract's secrets.
    pub(super) secrets: BTreeSet<String>,
    /// A sensitive field is among them.
    pub(super) sensitive: bool,
}

impl Uses {
    pub(super) fn merge(&mut self, other: &Self) {
        self.fields.extend(other.fields.iter().cloned());
        self.lists.extend(other.lists.iter().cloned());
        self.whole_lead |= other.whole_lead;
        self.groups.extend(&other.groups);
        for spec in &other.scenic {
            self.add_scenic(spec);
        }
        self.request.extend(&other.request);
        self.secrets.extend(other.secrets.iter().cloned());
        self.sensitive |= other.sensitive;
    }

    /// Something among them must not be stored.
    pub(super) fn masks(&self) -> bool {
        self.sensitive || !self.secrets.is_empty()
    }

    pub(super) fn add_scenic(&mut self, spec: &'static Spec) {
        if !self.scenic.iter().any(|known| known.name == spec.name) {
            self.scenic.push(spec);
        }
    }
}

/// What an open `each` or `with` makes of names inside it.
pub(super) struct Scope {
    pub(super) this: Shape,
    pub(super) params: Vec<(String, Shape)>,
    /// `@index` and its kin.
    pub(super) locals: Vec<(&'static str, Kind)>,
}

/// The open scopes, outermost first; never empty, since the root is one.
pub(super) struct Scopes<'a> {
    pub(super) campaign: &'a Campaign,
    pub(super) contract: &'a Contract,
    pub(super) open: Vec<Scope>,
}

impl<'a> Scopes<'a> {
    pub(super) fn new(campaign: &'a Campaign, contract: &'a Contract) -> Self {
        Self { campaign, contract, open: vec![Scope { this: Shape::Root, params: Vec::new(), locals: Vec::new() }] }
    }

    /// The `@` variables of the innermost scope.
    pub(super) fn locals(&self) -> Vec<(&'static str, Kind)> {
        self.open.last().map(|scope| scope.locals.clone()).unwrap_or_default()
    }

    /// What a path stands for. Rewrites a dotted field to the one key under which the lead holds it, so that `address`
    /// and `address.city` can both be fields.
    pub(super) fn resolve(&self, path: &mut Path, uses: &mut Uses) -> Result<Shape, String> {
        match path {
            Path::Local((level, name, _)) => {
                let scope = self.open.iter().rev().nth(*level);
                let known = scope.and_then(|scope| scope.locals.iter().find(|(local, _)| local == name));
                known.map(|(_, kind)| Shape::Value(*kind)).ok_or_else(|| format!("`@{name}` means nothing here"))
            }
            Path::Relative((segments, raw)) => {
                let trail = Trail::read(segments).ok_or_else(|| format!("`{raw}` is not a path that we know"))?;
                let (shape, skipped) = self.base(&trail).ok_or_else(|| format!("`{raw}` leads out of the template"))?;
                let rest = trail.names.get(skipped..).unwrap_or_default();
                let (shape, field) = self.descend(shape, rest, raw, uses)?;
                if let Some(field) = field {
                    let keep = segments.len() - field.parts;
                    segments.truncate(keep);
                    segments.push(PathSeg::Named(field.name));
                    segments.extend(field.behind.into_iter().map(PathSeg::Named));
                }
                Ok(shape)
            }
        }
    }

    /// What the path starts from, and how many of its names that took.
    fn base(&self, trail: &Trail) -> Option<(Shape, usize)> {
        if trail.from_root {
            return Some((Shape::Root, 0));
        }
        if let Some(first) = trail.names.first() {
            let mut params = self.open.iter().rev().flat_map(|scope| &scope.params);
            if let Some((_, shape)) = params.find(|(name, _)| name == first) {
                return Some((*shape, 1));
            }
        }
        self.open.iter().rev().nth(trail.up).map(|scope| (scope.this, 0))
    }

    fn descend(
        &self,
        from: Shape,
        names: &[String],
        raw: &str,
        uses: &mut Uses,
    ) -> Result<(Shape, Option<FieldPath>), String> {
        let Some((first, rest)) = names.split_first() else {
            note(from, uses);
            return Ok((from, None));
        };
        match from {
            Shape::Root if first == "lead" => self.descend(Shape::Lead, rest, raw, uses),
            Shape::Root if first == "now" && rest.is_empty() => {
                uses.groups.insert("now");
                Ok((Shape::Value(Kind::Text), None))
            }
            Shape::Root if first == SECRET => self.secret(rest, raw, uses),
            Shape::Root => match GROUPS.iter().find(|group| group.name == first) {
                Some(group) => self.descend(Shape::Group(group), rest, raw, uses),
                None => Err(unknown(
                    &format!("`{raw}` is not a variable"),
                    first,
                    GROUPS.iter().map(|group| group.name).chain(["lead", "now", SECRET]),
                )),
            },
            Shape::Lead => {
                if let Some(found) = self.in_list(names, raw, uses) {
                    return found;
                }
                let name = names.join(".");
                let Some(field) = self.campaign.fields.get(&name) else {
                    let known = self.campaign.fields.keys().map(String::as_str);
                    let message = format!("the campaign {} declares no field `{name}`", self.campaign.id);
                    return Err(unknown(&message, &name, known));
                };
                uses.sensitive |= field.sensitive;
                uses.fields.insert(name.clone());
                let shape = match field.kind {
                    FieldType::List => {
                        uses.lists.insert(name.clone());
                        Shape::Entries(self.entries(&name, field))
                    }
                    kind => Shape::Value(Kind::of(kind)),
                };
                Ok((shape, Some(FieldPath { name, parts: names.len(), behind: Vec::new() })))
            }
            Shape::Entry(list) => {
                let members = self.campaign.fields.values().nth(list).map(|field| &field.fields);
                match members.and_then(|members| members.get(first)).filter(|_| rest.is_empty()) {
                    Some(member) => Ok((Shape::Value(Kind::of(member.kind)), None)),
                    None if *first == "lead" || GROUPS.iter().any(|group| group.name == first) => {
                        Err(format!("inside of an entry, write @root.{}", names.join(".")))
                    }
                    None => {
                        let known = members.into_iter().flatten().map(|(name, _)| name.as_str());
                        let message = format!("`{raw}`: the entries of this list have no `{}`", names.join("."));
                        Err(unknown(&message, first, known))
                    }
                }
            }
            Shape::Group(group) => {
                let member = group.members.iter().find(|member| rest.is_empty() && **member == first);
                let Some(member) = member else {
                    let known = group.members.iter().copied();
                    return Err(unknown(&format!("`{raw}` is not a variable"), first, known));
                };
                if group.name == REQUEST {
                    uses.request.insert(member);
                } else {
                    uses.groups.insert(group.name);
                }
                Ok((
                    Shape::Value(if matches!(*member, "number" | "timestamp") { Kind::Number } else { Kind::Text }),
                    None,
                ))
            }
            Shape::Entries(_) => Err(format!("`{raw}` asks for a part of a list; go through it with {{{{#each …}}}}")),
            Shape::List | Shape::Value(_) => Err(format!("`{raw}` asks for a part of a single value")),
        }
    }
}

impl Scopes<'_> {
    /// One of the contract's secrets; never all of them.
    fn secret(&self, rest: &[String], raw: &str, uses: &mut Uses) -> Result<(Shape, Option<FieldPath>), String> {
        match rest {
            [name] if self.contract.secrets.contains_key(name) => {
                uses.secrets.insert(name.clone());
                Ok((Shape::Value(Kind::Text), None))
            }
            _ => {
                let known = self.contract.secrets.keys().map(String::as_str);
                let message = format!("`{raw}` is no secret of this contract: write one into [contract.secrets]");
                Err(unknown(&message, &rest.join("."), known))
            }
        }
    }

    fn entries(&self, name: &str, field: &Field) -> Entries {
        match &field.items {
            Some(items) => Entries::Values(Kind::of(items.kind)),
            None => Entries::Groups(self.campaign.fields.keys().position(|known| known == name).unwrap_or(usize::MAX)),
        }
    }

    /// What stands behind a list's name: `vehicles.0` is an entry, `vehicles.0.make` its member. `None` for the names
    /// of other fields, and of the list itself.
    fn in_list(
        &self,
        names: &[String],
        raw: &str,
        uses: &mut Uses,
    ) -> Option<Result<(Shape, Option<FieldPath>), String>> {
        let at = (1..names.len()).find(|at| {
            let name = names.get(..*at).unwrap_or_default().join(".");
            self.campaign.fields.get(&name).is_some_and(|field| field.kind == FieldType::List)
        })?;
        let (list, behind) = names.split_at(at);
        let (name, (number, rest)) = (list.join("."), behind.split_first()?);
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Some(Err(format!(
                "`lead.{name}` is a list: write {{{{#each lead.{name}}}}}{{{{this.{number}}}}}{{{{/each}}}}, or \
                 lead.{name}.0.{number} for its first entry"
            )));
        }
        let field = self.campaign.fields.get(&name)?;
        uses.sensitive |= field.sensitive;
        uses.fields.insert(name.clone());
        uses.lists.insert(name.clone());
        let (parts, behind) = (names.len(), behind.to_vec());
        let entry = self.descend(self.entries(&name, field).one(), rest, raw, uses);
        Some(entry.map(|(shape, _)| (shape, Some(FieldPath { name, parts, behind }))))
    }
}

/// What to write instead of a list.
pub(super) fn instead_of(list: &str, entries: Entries) -> String {
    match entries {
        Entries::Values(_) => format!(
            "`{list}` is a list: write {{{{#each {list}}}}}{{{{this}}}}{{{{/each}}}}, {{{{concat {list} separator=\", \"}}}} \
             or {{{{json {list}}}}}"
        ),
        Entries::Groups(_) => format!(
            "`{list}` is a list of groups: write {{{{#each {list}}}}}{{{{this.MEMBER}}}}{{{{/each}}}} or {{{{json {list}}}}}"
        ),
    }
}

/// A field that the end of a path names, in so many parts.
struct FieldPath {
    name: String,
    parts: usize,
    /// Those of them that lead into the field: an entry's number and a member.
    behind: Vec<String>,
}

fn note(shape: Shape, uses: &mut Uses) {
    if let Shape::Group(group) = shape
        && group.name == REQUEST
    {
        uses.request.extend(group.members);
    } else if let Shape::Group(group) = shape {
        uses.groups.insert(group.name);
    }
}

/// A path taken apart.
pub(super) struct Trail {
    from_root: bool,
    pub(super) up: usize,
    pub(super) names: Vec<String>,
}

impl Trail {
    pub(super) fn read(segments: &[PathSeg]) -> Option<Self> {
        let mut trail = Self { from_root: false, up: 0, names: Vec::new() };
        for segment in segments {
            match segment {
                PathSeg::Named(name) => trail.names.push(name.clone()),
                // Handlebars does not export the type of these marks, but their names are in its grammar.
                PathSeg::Ruled(mark) => match format!("{mark:?}").as_str() {
                    "path_root" => trail.from_root = true,
                    "path_up" => trail.up += 1,
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(trail)
    }
}

/// The message with the nearest known name, or with all of them where there are few.
pub(super) fn unknown<'a>(message: &str, word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|name| (strsim::osa_distance(word, name), *name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + word.chars().count() / 4 => format!("{message}; is it `{name}`?"),
        _ if known.is_empty() => format!("{message}; there are none"),
        _ if known.len() <= 12 => format!("{message}; there are {}", known.join(", ")),
        _ => message.to_owned(),
    }
}

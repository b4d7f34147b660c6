//! Reading configured filters: every fault is found and says where it stands.

use std::str::FromStr;

use jiff::civil::Date;
use regex::Regex;
use rust_decimal::Decimal;

use super::{Bound, Node, Subject, Test, Value, folded};
use crate::model::campaign::{Campaign, Field, FieldType, Scalar, UnknownFields};
use crate::model::contract::{Filter, SourceTest};
use crate::model::id::SourceId;
use crate::routing::Fault;

/// Filters within filters, at most.
const DEEPEST: usize = 32;

pub(super) fn compile(filter: &Filter, campaign: &Campaign) -> Result<Node, Vec<Fault>> {
    let mut reader = Reader { campaign, faults: Vec::new() };
    match reader.node(filter, "filters", 0) {
        Some(node) if reader.faults.is_empty() => Ok(node),
        _ => Err(reader.faults),
    }
}

struct Reader<'a> {
    campaign: &'a Campaign,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, at: &str, problem: impl Into<String>) {
        self.faults.push(Fault { at: at.to_owned(), problem: problem.into() });
    }

    /// `None` after a fault.
    fn node(&mut self, filter: &Filter, at: &str, depth: usize) -> Option<Node> {
        if depth >= DEEPEST {
            self.fault(at, format!("filters are nested more than {DEEPEST} deep; flatten them"));
            return None;
        }
        let selectors: Vec<&str> = [
            ("all", filter.all.is_some()),
            ("any", filter.any.is_some()),
            ("not", filter.not.is_some()),
            ("field", filter.field.is_some()),
            ("source", filter.source.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        let &[selector] = selectors.as_slice() else {
            let problem = if selectors.is_empty() {
                "nothing is selected; write one of all, any, not, field, source".to_owned()
            } else {
                format!(
                    "{} stand side by side; write one of them, and join them with all or any",
                    selectors.join(" and ")
                )
            };
            self.fault(at, problem);
            return None;
        };
        if matches!(selector, "all" | "any" | "not") && has_test(filter) {
            self.fault(at, format!("a test stands beside `{selector}`; put it beside a field or source of its own"));
        }
        match filter {
            Filter { all: Some(all), .. } => self.nodes(all, &format!("{at}.all"), depth).map(Node::All),
            Filter { any: Some(any), .. } => self.nodes(any, &format!("{at}.any"), depth).map(Node::Any),
            Filter { not: Some(not), .. } => {
                self.node(not, &format!("{at}.not"), depth + 1).map(|node| Node::Not(Box::new(node)))
            }
            Filter { field: Some(field), .. } => self.field(field, filter, at),
            Filter { source: Some(source), .. } => self.source(source, filter, at),
            _ => None, // one selector is there, see above
        }
    }

    fn nodes(&mut self, filters: &[Filter], at: &str, depth: usize) -> Option<Vec<Node>> {
        if filters.is_empty() {
            self.fault(at, "the list is empty; write a filter in it, or leave it out");
            return None;
        }
        let nodes: Vec<Option<Node>> =
            filters.iter().enumerate().map(|(i, filter)| self.node(filter, &format!("{at}[{i}]"), depth + 1)).collect();
        nodes.into_iter().collect()
    }

    fn field(&mut self, name: &str, filter: &Filter, at: &str) -> Option<Node> {
        let campaign = self.campaign;
        let field = campaign.fields.get(name);
        if let Some(list) = field.filter(|field| field.kind == FieldType::List) {
            return self.list(name, list, filter, at);
        }
        let of_list = name.rsplit_once('.').and_then(|(list, member)| Some((list, member, campaign.fields.get(list)?)));
        if let Some((list, member, field)) = of_list.filter(|(.., field)| !field.fields.is_empty()) {
            return self.member(list, member, field, filter, at);
        }
        let kind = field.map(|field| field.kind);
        if kind.is_none() && self.campaign.unknown_fields == UnknownFields::Refuse {
            let problem = format!("field `{name}` is not declared by campaign {}, which refuses it", self.campaign.id);
            self.fault(at, problem);
            return None;
        }
        let tests = self.tests(filter, kind, field, at)?;
        Some(Node::Tests(Subject::Field(name.to_owned(), kind), tests))
    }

    /// A list of values is tested by its entries; of a list of groups only whether it is given.
    fn list(&mut self, name: &str, list: &Field, filter: &Filter, at: &str) -> Option<Node> {
        let items = list.items.as_deref();
        let exists_only = Filter { exists: None, ..filter.clone() };
        if let (None, true, Some(member)) = (items, has_test(&exists_only), list.fields.keys().next()) {
            self.fault(at, format!("the entries of `{name}` are groups; name a member, such as {name}.{member}"));
            return None;
        }
        let kind = items.map(|items| items.kind);
        let tests = self.tests(filter, kind, items, at)?;
        Some(Node::Tests(Subject::Field(name.to_owned(), kind), tests))
    }

    /// A member of a list of groups.
    fn member(&mut self, list: &str, member: &str, field: &Field, filter: &Filter, at: &str) -> Option<Node> {
        let declared = field.fields.get(member);
        if declared.is_none() && self.campaign.unknown_fields == UnknownFields::Refuse {
            let known: Vec<&str> = field.fields.keys().map(String::as_str).collect();
            self.fault(at, format!("the entries of `{list}` have no `{member}`; they have {}", known.join(", ")));
            return None;
        }
        let kind = declared.map(|member| member.kind);
        let tests = self.tests(filter, kind, declared, at)?;
        let name = format!("{list}.{member}");
        Some(Node::Tests(Subject::Member { list: list.to_owned(), member: member.to_owned(), name, kind }, tests))
    }

    fn source(&mut self, source: &SourceTest, filter: &Filter, at: &str) -> Option<Node> {
        let ids: &[String] = match source {
            SourceTest::ByTest(true) => {
                return self.tests(filter, None, None, at).map(|tests| Node::Tests(Subject::Source, tests));
            }
            SourceTest::ByTest(false) => {
                self.fault(at, "source = false selects nothing; write a source's id, or true beside a test");
                return None;
            }
            SourceTest::Is(id) => std::slice::from_ref(id),
            SourceTest::OneOf(ids) => ids,
        };
        let faults = self.faults.len();
        if has_test(filter) {
            self.fault(at, "a test stands beside a source's id; write source = true beside a test");
        }
        if ids.is_empty() {
            self.fault(at, "the list of sources is empty; name one, or leave it out");
        }
        for id in ids {
            if let Err(bad) = id.parse::<SourceId>() {
                self.fault(at, format!("source {bad}"));
            }
        }
        let test = Test::OneOf(ids.iter().cloned().map(Value::Text).collect());
        (self.faults.len() == faults).then_some(Node::Tests(Subject::Source, vec![test]))
    }

    fn tests(
        &mut self,
        filter: &Filter,
        kind: Option<FieldType>,
        field: Option<&Field>,
        at: &str,
    ) -> Option<Vec<Test>> {
        let faults = self.faults.len();
        if !has_test(filter) {
            self.fault(at, "a test is missing; write one of equals, one_of, prefix, matches, min, max, exists");
            return None;
        }
        let mut tests = Vec::new();
        if let Some(value) = &filter.equals {
            let value = self.value(value, kind, field, &format!("{at}.equals"));
            tests.extend(value.map(|value| Test::OneOf(vec![value])));
        }
        if let Some(values) = &filter.one_of {
            let at = format!("{at}.one_of");
            if values.is_empty() {
                self.fault(&at, "the list is empty, so that no lead would pass");
            }
            tests.push(Test::OneOf(values.iter().filter_map(|value| self.value(value, kind, field, &at)).collect()));
        }
        if let Some(starts) = &filter.prefix {
            let starts: Vec<String> = starts.0.iter().map(|Scalar(start)| folded(start, kind).into_owned()).collect();
            if starts.is_empty() || starts.iter().any(String::is_empty) {
                self.fault(&format!("{at}.prefix"), "an empty prefix is no test; write what the value must start with");
            }
            tests.push(Test::Prefix(starts));
        }
        if let Some(pattern) = &filter.matches {
            match Regex::new(pattern) {
                Ok(pattern) => tests.push(Test::Matches(pattern)),
                Err(error) => self.fault(&format!("{at}.matches"), format!("is no regular expression: {error}")),
            }
        }
        let min = filter.min.as_ref().and_then(|min| self.bound(min, kind, &format!("{at}.min")));
        let max = filter.max.as_ref().and_then(|max| self.bound(max, kind, &format!("{at}.max")));
        if let (Some(min), Some(max)) = (min, max)
            && (std::mem::discriminant(&min) != std::mem::discriminant(&max) || min > max)
        {
            self.fault(at, format!("min {min} and max {max} leave nothing between them"));
        }
        tests.extend(min.map(Test::Min));
        tests.extend(max.map(Test::Max));
        if filter.exists == Some(false) && !tests.is_empty() {
            self.fault(at, "exists = false stands beside another test, so that no lead would pass");
        }
        tests.extend(filter.exists.map(Test::Exists));
        (self.faults.len() == faults).then_some(tests)
    }

    /// A value to be equal to, in the form of the field's type.
    fn value(&mut self, value: &Scalar, kind: Option<FieldType>, field: Option<&Field>, at: &str) -> Option<Value> {
        let text = value.0.as_str();
        let (value, expected) = match kind {
            Some(FieldType::Integer | FieldType::Decimal) => {
                (Decimal::from_str(text).ok().map(Value::Number), "a number, as the field is")
            }
            Some(FieldType::Boolean) => (boolean(text).map(Value::Boolean), "true or false, as the field is"),
            Some(FieldType::Date) => (
                text.parse::<Date>().ok().map(|day| Value::Text(day.to_string())),
                "a date such as 2026-11-21, as the field is",
            ),
            Some(FieldType::OneOf) => (
                field
                    .is_none_or(|field| field.values.iter().any(|value| value == text))
                    .then(|| Value::Text(text.to_owned())),
                "one of the values that the campaign declares for the field",
            ),
            _ => (Some(Value::Text(folded(text, kind).into_owned())), ""),
        };
        if value.is_none() {
            self.fault(at, format!("`{text}` is not {expected}"));
        }
        value
    }

    fn bound(&mut self, bound: &Scalar, kind: Option<FieldType>, at: &str) -> Option<Bound> {
        let text = bound.0.as_str();
        let number = || Decimal::from_str(text).ok().map(Bound::Number);
        let day = || text.parse().ok().map(Bound::Day);
        let (bound, expected) = match kind {
            Some(FieldType::Integer | FieldType::Decimal) => (number(), "a number, as the field is"),
            Some(FieldType::Date) => (day(), "a date such as 2026-11-21, as the field is"),
            None | Some(FieldType::Text | FieldType::OneOf) => {
                (number().or_else(day), "a number or a date such as 2026-11-21")
            }
            Some(_) => {
                self.fault(at, "the field is neither a number nor a date, and has no least or greatest value");
                return None;
            }
        };
        if bound.is_none() {
            self.fault(at, format!("`{text}` is not {expected}"));
        }
        bound
    }
}

fn has_test(filter: &Filter) -> bool {
    filter.equals.is_some()
        || filter.one_of.is_some()
        || filter.prefix.is_some()
        || filter.matches.is_some()
        || filter.min.is_some()
        || filter.max.is_some()
        || filter.exists.is_some()
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

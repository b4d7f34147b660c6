//! The part of JSON Schema (2020-12) that the description uses. A keyword that it does not know fails the test: a schema
//! must not seem to say more than is checked.

use regex::Regex;
use serde_json::{Map, Value};

/// Says nothing about what is valid.
const ANNOTATIONS: &[&str] = &["default", "description", "example", "format", "xml"];

/// What of `value` does not fit `schema`, each fault with its place. References are looked up in `document`.
pub fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut check = Check { document, faults: Vec::new() };
    check.fits(schema, value, "");
    check.faults
}

/// What a `$ref` stands for; what is not a reference stands for itself.
pub fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} is not of this document"));
            let found = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"));
            resolve(document, found)
        }
        None => value,
    }
}

struct Check<'a> {
    document: &'a Value,
    faults: Vec<String>,
}

impl Check<'_> {
    fn fits(&mut self, schema: &Value, value: &Value, at: &str) {
        let Some(schema) = schema.as_object() else { panic!("a schema must be an object, not {schema}") };
        for (keyword, rule) in schema {
            match keyword.as_str() {
                "$ref" => self.fits(resolve(self.document, &Value::Object(schema.clone())), value, at),
                "allOf" => list(rule).iter().for_each(|part| self.fits(part, value, at)),
                "anyOf" => self.fits_some(list(rule), value, at, |fitting| fitting > 0),
                "oneOf" => self.fits_some(list(rule), value, at, |fitting| fitting == 1),
                "const" => self.must(rule == value, value, at, || format!("must be {rule}")),
                "enum" => self.must(list(rule).contains(value), value, at, || format!("must be one of {rule}")),
                "type" => {
                    let fits = match rule {
                        Value::Array(several) => several.iter().any(|one| is(text(one), value)),
                        one => is(text(one), value),
                    };
                    self.must(fits, value, at, || format!("must be of type {rule}"));
                }
                _ if ANNOTATIONS.contains(&keyword.as_str()) => {}
                _ => match value {
                    Value::Object(members) => self.object(schema, keyword, rule, members, at),
                    Value::Array(items) => self.array(keyword, rule, items, at),
                    Value::String(given) => self.text(keyword, rule, given, at),
                    Value::Number(_) => self.number(keyword, rule, value, at),
                    _ => known(keyword),
                },
            }
        }
    }

    fn fits_some(&mut self, schemas: &[Value], value: &Value, at: &str, enough: impl Fn(usize) -> bool) {
        let each: Vec<Vec<String>> = schemas.iter().map(|schema| faults(self.document, schema, value)).collect();
        let fitting = each.iter().filter(|faults| faults.is_empty()).count();
        self.must(enough(fitting), value, at, || format!("fits {fitting} of {} schemas: {each:?}", schemas.len()));
    }

    fn object(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        rule: &Value,
        members: &Map<String, Value>,
        at: &str,
    ) {
        match keyword {
            "required" => {
                for name in list(rule) {
                    if !members.contains_key(text(name)) {
                        self.faults.push(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = members.get(name) {
                        self.fits(schema, value, &format!("{at}/{name}"));
                    }
                }
            }
            "additionalProperties" => {
                let declared = schema.get("properties").and_then(Value::as_object);
                let others = members.iter().filter(|(name, _)| !declared.is_some_and(|it| it.contains_key(*name)));
                for (name, value) in others {
                    match rule {
                        Value::Bool(true) => {}
                        Value::Bool(false) => self.faults.push(format!("{at}: {name} is not described")),
                        schema => self.fits(schema, value, &format!("{at}/{name}")),
                    }
                }
            }
            "minProperties" if members.len() < size(rule) => {
                self.faults.push(format!("{at}: fewer than {rule} members"));
            }
            _ => known(keyword),
        }
    }

    fn array(&mut self, keyword: &str, rule: &Value, items: &[Value], at: &str) {
        match keyword {
            "items" => {
                for (index, item) in items.iter().enumerate() {
                    self.fits(rule, item, &format!("{at}/{index}"));
                }
            }
            "minItems" if items.len() < size(rule) => self.faults.push(format!("{at}: fewer than {rule} items")),
            "maxItems" if items.len() > size(rule) => self.faults.push(format!("{at}: more than {rule} items")),
            _ => known(keyword),
        }
    }

    fn text(&mut self, keyword: &str, rule: &Value, given: &str, at: &str) {
        let length = given.chars().count();
        match keyword {
            "pattern" if !Regex::new(text(rule)).unwrap().is_match(given) => {
                self.faults.push(format!("{at}: {given:?} does not match {rule}"));
            }
            "minLength" if length < size(rule) => self.faults.push(format!("{at}: shorter than {rule} characters")),
            "maxLength" if length > size(rule) => self.faults.push(format!("{at}: longer than {rule} characters")),
            _ => known(keyword),
        }
    }

    fn number(&mut self, keyword: &str, rule: &Value, value: &Value, at: &str) {
        match keyword {
            "minimum" => self.must(value.as_f64() >= rule.as_f64(), value, at, || format!("must be at least {rule}")),
            "maximum" => self.must(value.as_f64() <= rule.as_f64(), value, at, || format!("must be at most {rule}")),
            _ => known(keyword),
        }
    }

    fn must(&mut self, holds: bool, value: &Value, at: &str, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("{at}: {value} {}", what()));
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a type"),
    }
}

/// A keyword that says nothing about a value of this kind, or that the value fits.
fn known(keyword: &str) {
    const KNOWN: &[&str] = &[
        "additionalProperties",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "properties",
        "required",
    ];
    assert!(KNOWN.contains(&keyword), "the keyword {keyword} is not checked; teach tests/it/openapi/schema.rs to");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

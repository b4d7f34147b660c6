//! The description of the API (`gateway/api/openapi.json`): against the routes, against itself, and against what a
//! gateway really answers.

mod live;
mod routes;
mod schema;

use std::collections::BTreeSet;

use schema::{faults, resolve};
use serde_json::{Value, json};

use crate::harness::text_at;

const ROUTER: &str = include_str!("../../gateway/api.rs");
const PROBLEMS: &str = include_str!("../../gateway/web/problem.rs");
const DESCRIPTION: &str = include_str!("../../gateway/api/openapi.json");

fn description() -> Value {
    serde_json::from_str(DESCRIPTION).unwrap()
}

/// A described operation.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    described: &'a Value,
}

impl<'a> Operation<'a> {
    fn all(document: &'a Value) -> Vec<Self> {
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter().map(move |(method, described)| Self { method: method.as_str(), path: path.as_str(), described })
        });
        operations.collect()
    }

    fn id(&self) -> &'a str {
        self.described["operationId"]
            .as_str()
            .unwrap_or_else(|| panic!("{} {} has no operationId", self.method, self.path))
    }

    fn responses(&self) -> impl Iterator<Item = (u16, &'a Value)> {
        self.described["responses"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(status, response)| (status.parse().unwrap(), response))
    }

    /// Its parameters of one place: `path`, `query`, `header`.
    fn parameters(&self, document: &Value, place: &str) -> BTreeSet<String> {
        let all = self.described["parameters"].as_array().into_iter().flatten();
        let there = all.map(|parameter| resolve(document, parameter)).filter(|parameter| parameter["in"] == place);
        there.map(|parameter| text_at(parameter, "/name")).collect()
    }

    /// The names of the security schemes of which any will do.
    fn keys(&self) -> Vec<&'a str> {
        let all = self.described["security"].as_array().into_iter().flatten();
        all.flat_map(|one| one.as_object().unwrap().keys().map(String::as_str)).collect()
    }

    fn is_for_staff_alone(&self) -> bool {
        self.keys() == ["staffToken"]
    }
}

#[test]
fn the_description_and_the_routes_agree() {
    let document = description();
    let described: BTreeSet<_> =
        Operation::all(&document).iter().map(|one| (one.method.to_owned(), one.path.to_owned())).collect();
    assert_eq!(routes::declared(ROUTER), described);
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = description();
    let mut used = BTreeSet::new();
    each(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            resolve(&document, value);
            used.insert(reference.to_owned());
        }
    });
    for operation in Operation::all(&document) {
        used.extend(operation.keys().iter().map(|key| format!("#/components/securitySchemes/{key}")));
    }
    let components = document["components"].as_object().unwrap().iter();
    let components = components
        .flat_map(|(kind, all)| all.as_object().unwrap().keys().map(move |name| format!("#/components/{kind}/{name}")));
    assert_eq!(used, components.collect());
}

#[test]
fn every_operation_says_what_it_is_and_what_can_go_wrong() {
    let document = description();
    let mut ids = BTreeSet::new();
    for operation in Operation::all(&document) {
        let id = operation.id();
        assert!(ids.insert(id), "two operations are called {id}");
        assert!(
            operation.described["summary"].as_str().is_some_and(|summary| !summary.is_empty()),
            "{id} has no summary"
        );
        let in_path =
            operation.path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect();
        assert_eq!(operation.parameters(&document, "path"), in_path, "{id}");

        let statuses: BTreeSet<u16> = operation.responses().map(|(status, _)| status).collect();
        assert!(statuses.iter().any(|status| (200..300).contains(status)), "{id} never succeeds");
        let must = |status: u16, because: bool| {
            assert!(!because || statuses.contains(&status), "{id} does not describe {status}");
        };
        must(
            400,
            !operation.parameters(&document, "query").is_empty() || !operation.described["requestBody"].is_null(),
        );
        must(401, !operation.keys().is_empty());
        must(403, operation.is_for_staff_alone() && operation.method == "post");
        must(404, !operation.parameters(&document, "path").is_empty());
        // What is wrong with the lines of a batch stands in its results.
        let in_lines = !operation.described["requestBody"]["content"]["application/x-ndjson"].is_null();
        must(422, !operation.described["requestBody"].is_null() && !in_lines);
        must(503, !operation.keys().is_empty());
        for (status, response) in operation.responses() {
            let headers = &resolve(&document, response)["headers"];
            assert!(!headers["X-Request-Id"].is_null(), "{id} {status} has no X-Request-Id");
            assert_eq!(status == 401, !headers["WWW-Authenticate"].is_null(), "{id} {status}: WWW-Authenticate");
        }
    }
}

#[test]
fn every_kind_of_problem_is_described() {
    let kinds = PROBLEMS.split_once("\nkinds! {").unwrap().1.split_once("\n}").unwrap().0;
    let lines = kinds.lines().filter(|line| !line.trim_start().starts_with("///"));
    let declared: BTreeSet<String> =
        lines.filter_map(|line| line.split('"').nth(1)).map(|kind| format!("/problems/{kind}")).collect();
    let document = description();
    let described = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].as_array().unwrap();
    assert_eq!(described.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), declared);
}

#[test]
fn every_example_fits_its_schema() {
    let document = description();
    let mut checked = 0;
    each(&document, &mut |value| {
        for (media, content) in value.get("content").and_then(Value::as_object).into_iter().flatten() {
            let examples = content["examples"].as_object().into_iter().flatten();
            for (name, example) in examples.filter(|_| !media.ends_with("xml")) {
                let found = faults(&document, &content["schema"], &example["value"]);
                assert!(found.is_empty(), "the example {name} of {media}: {found:#?}\n{example:#}");
                checked += 1;
            }
        }
    });
    assert!(checked > 50, "only {checked} examples were found");
}

#[test]
fn the_description_is_written_in_one_way() {
    let pretty = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    assert!(
        DESCRIPTION == pretty,
        "write gateway/api/openapi.json with two spaces, as serde_json's to_string_pretty does"
    );
}

#[test]
fn what_does_not_fit_a_schema_is_found() {
    let document = description();
    let view = json!({"$ref": "#/components/schemas/SourceView"});
    let fits = json!({
        "lead_id": "0199f6c2-7c1e-7b3a-9d41-5f0a6b2c8e10", "status": "sold", "payout": "12.50", "redirect_url": null, "reason": null,
        "external_id": null, "test": false, "received_at": "2026-11-21T09:30:00.123456Z",
    });
    assert_eq!(faults(&document, &view, &fits), [""; 0]);
    let wrong = [
        ("status", json!("lost")),
        ("payout", json!(12.5)),
        ("payout", json!("£12")),
        ("reason", json!("sold_out")),
        ("test", json!("no")),
        ("lead_id", json!("A-17")),
        ("received_at", json!("2026-11-21 09:30")),
        ("price", json!("31.00")),
    ];
    for (name, value) in wrong {
        let mut view_of = fits.clone();
        view_of[name] = value;
        assert_eq!(faults(&document, &view, &view_of).len(), 1, "{view_of}");
    }
    let mut missing = fits.clone();
    missing.as_object_mut().unwrap().remove("test");
    assert_eq!(faults(&document, &view, &missing).len(), 1);
    // A lead is either as staff see it or as its source does, never something between.
    let either = json!({"oneOf": [{"$ref": "#/components/schemas/Lead"}, {"$ref": "#/components/schemas/SourceView"}]});
    let mut between = fits;
    between["campaign"] = json!("solar");
    assert_eq!(faults(&document, &either, &between).len(), 1);
}

/// Every value of a document, the document itself included.
fn each<'a>(value: &'a Value, seen: &mut impl FnMut(&'a Value)) {
    seen(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| each(item, seen)),
        Value::Object(members) => members.values().for_each(|member| each(member, seen)),
        _ => {}
    }
}

//! Who may know whom (DESIGN 8), read from the sources: an arrow that runs back up fails here.

use std::collections::BTreeSet;
use std::path::Path;

/// Each module with the modules of this crate that it may name. `clock`, `failpoint`, `model` and `tasks` may be named by all.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("failpoint", &[]),
    ("model", &[]),
    ("pace", &[]),
    ("tasks", &[]),
    // The stages know the model and not each other.
    ("intake", &[]),
    ("routing", &[]),
    ("gate", &[]),
    ("render", &[]),
    ("dispatch", &[]),
    ("verdict", &[]),
    ("capture", &[]),
    ("store", &[]),
    ("config", &[]),
    // The network in memory holds what the stages compiled.
    (
        "directory",
        &["config", "dispatch", "gate", "intake", "pace", "render", "routing", "store", "telemetry", "verdict"],
    ),
    ("telemetry", &["config", "store"]),
    // The pipeline alone ties the stages together.
    (
        "pipeline",
        &["capture", "directory", "dispatch", "gate", "pace", "render", "routing", "store", "telemetry", "verdict"],
    ),
    ("worker", &["directory", "gate", "pipeline", "routing", "store", "telemetry"]),
    // The faces.
    ("web", &["store"]),
    ("api", &["capture", "config", "directory", "gate", "intake", "pipeline", "store", "telemetry", "web", "worker"]),
    ("app", &["api", "config", "directory", "dispatch", "gate", "pipeline", "store", "telemetry", "web", "worker"]),
    ("cli", &["api", "app", "capture", "config", "directory", "intake", "pipeline", "store", "telemetry"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// One dependency, one home.
const HOMES: &[(&str, &[&str])] = &[
    ("reqwest", &["dispatch"]),
    ("backoff", &["dispatch/retry.rs"]),
    ("governor", &["pace.rs"]),
    ("rusqlite", &["store"]),
    ("tokio_postgres", &["store/postgres"]),
    ("tokio_postgres_rustls", &["store/postgres"]),
    ("deadpool_postgres", &["store/postgres"]),
    ("redis", &["gate.rs", "gate/redis"]),
    ("handlebars", &["render"]),
    ("serde_json_path", &["verdict"]),
    ("oxml", &["verdict"]),
    ("html5ever", &["verdict/select"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("csv", &["cli/import"]),
    ("rustix", &["clock", "failpoint"]),
    ("phonenumber", &["model/phone"]),
    ("axum", &["api", "app/control", "cli/demo", "web"]),
];

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway");
            let name = path.strip_prefix(root).unwrap().display().to_string();
            // What a comment names is no dependency.
            let code: Vec<String> = std::fs::read_to_string(&path)
                .unwrap()
                .lines()
                .map(|line| line.split("//").next().unwrap_or("").to_owned())
                .collect();
            found.push((name, code.join("\n")));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway"), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The modules named as `crate::x` in a text, in groups too.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let heads: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for head in heads {
            let name: String = head.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.insert(name);
        }
    }
    names
}

#[test]
fn no_arrow_runs_back_up() {
    let mut wrong = Vec::new();
    for (file, code) in all_sources() {
        let from = module(&file);
        let (_, may) = MAY_KNOW
            .iter()
            .find(|(name, _)| *name == from)
            .unwrap_or_else(|| panic!("{from} is not in the layering test"));
        for to in named(&code) {
            let fine = to == from
                || to == "model"
                || to == "clock"
                || to == "failpoint"
                || to == "tasks"
                || may.contains(&to.as_str())
                || to.is_empty();
            let by_macro = to.starts_with(char::is_uppercase);
            if !fine && !by_macro {
                wrong.push(format!("{file} knows {to}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_dependency_with_a_home_stays_there() {
    let mut wrong = Vec::new();
    for (file, code) in all_sources() {
        for (dependency, homes) in HOMES {
            let at_home = homes
                .iter()
                .any(|home| file == *home || file.starts_with(&format!("{home}/")) || file == format!("{home}.rs"));
            if !at_home && code.contains(&format!("{dependency}::")) {
                wrong.push(format!("{file} uses {dependency}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn sql_stands_in_the_store_alone() {
    let wrong: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, code)| {
            module(file) != "store" && ["SELECT ", "INSERT INTO", "DELETE FROM"].iter().any(|sql| code.contains(sql))
        })
        .map(|(file, _)| file)
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

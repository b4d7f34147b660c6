//! Configuration and resources: every key, every override, and messages that say where and what to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use lead_gateway::cli::demo::network as demo;
use lead_gateway::cli::demo::partners::Addresses;
use lead_gateway::config::{Config, LogFormat, StorePlace};
use lead_gateway::directory::changes::{Comparison, Difference};
use lead_gateway::directory::{Network, Reader, ResourceSet, files};
use lead_gateway::model::units::{Size, Span};
use lead_gateway::store::{Kind, ResourceChange, ResourceRecord, StoredResource};

use crate::harness::{KEY, World, all_bytes, buyer, lead};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn shipped() -> String {
    std::fs::read_to_string(root("config/gateway.toml")).unwrap()
}

fn parse(text: &str) -> Result<Config, String> {
    with_variables(text, &[])
}

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, "gateway.toml", variables).map_err(|error| error.to_string())
}

/// `section.key` of each key in the shipped file, those that are commented out included, with its line.
fn keys() -> Vec<(String, String, String)> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    for line in shipped().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, _)) = line.split_once(" = ")
            && !section.is_empty()
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.push((section.clone(), key.to_owned(), line.to_owned()));
        }
    }
    keys
}

#[test]
fn every_key_alone_is_the_default() {
    let keys = keys();
    assert!(keys.len() >= 18, "{keys:?}");
    let without_default = ["metrics_listen", "extra_ca", "key", "sentinel", "cluster", "username", "password", "ca"];
    for (section, key, line) in keys {
        let config = parse(&format!("[{section}]\n{line}\n")).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(config == Config::default(), !without_default.contains(&key.as_str()), "{section}.{key}");
    }
}

#[test]
fn every_key_can_be_given_by_the_environment_as_it_stands_in_the_file() {
    for (section, key, line) in keys() {
        let (_, value) = line.split_once(" = ").unwrap();
        let name = format!("GATEWAY__{}__{}", section.to_uppercase(), key.to_uppercase());
        let from_file = parse(&format!("[{section}]\n{line}\n")).unwrap();
        for written in [value, value.trim_matches('"')] {
            let from_environment = with_variables("", &[(&name, written)]).unwrap();
            assert_eq!(from_environment, from_file, "{name}={written}");
        }
    }
}

#[test]
fn the_environment_wins_over_the_file_for_every_type() {
    let config = with_variables(
        &shipped(),
        &[
            ("GATEWAY__SERVER__LISTEN", "0.0.0.0:9000"),
            ("GATEWAY__SERVER__METRICS_LISTEN", "[::1]:9001"),
            ("GATEWAY__SERVER__BODY_LIMIT", "2MiB"),
            ("GATEWAY__SERVER__HEADER_TIMEOUT", "1500ms"),
            ("GATEWAY__SERVER__CONNECTIONS", "17"),
            ("GATEWAY__STORE__URL", "sqlite:/var/lib/leads"),
            ("GATEWAY__NETWORK__DIR", "/etc/gateway/network"),
            ("GATEWAY__EGRESS__ALLOW", r#"["10.1.0.0/16", "fd00:1::/64"]"#),
            ("GATEWAY__SECRETS__KEY", "12345678901234567890"),
            ("GATEWAY__LOG__FORMAT", "json"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.listen, "0.0.0.0:9000".parse().unwrap());
    assert_eq!(config.server.metrics_listen, Some("[::1]:9001".parse().unwrap()));
    assert_eq!((config.server.body_limit, config.server.connections), (Size(2 << 20), 17));
    assert_eq!(config.server.header_timeout, Span(std::time::Duration::from_millis(1500)));
    assert_eq!(config.store.place().unwrap(), StorePlace::Directory("/var/lib/leads".into()));
    assert_eq!(config.network.dir, Path::new("/etc/gateway/network"));
    assert_eq!(config.egress.allow.len(), 2);
    assert_eq!(config.log.format, LogFormat::Json);
    // All digits, and yet a text.
    assert_eq!(config.secrets.key.unwrap().0, "12345678901234567890");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let cases = [
        ("[server]\nlisten = \"127.0.0.1:1\"\nbody_limt = \"1MiB\"\n", 3, "`body_limt`", "`body_limit`"),
        ("\n\n[sever]\n", 3, "`sever`", "`server`"),
        ("[leads]\nretension = \"1d\"\n", 2, "`retension`", "`retention`"),
        ("[server]\nzzzzzzzz = 1\n", 2, "`zzzzzzzz`", "drain_timeout"),
    ];
    for (text, line, unknown, nearest) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("gateway.toml line {line}: ")), "{error}");
        assert!(error.contains(unknown) && error.contains(nearest), "{error}");
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let cases = [
        ("GATEWAY__SERVER__BODY_LIMT", "1MiB", "`body_limit`"),
        ("GATEWAY__SEVER__LISTEN", "127.0.0.1:1", "`server`"),
        ("GATEWAY__SERVER__LISTEN", "localhost", "address"),
        ("GATEWAY__SERVER__CONNECTIONS", "many", "many"),
        ("GATEWAY__LEADS__RETENTION", "1 year", "such as \"30s\""),
        ("GATEWAY__LOG__FORMAT", "xml", "auto"),
        ("GATEWAY__LISTEN", "127.0.0.1:1", "GATEWAY__SECTION__KEY"),
    ];
    for (name, value, what) in cases {
        // Others that are right are not blamed.
        let error = with_variables("", &[("GATEWAY__LOG__LEVEL", "debug"), (name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")) && error.contains(what), "{error}");
        assert!(!error.contains("LEVEL"), "{error}");
    }
}

#[test]
fn a_value_without_a_right_unit_is_named_with_its_line_and_an_example() {
    let cases = [
        ("[server]\nheader_timeout = \"10\"\n", "`10` is not a length of time", "\"30s\""),
        ("[server]\nheader_timeout = \"10 s\"\n", "`10 s` is not a length of time", "\"30s\""),
        ("[leads]\nretention = \"1y\"\n", "`1y` is not a length of time", "\"30s\""),
        ("[leads]\nretention = \"40000d\"\n", "longer than a hundred years", ""),
        ("[server]\nbody_limit = \"1MB\"\n", "`1MB` is not a size", "\"64KiB\""),
        ("[capture]\nbody_limit = \"-1KiB\"\n", "`-1KiB` is not a size", "\"64KiB\""),
        ("[capture]\nbody_limit = \"99999999999GiB\"\n", "is not a size", "\"64KiB\""),
    ];
    for (text, wrong, example) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with("gateway.toml line 2: "), "{error}");
        assert!(error.contains(wrong) && error.contains(example), "{error}");
    }
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let error = parse("[server]\nlisten = 127.0.0.1:8080\n").unwrap_err();
    assert!(error.starts_with("gateway.toml line 2: "), "{error}");
}

#[test]
fn a_store_that_this_version_does_not_have_is_refused_without_its_password() {
    let config = parse("[store]\nurl = \"mysql://gateway:hunter2@db/leads\"\n").unwrap();
    let error = config.store.place().unwrap_err().to_string();
    assert!(error.contains("sqlite:DIRECTORY") && error.contains("store.url"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert!(parse("[store]\nurl = \"sqlite:\"\n").unwrap().store.place().is_err());
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let config = parse("[secrets]\nkey = \"hunter2hunter2hunter2\"\n").unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    // A reference is no secret, and helps.
    assert!(format!("{:?}", parse("[secrets]\nkey = \"env:NAME\"\n").unwrap()).contains("env:NAME"));
    // Nor is a store's password shown.
    let config = parse("[store]\nurl = \"postgres://gateway:hunter2@db/leads\"\n").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    let config = parse("[gate]\nurl = \"rediss://:hunter2@gate:6379/0\"\n").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");

    let world = network(&[("a.toml", &one_of_each("", ""))]);
    let set = files::read(&world.path().join("network"), &world.path().join("templates")).unwrap();
    let shown = format!("{set:?}");
    for secret in [SOURCE_KEY, "partner-secret"] {
        assert!(!shown.contains(secret), "{secret} shows");
    }
}

#[test]
fn a_missing_file_is_no_trouble_unless_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    assert_eq!(Config::load(&path, false).unwrap(), Config::default());
    let error = Config::load(&path, true).unwrap_err().to_string();
    assert!(error.contains("none.toml") && error.contains("--config"), "{error}");
}

#[test]
fn a_variable_that_is_no_unicode_stops_nothing() {
    use std::os::unix::ffi::OsStringExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gateway.toml"), "[log]\nlevel = \"info\"\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gateway"))
        .arg("--config")
        .arg(dir.path().join("gateway.toml"))
        .args(["check", "no-such-directory"])
        .env("STRANGE", std::ffi::OsString::from_vec(b"\xff\xfe".to_vec()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("no-such-directory") && !told.contains("panicked"), "{told}");
    assert_eq!(output.status.code(), Some(1), "{told}");
}

const SOURCE_KEY: &str = "a-literal-key-of-acme-4711";

/// One resource of each kind, with keys that most have not; `contract` and `endpoint` add to it.
fn one_of_each(contract: &str, endpoint: &str) -> String {
    format!(
        r#"
[[campaign]]
id = "solar"
timezone = "Europe/London"
currency = "GBP"
[campaign.fields]
email = {{ type = "email", required = true }}

[[partner]]
id = "acme"
kind = "both"
timezone = "Europe/London"

[[source]]
id = "acme"
campaign = "solar"
partner = "acme"
key = ["{SOURCE_KEY}", "another-literal-key-0815"]

[[contract]]
id = "acme"
partner = "acme"
campaign = "solar"
{contract}
[contract.endpoint]
method = "post"
url = "https://api.acme.example/leads"
auth = {{ bearer = {{ token = "partner-secret" }} }}
{endpoint}
[contract.endpoint.form]
email = "{{{{lead.email}}}}"
"#
    )
}

/// A directory with `network` and `templates`.
fn network(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["network", "templates"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(dir.path().join("network").join(name), text).unwrap();
    }
    dir
}

fn read(dir: &tempfile::TempDir) -> Result<ResourceSet, Vec<String>> {
    files::read(&dir.path().join("network"), &dir.path().join("templates"))
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn records(set: &ResourceSet) -> Vec<ResourceRecord> {
    let documents = set.documents().into_iter();
    documents
        .map(|((kind, id), document)| ResourceRecord { kind, id, version: 1, document, changed_elsewhere: false })
        .collect()
}

/// TOML → struct → JSON → struct → TOML → struct, all the same.
fn round_trip(set: &ResourceSet) {
    let back = ResourceSet::from_records(&records(set)).unwrap();
    assert_eq!(&back, set);
    assert_eq!(back.documents(), set.documents());
    for one in set.campaigns.values().map(AsRef::as_ref) {
        assert_eq!(
            &toml::from_str::<lead_gateway::model::campaign::Campaign>(&toml::to_string(one).unwrap()).unwrap(),
            one
        );
    }
    for one in set.partners.values().map(AsRef::as_ref) {
        assert_eq!(
            &toml::from_str::<lead_gateway::model::partner::Partner>(&toml::to_string(one).unwrap()).unwrap(),
            one
        );
    }
    for one in set.sources.values().map(AsRef::as_ref) {
        assert_eq!(
            &toml::from_str::<lead_gateway::model::source::Source>(&toml::to_string(one).unwrap()).unwrap(),
            one
        );
    }
    for one in set.contracts.values().map(AsRef::as_ref) {
        assert_eq!(
            &toml::from_str::<lead_gateway::model::contract::Contract>(&toml::to_string(one).unwrap()).unwrap(),
            one
        );
    }
}

#[test]
fn the_sample_network_is_the_same_as_file_and_as_document() {
    let set = files::read(&root("config/network"), &root("templates")).unwrap();
    assert_eq!((set.campaigns.len(), set.partners.len(), set.sources.len(), set.contracts.len()), (1, 2, 1, 1));
    assert_eq!(set.templates.keys().collect::<Vec<_>>(), ["partner/brightroof-lead.xml.hbs"]);
    round_trip(&set);
}

#[test]
fn the_demos_network_is_the_same_as_file_and_as_document() {
    let address = "127.0.0.1:9".parse().unwrap();
    let addresses = Addresses {
        brightroof: address,
        solarnow: address,
        leadhouse: address,
        greenquote: address,
        slate_sons: address,
    };
    let now: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
    let texts = demo::files(&addresses, &demo::new_source_key(), now).unwrap();
    let texts: Vec<(&str, &str)> = texts.iter().map(|file| (file.name, file.text.as_str())).collect();
    let dir = network(&texts);
    for (name, text) in demo::TEMPLATES {
        let path = dir.path().join("templates").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let set = read(&dir).unwrap();
    assert!(set.contracts.len() >= 5 && set.templates.len() == demo::TEMPLATES.len());
    round_trip(&set);
}

#[test]
fn everything_that_can_be_said_is_the_same_as_file_and_as_document() {
    let contract = r#"
name = "Acme's own"
price = "31.00"
limits = { daily = 1, monthly = 2, total = 3 }
schedule = { mon-fri = "09:00-12:00, 13:00-17:00", sat = "22:00-02:00" }
filters = { any = [{ source = "acme" }, { not = { field = "email", matches = "^x" } }, { field = "email", one_of = ["a", "b"] }] }
when_closed = "hold"
when_full = "skip"
hold_for = "90m"
on_unknown = "retry"
maps = { yes_no = { true = "Y", "*" = "?" } }
"#;
    let endpoint = r#"
headers = { X-Lead = "{{lead.email}}" }
rate = "50/10s"
retry = { max_attempts = 2, first = "1s", max = "2s", give_up_after = "3s" }
on_5xx = "retry"
unmatched = "rejected"
idempotency_header = false
[contract.endpoint.response]
accepted = [{ status = true, one_of = [200, 201] }, { all = [{ json = "$.ok", equals = true }, { header = "x", exists = false }] }]
rejected = { inside = { xpath = "//Result", as = "xml" }, xpath = "//Code", min = "1.5", max = 9 }
reason = { regex = "reason=(.*)" }
"#;
    let text = one_of_each(contract, endpoint).replacen(
        "kind = \"both\"",
        "kind = \"both\"\nname = \"Acme\"\ncontact = { email = \"a@acme.example\" }\nclosed_on = [\"2026-12-25\"]",
        1,
    );
    round_trip(&read(&network(&[("a.toml", &text)])).unwrap());
}

/// What `one_of_each` says with other words here and there.
fn variants() -> Vec<ResourceSet> {
    let plain = one_of_each("", "");
    let other = |from: &str, to: &str| {
        assert!(plain.contains(from), "{from}");
        plain.replace(from, to)
    };
    let texts = [
        plain.clone(),
        one_of_each("price = \"31.00\"", "concurrency = 3"),
        one_of_each("schedule = { mon-fri = \"09:00-17:00\" }", "timeout = \"3s\""),
        other("currency = \"GBP\"", "currency = \"EUR\""),
        other("kind = \"both\"", "kind = \"both\"\nlimits = { daily = 7 }"),
        other("id = \"acme\"\ncampaign", "id = \"other\"\ncampaign"),
        other("required = true", "required = false"),
    ];
    let mut sets: Vec<ResourceSet> = texts.iter().map(|text| read(&network(&[("a.toml", text)])).unwrap()).collect();
    let mut with_template = sets[0].clone();
    with_template.templates.insert("a \"b\"\n.hbs".to_owned(), "one\n{{lead.email}}\n".to_owned());
    sets.push(with_template);
    sets.push(ResourceSet::default());
    sets
}

#[test]
fn what_is_taken_over_from_a_network_is_what_would_have_been_read() {
    for known in variants() {
        let known = Arc::new(Network::compile(&known, None).unwrap());
        for set in variants() {
            let mut reader = Reader::beside(Some(Arc::clone(&known)));
            set.documents().iter().for_each(|((kind, id), document)| reader.take(*kind, id, document));
            let read = reader.finish().unwrap();
            assert_eq!(read, ResourceSet::from_records(&records(&set)).unwrap());
            // A contract is taken over where it is the same, and only there.
            for (id, contract) in &read.contracts {
                let known = known.contract(id).map(|entry| &entry.contract);
                let same = known.is_some_and(|known| known == contract);
                assert_eq!(known.is_some_and(|known| Arc::ptr_eq(known, contract)), same);
            }
        }
    }
    let known = Arc::new(Network::compile(&variants()[0], None).unwrap());
    let mut reader = Reader::beside(Some(known));
    reader.take(Kind::Partner, "acme", "{\"id\":\"acme\"}");
    assert!(reader.finish().unwrap_err()[0].to_string().contains("stored partner acme"));
}

#[test]
fn differences_are_those_between_the_documents() {
    for stored in variants() {
        for files in variants() {
            let mut comparison = Comparison::with(Arc::new(files.clone()));
            let (old, new) = (stored.documents(), files.documents());
            for ((kind, id), document) in &old {
                let one = StoredResource { kind: *kind, id, version: 7, document, changed_elsewhere: false };
                assert_eq!(comparison.see(one), new.contains_key(&(*kind, id.clone())));
            }
            let changes: Vec<_> = comparison.differences().into_iter().map(Difference::into_change).collect();
            let change = |(kind, id): &(Kind, String), document: Option<&String>| ResourceChange {
                kind: *kind,
                id: id.clone(),
                from: old.contains_key(&(*kind, id.clone())).then_some(7),
                document: document.cloned(),
            };
            let set = new.iter().filter(|(name, document)| old.get(*name) != Some(document));
            let deleted = old.keys().filter(|name| !new.contains_key(*name));
            let expected: Vec<_> = set
                .map(|(name, document)| change(name, Some(document)))
                .chain(deleted.map(|name| change(name, None)))
                .collect();
            assert_eq!(changes, expected);
        }
    }
}

#[test]
fn an_unknown_key_of_a_resource_is_named_with_its_file_line_and_the_nearest() {
    let base = |contract: &str, endpoint: &str| one_of_each(contract, endpoint);
    let swap = |old: &str, new: &str| base("", "").replacen(old, new, 1);
    let cases: Vec<(String, &str, &str)> = vec![
        (swap("currency =", "curency ="), "`curency`", "`currency`"),
        (swap("required =", "requird ="), "`requird`", "`required`"),
        (swap("kind = \"both\"", "kind = \"both\"\ncontcat = { }"), "`contcat`", "`contact`"),
        (swap("key = [", "kee = ["), "`kee`", "`key`"),
        (swap("[[partner]]", "[[partnr]]"), "`partnr`", "`partner`"),
        (base("whenclosed = \"hold\"", ""), "`whenclosed`", "`when_closed`"),
        (base("limits = { dayly = 3 }", ""), "`dayly`", "`daily`"),
        (base("filters = { feild = \"email\" }", ""), "`feild`", "`field`"),
        (base("filters = { all = [{ field = \"email\", equal = \"x\" }] }", ""), "`equal`", "`equals`"),
        (base("", "time_out = \"1s\""), "`time_out`", "`timeout`"),
        (base("", "retry = { max_atempts = 3 }"), "`max_atempts`", "`max_attempts`"),
        (base("", "response = { acepted = { status = true } }"), "`acepted`", "`accepted`"),
        (base("", "response = { accepted = { xpth = \"//A\" } }"), "`xpth`", "`xpath`"),
        (base("", "response = { accepted = [{ xpth = \"//A\" }] }"), "`xpth`", "`xpath`"),
        (base("", "response = { reason = { jsn = \"$.a\" } }"), "`jsn`", "`json`"),
        (base("", "response = { reason = { inside = { xpth = \"//A\", as = \"xml\" } } }"), "`xpth`", "`xpath`"),
    ];
    for (text, unknown, nearest) in cases {
        let dir = network(&[("typo.toml", &text)]);
        let faults = read(&dir).unwrap_err();
        let word = unknown.trim_matches('`');
        let line = text.lines().position(|line| line.contains(word)).unwrap() + 1;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(&format!("typo.toml line {line}: ")), "line {line}: {}", faults[0]);
        assert!(faults[0].contains(unknown) && faults[0].contains(nearest), "{}", faults[0]);
    }
}

#[test]
fn a_wrong_value_of_a_resource_is_named_with_its_line() {
    let cases = [
        ("when_closed = \"wait\"", "", "wait", "`hold`"),
        ("hold_for = \"1 day\"", "", "1 day", "\"30s\""),
        ("limits = { daily = -1 }", "", "daily", ""),
        ("", "rate = \"fast\"", "fast", "\"50/s\""),
        ("", "timeout = 15", "timeout", ""),
    ];
    for (contract, endpoint, word, advice) in cases {
        let text = one_of_each(contract, endpoint);
        let faults = read(&network(&[("wrong.toml", &text)])).unwrap_err();
        let line = text.lines().position(|line| line.contains(word)).unwrap() + 1;
        assert!(faults[0].contains(&format!("wrong.toml line {line}: ")), "line {line}: {}", faults[0]);
        assert!(faults[0].contains(advice), "{}", faults[0]);
    }
}

#[test]
fn faults_of_several_files_are_told_at_once() {
    let dir = network(&[
        ("a.toml", "[[partner]]\nidd = \"a\"\n"),
        ("b.toml", "not toml"),
        ("c.toml", "[[partner]]\nid = \"c\"\nkind = \"buyer\"\ntimezone = \"Europe/London\"\n"),
        ("d.toml", "[[partner]]\nid = \"c\"\nkind = \"buyer\"\ntimezone = \"Europe/London\"\n"),
        ("notes.txt", "not read"),
    ]);
    let faults = read(&dir).unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    for (fault, name) in faults.iter().zip(["a.toml line 2", "b.toml line 1", "d.toml"]) {
        assert!(fault.contains(name), "{fault}");
    }
    assert!(faults[2].contains("`c` is there twice"), "{}", faults[2]);
}

#[test]
fn faults_of_several_resources_are_told_at_once() {
    let text = one_of_each(
        "limits = { daily = 1 }\nfilters = { field = \"email\", matches = \"(\" }",
        "headers = { X-Key = \"env:NO_SUCH_VARIABLE_1\" }",
    )
    .replace("Europe/London", "Europe/Londinium")
    .replace(&format!("\"{SOURCE_KEY}\""), "\"env:NO_SUCH_VARIABLE_2\"")
    .replace("another-literal-key-0815", "tiny-key")
    .replace("lead.email", "lead.emial");
    let set = read(&network(&[("a.toml", &text)])).unwrap();
    let faults = Network::compile(&set, None).unwrap_err();
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let all = told.join("\n");
    for (place, what) in [
        ("campaign solar", "Europe/Londinium"),
        ("partner acme", "Europe/Londinium"),
        ("contract acme filters", "("),
        ("contract acme", "NO_SUCH_VARIABLE_1"),
        ("contract acme", "emial"),
        ("source acme", "NO_SUCH_VARIABLE_2"),
        ("source acme", "16"),
    ] {
        assert!(told.iter().any(|fault| fault.contains(place) && fault.contains(what)), "{place} … {what}:\n{all}");
    }
    assert!(!all.contains("tiny-key"), "a key shows:\n{all}");
}

#[test]
fn a_variable_that_is_not_set_is_named_and_one_that_is_set_is_used() {
    let text = one_of_each("", "").replace(&format!("\"{SOURCE_KEY}\""), "\"env:PATH\"");
    let set = read(&network(&[("a.toml", &text)])).unwrap();
    assert!(set.documents().values().any(|document| document.contains("env:PATH")), "the reference is kept");
    let compiled = Network::compile(&set, None);
    // Its value has 16 characters and more on any machine that builds this.
    assert!(compiled.is_ok(), "{:?}", compiled.err());
}

#[test]
fn literal_keys_are_kept_as_hashes() {
    let set = read(&network(&[("a.toml", &one_of_each("", ""))])).unwrap();
    let documents: BTreeMap<_, _> = set.documents();
    let all = documents.values().cloned().collect::<String>();
    assert!(!all.contains(SOURCE_KEY) && !all.contains("another-literal-key-0815"));
    assert_eq!(all.matches("sha256:").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_literal_key_reaches_the_disk() {
    let world = World::new(&buyer(
        "bright",
        "http://127.0.0.1:9/",
        "schedule = { mon-sun = \"00:00-00:01\" }",
        "when_closed = \"hold\"",
        "",
    ));
    let gateway = world.start().await;
    let answer = gateway.post(&lead("a@example.com")).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    // A refused post is captured, with its credentials masked.
    assert_eq!(gateway.post(&serde_json::json!({"email": "nonsense"})).await.status, 422);
    assert_eq!(gateway.get("/v1/refusals").await["items"].as_array().unwrap().len(), 1);
    gateway.stop().await;
    let bytes = all_bytes(&world.path("data"));
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("a@example.com") && has("sha256:"), "what was looked through is the store");
    assert!(!has(KEY), "the source's key is in the store");
    assert!(!has(&std::fs::read_to_string(world.path("token")).unwrap()), "a token is in the store");
}

#[test]
fn the_servers_of_the_gate_are_written_in_one_way_of_three() {
    let servers = |keys: &str| {
        let config = parse(&format!("[gate]\n{keys}\n")).unwrap();
        config.gate.servers().map(|servers| format!("{servers:?}")).map_err(|error| error.to_string())
    };
    let fine = [
        ("", "None"),
        ("url = \"redis://:hunter2@gate:6379/1\"", "Some(gate:6379/1)"),
        ("url = \"rediss://gate\"\npassword = \"env:NOBODY_READS_IT\"", "Some(rediss://gate)"),
        (
            "sentinel = { service = \"leads\", nodes = [\"a:26379\", \"b:26379\"], password = \"hunter2\" }",
            "Some(SentinelConfig(leads at redis://a:26379, redis://b:26379))",
        ),
        ("cluster = [\"rediss://a:6379\", \"rediss://b:6379\"]", "Some([\"rediss://a:6379\", \"rediss://b:6379\"])"),
    ];
    for (keys, expected) in fine {
        assert_eq!(servers(keys).unwrap(), expected, "{keys}");
    }
    let wrong = [
        ("url = \"redis://a\"\ncluster = [\"b:1\"]", "gate: write one of"),
        ("url = \"http://:hunter2@gate\"", "gate.url: `http://***@gate` is not a gate"),
        ("url = \"redis:gate\"", "gate.url: `redis:gate` is not"),
        ("password = \"hunter2\"", "gate.url: `username`, `password` and `ca` are for Redis"),
        ("sentinel = { service = \"leads\", nodes = [] }", "gate.sentinel: write {"),
        ("cluster = [\"a:1\", \"rediss://b:1\"]", "gate.cluster: some nodes have TLS"),
        ("cluster = [\"redis://:hunter2@\"]", "gate.cluster: `"),
        ("url = \"redis://a\"\nprefix = \"a{b}\"", "gate.prefix: "),
        ("url = \"redis://a\"\ncall_timeout = \"0s\"", "gate.call_timeout: "),
    ];
    for (keys, expected) in wrong {
        let told = servers(keys).unwrap_err();
        assert!(told.starts_with(expected) && !told.contains("hunter2"), "{keys}: {told}");
    }
}

/// A partner, with so many bytes of comments behind it.
fn partner(id: &str, padding: usize) -> String {
    let comment = "# What nobody reads, but the file is large by it.\n";
    let text = format!("[[partner]]\nid = \"{id}\"\nkind = \"buyer\"\ntimezone = \"Europe/London\"\n");
    text + &comment.repeat(padding / comment.len())
}

#[test]
fn a_large_file_is_what_its_resources_are_alone() {
    let one_each: Vec<(String, String)> =
        (0..9).map(|n| (format!("p{n}.toml"), partner(&format!("partner{n}"), 40 * 1024))).collect();
    let apart: Vec<(&str, &str)> = one_each.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let together: String = one_each.iter().map(|(_, text)| text.as_str()).collect();
    let set = read(&network(&[("all.toml", &together)])).unwrap();
    assert_eq!(set, read(&network(&apart)).unwrap());
    assert_eq!(set.partners.len(), 9);
}

#[test]
fn a_large_file_is_cut_nowhere_but_where_a_resource_begins() {
    let before = partner("before", 0);
    let padding = partner("padding", 70 * 1024);
    // The beginning of a resource, as it looks, in a text of several lines.
    let text = format!("{padding}name = \"\"\"one\n[[partner]]\ntwo\"\"\"\n{before}");
    let set = read(&network(&[("all.toml", &text)])).unwrap();
    let names: Vec<_> = set.partners.values().map(|partner| partner.name.as_deref()).collect();
    assert_eq!(names, [None, Some("one\n[[partner]]\ntwo")]);
    // A table of a resource that began far above.
    let (campaign, rest) =
        one_of_each("", "").split_once("[campaign.fields]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (fields, rest) = rest.split_once("[[partner]]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let text = format!("{campaign}{padding}{before}[campaign.fields]{fields}[[partner]]{rest}");
    let set = read(&network(&[("all.toml", &text)])).unwrap();
    assert_eq!(set.campaigns.values().next().unwrap().fields.len(), 1);
    // A fault far below has its own line.
    let text = format!("{padding}{before}nmae = \"x\"\n");
    let line = text.lines().count();
    let faults = read(&network(&[("all.toml", &text)])).unwrap_err();
    assert!(faults[0].contains(&format!("all.toml line {line}")) && faults[0].contains("name"), "{faults:?}");
}

//! The examples of `config/network/examples/`: each receiver's contract loads, renders what its specification asks for,
//! and understands the replies that it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::tz::TimeZone;
use lead_gateway::directory::ResourceSet;
use lead_gateway::directory::files;
use lead_gateway::intake::{self, Format};
use lead_gateway::model::contract::Contract;
use lead_gateway::model::exchange::Outgoing;
use lead_gateway::model::id::LeadId;
use lead_gateway::model::lead::Lead;
use lead_gateway::render::{Party, RenderInput, Renderer};
use serde_json::Value;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The examples, with `a-secret-called-NAME` for what they read from an environment that a test does not have.
pub fn examples() -> ResourceSet {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("config/network/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap().replace("\"env:", "\"a-secret-called-");
            std::fs::write(dir.path().join(path.file_name().unwrap()), text).unwrap();
        }
    }
    files::read(dir.path(), &root().join("templates")).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

pub fn renderer(set: &ResourceSet, contract: &Contract) -> Renderer {
    let campaign = &set.campaigns[&contract.campaign];
    Renderer::compile(contract, campaign, &|name| set.templates.get(name).cloned())
        .unwrap_or_else(|faults| panic!("{}: {faults:#?}", contract.id))
}

/// The sample lead of a contract's campaign, as a source would post it.
fn sample_lead(set: &ResourceSet, contract: &Contract) -> Lead {
    let path = root().join(format!("config/network/examples/leads/{}.json", contract.campaign));
    let body = std::fs::read(path).unwrap();
    let posted = intake::parse(Format::Json, &body).unwrap();
    let rules = intake::Rules::compile(&set.campaigns[&contract.campaign]).unwrap();
    let mut valid = rules.validate(posted).unwrap_or_else(|errors| panic!("{errors:#?}"));
    valid.meta.ip = Some("203.0.113.9".to_owned());
    valid.meta.user_agent = Some("Mozilla/5.0 (X11; Linux x86_64)".to_owned());
    Lead {
        id: LeadId(uuid::Uuid::nil()),
        campaign: contract.campaign.clone(),
        source: "forms".parse().unwrap(),
        received_at: "2026-11-21T09:30:00.123456Z".parse().unwrap(),
        test: false,
        fields: valid.fields,
        meta: valid.meta,
    }
}

/// The request for the sample lead, as it is sent.
pub fn request(set: &ResourceSet, contract: &Contract, renderer: &Renderer) -> Outgoing {
    let lead = sample_lead(set, contract);
    let partner = &set.partners[&contract.partner];
    let input = RenderInput {
        lead: &lead,
        source: Party { id: "forms", name: "Quote Forms & Co" },
        payout: Some("9.00"),
        partner: Party { id: partner.id.as_str(), name: partner.title() },
        delivery: "0199f6c2-0000-7000-8000-000000000001".parse().unwrap(),
        attempt: 1,
        now: "2026-11-21T09:31:00Z".parse().unwrap(),
        timezone: &TimeZone::get(&partner.timezone).unwrap(),
    };
    renderer.render(&input).unwrap_or_else(|fault| panic!("{}: {fault:?}", contract.id))
}

pub fn written(request: &Outgoing) -> String {
    let mut out = format!("{} {}\n", request.http_method, request.url);
    for (name, value) in &request.headers {
        writeln!(out, "{name}: {value}").unwrap();
    }
    out.push('\n');
    let body = std::str::from_utf8(&request.body).unwrap();
    // One field a line, to be read by people.
    let is_form = request.headers.iter().any(|(_, value)| value == "application/x-www-form-urlencoded");
    out.push_str(&if is_form { body.replace('&', "\n&") } else { body.to_owned() });
    out
}

/// `fixtures/requests/CONTRACT.http`. Run with `WRITE_FIXTURES=1` to write them anew, and read the difference before
/// committing it.
#[test]
fn each_example_renders_exactly_the_request_that_its_receiver_expects() {
    let set = examples();
    assert!(set.contracts.len() >= 20, "{}", set.contracts.len());
    for contract in set.contracts.values() {
        let request = request(&set, contract, &renderer(&set, contract));
        let path = root().join(format!("fixtures/requests/{}.http", contract.id));
        let found = written(&request);
        if std::env::var_os("WRITE_FIXTURES").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
    let kept = std::fs::read_dir(root().join("fixtures/requests")).unwrap().count();
    assert_eq!(kept, set.contracts.len(), "a request without its contract");
}

#[test]
fn each_example_renders_plain_hostile_and_bare_leads() {
    let set = examples();
    for contract in set.contracts.values() {
        let faults = renderer(&set, contract).check(&set.campaigns[&contract.campaign]);
        assert!(faults.is_empty(), "{}: {faults:#?}", contract.id);
    }
}

#[test]
fn each_example_says_what_it_is_and_what_must_be_replaced() {
    let overview = std::fs::read_to_string(root().join("config/network/examples/README.md")).unwrap();
    for entry in std::fs::read_dir(root().join("config/network/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with("campaigns.toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
            let says_facts = head.contains("Used of") || head.contains("Shown: ");
            assert!(says_facts && head.contains("Replace: "), "{}: its head lacks something", path.display());
            let contract = path.file_stem().unwrap().to_str().unwrap();
            assert!(overview.contains(&format!("| `{contract}.toml` |")), "{contract} is not in README.md");
            assert!(
                text.contains(&format!("\nid = \"{contract}\"\n")),
                "{}: the file is named otherwise",
                path.display()
            );
        }
    }
}

/// What a partner's replies must cover before its rules can be trusted.
#[test]
fn each_example_has_replies_of_every_kind() {
    // These never say that they have the person already.
    let silent: BTreeSet<&str> = ["activecampaign", "hubspot-forms", "monday", "salesforce-web-to-lead"].into();
    for contract in examples().contracts.keys() {
        let dir = root().join("fixtures/verdict").join(contract.as_str());
        let names: Vec<String> = std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let has = |beginning: &str| names.iter().any(|name| name.starts_with(beginning));
        assert!(has("accepted") && has("rejected"), "{contract}: {names:?}");
        assert!(has("duplicate") != silent.contains(contract.as_str()), "{contract}: {names:?}");
        let mentions = |word: &str| names.iter().any(|name| name.contains(word));
        assert!(mentions("malformed") && (mentions("fault") || mentions("500")), "{contract}: {names:?}");
    }
}

/// The environment of `secrets.env`, as a shell would read it.
fn stand_ins() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("config/network/examples/secrets.env")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once('=').unwrap())
        .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
        .collect()
}

fn check(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .arg("check")
        .args(arguments)
        .current_dir(root())
        .envs(stand_ins())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, told)
}

#[test]
fn check_goes_through_the_examples_and_all_their_replies() {
    let (output, told) = check(&["config/network/examples", "--replies", "fixtures/verdict", "--json"]);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let replies = report["replies"].as_array().unwrap();
    let judged: BTreeSet<&str> = replies.iter().map(|reply| reply["contract"].as_str().unwrap()).collect();
    assert_eq!(judged.len(), examples().contracts.len(), "{judged:?}");
    assert!(replies.iter().all(|reply| reply["expected"] == reply["verdict"] && !reply["expected"].is_null()));

    let used: BTreeSet<String> = std::fs::read_dir(root().join("config/network/examples"))
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .flat_map(|text| {
            let names = text.split("\"env:").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            names.collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(used, stand_ins().into_keys().collect(), "secrets.env names what the examples read, and nothing else");
}

#[test]
fn the_examples_are_no_part_of_the_default_network() {
    let (output, told) = check(&["config/network", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["contracts"], 1, "{told}");
}

#[test]
fn check_fails_when_a_reply_means_something_else_than_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let replies = dir.path().join("leadbyte");
    std::fs::create_dir(&replies).unwrap();
    std::fs::create_dir(dir.path().join("somebody-else")).unwrap();
    std::fs::write(replies.join("accepted.http"), "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n{\"code\": 1, \"leadId\": 7}")
        .unwrap();
    std::fs::write(replies.join("from-their-manual.http"), "HTTP/1.1 200\n\n{\"code\":-2}").unwrap();
    let dir_name = dir.path().to_str().unwrap();
    let (output, told) = check(&["config/network/examples", "--replies", dir_name]);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("duplicate") && told.contains("reference 7") && told.contains("somebody-else"), "{told}");

    std::fs::write(replies.join("accepted-too.http"), "HTTP/1.1 200 OK\n\n{\"code\":-4,\"response\":\"Cap\"}").unwrap();
    let (output, told) = check(&["config/network/examples", "--replies", dir_name]);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("NOT accepted") && told.contains("1 of 3 replies"), "{told}");
}

#[test]
fn check_says_what_is_wrong_with_a_file_that_is_no_reply() {
    let dir = tempfile::tempdir().unwrap();
    let dir_name = dir.path().to_str().unwrap();
    let (output, told) = check(&["config/network/examples", "--replies", dir_name]);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("CONTRACT/accepted-1.http"), "{told}");
    std::fs::create_dir(dir.path().join("flg")).unwrap();
    for (text, says) in [
        ("", "line 1 is no status line"),
        ("200 OK\n\n", "line 1 is no status line"),
        ("HTTP/1.1 200 OK\n<html>", "line 2: write `Name: value`"),
    ] {
        std::fs::write(dir.path().join("flg/accepted.http"), text).unwrap();
        let (output, told) = check(&["config/network/examples", "--replies", dir_name]);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(says) && told.contains("flg/accepted.http"), "{text:?}: {told}");
    }
}

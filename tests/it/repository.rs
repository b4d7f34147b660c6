//! What the repository shows to people works: the shipped configuration, the sample network, the examples of the docs.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::harness::free_port;
use lead_gateway::config::Config;
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::contract::{Contract, Endpoint};
use lead_gateway::model::exchange::{Outgoing, Reply};
use lead_gateway::model::partner::Partner;
use lead_gateway::model::source::Source;
use lead_gateway::render::Renderer;
use lead_gateway::verdict::Rules;
use serde::Deserialize;

use crate::receivers;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Resources {
    campaign: Vec<Campaign>,
    partner: Vec<Partner>,
    source: Vec<Source>,
    contract: Vec<Contract>,
}

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn resources(toml: &str) -> Resources {
    // Secrets of an environment that a test does not have.
    toml::from_str(&toml.replace("\"env:", "\"a-secret-called-")).unwrap()
}

fn sample_campaign() -> Campaign {
    resources(&text("config/network/solar-uk.toml")).campaign.remove(0)
}

/// Compiles a contract as a start would, and renders it as `gateway check` does.
fn try_out(contract: &Contract, templates: &dyn Fn(&str) -> Option<String>) {
    let campaign = sample_campaign();
    let id = &contract.id;
    let rules = Rules::compile(&contract.endpoint, campaign.currency);
    assert!(rules.is_ok(), "{id}: {:?}", rules.err());
    let renderer =
        Renderer::compile(contract, &campaign, templates).unwrap_or_else(|faults| panic!("{id}: {faults:#?}"));
    let faults = renderer.check(&campaign);
    assert!(faults.is_empty(), "{id}: {faults:#?}");
}

#[test]
fn the_shipped_configuration_shows_every_default() {
    let shipped = Config::parse(&text("config/gateway.toml"), "gateway.toml", std::iter::empty()).unwrap();
    assert_eq!(shipped, Config::default());
}

#[test]
fn keys_that_are_commented_out_are_keys_too() {
    let shipped = text("config/gateway.toml");
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let all: Vec<&str> =
        shipped.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line)).collect();
    assert_ne!(all.join("\n"), shipped.trim_end());
    let full = Config::parse(&all.join("\n"), "gateway.toml", std::iter::empty()).unwrap();
    assert!(full.server.metrics_listen.is_some() && full.egress.extra_ca.is_some() && full.secrets.key.is_some());
}

#[test]
fn the_sample_network_renders_plain_and_hostile_leads() {
    let ours = resources(&text("config/network/solar-uk.toml"));
    let buyers = resources(&text("config/network/brightroof.toml"));
    assert_eq!((ours.campaign.len(), ours.source.len(), ours.partner.len() + buyers.partner.len()), (1, 1, 2));
    assert_eq!(buyers.contract.len(), 1);
    for contract in &buyers.contract {
        try_out(contract, &|name| Some(text(&format!("templates/{name}"))));
    }
}

#[test]
fn the_worked_examples_of_the_templates_page_work() {
    let page = text("docs/templates.md");
    let (_, examples) = page.split_once("\n# Worked examples\n").unwrap();
    let sections: Vec<&str> = examples.split("\n## ").skip(1).collect();
    assert!(sections.len() >= 5, "{} examples", sections.len());
    for (number, section) in sections.iter().enumerate() {
        let toml = block(section, "toml").unwrap();
        let head =
            format!("[[contract]]\nid = \"example-{number}\"\npartner = \"brightroof\"\ncampaign = \"solar-uk\"\n");
        let contract = resources(&format!("{head}{toml}")).contract.remove(0);
        let named = contract.endpoint.template.clone();
        let template: BTreeMap<String, String> =
            named.into_iter().zip(block(section, "handlebars").map(str::to_owned)).collect();
        try_out(&contract, &|name| template.get(name).cloned());
    }
}

#[test]
fn the_table_of_replies_and_rules_says_what_happens() {
    let page = text("docs/templates.md");
    let (_, table) = page.split_once("\n## Replies and rules, row by row\n").unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows: Vec<[String; 3]> = rows.take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    for [shown, rule, result] in rows {
        let endpoint = format!("method = \"post\"\nurl = \"https://partner.example/\"\n[response]\n{rule}\n");
        let endpoint: Endpoint = toml::from_str(&endpoint).unwrap_or_else(|error| panic!("{rule}: {error}"));
        let gbp = "GBP".parse().unwrap();
        let rules = Rules::compile(&endpoint, gbp).unwrap_or_else(|faults| panic!("{rule}: {faults:?}"));
        let (headers, body) = match shown.split_once(": ") {
            Some((name, value)) if rule.contains("header =") => (vec![(name.to_owned(), value.to_owned())], ""),
            _ if shown == "(empty)" => (Vec::new(), ""),
            _ => (Vec::new(), shown.as_str()),
        };
        let body = body.replace('⏎', "\n").into();
        let judgement = rules.judge(&Ok(Reply { status: 200, headers, body }), jiff::Timestamp::UNIX_EPOCH);
        let found = match rule.split_once(" = ").unwrap().0 {
            "reason" => judgement.reason,
            "reference" => judgement.reference,
            "price" => judgement.price.map(|price| price.display(gbp)),
            _ => Some(judgement.verdict.to_string()),
        };
        assert_eq!(found.as_deref().unwrap_or("–"), result, "{shown} with {rule}");
    }
}

/// The cells of a table's row; what is code without its back ticks, `\|` as `|`.
fn cells(row: &str) -> [String; 3] {
    let row = row.replace("\\|", "\u{0}");
    let cells = row.trim_matches('|').split('|').map(|cell| {
        let cell = cell.trim();
        cell.strip_prefix('`').and_then(|code| code.strip_suffix('`')).unwrap_or(cell).replace('\u{0}', "|")
    });
    cells.collect::<Vec<_>>().try_into().unwrap()
}

/// The first fenced block of a language.
fn block<'t>(markdown: &'t str, language: &str) -> Option<&'t str> {
    let (_, rest) = markdown.split_once(&format!("```{language}\n"))?;
    rest.split_once("```").map(|(inside, _)| inside)
}

/// The fenced blocks of a language, each with what follows it.
fn blocks<'t>(markdown: &'t str, language: &str) -> Vec<(&'t str, &'t str)> {
    let fence = format!("```{language}\n");
    markdown.split(fence.as_str()).skip(1).map(|part| part.split_once("```").unwrap()).collect()
}

/// `a=b%20c` as `a=b c`, a field a line.
fn readable(request: &Outgoing) -> String {
    let text = receivers::written(request);
    if !text.contains("application/x-www-form-urlencoded") {
        return text;
    }
    let mut bytes = Vec::new();
    let mut rest = text.replace("\n&", "\n").replace('+', " ").into_bytes().into_iter();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// What stands in backticks behind a word, such as ``reason `over cap` ``.
fn named<'t>(line: &'t str, word: &str) -> Option<&'t str> {
    let (_, rest) = line.split_once(&format!("{word} `"))?;
    rest.split('`').next()
}

#[test]
fn every_recipe_gives_what_it_says() {
    let page = text("docs/recipes.md");
    let set = receivers::examples();
    let head = "[[contract]]\nid = \"recipe\"\npartner = \"halcyon-finance\"\ncampaign = \"car-finance-uk\"\nprice = \"30.00\"\n";
    let endpoint = "[contract.endpoint]\nmethod = \"post\"\nurl = \"https://partner.example/\"\nform = { id = \"{{delivery.id}}\" }\n";
    let (mut requests, mut replies) = (0, 0);
    for section in sections(&page) {
        let section = section.as_str();
        let title = section.lines().next().unwrap_or_default();
        for (toml, _) in blocks(section, "toml") {
            let endpoint = if toml.contains("[contract.endpoint]") { "" } else { endpoint };
            let contract = resources(&format!("{head}{endpoint}{toml}")).contract.remove(0);
            let campaign = &set.campaigns[&contract.campaign];
            let template = block(section, "handlebars");
            let renderer = Renderer::compile(&contract, campaign, &|_| template.map(str::to_owned))
                .unwrap_or_else(|faults| panic!("{title}: {faults:#?}"));
            assert_eq!(renderer.check(campaign), [], "{title}");
            let request = receivers::request(&set, &contract, &renderer);
            let (raw, decoded) = (receivers::written(&request), readable(&request));
            let shown = block(section, "text").unwrap_or_default();
            assert!(!shown.is_empty() || toml.contains("response]"), "{title} shows nothing");
            for line in shown.lines() {
                requests += 1;
                let is_field = decoded != raw && !line.contains(": ") && !line.starts_with("GET ");
                let is_there = if is_field { decoded.lines().any(|other| other == line) } else { raw.contains(line) };
                assert!(is_there, "{title}: `{line}` is not in\n{decoded}");
            }
            let rules = Rules::compile(&contract.endpoint, campaign.currency)
                .unwrap_or_else(|faults| panic!("{title}: {faults:#?}"));
            for (reply, rest) in blocks(section, "http") {
                replies += 1;
                let outcome = rest.trim_start().lines().next().unwrap();
                let judgement = rules.judge(&Ok(as_reply(reply)), "2026-11-21T09:30:00Z".parse().unwrap());
                assert_eq!(Some(judgement.verdict.as_str()), named(outcome, "→"), "{title}: {reply}");
                assert_eq!(judgement.reference.as_deref(), named(outcome, "reference"), "{title}: {reply}");
                assert_eq!(judgement.redirect_url.as_deref(), named(outcome, "redirect"), "{title}: {reply}");
                let price = judgement.price.map(|price| price.display(campaign.currency));
                assert_eq!(price.as_deref(), named(outcome, "price"), "{title}: {reply}");
                if let Some(reason) = named(outcome, "reason") {
                    assert_eq!(judgement.reason.as_deref(), Some(reason), "{title}: {reply}");
                }
            }
        }
    }
    assert!(requests > 50 && replies > 20, "{requests} lines and {replies} replies were tried");
}

fn as_reply(text: &str) -> Reply {
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    Reply { status, headers, body: body.trim_end().to_owned().into() }
}

#[test]
fn every_link_of_the_docs_to_a_heading_leads_to_one() {
    let pages = [
        "first-partner.md",
        "recipes.md",
        "templates.md",
        "delivery-states.md",
        "http.md",
        "operations.md",
        "performance.md",
    ];
    let anchors: BTreeMap<&str, Vec<String>> =
        pages.iter().map(|page| (*page, anchors(&text(&format!("docs/{page}"))))).collect();
    for page in pages {
        for target in text(&format!("docs/{page}")).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            // An address elsewhere, or a regular expression in an example.
            if target.contains("://") || target.contains(|c: char| !c.is_alphanumeric() && !"#-_./".contains(c)) {
                continue;
            }
            let file = if file.is_empty() { page } else { file };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
            assert!(path.exists(), "{page}: there is no {file}");
            if let (Some(anchors), false) = (anchors.get(file), anchor.is_empty()) {
                assert!(anchors.iter().any(|known| known == anchor), "{page}: {target} leads nowhere");
            }
        }
    }
}

/// What stands below each heading of any level, the heading first.
fn sections(markdown: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    let mut in_block = false;
    for line in markdown.lines() {
        in_block ^= line.starts_with("```");
        if !in_block && line.starts_with('#') {
            sections.push(String::new());
        }
        sections.last_mut().unwrap().extend([line, "\n"]);
    }
    sections
}

/// The anchors that a page's headings have where Markdown is shown as HTML.
fn anchors(markdown: &str) -> Vec<String> {
    let sections = sections(markdown);
    let headings = sections.iter().filter_map(|section| section.lines().next().filter(|line| line.starts_with('#')));
    let slug = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(slug).collect()
}

/// Whether a command can be run here.
fn can(command: &str) -> bool {
    Command::new(command).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The commands of the page, one after another, in an empty directory; the lines that it shows must come.
#[test]
fn the_way_to_a_first_partner_works_as_it_is_written() {
    assert!(
        can("python3") && can("curl"),
        "python3 and curl play the partner and the source; `make tools` installs them"
    );
    let page = text("docs/first-partner.md");
    let port = free_port();
    // Kept until the second is found.
    let held = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (ours, theirs) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port()));
    drop(held);
    let with_ports = |text: &str| {
        let port = theirs.rsplit(':').next().unwrap();
        text.replace("127.0.0.1:8080", &ours).replace("127.0.0.1:9000", &theirs).replace("9000)", &format!("{port})"))
    };
    let commands: Vec<&str> = blocks(&page, "sh").into_iter().map(|(block, _)| block).collect();
    let script =
        format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}", with_ports(&commands.join("\n")));
    let dir = tempfile::tempdir().unwrap();
    let gateway = Path::new(env!("CARGO_BIN_EXE_gateway")).parent().unwrap().display().to_string();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", format!("{gateway}:{}", std::env::var("PATH").unwrap()))
        .env("GATEWAY__SERVER__LISTEN", &ours)
        .env("no_proxy", "*")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let mut seen = 0;
    for (shown, _) in blocks(&page, "text") {
        for line in with_ports(shown).lines().filter(|line| !line.is_empty()) {
            seen += 1;
            assert!(told.contains(line), "`{line}` did not come:\n{told}");
        }
    }
    assert!(seen > 20, "{seen} lines");
}

/// Every test that the map names is there.
#[test]
fn the_tests_that_keep_the_invariants_exist() {
    let mut sources = String::new();
    let mut left = vec![
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway/store"),
    ];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                sources += &std::fs::read_to_string(&path).unwrap();
            }
        }
    }
    let page = text("docs/ARCHITECTURE.md") + &text("docs/delivery-states.md");
    let named: Vec<&str> = page
        .split('*')
        .filter(|word| {
            word.contains('_') && !word.contains(|c: char| !c.is_ascii_lowercase() && c != '_' && !c.is_ascii_digit())
        })
        .collect();
    assert!(named.len() > 50, "{} names", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

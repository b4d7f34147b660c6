//! What the repository shows to people works: the shipped configuration, the sample network, the examples of the docs.

use std::collections::BTreeMap;
use std::path::Path;

use lead_gateway::config::Config;
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::contract::Contract;
use lead_gateway::model::partner::Partner;
use lead_gateway::model::source::Source;
use lead_gateway::render::Renderer;
use lead_gateway::verdict::Rules;
use serde::Deserialize;

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

/// The first fenced block of a language.
fn block<'t>(markdown: &'t str, language: &str) -> Option<&'t str> {
    let (_, rest) = markdown.split_once(&format!("```{language}\n"))?;
    rest.split_once("```").map(|(inside, _)| inside)
}

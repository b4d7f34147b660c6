//! What is fuzzed: each a function that takes any bytes. It must not panic, and what it lets pass must hold what the code
//! promises of it. They name nothing but the gateway's library, for `fuzz/` builds them too.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lead_gateway::config::Config;
use lead_gateway::directory::{Network, ResourceSet};
use lead_gateway::intake::{self, Format, Rules};
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::contract::{Contract, Endpoint};
use lead_gateway::model::exchange::Reply;
use lead_gateway::model::id::{DeliveryId, LeadId};
use lead_gateway::model::lead::{FieldValue, Lead, Meta};
use lead_gateway::model::money::Amount;
use lead_gateway::model::partner::Partner;
use lead_gateway::model::source::Source;
use lead_gateway::render::{Party, RenderInput, Renderer, hostile, sample};
use lead_gateway::verdict;

/// A target: its name, which is that of its corpus in `fixtures/fuzz/`, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("intake-json", intake_json),
    ("intake-form", intake_form),
    ("intake-multipart", intake_multipart),
    ("intake-xml", intake_xml),
    ("render-value", render_value),
    ("render-template", render_template),
    ("verdict-reply", verdict_reply),
    ("verdict-rules", verdict_rules),
    ("config", config),
];

fn now() -> Timestamp {
    Timestamp::from_second(1_795_253_400).unwrap_or_default()
}

// ---- intake

const CAMPAIGN: &str = r#"
id = "c"
timezone = "Europe/London"
currency = "GBP"
dedupe = [{ fields = ["email"], window = "30d" }]
[fields]
email = { type = "email" }
phone = { type = "phone", region = "GB" }
postcode = { type = "postcode", country = "GB" }
age = { type = "integer", min = "0", max = "150" }
bill = { type = "decimal", min = "0" }
born = { type = "date", sensitive = true }
owner = { type = "boolean" }
roof = { type = "one_of", values = ["flat", "pitched"] }
site = { type = "url" }
ip = { type = "ip" }
name = { type = "text", pattern = "^[^<>]*$" }
interests = { type = "list", items = { type = "text" } }
vehicles = { type = "list", fields = { make = { type = "text" }, year = { type = "integer" } } }
"#;

#[expect(clippy::expect_used, reason = "it is written above")]
static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let campaign: Campaign = toml::from_str(CAMPAIGN).expect("the campaign is right");
    Rules::compile(&campaign).map_err(|_| "faults").expect("the campaign has no faults")
});

/// What is read can be validated; what is valid stays what it is when it is posted again.
fn posted(format: Format, body: &[u8]) {
    let _ = intake::parse(format, body).map(|mut posted| posted.take_key());
    let Ok(posted) = RULES.parse(format, body) else { return };
    let Ok(valid) = RULES.validate(posted) else { return };
    let _ = (RULES.dedupe_keys(&valid.fields), RULES.lookup_keys(&valid.fields, &valid.meta));
    let again = serde_json::to_string(&valid.fields).unwrap_or_default();
    let again = RULES.parse(Format::Json, again.as_bytes()).map(|posted| RULES.validate(posted));
    let Ok(Ok(again)) = again else { panic!("what was valid is refused: {:?}", valid.fields) };
    assert!(again.fields == valid.fields, "{:?}, then {:?}", valid.fields, again.fields);
}

fn intake_json(body: &[u8]) {
    posted(Format::Json, body);
}

fn intake_form(body: &[u8]) {
    posted(Format::Form, body);
}

fn intake_multipart(body: &[u8]) {
    if let Some(format) = Format::from_content_type("multipart/form-data; boundary=fixture") {
        posted(format, body);
    }
    // The boundary is the client's, too.
    let head = String::from_utf8_lossy(body.get(..body.len().min(80)).unwrap_or_default()).into_owned();
    if let Some(format) = Format::from_content_type(&format!("multipart/form-data; boundary={head}")) {
        posted(format, body);
    }
}

fn intake_xml(body: &[u8]) {
    posted(Format::Xml, body);
}

// ---- rendering

fn contract(method: &str, more: &str) -> Result<Contract, toml::de::Error> {
    toml::from_str(&format!(
        "id = \"k\"\npartner = \"buyer\"\ncampaign = \"c\"\n[endpoint]\nmethod = \"{method}\"\nurl = \"https://b.example/\"\n{more}"
    ))
}

fn text_campaign() -> Option<Campaign> {
    toml::from_str(
        "id = \"c\"\ntimezone = \"Europe/London\"\ncurrency = \"GBP\"\n[fields]\nvalue = { type = \"text\" }\nage = { type = \"integer\" }\nborn = { type = \"date\" }",
    )
    .ok()
}

fn lead_with(value: String) -> Lead {
    Lead {
        id: LeadId(uuid::Uuid::nil()),
        campaign: "c".parse().unwrap_or_else(|_| unreachable!()),
        source: "acme".parse().unwrap_or_else(|_| unreachable!()),
        received_at: now(),
        test: false,
        fields: [("value".to_owned(), FieldValue::Text(value))].into(),
        meta: Meta::default(),
    }
}

/// What is rendered is well-formed for its format, whatever the lead holds.
fn well_formed(method: &str, renderer: &Renderer, lead: &Lead) -> bool {
    let rendered = renderer.render(&RenderInput {
        lead,
        source: Party { id: "acme", name: "Acme \"Media\"" },
        payout: Some("12.50"),
        partner: Party { id: "buyer", name: "Buyer & Co" },
        delivery: DeliveryId(uuid::Uuid::nil()),
        attempt: 1,
        now: now(),
        timezone: &TimeZone::UTC,
    });
    let Ok(rendered) = rendered else { return false };
    match method {
        "json" => assert!(serde_json::from_slice::<serde_json::Value>(&rendered.body).is_ok(), "{:?}", rendered.body),
        "post" => assert!(rendered.body.is_ascii(), "{:?}", rendered.body),
        "get" => assert!(url::Url::parse(&rendered.url).is_ok(), "{}", rendered.url),
        _ => {
            let mut reader = quick_xml::Reader::from_reader(&rendered.body[..]);
            loop {
                match reader.read_event() {
                    Ok(quick_xml::events::Event::Eof) => break,
                    Ok(_) => {}
                    Err(error) => panic!("{error}: {:?}", rendered.body),
                }
            }
        }
    }
    for (name, value) in &rendered.headers {
        assert!(!value.contains(['\r', '\n', '\0']), "{name}: {value:?}");
    }
    true
}

/// A value's place in every format: in texts, attributes, strings, other formats inside, fields, headers.
fn every_place() -> Vec<(&'static str, Renderer)> {
    let xml = "<a b=\"{{lead.value}}\" c='{{upper lead.value}}'>{{lead.value}}<d>{{#nested \"json\"}}{\"e\": \"{{lead.value}}\"}{{/nested}}</d></a>";
    let json = "{\"a\": \"{{lead.value}}\", \"b\": {{json lead.value}}, \"c\": \"{{slice lead.value 0 9}}\", \"d\": \"{{#nested \"xml\"}}<x y=\"{{lead.value}}\"/>{{/nested}}\"}";
    let template = "headers = { X-Value = \"{{lead.value}}\" }\ntemplate = \"t\"";
    let form = "headers = { X-Value = \"{{lead.value}}\" }\n[endpoint.form]\na = \"{{lead.value}}\"\n\"b c\" = \"{{base64 lead.value}}\"\n";
    let Some(campaign) = text_campaign() else { panic!("the campaign is right") };
    let compiled = [
        ("xml", template, xml),
        ("soap11", template, xml),
        ("soap12", template, xml),
        ("json", template, json),
        ("post", form, ""),
        ("get", form, ""),
    ]
    .map(|(method, more, text)| {
        let Ok(contract) = contract(method, more) else { panic!("the contract is right") };
        match Renderer::compile(&contract, &campaign, &|_| Some(text.to_owned())) {
            Ok(renderer) => (method, renderer),
            Err(faults) => panic!("{method}: {faults:?}"),
        }
    });
    compiled.into()
}

/// A value in every place of every format.
fn render_value(value: &[u8]) {
    static EVERY_PLACE: LazyLock<Vec<(&'static str, Renderer)>> = LazyLock::new(every_place);
    let lead = lead_with(String::from_utf8_lossy(value).into_owned());
    for (method, renderer) in &*EVERY_PLACE {
        assert!(well_formed(method, renderer, &lead), "{method} cannot carry {:?}", lead.fields);
    }
}

/// A template that somebody wrote: refused with a reason, or rendered well-formed for every lead.
fn render_template(template: &[u8]) {
    let Some(campaign) = text_campaign() else { return };
    let template = String::from_utf8_lossy(template);
    for method in ["xml", "soap12", "json"] {
        let Ok(contract) = contract(method, "template = \"t\"") else { panic!("the contract is right") };
        let load = |path: &str| (path == "t").then(|| template.clone().into_owned());
        let Ok(renderer) = Renderer::compile(&contract, &campaign, &load) else { continue };
        let _ = renderer.check(&campaign);
        for lead in [sample(&campaign), hostile(&campaign), lead_with("]]>\u{0}\"'&<é".to_owned())] {
            well_formed(method, &renderer, &lead);
        }
    }
}

// ---- verdicts

const EVERY_SELECTOR: &str = r#"
duplicate = [
    { xpath = "//a//a[preceding::a]//*", equals = "never" },
    { xpath = "//*[.//* = //*]", equals = "never" },
    { xpath = "count(//a[following::a])", equals = "never" },
    { json = "$..a..*", equals = "never" },
]
accepted = [
    { xpath = "//a", equals = "never", inside = { xpath = "//a", as = "xml" } },
    { json = "$.a", equals = "never", inside = { regex = "\\{.*", as = "json" } },
    { css = "a a[b] > *, a ~ a:not([b]):nth-child(even), #a", equals = "never" },
    { css = "*", attribute = "b", equals = "never", every = true },
    { css = "a", equals = "never", inside = { css = "a", as = "html" } },
    { json = "$..*", equals = "never", every = true },
    { body = true, equals = "never" },
    { form = "a", equals = "never" },
    { header = "content-type", equals = "never" },
    { regex = "(a|b)*c$", equals = "never" },
    { contains = "never ever" },
]
reason = [{ xpath = "//*" }, { css = "*" }]
reference = { json = "$..*" }
redirect_url = { regex = "(?s).*" }
price = [{ form = "a" }, { body = true, decimal = "," }]
"#;

fn rules_of(response: &str) -> Option<verdict::Rules> {
    let text = format!("method = \"post\"\nurl = \"https://p.example/\"\n[response]\n{response}\n");
    let endpoint: Endpoint = toml::from_str(&text).ok()?;
    verdict::Rules::compile(&endpoint, "GBP".parse().ok()?).ok()
}

fn judged(rules: &verdict::Rules, reply: Reply) {
    let judgement = rules.judge(&Ok(reply), now());
    assert!(judgement.retry_after.is_none_or(|wait| wait <= Duration::from_hours(1)), "{judgement:?}");
    assert!(judgement.reason.as_ref().is_none_or(|text| text.chars().count() <= 500), "{judgement:?}");
    assert!(judgement.reason.as_ref().is_none_or(|text| !text.contains(char::is_control)), "{judgement:?}");
    assert!(judgement.price.is_none_or(|price| price >= Amount(0)), "{judgement:?}");
}

/// A reply: its first line is the content type, its second a Retry-After, the rest its body.
fn verdict_reply(bytes: &[u8]) {
    static RULES: LazyLock<Option<verdict::Rules>> = LazyLock::new(|| rules_of(EVERY_SELECTOR));
    let Some(rules) = &*RULES else { panic!("the rules are right") };
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (content_type, retry_after) = (line(), line());
    let body = parts.next().unwrap_or_default().to_vec();
    for status in [200, 302, 429, 500] {
        let headers =
            vec![("content-type".to_owned(), content_type.clone()), ("retry-after".to_owned(), retry_after.clone())];
        judged(rules, Reply { status, headers, body: body.clone().into() });
    }
}

/// Rules that somebody wrote, on replies of each kind.
fn verdict_rules(response: &[u8]) {
    let Ok(response) = std::str::from_utf8(response) else { return };
    let Some(rules) = rules_of(response) else { return };
    for (kind, body) in [
        ("application/json", r#"{"a": {"b": [1, "x", null, {"c": "31.00"}]}, "ok": true}"#),
        ("text/xml", "<a b='1'><c>OK</c><c/><d xmlns='urn:x'>31,00</d></a>"),
        ("text/html", "<html><body id=a><p class=b>Thank you<table><tr><td>1</table>"),
        ("text/plain", "ok=1&price=31.00&reason=none"),
        ("", ""),
    ] {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        judged(&rules, Reply { status: 200, headers, body: body.into() });
    }
}

// ---- configuration

/// A configuration, and resources: read and compiled, or refused with words.
fn config(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Err(fault) = Config::parse(text, "gateway.toml", std::iter::empty()) {
        assert!(!fault.to_string().is_empty());
    }
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (format!("GATEWAY__{name}"), value.to_owned()));
    let _ = Config::parse("", "gateway.toml", variables);

    let mut set = ResourceSet::default();
    if let Ok(campaign) = toml::from_str::<Campaign>(text) {
        let _ = Rules::compile(&campaign);
        set.campaigns.insert(campaign.id.clone(), Arc::new(campaign));
    }
    if let Ok(partner) = toml::from_str::<Partner>(text) {
        set.partners.insert(partner.id.clone(), Arc::new(partner));
    }
    if let Ok(source) = toml::from_str::<Source>(text) {
        set.sources.insert(source.id.clone(), Arc::new(source));
    }
    if let Ok(contract) = toml::from_str::<Contract>(text) {
        set.contracts.insert(contract.id.clone(), Arc::new(contract));
    }
    if let Err(faults) = Network::compile(&set, None) {
        assert!(faults.iter().all(|fault| !fault.to_string().is_empty()));
    }
}

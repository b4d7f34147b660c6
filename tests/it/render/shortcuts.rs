//! The short ways (templates compiled to steps, results checked at one look) give what Handlebars and the full checks
//! give: the same bytes, masks, secrets and faults.

use proptest::sample::{Index, select};

use super::*;
use crate::receivers;

/// An endpoint compiled twice.
struct Both {
    name: String,
    short: Renderer,
    full: Renderer,
}

impl Both {
    fn compile(
        name: &str,
        compile: impl Fn() -> Result<Renderer, Vec<TemplateFault>>,
    ) -> Result<Self, Vec<TemplateFault>> {
        Ok(Self { name: name.to_owned(), short: compile()?, full: compile()?.without_shortcuts() })
    }

    fn compare(&self, lead: &Lead) -> Result<(), TestCaseError> {
        let (short, full) = (render(&self.short, lead), render(&self.full, lead));
        match (short, full) {
            (Ok(short), Ok(full)) => self.same(&short, &full),
            (short, full) => {
                prop_assert_eq!(short.as_ref().err(), full.as_ref().err(), "{}", &self.name);
                Ok(())
            }
        }
    }

    fn same(&self, short: &Outgoing, full: &Outgoing) -> Result<(), TestCaseError> {
        let shown = |url: &str, headers: &[(String, String)], body: &[u8]| {
            format!("{url}\n{headers:?}\n{}", String::from_utf8_lossy(body))
        };
        let sent = |it: &Outgoing| shown(&it.url, &it.headers, &it.body);
        let masked = |it: &Outgoing| it.masked.as_ref().map(|it| shown(&it.url, &it.headers, &it.body));
        prop_assert_eq!(sent(short), sent(full), "{}", &self.name);
        prop_assert_eq!(&short.body, &full.body, "{}", &self.name);
        prop_assert_eq!(masked(short), masked(full), "masked: {}", &self.name);
        prop_assert_eq!(&short.secrets, &full.secrets, "{}", &self.name);
        match (&short.backup, &full.backup) {
            (Some(short), Some(full)) => self.same(short, full),
            (None, None) => Ok(()),
            _ => panic!("{}: one backup", self.name),
        }
    }
}

// ---- Leads ----

const TEXTS: &[&str] = &[
    "",
    "***",
    " *** ",
    "x",
    "Ann",
    "o'neil-smith",
    "1979-04-12",
    "2026-11-21T09:30:00Z",
    "85.50",
    "-3",
    "1e3",
    "0",
    "+447400123456",
    "07400 123456",
    "SW1A 1AA",
    "true",
    "a,}",
    "<&>",
];

/// What fields may hold, and what they should not.
fn any_value() -> impl Strategy<Value = Option<FieldValue>> {
    prop_oneof![
        3 => Just(None),
        3 => select(TEXTS).prop_map(|value| Some(text(value))),
        3 => any_text().prop_map(|value| Some(FieldValue::Text(value))),
        1 => select(&[0_i64, 1, -5, i64::MAX][..]).prop_map(|value| Some(FieldValue::Integer(value))),
        1 => any::<bool>().prop_map(|value| Some(FieldValue::Boolean(value))),
        1 => prop::collection::vec(select(TEXTS), 0..3)
            .prop_map(|list| Some(FieldValue::List(list.into_iter().map(text).collect()))),
    ]
}

/// A campaign's sample with some fields changed.
fn changed(campaign: &Campaign, values: &[(Index, Option<FieldValue>)], meta: &str) -> Lead {
    let mut given = sample(campaign);
    for (index, value) in values {
        let name = index.get(&campaign.fields.keys().cloned().collect::<Vec<_>>()).clone();
        if let Some(value) = value {
            given.fields.insert(name, value.clone());
        } else {
            let others = given.fields.iter().filter(|(other, _)| **other != name);
            given.fields = others.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
    }
    given.meta.sub1 = Some(meta.to_owned());
    given
}

fn changes() -> impl Strategy<Value = Vec<(Index, Option<FieldValue>)>> {
    prop::collection::vec((any::<Index>(), any_value()), 0..6)
}

// ---- Templates ----

/// Expressions that may stand in a text, a header, a URL, or a form's value.
const EXPRESSIONS: &[&str] = &[
    "{{lead.value}}",
    "a{{lead.value}}b{{lead.other}}c",
    "{{lead.born}}{{lead.value}}",
    "{{lead.age}} {{lead.flag}} {{lead.bill}}",
    "{{secret.k}}-{{lead.value}}",
    "{{meta.sub1}}{{meta.click_id}}{{meta.external_id}}{{meta.ip}}{{meta.user_agent}}{{meta.sub2}}",
    "{{meta.received_at}} {{now}} {{date now \"%Y\"}} {{now \"%H\" timezone=\"Asia/Tokyo\"}}",
    "{{date meta.received_at \"%Y-%m-%dT%H:%M:%S%:z\"}}",
    "{{source.id}}{{source.name}}{{source.payout}}{{campaign.id}}{{campaign.name}}{{partner.id}}{{partner.name}}",
    "{{contract.id}}{{contract.name}}{{contract.price}}{{delivery.id}}{{attempt.number}}",
    "{{@root.lead.value}}",
    "{{upper lead.value}}{{lower lead.value}}{{title (trim lead.value)}}",
    "{{trim lead.value}}|{{trim lead.born}}",
    "{{slice lead.value 1}}{{slice lead.value -3 -1}}{{replace lead.value \"a\" \"***\"}}",
    "{{concat lead.value \"-\" lead.age}}{{concat lead.born lead.value separator=\", \"}}{{len lead.value}}",
    "{{concat lead.tags separator=\"; \"}}{{len lead.tags}}",
    "{{date lead.born \"%d/%m/%Y\"}}",
    "{{date lead.value}}",
    "{{phone lead.value \"national\" region=\"GB\"}}",
    "{{number lead.value 2}}{{number lead.bill decimal=\",\"}}{{number lead.age decimals=1}}",
    "{{default lead.value lead.other \"none\"}}{{default lead.age 7}}{{default lead.flag true}}{{default lead.born 1.50}}",
    "{{map lead.value \"t\"}}",
    "{{hash lead.value}}{{hash lead.born \"md5\"}}{{base64 lead.value}}{{base64 secret.k}}",
    "{{hash secret.k}}{{upper secret.k}}",
    "{{hmac lead.value key=secret.k}}{{hmac lead.born \"sha1\" key=\"env:PATH\"}}",
    "{{uuid}}{{uuid}}{{lead.born}}{{uuid}}",
    "{{#if lead.value}}{{lead.value}}{{else}}none{{/if}}",
    "{{#if lead.born}}{{uuid}}{{else}}none{{/if}}{{uuid}}",
    "{{#unless lead.value}}none{{else}}{{lead.other}}{{/unless}}",
    "{{#if lead.age}}a{{else if lead.flag}}b{{else if lead.value}}{{upper lead.value}}{{else}}d{{/if}}",
    "{{#if lead.age includeZero=true}}a{{else}}b{{/if}}",
    "{{#if (eq lead.value \"***\")}}a{{else}}b{{/if}}{{#if (and lead.value (not lead.born))}}c{{/if}}",
    "{{#if (gt lead.age 3)}}a{{/if}}{{#if (or lead.flag (lt lead.bill \"50\"))}}b{{/if}}{{eq lead.value lead.other}}",
    "{{#each lead.tags}}{{this}}{{#unless @last}},{{/unless}}{{/each}}",
    "{{#with lead}}{{value}}{{upper other}}{{/with}}",
    "{{lookup lead \"value\"}}",
    "{{#nested \"json\"}}[\"{{lead.value}}\", {{json lead.bill}}, \"{{lead.born}}\",]{{/nested}}",
    "{{#nested \"xml\" encode=\"base64\"}}<a>{{lead.value}}</a>{{/nested}}",
    "x {{~lead.value~}} y {{! a comment }} z",
    "{{> part.hbs}}",
    "***{{lead.value}}{{concat \"**\" \"*\"}}",
];

/// The same for bare JSON.
const JSON: &[&str] = &[
    "{{json lead.value}}",
    "{{json lead.born}}",
    "[{{lead.age}}, {{lead.flag}}, {{lead.bill}}, {{len lead.value}},]",
    "[{{json lead.bill}}, {{json lead.age}}, {{json lead.flag type=\"string\"}}, {{json lead.value type=\"number\"}}]",
    "{ {{#if lead.value}}\"a\": \"{{lead.value}}\",{{/if}} {{#if lead.born}}\"b\": \"{{lead.born}}\",{{/if}} }",
    "[{{#unless lead.born}}1,{{/unless}}\n]",
    "{{json lead}}",
    "{{json lead.tags}}",
    "\"{{lead.value}}\\",
];

fn own_campaign() -> Campaign {
    campaign(
        "other = { type = \"text\" }\nborn = { type = \"text\", sensitive = true }\nage = { type = \"integer\" }\n\
         flag = { type = \"boolean\" }\nbill = { type = \"decimal\" }\ntags = { type = \"list\", items = { type = \"text\" } }",
    )
}

/// Each expression in each place that takes one.
fn own_endpoints() -> Vec<Both> {
    let campaign = own_campaign();
    let mut all = Vec::new();
    let mut add = |head: &str, endpoint: &str, template: &str| {
        let text = format!(
            "price = \"31.00\"\nsecrets = {{ k = \"s3cret/k\" }}\nmaps = {{ t = {{ x = \"<1>\", \"*\" = \"***\" }} }}\n\
             [endpoint]\nurl = \"https://b.example/\"\n{head}\n{endpoint}"
        );
        let contract = contract(&text);
        let files = |path: &str| match path {
            "t.hbs" => Some(template.to_owned()),
            "part.hbs" => Some("<{{lead.value}}>{{lead.born}}".replace(['<', '>'], "")),
            _ => None,
        };
        let name = format!("{head} {endpoint} {template}");
        // Not every expression may stand everywhere.
        all.extend(Both::compile(&name, || Renderer::compile(&contract, &campaign, &files)));
    };
    for expression in EXPRESSIONS {
        let markup = format!("<v a=\"{expression}\" xmlns:p=\"urn:p\">\n <p:w>{expression}</p:w> {expression}</v>");
        let json = format!("{{\"a\": \"{expression}\", \"b\": [\"-{expression}\"]}}");
        for charset in ["", "charset = \"iso-8859-1\""] {
            for method in ["xml", "soap11", "soap12"] {
                add(&format!("method = \"{method}\"\n{charset}\ntemplate = \"t.hbs\""), "", &markup);
            }
            add(&format!("method = \"json\"\n{charset}\ntemplate = \"t.hbs\""), "", &json);
            let quoted = toml::Value::from(*expression).to_string();
            add(&format!("method = \"post\"\n{charset}"), &format!("[endpoint.form]\na = {quoted}\nz = \"1\""), "");
            add(&format!("method = \"get\"\n{charset}"), &format!("headers = {{ X-A = {quoted} }}"), "");
            add(&format!("method = \"get\"\n{charset}"), &format!("auth = {{ bearer = {{ token = {quoted} }} }}"), "");
        }
    }
    for template in JSON {
        add("method = \"json\"\ntemplate = \"t.hbs\"", "", template);
    }
    all
}

#[test]
fn every_kind_of_expression_renders_alike_both_ways() {
    let (campaign, all) = (own_campaign(), own_endpoints());
    for expression in EXPRESSIONS {
        let count = all.iter().filter(|both| both.name.contains(expression)).count();
        assert!(count >= 8, "{expression}: {count}");
    }
    // Handlebars is left what needs it: loops, lists, partials inside of them.
    let by_steps = all.iter().filter(|both| both.short.is_by_steps()).count();
    assert!(by_steps * 10 >= all.len() * 6, "{by_steps} of {}", all.len());
    for both in &all {
        both.compare(&sample(&campaign)).unwrap();
    }
}

/// The fixtures and the examples, each with its campaign.
fn known() -> Vec<(Both, Campaign)> {
    let set = receivers::examples();
    let examples = set.contracts.values().map(|contract| {
        let both = Both::compile(contract.id.as_str(), || Ok(receivers::renderer(&set, contract))).unwrap();
        (both, Campaign::clone(&set.campaigns[&contract.campaign]))
    });
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/render");
    let fixtures = std::fs::read_dir(root).unwrap().map(|case| {
        let dir = case.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let campaign: Campaign = toml::from_str(&read("campaign.toml")).unwrap();
        let contract: Contract = toml::from_str(&read("contract.toml")).unwrap();
        let files = |path: &str| std::fs::read_to_string(dir.join("templates").join(path)).ok();
        let name = dir.display().to_string();
        (Both::compile(&name, || Renderer::compile(&contract, &campaign, &files)).unwrap(), campaign)
    });
    examples.chain(fixtures).collect()
}

#[test]
fn fixtures_and_examples_render_alike_both_ways() {
    let all = known();
    assert!(all.len() > 30, "{}", all.len());
    for (both, campaign) in &all {
        for lead in [sample(campaign), hostile(campaign)] {
            both.compare(&lead).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_lead_renders_alike_both_ways(values in changes(), meta in any_text(), first in any::<Index>()) {
        use std::sync::LazyLock;
        static OWN: LazyLock<Vec<Both>> = LazyLock::new(own_endpoints);
        static KNOWN: LazyLock<Vec<(Both, Campaign)>> = LazyLock::new(known);
        let lead = changed(&own_campaign(), &values, &meta);
        // One of twenty each time: those of one expression stand side by side.
        for both in OWN.iter().skip(first.index(20)).step_by(20) {
            both.compare(&lead)?;
        }
        for (both, campaign) in KNOWN.iter().skip(first.index(10)).step_by(10) {
            both.compare(&changed(campaign, &values, &meta))?;
        }
    }
}

// ---- Checks ----

/// Documents that are mostly well-formed.
fn any_element() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => select(&["text", "é€😀", "a > b", "a]]b", "\n\t ", "&amp;&lt;&gt;&quot;&apos;", "&#233;&#9;&#65533;"][..]),
        1 => select(&["\u{FEFF}", "\u{7f}\u{85}", "&#xE9;", "&#0009;", "<!-- c -->", "<![CDATA[<x>]]>", "<?pi x?>"][..]),
        1 => select(&["]]>", "&nbsp;", "&#0;", "&#65534;", "\u{FFFE}", "\u{1}", "&amp", "& "][..]),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop_oneof![
            6 => select(&["a", "b-1", "_c.d", "p:e", "Élan"][..]),
            1 => select(&["xml", "xml:f", "xmlns:g", "q:h", "1i", "j:k:l", "-m", "n:"][..]),
        ];
        let attribute = prop_oneof![
            6 => select(&[" x=\"1\"", " y=\"a > 'b'&amp;\"", " xmlns:p=\"urn:p\"", " xmlns=\"urn:d\"", "\n\tz=\"\n\""][..]),
            1 => select(&[" p:x=\"2\"", " xml:lang=\"en\"", " x='1'", " x = \"1\"", " xmlns:q=\"urn:p\" q:x=\"3\""][..]),
            1 => select(&[
                " xmlns:p=\"\"", " xmlns=\"\"", " x=\"<\"", " x", " x=1", "y=\"1\"", " q:y=\"\"", " xmlns:xml=\"urn:x\"",
                " xmlns:w=\"http://www.w3.org/XML/1998/namespace\"", " xmlns:w=\"http://www.w3.org/2000/xmlns/\"",
                " x=\"&#1;\"", " x=\"&\"", " xmlns:p=\"urn:&amp;\"", " x=\"\u{FFFF}\"", " xmlns:xmlfoo=\"urn:f\"",
            ][..]),
        ];
        let attributes = prop::collection::vec(attribute, 0..4).prop_map(|all| all.concat());
        let end = prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("x")];
        (name, attributes, prop::collection::vec(inner, 0..4), end).prop_map(|(name, attributes, content, end)| {
            match content.concat() {
                content if content.is_empty() => format!("<{name}{attributes}{end}/>"),
                content => format!("<{name}{attributes}>{content}</{name}{end}>"),
            }
        })
    })
}

fn any_document() -> impl Strategy<Value = String> {
    let before = prop_oneof![
        4 => Just(""),
        4 => select(&["<?xml version=\"1.0\"?>\n", "<?xml version=\"1.0\" encoding=\"utf-8\"?>"][..]),
        1 => select(&[
            "<?xml version=\"1.0\" encoding=\"utf-16\"?>", "<?xml version='1.0'?>", " ", "x", "<!DOCTYPE a>", "<a/>",
            "<?xml version=\"1.0\" encoding=\"\"?>", "<?xml version=\"1.0\" standalone=\"yes\"?>", "\u{FEFF}",
        ][..]),
    ];
    let behind = prop_oneof![8 => Just(""), 2 => Just("\n"), 1 => Just("<b/>"), 1 => Just("x"), 1 => Just("</a>")];
    // Mostly with a root that makes a document of whatever stands in it.
    let root = prop_oneof![3 => Just(("<r xmlns:p=\"urn:p\">", "</r>")), 1 => Just(("", ""))];
    (before, root, any_element(), behind)
        .prop_map(|(before, (start, end), element, behind)| format!("{before}{start}{element}{end}{behind}"))
}

/// JSON texts that are mostly well-formed.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => select(&["1", "-0.5e+3", "\"a\"", "true", "false", "null", "\"é\\u00e9\\n\\/\"", "[]", "{ }", "\"a,]\""][..]),
        1 => select(&["01", "-", "1.", ".5", "1e", "tru", "\"\\x\"", "\"\\u12\"", "\"\u{1}\"", "\"", "NaN", "+1"][..]),
        1 => select(&["\"\u{7f}\"", "1E5", "-0", "1e400", "\"\\ud800\"", "", "nullx"][..]),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 4, |inner| {
        let comma = select(&[",", ", ", ",\n", " ,", ",,", ""][..]);
        let all = prop::collection::vec((inner, comma), 0..4);
        let kind = prop_oneof![4 => Just(0), 4 => Just(1), 1 => Just(2), 1 => Just(3)];
        (all, kind, any::<bool>()).prop_map(|(all, kind, trailing)| {
            let last = all.len().saturating_sub(1);
            let members = all.iter().enumerate().map(|(at, (member, comma))| {
                let comma = if at < last || trailing { if comma.is_empty() { "," } else { comma } } else { "" };
                let key = if kind == 1 { "\"k\": " } else { "" };
                format!("{key}{member}{comma}")
            });
            let members = members.collect::<String>();
            match kind {
                0 => format!("[{members}]"),
                1 => format!("{{ {members} }}"),
                2 => format!("{{{members}}}"),
                _ => format!("[{members}}}"),
            }
        })
    })
}

fn compare_text(method: &str, template: &str) -> Result<(), TestCaseError> {
    // Whatever stands in a file would be read as a template.
    if template.contains("{{") {
        return Ok(());
    }
    match Both::compile(&format!("{method} {template}"), || with_template(method, template, "")) {
        Ok(both) => both.compare(&fields([])),
        Err(_) => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_are_judged_alike_both_ways(document in any_document(), cut in any::<Index>(), cuts in 0..8_u8) {
        let mut document = document;
        if cuts == 0 && !document.is_empty() {
            let at = document.floor_char_boundary(cut.index(document.len()));
            document.remove(at);
        }
        compare_text("xml", &document)?;
        compare_text("soap11", &document)?;
    }

    #[test]
    fn json_texts_are_judged_alike_both_ways(json in any_json(), cut in any::<Index>(), cuts in 0..8_u8) {
        let mut json = json;
        if cuts == 0 && !json.is_empty() {
            let at = json.floor_char_boundary(cut.index(json.len()));
            json.remove(at);
        }
        compare_text("json", &json)?;
    }
}

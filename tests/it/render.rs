//! Rendering: fixture requests of real receivers, round trips of every format with independent parsers, and what is
//! refused when a contract is loaded.

mod shortcuts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use jiff::tz::TimeZone;
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::contract::Contract;
use lead_gateway::model::exchange::Outgoing;
use lead_gateway::model::id::{DeliveryId, LeadId};
use lead_gateway::model::lead::{FieldValue, Fields, Lead, Meta};
use lead_gateway::render::{Known, Party, RenderFault, RenderInput, Renderer, TemplateFault, hostile, sample};
use proptest::prelude::*;
use serde::Deserialize;

const DELIVERY: &str = "0199f6c2-0000-7000-8000-000000000001";

fn lead(fields: Fields, meta: Meta) -> Lead {
    Lead {
        id: LeadId(uuid::Uuid::nil()),
        campaign: "c".parse().unwrap(),
        source: "acme".parse().unwrap(),
        received_at: "2026-11-21T09:30:00.123456Z".parse().unwrap(),
        test: false,
        fields,
        meta,
    }
}

fn render(renderer: &Renderer, lead: &Lead) -> Result<Outgoing, RenderFault> {
    renderer.render(&RenderInput {
        lead,
        source: Party { id: "acme", name: "Acme \"Media\"" },
        payout: Some("12.50"),
        partner: Party { id: "buyer", name: "Buyer & Co" },
        delivery: DELIVERY.parse::<DeliveryId>().unwrap(),
        attempt: 1,
        now: "2026-11-21T09:31:00Z".parse().unwrap(),
        timezone: &TimeZone::get("America/Chicago").unwrap(),
    })
}

/// A campaign with a text field `value`, and whatever fields are given as TOML.
fn campaign(more_fields: &str) -> Campaign {
    let text = format!(
        "id = \"c\"\ntimezone = \"Europe/London\"\ncurrency = \"GBP\"\n[fields]\nvalue = {{ type = \"text\" }}\n{more_fields}"
    );
    toml::from_str(&text).unwrap()
}

fn contract(endpoint: &str) -> Contract {
    let text = format!("id = \"k\"\npartner = \"buyer\"\ncampaign = \"c\"\n{endpoint}");
    toml::from_str(&text).unwrap()
}

/// A renderer for `method` whose body template is `template`.
fn with_template(method: &str, template: &str, fields: &str) -> Result<Renderer, Vec<TemplateFault>> {
    let endpoint = format!("[endpoint]\nmethod = \"{method}\"\nurl = \"https://b.example/\"\ntemplate = \"t.hbs\"");
    Renderer::compile(&contract(&endpoint), &campaign(fields), &|path| (path == "t.hbs").then(|| template.to_owned()))
}

fn text(value: &str) -> FieldValue {
    FieldValue::Text(value.to_owned())
}

fn fields<const N: usize>(pairs: [(&str, FieldValue); N]) -> Lead {
    lead(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), Meta::default())
}

fn body(method: &str, template: &str, declared: &str, lead: &Lead) -> String {
    let renderer = with_template(method, template, declared).unwrap();
    String::from_utf8(render(&renderer, lead).unwrap().body.to_vec()).unwrap()
}

/// A text template's result for one `value`, through a JSON string.
fn says(expression: &str, value: &str) -> String {
    let json = body("json", &format!("\"{expression}\""), "", &fields([("value", text(value))]));
    serde_json::from_str(&json).unwrap()
}

fn faults(method: &str, template: &str) -> Vec<String> {
    match with_template(method, template, "age = { type = \"integer\" }\nborn = { type = \"date\", sensitive = true }")
    {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

fn header<'a>(request: &'a Outgoing, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

// ---- Many contracts with the same templates ----

#[test]
fn what_is_compiled_among_others_renders_as_what_is_compiled_alone() {
    // The same name and text stands for other things in each of these.
    let texts = [
        "{\"a\": {{lead.value}}, \"b\": {{json lead}}}",
        "{\"a\": \"{{map lead.value \"t\"}}\"}",
        "{\"a\": \"{{secret.code}}\"}",
        "{\"a\": \"{{hmac \"sha256\" lead.value \"env:HOME\"}}\"}",
        "{\"a\": \"{{hmac \"sha256\" lead.value key=\"env:PATH\"}}{{hmac \"sha256\" lead.value key=\"env:HOME\"}}\"}",
    ];
    let kinds = ["text", "integer", "boolean"];
    let owns = [
        "",
        "[maps.t]\n\"1\" = \"one\"\n",
        "[maps.t]\n\"*\" = \"any\"\n[secrets]\ncode = \"a-code-1\"\n",
        "[secrets]\ncode = \"a-code-2\"\nother = \"another\"\n",
    ];
    for text in texts {
        let templates = |path: &str| (path == "t.hbs").then(|| text.to_owned());
        let mut known = Known::default();
        for (kind, sensitive) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let mut campaign = campaign("");
            campaign.fields.clear();
            let field = format!("type = \"{kind}\"\nsensitive = {sensitive}");
            campaign.fields.insert("value".to_owned(), toml::from_str(&field).unwrap());
            for own in owns {
                let contract = contract(&format!(
                    "{own}[endpoint]\nmethod = \"json\"\nurl = \"https://b.example/{{{{lead.value}}}}\"\ntemplate = \"t.hbs\""
                ));
                let alone = Renderer::compile(&contract, &campaign, &templates);
                let among = Renderer::compile_among(&contract, &campaign, &templates, &mut known);
                let (alone, among) = match (alone, among) {
                    (Ok(alone), Ok(among)) => (alone, among),
                    (alone, among) => {
                        assert_eq!(alone.err(), among.err(), "{text} {kind} {own}");
                        continue;
                    }
                };
                let lead = fields([("value", FieldValue::Integer(1))]);
                let said = |renderer: &Renderer| {
                    render(renderer, &lead).map(|sent| {
                        let masked = sent.masked.map(|masked| (masked.url, masked.headers, masked.body));
                        (sent.url, sent.headers, sent.body, masked, sent.secrets)
                    })
                };
                assert_eq!(said(&alone), said(&among), "{text} {kind} {own}");
            }
        }
    }
}

// ---- Real receivers ----

#[derive(Deserialize)]
struct FixtureLead {
    fields: Fields,
    #[serde(default)]
    meta: Meta,
}

fn written(method: &str, url: &str, headers: &[(String, String)], body: &[u8]) -> String {
    let mut out = format!("{method} {url}\n");
    for (name, value) in headers {
        writeln!(out, "{name}: {value}").unwrap();
    }
    out.push('\n');
    out.push_str(std::str::from_utf8(body).unwrap());
    out
}

/// `fixtures/render/CASE/`: what is rendered and, where anything is masked, what may be stored. Run with
/// `WRITE_FIXTURES=1` to write the results anew, and read the difference before committing it.
#[test]
fn each_fixture_case_renders_exactly_its_expected_request() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/render");
    let mut cases = 0;
    for case in std::fs::read_dir(&root).unwrap() {
        let dir = case.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let campaign: Campaign = toml::from_str(&read("campaign.toml")).unwrap();
        let contract: Contract = toml::from_str(&read("contract.toml")).unwrap();
        let given: FixtureLead = serde_json::from_str(&read("lead.json")).unwrap();
        let renderer = Renderer::compile(&contract, &campaign, &|path| {
            std::fs::read_to_string(dir.join("templates").join(path)).ok()
        });
        let renderer = renderer.unwrap_or_else(|faults| panic!("{}: {faults:#?}", dir.display()));
        assert_eq!(renderer.check(&campaign), [], "{}", dir.display());
        let request = render(&renderer, &lead(given.fields, given.meta)).unwrap();
        let mut results =
            vec![("request.http", written(request.http_method, &request.url, &request.headers, &request.body))];
        if let Some(masked) = &request.masked {
            results.push(("masked.http", written(request.http_method, &masked.url, &masked.headers, &masked.body)));
        }
        for (name, result) in results {
            if std::env::var_os("WRITE_FIXTURES").is_some() {
                std::fs::write(dir.join(name), &result).unwrap();
            }
            assert_eq!(result, read(name), "{}/{name}", dir.display());
        }
        assert_eq!(dir.join("masked.http").exists(), request.masked.is_some(), "{}", dir.display());
        cases += 1;
    }
    assert!(cases >= 7, "only {cases} cases found");
}

// ---- Round trips ----

/// What XML can carry (XML 1.0, section 2.2).
fn xml_text(value: &str) -> String {
    let carried = |c: &char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}');
    value.chars().filter(carried).collect()
}

/// The text and the attribute `a` of the first element called `name`, read by quick-xml.
fn read_xml(document: &str, name: &str) -> (String, String) {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(document);
    let (mut content, mut attribute, mut inside) = (String::new(), String::new(), false);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) if tag.name().as_ref() == name => {
                let found = tag.try_get_attribute("a").unwrap().unwrap();
                attribute = found.normalized_value(quick_xml::XmlVersion::Explicit1_0).unwrap().into_owned();
                inside = true;
            }
            Event::Text(text) if inside => content.push_str(&text.xml10_content()),
            Event::CData(text) if inside => content.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) if inside => match reference.resolve_char_ref().unwrap() {
                Some(c) => content.push(c),
                None => content.push_str(quick_xml::escape::resolve_xml_entity(&reference).unwrap()),
            },
            Event::End(tag) if tag.name().as_ref() == name => return (content, attribute),
            Event::Eof => panic!("no <{name}>"),
            _ => {}
        }
    }
}

/// Any Unicode, with more than its share of what formats stumble over.
fn any_text() -> impl Strategy<Value = String> {
    let trouble = prop::sample::select(
        "\"'<>&\\/]>-=%+#?;:{} \t\r\n\0\u{1}\u{1f}\u{7f}\u{85}\u{2028}\u{feff}\u{fffe}\u{ffff}é😀\u{202e}"
            .chars()
            .collect::<Vec<_>>(),
    );
    let piece = prop_oneof![
        3 => trouble.prop_map(String::from),
        2 => any::<char>().prop_map(String::from),
        1 => "[a-z]{1,6}",
        1 => Just("]]>".to_owned()),
        1 => Just("&amp;".to_owned()),
        1 => Just("{{value}}".to_owned()),
        1 => Just("\\u0041".to_owned()),
        1 => Just("%41".to_owned()),
        1 => Just("***".to_owned()),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// One renderer per format, compiled once for all the examples.
fn renderer(key: &'static str) -> &'static Renderer {
    use std::sync::LazyLock;
    const ELEMENT: &str = "<v a=\"{{lead.value}}\" b='{{lead.value}}'>{{lead.value}}</v>";
    static ALL: LazyLock<BTreeMap<&'static str, Renderer>> = LazyLock::new(|| {
        let nested_xml = format!("<w a=\"{{{{lead.value}}}}\">{{{{#nested \"xml\"}}}}{ELEMENT}{{{{/nested}}}}</w>");
        let deep_json = format!(
            "{{\"j\": \"{{{{#nested \"json\"}}}}{{\"x\": \"{{{{#nested \"xml\"}}}}{ELEMENT}{{{{/nested}}}}\"}}{{{{/nested}}}}\"}}"
        );
        let deep_xml =
            "<v a=\"x\">{{#nested \"form\"}}j={{#nested \"json\"}}[\"{{lead.value}}\"]{{/nested}}&k=1{{/nested}}</v>";
        let templates = [
            ("xml", "xml", ELEMENT.to_owned()),
            ("soap11", "soap11", ELEMENT.to_owned()),
            ("soap12", "soap12", ELEMENT.to_owned()),
            ("nested xml", "xml", nested_xml),
            ("nested deep", "xml", deep_xml.to_owned()),
            ("json", "json", "{\"s\": \"-{{lead.value}}-\", \"j\": {{json lead.value}}}".to_owned()),
            ("nested json", "json", deep_json),
        ];
        let mut all: BTreeMap<_, _> = templates
            .into_iter()
            .map(|(key, method, template)| (key, with_template(method, &template, "").unwrap()))
            .collect();
        for method in ["post", "get"] {
            let endpoint = format!(
                "[endpoint]\nmethod = \"{method}\"\nurl = \"https://b.example/{{{{lead.value}}}}?u={{{{lead.value}}}}\"\n\
                 headers = {{ X-Value = \"[{{{{lead.value}}}}]\" }}\n[endpoint.form]\n\"a&b\" = \"{{{{lead.value}}}}\"\nz = \"1\""
            );
            all.insert(method, Renderer::compile(&contract(&endpoint), &campaign(""), &|_| None).unwrap());
        }
        all
    });
    &ALL[key]
}

fn rendered(key: &'static str, value: &str) -> Outgoing {
    render(renderer(key), &fields([("value", text(value))])).unwrap()
}

fn rendered_text(key: &'static str, value: &str) -> String {
    String::from_utf8(rendered(key, value).body.to_vec()).unwrap()
}

fn pairs(form: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(form).into_owned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back_from_xml_text_and_attributes(value in any_text()) {
        let carried = xml_text(&value);
        for key in ["xml", "soap11", "soap12"] {
            let (content, attribute) = read_xml(&rendered_text(key, &value), "v");
            prop_assert_eq!(&content, &carried, "text in {}", key);
            prop_assert_eq!(&attribute, &carried, "attribute in {}", key);
        }
    }

    #[test]
    fn any_text_comes_back_from_json(value in any_text()) {
        let json: serde_json::Value = serde_json::from_str(&rendered_text("json", &value)).unwrap();
        prop_assert_eq!(json["s"].as_str().unwrap(), format!("-{value}-"));
        prop_assert_eq!(json["j"].as_str().unwrap_or_default(), value);
    }

    #[test]
    fn any_text_comes_back_from_a_form_and_from_a_query(value in any_text()) {
        let expected = vec![("a&b".to_owned(), value.clone()), ("z".to_owned(), "1".to_owned())];
        prop_assert_eq!(pairs(&rendered("post", &value).body), expected.clone());
        let request = rendered("get", &value);
        let url = url::Url::parse(&request.url).unwrap();
        let mut with_own = vec![("u".to_owned(), value.clone())];
        with_own.extend(expected);
        prop_assert_eq!(pairs(url.query().unwrap().as_bytes()), with_own);
        prop_assert!(request.body.is_empty());
        if !matches!(value.as_str(), "" | "." | "..") {
            let segment = percent_encoding::percent_decode_str(url.path().strip_prefix('/').unwrap());
            prop_assert_eq!(segment.decode_utf8().unwrap(), value);
        }
    }

    #[test]
    fn any_text_comes_back_from_a_header_without_its_controls(value in any_text()) {
        let request = rendered("post", &value);
        let sent = header(&request, "X-Value").unwrap();
        let on_the_wire = http::HeaderValue::try_from(sent).unwrap();
        let carried: String = value.chars().filter(|c| !c.is_control()).collect();
        prop_assert_eq!(std::str::from_utf8(on_the_wire.as_bytes()).unwrap(), format!("[{carried}]"));
    }

    #[test]
    fn any_text_comes_back_through_two_formats_nested(value in any_text()) {
        let carried = xml_text(&value);
        let (inner, attribute) = read_xml(&rendered_text("nested xml", &value), "w");
        prop_assert_eq!(attribute, carried.clone());
        prop_assert_eq!(read_xml(&inner, "v"), (carried.clone(), carried.clone()));

        let outer: serde_json::Value = serde_json::from_str(&rendered_text("nested json", &value)).unwrap();
        let middle: serde_json::Value = serde_json::from_str(outer["j"].as_str().unwrap()).unwrap();
        prop_assert_eq!(read_xml(middle["x"].as_str().unwrap(), "v"), (carried.clone(), carried));

        let (form, _) = read_xml(&rendered_text("nested deep", &value), "v");
        let form = pairs(form.as_bytes());
        prop_assert_eq!(&form[1], &("k".to_owned(), "1".to_owned()));
        prop_assert_eq!(serde_json::from_str::<Vec<String>>(&form[0].1).unwrap(), vec![value]);
    }

    #[test]
    fn helpers_escape_exactly_once_and_a_sensitive_value_never_reaches_what_is_stored(value in "[a-z<&\"' ]{6,30}") {
        let template = "<v a=\"{{concat lead.value '&'}}\">{{upper (trim lead.value)}}</v>";
        let renderer = with_template("xml", template, "born = { type = \"text\", sensitive = true }").unwrap();
        let document = body("xml", template, "", &fields([("value", text(&value))]));
        prop_assert_eq!(read_xml(&document, "v"), (value.trim().to_uppercase(), format!("{value}&")));
        prop_assert!(render(&renderer, &fields([("value", text(&value))])).unwrap().masked.is_none());

        let secret = format!("{value}#7");
        let masking = with_template(
            "json",
            "{\"a\": \"{{lead.born}}\", \"b\": \"{{upper (trim lead.born)}}\", \"c\": \"{{date lead.born '%d'}}\", \
             \"d\": {{json lead.born}}, \"e\": \"{{#nested 'xml'}}<x>{{lead.born}}</x>{{/nested}}\", \
             \"f\": \"{{base64 lead.born}}\", \"g\": {{json lead}}, \"h\": \"{{number lead.born}}\", \"i\": \"{{hash lead.born}}\"}",
            "born = { type = \"text\", sensitive = true }",
        ).unwrap();
        // As text it is no date: the real request fails, naming the variable and not the value.
        let fault = render(&masking, &fields([("born", text(&secret))])).unwrap_err();
        prop_assert_eq!(fault.variable.as_deref(), Some("lead.born"));
        prop_assert!(!fault.to_string().contains(&secret));
    }
}

// ---- Variables ----

#[test]
fn a_declared_field_that_was_not_given_is_empty_and_false() {
    let template = "<a x=\"{{lead.value}}\">{{#if lead.value}}yes{{else}}no{{/if}}{{upper lead.value}}{{default lead.value \"-\"}}</a>";
    assert_eq!(body("xml", template, "", &fields([])), "<a x=\"\">no-</a>");
}

#[test]
fn a_field_and_a_field_below_its_name_are_two_fields() {
    let declared =
        "address = { type = \"text\" }\n\"address.city\" = { type = \"text\" }\n\"a.b.c\" = { type = \"integer\" }";
    let lead =
        fields([("address", text("1 High St")), ("address.city", text("Bath")), ("a.b.c", FieldValue::Integer(7))]);
    let template = "{{#with lead}}<a>{{address}}|{{address.city}}|{{a/b/c}}|{{@root.lead.address.city}}</a>{{/with}}";
    assert_eq!(body("xml", template, declared, &lead), "<a>1 High St|Bath|7|Bath</a>");
}

#[test]
fn each_goes_over_the_lead_over_groups_and_over_lists() {
    let lead = fields([("value", text("<v>")), ("kept", text("k"))]);
    let template = "<l>{{#each lead}}<f n=\"{{@key}}\" i=\"{{@index}}\">{{this}}{{#unless @last}};{{/unless}}</f>{{/each}}\
                    {{#each [\"x\", \"y\"] as |item at|}}{{item}}{{at}}{{../lead.value}}{{/each}}\
                    {{#each delivery as |v k|}}{{k}}={{v}}{{/each}}</l>";
    assert_eq!(
        body("xml", template, "", &lead),
        format!(
            "<l><f n=\"kept\" i=\"0\">k;</f><f n=\"value\" i=\"1\">&lt;v&gt;</f>x0&lt;v&gt;y1&lt;v&gt;id={DELIVERY}</l>"
        )
    );
}

#[test]
fn metadata_parties_and_times_can_be_named() {
    let renderer = with_template(
        "json",
        "[\"{{meta.external_id}}\",\"{{meta.sub1}}\",\"{{meta.received_at}}\",\"{{source.id}}\",\"{{source.name}}\",\
         \"{{source.payout}}\",\"{{campaign.id}}\",\"{{partner.name}}\",\"{{contract.id}}\",\"{{contract.price}}\",\
         \"{{delivery.id}}\",{{attempt.number}},\"{{now}}\"]",
        "",
    )
    .unwrap();
    let meta = Meta { external_id: Some("A-17".into()), ..Meta::default() };
    let request = render(&renderer, &lead(Fields::new(), meta)).unwrap();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&request.body).unwrap(),
        serde_json::json!([
            "A-17",
            "",
            "2026-11-21T09:30:00.123456Z",
            "acme",
            "Acme \"Media\"",
            "12.50",
            "c",
            "Buyer & Co",
            "k",
            "",
            DELIVERY,
            1,
            "2026-11-21T09:31:00Z"
        ])
    );
    assert!(request.masked.is_none());
    assert_eq!(request.secrets, Vec::<String>::new());
}

// ---- Helpers ----

#[test]
fn text_helpers_do_what_their_table_says() {
    assert_eq!(says("{{upper lead.value}}", "straße"), "STRASSE");
    assert_eq!(says("{{lower lead.value}}", "ÄB"), "äb");
    assert_eq!(says("{{title lead.value}}", "mary-ann O'BRIEN don't"), "Mary-Ann O'Brien Don't");
    assert_eq!(says("[{{trim lead.value}}]", " \t a b \n"), "[a b]");
    assert_eq!(says("{{slice lead.value 1 3}}", "a😀ßd"), "😀ß");
    assert_eq!(says("{{slice lead.value -2}}", "a😀ßd"), "ßd");
    assert_eq!(says("{{slice lead.value 3 1}}|{{slice lead.value 9}}", "abcd"), "|");
    assert_eq!(says("{{replace lead.value ' ' ''}}", "a b c"), "abc");
    assert_eq!(says("{{concat lead.value '-' 7}}", "a"), "a-7");
    assert_eq!(says("{{concat lead.value '' 'z' separator=', '}}", "a"), "a, z");
    assert_eq!(says("{{len lead.value}}", "a😀"), "2");
    assert_eq!(says("{{default '' lead.value 'x'}}", "v"), "v");
    assert_eq!(says("{{base64 lead.value}}|{{base64 lead.value url=true}}", "~~~?"), "fn5+Pw==|fn5-Pw");
}

#[test]
fn dates_take_a_format_and_a_zone() {
    assert_eq!(says("{{date lead.value}}", "1985-06-15"), "1985-06-15");
    assert_eq!(says("{{date lead.value '%d.%m.%y %H:%M'}}", "1985-06-15"), "15.06.85 00:00");
    // A timestamp is shown in the partner's zone (America/Chicago) unless another is named.
    assert_eq!(says("{{date lead.value '%F %T'}}", "2026-11-21T02:30:00Z"), "2026-11-20 20:30:00");
    assert_eq!(
        says("{{date lead.value '%F %T %:z' timezone='Europe/Berlin'}}", "2026-07-01T02:30:00Z"),
        "2026-07-01 04:30:00 +02:00"
    );
    assert_eq!(says("{{now '%d/%m/%Y %H:%M'}}|{{date now '%s'}}", ""), "21/11/2026 03:31|1795253460");
    assert_eq!(says("{{now timezone='Europe/London'}}", ""), "2026-11-21T09:31:00+00:00");
    assert_eq!(says("{{date lead.value '%d'}}", ""), "");
}

#[test]
fn phones_and_numbers_are_written_as_asked() {
    let phone = "+442079460018";
    assert_eq!(says("{{phone lead.value}}", phone), phone);
    assert_eq!(says("{{phone lead.value 'national'}}", phone), "020 7946 0018");
    assert_eq!(says("{{phone lead.value 'international'}}", phone), "+44 20 7946 0018");
    assert_eq!(says("{{phone lead.value format='digits'}}", phone), "442079460018");
    assert_eq!(says("{{phone lead.value region='GB'}}", "020 7946 0018"), phone);
    assert_eq!(says("{{number lead.value}}", "85.50"), "85.50");
    assert_eq!(says("{{number lead.value decimals=1}}", "0.25"), "0.3");
    assert_eq!(says("{{number lead.value 2 decimal=',' group='.'}}", "-1234567.005"), "-1.234.567,01");
    assert_eq!(says("{{number lead.value 2}}", "1e3"), "1000.00");
}

#[test]
fn digests_match_published_vectors() {
    assert_eq!(says("{{hash lead.value 'md5'}}", "abc"), "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(says("{{hash 'sha1' lead.value}}", "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(says("{{hash lead.value}}", "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(says("{{hash lead.value 'sha512'}}", "abc").starts_with("ddaf35a193617abacc417349ae204131"));
    assert_eq!(says("{{hash lead.value}}", ""), "");
    // RFC 2202 and RFC 4231, test case 2.
    let data = "what do ya want for nothing?";
    assert_eq!(says("{{hmac lead.value 'sha1' key='Jefe'}}", data), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    assert_eq!(
        says("{{hmac lead.value key='file:fixtures/render-key.txt'}}", data),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    assert_eq!(says("{{hmac lead.value 'sha1' 'Jefe' encoding='base64'}}", data), "7/zfauXrL6LSdBbV8YTfnCWafHk=");
}

#[test]
fn an_id_is_the_same_for_the_same_attempt_and_differs_within_it() {
    let renderer = with_template("json", "[\"{{uuid}}\", \"{{uuid}}\"]", "").unwrap();
    let one = render(&renderer, &fields([])).unwrap();
    let again = render(&renderer, &fields([])).unwrap();
    assert_eq!(one.body, again.body);
    let ids: Vec<uuid::Uuid> = serde_json::from_slice(&one.body).unwrap();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0].get_version_num(), 5);
}

#[test]
fn conditions_compare_numbers_as_numbers_and_text_as_text() {
    let yes = |condition: &str, value: &str| {
        says(&format!("{{{{#if ({condition})}}}}y{{{{else}}}}n{{{{/if}}}}"), value) == "y"
    };
    assert!(yes("eq lead.value 'a'", "a"));
    assert!(yes("ne lead.value 'a'", "b"));
    assert!(yes("eq lead.value 85.5", "85.50"));
    assert!(!yes("eq lead.value '85.5'", "85.50"));
    assert!(yes("eq lead.value ''", ""));
    assert!(yes("gt lead.value '99.5'", "100"));
    assert!(yes("lt lead.value '2026-12-01'", "2026-11-30"));
    assert!(yes("gte lead.value 7", "7"));
    assert!(!yes("lt lead.value 7", ""));
    assert!(yes("and lead.value (not (eq lead.value 'x'))", "y"));
    assert!(yes("or (eq lead.value 'x') (eq lead.value 'y')", "y"));
    assert_eq!(says("{{#if (eq lead.value 'x')}}1{{else if (eq lead.value 'y')}}2{{else}}3{{/if}}", "y"), "2");
}

#[test]
fn a_map_takes_the_rest_by_its_star() {
    let endpoint = "[maps.title]\nmr = \"1\"\n\"*\" = \"9\"\n[maps.strict]\na = \"b\"\n[endpoint]\nmethod = \"post\"\n\
                    url = \"https://b.example/\"\n[endpoint.form]\none = \"{{map lead.value 'title'}}\"\n\
                    two = \"{{map 'strict' lead.value}}\"";
    let renderer = Renderer::compile(&contract(endpoint), &campaign(""), &|_| None).unwrap();
    let form = |value: &str| render(&renderer, &fields([("value", text(value))]));
    assert_eq!(form("a").unwrap().body, "one=9&two=b");
    assert_eq!(form("").unwrap().body, "one=9&two=");
    let fault = form("mr").unwrap_err();
    assert_eq!(
        fault.to_string(),
        "endpoint.form.two: map lead.value: the table `strict` has no entry for this value; add one, or `\"*\"` for all the rest"
    );
}

#[test]
fn json_is_typed_and_null_where_nothing_was_given() {
    let declared = "age = { type = \"integer\" }\nbill = { type = \"decimal\" }\nowner = { type = \"boolean\" }";
    let template = "[{{lead.age}},{{json lead.age}},{{lead.bill}},{{json lead.bill}},{{lead.owner}},{{json lead.value}},\
                    {{number lead.bill decimals=1}},{{json (default lead.value 5)}},{{json lead.value type=\"number\"}},\
                    {{#if lead.owner}}true{{else}}false{{/if}},{{eq lead.age 41}}]";
    let given = fields([
        ("age", FieldValue::Integer(41)),
        ("bill", text("85.50")),
        ("owner", FieldValue::Boolean(false)),
        ("value", text("012")),
    ]);
    let expected = "[41,41,85.50,85.50,false,\"012\",85.5,\"012\",12,false,true]";
    assert_eq!(body("json", template, declared, &given), expected);
    let expected = "[null,null,null,null,null,null,null,5,null,false,false]";
    assert_eq!(body("json", template, declared, &fields([])), expected);
}

// ---- What loading refuses ----

#[test]
fn raw_output_is_refused_wherever_it_stands() {
    for template in [
        "<a>\n{{{lead.value}}}</a>",
        "<a>\n{{&lead.value}}</a>",
        "<a>{{#if lead.value}}{{else}}\n{{{lead.value}}}{{/if}}</a>",
        "<a>{{#nested \"json\"}}\"\n{{{upper lead.value}}}\"{{/nested}}</a>",
    ] {
        let faults = faults("xml", template);
        assert_eq!(faults.len(), 1, "{template}: {faults:?}");
        assert!(faults[0].starts_with("t.hbs line 2: raw output"), "{template}: {faults:?}");
    }
}

#[test]
fn raw_output_in_a_partial_is_refused_with_the_partial_named() {
    let endpoint = "[endpoint]\nmethod = \"xml\"\nurl = \"https://b.example/\"\ntemplate = \"t.hbs\"";
    let templates = |path: &str| match path {
        "t.hbs" => Some("<a>{{> shared/p.hbs}}</a>".to_owned()),
        "shared/p.hbs" => Some("<b/>\n{{{lead.value}}}{{> t.hbs}}{{> none.hbs}}".to_owned()),
        _ => None,
    };
    let faults = Renderer::compile(&contract(endpoint), &campaign(""), &templates).unwrap_err();
    let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("shared/p.hbs line 2: raw output"));
    assert!(said[1].contains("t.hbs includes itself"));
    assert!(said[2].contains("there is no template none.hbs"));
}

#[test]
fn an_unknown_name_is_refused_with_its_line_and_the_nearest_known_one() {
    let cases = [
        ("<a>\n{{lead.valu}}</a>", "t.hbs line 2: the campaign c declares no field `valu`; is it `value`?"),
        ("<a>{{leed.value}}</a>", "t.hbs line 1: `leed.value` is not a variable; is it `lead`?"),
        ("<a>{{source.payut}}</a>", "is it `payout`?"),
        ("<a>{{uper lead.value}}</a>", "`uper` is not a helper; is it `upper`?"),
        ("<a>{{upper (trimm lead.value)}}</a>", "`trimm` is not a helper; is it `trim`?"),
        ("<a>{{#iff lead.value}}{{/iff}}</a>", "`iff` is not a block; is it `if`?"),
        ("<a>{{#if lead.valu}}{{/if}}</a>", "declares no field `valu`"),
        ("<a>{{#each lead}}{{value}}{{/each}}</a>", "asks for a part of a single value"),
        ("<a>{{#with lead}}{{source.id}}{{/with}}</a>", "declares no field `source.id`"),
        ("<a>{{../lead.value}}</a>", "leads out of the template"),
        ("<a>{{@index}}</a>", "`@index` means nothing here"),
        ("<a>{{lead}}</a>", "`lead` is not a single value"),
        ("<a>{{log lead.value}}</a>", "`log` is not a helper"),
        ("<a>{{upper}}</a>", "`upper` takes 1 argument, not 0"),
        ("<a>{{date lead.value foramt=\"%d\"}}</a>", "`date` has no option `foramt`; is it `format`?"),
        ("<a>{{date lead.value \"%!\"}}</a>", "is not a strftime format"),
        ("<a>{{date lead.value timezone=\"Mars/X\"}}</a>", "`Mars/X` is not a time zone"),
        ("<a>{{phone lead.value \"nice\"}}</a>", "`nice` is no format that we know: use one of e164"),
        ("<a>{{map lead.value \"none\"}}</a>", "there is no table `none`"),
        ("<a>{{hash lead.value \"md4\"}}</a>", "`md4` is no algorithm that we know"),
        ("<a>{{hmac lead.value key=\"env:SURELY_NOT_SET_7\"}}</a>", "SURELY_NOT_SET_7 is not set"),
        ("<a>{{#if lead.value}}</a>", "t.hbs line 1: "),
        ("<a>{{#*inline \"x\"}}{{/inline}}</a>", "not supported"),
    ];
    for (template, expected) in cases {
        let faults = faults("xml", template);
        assert_eq!(faults.len(), 1, "{template}: {faults:?}");
        assert!(faults[0].contains(expected), "{template}: {faults:?}");
    }
}

#[test]
fn a_value_where_no_escaping_helps_is_refused() {
    for (method, template, expected) in [
        ("xml", "<{{lead.value}}/>", "inside a tag"),
        ("xml", "<a {{lead.value}}=\"1\"/>", "inside a tag"),
        ("xml", "<a b={{lead.value}}/>", "inside a tag"),
        ("xml", "<a><!-- {{lead.value}} --></a>", "in a comment"),
        ("xml", "<a><![CDATA[{{lead.value}}]]></a>", "in a CDATA section"),
        ("xml", "<?p {{lead.value}}?><a/>", "processing instruction"),
        ("json", "{\"a\": {{lead.value}}}", "outside of quotes"),
        ("json", "{\"a\": \"\\{{lead.value}}\"}", ""),
        ("json", "{\"a\": \"{{json lead.value}}\"}", "brings its own quotes"),
        ("json", "[{{#if lead.value}}\"{{lead.value}}{{else}}1{{/if}}]", "end in different places"),
        ("json", "[\"{{lead.value}}]", "ends inside of quotes"),
        ("xml", "<a>{{#nested \"json\"}}{{lead.value}}{{/nested}}</a>", "outside of quotes"),
        ("xml", "<a>{{#nested \"yaml\"}}x{{/nested}}</a>", "takes one of"),
    ] {
        let faults = faults(method, template);
        if expected.is_empty() {
            // `\{{` is Handlebars' own escape: literal braces.
            assert_eq!(faults, Vec::<String>::new(), "{template}");
        } else {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{template}: {faults:?}");
        }
    }
}

#[test]
fn every_fault_of_an_endpoint_is_named_at_once() {
    let endpoint = "[endpoint]\nmethod = \"get\"\nurl = \"ftp://b.example\"\naction = \"x y\"\ntemplate = \"t\"\n\
                    headers = { \"Bad Name\" = \"1\", Content-Length = \"3\", X-Key = \"env:SURELY_NOT_SET_8\", Authorization = \"x\" }\n\
                    auth = { bearer = { token = \"{{nope}}\" } }\n[endpoint.form]\na = \"{{lead.nope}}\"";
    let faults = Renderer::compile(&contract(endpoint), &campaign(""), &|_| None).unwrap_err();
    let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
    for expected in [
        "endpoint.template: `get` has no template",
        "endpoint.action: `get` has no action",
        "endpoint.url: not an http or https URL",
        "endpoint.form.a: the campaign c declares no field `nope`",
        "endpoint.headers.Bad Name: `Bad Name` is not a header name",
        "endpoint.headers.Content-Length: Content-Length belongs to the connection",
        "endpoint.headers.X-Key: the environment variable SURELY_NOT_SET_8 is not set",
        "endpoint.auth.bearer.token: `nope` is not a variable",
        "endpoint.auth: endpoint.headers sets Authorization too",
    ] {
        assert!(said.iter().any(|fault| fault.starts_with(expected)), "{expected}: {said:#?}");
    }
}

// ---- What rendering refuses ----

#[test]
fn what_is_not_well_formed_fails_with_the_line_of_the_template() {
    for (method, template, expected) in [
        ("xml", "<a>\n  <b>{{lead.value}}</c>\n</a>", "t.hbs line 2: the result is not XML"),
        ("xml", "<a>\n\n<b x=\"1\"\n x=\"2\">{{lead.value}}</b></a>", "t.hbs line 3: "),
        (
            "xml",
            "<a>\n{{lead.value}}\n<p:b/>\n</a>",
            "t.hbs line 3: the result is not XML: the prefix p: is not declared",
        ),
        ("xml", "<a/>\n<b/>", "more than one root"),
        ("xml", "<a>{{lead.value}}\n&nbsp;</a>", "t.hbs line 2: "),
        ("xml", "<a>", "not closed"),
        ("xml", "{{lead.value}}", "text outside of the root element"),
        ("soap11", "<a>{{lead.value}}</a>\n</soap:Body><soap:Body>", "closes the envelope"),
        ("soap12", "\n\n<a>{{lead.value}}</b>", "t.hbs line 3: "),
        ("soap12", "<?xml version=\"1.0\"?><a/>", "declaration"),
        (
            "json",
            "{\"a\": \"{{lead.value}}\",\n\"b\": 1,\n,}",
            "t.hbs line 3: the result is not JSON: key must be a string",
        ),
        ("json", "[1\n{{#if lead.value}}\n2\n{{/if}}\n]", "t.hbs line 2: "),
        ("xml", "<a>{{#nested \"xml\"}}<b>{{/nested}}</a>", "t.hbs line 1: nested: the result is not XML"),
    ] {
        let renderer = with_template(method, template, "").unwrap_or_else(|f| panic!("{template}: {f:?}"));
        let fault = render(&renderer, &fields([("value", text("some\nvalue"))])).expect_err(template).to_string();
        assert!(fault.contains(expected), "{template}: {fault}");
        assert!(!fault.contains("value\n"), "{fault}");
    }
}

#[test]
fn a_value_that_a_helper_cannot_read_is_named_by_its_variable_and_never_shown() {
    for (template, variable, expected) in [
        ("<a>\n{{date lead.value}}</a>", "lead.value", "t.hbs line 2: date lead.value: not a date"),
        ("<a>{{number lead.value}}</a>", "lead.value", "number lead.value: not a number"),
        ("<a>{{phone lead.value}}</a>", "lead.value", "phone lead.value: not a phone number"),
        (
            "<a>{{#if lead.value}}\n{{#if lead.value}}\n{{date lead.value}}{{/if}}{{/if}}</a>",
            "lead.value",
            "t.hbs line 3: ",
        ),
    ] {
        let renderer = with_template("xml", template, "").unwrap();
        let fault = render(&renderer, &fields([("value", text("Zanzibar"))])).unwrap_err();
        assert!(fault.to_string().starts_with(expected) || fault.to_string().contains(expected), "{fault}");
        assert_eq!(fault.variable.as_deref(), Some(variable));
        assert!(!format!("{fault:?}").contains("Zanzibar"));
    }
}

#[test]
fn a_url_that_is_none_for_this_lead_fails() {
    let endpoint = "[endpoint]\nmethod = \"get\"\nurl = \"https://{{lead.value}}/\"";
    let renderer = Renderer::compile(&contract(endpoint), &campaign(""), &|_| None).unwrap();
    let fault = render(&renderer, &fields([("value", text("a b"))])).unwrap_err();
    assert_eq!(fault.to_string(), "endpoint.url: not an http or https URL");
    assert_eq!(render(&renderer, &fields([("value", text("b.example"))])).unwrap().url, "https://b.example/");
}

// ---- Headers, credentials, masks ----

#[test]
fn configured_headers_take_the_place_of_the_gateways_own_whatever_their_case() {
    let endpoint = "[endpoint]\nmethod = \"json\"\nurl = \"https://b.example/\"\ntemplate = \"t.hbs\"\n\
                    headers = { content-type = \"application/vnd.x+json\", idempotency-key = \"mine-{{attempt.number}}\", X-A = \" {{lead.value}} \" }";
    let renderer = Renderer::compile(&contract(endpoint), &campaign(""), &|_| Some("{}".to_owned())).unwrap();
    let request = render(&renderer, &fields([("value", text("a\r\nX-Evil: 1"))])).unwrap();
    let sent: Vec<(&str, &str)> = request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let agent = concat!("lead-gateway/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        sent,
        [
            ("content-type", "application/vnd.x+json"),
            ("User-Agent", agent),
            ("idempotency-key", "mine-1"),
            ("X-A", "aX-Evil: 1"),
        ]
    );
    assert!(request.masked.is_none(), "the idempotency key is no secret");
}

#[test]
fn secrets_are_masked_where_they_stand_and_listed_for_replies() {
    let endpoint = "[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/?q=1\"\n\
                    headers = { X-Session-Token = \"literal-token\", Cookie = \"sid={{meta.click_id}}\", X-Plain = \"p\" }\n\
                    auth = { query = { name = \"api key\", value = \"qsecret/1\" } }\n\
                    [endpoint.form]\nkey = \"file:fixtures/render-key.txt\"\na = \"{{lead.value}}\"";
    let renderer = Renderer::compile(&contract(endpoint), &campaign(""), &|_| None).unwrap();
    let meta = Meta { click_id: Some("clk-123456".into()), ..Meta::default() };
    let request = render(&renderer, &lead([("value".to_owned(), text("v"))].into(), meta)).unwrap();
    assert_eq!(request.url, "https://b.example/?q=1&api+key=qsecret%2F1");
    assert_eq!(request.body, "a=v&key=Jefe");
    let masked = request.masked.as_ref().unwrap();
    assert_eq!(masked.url, "https://b.example/?q=1&api+key=***");
    assert_eq!(masked.body, "a=v&key=***");
    let shown: BTreeMap<_, _> = masked.headers.iter().cloned().collect();
    assert_eq!(shown["X-Session-Token"], "***");
    assert_eq!(shown["Cookie"], "***");
    assert_eq!(shown["X-Plain"], "p");
    assert_eq!(shown["Idempotency-Key"], DELIVERY);
    for secret in ["Jefe", "literal-token", "qsecret/1", "sid=clk-123456"] {
        assert!(request.secrets.iter().any(|known| known == secret), "{secret}: {:?}", request.secrets);
    }
    assert!(!format!("{renderer:?} {request:?}").contains("literal-token"));
}

const KEYED: &str = "[secrets]\npassword = \"pa55-w\\\"<rd\"\nsigning = \"file:fixtures/render-key.txt\"\nunused = \"never-mentioned\"\n";

#[test]
fn a_secret_of_the_contract_can_stand_anywhere_and_is_stored_nowhere() {
    let endpoint = "[endpoint]\nmethod = \"soap12\"\nurl = \"https://b.example/?p={{secret.password}}\"\n\
                    template = \"body\"\nheader_template = \"header\"\n\
                    headers = { X-Auth = \"v1 {{base64 (concat 'user:' secret.password)}}\", X-Plain = \"{{lead.value}}\" }";
    let renderer = Renderer::compile(&contract(&format!("{KEYED}{endpoint}")), &campaign(""), &|path| {
        Some(match path {
            "body" => "<a k=\"{{secret.password}}\">{{#nested 'json'}}{\"p\": \"{{secret.password}}\", \"h\": \"{{hash secret.password}}\"}{{/nested}}</a>".to_owned(),
            _ => "<h>{{upper (concat secret.password lead.value)}}</h>".to_owned(),
        })
    });
    let renderer = renderer.unwrap();
    assert_eq!(renderer.check(&campaign("")), []);
    let request = render(&renderer, &fields([("value", text("v"))])).unwrap();
    let sent = String::from_utf8(request.body.to_vec()).unwrap();
    assert!(sent.contains("<h>PA55-W&quot;&lt;RDV</h>") && sent.contains("k=\"pa55-w&quot;&lt;rd\""), "{sent}");
    assert_eq!(request.url, "https://b.example/?p=pa55-w%22%3Crd");
    assert_eq!(header(&request, "X-Auth"), Some("v1 dXNlcjpwYTU1LXciPHJk"));
    let masked = request.masked.clone().unwrap();
    let stored = String::from_utf8(masked.body.to_vec()).unwrap();
    assert!(
        stored.contains("<h>***</h>")
            && stored.contains("<a k=\"***\">{&quot;p&quot;: &quot;***&quot;, &quot;h&quot;: &quot;***&quot;}</a>"),
        "{stored}"
    );
    assert_eq!(masked.url, "https://b.example/?p=***");
    assert!(masked.headers.contains(&("X-Auth".to_owned(), "v1 ***".to_owned())), "{:?}", masked.headers);
    assert!(masked.headers.contains(&("X-Plain".to_owned(), "v".to_owned())));
    // What was made of it may be echoed too.
    let digest = says("{{hash lead.value}}", "pa55-w\"<rd");
    for secret in ["pa55-w\"<rd", "Jefe", "PA55-W\"<RDV", "dXNlcjpwYTU1LXciPHJk", digest.as_str()] {
        assert!(request.secrets.iter().any(|known| known == secret), "{secret}: {:?}", request.secrets);
    }
    assert!(!format!("{renderer:?} {request:?}").contains("pa55"));
}

#[test]
fn a_secret_that_the_contract_does_not_have_is_an_error_with_the_nearest_that_it_has() {
    let endpoint = "[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/\"\n[endpoint.form]\n";
    let fault = |secrets: &str, template: &str| {
        let contract = contract(&format!("{secrets}{endpoint}a = \"{template}\""));
        Renderer::compile(&contract, &campaign(""), &|_| None).map(drop).unwrap_err()[0].to_string()
    };
    let near = fault(KEYED, "{{secret.pasword}}");
    assert!(near.starts_with("endpoint.form.a: `secret.pasword` is no secret of this contract"), "{near}");
    assert!(near.ends_with("is it `password`?"), "{near}");
    assert!(fault("", "{{secret.x}}").ends_with("there are none"));
    assert!(fault(KEYED, "{{json secret}}").contains("there are password, signing, unused"));
    assert!(fault(KEYED, "{{#each secret}}{{this}}{{/each}}").contains("there are password, signing, unused"));
    let missing = fault("[secrets]\na = \"env:SURELY_NOT_SET_9\"\n", "x");
    assert_eq!(missing, "secrets.a: the environment variable SURELY_NOT_SET_9 is not set; set it, or write file:PATH");
    assert!(fault("[secrets]\n\"a b\" = \"x\"\n", "x").starts_with("secrets.a b: a secret's name"));
}

// ---- Nesting ----

/// One level of nesting: its format, and how it is written into the one around it.
type Level = (&'static str, &'static str);

/// A text of this format that holds `inner`.
fn wrapped(format: &str, inner: &str) -> String {
    match format {
        "xml" | "soap12" => format!("<v a=\"x\">{inner}</v>"),
        "html" => format!("<p a='y'>{inner}</p>"),
        "json" => format!("{{\"k\": 1, \"v\": \"{inner}\"}}"),
        "form" => format!("k=1&v={inner}"),
        _ => format!("t: {inner}"),
    }
}

/// What a text of this format holds, by a parser that is not ours.
fn unwrapped(format: &str, text: &str) -> String {
    match format {
        "xml" | "soap12" => read_xml(text, "v").0,
        "html" => read_xml(text, "p").0,
        "json" => serde_json::from_str::<serde_json::Value>(text).unwrap()["v"].as_str().unwrap().to_owned(),
        "form" => pairs(text.as_bytes()).into_iter().find(|(name, _)| name == "v").unwrap().1,
        _ => text.strip_prefix("t: ").unwrap().to_owned(),
    }
}

fn decoded(encode: &str, text: String) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let bytes = match encode {
        "base64" => STANDARD.decode(text).unwrap(),
        "base64url" => URL_SAFE_NO_PAD.decode(text).unwrap(),
        "hex" => hex::decode(text).unwrap(),
        _ => return text,
    };
    String::from_utf8(bytes).unwrap()
}

/// Renders `value` through all the levels, outermost first, and reads it again.
fn through(method: &str, levels: &[Level], value: &str) -> String {
    let mut template = "{{lead.value}}".to_owned();
    for (format, encode) in levels.iter().rev() {
        let option = if encode.is_empty() { String::new() } else { format!(" encode=\"{encode}\"") };
        // White space around a document is left out; around a text it belongs to it.
        let space = if *format == "text" { "" } else { "\n  " };
        let inner = wrapped(format, &template);
        template = format!("{{{{#nested \"{format}\"{option}}}}}{space}{inner}{space}{{{{/nested}}}}");
    }
    let request = if method == "post" {
        let form = format!(
            "[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/\"\n[endpoint.form]\nv = '''{template}'''"
        );
        Renderer::compile(&contract(&form), &campaign(""), &|_| None)
    } else {
        with_template(method, &wrapped(method, &template), "")
    };
    let request = render(&request.unwrap(), &fields([("value", text(value))])).unwrap();
    let outer = if method == "post" { "form" } else { method };
    let mut found = unwrapped(outer, std::str::from_utf8(&request.body).unwrap());
    for (format, encode) in levels {
        found = unwrapped(format, &decoded(encode, found));
    }
    found
}

const FORMATS: [&str; 5] = ["xml", "json", "form", "html", "text"];

fn any_levels() -> impl Strategy<Value = (&'static str, Vec<Level>)> {
    let encodes = prop::sample::select(vec!["", "", "base64", "base64url", "hex", "cdata"]);
    let level = (prop::sample::select(FORMATS.to_vec()), encodes);
    let outer = prop::sample::select(vec!["xml", "json", "soap12", "post"]);
    (outer, prop::collection::vec(level, 3)).prop_map(|(outer, mut levels)| {
        let mut around = outer;
        for (format, encode) in &mut levels {
            if *encode == "cdata" && !matches!(around, "xml" | "soap12") {
                *encode = "";
            }
            around = format;
        }
        (outer, levels)
    })
}

#[test]
fn every_format_nests_in_every_other_three_deep() {
    let value = "a \"b\" 'c' <d> &amp; ]]> %41 \\u0041 \r\n é 😀 +={} ";
    for outer in ["xml", "json", "post"] {
        for one in FORMATS {
            for two in FORMATS {
                for three in FORMATS {
                    let levels = [(one, ""), (two, ""), (three, "")];
                    assert_eq!(through(outer, &levels, value), value, "{outer} {levels:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back_through_any_nesting_of_depth_three((outer, levels) in any_levels(), value in any_text()) {
        // What XML cannot carry is lost wherever XML is among the formats; that is another test's.
        let value = xml_text(&value);
        prop_assert_eq!(through(outer, &levels, &value), value);
    }
}

#[test]
fn a_nested_document_may_have_its_own_declaration_and_be_encoded() {
    let lead = fields([("value", text("]]> & \r"))]);
    let document = "<?xml version=\"1.0\" encoding=\"utf-16\"?><v>{{lead.value}}</v>";
    let cdata = format!("<a>{{{{#nested \"xml\" encode=\"cdata\"}}}}\n{document}\n{{{{/nested}}}}</a>");
    assert_eq!(
        body("xml", &cdata, "", &lead),
        "<a><![CDATA[<?xml version=\"1.0\" encoding=\"utf-16\"?><v>]]&gt; &amp; &#13;</v>]]></a>"
    );
    let cdata = "<a>{{#nested \"text\" encode=\"cdata\"}}{{lead.value}}{{/nested}}</a>";
    assert_eq!(body("xml", cdata, "", &lead), "<a><![CDATA[]]]]><![CDATA[> & ]]>&#13;<![CDATA[]]></a>");
    let hex = "[\"{{#nested \"json\" encode=\"hex\"}} {\"a\": 1,} {{/nested}}\"]";
    assert_eq!(body("json", hex, "", &lead), format!("[\"{}\"]", hex::encode("{\"a\": 1}")));
    for (method, template) in [
        ("json", "[\"{{#nested \"xml\" encode=\"cdata\"}}<a/>{{/nested}}\"]"),
        ("xml", "<a b=\"{{#nested \"xml\" encode=\"cdata\"}}<a/>{{/nested}}\"/>"),
    ] {
        assert!(faults(method, template)[0].contains("belongs into the text of XML"), "{template}");
    }
    assert!(
        faults("xml", "<a>{{#nested \"xml\" encode=\"rot13\"}}<a/>{{/nested}}</a>")[0]
            .contains("has one option: encode=")
    );
    let hidden = "<a>{{#nested \"xml\" encode=\"base64\"}}<b>{{lead.born}}</b>{{/nested}}</a>";
    let renderer = with_template("xml", hidden, BORN).unwrap();
    let request = render(&renderer, &fields([("born", text("1985-06-15"))])).unwrap();
    assert_eq!(request.masked.unwrap().body, "<a>***</a>");
}

#[test]
fn a_comma_before_a_closing_bracket_of_json_is_left_out() {
    let template = "{\n  {{#if lead.value}}\"v\": \"{{lead.value}}\",\n  {{/if}}\"l\": [{{#each [\"x\", \"y\"]}}\"{{this}},]\", {{/each}}],\n}";
    let template = format!("{template}\n");
    assert_eq!(body("json", &template, "", &fields([])), "{\n  \"l\": [\"x,]\", \"y,]\" ]\n}\n");
    let given = body("json", &template, "", &fields([("value", text(",}\\\",]"))]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&given).unwrap()["v"], ",}\\\",]");
    assert_eq!(body("json", "{ {{#if lead.value}}\"a\": 1,{{/if}} }", "", &fields([])), "{  }");
    // Elsewhere commas are not ours to judge; and two of them are a mistake.
    assert_eq!(body("xml", "<a>[1,]</a>", "", &fields([])), "<a>[1,]</a>");
    let renderer = with_template("json", "{\"a\": [1,],\n\"b\": 2,,\n}", "").unwrap();
    let fault = render(&renderer, &fields([])).unwrap_err().to_string();
    assert!(fault.starts_with("t.hbs line 3: the result is not JSON"), "{fault}");
}

#[test]
fn an_attribute_can_be_left_out() {
    let template = "<a{{#if lead.value}} v=\"{{lead.value}}\"{{/if}}/>";
    assert_eq!(body("xml", template, "", &fields([])), "<a/>");
    assert_eq!(body("xml", template, "", &fields([("value", text("<"))])), "<a v=\"&lt;\"/>");
}

// ---- Charsets ----

fn in_charset(charset: &str, method: &str, more: &str, template: &str) -> Result<Renderer, Vec<TemplateFault>> {
    let form = matches!(method, "post" | "get");
    let source = if form { format!("[endpoint.form]\nv = '''{template}'''") } else { String::new() };
    let file = if form { "" } else { "template = \"t.hbs\"\n" };
    let endpoint = format!(
        "{SIGNED}[endpoint]\nmethod = \"{method}\"\nurl = \"https://b.example/\"\n{file}charset = \"{charset}\"\n{more}\n{source}"
    );
    Renderer::compile(&contract(&endpoint), &campaign(""), &|_| Some(template.to_owned()))
}

fn sent_in(charset: &str, method: &str, template: &str, value: &str) -> Outgoing {
    let renderer = in_charset(charset, method, "", template).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(renderer.check(&campaign("")), [], "{charset} {method} {template}");
    render(&renderer, &fields([("value", text(value))])).unwrap()
}

#[test]
fn xml_in_another_charset_says_so_and_loses_nothing() {
    let value = "é€ Łódź 😀";
    let template = "<v a=\"{{lead.value}}\">ü{{lead.value}}<![CDATA[ł]]></v>";
    for (charset, name, own, references) in [
        ("iso-8859-1", "ISO-8859-1", &b"\xe9&#x20AC; &#x141;\xf3d&#x17A; &#x1F600;"[..], "&#x142;"),
        ("windows-1252", "windows-1252", &b"\xe9\x80 &#x141;\xf3d&#x17A; &#x1F600;"[..], "&#x142;"),
        ("us-ascii", "US-ASCII", &b"&#xE9;&#x20AC; &#x141;&#xF3;d&#x17A; &#x1F600;"[..], "&#x142;"),
        ("utf-8", "UTF-8", value.as_bytes(), "ł"),
    ] {
        for method in ["xml", "soap12"] {
            let request = sent_in(charset, method, template, value);
            let sent_type = header(&request, "Content-Type").unwrap();
            assert!(sent_type.ends_with(&format!("; charset={charset}")), "{sent_type}");
            let body = request.body.to_vec();
            let declared = format!("<?xml version=\"1.0\" encoding=\"{name}\"?>\n");
            assert_eq!(body.starts_with(declared.as_bytes()), charset != "utf-8" || method == "soap12", "{charset}");
            assert!(memchr::memmem::find(&body, own).is_some(), "{charset}: {:?}", String::from_utf8_lossy(&body));
            // A reader that knows the charset reads the same text.
            let encoding = encoding_rs::Encoding::for_label(charset.as_bytes()).unwrap();
            let (decoded, broken) = encoding.decode_without_bom_handling(&body);
            assert!(!broken);
            let (content, attribute) = read_xml(&decoded, "v");
            assert_eq!((content.as_str(), attribute.as_str()), (format!("ü{value}ł").as_str(), value), "{references}");
        }
    }
}

#[test]
fn json_in_another_charset_escapes_what_it_lacks() {
    let request = sent_in("us-ascii", "json", "{\"ü\": \"{{lead.value}}\"}", "é😀");
    assert_eq!(header(&request, "Content-Type"), Some("application/json; charset=us-ascii"));
    assert_eq!(request.body, "{\"\\u00fc\": \"\\u00e9\\ud83d\\ude00\"}");
    let parsed: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(parsed["ü"], "é😀");
    let latin = sent_in("iso-8859-1", "json", "[\"{{lead.value}}\"]", "é€");
    assert_eq!(&latin.body[..], b"[\"\xe9\\u20ac\"]");
}

#[test]
fn forms_in_another_charset_are_percent_encoded_in_it_and_transliterated() {
    for (charset, expected) in [
        ("iso-8859-1", "v=%E9+EUR+L%F3dz+Kiev%3F"),
        ("windows-1252", "v=%E9+%80+L%F3dz+Kiev%3F"),
        ("us-ascii", "v=e+EUR+Lodz+Kiev%3F"),
    ] {
        let request = sent_in(charset, "post", "{{lead.value}}", "é € Łódź Киев\u{e000}");
        assert_eq!(request.body, expected, "{charset}");
        let kind = format!("application/x-www-form-urlencoded; charset={charset}");
        assert_eq!(header(&request, "Content-Type"), Some(kind.as_str()));
        let query = sent_in(charset, "get", "{{lead.value}}", "é € Łódź Киев\u{e000}");
        assert_eq!(query.url, format!("https://b.example/?{expected}"));
    }
    // A document inside of a form keeps what it can say by its own means.
    let nested = "{{#nested \"xml\"}}<v a=\"é\">{{lead.value}}</v>{{/nested}}";
    let request = sent_in("us-ascii", "post", nested, "Łódź");
    let value = pairs(&request.body)[0].1.clone();
    assert_eq!(value, "<v a=\"&#xE9;\">&#x141;&#xF3;d&#x17A;</v>");
}

#[test]
fn digests_are_of_the_bytes_that_are_sent() {
    let more = "[endpoint.headers]\nX-Sum = '{{hash request.body}}|{{base64 lead.value}}|{{hmac request.body key=secret.signing}}'";
    let renderer = in_charset("iso-8859-1", "json", more, "\"{{lead.value}}\"").unwrap();
    let request = render(&renderer, &fields([("value", text("é"))])).unwrap();
    use hmac::{KeyInit as _, Mac as _};
    use sha2::Digest as _;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"Jefe").unwrap();
    mac.update(&request.body);
    let expected = format!(
        "{}|6Q==|{}",
        hex::encode(sha2::Sha256::digest(&request.body)),
        hex::encode(mac.finalize().into_bytes())
    );
    assert_eq!(header(&request, "X-Sum"), Some(expected.as_str()));
}

#[test]
fn a_charset_that_template_or_header_contradict_is_refused() {
    let said = |charset: &str, more: &str, template: &str| match in_charset(charset, "xml", more, template) {
        Ok(_) => String::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    let declared = |name: &str| format!("<?xml version=\"1.0\"{name}?><a/>");
    assert_eq!(
        said("iso-8859-1", "", &declared(" encoding='UTF-8'")),
        "t.hbs line 1: the XML declaration says UTF-8, but ISO-8859-1 is sent: correct it, or set endpoint.charset"
    );
    assert!(said("utf-8", "", &declared(" encoding=\"ISO-8859-1\"")).contains("says ISO-8859-1, but UTF-8 is sent"));
    assert!(said("us-ascii", "", &declared("")).contains("needs encoding=\"US-ASCII\", or leave it out"));
    assert_eq!(said("iso-8859-1", "", &declared(" encoding=\"iso-8859-1\"")), "");
    assert_eq!(said("utf-8", "", &declared("")), "");
    let header = "headers = { Content-Type = \"text/plain; charset=utf-8\" }";
    assert!(said("iso-8859-1", header, "<a/>").contains("endpoint.headers.Content-Type: it says another charset"));
    let renderer = in_charset("iso-8859-1", "xml", "", "<a>\n<b/>\n<!-- ł --></a>").unwrap();
    let fault = renderer.check(&campaign("")).remove(0).to_string();
    assert!(fault.starts_with("t.hbs line 3: a character that ISO-8859-1 lacks stands in a tag, comment"), "{fault}");
}

// ---- Signatures ----

/// HMAC-SHA256 in hex, by the crate itself.
fn signature(key: &[u8], text: &str) -> String {
    use hmac::{KeyInit as _, Mac as _};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

const SIGNED: &str = "[secrets]\nsigning = \"file:fixtures/render-key.txt\"\n";
const BORN: &str = "born = { type = \"date\", sensitive = true }";

fn signed(endpoint: &str, template: &str) -> Result<Renderer, Vec<TemplateFault>> {
    let contract = contract(&format!("{SIGNED}[endpoint]\n{endpoint}"));
    Renderer::compile(&contract, &campaign(BORN), &|_| Some(template.to_owned()))
}

#[test]
fn a_header_can_sign_the_body_the_time_and_the_address() {
    let endpoint = "method = \"json\"\nurl = \"https://b.example/in/ä?v={{lead.value}}\"\ntemplate = \"t\"\n\
        [endpoint.headers]\nX-Time = '{{request.timestamp}}'\n\
        X-Signature = 'sha256={{hmac (concat request.timestamp \".\" request.body) \"sha256\" key=secret.signing}}'\n\
        X-All = '{{upper (hmac (concat request.method \"\\n\" request.path \"\\n\" request.query separator=\"|\") key=\"file:fixtures/render-key.txt\")}}'\n\
        X-Url = '{{request.url}}'\nX-Digest = '{{hash request.body encoding=\"base64url\"}}'";
    let renderer =
        signed(endpoint, "{\"at\": {{request.timestamp}}, \"v\": \"{{lead.value}}\", \"born\": \"{{lead.born}}\"}")
            .unwrap();
    assert_eq!(renderer.check(&campaign(BORN)), []);
    let request = render(&renderer, &fields([("value", text("a b")), ("born", text("1985-06-15"))])).unwrap();
    let body = String::from_utf8(request.body.to_vec()).unwrap();
    assert_eq!(body, "{\"at\": 1795253460, \"v\": \"a b\", \"born\": \"1985-06-15\"}");
    assert_eq!(header(&request, "X-Time"), Some("1795253460"));
    let sum = signature(b"Jefe", &format!("1795253460.{body}"));
    assert_eq!(header(&request, "X-Signature"), Some(format!("sha256={sum}").as_str()));
    // What is signed of the address is what goes over the wire.
    assert_eq!(header(&request, "X-Url"), Some("https://b.example/in/%C3%A4?v=a%20b"));
    let all = signature(b"Jefe", "POST|\n|/in/%C3%A4|\n|v=a%20b").to_uppercase();
    assert_eq!(header(&request, "X-All"), Some(all.as_str()));
    // A keyed digest is stored as it was sent; a plain one of something masked is masked.
    let masked = request.masked.as_ref().unwrap();
    let stored = |name: &str| masked.headers.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(stored("X-Signature"), format!("sha256={sum}"));
    assert_eq!(stored("X-All"), all);
    assert_eq!(stored("X-Digest"), "***");
    assert_eq!(masked.body, body.replace("1985-06-15", "***"));
    assert!(!format!("{:?}", masked.headers).contains("Jefe"));
}

#[test]
fn the_last_fields_of_a_form_can_sign_the_others() {
    for (method, part) in [("post", "body"), ("get", "query")] {
        let endpoint = format!(
            "method = \"{method}\"\nurl = \"https://b.example/in?v=1\"\n[endpoint.form]\n\
             a_sign = '{{{{hmac request.{part} key=secret.signing}}}}'\nb = '{{{{lead.value}}}}'\nc = '{{{{secret.signing}}}}'\n\
             path = '{{{{request.path}}}}'"
        );
        let renderer = signed(&endpoint, "").unwrap();
        let request = render(&renderer, &fields([("value", text("ä b"))])).unwrap();
        let form = "b=%C3%A4+b&c=Jefe&path=%2Fin";
        let masked = request.masked.unwrap();
        let others = if method == "get" { format!("v=1&{form}") } else { form.to_owned() };
        let sum = signature(b"Jefe", &others);
        let (sent, stored) = if method == "get" {
            (request.url.split_once('?').unwrap().1.to_owned(), masked.url.split_once('?').unwrap().1.to_owned())
        } else {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&request.body), text(&masked.body))
        };
        assert_eq!(sent, format!("{others}&a_sign={sum}"));
        assert_eq!(stored, sent.replace("Jefe", "***"));
    }
}

#[test]
fn a_url_can_sign_the_body() {
    let endpoint = "method = \"xml\"\nurl = 'https://b.example/?sig={{hmac request.body key=secret.signing encoding=\"base64\"}}'\n\
                    template = \"t\"\nheaders = { X-Query = \"{{request.query}}\" }\nauth = { query = { name = \"n\", value = \"{{slice (hash request.body) 0 4}}\" } }";
    let renderer = signed(endpoint, "<a>{{lead.value}}</a>").unwrap();
    let request = render(&renderer, &fields([("value", text("v"))])).unwrap();
    let sum = signature(b"Jefe", "<a>v</a>");
    let query = request.url.split_once('?').unwrap().1;
    let sent: Vec<(String, String)> = pairs(query.as_bytes());
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::STANDARD.encode(hex::decode(sum).unwrap());
    assert_eq!(sent[0], ("sig".to_owned(), raw));
    assert_eq!(sent[1].1, says("{{slice (hash lead.value) 0 4}}", "<a>v</a>"));
    assert_eq!(header(&request, "X-Query"), Some(query));
}

#[test]
fn parts_that_are_made_of_each_other_are_refused() {
    let said = |endpoint: &str, template: &str| match signed(endpoint, template) {
        Ok(_) => String::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    let json = |url: &str| format!("method = \"json\"\nurl = '{url}'\ntemplate = \"t\"");
    let body = "{\"s\": \"{{hash request.body}}\"}";
    assert!(said(&json("https://b.example/"), body).starts_with("t: request.body is made of it"));
    assert!(said(&json("https://b.example/?{{request.path}}"), "{}").starts_with("endpoint.url: request.path"));
    let both = said(&json("https://b.example/?{{hash request.body}}"), "{\"u\": \"{{request.url}}\"}");
    assert!(both.contains("neither can be rendered first"), "{both}");
    assert_eq!(said(&json("https://b.example/"), "{\"u\": \"{{request.url}}\"}"), "");
    assert!(said(&json("https://b.example/{{request.bodi}}"), "{}").contains("is it `body`?"));
}

#[test]
fn keys_come_in_text_hex_and_base64_and_from_other_signatures() {
    let form = |value: &str, secret: &str| {
        let text = format!(
            "[secrets]\nk = \"{secret}\"\n[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/\"\n[endpoint.form]\na = '''{value}'''"
        );
        let renderer = Renderer::compile(&contract(&text), &campaign(BORN), &|_| None).unwrap();
        render(&renderer, &fields([("born", text_value())])).map(|request| {
            let stored =
                request.masked.map_or_else(String::new, |masked| String::from_utf8(masked.body.to_vec()).unwrap());
            (
                pairs(&request.body)[0].1.clone(),
                pairs(stored.as_bytes()).first().map_or_else(String::new, |(_, v)| v.clone()),
            )
        })
    };
    fn text_value() -> FieldValue {
        text("1985-06-15")
    }
    let sum = signature(b"Jefe", "1985-06-15");
    let kept = (sum.clone(), sum.clone());
    assert_eq!(form("{{hmac lead.born key=secret.k}}", "Jefe").unwrap(), kept);
    assert_eq!(form("{{hmac lead.born key=secret.k key_encoding='hex'}}", "4a656665").unwrap(), kept);
    assert_eq!(form("{{hmac lead.born key=secret.k key_encoding='base64'}}", "SmVmZQ==").unwrap(), kept);
    assert_eq!(form("{{hmac lead.born 'sha256' secret.k key_encoding='base64'}}", "SmVmZQ").unwrap(), kept);
    assert_eq!(form("{{hmac lead.born key='file:fixtures/render-key.txt'}}", "x").unwrap(), kept);
    // A key that stands in the template is known to whoever reads it: what it signs could be guessed.
    assert_eq!(form("{{hmac lead.born key='Jefe'}}", "x").unwrap(), (sum.clone(), "***".to_owned()));
    assert_eq!(form("{{hash lead.born}}{{hash secret.k}}", "x").unwrap().1, "******");
    for (encoding, secret) in [("hex", "xyz"), ("base64", "*"), ("text", "")] {
        let fault =
            form(&format!("{{{{hmac lead.born key=secret.k key_encoding='{encoding}'}}}}"), secret).unwrap_err();
        assert!(fault.message.contains("the key is"), "{fault}");
    }
    // RFC 2202, HMAC-MD5, test case 2.
    assert_eq!(
        form("{{hmac 'what do ya want for nothing?' 'md5' key=secret.k}}", "Jefe").unwrap().0,
        "750c783e6ab0b503eaa86e310a5db738"
    );
    // Signature Version 4 of AWS: the signing key of its published example.
    let aws = "{{hmac 'aws4_request' key=(hmac 'iam' key=(hmac 'us-east-1' key=(hmac '20120215' key=(concat 'AWS4' secret.k)) key_encoding='hex') key_encoding='hex') key_encoding='hex'}}";
    let key = "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d";
    assert_eq!(form(aws, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap(), (key.to_owned(), key.to_owned()));
}

// ---- WS-Security ----

/// The texts of all elements, by their local names.
fn texts(document: &str) -> BTreeMap<String, String> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(document);
    let (mut found, mut open) = (BTreeMap::new(), Vec::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) => open.push(tag.local_name().as_ref().to_owned()),
            Event::End(_) => drop(open.pop()),
            Event::Text(text) => {
                let text: &str = &text;
                found.entry(open.last().cloned().unwrap_or_default()).or_insert_with(String::new).push_str(text);
            }
            Event::GeneralRef(reference) => {
                let name: &str = &reference;
                found.entry(open.last().cloned().unwrap()).or_insert_with(String::new).extend(["&", name, ";"]);
            }
            Event::Eof => return found,
            _ => {}
        }
    }
}

fn wsse(method: &str, settings: &str, header: &str) -> Result<Renderer, Vec<TemplateFault>> {
    let header_key = if header.is_empty() { "" } else { "header_template = \"header\"\n" };
    let endpoint = format!(
        "{SIGNED}[endpoint]\nmethod = \"{method}\"\nurl = \"https://b.example/\"\ntemplate = \"t\"\n{header_key}\
         auth = {{ wsse = {{ username = \"o'neil & co\", {settings} }} }}"
    );
    Renderer::compile(&contract(&endpoint), &campaign(""), &|path| {
        Some(if path == "header" { header.to_owned() } else { "<a>{{lead.value}}</a>".to_owned() })
    })
}

#[test]
fn a_username_token_carries_a_digest_that_the_receiver_can_check_and_nobody_stores() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha1::Digest as _;
    let settings = "password = \"file:fixtures/render-key.txt\", password_type = \"digest\", timestamp = \"5m\"";
    let renderer = wsse("soap11", settings, "<h>{{lead.value}}</h>").unwrap();
    assert_eq!(renderer.check(&campaign("")), []);
    let request = render(&renderer, &fields([("value", text("v"))])).unwrap();
    let sent = String::from_utf8(request.body.to_vec()).unwrap();
    let found = texts(&sent);
    assert_eq!(found["Username"], "o&#39;neil &amp; co");
    assert_eq!((found["h"].as_str(), found["a"].as_str()), ("v", "v"));
    assert!(found["Created"].starts_with("2026-11-21T09:31:00Z"));
    assert_eq!(found["Expires"], "2026-11-21T09:36:00Z");
    let nonce = STANDARD.decode(&found["Nonce"]).unwrap();
    assert_eq!(nonce.len(), 16);
    let mut hash = sha1::Sha1::new();
    hash.update(&nonce);
    hash.update("2026-11-21T09:31:00Z");
    hash.update("Jefe");
    assert_eq!(found["Password"], STANDARD.encode(hash.finalize()));
    assert!(sent.contains("#PasswordDigest\">") && sent.contains("#Base64Binary\">"), "{sent}");
    assert!(sent.contains(" soap:mustUnderstand=\"1\"><wsu:Timestamp"), "{sent}");
    assert!(!sent.contains("Jefe"));
    let stored = String::from_utf8(request.masked.unwrap().body.to_vec()).unwrap();
    let masked = texts(&stored);
    assert_eq!((masked["Password"].as_str(), masked["Nonce"].as_str()), ("***", "***"));
    for echoed in ["Jefe", &found["Password"], &found["Nonce"]] {
        assert!(request.secrets.iter().any(|secret| secret == echoed), "{echoed}");
    }
    let again = render(&renderer, &fields([("value", text("v"))])).unwrap();
    assert_ne!(again.body, request.body, "a nonce is used once");
}

#[test]
fn a_username_token_can_carry_the_password_itself() {
    let settings = "password = \"{{secret.signing}}&\", must_understand = false";
    let renderer = wsse("soap12", settings, "").unwrap();
    let request = render(&renderer, &fields([("value", text("v"))])).unwrap();
    let sent = String::from_utf8(request.body.to_vec()).unwrap();
    assert!(sent.contains("#PasswordText\">Jefe&amp;</wsse:Password></wsse:UsernameToken>"), "{sent}");
    assert!(!sent.contains("mustUnderstand") && !sent.contains("Nonce") && !sent.contains("Timestamp"), "{sent}");
    let stored = String::from_utf8(request.masked.unwrap().body.to_vec()).unwrap();
    assert!(stored.contains(">***</wsse:Password>") && !stored.contains("Jefe"), "{stored}");
    assert!(request.secrets.iter().any(|secret| secret == "Jefe&"));
    let faults = wsse("xml", settings, "").unwrap_err();
    let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["endpoint.auth.wsse: `xml` has no SOAP header; only soap11 and soap12 do"]);
}

#[test]
fn a_reference_is_sent_as_it_is_and_is_no_template() {
    let endpoint = "[endpoint]\nmethod = \"get\"\nurl = \"https://b.example/\"\n\
                    auth = { header = { name = \"X-Auth\", value = \"file:fixtures/render-braces.txt\" } }";
    let renderer = Renderer::compile(&contract(endpoint), &campaign(""), &|_| None).unwrap();
    let request = render(&renderer, &fields([])).unwrap();
    assert_eq!(header(&request, "X-Auth"), Some("{{lead.value}}-key"));
    let masked = request.masked.unwrap();
    assert!(masked.headers.contains(&("X-Auth".to_owned(), "***".to_owned())));
}

#[test]
fn a_sensitive_field_is_masked_in_every_form_in_which_it_is_sent() {
    let declared = "born = { type = \"date\", sensitive = true }\nincome = { type = \"integer\", sensitive = true }\nnone = { type = \"text\", sensitive = true }\nowner = { type = \"boolean\", sensitive = true }";
    let template = "{\"a\": \"{{lead.born}}\", \"b\": \"{{date lead.born '%d %B %Y'}}\", \"c\": {{lead.income}}, \
                    \"d\": \"{{concat 'x' (number lead.income 2) 'y'}}\", \"e\": \"{{hash lead.born}}\", \
                    \"f\": \"{{#if (gt lead.income 10)}}rich{{else}}poor{{/if}}\", \"g\": {{json lead}}, \
                    \"h\": \"{{#nested 'xml'}}<x y=\"{{lead.born}}\"/>{{/nested}}\", \"i\": \"{{lead.none}}\", \"v\": \"{{lead.value}}\", \
                    \"u\": \"{{uuid}}\"}";
    let renderer = with_template("json", template, declared).unwrap();
    let lead = fields([
        ("born", text("1985-06-15")),
        ("income", FieldValue::Integer(54321)),
        ("owner", FieldValue::Boolean(true)),
        ("value", text("seen")),
    ]);
    let request = render(&renderer, &lead).unwrap();
    let sent: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(sent["b"], "15 June 1985");
    assert_eq!(sent["d"], "x54321.00y");
    let masked = request.masked.unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&masked.body).unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(stored[key], "***", "{key}");
    }
    assert_eq!(stored["g"], serde_json::json!({"born": "***", "income": "***", "owner": "***", "value": "seen"}));
    assert_eq!(stored["h"], "<x y=\"***\"/>");
    assert_eq!((&stored["i"], &stored["v"]), (&"".into(), &"seen".into()));
    assert_eq!(stored["u"], sent["u"]);
    let text = String::from_utf8(masked.body.to_vec()).unwrap();
    assert!(!text.contains("1985") && !text.contains("54321"), "{text}");
    assert_eq!(request.secrets, ["1985-06-15", "54321"]);
}

/// The masked copy shows the first branch of what depends on a sensitive field: what stands there need not fit the lead.
#[test]
fn what_can_be_sent_is_sent_whatever_the_masked_copy_makes_of_it() {
    let declared = "status = { type = \"text\", sensitive = true }\nsub = { type = \"text\" }";
    let contract = contract(
        "maps = { a = { a1 = \"1\" }, b = { b1 = \"2\" } }\n[endpoint]\nmethod = \"json\"\n\
         url = \"https://b.example/\"\ntemplate = \"t.hbs\"",
    );
    let template = "{\"t\": \"{{#if (eq lead.status 'A')}}{{map lead.sub 'a'}}{{else}}{{map lead.sub 'b'}}{{/if}}\"}";
    let renderer = || Renderer::compile(&contract, &campaign(declared), &|_| Some(template.to_owned())).unwrap();
    for renderer in [renderer(), renderer().without_shortcuts()] {
        let request = render(&renderer, &fields([("status", text("B")), ("sub", text("b1"))])).unwrap();
        assert_eq!(request.body, "{\"t\": \"2\"}");
        assert_eq!(request.masked.unwrap().body, "{\"t\": \"***\"}");
        // What is sent has to fit, as ever.
        let fault = render(&renderer, &fields([("status", text("A")), ("sub", text("b1"))])).unwrap_err();
        assert!(fault.to_string().contains("map"), "{fault}");
    }
}

// ---- Lists ----

const LISTS: &str = "interests = { type = \"list\", items = { type = \"text\" } }\n\
    \"my.rates\" = { type = \"list\", items = { type = \"decimal\" } }\n\
    flags = { type = \"list\", items = { type = \"boolean\" } }\n\
    vehicles = { type = \"list\", fields = { make = { type = \"text\" }, year = { type = \"integer\" }, price = { type = \"decimal\" } } }";

fn list<const N: usize>(entries: [FieldValue; N]) -> FieldValue {
    FieldValue::List(entries.into())
}

fn group<const N: usize>(members: [(&str, FieldValue); N]) -> FieldValue {
    FieldValue::Group(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn with_lists() -> Lead {
    fields([
        ("interests", list([text("<solar>"), text("\"wind\" & co")])),
        ("my.rates", list([text("1.50"), text("20")])),
        ("flags", list([FieldValue::Boolean(true), FieldValue::Boolean(false)])),
        (
            "vehicles",
            list([
                group([("make", text("VW & Söhne")), ("year", FieldValue::Integer(2019)), ("price", text("900.10"))]),
                group([("make", text("Kia"))]),
            ]),
        ),
    ])
}

#[test]
fn the_entries_of_a_list_are_written_in_every_format_and_numbers_stay_numbers() {
    let lead = with_lists();
    for (template, expected) in [
        (
            "<l>{{#each lead.interests}}<i n=\"{{@index}}\">{{this}}</i>{{/each}}</l>",
            "<l><i n=\"0\">&lt;solar&gt;</i><i n=\"1\">&quot;wind&quot; &amp; co</i></l>",
        ),
        (
            "<l>{{#each lead.vehicles as |v|}}<v y=\"{{v.year}}\">{{upper v.make}}</v>{{/each}}</l>",
            "<l><v y=\"2019\">VW &amp; SÖHNE</v><v y=\"\">KIA</v></l>",
        ),
        (
            "<l>{{#each lead.vehicles}}{{#each this}}<m n=\"{{@key}}\">{{this}}</m>{{/each}}{{@root.source.id}}{{/each}}</l>",
            "<l><m n=\"make\">VW &amp; Söhne</m><m n=\"price\">900.10</m><m n=\"year\">2019</m>acme<m n=\"make\">Kia</m>acme</l>",
        ),
        (
            "<l>{{concat lead.interests separator=\", \"}}|{{concat 'x' lead.my.rates separator='+'}}|{{len lead.vehicles}}</l>",
            "<l>&lt;solar&gt;, &quot;wind&quot; &amp; co|x+1.50+20|2</l>",
        ),
        (
            "<l>{{lead.vehicles.0.make}}|{{lead.vehicles.1.year}}|{{lead.interests.[1]}}|{{lead.vehicles.7.make}}</l>",
            "<l>VW &amp; Söhne||&quot;wind&quot; &amp; co|</l>",
        ),
        (
            "<l>{{#if lead.flags}}given{{/if}}{{#unless lead.interests}}none{{/unless}}{{#with lead.vehicles.0}}{{make}}{{/with}}</l>",
            "<l>givenVW &amp; Söhne</l>",
        ),
    ] {
        assert_eq!(body("xml", template, LISTS, &lead), expected, "{template}");
    }
    for (template, expected) in [
        (
            "{\"a\": {{json lead.interests}}, \"r\": {{json lead.my.rates}}, \"f\": {{json lead.flags}}}",
            r#"{"a": ["<solar>","\"wind\" & co"], "r": [1.50,20], "f": [true,false]}"#,
        ),
        (
            "[{{#each lead.vehicles}}{\"make\": \"{{this.make}}\", \"year\": {{this.year}}, \"price\": {{price}}}{{#unless @last}},{{/unless}}{{/each}}]",
            r#"[{"make": "VW & Söhne", "year": 2019, "price": 900.10},{"make": "Kia", "year": null, "price": null}]"#,
        ),
        (
            "[{{#each lead.my.rates}}{{this}}{{#unless @last}},{{/unless}}{{/each}}, {{len lead.interests}}]",
            "[1.50,20, 2]",
        ),
        (
            "[{{json lead.vehicles}}, {{#each lead.vehicles}}{{#if @first}}{{json this}}{{/if}}{{/each}}]",
            r#"[[{"make":"VW & Söhne","price":900.10,"year":2019},{"make":"Kia"}], {"make":"VW & Söhne","price":900.10,"year":2019}]"#,
        ),
        (
            "{\"xml\": \"{{#nested 'xml'}}<l>{{#each lead.interests}}<i>{{this}}</i>{{/each}}</l>{{/nested}}\"}",
            r#"{"xml": "<l><i>&lt;solar&gt;</i><i>&quot;wind&quot; &amp; co</i></l>"}"#,
        ),
    ] {
        assert_eq!(body("json", template, LISTS, &lead), expected, "{template}");
    }
}

#[test]
fn a_list_that_was_not_given_has_no_entries() {
    let template = "[{{json lead.interests}}, {{json lead.vehicles}}, {{len lead.interests}}, \"{{concat lead.interests separator=','}}\", \
                    \"{{#if lead.interests}}some{{else}}none{{/if}}\", \"{{#each lead.vehicles}}x{{else}}empty{{/each}}\", {{json lead}}]";
    let expected = r#"[[], [], 0, "", "none", "empty", {"value":"v","interests":[],"vehicles":[]}]"#;
    assert_eq!(body("json", template, LISTS, &fields([("value", text("v"))])), expected);
}

#[test]
fn what_a_list_cannot_be_is_refused_when_the_template_is_loaded() {
    for (template, message) in [
        (
            "<a>{{lead.interests}}</a>",
            "write {{#each lead.interests}}{{this}}{{/each}}, {{concat lead.interests separator=\", \"}} or {{json lead.interests}}",
        ),
        ("<a>{{lead.vehicles}}</a>", "is a list of groups: write {{#each lead.vehicles}}{{this.MEMBER}}{{/each}}"),
        (
            "<a>{{lead.vehicles.make}}</a>",
            "write {{#each lead.vehicles}}{{this.make}}{{/each}}, or lead.vehicles.0.make",
        ),
        ("<a>{{lead.vehicles.0}}</a>", "is not a single value"),
        ("<a>{{lead.vehicles.0.colour}}</a>", "have no `colour`; there are make, price, year"),
        ("<a>{{#each lead.vehicles}}{{this.mak}}{{/each}}</a>", "is it `make`?"),
        ("<a>{{#each lead.vehicles}}{{this}}{{/each}}</a>", "`this` is not a single value"),
        ("<a>{{#each lead.vehicles}}{{lead.value}}{{/each}}</a>", "write @root.lead.value"),
        ("<a>{{upper lead.interests}}</a>", "`upper` takes single values, and this is a list"),
        ("<a>{{concat lead.vehicles}}</a>", "`concat` takes single values, and this is a list"),
        ("<a>{{#with lead.interests}}{{/with}}</a>", "takes a group or a value"),
    ] {
        let faults = with_template("xml", template, LISTS).err().unwrap_or_else(|| panic!("{template} was taken"));
        assert!(faults[0].to_string().contains(message), "{template}: {faults:?}");
    }
}

#[test]
fn a_sensitive_list_is_masked_entry_by_entry() {
    let declared = "ills = { type = \"list\", sensitive = true, items = { type = \"text\" } }\n\
                    sums = { type = \"list\", sensitive = true, items = { type = \"decimal\" } }\n\
                    kids = { type = \"list\", sensitive = true, fields = { name = { type = \"text\" }, age = { type = \"integer\" } } }";
    let template = "{\"a\": \"{{concat lead.ills separator=', '}}\", \"b\": {{json lead.sums}}, \"c\": {{json lead.kids}}, \
                    \"d\": [{{#each lead.kids}}\"{{upper name}}\", {{age}}{{/each}}], \"e\": {{json lead}}, \"f\": \"{{lead.ills.0}}\"}";
    let renderer = with_template("json", template, declared).unwrap();
    let lead = fields([
        ("ills", list([text("asthma"), text("gout")])),
        ("sums", list([text("1234.50")])),
        ("kids", list([group([("name", text("Leonie")), ("age", FieldValue::Integer(54321))])])),
    ]);
    let request = render(&renderer, &lead).unwrap();
    let masked = String::from_utf8(request.masked.unwrap().body.to_vec()).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&masked).unwrap();
    for (pointer, expected) in [
        ("/a", "***, ***"),
        ("/b/0", "***"),
        ("/c/0/name", "***"),
        ("/c/0/age", "***"),
        ("/d/0", "***"),
        ("/d/1", "***"),
        ("/f", "***"),
    ] {
        assert_eq!(stored.pointer(pointer).unwrap(), expected, "{pointer} of {masked}");
    }
    for secret in ["asthma", "gout", "1234", "Leonie", "LEONIE", "54321"] {
        assert!(!masked.contains(secret), "{masked}");
    }
    assert_eq!(request.secrets, ["asthma", "gout", "54321", "Leonie", "1234.50"]);
}

#[test]
fn the_leads_that_templates_are_tried_with_fill_lists() {
    let campaign = campaign(LISTS);
    assert_eq!(
        serde_json::to_value(sample(&campaign).fields).unwrap()["vehicles"],
        serde_json::json!([{"make": "Sample make", "price": "85.50", "year": 42}, {"make": "Sample make", "price": "85.50", "year": 42}])
    );
    let FieldValue::List(entries) = &hostile(&campaign).fields["interests"] else { panic!("no list") };
    assert_eq!(entries[1].to_string().chars().count(), 10_000);
    let comma = "[{{#if lead.vehicles}}0{{else}},{{/if}}, {{len lead.vehicles}}]";
    let renderer = with_template("json", comma, LISTS).unwrap();
    assert_eq!(renderer.check(&campaign).len(), 1, "a lead without vehicles leaves a comma");
}

// ---- The documentation ----

const DOCS: &str = include_str!("../../docs/templates.md");

/// The documentation from this heading to the next of any rank.
fn section(heading: &str) -> &'static str {
    let start = DOCS.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}")) + heading.len() + 2;
    let rest = &DOCS[start..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

/// The cells of a table's rows, without its head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let line = |line: &str| -> Vec<String> {
        let inner = line.trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
        inner.split('|').map(|cell| cell.replace('\u{1}', "|").trim().to_owned()).collect()
    };
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(line).collect()
}

fn code_spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_helper_is_documented_and_every_example_gives_what_the_documentation_says() {
    let examples = section("### Examples");
    let block = |language: &str| {
        let start = examples.find(&format!("```{language}\n")).unwrap() + language.len() + 4;
        &examples[start..start + examples[start..].find("```").unwrap()]
    };
    let given: Fields = serde_json::from_str(block("json")).unwrap();
    let declared = "first_name = { type = \"text\" }\nlast_name = { type = \"text\" }\nphone = { type = \"phone\", region = \"GB\" }\n\
                    monthly_bill = { type = \"decimal\" }\nbirth_date = { type = \"date\" }\nhomeowner = { type = \"boolean\" }\n\
                    rooms = { type = \"integer\" }\npostcode = { type = \"postcode\", country = \"GB\" }";
    let settings = block("toml").replace("[contract.", "[").replace("env:ACME_SIGNING_KEY", "Jefe");
    let mut wrong = Vec::new();
    let rows_run = rows(examples);
    assert!(rows_run.len() > 40, "{} examples", rows_run.len());
    for row in &rows_run {
        let [template, gives] = row.as_slice() else { panic!("{row:?}") };
        let (template, gives) = (code_spans(template)[0], code_spans(gives).first().copied().unwrap_or_default());
        let endpoint = format!(
            "{settings}\n[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/\"\n[endpoint.form]\nv = '''{template}'''"
        );
        let found = Renderer::compile(&contract(&endpoint), &campaign(declared), &|_| None)
            .map_err(|faults| faults[0].to_string())
            .and_then(|renderer| {
                render(&renderer, &lead(given.clone(), Meta::default())).map_err(|fault| fault.to_string())
            })
            .map_or_else(|fault| fault, |request| pairs(&request.body)[0].1.clone());
        if found != gives {
            wrong.push(format!("{template} gives `{found}`, not `{gives}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let source = include_str!("../../gateway/render/helpers.rs");
    let names = source.split("plain(\"").skip(1).chain(source.split("truth(\"").skip(1));
    let names: Vec<&str> =
        names.filter_map(|rest| rest.split('"').next()).filter(|name| !name.starts_with('@')).collect();
    assert!(names.len() >= 28, "{names:?}");
    let table = rows(section("## Helpers"));
    for name in names {
        let calls = |text: &str| text.split([' ', '(', '{', '}', ')']).any(|word| word == name);
        assert!(table.iter().any(|row| code_spans(&row[0]).into_iter().any(calls)), "`{name}` is not in the table");
        assert!(rows_run.iter().any(|row| calls(&row[0])), "`{name}` has no example");
    }
}

#[test]
fn a_fault_of_a_helper_names_template_line_and_variable_for_every_helper_that_can_fail() {
    for (call, variable, message) in [
        ("date lead.value", Some("lead.value"), "not a date"),
        ("date '2026-01-01' format=(concat '%' '!' lead.value)", None, "not a strftime format"),
        ("phone '+442079460018' lead.value", Some("lead.value"), "the format is not one of"),
        ("phone '020 7946 0018' region=lead.value", None, "the region is not"),
        ("replace 'a' lead.nothing 'b'", Some("lead.nothing"), "FROM is empty"),
        ("date '2026-01-01' timezone=lead.value", None, "timezone is not a time zone"),
        ("now timezone=lead.value", None, "time zone"),
        ("number lead.value 2", Some("lead.value"), "not a number"),
        ("number 5 decimals=lead.value", None, "decimals"),
        ("phone lead.value 'national'", Some("lead.value"), "not a phone number"),
        ("slice lead.value lead.value", Some("lead.value"), ""),
        ("map lead.value 'yes'", Some("lead.value"), "has no entry"),
        ("map lead.value lead.value", Some("lead.value"), "no such table"),
        ("json lead.value type='number'", Some("lead.value"), "not a number"),
        ("json lead.value type='boolean'", Some("lead.value"), "not true or false"),
        ("hash lead.value algorithm=lead.value", Some("lead.value"), "algorithm"),
        ("hash lead.value encoding=lead.value", Some("lead.value"), "encoding"),
        ("hmac lead.value key=lead.value key_encoding='hex'", Some("lead.value"), "not hexadecimal"),
        ("hmac lead.value key=lead.value key_encoding='base64'", Some("lead.value"), "not base64"),
    ] {
        let template = format!("<a>\n  {{{{#if lead.value}}}}\n  <b>{{{{upper ({call})}}}}</b>{{{{/if}}}}\n</a>");
        let partial = "<a>\n\n\n{{> part}}\n</a>";
        let endpoint =
            "[maps.yes]\na = \"b\"\n[endpoint]\nmethod = \"xml\"\nurl = \"https://b.example/\"\ntemplate = \"t.hbs\"";
        for (whole, part, expected) in
            [(template.as_str(), "", "t.hbs line 3: "), (partial, template.as_str(), "part line 3: ")]
        {
            let renderer =
                Renderer::compile(&contract(endpoint), &campaign("nothing = { type = \"text\" }"), &|path| {
                    Some(if path == "part" { part } else { whole }.to_owned())
                });
            let renderer = renderer.unwrap_or_else(|faults| panic!("{call}: {faults:?}"));
            let Err(fault) = render(&renderer, &fields([("value", text("Zanzibar!"))])) else {
                panic!("{call} gives something")
            };
            let said = fault.to_string();
            assert!(said.starts_with(expected) && said.contains(message), "{call}: {said}");
            assert_eq!(fault.variable.as_deref(), variable, "{call}: {said}");
            assert!(!format!("{fault:?}").contains("Zanzibar"), "{said}");
        }
    }
    // A partial of a value that stands in the configuration has lines, though the value has none.
    let endpoint = "[endpoint]\nmethod = \"post\"\nurl = \"https://b.example/\"\n[endpoint.form]\na = \"x{{> part}}\"";
    let renderer =
        Renderer::compile(&contract(endpoint), &campaign(""), &|_| Some("\n{{date lead.value}}".to_owned())).unwrap();
    let fault = render(&renderer, &fields([("value", text("Zanzibar!"))])).unwrap_err().to_string();
    assert_eq!(fault, "part line 2: date lead.value: not a date (2026-11-21) or a timestamp (2026-11-21T09:30:00Z)");
}

// ---- Checking ----

#[test]
fn check_finds_what_only_some_leads_would_meet() {
    let broken = "{\"a\": \"{{lead.value}}\"{{#unless lead.value}},,{{/unless}}}";
    let renderer = with_template("json", broken, "").unwrap();
    let faults = renderer.check(&campaign(""));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].to_string().contains("with a lead with required fields only"), "{faults:?}");
    let renderer = with_template("xml", "<a>\n{{date lead.value}}</a>", "").unwrap();
    assert!(renderer.check(&campaign(""))[0].to_string().starts_with("t.hbs line 2: date lead.value"));
}

#[test]
fn a_hostile_lead_is_hostile_where_its_types_leave_room() {
    let declared = "short = { type = \"text\", max = 5 }\nage = { type = \"integer\", min = 18 }\nborn = { type = \"date\" }\n\
                    kind = { type = \"one_of\", values = [\"a\", \"b\"] }\nnino = { type = \"text\", pattern = \"[A-Z]{2}[0-9]{6}[A-D]\" }\n\
                    zip = { type = \"postcode\", country = \"GB\" }";
    let campaign = campaign(declared);
    let hostile = hostile(&campaign).fields;
    let long = hostile["value"].to_string();
    assert_eq!(long.chars().count(), 10_000);
    for trick in ["\"", "'", "<", "&", "]]>", "😀", "\u{0}", "\u{202e}", "{{{"] {
        assert!(long.contains(trick), "{trick:?}");
    }
    assert_eq!(hostile["short"].to_string().chars().count(), 5);
    assert_eq!(hostile["age"], FieldValue::Integer(18));
    assert_eq!(hostile["kind"], text("a"));
    assert_eq!(hostile["nino"], text("AB123456C"));
    assert_eq!(hostile["zip"], text("SW1A 1AA"));
    assert_eq!(hostile["born"], text("1985-12-31"));
    assert!(hostile.len() > campaign.fields.len(), "undeclared fields are kept, so there is one");
    assert_eq!(sample(&campaign).fields["short"], text("Sampl"));
}

#[test]
fn a_renderer_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Renderer>();
}

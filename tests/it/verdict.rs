//! The verdict stage: fixtures of real receivers, the table of built-in meanings, the rule language, and replies that
//! mean harm.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use lead_gateway::clock;
use lead_gateway::model::contract::{Endpoint, On5xx};
use lead_gateway::model::delivery::{Class, Judgement, Verdict};
use lead_gateway::model::exchange::{Reply, SendFault, SendFaultKind};
use lead_gateway::model::money::{Amount, Currency};
use lead_gateway::verdict::Rules;
use proptest::prelude::*;
use serde_json::{Value, json};

mod bodies;
mod broken;
mod pages;
mod prices;
use crate::receivers;

// ---- helpers

fn now() -> Timestamp {
    "2026-11-21T09:30:00Z".parse().unwrap()
}

fn gbp() -> Currency {
    "GBP".parse().unwrap()
}

/// An endpoint with the given lines below `[response]`.
fn endpoint(method: &str, response: &str) -> Endpoint {
    let text = format!("method = \"{method}\"\nurl = \"https://partner.example/leads\"\n[response]\n{response}\n");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn rules(response: &str) -> Rules {
    Rules::compile(&endpoint("post", response), gbp()).unwrap()
}

/// The paths of the faults in a `[response]` table.
fn faults(response: &str) -> Vec<String> {
    let faults = Rules::compile(&endpoint("post", response), gbp()).expect_err("the rules were taken");
    faults.into_iter().map(|fault| fault.path).collect()
}

fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply { status, headers, body: body.into() }
}

fn judge(rules: &Rules, body: &str) -> Judgement {
    rules.judge(&Ok(reply(200, &[], body.to_owned())), now())
}

/// Whether a rule accepts a body.
fn accepts(rule: &str, body: &str) -> bool {
    judge(&rules(&format!("accepted = {rule}")), body).verdict == Verdict::Accepted
}

/// What an extractor of the reference finds in a body.
fn extracts(rule: &str, body: &str) -> Option<String> {
    judge(&rules(&format!("reference = {rule}")), body).reference
}

// ---- fixtures

/// A reply as stored: the head as on the wire, an empty line, the body's bytes to the end of the file.
fn read_reply(path: &Path) -> Reply {
    let bytes = std::fs::read(path).unwrap();
    let head_end = bytes.windows(2).position(|pair| pair == b"\n\n").expect("an empty line after the head");
    let head = std::str::from_utf8(&bytes[..head_end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<_> = lines.map(|line| line.split_once(": ").expect("name: value")).collect();
    reply(status, &headers, bytes[head_end + 2..].to_vec())
}

fn shown(judgement: &Judgement) -> Value {
    shown_in(judgement, gbp())
}

fn shown_in(judgement: &Judgement, currency: Currency) -> Value {
    json!({
        "verdict": judgement.verdict,
        "class": judgement.class,
        "explanation": judgement.explanation,
        "reason": judgement.reason,
        "reference": judgement.reference,
        "redirect_url": judgement.redirect_url,
        "price": judgement.price.map(|price| price.display(currency)),
        "retry_after_s": judgement.retry_after.map(|wait| wait.as_secs()),
    })
}

/// The directories of `fixtures/verdict/`: those with an endpoint of their own, and those that are named like a contract
/// of `config/network/examples/`.
fn receivers() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/verdict");
    let mut all: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all.into_iter().partition(|receiver| receiver.join("endpoint.toml").exists())
}

/// The replies of the examples: `expected.json` has what each means, to the letter. Run with `WRITE_FIXTURES=1` to write
/// it anew, and read the difference before committing it. That a reply's name is right is seen by `gateway check`.
#[test]
fn replies_of_the_examples_are_judged_by_their_contracts_rules() {
    let examples = receivers::examples();
    let (_, receivers) = receivers();
    assert!(receivers.len() >= 20, "{}", receivers.len());
    for dir in receivers {
        let id = dir.file_name().unwrap().to_str().unwrap();
        let contract = examples.contracts.get(id).unwrap_or_else(|| panic!("no contract {id}"));
        let currency = examples.campaigns[&contract.campaign].currency;
        let rules = Rules::compile(&contract.endpoint, currency).unwrap();
        let mut found = serde_json::Map::new();
        for path in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "http") {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let judgement = rules.judge(&Ok(read_reply(&path)), now());
                found.insert(name, shown_in(&judgement, currency));
            }
        }
        let path = dir.join("expected.json");
        if std::env::var_os("WRITE_FIXTURES").is_some() {
            std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&found).unwrap())).unwrap();
        }
        let expected: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(Value::Object(found), expected, "{}", path.display());
    }
}

#[test]
fn odd_replies_are_judged_as_people_would() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for receiver in receivers().0 {
        let endpoint = std::fs::read_to_string(receiver.join("endpoint.toml")).unwrap();
        let endpoint: Endpoint = toml::from_str(&endpoint).unwrap_or_else(|e| panic!("{}: {e}", receiver.display()));
        let rules = Rules::compile(&endpoint, gbp()).unwrap_or_else(|e| panic!("{}: {e:?}", receiver.display()));
        for path in std::fs::read_dir(&receiver).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "http") {
                seen += 1;
                let expected = std::fs::read_to_string(path.with_extension("json")).unwrap();
                let expected: Value = serde_json::from_str(&expected).unwrap();
                let found = shown(&rules.judge(&Ok(read_reply(&path)), now()));
                if found != expected {
                    wrong.push(format!("{}\n  expected {expected}\n  found    {found}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 20, "only {seen} replies were found");
}

// ---- the table "When no rule matched"

/// CONTRACT 6, written down a second time, as people read it.
fn by_the_table(status: u16, has_rules: bool, retry_5xx: bool) -> (Verdict, Class) {
    use Class::{Configuration, Response};
    if (200..300).contains(&status) {
        return if has_rules { (Verdict::Unknown, Response) } else { (Verdict::Accepted, Response) };
    }
    if [408, 425, 429, 503].contains(&status) {
        return (Verdict::Retryable, Response);
    }
    if status / 100 == 3 || [401, 403, 404, 405, 407].contains(&status) {
        return (Verdict::Retryable, Configuration);
    }
    match status / 100 {
        4 => (Verdict::Rejected, Response),
        5 if retry_5xx => (Verdict::Retryable, Response),
        _ => (Verdict::Unknown, Response),
    }
}

#[test]
fn every_status_means_what_the_table_says() {
    for has_rules in [false, true] {
        for retry_5xx in [false, true] {
            let mut endpoint = endpoint(
                "json",
                if has_rules { "accepted = { json = '$.never' }" } else { "reason = { json = '$.r' }" },
            );
            endpoint.on_5xx = if retry_5xx { On5xx::Retry } else { On5xx::Unknown };
            let rules = Rules::compile(&endpoint, gbp()).unwrap();
            for status in 100..=599 {
                let judgement = rules.judge(&Ok(reply(status, &[], "{}")), now());
                let expected = by_the_table(status, has_rules, retry_5xx);
                assert_eq!((judgement.verdict, judgement.class), expected, "{status}, {has_rules}, {retry_5xx}");
                assert_eq!(judgement.explanation.found.as_deref(), Some(status.to_string().as_str()));
                let is_silent = judgement.verdict == Verdict::Accepted;
                assert_eq!(judgement.reason.is_none(), is_silent, "{status} is explained to people");
            }
        }
    }
}

#[test]
fn a_sending_fault_is_retryable_only_when_nothing_was_sent() {
    let rules = rules("accepted = { status = true, equals = 200 }\nreason = { regex = '.+' }");
    for (kind, verdict, class) in [
        (SendFaultKind::NotSent, Verdict::Retryable, Class::NotSent),
        (SendFaultKind::Timeout, Verdict::Unknown, Class::Timeout),
        (SendFaultKind::Reset, Verdict::Unknown, Class::Reset),
        (SendFaultKind::Incomplete, Verdict::Unknown, Class::Incomplete),
    ] {
        let partial = Some(reply(200, &[("retry-after", "9")], "half a rep"));
        let fault = SendFault { kind, message: "the partner went away".to_owned(), partial };
        let judgement = rules.judge(&Err(fault), now());
        assert_eq!((judgement.verdict, judgement.class), (verdict, class));
        assert_eq!(judgement.explanation.rule, class.as_str());
        assert_eq!(judgement.explanation.found.as_deref(), Some("the partner went away"));
        assert_eq!(judgement.reason.as_deref(), Some("the partner went away"));
        assert_eq!(judgement.retry_after, None, "half a reply is not obeyed");
    }
}

#[test]
fn retry_after_is_honoured_in_both_forms_for_at_most_an_hour() {
    let rules = rules("accepted = { status = true, equals = 200 }");
    let wait = |status: u16, headers: &[(&str, &str)]| {
        rules.judge(&Ok(reply(status, headers, "")), now()).retry_after.map(|wait| wait.as_secs())
    };
    assert_eq!(wait(503, &[("Retry-After", " 120 ")]), Some(120));
    assert_eq!(wait(429, &[("retry-after", "3600")]), Some(3600));
    assert_eq!(wait(429, &[("retry-after", "3601")]), Some(3600));
    assert_eq!(wait(429, &[("retry-after", "99999999999999999999999")]), Some(3600));
    assert_eq!(wait(503, &[("retry-after", "Sat, 21 Nov 2026 09:35:00 GMT")]), Some(300), "by our clock");
    let theirs = [("retry-after", "Sat, 21 Nov 2026 07:01:00 GMT"), ("date", "Sat, 21 Nov 2026 07:00:00 GMT")];
    assert_eq!(wait(503, &theirs), Some(60), "by the partner's own clock, which is wrong");
    assert_eq!(wait(503, &[("retry-after", "Saturday, 21-Nov-26 09:31:00 GMT")]), Some(60), "the old form");
    assert_eq!(wait(503, &[("retry-after", "Mon, 01 Jan 2035 00:00:00 GMT")]), Some(3600));
    assert_eq!(wait(503, &[("retry-after", "Sat, 21 Nov 2026 09:29:00 GMT")]), None, "past");
    for unreadable in ["0", "", "-5", "soon", "1.5", "+7"] {
        assert_eq!(wait(503, &[("retry-after", unreadable)]), None, "{unreadable:?}");
    }
    assert_eq!(wait(422, &[("retry-after", "60")]), None, "a refusal is not retried");
}

// ---- the rule language

#[test]
fn rules_are_tried_as_duplicate_accepted_rejected_retryable_whatever_the_status() {
    let all = ["retryable", "rejected", "accepted", "duplicate"];
    let mut configured = String::new();
    for kind in all {
        configured = format!("{configured}{kind} = {{ contains = \"x\" }}\n");
        let judgement = rules(&configured).judge(&Ok(reply(500, &[], "x")), now());
        assert_eq!(judgement.verdict.as_str(), kind, "the last added comes before those added earlier");
        assert_eq!(judgement.explanation.rule, kind);
    }
}

#[test]
fn a_list_is_any_and_all_is_all() {
    let any = "[{ contains = 'a' }, { contains = 'b' }]";
    assert!(accepts(any, "b") && accepts(any, "a") && !accepts(any, "c"));
    let all = "{ all = [{ contains = 'a' }, { status = true, one_of = [200, 201] }, { contains = 'b' }] }";
    assert!(accepts(all, "ab") && !accepts(all, "a") && !accepts(all, "b"));
    let nested = "{ all = [{ contains = 'a' }, { all = [{ contains = 'b' }] }] }";
    assert!(accepts(nested, "ab") && !accepts(nested, "a"));
}

#[test]
fn tests_look_at_every_selected_value_and_all_tests_of_a_rule_at_the_same_one() {
    let body = r#"{"n":[3,"7.50",-4,1.0,true,null,"abc",{"k":1},[]]}"#;
    for (test, expected) in [
        ("equals = '-4'", true),
        ("equals = -4", true),
        ("equals = true", true),
        ("equals = 'null'", false),
        ("one_of = ['x', 3]", true),
        ("equals = '{\"k\":1}'", true),
        ("matches = 'b'", true),
        ("matches = '^b'", false),
        ("min = 7.5, max = '7.5'", true),
        ("min = 8", false),
        ("max = -4", true),
        ("max = -5", false),
        ("min = 3, max = 6", true),
        ("min = 4, max = 7", false),
        ("min = '-1e3', matches = 'abc'", false),
        ("exists = true", true),
        ("exists = false", false),
    ] {
        assert_eq!(accepts(&format!("{{ json = '$.n[*]', {test} }}"), body), expected, "{test}");
    }
}

#[test]
fn a_missing_or_null_value_does_not_exist() {
    assert!(accepts("{ json = '$.error', exists = false }", r#"{"id":1}"#));
    assert!(accepts("{ json = '$.error', exists = false }", r#"{"error":null}"#));
    assert!(!accepts("{ json = '$.error' }", r#"{"error":null}"#));
    assert!(accepts("{ json = '$.error' }", r#"{"error":""}"#));
    assert!(accepts("{ xpath = '//error' }", "<r><error/></r>"));
    assert!(accepts("{ xpath = '//error', exists = false }", "<r/>"));
}

#[test]
fn an_unreadable_body_does_not_prove_that_something_is_missing() {
    let page = "<html><body>Bad gateway<br></body>";
    assert!(!accepts("{ json = '$.error', exists = false }", page));
    assert!(!accepts("{ xpath = '//error', exists = false }", page));
    assert!(!accepts("{ xpath = '//error', exists = false, inside = { json = '$.x', as = 'xml' } }", r#"{"x":"<a>"}"#));
    assert!(accepts("{ contains = 'error', exists = false }", page));
    assert!(accepts("{ header = 'x-error', exists = false }", page));
}

#[test]
fn xpath_names_match_in_any_namespace_and_with_any_prefix() {
    let body = r#"<s:E xmlns:s="urn:s" xmlns="urn:d"><Result s:code="7" x:y="z" xmlns:x="urn:x"><a.b-c>ok</a.b-c></Result></s:E>"#;
    for expression in [
        "//Result",
        "/E/Result/a.b-c",
        "/soap:E/m:Result",
        "//other:Result/@code",
        "//@q:y",
        "//*:Result",
        "//Result[@code = 7]/a.b-c[. = 'ok']",
        "/s:E/*[last()]",
        "descendant::Result/child::node()",
        "//m:*[local-name() = 'a.b-c']",
        "//*[name() = 's:E']",
    ] {
        assert!(accepts(&format!("{{ xpath = \"{expression}\" }}"), body), "{expression}");
    }
    assert!(!accepts("{ xpath = '//Missing' }", body));
}

#[test]
fn literals_in_an_xpath_are_left_alone() {
    let body = "<r><t>a:b::c</t><u>it's</u></r>";
    assert!(accepts(r#"{ xpath = "//t[. = 'a:b::c']" }"#, body));
    assert!(accepts(r#"{ xpath = "//u[contains(., \"it's\")]" }"#, body));
    assert!(!accepts(r#"{ xpath = "//t[. = 'b::c']" }"#, body));
}

#[test]
fn xpath_functions_and_values_work_as_xpath_1_0_says() {
    let body = "<r><m> first </m><m>second</m><n>10</n><n>2.50</n><e/></r>";
    for (rule, expected) in [
        ("xpath = \"//m[1]\", equals = 'first'", true),
        ("xpath = \"(//m)[2]\", equals = 'second'", true),
        ("xpath = \"//m/text()\", equals = 'second'", true),
        ("xpath = \"normalize-space(//m)\", equals = 'first'", true),
        ("xpath = \"contains(//m, 'irs')\"", true),
        ("xpath = \"contains(//m, 'zzz')\"", false),
        ("xpath = \"contains(//m, 'zzz')\", equals = 'false'", true),
        ("xpath = \"count(//m)\", equals = 2", true),
        ("xpath = \"count(//zzz)\"", false),
        ("xpath = \"sum(//n)\", min = 12.5, max = 12.5", true),
        ("xpath = \"string(//zzz)\"", false),
        ("xpath = \"//zzz != 'OK'\"", false),
        ("xpath = \"not(//zzz)\"", true),
        ("xpath = \"//n > 9\"", true),
        ("xpath = \"substring-before('LEAD-7', '-')\", equals = 'LEAD'", true),
        ("xpath = \"//m | //n\", equals = '10'", true),
        ("xpath = \"//m[. = 'second']/preceding-sibling::*[1]\", equals = 'first'", true),
        ("xpath = \"//e\", equals = ''", true),
        ("xpath = \"concat(//n, ':', //n[2])\", equals = '10:2.50'", true),
    ] {
        assert_eq!(accepts(&format!("{{ {rule} }}"), body), expected, "{rule}");
    }
}

#[test]
fn extractors_take_the_first_text_that_is_not_empty_and_passes_the_test() {
    let body = r#"{"ids":["", null, " \u0000\n", 41, "B-2"]}"#;
    assert_eq!(extracts("{ json = '$.ids[*]' }", body).as_deref(), Some("41"));
    assert_eq!(extracts("{ json = '$.ids[*]', matches = '^B' }", body).as_deref(), Some("B-2"));
    assert_eq!(extracts("{ json = '$.none' }", body), None);
    assert_eq!(extracts("{ regex = 'B-[0-9]' }", body).as_deref(), Some("B-2"));
    assert_eq!(extracts("{ regex = 'B-([0-9])' }", body).as_deref(), Some("2"));
    assert_eq!(extracts("{ form = 'id' }", "a=1&id=&id=x+y%21").as_deref(), Some("x y!"));
}

#[test]
fn extracted_texts_are_cut_and_freed_of_control_characters() {
    let rules = rules("reason = { regex = '(?s).+' }\nreference = { regex = '(?s).+' }");
    let judgement = judge(&rules, &format!("  a\u{1b}[31mb\r\n\u{7}c{}", "é".repeat(600)));
    let reason = judgement.reason.unwrap();
    assert!(reason.starts_with("a[31mb  cé"), "{reason}");
    assert_eq!(reason.chars().count(), 500);
    assert_eq!(judgement.reference.unwrap().chars().count(), 255);
    assert_eq!(judgement.explanation.found.as_deref(), Some("200"));
}

#[test]
fn what_a_rule_found_is_kept_to_200_characters() {
    let judgement = judge(&rules("rejected = { regex = 'e+' }"), &"e".repeat(5000));
    assert_eq!(judgement.explanation.found.unwrap(), "e".repeat(200));
}

#[test]
fn a_price_counts_only_where_it_is_readable_and_not_negative() {
    let rules = rules("price = { regex = '(?s).*' }");
    for (text, expected) in [
        ("12.5", Some(1250)),
        ("31.00", Some(3100)),
        (" 7 ", Some(700)),
        ("0", Some(0)),
        ("31.000", Some(3100)),
        ("31.00 GBP", Some(3100)),
        ("GBP 31", Some(3100)),
        ("31.00 USD", None),
        ("-1", None),
        ("-0.01", None),
        ("12.345", None),
        ("1,200.00", Some(120_000)),
        ("1e3", None),
        ("free", None),
        ("", None),
        ("99999999999999999999", None),
        (&format!("{}7", "0".repeat(60)), None),
    ] {
        assert_eq!(judge(&rules, text).price, expected.map(Amount), "{text:?}");
    }
}

#[test]
fn only_web_addresses_are_taken_as_redirects() {
    let rules = rules("redirect_url = { regex = '(?s).*' }");
    let redirect = |text: &str| judge(&rules, text).redirect_url;
    assert_eq!(redirect("https://buyer.example/a?b=c#d").as_deref(), Some("https://buyer.example/a?b=c#d"));
    assert_eq!(
        redirect("http://buyer.example/\"><script>").as_deref(),
        Some("http://buyer.example/%22%3E%3Cscript%3E")
    );
    for bad in ["javascript:alert(1)", "data:text/html,x", "//buyer.example", "/thanks", "https://", "ftp://b.example/"]
    {
        assert_eq!(redirect(bad), None, "{bad}");
    }
    assert_eq!(redirect(&format!("https://buyer.example/{}", "a".repeat(3000))), None);
}

#[test]
fn a_nested_document_is_opened_from_every_kind_of_outer_selector() {
    for (rule, body) in [
        ("xpath = '//ok', inside = { json = '$.x', as = 'xml' }", r#"{"x":"<r><ok/></r>"}"#),
        ("json = '$.ok', inside = { xpath = '//x', as = 'json' }", r#"<r><x>{"ok":1}</x></r>"#),
        ("form = 'ok', inside = { regex = '<pre>(.*)</pre>', as = 'form' }", "<pre>a=b&ok=1</pre>"),
        ("regex = 'ok=[0-9]', inside = { form = 'x', as = 'text' }", "x=ok%3D1"),
        ("contains = 'ok', inside = { json = '$.l[*]', as = 'text' }", r#"{"l":["no","so ok"]}"#),
        ("json = '$.ok', inside = { json = '$.x', as = 'json' }", r#"{"x":{"ok":1}}"#),
    ] {
        assert!(accepts(&format!("{{ {rule} }}"), body), "{rule}");
        assert!(!accepts(&format!("{{ {rule} }}"), "ok"), "{rule}");
    }
}

#[test]
fn soap_faults_are_recognised_by_any_method_but_only_in_a_soap_envelope() {
    let fault = |ns: &str| {
        format!(
            r#"<e:Envelope xmlns:e="{ns}"><e:Header/><e:Body><e:Fault><faultcode>e:Client</faultcode></e:Fault></e:Body></e:Envelope>"#
        )
    };
    let judged = |method: &str, body: String| {
        let rules = Rules::compile(&endpoint(method, ""), gbp()).unwrap();
        rules.judge(&Ok(reply(200, &[], body)), now()).explanation.rule
    };
    let known = "http://schemas.xmlsoap.org/soap/envelope/";
    assert_eq!(judged("post", fault(known)), "soap_fault");
    assert_eq!(judged("post", fault("urn:home-made")), "no_rules");
    assert_eq!(judged("soap11", fault("urn:home-made")), "soap_fault");
    assert_eq!(judged("soap12", "<Fault><faultcode>Server</faultcode></Fault>".to_owned()), "soap_fault");
    assert_eq!(judged("xml", "<Fault><faultcode>Server</faultcode></Fault>".to_owned()), "no_rules");
    assert_eq!(judged("soap11", "<Envelope><Body><Result>No Fault</Result></Body></Envelope>".to_owned()), "no_rules");
}

#[test]
fn the_partners_own_words_win_over_ours() {
    let rules = rules("reason = { json = '$.why' }");
    let reason = |body: &str| rules.judge(&Ok(reply(404, &[], body.to_owned())), now()).reason.unwrap();
    assert_eq!(reason(r#"{"why":"campaign 7 is closed"}"#), "campaign 7 is closed");
    assert_eq!(reason("<html>"), "HTTP 404: the partner's URL or our credentials are wrong");
}

// ---- faults in rules

#[test]
fn every_fault_of_every_rule_is_reported_at_once() {
    let found = faults(
        r#"
duplicate = { equals = "DUP" }
accepted = [{ json = "$.a" }, { xpath = "//a[", matches = "(" }, { json = "$[", min = "ten" }]
rejected = { all = [{ regex = "(", max = "x" }, { json = "$.a", xpath = "//b" }], equals = "x" }
retryable = []
reason = { exists = true }
reference = { all = [{ json = "$.a" }] }
redirect_url = { json = "$.a", exists = false }
price = { xpath = "$price" }
"#,
    );
    assert_eq!(
        found,
        [
            "response.duplicate",
            "response.accepted[1].xpath",
            "response.accepted[1].matches",
            "response.accepted[2].json",
            "response.accepted[2].min",
            "response.rejected",
            "response.rejected.all[0].regex",
            "response.rejected.all[0].max",
            "response.rejected.all[1]",
            "response.retryable",
            "response.reason",
            "response.reference",
            "response.redirect_url.exists",
            "response.price.xpath",
        ]
    );
}

#[test]
fn each_kind_of_fault_is_found() {
    for (rule, path) in [
        ("{}", ""),
        ("{ status = false, equals = 200 }", ".status"),
        ("{ header = 'a b' }", ".header"),
        ("{ header = '' }", ".header"),
        ("{ contains = '' }", ".contains"),
        ("{ json = 'a.b' }", ".json"),
        ("{ json = '$..a..b..c' }", ".json"),
        ("{ json = '$[?nosuch(@.a)]' }", ".json"),
        ("{ xpath = 'nosuch(1)' }", ".xpath"),
        ("{ xpath = 'count()' }", ".xpath"),
        ("{ xpath = '//:a' }", ".xpath"),
        ("{ xpath = '' }", ".xpath"),
        ("{ css = '' }", ".css"),
        ("{ css = 'a >' }", ".css"),
        ("{ css = 'a[b' }", ".css"),
        ("{ css = 'a:hover' }", ".css"),
        ("{ css = 'a', attribute = 'b c' }", ".css"),
        ("{ xpath = '//a', attribute = 'b' }", ".xpath"),
        ("{ css = 'a', inside = { json = '$.a', as = 'xml' } }", ".inside"),
        ("{ json = '$.a', one_of = [] }", ".one_of"),
        ("{ json = '$.a', exists = false, equals = 1 }", ".exists"),
        ("{ all = [] }", ".all"),
        ("{ status = true, inside = { json = '$.a', as = 'text' } }", ".inside"),
        ("{ xpath = '//a', inside = { json = '$.a', as = 'json' } }", ".inside"),
        ("{ xpath = '//a', inside = { as = 'xml' } }", ".inside"),
        ("{ xpath = '//a', inside = { json = '$.a', form = 'a', as = 'xml' } }", ".inside"),
        ("{ xpath = '//a', inside = { json = '$[', as = 'xml' } }", ".inside.json"),
    ] {
        assert_eq!(faults(&format!("accepted = {rule}")), [format!("response.accepted{path}")], "{rule}");
    }
}

// ---- hostile replies

/// Rules that use every kind of selector, and that match nothing below.
fn every_selector() -> Rules {
    rules(
        r#"
duplicate = [
    { xpath = "//a//a[preceding::a]//*", equals = "never" },
    { xpath = "//*[.//* = //*]", equals = "never" },
    { xpath = "//a[following-sibling::a[preceding-sibling::a = ../a]]", equals = "never" },
    { xpath = "count(//a[following::a])", equals = "never" },
    { json = "$..a..*", equals = "never" },
]
accepted = [
    { xpath = "//a", equals = "never", inside = { xpath = "//a", as = "xml" } },
    { json = "$.a", equals = "never", inside = { regex = "\\{.*", as = "json" } },
    { css = "a a[b] > *, a ~ a:not([b]):nth-child(even), #a", equals = "never" },
    { css = "*", attribute = "b", equals = "never", every = true },
    { css = "a", equals = "never", inside = { css = "a", as = "html" } },
    { xpath = "//a", equals = "never", inside = { xpath = "//a", as = "html" } },
    { json = "$..*", equals = "never", every = true },
    { body = true, equals = "never" },
    { form = "a", equals = "never" },
    { header = "a", equals = "never" },
    { regex = "(a|b)*c$", equals = "never" },
    { contains = "never ever" },
    { status = true, equals = "never" },
]
reason = [{ xpath = "//*" }, { css = "*" }]
reference = { json = "$..*" }
redirect_url = { regex = "(?s).*" }
price = [{ form = "a" }, { body = true, decimal = "," }]
"#,
    )
}

/// Elements that a browser opens again in every new paragraph, no two alike.
fn formats(count: usize) -> String {
    numbered(count, "<p><b aN>")
}

fn names(count: usize) -> String {
    numbered(count, "aN ")
}

/// The text as often as asked for, each with its own number for `N`.
fn numbered(count: usize, text: &str) -> String {
    (0..count).map(|n| text.replace('N', &n.to_string())).collect::<Vec<_>>().concat()
}

#[test]
fn hostile_bodies_cost_bounded_time_and_stack() {
    let entity = |(name, inner): (char, char)| format!("<!ENTITY {name} \"{}\">", format!("&{inner};").repeat(10));
    let entities = ('b'..='j').zip('a'..).map(entity).collect::<Vec<_>>().concat();
    let bodies = [
        ("an XML depth bomb", "<a>".repeat(350_000)),
        ("a closed XML depth bomb", format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000))),
        ("a JSON depth bomb", "[".repeat(1 << 18)),
        ("a JSON depth bomb of objects", "{\"a\":".repeat(50_000)),
        ("deep and long text", format!("{}{}{}", "<a>".repeat(120), "x".repeat(1 << 20), "</a>".repeat(120))),
        ("a wide document", format!("<a>{}</a>", "<a/>".repeat(19_900))),
        ("a wide document with texts", format!("<a>{}</a>", "<a>t</a>".repeat(9_900))),
        ("an entity bomb", format!("<!DOCTYPE a [<!ENTITY a \"ha\">{entities}]><a>&j;</a>")),
        ("an entity that is itself", "<!DOCTYPE a [<!ENTITY a \"&a;\">]><a>&a;</a>".to_owned()),
        ("many attributes", format!("<a {}/>", "a='' ".repeat(100_000))),
        ("wide JSON", format!("[{}0]", "{\"a\":[0]},".repeat(20_000))),
        ("deep and wide JSON", format!("{}{}0{}", "[".repeat(100), "0,".repeat(50_000), "]".repeat(100))),
        ("a long form", "a=%41&".repeat(100_000)),
        ("one long word", "ab".repeat(100_000)),
        ("an open comment", format!("<a><!--{}", "-".repeat(1 << 18))),
        ("an open tag", format!("<a {}", "b".repeat(1 << 18))),
        ("zeros", "\0".repeat(1 << 18)),
        ("an HTML depth bomb", format!("<html>{}", "<div>".repeat(200_000))),
        ("a closed HTML depth bomb", format!("<html>{}{}</html>", "<i>".repeat(50_000), "</i>".repeat(50_000))),
        (
            "formatting that every paragraph opens anew",
            format!("<html>{}{}</html>", formats(2_000), "<p>x".repeat(50_000)),
        ),
        ("formatting that crosses", format!("<html>{}</html>", "<a><b><p></a>".repeat(20_000))),
        ("foster parents", format!("<html><table>{}</table></html>", "<a>x<tr>y".repeat(20_000))),
        ("an HTML tag of many attributes", format!("<html><a {}></html>", names(120_000))),
        ("an element whose tags go on adding attributes", format!("<html>{}</html>", numbered(60_000, "<html aN>"))),
        ("HTML attributes in every way", format!("<html><a {}></html>", "b=\"c\"d='e'f=g/".repeat(50_000))),
        ("forms in tables in forms", format!("<html>{}</html>", "<table><form><td>".repeat(20_000))),
        ("selects", format!("<html>{}</html>", "<select><option><table>".repeat(20_000))),
        ("end tags alone", format!("<html>{}</html>", "</p></br></x>".repeat(50_000))),
        ("a wide page", format!("<html>{}</html>", "<a b=c>".repeat(9_000).replace("<a", "</a><a"))),
        ("a page of white space", format!("<html><a>{}</a></html>", " ".repeat((1 << 20) - 100))),
        ("templates", format!("<html>{}</html>", "<template>".repeat(50_000))),
        ("two hundred roots", "<a>t</a>".repeat(200)),
        ("ampersands", format!("<a>{}</a><a/>", "&".repeat(1 << 19))),
        ("references that are none", format!("<a>{}</a><a/>", "&#x110000;&nosuch;&#;".repeat(1 << 15))),
        ("undeclared prefixes", format!("<a>{}</a>", numbered(19_000, "<pN:a/>"))),
        ("a deep document without end tags", format!("x{}", "<a b=c>".repeat(100_000))),
        ("many documents of JSON", "{\"a\":1.0}\n".repeat(100_000)),
        ("numbers of JSON", format!("[{}1.0]", "1.00,".repeat(400_000))),
        ("JSONP of brackets", format!("{}(", "a[".repeat(100_000))),
        ("a long number", format!("{{\"a\":{}.0}}", "1".repeat(1 << 20))),
    ];
    let rules = every_selector();
    // On the small stack that a worker thread has.
    let judged = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for (what, body) in bodies {
            let begun = clock::instant();
            let judgement = judge(&rules, &body);
            let took = begun.elapsed();
            println!("{what}: {took:?}");
            assert_eq!(judgement.explanation.rule, "unmatched", "{what}");
            // Without its bounds each of these takes minutes; the machine may be slow and the build unoptimised.
            assert!(took < Duration::from_secs(30), "{what} took {took:?}");
        }
    });
    judged.unwrap().join().unwrap();
}

#[test]
fn rules_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Rules>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_judging_panic(
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            "(<[?!/]?(a|b|p|td|table|form|select|html|svg|template|script|a:b|!--|!\\[CDATA\\[|doctype html)?[ a=:'\"/-]{0,3}>?|\\PC){0,40}".prop_map(String::into_bytes),
            "(<\\??/?a?[!:a ='\"-]{0,3}>?|&#?x?[0-9a]{0,3};?|[\\[\\]{}\",:0a ]|\\PC){0,60}".prop_map(String::into_bytes),
        ],
        lead_in in prop::sample::select(vec![
            &b""[..], b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"<?xml version='1.0' encoding='utf-16'?>",
            b"<?xml version='1.0' encoding='shift_jis'?>", b"<a>", b"{\"a\":", b"<html>",
            b"<!doctype html><body>", b"cb({\"a\":1.0", b"\xff\xfe\0\0",
        ]),
        status in any::<u16>(),
        content_type in "\\PC{0,20}|text/html|text/xml; ?charset=\"?(utf-16|koi8-r|x)\"?",
        retry_after in "\\PC{0,10}|[0-9]{1,30}",
    ) {
        let body = [lead_in, &body].concat();
        let headers = [("content-type", content_type.as_str()), ("retry-after", &retry_after), ("date", &retry_after)];
        let judgement = every_selector().judge(&Ok(reply(status, &headers, body)), now());
        prop_assert!(judgement.retry_after.is_none_or(|wait| wait <= Duration::from_hours(1)));
        prop_assert!(judgement.reason.is_none_or(|text| text.chars().count() <= 500 && !text.contains(char::is_control)));
        prop_assert!(judgement.price.is_none_or(|price| price >= Amount(0)));
    }

    #[test]
    fn no_text_makes_compiling_panic(text in "[a#.*>+~ =:()\\[\\]'\"|^$,\\\\ni0]{0,30}|\\PC{0,40}|[$@.\\[\\]()*:/'\"a0 =<>|?-]{0,30}") {
        let mut endpoint = endpoint("post", "accepted = [{ json = 'x' }, { xpath = 'x' }, { regex = 'x' }, { header = 'x' }, { css = 'x' }]");
        let list = &mut endpoint.response.accepted.as_mut().unwrap().0;
        list[0].json = Some(text.clone());
        list[1].xpath = Some(text.clone());
        list[2].regex = Some(text.clone());
        list[3].header = Some(text.clone());
        list[4].css = Some(text);
        if let Err(faults) = Rules::compile(&endpoint, gbp()) {
            prop_assert!(faults.iter().all(|fault| fault.path.starts_with("response.accepted[")));
        }
    }
}

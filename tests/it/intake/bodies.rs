//! Bodies. The fixtures below `fixtures/leads` are posted to the campaign that stands there.
#![allow(clippy::format_collect, reason = "short, and no test is slower for it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lead_gateway::intake::{self, Boundary, FieldError, Format, MAX_FIELDS, Malformed, PostedValue, Rules};
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::lead::FieldValue;
use proptest::prelude::*;
use serde_json::json;

use super::rules;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/leads")
}

fn fixture_campaign() -> Campaign {
    toml::from_str(&std::fs::read_to_string(folder().join("campaign.toml")).unwrap()).unwrap()
}

/// The bodies of one folder, each with its name and format.
fn bodies(kind: &str) -> Vec<(PathBuf, Format, Vec<u8>)> {
    let mut all = Vec::new();
    let multipart = Format::from_content_type("multipart/form-data; boundary=fixture").unwrap();
    for (name, format) in
        [("json", Format::Json), ("form", Format::Form), ("multipart", multipart), ("xml", Format::Xml)]
    {
        for entry in std::fs::read_dir(folder().join(name).join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            if path.extension().unwrap() == name && !file.ends_with(".expected.json") {
                let body = std::fs::read(&path).unwrap();
                all.push((path, format, body));
            }
        }
    }
    all
}

#[test]
fn every_good_fixture_is_read_as_expected() {
    let rules = Rules::compile(&fixture_campaign()).unwrap();
    let bodies = bodies("ok");
    assert!(bodies.len() >= 15, "only {} fixtures found", bodies.len());
    for (path, format, body) in bodies {
        let posted = intake::parse(format, &body).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let valid = rules.validate(posted).unwrap_or_else(|errors| panic!("{}: {errors:?}", path.display()));
        let got = json!({"fields": valid.fields, "meta": valid.meta, "test": valid.test});
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("expected.json")).unwrap()).unwrap();
        assert_eq!(got, expected, "{}", path.display());
    }
}

#[test]
fn every_bad_fixture_gets_its_answer() {
    let rules = Rules::compile(&fixture_campaign()).unwrap();
    let bodies = bodies("err");
    assert!(bodies.len() >= 50, "only {} fixtures found", bodies.len());
    let mut wrong = Vec::new();
    for (path, format, body) in bodies {
        let expected = std::fs::read_to_string(path.with_extension("expected")).unwrap();
        let got = match intake::parse(format, &body) {
            Err(Malformed { line, column, message }) => {
                assert!(!message.contains("Ada") && !message.contains("Eve"), "{}: {message}", path.display());
                // Where a fixture does not say where, it is of no matter.
                if expected == "malformed\n" { expected.clone() } else { format!("malformed {line}:{column}\n") }
            }
            Ok(posted) => {
                let errors = rules.validate(posted).expect_err(&path.display().to_string());
                let line = |error: &FieldError| {
                    format!("{} {}\n", error.field, serde_json::to_value(error.code).unwrap().as_str().unwrap())
                };
                errors.iter().map(line).collect()
            }
        };
        if got != expected {
            wrong.push(format!("{}: expected {expected:?}, got {got:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn boundary(text: &str) -> Boundary {
    Boundary::new(text).unwrap()
}

fn as_multipart(name: &str, value: &str) -> (Format, String) {
    let body = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--b--\r\n");
    (Format::Multipart(boundary("b")), body)
}

#[test]
fn content_types_are_told_apart() {
    for (value, expected) in [
        ("application/json", Some(Format::Json)),
        ("Application/JSON; Charset=\"UTF-8\"", Some(Format::Json)),
        ("application/vnd.acme.lead+json", Some(Format::Json)),
        ("application/x-www-form-urlencoded;charset=us-ascii", Some(Format::Form)),
        ("text/xml; charset=utf-8; action=\"x\"", Some(Format::Xml)),
        ("application/xml", Some(Format::Xml)),
        ("application/soap+xml", Some(Format::Xml)),
        ("application/json; charset=iso-8859-1", None),
        ("application/xml; charset=utf-16", None),
        ("text/plain", None),
        ("+json", None),
        ("/+xml", None),
        ("application/jsonp", None),
        ("multipart/form-data; boundary=x", Some(Format::Multipart(boundary("x")))),
        ("Multipart/Form-Data; charset=utf-8; Boundary=\"a b:c\"", Some(Format::Multipart(boundary("a b:c")))),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=\"a;b\"", None),
        (&format!("multipart/form-data; boundary={}", "x".repeat(71)), None),
        ("multipart/form-data; boundary=x; charset=utf-16", None),
        ("multipart/mixed; boundary=x", None),
        ("", None),
    ] {
        assert_eq!(Format::from_content_type(value), expected, "{value}");
    }
}

#[test]
fn no_message_quotes_what_was_posted() {
    let secret = "s3cret-Value!";
    let types = ["email", "phone", "integer", "decimal", "date", "boolean", "postcode", "url", "ip"];
    let mut fields: String = types.iter().map(|kind| format!("{kind} = {{ type = \"{kind}\" }}\n")).collect();
    fields.push_str("one = { type = \"one_of\", values = [\"x\"] }\nshort = { type = \"text\", max = 2 }\n");
    fields.push_str("form = { type = \"text\", pattern = \"x\" }\n");
    let rules = rules(&format!("[fields]\n{fields}"));
    let names = types.iter().copied().chain(["one", "short", "form", "test"]);
    let body: serde_json::Map<_, _> = names.map(|name| (name.to_owned(), json!(secret))).collect();
    let body = serde_json::to_vec(&body).unwrap();
    let posted = intake::parse(Format::Json, &body).unwrap();
    assert!(!format!("{posted:?}").contains(secret));
    let errors = rules.validate(posted).unwrap_err();
    assert_eq!(errors.len(), types.len() + 4);
    assert!(!format!("{errors:?}").contains(secret));
    for (format, body) in [
        (Format::Json, format!("\"{secret}\"")),
        (Format::Json, format!("{{\"a\":\"{secret}")),
        (Format::Json, format!("{{\"a\":\"{secret}\\ud800\"}}")),
        (Format::Json, format!("{{\"a\":{secret}}}")),
        (Format::Xml, format!("<a><b>{secret}</a>")),
        (Format::Xml, format!("<a><b>&{secret};</b></a>")),
        (Format::Xml, format!("<a b='{secret}><b/></a>")),
        (Format::Form, format!("a={secret}%FF")),
        (Format::Multipart(boundary("b")), format!("--b\r\n{secret}")),
        (Format::Multipart(boundary("b")), format!("--b\r\n{secret}\r\n\r\n{secret}\r\n--b--")),
        (Format::Multipart(boundary("b")), format!("--b\r\nContent-Disposition: {secret}\r\n\r\n{secret}\r\n--b--")),
    ] {
        let error = intake::parse(format, body.as_bytes()).unwrap_err();
        assert!(!error.to_string().contains(secret), "{error}");
    }
}

#[test]
fn a_key_in_the_body_is_a_field_until_it_is_taken() {
    let body = b"key=0123456789abcdef&email=a%40example.com";
    let mut posted = intake::parse(Format::Form, body).unwrap();
    assert_eq!(posted.fields.len(), 2);
    assert_eq!(posted.take_key().as_deref(), Some("0123456789abcdef"));
    assert_eq!(posted.fields.len(), 1);
    assert_eq!(posted.take_key(), None);
}

#[test]
fn the_query_may_ask_for_a_rehearsal() {
    for (query, expected) in [
        (None, Some(false)),
        (Some("a=b"), Some(false)),
        (Some("test"), Some(false)),
        (Some("test=1"), Some(true)),
        (Some("a=b&test=True"), Some(true)),
        (Some("test=no"), Some(false)),
        (Some("test=perhaps"), None),
    ] {
        assert_eq!(intake::query_test(query).ok(), expected, "{query:?}");
    }
}

/// A debug build on a busy machine needs well under a second for each; work that grows with the square of the body, or
/// depth that grows with it, would need minutes, or the whole stack.
#[test]
fn a_mebibyte_of_nested_garbage_is_refused() {
    const SIZE: usize = 1 << 20;
    let fill = |unit: &str| unit.repeat(SIZE / unit.len());
    let closed = |open: &str, close: &str| {
        let depth = SIZE / (open.len() + close.len()) - 1;
        format!("{}{{}}{}", open.repeat(depth), close.repeat(depth))
    };
    let bodies = [
        (Format::Json, fill("{\"a\":")),
        (Format::Json, closed("{\"a\":", "}")),
        (Format::Json, format!("{{\"a\":{}", fill("["))),
        (Format::Json, format!("{{{}\"z\":1}}", (0..80_000).map(|n| format!("\"a{n}\":1,")).collect::<String>())),
        (Format::Xml, fill("<a>")),
        (Format::Xml, fill("<a><b/>")),
        (Format::Xml, fill("&amp;")),
        (Format::Xml, format!("<a{}/>", (0..90_000).map(|n| format!(" a{n}=''")).collect::<String>())),
        (Format::Xml, format!("<a>{}</a>", (0..90_000).map(|n| format!("<b{n}/>")).collect::<String>())),
        (Format::Xml, format!("<!DOCTYPE a [{}]><a/>", fill("<!ENTITY a 'b'>"))),
        (Format::Form, (0..90_000).map(|n| format!("a{n}=1&")).collect()),
        (Format::Form, format!("a={}", fill("%FF"))),
        (Format::Multipart(boundary("b")), fill("--b\r\n")),
        (Format::Multipart(boundary("b")), fill("\r\n--b ")),
        (Format::Multipart(boundary("b")), format!("--b\r\n{}", fill("a:\r\n"))),
        (Format::Multipart(boundary("b")), format!("--b\r\nContent-Disposition: form-data; name=\"{}", fill("\\\""))),
    ];
    for (format, body) in bodies {
        // One that took forever would be ended by the test runner.
        let result = intake::parse(format, body.as_bytes());
        let begin: String = body.chars().take(20).collect();
        assert!(result.is_err(), "{begin}… was taken");
    }
}

/// Text that a lead may carry: no controls but tab and line breaks, no white space around it, not empty, not too long.
fn lead_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 1..200).prop_filter_map("nothing left", |chars| {
        // XML's own exclusions too, so that one text can go through all three.
        let kept = |c: &char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f' | '\u{fffe}' | '\u{ffff}');
        let text: String = chars.into_iter().filter(kept).collect();
        let text = text.trim().to_owned();
        (!text.is_empty()).then_some(text)
    })
}

fn as_xml(text: &str) -> String {
    format!("<lead><f>{}</f></lead>", quick_xml::escape::escape(text).replace('\r', "&#13;"))
}

proptest! {
    #[test]
    fn any_text_comes_out_as_it_was_posted_in_every_format(
        posted in prop_oneof![lead_text(), "[ -~\\t\\r\\n]{0,80}x".prop_map(|text| text.trim().to_owned())]
    ) {
        let rules = rules("fields = { f = { type = \"text\" } }");
        let mut form = form_urlencoded::Serializer::new(String::new());
        let escaped: String = posted.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for (format, body) in [
            (Format::Json, json!({"f": posted}).to_string()),
            (Format::Json, format!("{{\"f\":\"{escaped}\"}}")),
            (Format::Form, form.append_pair("f", &posted).finish()),
            (Format::Xml, as_xml(&posted)),
            as_multipart("f", &posted),
        ] {
            let valid = rules.validate(intake::parse(format, body.as_bytes()).unwrap()).unwrap();
            prop_assert!(valid.fields.get("f") == Some(&FieldValue::Text(posted.clone())), "{format:?}: {body:?}");
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for format in [Format::Json, Format::Form, Format::Xml, Format::Multipart(boundary("b"))] {
            let _ = intake::parse(format, &bytes);
        }
    }

    /// Random bytes rarely get past the first character, so these are drawn from what the formats are made of.
    #[test]
    fn no_markup_makes_a_parser_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", "\"", ":", ",", "\\", "\\u", "d800", "null", "true", "1", "-", "e9", ".", "a", "b.c", "é", "\n",
            "<", ">", "</", "/>", "<a>", "</a>", "<a", "=", "'", "&", ";", "&#", "x41", "&lt;", "<!--", "-->", "<![CDATA[", "]]>",
            "<?xml", "version", "?>", "<!DOCTYPE", "<?", "%", "%E2%82%AC", "+", "test", "sub1", " ", "\u{feff}", "\0",
            "--b", "\r\n", "--b--", "Content-Disposition: form-data; name=\"a\"", "\r\n\r\n", "; filename=", "\"", "Content-Type:",
        ]), 0..60),
        json_start in any::<bool>(),
    ) {
        let body = format!("{}{}", if json_start { "{\"" } else { "" }, parts.concat());
        for format in [Format::Json, Format::Form, Format::Xml, Format::Multipart(boundary("b"))] {
            if let Ok(posted) = intake::parse(format, body.as_bytes()) {
                prop_assert!(posted.fields.len() <= MAX_FIELDS);
                let names: BTreeMap<_, _> = posted.fields.iter().cloned().collect();
                prop_assert_eq!(names.len(), posted.fields.len());
            }
        }
    }
}

#[test]
fn a_name_is_the_same_with_escapes_and_without() {
    let body = r#"{"caf\u00e9": "a\tb", "city": "\"Ely\"", "pl\u0061in": "x", "home": {"t\u006fwn": "y"}}"#;
    let posted = intake::parse(Format::Json, body.as_bytes()).unwrap();
    let text = |text: &'static str| PostedValue::Text(text.into());
    let expected = [("café", text("a\tb")), ("city", text("\"Ely\"")), ("plain", text("x")), ("home.town", text("y"))];
    assert!(posted.fields == expected.map(|(name, value)| (name.into(), value)));
    let twice = r#"{"plain": 1, "pl\u0061in": 2}"#;
    let fault = intake::parse(Format::Json, twice.as_bytes()).unwrap_err();
    assert_eq!(fault.message, "the field `plain` is given twice; give it once");
}

//! Bodies in all the shapes in which partners send them: encodings, JSON that is not quite JSON, texts, forms, nothing
//! at all, several records.

use super::{accepts, extracts, faults, judge, now, reply, rules};

// ---- encodings

fn utf16(text: &str, number: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(number).collect()
}

fn utf32(text: &str, number: fn(u32) -> [u8; 4]) -> Vec<u8> {
    text.chars().flat_map(|c| number(c as u32)).collect()
}

#[test]
fn a_reply_is_read_in_the_encoding_it_really_has() {
    let western = b"<r><m>Caf\xe9 \x80</m></r>".to_vec();
    let utf8 = "<r><m>Café €</m></r>".as_bytes().to_vec();
    let marked = |mark: &[u8], text: Vec<u8>| [mark, &text].concat();
    let shift_jis = b"<r><m>\x93o\x98^</m></r>".to_vec();
    let declared = |encoding: &str, body: &[u8]| {
        [format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n").as_bytes(), body].concat()
    };
    let plain = "<r><m>Café €</m></r>";
    for (what, content_type, body, expected) in [
        ("UTF-8, undeclared", "text/xml", utf8.clone(), "Café €"),
        ("UTF-8 with its mark", "text/xml", marked(b"\xef\xbb\xbf", utf8.clone()), "Café €"),
        ("UTF-8 with two marks", "text/xml", marked(b"\xef\xbb\xbf\xef\xbb\xbf", utf8.clone()), "Café €"),
        ("UTF-8 declared as Latin-1", "text/xml; charset=ISO-8859-1", utf8.clone(), "Café €"),
        ("UTF-8 that its XML calls Latin-1", "text/xml", declared("iso-8859-1", &utf8), "Café €"),
        ("UTF-8 that its XML calls UTF-16", "text/xml", declared("utf-16", &utf8), "Café €"),
        ("UTF-8 with an unknown charset", "text/xml; charset=klingon", utf8, "Café €"),
        ("Windows-1252, undeclared", "text/xml", western.clone(), "Café €"),
        ("Windows-1252 by charset", "text/xml; charset=\"windows-1252\"", western.clone(), "Café €"),
        ("Latin-1 by its XML", "text/xml", declared("ISO-8859-1", &western), "Café €"),
        ("Windows-1252 declared as UTF-8", "text/xml; charset=utf-8", western, "Café €"),
        ("UTF-16LE with its mark", "text/xml", marked(b"\xff\xfe", utf16(plain, u16::to_le_bytes)), "Café €"),
        ("UTF-16BE with its mark", "text/xml", marked(b"\xfe\xff", utf16(plain, u16::to_be_bytes)), "Café €"),
        ("UTF-16LE by shape", "text/xml; charset=utf-16", utf16(plain, u16::to_le_bytes), "Café €"),
        ("UTF-16BE by shape", "text/xml; charset=utf-8", utf16(plain, u16::to_be_bytes), "Café €"),
        ("UTF-32LE with its mark", "", marked(b"\xff\xfe\0\0", utf32(plain, u32::to_le_bytes)), "Café €"),
        ("UTF-32BE with its mark", "", marked(b"\0\0\xfe\xff", utf32(plain, u32::to_be_bytes)), "Café €"),
        ("Shift_JIS by charset", "text/xml; charset=Shift_JIS", shift_jis.clone(), "登録"),
        ("Shift_JIS by its XML", "text/xml", declared("Shift_JIS", &shift_jis), "登録"),
    ] {
        let judgement = rules("reference = { xpath = '//m' }")
            .judge(&Ok(reply(200, &[("content-type", content_type)], body)), now());
        assert_eq!(judgement.reference.as_deref(), Some(expected), "{what}");
    }
}

#[test]
fn an_html_page_says_its_encoding_in_a_meta_element() {
    for meta in [
        "<meta charset=\"Shift_JIS\">",
        "<META CHARSET=shift_jis>",
        "<meta http-equiv=\"Content-Type\" content=\"text/html; charset=Shift_JIS\">",
    ] {
        let body = [format!("<html><head>{meta}</head><body>").as_bytes(), b"\x93o\x98^</body></html>"].concat();
        let judgement = rules("reference = { regex = '<body>(.*)</body>' }")
            .judge(&Ok(reply(200, &[("content-type", "text/html")], body)), now());
        assert_eq!(judgement.reference.as_deref(), Some("登録"), "{meta}");
    }
}

#[test]
fn damage_in_one_character_leaves_the_rest_of_a_text_readable() {
    let body = b"{\"m\":\"Caf\xc3\xa9 \xff Z\xc3\xbcrich\"}".to_vec();
    let judgement = rules("reference = { json = '$.m' }").judge(&Ok(reply(200, &[], body)), now());
    assert_eq!(judgement.reference.as_deref(), Some("Café \u{fffd} Zürich"));
}

// ---- JSON

#[test]
fn json_is_found_in_every_wrapping() {
    for (what, body) in [
        ("plain", r#"{"ok":1}"#),
        ("with white space", "\r\n  {\"ok\":1}\n\n"),
        ("with a byte order mark", "\u{feff}{\"ok\":1}"),
        ("JSONP", r#"callback({"ok":1});"#),
        ("JSONP of jQuery", "/**/jQuery19_1604({\"ok\":1})\n"),
        ("JSONP with a path", r#"window.leads["cb"] ({"ok":1}) ;"#),
        ("JSONP with a test", r#"/**/ typeof cb === 'function' && cb({"ok":1});"#),
        ("behind a guard", ")]}',\n{\"ok\":1}"),
        ("one per line", "{\"at\":7}\n{\"ok\":1}\n"),
        ("several on one line", r#"{"at":7} {"ok":1}"#),
    ] {
        assert!(accepts("{ json = '$.ok', equals = 1 }", body), "{what}");
    }
    for (what, body) in [
        ("cut off", r#"{"ok":1"#),
        ("cut off in the second document", "{\"ok\":1}\n{\"at\":"),
        ("a trailing comma", r#"{"ok":1,}"#),
        ("single quotes", "{'ok':1}"),
        ("JSONP that is cut off", r#"callback({"ok":1}"#),
        ("two arguments", r#"callback(200, {"ok":1});"#),
        ("text before it", r#"Notice: {"ok":1}"#),
        ("text behind it", r#"{"ok":1} thanks"#),
        ("empty", ""),
    ] {
        assert!(!accepts("{ json = '$.ok', equals = 1 }", body), "{what}");
        assert!(!accepts("{ json = '$.error', exists = false }", body), "{what} proves nothing");
    }
}

#[test]
fn a_json_document_may_be_a_single_value() {
    assert!(accepts("{ json = '$', equals = 'OK' }", "\"OK\""));
    assert!(accepts("{ json = '$', equals = true }", "true"));
    assert!(accepts("{ json = '$', equals = '31.00' }", "31.00"));
    assert!(!accepts("{ json = '$' }", "null"));
    assert!(!accepts("{ json = '$' }", "OK"));
}

#[test]
fn numbers_are_compared_and_read_as_they_were_written() {
    for written in
        ["31.00", "31.0", "0.10", "1e3", "1E+3", "-0", "-0.0", "12345678901234567890123", "0.1234567890123456789012"]
    {
        let body = format!(r#"{{"before":[1,"2.00",{{"n":3.50}}],"n":{written},"after":7.0}}"#);
        assert_eq!(extracts("{ json = '$.n' }", &body).as_deref(), Some(written));
        assert!(accepts(&format!("{{ json = '$.n', equals = '{written}' }}"), &body), "{written}");
    }
    assert_eq!(
        extracts("{ json = '$.a[1:]' }", "{\"t\":\"1.50 \\\" 2.50\",\"a\":[1.50,2.50]}").as_deref(),
        Some("2.50")
    );
    assert_eq!(
        extracts("{ json = '$' }", r#"{"a":[31.00,"\"x\n",null],"b":{}}"#).as_deref(),
        Some(r#"{"a":[31.00,"\"x\n",null],"b":{}}"#)
    );
    let nested = "{ json = '$.n', inside = { json = '$.x', as = 'json' } }";
    assert_eq!(extracts(nested, r#"{"x":{"n":31.00}}"#).as_deref(), Some("31.00"), "in an object");
    assert_eq!(extracts(nested, r#"{"x":"{\"n\":31.00}"}"#).as_deref(), Some("31.00"), "in a text");
    assert_eq!(extracts("{ json = '$.n' }", "cb({\"n\":31.00})").as_deref(), Some("31.00"));
    assert_eq!(extracts("{ json = '$.b' }", "{\"n\":31.00}\n{\"n\":1.0,\"b\":2.50}").as_deref(), Some("2.50"));
    // A key that stands twice: the last counts, and the exact digits of this document are not known.
    assert_eq!(extracts("{ json = '$.n' }", r#"{"n":1.00,"n":2.00}"#).as_deref(), Some("2.0"));
    assert!(accepts("{ json = '$.n', min = '31', max = '31' }", r#"{"n":31.00}"#));
}

// ---- texts, forms, nothing

#[test]
fn a_plain_text_is_taken_apart_by_groups() {
    let body = "OK|884213|31.00\r\n";
    assert!(accepts(r"{ regex = '^(\w+)\|', equals = 'OK' }", body));
    assert_eq!(extracts(r"{ regex = '^OK\|([^|]*)\|' }", body).as_deref(), Some("884213"));
    assert_eq!(extracts(r"{ regex = '\|([0-9.]+)\s*$' }", body).as_deref(), Some("31.00"));
    let csv = "status,id,price\n\"accepted\",\"B-7\",12.50\n";
    assert!(accepts(r#"{ regex = '(?m)^"?accepted"?,' }"#, csv));
    assert_eq!(extracts(r#"{ regex = '(?m)^"?accepted"?,"?([^",]*)' }"#, csv).as_deref(), Some("B-7"));
    let lines = "status=OK\nid=B-7\n";
    assert_eq!(extracts("{ regex = '(?m)^id=(.*)$' }", lines).as_deref(), Some("B-7"));
}

#[test]
fn the_whole_body_is_a_text_of_its_own() {
    assert!(accepts("{ body = true, one_of = ['OK', 'TRUE'] }", " OK\r\n"));
    assert!(!accepts("{ body = true, equals = 'OK' }", "OK, but no"));
    assert!(accepts("{ body = true, matches = '(?i)^thank you' }", "Thank you!"));
    assert!(accepts("{ body = true, equals = 'OK', inside = { json = '$.x', as = 'text' } }", r#"{"x":" OK "}"#));
}

#[test]
fn an_empty_body_can_be_named() {
    for empty in ["", " \r\n", "\u{feff}"] {
        assert!(accepts("{ body = true, exists = false }", empty), "{empty:?}");
        assert!(accepts("{ body = true, equals = '' }", empty), "{empty:?}");
        assert!(!accepts("{ body = true }", empty), "{empty:?}");
        for silent in ["json = '$.a'", "xpath = '//a'", "form = 'a'"] {
            assert!(!accepts(&format!("{{ {silent}, exists = false }}"), empty), "{silent} in {empty:?}");
        }
    }
    assert!(accepts(r"{ regex = '^\s*$' }", "") && accepts(r"{ regex = '^\s*$' }", "\n"));
    assert!(!accepts(r"{ regex = '^\s*$' }", "x"));
    assert!(!accepts("{ body = true, exists = false }", "x"));
}

#[test]
fn a_field_is_missing_only_from_a_form() {
    assert!(accepts("{ form = 'error', exists = false }", "status=ok"));
    assert!(!accepts("{ form = 'error', exists = false }", "error=1"));
    for other in ["<html a=b>", r#"{"a":"="}"#, "Service unavailable", ""] {
        assert!(!accepts("{ form = 'error', exists = false }", other), "{other}");
    }
    assert_eq!(extracts("{ form = 'Ünï' }", "x=1&%C3%9Cn%C3%AF=caf%C3%A9&a=").as_deref(), Some("café"));
}

#[test]
fn every_header_of_a_name_is_looked_at() {
    let taken = |rule: &str| {
        let rules = rules(&format!("accepted = {rule}"));
        let headers = [("X-Result", "queued"), ("x-other", "no"), ("x-result", " taken ")];
        rules.judge(&Ok(reply(204, &headers, "")), now()).explanation.rule == "accepted"
    };
    assert!(taken("{ header = 'X-RESULT', equals = 'taken' }"));
    assert!(taken("{ header = 'x-result', equals = 'queued' }"));
    assert!(!taken("{ header = 'x-result', equals = 'taken', every = true }"));
    assert!(taken("{ header = 'x-result', one_of = ['queued', 'taken'], every = true }"));
    assert!(taken("{ header = 'x-missing', exists = false }"));
}

// ---- several records

#[test]
fn every_record_can_be_demanded_to_pass() {
    let json = "{ json = '$.data[*].status', equals = 'success', every = true }";
    for (body, expected) in [
        (r#"{"data":[{"status":"success"},{"status":"success"}]}"#, true),
        (r#"{"data":[{"status":"success"},{"status":"error"}]}"#, false),
        (r#"{"data":[{"status":"success"},{"status":null}]}"#, false),
        (r#"{"data":[]}"#, false),
        (r#"{"error":"x"}"#, false),
        ("no JSON", false),
        ("{\"data\":[{\"status\":\"success\"}]}\n{\"data\":[{\"status\":\"error\"}]}", false),
    ] {
        assert_eq!(accepts(json, body), expected, "{body}");
    }
    let xml = "{ xpath = '//record/@status', equals = 'ok', every = true }";
    assert!(accepts(xml, "<r><record status='ok'/><record status='ok'/></r>"));
    assert!(!accepts(xml, "<r><record status='ok'/><record status='no'/></r>"));
    let nested = "{ json = '$.ok', equals = true, every = true, inside = { json = '$[*]', as = 'json' } }";
    assert!(accepts(nested, r#"[{"ok":true},{"ok":true}]"#));
    assert!(!accepts(nested, r#"[{"ok":true},{"no":true}]"#), "a nested document that says nothing passes no test");
    assert!(!accepts(nested, &format!("[{}{{\"ok\":true}}]", "{\"ok\":true},".repeat(20))), "more than are opened");
}

#[test]
fn a_record_without_the_field_is_found_by_a_filter() {
    let rule = "{ all = [{ json = '$.data[0]' }, { json = \"$.data[?@.status != 'success']\", exists = false }] }";
    assert!(accepts(rule, r#"{"data":[{"status":"success"},{"status":"success"}]}"#));
    assert!(!accepts(rule, r#"{"data":[{"status":"success"},{}]}"#));
    assert!(!accepts(rule, r#"{"data":[]}"#));
}

#[test]
fn the_record_that_is_ours_is_picked_by_a_filter_or_a_predicate() {
    let body = r#"{"results":[{"campaign":"wind","code":9},{"campaign":"solar","code":1,"id":"B-7"}]}"#;
    assert!(accepts("{ json = \"$.results[?@.campaign == 'solar'].code\", equals = 1 }", body));
    assert_eq!(extracts("{ json = \"$.results[?@.campaign == 'solar'].id\" }", body).as_deref(), Some("B-7"));
    let xml = "<r><lead c='wind'><s>no</s></lead><lead c='solar'><s>ok</s></lead></r>";
    assert!(accepts("{ xpath = \"//lead[@c = 'solar']/s\", equals = 'ok' }", xml));
    assert!(!accepts("{ xpath = \"//lead[@c = 'wind']/s\", equals = 'ok' }", xml));
}

#[test]
fn every_needs_a_test_and_belongs_to_a_verdict() {
    assert_eq!(faults("accepted = { json = '$.a', every = true }"), ["response.accepted.every"]);
    assert_eq!(faults("accepted = { json = '$.a', exists = true, every = true }"), ["response.accepted.every"]);
    assert_eq!(faults("reason = { json = '$.a', equals = 'x', every = true }"), ["response.reason.every"]);
    assert_eq!(faults("accepted = { body = false }"), ["response.accepted.body"]);
    assert_eq!(faults("accepted = { body = true, status = true }"), ["response.accepted"]);
}

// ---- extractors

#[test]
fn an_extractor_may_be_a_list_of_which_the_first_that_finds_something_counts() {
    let rules = rules(
        "reason = [{ json = '$.errors[*].message' }, { json = '$.message' }, { header = 'x-why' }]
         reference = [{ json = '$.id' }, { header = 'x-id' }]
         redirect_url = [{ json = '$.next' }, { json = '$.fallback' }]",
    );
    let both = judge(&rules, r#"{"errors":[{"message":"bad zip"}],"message":"see errors","id":7}"#);
    assert_eq!((both.reason.as_deref(), both.reference.as_deref()), (Some("bad zip"), Some("7")));
    let second =
        judge(&rules, r#"{"errors":[],"message":"over cap","next":"/thanks","fallback":"https://b.example/"}"#);
    assert_eq!(second.reason.as_deref(), Some("over cap"));
    assert_eq!(second.redirect_url.as_deref(), Some("https://b.example/"), "the first that is a web address");
    let third = rules.judge(&Ok(reply(200, &[("x-why", "closed"), ("x-id", "H-1")], "gone")), now());
    assert_eq!((third.reason.as_deref(), third.reference.as_deref()), (Some("closed"), Some("H-1")));
    assert_eq!(
        faults("reason = []\nreference = [{ json = '$.a' }, { json = '$[' }]"),
        ["response.reason", "response.reference[1].json"]
    );
}

//! Answers that stand in HTML pages: read as a browser reads them, selected by CSS and by XPath.

use super::{accepts, extracts, now, reply, rules};

const PAGE: &str = r#"<!DOCTYPE html>
<HTML lang=en><head><title>Lead   result</title>
<script>var message = "<p id=status>script</p>";</script><style>#status { color: red }</style>
<meta name="result" content="accepted">
<body onload="go()" class="done page">
<h1 id=status>Thank&nbsp;you,
   your lead was <b>accept</b>ed</h1>
<p>First<br>line<p class="note big">Second &amp; last
<form><input type=hidden name=code value="B-7"><input name="Token" value='t"1"'>
<select name=reason><option value=1>one<option value=2 selected>two</select>
<textarea name=payload>{"id":  "N-1"}</textarea></form>
<table><tr><td>Ref<td>884213<tr><td>Price<td>31.00</table>
<ul><li>a<li>b<li>c</ul>
<script type="application/json" id=data>{"code": 1, "text": "a  b"}</script>
<o:p>Word</o:p><img src=x alt="">
<template><p id=hidden>not shown</p></template>
</body></HTML>"#;

#[test]
fn css_selects_what_it_selects_in_a_browser() {
    for (selector, expected) in [
        ("#status", "Thank you, your lead was accepted"),
        ("H1", "Thank you, your lead was accepted"),
        ("h1 b", "accept"),
        ("body > h1", "Thank you, your lead was accepted"),
        ("title", "Lead result"),
        ("p", "First line"),
        ("p.note", "Second & last"),
        (".big.note", "Second & last"),
        ("h1 ~ p.note", "Second & last"),
        ("h1 + p", "First line"),
        ("p:not(.note)", "First line"),
        ("p:nth-of-type(2)", "Second & last"),
        ("li:first-child", "a"),
        ("li:last-child", "c"),
        ("li:nth-child(2)", "b"),
        ("li:nth-child( even )", "b"),
        ("option:checked", "two"),
        ("option[selected]", "two"),
        ("tr:nth-child(1) > td:nth-child(2)", "884213"),
        ("td + td", "884213"),
        ("table td:last-of-type", "884213"),
        ("[lang='en'] h1", "Thank you, your lead was accepted"),
        ("select[name=\"reason\"] option[value=\"1\"]", "one"),
        ("textarea[name^=pay]", r#"{"id":  "N-1"}"#),
        ("textarea[name$='load']", r#"{"id":  "N-1"}"#),
        ("textarea[name*=yloa]", r#"{"id":  "N-1"}"#),
        ("textarea[name=PAYLOAD i]", r#"{"id":  "N-1"}"#),
        ("p[class~=big]", "Second & last"),
        ("html[lang|=en] title", "Lead result"),
        ("#missing, title", "Lead result"),
        ("p, h1", "Thank you, your lead was accepted"),
        ("p", "First line"),
    ] {
        assert_eq!(extracts(&format!("{{ css = '''{selector}''' }}"), PAGE).as_deref(), Some(expected), "{selector}");
    }
    for nothing in [
        "#Status",
        "h2",
        "h1 > i",
        "b h1",
        "p + h1",
        "p[class~='note big']x",
        "li:only-child",
        "#hidden",
        "template p",
        "p[class=note]",
        "textarea[name=PAYLOAD]",
        "h1:empty",
        "script p",
    ] {
        if nothing.ends_with('x') {
            continue;
        }
        assert_eq!(extracts(&format!("{{ css = '''{nothing}''' }}"), PAGE), None, "{nothing}");
    }
}

#[test]
fn attributes_are_the_fields_of_a_page() {
    for (selector, attribute, expected) in [
        ("input[name=code]", "value", "B-7"),
        ("input[name=Token]", "VALUE", "t\"1\""),
        ("meta[name=result]", "content", "accepted"),
        ("form input", "name", "code"),
        ("html", "lang", "en"),
        ("input:not([type=hidden]), option:checked", "value", "t\"1\""),
    ] {
        let rule = format!("{{ css = '''{selector}''', attribute = '{attribute}' }}");
        assert_eq!(extracts(&rule, PAGE).as_deref(), Some(expected), "{selector} @{attribute}");
    }
    assert!(!accepts("{ css = 'h1', attribute = 'title' }", PAGE));
    assert!(accepts("{ css = 'img', attribute = 'alt', equals = '' }", PAGE));
}

#[test]
fn xpath_reads_a_page_with_names_in_small_letters() {
    for (expression, expected) in [
        ("//h1", "Thank you, your lead was accepted"),
        ("/html/body/h1[@id = 'status']", "Thank you, your lead was accepted"),
        ("//input[@name = 'code']/@value", "B-7"),
        ("//td[. = 'Price']/following-sibling::td", "31.00"),
        ("//tr[td = 'Ref']/td[2]", "884213"),
        ("//h1[contains(., 'Thank')]", "Thank you, your lead was accepted"),
        ("//x:h1/y:b", "accept"),
        ("normalize-space(//li[2])", "b"),
        ("//p", "First line"),
        ("//o:p[. = 'Word']", "Word"),
        ("//meta/@content", "accepted"),
    ] {
        assert_eq!(
            extracts(&format!("{{ xpath = \"{expression}\" }}"), PAGE).as_deref(),
            Some(expected),
            "{expression}"
        );
    }
    assert!(!accepts("{ xpath = '//H1' }", PAGE));
    let well_formed = "<html><body><h1>Done</h1></body></html>";
    assert!(accepts("{ xpath = '//h1', equals = 'Done' }", well_formed));
    assert!(accepts("{ xpath = '//h1', equals = 'Done' }", &well_formed.to_uppercase().replace("DONE", "Done")));
}

#[test]
fn documents_within_pages_are_opened() {
    for rule in [
        "json = '$.code', equals = 1, inside = { css = '#data', as = 'json' }",
        "json = '$.text', equals = 'a  b', inside = { css = 'script[type$=json]', as = 'json' }",
        "json = '$.id', equals = 'N-1', inside = { css = 'textarea', as = 'json' }",
        "json = '$.id', equals = 'N-1', inside = { xpath = '//textarea', as = 'json' }",
        "regex = '^B-', inside = { css = 'input', attribute = 'value', as = 'text' }",
    ] {
        assert!(accepts(&format!("{{ {rule} }}"), PAGE), "{rule}");
    }
    let html = r#"{"html":"<P>Status: <B>taken</B><br>Ref <i id=r>B-7</i>"}"#;
    assert!(accepts("{ css = 'p > b', equals = 'taken', inside = { json = '$.html', as = 'html' } }", html));
    assert!(accepts("{ xpath = '//i[@id]', equals = 'B-7', inside = { json = '$.html', as = 'html' } }", html));
    assert!(accepts(
        "{ css = 'b', equals = 'taken', inside = { xpath = '//Page', as = 'html' } }",
        "<r><Page>&lt;b>taken&lt;/b></Page></r>"
    ));
}

#[test]
fn a_page_proves_something_missing_only_to_a_rule_that_expects_a_page() {
    for page in [
        "<html><body>Maintenance<br></body></html>",
        "<!doctype html><title>Maintenance</title>",
        "<html><body><p>Sorry</p></body></html>",
    ] {
        for rule in [
            "xpath = '//error', exists = false",
            "xpath = 'count(//error) = 0'",
            "xpath = 'not(//error)'",
            "xpath = 'count(//error)', equals = 0",
            "xpath = 'string(//error)', equals = ''",
            "xpath = '//error', exists = false, inside = { css = 'body', as = 'xml' }",
        ] {
            assert!(!accepts(&format!("{{ {rule} }}"), page), "{rule} in {page}");
        }
        assert!(accepts("{ css = '.error', exists = false }", page), "{page}");
    }
    let inside = "inside = { json = '$.h', as = 'html' }";
    let body = r#"{"h":"<html><p class=ok>x</p></html>"}"#;
    assert!(accepts(&format!("{{ xpath = 'count(//p) = 1', {inside} }}"), body));
    assert!(accepts(&format!("{{ xpath = '//error', exists = false, {inside} }}"), body));
}

#[test]
fn what_is_no_page_or_was_cut_off_selects_nothing() {
    for (what, body) in [
        ("JSON", r#"{"m":"<p>ok</p>"}"#),
        ("plain text", "Accepted p"),
        ("empty", ""),
        ("cut off in the body", "<html><body><p>ok</p>"),
        ("cut off in the page", "<!doctype html><html><head></head><p>ok</p>"),
        ("cut off in an element", "<p>ok</p><div>not"),
        ("cut off in a tag", "<p>ok</p><a hre"),
        ("cut off in a quoted value", "<p>ok</p><a title=\"x>"),
        ("cut off in a comment", "<p>ok</p><!-- x>"),
        ("cut off in a script", "<p>ok</p><script>x>"),
    ] {
        assert!(!accepts("{ css = 'p' }", body), "{what}");
        assert!(!accepts("{ css = '.error', exists = false }", body), "{what} proves nothing");
        let html = reply(200, &[("content-type", "text/html")], body.to_owned());
        let xpath = rules("accepted = { xpath = '//p', equals = 'ok' }").judge(&Ok(html), now());
        // What is XML anyway was read as that before.
        assert_ne!(xpath.explanation.rule, "accepted", "{what}");
    }
    assert!(accepts("{ css = 'p', equals = 'ok' }", "<p>ok"), "what may stay open may");
    assert!(accepts("{ css = 'p', equals = 'ok' }", "<body><p>ok<div></body>"));
    assert!(accepts("{ css = 'td', equals = 'ok' }", "<table><tr><td>ok</table>"));
    assert!(!accepts("{ css = '.error', exists = false }", "<soap:Envelope><x/></soap:Envelope>"), "no page");
}

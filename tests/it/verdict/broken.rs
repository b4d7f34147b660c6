//! XML that is not quite XML: what is there is found, and what was cut off says nothing.

use super::{accepts, endpoint, extracts, gbp, now, reply};
use lead_gateway::verdict::Rules;

#[test]
fn what_is_there_is_found_in_xml_that_is_not_quite_xml() {
    let cases = [
        ("two roots", "<status>ok</status><message>fine</message>"),
        ("two documents", "<?xml version=\"1.0\"?><a><status>ok</status></a>\n<?xml version=\"1.0\"?><b/>"),
        ("text before the root", "Notice: x &lt; y in /lead.php on line 3\n<r><status>ok</status></r>"),
        ("markup before the root", "<br />\n<b>Warning</b>: mysql_connect()<br />\n<r><status>ok</status></r>"),
        ("text after the root", "<r><status>ok</status></r>\n-- processed in 0.3 s & done"),
        ("a comment around it", "<!-- a --><r><status>ok</status></r><!-- b -->"),
        ("white space before the declaration", " \r\n<?xml version=\"1.0\"?><r><status>ok</status></r>"),
        ("a byte order mark read as Latin-1", "ï»¿<?xml version=\"1.0\"?><r><status>ok</status></r>"),
        ("no declaration", "<r><status>ok</status></r>"),
        ("a version that nobody knows", "<?xml version=\"9.9\" encoding=\"klingon\"?><r><status>ok</status></r>"),
        ("a declaration in small quotes and odd order", "<?xml encoding='x' version='1.0'?><r><status>ok</status></r>"),
        ("an undeclared prefix", "<ns1:r><ns1:status>ok</ns1:status></ns1:r>"),
        ("an undeclared prefix of an attribute", "<r xsi:nil='false'><status xsi:type='s'>ok</status></r>"),
        ("a bare ampersand", "<r><m>Smith & Sons</m><status>ok</status></r>"),
        ("a bare ampersand in an attribute", "<r u='/a?b=1&c=2'><status>ok</status></r>"),
        ("an entity of HTML", "<r><m>a&nbsp;b &copy; &eacute;</m><status>ok</status></r>"),
        ("a reference that is none", "<r><m>&nosuch; &#xFFFFFF; &#; &;</m><status>ok</status></r>"),
        ("a bare less-than", "<r><m>1 < 2</m><status>ok</status></r>"),
        ("an attribute without quotes", "<r id=7><status>ok</status></r>"),
        ("an attribute twice", "<r id='7' id='8'><status>ok</status></r>"),
        ("a control character", "<r><m>\u{1}\u{b}</m><status>ok</status></r>"),
        ("a document type", "<!DOCTYPE r SYSTEM \"http://x.example/r.dtd\"><r><m>&nbsp;</m><status>ok</status></r>"),
        ("CDATA beside a bare ampersand", "<r>&<status><![CDATA[ok]]></status></r>"),
    ];
    for (what, body) in cases {
        assert!(accepts("{ xpath = '//status', equals = 'ok' }", body), "{what}: {body}");
        assert!(!accepts("{ xpath = '//status', equals = 'no' }", body), "{what}");
    }
}

#[test]
fn what_was_repaired_reads_as_it_was_meant() {
    for (expression, body, expected) in [
        ("/message", "<status>ok</status><message>fine</message>", "fine"),
        ("/b/id", "<a><id/></a><b><id>7</id></b>", "7"),
        ("//m", "<r><m>Smith & Sons</m></r>", "Smith & Sons"),
        ("//m", "<r><m>Smith & Sons &amp; &lt;Co&#62; &#x26;</m></r>", "Smith & Sons & <Co> &"),
        ("//m", "<r><m>caf&eacute;&nbsp;&euro;</m></r>", "café\u{a0}€"),
        ("//@u", "<r u='/a?b=1&c=\"2\"'/>", "/a?b=1&c=\"2\""),
        ("//r/@id", "<r id=7 id=8/>", "7"),
        ("//m", "<r>& <m><![CDATA[a & b <c>]]></m></r>", "a & b <c>"),
        ("//x:m/@y:k", "<a:r><b:m b:k='7'/></a:r>", "7"),
    ] {
        assert_eq!(extracts(&format!("{{ xpath = \"{expression}\" }}"), body).as_deref(), Some(expected), "{body}");
    }
    let every = "{ xpath = '/record/status', equals = 'ok', every = true }";
    assert!(accepts(every, "<record><status>ok</status></record><record><status>ok</status></record>"));
    assert!(!accepts(every, "<record><status>ok</status></record><record><status>no</status></record>"));
    let nested = "{ xpath = '//status', equals = 'ok', inside = { xpath = '//Result', as = 'xml' } }";
    assert!(accepts(nested, "<r><Result>&lt;m>a &amp; b&lt;/m>&lt;status>ok&lt;/status></Result></r>"));
}

#[test]
fn a_document_that_was_cut_off_or_is_out_of_order_selects_nothing() {
    for body in [
        "<r><status>ok</status>",
        "<r><status>ok</status></r",
        "<r><status>ok</status></r><m",
        "<r><status>ok</status></r><m>",
        "<r><status>ok</status><!-- ",
        "<r><status>ok</status><![CDATA[",
        "<r><status>ok</status></x></r>",
        "<r><status>ok</r></status>",
        "<r><status>ok</status></r></r>",
        "</r><r><status>ok</status></r>",
        "<r><status>ok</status><m a=\"x></r>",
        "<r><status>ok</status><m a></m></r>",
        "<r><status>ok</status><m a='1'b='2'/></r>",
        "<r><status>ok</status><a:b:c/></r>",
        "<r><Status>ok</status></r>",
        "<!DOCTYPE r [<!ENTITY e 'x'>]><r>&nbsp;<status>ok</status></r>",
        "<r><!DOCTYPE x><status>ok</status></r>",
        "{\"x\":\"<status>ok</status>\"}",
        "\"<status>ok</status>\"",
    ] {
        assert!(!accepts("{ xpath = '//status' }", body), "{body}");
        assert!(!accepts("{ xpath = '//error', exists = false }", body), "{body}");
    }
}

#[test]
fn what_had_to_be_repaired_proves_nothing_by_what_is_missing() {
    for body in ["<a/><b/>", "<r>a & b</r>", "Warning<r/>"] {
        for rule in
            ["'//error', exists = false", "'not(//error)'", "'count(//error) = 0'", "'count(//error)', equals = 0"]
        {
            assert!(!accepts(&format!("{{ xpath = {rule} }}"), body), "{rule} in {body}");
        }
    }
    assert!(accepts("{ xpath = '//error', exists = false }", "<r>a &amp; b</r>"));
}

#[test]
fn a_soap_fault_is_recognised_in_broken_xml() {
    let judged = |body: &str| {
        let rules = Rules::compile(&endpoint("soap11", "accepted = { xpath = '//Never' }"), gbp()).unwrap();
        rules.judge(&Ok(reply(500, &[], body.to_owned())), now())
    };
    let namespace = "xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"";
    let fault = |declared: &str, text: &str| {
        format!(
            "<s:Envelope {declared}><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>{text}</faultstring></s:Fault></s:Body></s:Envelope>"
        )
    };
    for body in [
        fault(namespace, "Smith & Sons"),
        fault(namespace, "no&nbsp;zip"),
        fault("", "undeclared"),
        format!("\n\n<?xml version=\"1.0\"?>{}", fault(namespace, "a & b")),
        format!("Notice: x\n{}", fault(namespace, "late")),
    ] {
        assert_eq!(judged(&body).explanation.rule, "soap_fault", "{body}");
    }
    assert_eq!(judged(&fault(namespace, "Smith & Sons")).reason.as_deref(), Some("Smith & Sons"));
    let cut = fault(namespace, "x").replace("</s:Envelope>", "");
    assert_eq!(judged(&cut).explanation.rule, "status", "half an envelope is none");
    let post = Rules::compile(&endpoint("post", ""), gbp()).unwrap();
    let undeclared = post.judge(&Ok(reply(200, &[], fault("", "x"))), now());
    assert_eq!(undeclared.explanation.rule, "soap_fault", "whatever the method");
}

//! The demo's world: its partners by plain HTTP, its network's files, its leads.

use std::collections::BTreeSet;

use jiff::{Span, Timestamp, Zoned, tz::TimeZone};
use lead_gateway::cli::demo::leads::LEADS;
use lead_gateway::cli::demo::network::{self, CLOSED_CONTRACT, TEMPLATES};
use lead_gateway::cli::demo::partners::{
    Addresses, BUSY_FIRST_FOR, KNOWN_TO_BRIGHTROOF, OUT_OF_ORDER_FOR, Partners, SILENT_FOR,
};
use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::contract::{Contract, Method};
use lead_gateway::model::delivery::{DeliveryState, Verdict};
use lead_gateway::model::partner::Partner;
use lead_gateway::model::source::Source;
use serde::Deserialize;
use serde_json::{Value as Json, json};

struct Reply {
    status: u16,
    content_type: String,
    retry_after: Option<String>,
    body: String,
}

impl Reply {
    fn has(&self, text: &str) -> bool {
        self.body.contains(text)
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }
}

fn client() -> reqwest::Client {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // No certificates: reading them costs more than all of a test's requests.
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

async fn send(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Reply {
        status: response.status().as_u16(),
        content_type: header("content-type").unwrap_or_default(),
        retry_after: header("retry-after"),
        body: response.text().await.unwrap(),
    }
}

async fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let request = headers.iter().fold(client().post(url), |request, (name, value)| request.header(*name, *value));
    send(request.body(body.to_owned())).await
}

// ── BrightRoof ──

const SOAP12: &str = "http://www.w3.org/2003/05/soap-envelope";
const SOAP11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const BRIGHTROOF_BASIC: &str = "Basic bGVhZC1nYXRld2F5OmRlbW8tcGFzc3dvcmQ=";
const BRIGHTROOF_TYPE: &str = "application/soap+xml; charset=utf-8; action=\"urn:brightroof:leads:SubmitLead\"";

fn envelope(namespace: &str, header: &str, content: &str) -> String {
    format!("<s:Envelope xmlns:s=\"{namespace}\">{header}<s:Body>{content}</s:Body></s:Envelope>")
}

fn submit_lead(first: &str, email: &str) -> String {
    format!(
        "<SubmitLead xmlns=\"urn:brightroof:leads\"><FirstName>{first}</FirstName><LastName>Hart</LastName>\
         <Email>{email}</Email><Phone>+442079460101</Phone><Postcode>SW1A 1AA</Postcode></SubmitLead>"
    )
}

async fn to_brightroof(partners: &Partners, body: &str) -> Reply {
    let url = format!("http://{}/leads", partners.addresses().brightroof);
    post(&url, &[("authorization", BRIGHTROOF_BASIC), ("content-type", BRIGHTROOF_TYPE)], body).await
}

#[tokio::test]
async fn brightroof_takes_a_good_message_once_and_then_says_dup() {
    let partners = Partners::start().await.unwrap();
    let message = envelope(SOAP12, "", &submit_lead("Amelia", "a@mail.example"));
    let first = to_brightroof(&partners, &message).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert!(first.content_type.starts_with("application/soap+xml"), "{}", first.content_type);
    assert!(first.has("<Status>OK</Status>") && first.has("<LeadRef>BR-") && first.has(">31.00</Price>"));
    let again = envelope(SOAP12, "", &submit_lead("Amelia", "A@MAIL.example"));
    assert!(to_brightroof(&partners, &again).await.has("<Code>DUP</Code>"));
    let known = envelope(SOAP12, "", &submit_lead("Priya", KNOWN_TO_BRIGHTROOF));
    assert!(to_brightroof(&partners, &known).await.has("<Code>DUP</Code>"));
    partners.stop().await;
}

#[tokio::test]
async fn brightroof_reads_a_hostile_name_exactly() {
    let partners = Partners::start().await.unwrap();
    let name = fixture("08-hostile-name.json")["last_name"].as_str().unwrap().to_owned();
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let message = envelope(SOAP12, "", &submit_lead(&escaped, "z@mail.example"));
    assert_eq!(to_brightroof(&partners, &message).await.status, 200);
    let received = partners.received_by("brightroof");
    assert_eq!(received[0].lead.as_ref().unwrap()["FirstName"], name);
    assert_eq!(received[0].body, message);
    partners.stop().await;
}

#[tokio::test]
async fn brightroof_answers_a_wrong_message_with_a_sender_fault_and_400() {
    let partners = Partners::start().await.unwrap();
    let good = submit_lead("Amelia", "a@mail.example");
    let wrong = [
        ("a missing element", envelope(SOAP12, "", &good.replace("<LastName>Hart</LastName>", ""))),
        ("an empty element", envelope(SOAP12, "", &good.replace("Amelia", ""))),
        ("an unknown element", envelope(SOAP12, "", &good.replace("</SubmitLead>", "<Cheap>1</Cheap></SubmitLead>"))),
        ("a repeated element", envelope(SOAP12, "", &good.replace("<Email>", "<LastName>H</LastName><Email>"))),
        (
            "another order",
            envelope(
                SOAP12,
                "",
                &good
                    .replace("<FirstName>Amelia</FirstName>", "")
                    .replace("</SubmitLead>", "<FirstName>Amelia</FirstName></SubmitLead>"),
            ),
        ),
        ("no e-mail address", envelope(SOAP12, "", &good.replace("a@mail.example", "a@mail"))),
        ("a national number", envelope(SOAP12, "", &good.replace("+442079460101", "02079460101"))),
        ("a bare ampersand", envelope(SOAP12, "", &good.replace("Amelia", "Tom & Jerry"))),
        ("an element in a name", envelope(SOAP12, "", &good.replace("Amelia", "<b>Amelia</b>"))),
        ("an unknown entity", envelope(SOAP12, "", &good.replace("Amelia", "Zo&euml;"))),
        ("a control character", envelope(SOAP12, "", &good.replace("Amelia", "Amelia\u{1}"))),
        ("a reference to one", envelope(SOAP12, "", &good.replace("Amelia", "Amelia&#1;"))),
        ("]]> in text", envelope(SOAP12, "", &good.replace("Amelia", "]]>"))),
        ("another namespace", envelope(SOAP12, "", &good.replace("urn:brightroof:leads", "urn:other"))),
        ("an undeclared prefix", envelope(SOAP12, "", &good.replace("SubmitLead ", "x:SubmitLead "))),
        ("an empty body", envelope(SOAP12, "", "")),
        ("two elements", envelope(SOAP12, "", &format!("{good}{good}"))),
        ("no XML", "{\"first_name\":\"Amelia\"}".to_owned()),
        ("two roots", envelope(SOAP12, "", &good).repeat(2)),
        ("a DTD", format!("<!DOCTYPE x [<!ENTITY a \"b\">]>{}", envelope(SOAP12, "", &good))),
        ("a broken end", envelope(SOAP12, "", &good).replace("</s:Envelope>", "")),
        ("nothing", String::new()),
    ];
    for (what, message) in wrong {
        let reply = to_brightroof(&partners, &message).await;
        assert_eq!(reply.status, 400, "{what}: {}", reply.body);
        assert!(reply.has("<env:Value>env:Sender</env:Value>"), "{what}: {}", reply.body);
    }
    assert!(partners.received().iter().all(|received| received.lead.is_none()));
    partners.stop().await;
}

#[tokio::test]
async fn brightroof_checks_how_soap_1_2_is_carried() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/leads", partners.addresses().brightroof);
    let message = envelope(SOAP12, "", &submit_lead("Amelia", "a@mail.example"));
    let basic = ("authorization", BRIGHTROOF_BASIC);
    let typed = |value: &'static str| [basic, ("content-type", value)];

    assert_eq!(post(&url, &[("content-type", BRIGHTROOF_TYPE)], &message).await.status, 401);
    assert_eq!(post(&url, &typed("text/xml"), &message).await.status, 415);
    let no_action = post(&url, &typed("application/soap+xml; charset=utf-8"), &message).await;
    assert!(no_action.status == 400 && no_action.has("action"), "{}", no_action.body);
    let latin = "application/soap+xml; charset=iso-8859-1; action=\"urn:brightroof:leads:SubmitLead\"";
    assert_eq!(post(&url, &typed(latin), &message).await.status, 415);

    let old = to_brightroof(&partners, &message.replace(SOAP12, SOAP11)).await;
    assert_eq!(old.status, 500);
    assert!(old.has("env:VersionMismatch") && old.has("SupportedEnvelope"), "{}", old.body);
    let block = "<s:Header><x:Sign xmlns:x=\"urn:x\" s:mustUnderstand=\"true\"/></s:Header>";
    let signed = envelope(SOAP12, block, &submit_lead("Amelia", "a@mail.example"));
    assert!(to_brightroof(&partners, &signed).await.has("env:MustUnderstand"));
    let down = to_brightroof(&partners, &envelope(SOAP12, "", &submit_lead("Otto", OUT_OF_ORDER_FOR))).await;
    assert_eq!(down.status, 500);
    assert!(down.has("<env:Value>env:Receiver</env:Value>"), "{}", down.body);

    assert_eq!(post(&url.replace("/leads", "/"), &typed(BRIGHTROOF_TYPE), &message).await.status, 404);
    assert_eq!(send(client().get(&url)).await.status, 405);
    partners.stop().await;
}

// ── SolarNow ──

fn solarnow_lead(email: &str) -> Json {
    json!({
        "lead": {
            "firstName": "Daniel", "lastName": "Okafor", "email": email, "phone": "+441614960102",
            "postcode": "M1 1AE", "monthlyBill": 120.5, "homeowner": false, "roofType": null, "notes": null,
        },
        "reference": "0199f6c2",
    })
}

async fn to_solarnow(partners: &Partners, body: &str) -> Reply {
    let url = format!("http://{}/api/v1/leads", partners.addresses().solarnow);
    post(&url, &[("x-api-key", "demo-solarnow-key"), ("content-type", "application/json")], body).await
}

#[tokio::test]
async fn solarnow_takes_a_good_lead_once() {
    let partners = Partners::start().await.unwrap();
    let body = solarnow_lead("d@mail.example").to_string();
    let first = to_solarnow(&partners, &body).await;
    assert_eq!((first.status, first.content_type.as_str()), (201, "application/json"));
    assert_eq!(first.json(), json!({"id": "SN-1001", "status": "accepted", "price": 28.75}));
    let second = to_solarnow(&partners, &body).await;
    assert_eq!((second.status, second.json()["status"].as_str()), (409, Some("duplicate")));
    partners.stop().await;
}

#[tokio::test]
async fn solarnow_insists_on_its_key_its_types_and_its_names() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/api/v1/leads", partners.addresses().solarnow);
    let good = solarnow_lead("d@mail.example");
    let typed = [("content-type", "application/json")];
    assert_eq!(post(&url, &typed, &good.to_string()).await.status, 401);
    let form = [("x-api-key", "demo-solarnow-key"), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(post(&url, &form, &good.to_string()).await.status, 415);
    assert_eq!(to_solarnow(&partners, "{\"lead\": ").await.status, 400);

    let wrong = [
        ("/lead/monthlyBill", json!("120.50")),
        ("/lead/monthlyBill", json!(-1)),
        ("/lead/monthlyBill", Json::Null),
        ("/lead/homeowner", json!("false")),
        ("/lead/firstName", json!("")),
        ("/lead/email", json!("d at mail")),
        ("/lead/phone", json!("0161 496 0102")),
        ("/lead/postcode", json!("m11ae")),
        ("/reference", json!(17)),
    ];
    for (place, value) in wrong {
        let mut body = good.clone();
        *body.pointer_mut(place).unwrap() = value;
        let reply = to_solarnow(&partners, &body.to_string()).await;
        assert_eq!((reply.status, reply.json()["status"].as_str()), (422, Some("rejected")), "{place}");
        assert!(reply.json()["reason"].is_string(), "{place}");
    }
    let mut unknown = good.clone();
    unknown["lead"]["colour"] = json!("red");
    assert_eq!(to_solarnow(&partners, &unknown.to_string()).await.status, 422);
    assert_eq!(to_solarnow(&partners, &good.to_string()).await.status, 201);
    partners.stop().await;
}

#[tokio::test]
async fn solarnow_is_busy_at_the_first_sight_of_one_person() {
    let partners = Partners::start().await.unwrap();
    let body = solarnow_lead(BUSY_FIRST_FOR).to_string();
    let first = to_solarnow(&partners, &body).await;
    assert_eq!((first.status, first.retry_after.as_deref()), (503, Some("1")));
    assert_eq!(to_solarnow(&partners, &body).await.status, 201);
    partners.stop().await;
}

// ── LeadHouse ──

fn leadhouse_form(email: &str) -> Vec<(&'static str, String)> {
    [
        ("campid", "SOLAR-UK"),
        ("sid", "LG-7"),
        ("returnjson", "yes"),
        ("firstname", "Megan"),
        ("lastname", "Llŷr-Pryce"),
        ("email", email),
        ("phone1", "029 2018 0103"),
        ("postcode", "CF10 1EP"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

fn encode(form: &[(&str, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

async fn to_leadhouse(partners: &Partners, body: &str) -> Json {
    let url = format!("http://{}/submit.php", partners.addresses().leadhouse);
    let reply = post(&url, &[("content-type", "application/x-www-form-urlencoded")], body).await;
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "text/html; charset=utf-8"));
    reply.json()["code"].clone()
}

#[tokio::test]
async fn leadhouse_says_everything_by_a_code_in_a_200() {
    let partners = Partners::start().await.unwrap();
    let form = leadhouse_form("m@mail.example");
    assert_eq!(to_leadhouse(&partners, &encode(&form)).await, 1);
    assert_eq!(partners.received()[0].lead.as_ref().unwrap()["lastname"], "Llŷr-Pryce");
    assert_eq!(to_leadhouse(&partners, &encode(&form)).await, -2);
    for (name, value, code) in [
        ("email", "m@@mail.example", -5),
        ("email", "", -5),
        ("phone1", "+442920180103", -5),
        ("postcode", "CF101EP", -5),
        ("returnjson", "no", -5),
        ("campid", "OTHER", -9),
        ("sid", "OTHER", -9),
    ] {
        let changed = |(n, v): &(&'static str, String)| (*n, if *n == name { value.to_owned() } else { v.clone() });
        let form: Vec<_> = leadhouse_form("n@mail.example").iter().map(changed).collect();
        assert_eq!(to_leadhouse(&partners, &encode(&form)).await, code, "{name}={value}");
    }
    assert_eq!(to_leadhouse(&partners, &encode(&form[1..])).await, -5, "a missing field");
    assert_eq!(to_leadhouse(&partners, &format!("{}&x=1", encode(&form))).await, -5, "an unknown field");
    assert_eq!(to_leadhouse(&partners, &encode(&form).replace("Megan", "%FF")).await, -5, "not UTF-8");
    let url = format!("http://{}/submit.php", partners.addresses().leadhouse);
    let json = post(&url, &[("content-type", "application/json")], "{}").await;
    assert_eq!(json.json()["code"], -5);
    assert_eq!(send(client().get(&url)).await.status, 405);
    partners.stop().await;
}

#[tokio::test]
async fn leadhouse_says_when_its_cap_is_reached() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/submit.php", partners.addresses().leadhouse);
    let client = client();
    let mut codes = Vec::new();
    for number in 0..=500 {
        let body = encode(&leadhouse_form(&format!("m{number}@mail.example")));
        let request = client.post(&url).header("content-type", "application/x-www-form-urlencoded");
        codes.push(send(request.body(body)).await.json()["code"].as_i64().unwrap());
    }
    assert!(codes[..500].iter().all(|code| *code == 1));
    assert_eq!(codes[500], -4);
    partners.stop().await;
}

#[tokio::test]
async fn leadhouse_takes_callbacks_by_get_with_a_key() {
    let partners = Partners::start().await.unwrap();
    let mut form = leadhouse_form("c@mail.example");
    let url = |form: &[_]| format!("http://{}/callback.php?{}", partners.addresses().leadhouse, encode(form));
    assert_eq!(send(client().get(url(&form))).await.json()["code"], -9);
    form.push(("apikey", "demo-leadhouse-key".to_owned()));
    assert_eq!(send(client().get(url(&form))).await.json()["code"], 1);
    assert_eq!(send(client().get(url(&form))).await.json()["code"], -2);
    assert_eq!(send(client().get(url(&form[1..]))).await.json()["code"], -5);
    assert_eq!(send(client().post(url(&form))).await.status, 405);
    assert!(partners.received()[0].path.starts_with("/callback.php?campid=SOLAR-UK&"));
    partners.stop().await;
}

// ── GreenQuote ──

fn greenquote_lead(email: &str, roof: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<lead source=\"acme\"><first_name>Ravi</first_name><last_name>Shah &amp; Co</last_name>\
         <email>{email}</email><phone>+441134960104</phone><postcode>LS1 4AP</postcode><roof>{roof}</roof></lead>"
    )
}

async fn to_greenquote(partners: &Partners, body: &str) -> Reply {
    let url = format!("http://{}/import", partners.addresses().greenquote);
    let headers =
        [("authorization", "Bearer demo-greenquote-token"), ("content-type", "application/xml; charset=utf-8")];
    post(&url, &headers, body).await
}

#[tokio::test]
async fn greenquote_matches_or_does_not_and_is_always_200() {
    let partners = Partners::start().await.unwrap();
    let good = greenquote_lead("r@mail.example", "PITCHED");
    let reply = to_greenquote(&partners, &good).await;
    assert!(reply.has("<status>Matched</status>") && reply.has("<price>24.00</price>"), "{}", reply.body);
    assert_eq!(partners.received()[0].lead.as_ref().unwrap()["last_name"], "Shah & Co");
    assert!(to_greenquote(&partners, &good).await.has("<error>Duplicate lead</error>"));
    assert!(to_greenquote(&partners, &greenquote_lead("s@mail.example", "FLAT")).await.has("Unmatched"));
    for wrong in [
        good.replace("PITCHED", "pitched"),
        good.replace("<roof>PITCHED</roof>", ""),
        good.replace(" source=\"acme\"", ""),
        good.replace("<lead ", "<lead xmlns=\"urn:x\" "),
        good.replace("Ravi", "<![CDATA[]]><i/>"),
        good.replace("LS1 4AP", "Leeds"),
        "<lead>".to_owned(),
    ] {
        let reply = to_greenquote(&partners, &wrong).await;
        assert_eq!(reply.status, 200);
        assert!(reply.has("<status>Error</status>"), "{wrong}: {}", reply.body);
    }
    let url = format!("http://{}/import", partners.addresses().greenquote);
    assert!(post(&url, &[("content-type", "application/xml")], &good).await.has("token"));
    partners.stop().await;
}

// ── Slate & Sons ──

const SLATE: &str = "http://slate-sons.example/enquiries";

fn enquiry(email: &str) -> String {
    let header = format!("<s:Header><Account xmlns=\"{SLATE}\"><Number>LG-0042</Number></Account></s:Header>");
    let content = format!(
        "<AddEnquiry xmlns=\"{SLATE}\"><Forename>Fiona</Forename><Surname>Drummond</Surname>\
         <EmailAddress>{email}</EmailAddress><Telephone>0131 496 0105</Telephone><PostCode>EH1 1YZ</PostCode>\
         <RoofCovering>SLATE</RoofCovering><ReceivedOn>2026-11-21</ReceivedOn></AddEnquiry>"
    );
    envelope(SOAP11, &header, &content)
}

fn slate_headers() -> [(&'static str, &'static str); 2] {
    let action = "\"http://slate-sons.example/enquiries/AddEnquiry\"";
    [("content-type", "text/xml; charset=utf-8"), ("soapaction", action)]
}

#[tokio::test]
async fn slate_and_sons_answers_with_xml_inside_a_string() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/enquiries.asmx", partners.addresses().slate_sons);
    let first = post(&url, &slate_headers(), &enquiry("f@mail.example")).await;
    assert_eq!((first.status, first.content_type.as_str()), (200, "text/xml; charset=utf-8"));
    assert!(first.has("&lt;Status&gt;Accepted&lt;/Status&gt;&lt;Enquiry&gt;SS-1001"), "{}", first.body);
    assert!(post(&url, &slate_headers(), &enquiry("f@mail.example")).await.has("&lt;Status&gt;Known&lt;"));
    partners.stop().await;
}

#[tokio::test]
async fn slate_and_sons_sends_its_faults_with_500() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/enquiries.asmx", partners.addresses().slate_sons);
    let good = enquiry("f@mail.example");
    for (what, message) in [
        ("no account", good.replace("LG-0042", "LG-1")),
        ("an international number", good.replace("0131 496 0105", "+441314960105")),
        ("a day that is none", good.replace("2026-11-21", "2026-11-31")),
        ("a missing element", good.replace("<RoofCovering>SLATE</RoofCovering>", "")),
        ("not well-formed", good.replace("</s:Body>", "")),
    ] {
        let reply = post(&url, &slate_headers(), &message).await;
        assert_eq!(reply.status, 500, "{what}");
        assert!(reply.has("<faultcode>env:Client</faultcode>"), "{what}: {}", reply.body);
    }
    let unquoted = [slate_headers()[0], ("soapaction", "http://slate-sons.example/enquiries/AddEnquiry")];
    assert!(post(&url, &unquoted, &good).await.has("env:Client"));
    assert!(post(&url, &slate_headers()[..1], &good).await.has("env:Client"));
    let newer = post(&url, &slate_headers(), &good.replace(SOAP11, SOAP12)).await;
    assert!(newer.status == 500 && newer.has("env:VersionMismatch"), "{}", newer.body);
    partners.stop().await;
}

#[tokio::test]
async fn slate_and_sons_reads_one_person_and_never_answers() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/enquiries.asmx", partners.addresses().slate_sons);
    let request =
        slate_headers().iter().fold(client().post(&url), |request, (name, value)| request.header(*name, *value));
    let hanging = tokio::spawn(request.header("idempotency-key", "d-12").body(enquiry(SILENT_FOR)).send());
    // Others are served meanwhile, and see that it has been received.
    while partners.received().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(post(&url, &slate_headers(), &enquiry("f@mail.example")).await.status, 200);
    let silent = &partners.received()[0];
    assert_eq!((silent.answered, silent.delivery_id.as_deref()), (None, Some("d-12")));
    assert_eq!(silent.lead.as_ref().unwrap()["EmailAddress"], SILENT_FOR);
    assert!(!hanging.is_finished());
    // A stop does not wait for it.
    partners.stop().await;
    assert!(!hanging.await.unwrap().is_ok_and(|response| response.status().is_success()));
}

#[tokio::test]
async fn stopped_partners_let_go_of_their_ports() {
    let partners = Partners::start().await.unwrap();
    let Addresses { brightroof, solarnow, leadhouse, greenquote, slate_sons } = partners.addresses();
    let all = [brightroof, solarnow, leadhouse, greenquote, slate_sons];
    assert_eq!(BTreeSet::from(all).len(), 5);
    assert!(all.iter().all(|address| address.ip().is_loopback()));
    partners.stop().await;
    for address in all {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address}");
    }
}

#[tokio::test]
async fn a_partner_writes_down_what_it_received_and_shows_none_of_it_in_debug() {
    let partners = Partners::start().await.unwrap();
    let url = format!("http://{}/api/v1/leads?a=1", partners.addresses().solarnow);
    let body = solarnow_lead("d@mail.example").to_string();
    post(&url, &[("x-api-key", "secret-nonsense"), ("Idempotency-Key", "d-7")], &body).await;
    let received = partners.received();
    assert_eq!(received.len(), 1);
    let one = &received[0];
    assert_eq!((one.partner, one.method.as_str(), one.path.as_str()), ("solarnow", "POST", "/api/v1/leads?a=1"));
    assert_eq!((one.body.as_ref(), one.delivery_id.as_deref()), (body.as_bytes(), Some("d-7")));
    assert_eq!(one.headers["x-api-key"], "secret-nonsense");
    assert_eq!(one.answered.unwrap(), 401);
    let shown = format!("{partners:?}");
    assert!(!shown.contains("mail.example") && !shown.contains("nonsense"), "{shown}");
    partners.stop().await;
}

// ── The network ──

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Network {
    campaign: Vec<Campaign>,
    partner: Vec<Partner>,
    source: Vec<Source>,
    contract: Vec<Contract>,
}

const KEY: &str = "demo-0123456789abcdef";

fn addresses() -> Addresses {
    let at = |port| ([127, 0, 0, 1], port).into();
    Addresses {
        brightroof: at(4001),
        solarnow: at(4002),
        leadhouse: at(4003),
        greenquote: at(4004),
        slate_sons: at(4005),
    }
}

fn load(now: Timestamp) -> Network {
    let mut all = Network::default();
    for file in network::files(&addresses(), KEY, now).unwrap() {
        let one: Network = toml::from_str(&file.text).unwrap_or_else(|error| panic!("{}: {error}", file.name));
        all.campaign.extend(one.campaign);
        all.partner.extend(one.partner);
        all.source.extend(one.source);
        all.contract.extend(one.contract);
    }
    all
}

fn some_day() -> Timestamp {
    "2026-11-21T09:30:00Z".parse().unwrap()
}

#[test]
fn the_network_names_only_what_exists() {
    let network = load(some_day());
    let ids = |all: &mut dyn Iterator<Item = String>| all.collect::<BTreeSet<_>>();
    let campaigns = ids(&mut network.campaign.iter().map(|campaign| campaign.id.to_string()));
    let partners = ids(&mut network.partner.iter().map(|partner| partner.id.to_string()));
    let contracts = ids(&mut network.contract.iter().map(|contract| contract.id.to_string()));
    assert_eq!(contracts.len(), network.contract.len());
    assert_eq!(campaigns, BTreeSet::from([network::CAMPAIGN.to_owned()]));
    for contract in &network.contract {
        assert!(campaigns.contains(contract.campaign.as_str()) && partners.contains(contract.partner.as_str()));
        let endpoint = &contract.endpoint;
        assert!(endpoint.url.0.starts_with("http://127.0.0.1:400"), "{}", contract.id);
        for template in endpoint.template.iter().chain(&endpoint.header_template) {
            assert!(TEMPLATES.iter().any(|(name, _)| name == template), "{template}");
        }
        assert_eq!(endpoint.template.is_none(), endpoint.method.is_form());
        assert_eq!(endpoint.form.is_empty(), !endpoint.method.is_form());
        assert_eq!(endpoint.action.is_some(), endpoint.method.is_soap());
    }
    let source = &network.source[0];
    assert_eq!((source.id.as_str(), source.key.0[0].0.as_str()), (network::SOURCE, KEY));
    assert!(campaigns.contains(source.campaign.as_str()) && partners.contains(source.partner.as_str()));
    let used = |name: &str| {
        let endpoints = network.contract.iter().map(|contract| &contract.endpoint);
        endpoints
            .flat_map(|endpoint| endpoint.template.iter().chain(&endpoint.header_template))
            .any(|used| used == name)
    };
    assert!(TEMPLATES.iter().all(|(name, _)| used(name)));
    let currency = network.campaign[0].currency;
    for contract in &network.contract {
        lead_gateway::model::money::Amount::parse(contract.price.as_deref().unwrap(), currency).unwrap();
    }
}

#[test]
fn no_placeholder_is_left_in_the_network() {
    for file in network::files(&addresses(), KEY, some_day()).unwrap() {
        for placeholder in ["_ADDRESS", "SOURCE_KEY", "CLOSED_NOW"] {
            assert!(!file.text.contains(placeholder), "{} {placeholder}", file.name);
        }
    }
}

#[test]
fn source_keys_are_new_every_time_and_long_enough() {
    let (one, other) = (network::new_source_key(), network::new_source_key());
    assert_ne!(one, other);
    assert!(one.len() >= 16 && one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{one}");
}

#[test]
fn the_closed_contract_is_closed_now_at_any_hour_and_opens_within_its_hold() {
    // A fortnight around each change of the clocks in the partner's zone, and across a new year.
    for start in ["2026-03-22T00:00:00Z", "2026-10-18T00:00:00Z", "2026-12-25T00:00:00Z"] {
        let start: Timestamp = start.parse().unwrap();
        for hour in 0..14 * 24 {
            // Also in the hour's last second.
            for seconds in [0, 3_599] {
                closed_contract_at(start.checked_add(Span::new().hours(hour).seconds(seconds)).unwrap());
            }
        }
    }
}

fn closed_contract_at(now: Timestamp) {
    let files = network::files(&addresses(), KEY, now).unwrap();
    let text = &files.iter().find(|file| file.text.contains(CLOSED_CONTRACT)).unwrap().text;
    let one: Network = toml::from_str(text).unwrap();
    let contract = one.contract.iter().find(|contract| contract.id.as_str() == CLOSED_CONTRACT).unwrap();
    let partner = one.partner.iter().find(|partner| partner.id == contract.partner).unwrap();
    let zone = TimeZone::get(&partner.timezone).unwrap();
    let hours = &contract.schedule.as_ref().unwrap().0;
    assert_eq!(hours.keys().collect::<Vec<_>>(), ["mon-sun"]);
    let (opens, closes) = hours["mon-sun"].split_once('-').unwrap();
    let (opens, closes): (jiff::civil::Time, jiff::civil::Time) = (opens.parse().unwrap(), closes.parse().unwrap());
    assert!(opens < closes, "does not cross midnight");

    // By brute force, five minutes at a time: closed for the next hour, open within the hold.
    let is_open = |at: Timestamp| {
        let local: Zoned = at.to_zoned(zone.clone());
        opens <= local.time() && local.time() < closes
    };
    let after = |minutes: i64| now.checked_add(Span::new().minutes(minutes)).unwrap();
    assert!((0..60).step_by(5).all(|minutes| !is_open(after(minutes))), "open at {now}");
    let hold = i64::try_from(contract.hold_for.0.as_secs() / 60).unwrap();
    assert!((60..hold).step_by(15).any(|minutes| is_open(after(minutes))), "does not open after {now}");
}

// ── The leads ──

fn fixture(file: &str) -> Json {
    let lead = LEADS.iter().find(|lead| lead.file == file).unwrap();
    serde_json::from_slice(lead.body).unwrap()
}

#[test]
fn every_fixture_is_listed_once_and_in_order() {
    let listed: Vec<_> = LEADS.iter().map(|lead| lead.file.to_owned()).collect();
    let mut files: Vec<_> = std::fs::read_dir("fixtures/demo")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(listed, files);
    for lead in LEADS {
        let kind = lead.file.rsplit('.').next().unwrap();
        let matches = [("json", "/json"), ("form", "-urlencoded"), ("xml", "/xml")].iter();
        assert!(matches.filter(|(end, of)| *end == kind && lead.content_type.ends_with(of)).count() == 1, "{kind}");
        assert!(!lead.shows.is_empty());
        if kind == "json" {
            assert!(fixture(lead.file).is_object());
        }
    }
}

#[test]
fn the_expected_outcomes_cover_what_the_demo_is_to_show() {
    let network = load(some_day());
    let contract =
        |id: &str| network.contract.iter().find(|contract| contract.id.as_str() == id).expect("no such contract");
    let deliveries = || LEADS.iter().flat_map(|lead| lead.expected.deliveries);
    let methods: BTreeSet<&str> = deliveries()
        .filter(|delivery| delivery.state == DeliveryState::Accepted)
        .map(|delivery| contract(delivery.contract).endpoint.method.as_str())
        .collect();
    let all = [Method::Xml, Method::Json, Method::Soap11, Method::Soap12, Method::Post, Method::Get];
    assert_eq!(methods, all.iter().map(|method| method.as_str()).collect());
    let verdicts: Vec<_> = deliveries().filter_map(|delivery| delivery.verdict).collect();
    for verdict in [Verdict::Accepted, Verdict::Rejected, Verdict::Duplicate, Verdict::Unknown] {
        assert!(verdicts.contains(&verdict), "{verdict}");
    }
    let limited = contract("brightroof-solar");
    let taken = deliveries()
        .filter(|delivery| delivery.contract == "brightroof-solar" && delivery.state == DeliveryState::Accepted);
    assert_eq!(limited.limits.daily, u64::try_from(taken.count()).unwrap());
    let fields = &network.campaign[0].fields;
    assert!(LEADS.iter().flat_map(|lead| lead.expected.wrong_fields).all(|field| fields.contains_key(*field)));
}

#[test]
fn special_people_are_the_ones_whom_the_partners_know() {
    for (file, email) in [
        ("07-known-to-partner.json", KNOWN_TO_BRIGHTROOF),
        ("11-partner-busy.json", BUSY_FIRST_FOR),
        ("12-partner-silent.json", SILENT_FOR),
    ] {
        assert_eq!(fixture(file)["email"], email);
    }
}

#[test]
fn phone_numbers_of_valid_leads_exist_by_the_numbering_plan() {
    for lead in LEADS.iter().filter(|lead| lead.content_type.ends_with("/json") && lead.expected.status_code != 422) {
        let phone = fixture(lead.file)["phone"].as_str().unwrap().to_owned();
        let number = phonenumber::parse(Some(phonenumber::country::GB), &phone).unwrap();
        assert!(number.is_valid(), "{} {phone}", lead.file);
    }
}

//! What a gateway really answers, held against its description.

use std::collections::{BTreeMap, BTreeSet};

use lead_gateway::clock::Clock;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::schema::{faults, resolve};
use super::{Operation, description};
use crate::harness::{Answer, Gateway, JsonBody as _, KEY, World, at, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};

/// Holds answers against the description, and remembers which there were.
struct Witness {
    document: Value,
    /// Operation and status, with how often.
    seen: BTreeMap<(String, u16), usize>,
}

impl Witness {
    fn new() -> Self {
        Self { document: description(), seen: BTreeMap::new() }
    }

    /// Fails unless the description has this answer of the operation.
    fn see(&mut self, operation: &str, answer: &Answer) {
        let place = format!("{operation} {}", answer.status);
        let document = &self.document;
        let operations = Operation::all(document);
        let described =
            operations.iter().find(|one| one.id() == operation).unwrap_or_else(|| panic!("there is no {operation}"));
        let response = &described.described["responses"][answer.status.to_string()];
        assert!(!response.is_null(), "{place} is not described: {}", answer.text);
        let response = resolve(document, response);
        for (name, header) in response["headers"].as_object().unwrap() {
            let header = resolve(document, header);
            let given = answer.headers.get(name).map(|value| value.to_str().unwrap());
            assert!(given.is_some() || header["required"] != true, "{place} came without {name}");
            if let Some(given) = given {
                let value = if header["schema"]["type"] == "integer" { given.parse().unwrap() } else { json!(given) };
                let found = faults(document, &header["schema"], &value);
                assert!(found.is_empty(), "{place}, {name}: {found:#?}");
            }
        }
        let media = answer.headers[http::header::CONTENT_TYPE].to_str().unwrap().split(';').next().unwrap();
        let content = &response["content"][media];
        assert!(!content.is_null(), "{place} is not described as {media}: {}", answer.text);
        if media.ends_with("json") {
            let found = faults(document, &content["schema"], &answer.json());
            assert!(found.is_empty(), "{place}: {found:#?}\n{}", answer.text);
        }
        *self.seen.entry((operation.to_owned(), answer.status)).or_default() += 1;
    }

    /// Sends a request and holds its answer against the description.
    async fn send(&mut self, gateway: &Gateway, operation: &str, request: RequestBuilder) -> Answer {
        let answer = gateway.send(request).await;
        self.see(operation, &answer);
        answer
    }

    /// A call of staff, which must be answered so.
    async fn staff(&mut self, gateway: &Gateway, operation: &str, call: &str, body: &str, status: u16) -> Answer {
        let (method, path) = call.split_once(' ').unwrap();
        let request = gateway.client.request(method.parse().unwrap(), gateway.url(path)).bearer_auth(&gateway.token);
        let answer = self.send(gateway, operation, request.body(body.to_owned())).await;
        assert_eq!(answer.status, status, "{call}: {}", answer.text);
        answer
    }

    /// A post of the source, which must be answered so.
    async fn post(&mut self, gateway: &Gateway, query: &str, lead: &Value, status: u16) -> Answer {
        let request = gateway.client.post(gateway.url(&format!("/v1/campaigns/solar/leads{query}")));
        let answer = self.send(gateway, "postLead", request.bearer_auth(KEY).json_body(lead)).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answer
    }

    /// Every described answer that no request has had yet.
    fn unseen(&self) -> BTreeSet<(String, u16)> {
        let operations = Operation::all(&self.document);
        let described =
            operations.iter().flat_map(|one| one.responses().map(|(status, _)| (one.id().to_owned(), status)));
        described.filter(|answer| !self.seen.contains_key(answer)).collect()
    }
}

/// What a buyer that takes only leads of this name adds to its contract.
fn wants(name: &str) -> String {
    format!("filters = {{ field = \"name\", equals = \"{name}\" }}")
}

fn named(name: &str, email: &str) -> Value {
    json!({"email": email, "name": name, "external_id": "A-17"})
}

/// A partner that takes leads and says more than that; one that never answers; one that wants them later; one that is
/// paused in the test; and a contract with every setting that can be shown.
fn network(taking: &Stub, silent: &Stub, busy: &Stub) -> String {
    let rules = "response = { accepted = { json = \"$.code\", equals = 1 }, reference = { json = \"$.ref\" }, \
                 redirect_url = { json = \"$.next\" } }";
    let impatient = "timeout = \"1s\"\nconnect_timeout = \"1s\"";
    let held = format!("{}\nwhen_paused = \"hold\"", wants("held"));
    [
        buyer("taking", &taking.url("/leads"), PARTNER, &wants("taken"), rules),
        buyer("silent", &silent.url("/leads"), "", &wants("unknown"), impatient),
        buyer("busy", &busy.url("/leads"), "", &wants("later"), ""),
        buyer("shut", &taking.url("/leads"), "", &held, rules),
        CONTRACT.replace("URL", &taking.url("/rich?channel=web")),
        "[[campaign]]\nid = \"other\"\ntimezone = \"UTC\"\ncurrency = \"GBP\"\n[campaign.fields]\n\
         l = { type = \"list\", items = { type = \"date\", max = \"2020-12-31\" }, max = 5 }\n\
         g = { type = \"list\", fields = { a = { type = \"text\", required = true } } }\n"
            .to_owned(),
    ]
    .concat()
}

const PARTNER: &str = r#"
name = "Taking Ltd"
contact = { email = "leads@taking.example", phone = "+442079460000", transfer_phone = "+442079460001" }
limits = { daily = 50, monthly = 800, total = 9000 }
closed_on = ["2020-12-25"]
"#;

const CONTRACT: &str = r#"
[[contract]]
id = "rich"
name = "Everything"
partner = "taking"
campaign = "solar"
price = "31.00"
priority = 2
weight = 3
limits = { daily = 5 }
schedule = { mon-fri = "09:00-12:00, 13:00-17:00", sat = "10:00-14:00" }
filters = { all = [{ field = "name", one_of = ["rich", "richer"] }, { any = [{ source = "acme" }, { source = ["acme"] }, { source = true, prefix = "ac" }] }, { not = { field = "postcode", prefix = ["SW", "SE"] } }, { field = "bill", min = 1, max = "99.5" }, { field = "phone", exists = true }, { field = "name", matches = "^r" }] }
when_closed = "hold"
when_full = "skip"
hold_for = "90m"
on_unknown = "retry"
maps = { tariff = { day = "1", "*" = "2" } }
secrets = { signing = "signing-secret-of-taking" }

[contract.endpoint]
method = "post"
url = "URL"
form = { email = "{{lead.email}}", oid = "00D000000000062" }
headers = { X-Name = "{{lead.name}}", X-Fixed = "fixed-and-masked" }
auth = { basic = { username = "gateway", password = "password-of-taking" } }
rate = "50/10s"
retry = { max_attempts = 2, first = "1s", max = "1m", give_up_after = "1h" }
on_5xx = "retry"
unmatched = "rejected"
idempotency_header = false

[contract.endpoint.response]
duplicate = { contains = "DUP" }
accepted = [{ status = true, one_of = [200, 201] }, { json = "$.ok", exists = true }]
rejected = { all = [{ header = "X-Code", matches = "^E" }, { regex = "code=([0-9]+)", min = 400, max = 499 }] }
retryable = { inside = { json = "$.document", as = "xml" }, xpath = "//Later" }
reason = { form = "message" }
price = { json = "$.price" }
"#;

#[tokio::test]
async fn what_a_gateway_answers_is_described() {
    let taking =
        Stub::start(Behaviour::ok(r#"{"code": 1, "ref": "R-1", "next": "https://taking.example/next"}"#)).await;
    let silent = Stub::start(Behaviour::hang_after_reading()).await;
    let busy = Stub::start(Behaviour::reply(503, "later")).await;
    let world = World::with(
        "name = \"Solar\"\ndedupe = [{ fields = [\"email\"], window = \"30d\" }]\nlimits = { daily = 100000 }",
        "name = \"Acme\"\nrate = \"1000/s\"\nwait = \"0s\"\nlimits = { daily = 100000 }",
        &network(&taking, &silent, &busy),
    );
    let gateway = world.start().await;
    let mut witness = Witness::new();

    operators_ask(&mut witness, &gateway).await;
    sources_post(&mut witness, &gateway).await;
    posts_are_refused(&mut witness, &gateway).await;
    batches_are_posted(&mut witness, &gateway).await;
    an_unknown_delivery_is_resolved(&mut witness, &gateway, &silent).await;
    staff_act(&mut witness, &gateway).await;
    staff_look(&mut witness, &gateway, &world.new_token("ann", "viewer")).await;
    staff_are_refused(&mut witness, &gateway, &world.new_token("bob", "viewer")).await;
    what_is_not_there_is_a_problem(&witness, &gateway).await;

    // The next test has the limits; a store that fails, a gateway that starts and bodies that are too large for staff's
    // calls are other tests' business.
    let mut unseen = witness.unseen();
    unseen.retain(|(operation, status)| {
        ![429, 500, 503].contains(status) && (*status != 413 || operation.starts_with("postLead"))
    });
    assert!(unseen.is_empty(), "no request had these answers: {unseen:?}");
    gateway.finish().await;
}

async fn operators_ask(witness: &mut Witness, gateway: &Gateway) {
    let asked = [
        ("getHealth", "/healthz"),
        ("getReadiness", "/readyz"),
        ("getMetrics", "/metrics"),
        ("getDescription", "/openapi.json"),
    ];
    for (operation, path) in asked {
        let answer = witness.send(gateway, operation, gateway.client.get(gateway.url(path))).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

async fn sources_post(witness: &mut Witness, gateway: &Gateway) {
    let accepted = witness.post(gateway, "", &named("taken", "one@example.com"), 202).await;
    let sold = gateway.lead_becomes(&accepted.at("/lead_id"), "sold").await;
    assert_eq!(text_at(&sold, "/deliveries/0/reference"), "R-1");
    let duplicate = witness.post(gateway, "?wait=30", &named("taken", "one@example.com"), 200).await;
    assert_eq!(duplicate.at("/reason"), "duplicate");
    let sold = witness.post(gateway, "?wait=30", &named("taken", "two@example.com"), 200).await;
    assert_eq!(sold.at("/redirect_url"), "https://taking.example/next");
    assert_eq!(sold.at("/payout"), "12.50");
    let unsold = witness.post(gateway, "?wait=30", &named("nobody", "three@example.com"), 200).await;
    assert_eq!(unsold.at("/reason"), "no_buyer");
    let tested = witness.post(gateway, "?test=true", &named("taken", "four@example.com"), 200).await;
    assert_eq!(tested.at("/test"), "true");

    let url = gateway.url("/v1/campaigns/solar/leads");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let request =
        with(gateway.client.post(&url).header("x-api-key", KEY), &form).body("email=five%40example.com&name=taken");
    let posted = witness.send(gateway, "postLead", request).await;
    assert_eq!(posted.status, 202, "{}", posted.text);
    let xml = "<lead><email>six@example.com</email><name>taken</name><address><city>Leeds</city></address></lead>";
    for media in ["application/xml", "text/xml; charset=utf-8"] {
        let request =
            with(gateway.client.post(&url).bearer_auth(KEY), &[("content-type", media), ("idempotency-key", "xml")]);
        let posted = witness.send(gateway, "postLead", request.body(xml)).await;
        assert_eq!(names_of_children(&posted.text), names_of(&witness.document, "SourceView"), "{}", posted.text);
    }
}

/// Batches of one line each, whose results can be held against the description as any JSON.
async fn batches_are_posted(witness: &mut Witness, gateway: &Gateway) {
    let post = |campaign: &str| gateway.client.post(gateway.url(&format!("/v1/campaigns/{campaign}/leads/batch")));
    let ndjson = [("content-type", "application/x-ndjson")];
    for (line, status) in [
        (named("nobody", "line@example.com"), 202),
        (json!({"email": "nobody", "bill": -1}), 422),
        (json!({"email": "line@example.com", "idempotency_key": ""}), 200),
        (json!({"email": "line@example.com", "idempotency_key": "two words"}), 400),
    ] {
        let request = with(post("solar").bearer_auth(KEY), &ndjson).body(line.to_string());
        let answer = witness.send(gateway, "postLeads", request).await;
        assert_eq!((answer.status, answer.at("/status_code")), (200, status.to_string()), "{}", answer.text);
    }
    for (status, request) in [
        (400, with(post("solar").bearer_auth(KEY), &ndjson)),
        (401, with(post("solar"), &ndjson)),
        (404, with(post("lunar").bearer_auth(KEY), &ndjson)),
        (403, with(post("other").bearer_auth(KEY), &ndjson)),
        (415, post("solar").bearer_auth(KEY)),
        (413, with(post("solar").bearer_auth(KEY), &ndjson).body("\n".repeat(10_001))),
    ] {
        let answer = witness.send(gateway, "postLeads", request).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

fn with(request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// The elements within the root of a small XML document.
fn names_of_children(xml: &str) -> Vec<String> {
    let opened = xml.split('<').skip(1).filter(|tag| !tag.starts_with(['?', '/']));
    opened.skip(1).map(|tag| tag.split(['>', '/']).next().unwrap().to_owned()).collect()
}

fn names_of(document: &Value, schema: &str) -> Vec<String> {
    document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
}

async fn posts_are_refused(witness: &mut Witness, gateway: &Gateway) {
    let url = gateway.url("/v1/campaigns/solar/leads");
    let new = || gateway.client.post(&url);
    let nowhere = gateway.client.post(gateway.url("/v1/campaigns/lunar/leads"));
    let soon = gateway.client.post(gateway.url("/v1/campaigns/solar/leads?wait=soon"));
    let json = [("content-type", "application/json")];
    let keyed = [("content-type", "application/json"), ("idempotency-key", "again")];
    let large = "x".repeat((1 << 20) + 1);
    let refused = [
        (401, "unauthorized", new().json_body(&lead("a@example.com"))),
        (401, "unauthorized", new().bearer_auth(&gateway.token).json_body(&lead("a@example.com"))),
        (404, "not-found", nowhere.bearer_auth(KEY).json_body(&lead("a@example.com"))),
        (415, "unsupported-media-type", new().bearer_auth(KEY).header("content-type", "image/png").body("png")),
        (413, "too-large", with(new().bearer_auth(KEY), &json).body(large)),
        (400, "malformed", with(new().bearer_auth(KEY), &json).body("{\n\"email\": ")),
        (400, "malformed", soon.bearer_auth(KEY).json_body(&lead("a@example.com"))),
        (422, "validation", new().bearer_auth(KEY).json_body(&json!({"email": "nobody", "bill": -1}))),
    ];
    for (status, kind, request) in refused {
        let answer = witness.send(gateway, "postLead", request).await;
        assert_eq!((answer.status, answer.at("/type")), (status, format!("/problems/{kind}")), "{}", answer.text);
    }
    let replayed = |email: &str| with(new().bearer_auth(KEY), &keyed).body(named("nobody", email).to_string());
    for (email, status) in [("seven@example.com", 202), ("seven@example.com", 200), ("eight@example.com", 422)] {
        let answer = witness.send(gateway, "postLead", replayed(email)).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    witness.staff(gateway, "pauseSource", "POST /v1/sources/acme/pause", "", 200).await;
    let answer = witness.post(gateway, "", &lead("nine@example.com"), 403).await;
    assert_eq!(answer.at("/type"), "/problems/source-paused");
    witness.staff(gateway, "resumeSource", "POST /v1/sources/acme/resume", "", 200).await;

    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let found =
        witness.staff(gateway, "listRefusals", &format!("GET /v1/refusals?request_id={request}"), "", 200).await;
    assert_eq!(found.at("/items/0/answer/type"), "/problems/source-paused");
}

/// While its source waits for an outcome, the same key is in progress; then nobody can say, until a person does.
async fn an_unknown_delivery_is_resolved(witness: &mut Witness, gateway: &Gateway, silent: &Stub) {
    let post = || {
        let url = gateway.url("/v1/campaigns/solar/leads?wait=30");
        let request = gateway.client.post(url).bearer_auth(KEY).header("idempotency-key", "slow");
        request.json_body(&named("unknown", "ten@example.com"))
    };
    let second = async {
        silent.wait_for_requests(1).await;
        gateway.send(post()).await
    };
    let (first, second) = tokio::join!(gateway.send(post()), second);
    assert_eq!((first.status, second.status), (202, 409), "{} {}", first.text, second.text);
    witness.see("postLead", &first);
    witness.see("postLead", &second);
    let delivery = gateway.last_delivery_becomes(&first.at("/lead_id"), "unknown").await;
    let path = format!("/v1/deliveries/{}", text_at(&delivery, "/id"));
    witness.staff(gateway, "getDelivery", &format!("GET {path}"), "", 200).await;
    let verdict = r#"{"verdict": "accepted", "reason": "they have it"}"#;
    let resolved = witness.staff(gateway, "resolveDelivery", &format!("POST {path}/resolve"), verdict, 200).await;
    assert_eq!(resolved.at("/state"), "accepted");
    witness.staff(gateway, "resolveDelivery", &format!("POST {path}/resolve"), verdict, 409).await;
}

async fn staff_act(witness: &mut Witness, gateway: &Gateway) {
    // A retry that is not due yet can be cancelled, once.
    let later = witness.post(gateway, "", &named("later", "eleven@example.com"), 202).await;
    let path = format!("/v1/leads/{}", later.at("/lead_id"));
    let waits =
        |lead: &Value| lead["deliveries"][0]["attempt_count"] == 1 && lead["deliveries"][0]["state"] == "queued";
    let retried = gateway.eventually(&path, waits).await;
    let path = format!("POST /v1/deliveries/{}", text_at(&retried, "/deliveries/0/id"));
    witness.staff(gateway, "cancelDelivery", &format!("{path}/cancel"), "", 200).await;
    witness.staff(gateway, "cancelDelivery", &format!("{path}/cancel"), "{}", 409).await;

    // What is held can be seen, and cannot be sent again.
    witness.staff(gateway, "pauseContract", "POST /v1/contracts/shut/pause", "", 200).await;
    let held = witness.post(gateway, "", &named("held", "twelve@example.com"), 202).await;
    let found = witness.staff(gateway, "listDeliveries", "GET /v1/deliveries?held=true", "", 200).await;
    assert_eq!(found.at("/items/0/lead_id"), held.at("/lead_id"));
    assert_eq!(found.at("/items/0/held/reason"), "paused");
    let path = format!("POST /v1/deliveries/{}", found.at("/items/0/id"));
    witness.staff(gateway, "redeliverDelivery", &format!("{path}/redeliver"), "", 409).await;
    witness.staff(gateway, "resumeContract", "POST /v1/contracts/shut/resume", "", 200).await;
    gateway.lead_becomes(&held.at("/lead_id"), "sold").await;
    let wish = r#"{"limits": "consume", "reason": "they lost it"}"#;
    let again = witness.staff(gateway, "redeliverDelivery", &format!("{path}/redeliver"), wish, 202).await;
    let path = format!("/v1/deliveries/{}", again.at("/delivery_id"));
    gateway.eventually(&path, |delivery| delivery["state"] == "accepted").await;

    witness.staff(gateway, "pausePartner", "POST /v1/partners/busy/pause", "", 200).await;
    witness.staff(gateway, "resumePartner", "POST /v1/partners/busy/resume", "", 200).await;
}

async fn staff_look(witness: &mut Witness, gateway: &Gateway, viewer: &str) {
    let mut last = BTreeMap::new();
    let all = "from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&limit=500";
    for token in [&gateway.token, viewer] {
        for (operation, path) in
            [("listLeads", "/v1/leads"), ("listDeliveries", "/v1/deliveries"), ("listRefusals", "/v1/refusals")]
        {
            let request = gateway.client.get(gateway.url(&format!("{path}?{all}"))).bearer_auth(token);
            let page = witness.send(gateway, operation, request).await.json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() > 5, "{path} has only {} items", items.len());
            last.insert(operation, items.clone());
        }
        for (one, list, id) in [("getLead", "listLeads", "lead_id"), ("getDelivery", "listDeliveries", "id")] {
            let path = if one == "getLead" { "/v1/leads" } else { "/v1/deliveries" };
            for item in &last[list] {
                let url = gateway.url(&format!("{path}/{}", item[id].as_str().unwrap()));
                let answer = witness.send(gateway, one, gateway.client.get(url).bearer_auth(token)).await;
                assert_eq!(answer.status, 200);
            }
        }
    }
    let lead = &last["listLeads"][0];
    let url = gateway.url(&format!("/v1/leads/{}", text_at(lead, "/lead_id")));
    let view = witness.send(gateway, "getLead", gateway.client.get(url).header("x-api-key", KEY)).await.json();
    assert_eq!(
        view.as_object().unwrap().keys().cloned().collect::<Vec<_>>(),
        names_of(&witness.document, "SourceView")
    );

    let narrow = format!("email=ten%40example.com&source=acme&campaign=solar&status=sold&test=false&{all}");
    let found = witness.staff(gateway, "listLeads", &format!("GET /v1/leads?{narrow}"), "", 200).await;
    let id = found.at("/items/0/lead_id");
    let narrow = format!(
        "lead={id}&partner=silent&contract=silent&campaign=solar&source=acme&state=accepted&verdict=accepted&held=false&{all}"
    );
    let found = witness.staff(gateway, "listDeliveries", &format!("GET /v1/deliveries?{narrow}"), "", 200).await;
    assert_eq!(found.at("/items/0/lead_id"), id);
    let page = witness.staff(gateway, "listLeads", "GET /v1/leads?limit=1", "", 200).await;
    let next = format!("GET /v1/leads?limit=1&cursor={}", page.at("/next_cursor"));
    let next = witness.staff(gateway, "listLeads", &next, "", 200).await;
    assert_ne!(next.at("/items/0/lead_id"), page.at("/items/0/lead_id"));

    for (kind, name) in
        [("campaigns", "Campaign"), ("sources", "Source"), ("partners", "Partner"), ("contracts", "Contract")]
    {
        let page = witness.staff(gateway, &format!("list{name}s"), &format!("GET /v1/{kind}"), "", 200).await.json();
        for item in page["items"].as_array().unwrap() {
            let call = format!("GET /v1/{kind}/{}", text_at(item, "/id"));
            let one = witness.staff(gateway, &format!("get{name}"), &call, "", 200).await;
            assert_eq!(one.json(), *item);
        }
    }
}

async fn staff_are_refused(witness: &mut Witness, gateway: &Gateway, viewer: &str) {
    let document = description();
    let strange = |operation: &Operation<'_>| {
        gateway.url(&operation.path.replace("{id}", "0199f6c2-7c1e-7b3a-9d41-5f0a6b2c8e10"))
    };
    for operation in Operation::all(&document).iter().filter(|one| one.keys().contains(&"staffToken")) {
        let id = operation.id();
        let method: Method = operation.method.to_uppercase().parse().unwrap();
        let new = |token: &str| gateway.client.request(method.clone(), strange(operation)).bearer_auth(token);
        let mut refused = vec![(401, new("a-token-that-nobody-made"))];
        if operation.method == "post" {
            refused.push((403, new(viewer)));
        }
        if !operation.parameters(&document, "path").is_empty() {
            let wish = if id == "resolveDelivery" { r#"{"verdict": "rejected"}"# } else { "{}" };
            refused.push((404, new(&gateway.token).body(wish)));
        }
        if !operation.described["requestBody"].is_null() {
            refused.push((400, new(&gateway.token).body("{\"reason\": ")));
            refused.push((422, new(&gateway.token).body("{\"resaon\": 1}")));
        }
        if operation.parameters(&document, "query").contains("limit") {
            let url = format!("{}?limit=0&emial=a&from=today", strange(operation));
            refused.push((400, gateway.client.get(url).bearer_auth(&gateway.token)));
        }
        for (status, request) in refused {
            let answer = witness.send(gateway, id, request).await;
            assert_eq!(answer.status, status, "{id}: {}", answer.text);
        }
    }
}

async fn what_is_not_there_is_a_problem(witness: &Witness, gateway: &Gateway) {
    let nothing = gateway.send(gateway.client.get(gateway.url("/v1/nothing"))).await;
    let deleted = gateway.send(gateway.client.delete(gateway.url("/v1/leads"))).await;
    assert_eq!((nothing.status, deleted.status), (404, 405));
    assert_eq!(deleted.headers["allow"], "GET,HEAD");
    for answer in [nothing, deleted] {
        let found = faults(&witness.document, &json!({"$ref": "#/components/schemas/Problem"}), &answer.json());
        assert!(found.is_empty(), "{found:#?}\n{}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.headers["x-request-id"].to_str().unwrap(), answer.at("/request_id"));
    }
}

#[tokio::test]
async fn what_a_source_is_told_at_its_limits_is_described() {
    let limits = [
        ("rate = \"1/h\"", 429, "rate-limited", true),
        ("limits = { daily = 1 }", 429, "limit-reached", true),
        // It opens in more than a day: no source should sleep so long on our word.
        ("limits = { monthly = 1 }", 429, "limit-reached", false),
        ("limits = { total = 1 }", 403, "limit-reached", false),
    ];
    for (source, status, kind, says_when) in limits {
        let world = World::with("", source, "");
        let gateway = world.start_inside(Clock::manual(at("2026-11-21T09:30:00Z"))).await;
        let mut witness = Witness::new();
        witness.post(&gateway, "?wait=30", &lead("one@example.com"), 200).await;
        let refused = witness.post(&gateway, "", &lead("two@example.com"), status).await;
        assert_eq!(refused.at("/type"), format!("/problems/{kind}"), "{source}");
        assert_eq!(refused.headers.contains_key("retry-after"), says_when, "{source}");
        gateway.finish().await;
    }
}

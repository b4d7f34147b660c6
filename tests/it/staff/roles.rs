//! Who may do what: tokens, roles, and a source's key.

use super::*;

const UNKNOWN_ID: &str = "01990000-0000-7000-8000-000000000000";

#[tokio::test]
async fn without_a_known_token_staff_calls_are_unauthorized() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let gateway = world.start().await;
    let reads = ["leads", "deliveries", "refusals", "campaigns", "sources", "partners", "contracts"]
        .map(|kind| format!("/v1/{kind}"));
    let ones = ["leads", "deliveries", "campaigns"].map(|kind| format!("/v1/{kind}/{UNKNOWN_ID}"));
    for path in reads.iter().chain(&ones) {
        let bare = gateway.send(gateway.client.get(gateway.url(path))).await;
        is_problem(&bare, 401, "unauthorized");
        assert!(bare.headers.contains_key("www-authenticate"));
        is_problem(&get_as(&gateway, "gwt_wrong", path).await, 401, "unauthorized");
        let basic = gateway.client.get(gateway.url(path)).basic_auth(&gateway.token, Some(""));
        is_problem(&gateway.send(basic).await, 401, "unauthorized");
        let query = gateway.client.get(format!("{}?token={}", gateway.url(path), gateway.token));
        is_problem(&gateway.send(query).await, 401, "unauthorized");
        if path != &ones[0] {
            is_problem(&get_as(&gateway, KEY, path).await, 401, "unauthorized");
        }
    }
    let acts = ["redeliver", "resolve", "cancel"].map(|act| format!("/v1/deliveries/{UNKNOWN_ID}/{act}"));
    let pauses =
        ["partners/sunny/pause", "contracts/sunny/resume", "sources/acme/pause"].map(|act| format!("/v1/{act}"));
    for path in acts.iter().chain(&pauses) {
        is_problem(&act_as(&gateway, "gwt_wrong", path, &json!({})).await, 401, "unauthorized");
        is_problem(&act_as(&gateway, KEY, path, &json!({})).await, 401, "unauthorized");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_viewer_only_reads_and_support_and_admin_act() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let gateway = world.start().await;
    let id = settled(&gateway, &lead("a@example.com")).await;
    let delivery = text_at(&gateway.lead(&id).await, "/deliveries/0/id");
    let viewer = world.new_token("looker", "viewer");
    let support = world.new_token("helper", "support");
    for path in [
        "/v1/leads",
        "/v1/deliveries",
        "/v1/refusals",
        "/v1/sources/acme",
        &format!("/v1/leads/{id}"),
        &format!("/v1/deliveries/{delivery}"),
    ] {
        for token in [&viewer, &support, &gateway.token] {
            assert_eq!(get_as(&gateway, token, path).await.status, 200, "{path}");
        }
    }
    for act in ["redeliver", "resolve", "cancel"] {
        let path = format!("/v1/deliveries/{delivery}/{act}");
        is_problem(&act_as(&gateway, &viewer, &path, &json!({"verdict": "accepted"})).await, 403, "forbidden");
    }
    for path in ["partners/sunny", "contracts/sunny", "sources/acme"] {
        for act in ["pause", "resume"] {
            let path = format!("/v1/{path}/{act}");
            is_problem(&act_as(&gateway, &viewer, &path, &json!({})).await, 403, "forbidden");
            assert_eq!(act_as(&gateway, &support, &path, &json!({})).await.status, 200);
            assert_eq!(act_as(&gateway, &gateway.token, &path, &json!({})).await.status, 200);
        }
    }
    for kind in ["partners", "contracts", "sources"] {
        is_problem(&gateway.act(&format!("/v1/{kind}/nobody/pause"), &json!({})).await, 404, "not-found");
    }
    // What a viewer tried changed nothing.
    assert_eq!(text_at(&gateway.lead(&id).await, "/deliveries/0/state"), "accepted");
    assert_eq!(ids(&gateway, "/v1/deliveries").await.len(), 1);
    gateway.finish().await;
}

#[tokio::test]
async fn a_viewer_sees_no_personal_data_anywhere() {
    let reply = "{\"ok\":false,\"why\":\"over cap\",\"echo\":\"Zebediah\"}";
    let partner = Stub::start(Behaviour::ok(reply)).await;
    let header = "headers = { X-Person = \"{{lead.name}}\", X-Fixed = \"yes\" }\n";
    let by_get = buyer("getter", &partner.url("/get?fixed=1"), "", "", "")
        .replace("method = \"json\"", "method = \"get\"")
        .replace("template = \"lead.json.hbs\"\n", "form = { who = \"{{lead.name}}\" }\n[contract.endpoint.response]\nrejected = { json = \"$.ok\", equals = \"false\" }\n");
    let world =
        World::new(&format!("{}{by_get}", buyer("sunny", &partner.url("/leads"), "", "", &format!("{header}{RULES}"))));
    let gateway = world.start().await;
    let body = json!({"email": "zebediah@example.com", "name": "Zebediah", "phone": "020 7946 0001", "postcode": "SW1A 1AA",
        "bill": "50", "birth_date": "1980-02-17", "nickname": "Zebediah", "external_id": "A-1"});
    let id = settled(&gateway, &body).await;
    gateway.post(&json!({"email": "zebediah", "name": "Zebediah"})).await;
    let viewer = world.new_token("looker", "viewer");
    let deliveries: Vec<String> = ids(&gateway, &format!("/v1/deliveries?lead={id}")).await;
    assert_eq!(deliveries.len(), 2);
    let mut paths = vec![
        format!("/v1/leads/{id}"),
        "/v1/leads?email=zebediah@example.com".to_owned(),
        "/v1/deliveries".to_owned(),
        "/v1/refusals".to_owned(),
    ];
    paths.extend(deliveries.iter().map(|id| format!("/v1/deliveries/{id}")));
    for path in &paths {
        let seen = get_as(&gateway, &viewer, path).await.text;
        for personal in ["Zebediah", "zebediah@", "7946", "SW1A", "1980"] {
            assert!(!seen.contains(personal), "a viewer sees {personal} at {path}: {seen}");
        }
    }
    // What tells nothing about the person is there.
    let seen = get_as(&gateway, &viewer, &format!("/v1/leads/{id}")).await;
    assert_eq!(
        (seen.at("/fields/bill"), seen.at("/fields/name"), seen.at("/external_id")),
        ("50".to_owned(), "***".to_owned(), "A-1".to_owned())
    );
    // Support sees the person, but not what is sensitive of the exchange.
    let support = world.new_token("helper", "support");
    let seen = get_as(&gateway, &support, &format!("/v1/leads/{id}")).await;
    assert_eq!(seen.at("/fields/name"), "Zebediah");
    let exchange = get_as(&gateway, &support, &format!("/v1/deliveries/{}", deliveries[1])).await;
    assert!(exchange.text.contains("Zebediah"));
    gateway.finish().await;
}

#[tokio::test]
async fn a_sources_key_opens_its_own_leads_only_and_as_it_may_see_them() {
    let other =
        "[[source]]\nid = \"other\"\ncampaign = \"solar\"\npartner = \"media\"\nkey = \"test-key-of-other-001\"\n";
    let partner = Stub::start(Behaviour::ok("{\"ok\":true,\"ref\":\"R-1\"}")).await;
    let world = World::new(&format!("{}{other}", buyer("sunny", &partner.url("/"), "", "", RULES)));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&json!({"email": "a@example.com", "external_id": "A-1"})).await;
    let path = format!("/v1/leads/{}", answer.at("/lead_id"));
    let own = get_as(&gateway, KEY, &path).await;
    assert_eq!((own.status, own.json()), (200, answer.json()));
    for word in ["sunny", "31.00", "R-1", "contract", "deliveries", "candidates"] {
        assert!(!own.text.contains(word), "{}", own.text);
    }
    let theirs = get_as(&gateway, "test-key-of-other-001", &path).await;
    is_problem(&theirs, 404, "not-found");
    let nobodys = get_as(&gateway, "test-key-of-other-001", &format!("/v1/leads/{UNKNOWN_ID}")).await;
    is_problem(&nobodys, 404, "not-found");
    assert_eq!(theirs.at("/title"), nobodys.at("/title"), "it can tell another's lead from none");
    for bad in ["x", "../leads", "%00"] {
        is_problem(&get_as(&gateway, KEY, &format!("/v1/leads/{}", bad.replace('/', "%2F"))).await, 404, "not-found");
    }
    gateway.finish().await;
}

//! Searching leads and deliveries, and paging through them.

use std::collections::HashSet;

use super::*;

#[tokio::test]
async fn a_lead_is_found_by_whatever_is_known_of_it() {
    let other = "[[campaign]]\nid = \"loans\"\ntimezone = \"Europe/London\"\ncurrency = \"GBP\"\n[campaign.fields]\nemail = { type = \"email\" }\n\
        [[source]]\nid = \"lender\"\ncampaign = \"loans\"\npartner = \"media\"\nkey = \"test-key-of-lender-01\"\n";
    let partner = Stub::start(Behaviour::ok("{\"ok\":true}")).await;
    let filter = "filters = { all = [{ field = \"phone\", exists = true }] }";
    let world = World::new(&format!("{}{other}", buyer("sunny", &partner.url("/"), "", filter, RULES)));
    let gateway = world.start().await;
    let first = settled(&gateway, &json!({"email": "Anne.O'Neil@Example.com", "phone": "020 7946 0001", "external_id": "A/1 x", "click_id": "click?1"})).await;
    let second = settled(&gateway, &json!({"email": "berta@example.com", "external_id": "A/1 x"})).await;
    let test = settled(&gateway, &json!({"email": "carla@example.com", "test": true})).await;
    let loan = gateway.client.post(gateway.url("/v1/campaigns/loans/leads")).bearer_auth("test-key-of-lender-01");
    let loan = gateway
        .send(loan.header("content-type", "application/json").body("{\"email\":\"berta@example.com\"}"))
        .await
        .at("/lead_id");

    let all = [&loan, &test, &second, &first];
    let cases: Vec<(&str, Vec<&String>)> = vec![
        ("", all.to_vec()),
        ("email=Anne.O%27Neil@Example.com", vec![&first]),
        ("email=%20ANNE.o%27neil@example.COM", vec![&first]),
        ("email=anne@example.com", vec![]),
        ("email=not-an-address", vec![]),
        ("email=berta@example.com", vec![&loan, &second]),
        ("email=berta@example.com&campaign=solar", vec![&second]),
        ("phone=02079460001", vec![&first]),
        ("phone=020%207946%200001", vec![&first]),
        ("phone=%2B442079460001", vec![&first]),
        ("phone=%2B44%20(0)20%207946-0001", vec![&first]),
        ("phone=0044%2020%207946%200001", vec![&first]),
        ("phone=02079460002", vec![]),
        ("phone=x", vec![]),
        ("external_id=A/1%20x", vec![&second, &first]),
        ("external_id=a/1%20x", vec![]),
        ("click_id=click?1", vec![&first]),
        ("external_id=A/1%20x&click_id=click?1", vec![&first]),
        ("source=lender", vec![&loan]),
        ("source=nobody", vec![]),
        ("campaign=solar", vec![&test, &second, &first]),
        ("status=sold", vec![&first]),
        ("status=sold&test=true", vec![]),
        ("status=unsold", vec![&loan, &test, &second]),
        ("status=pending", vec![]),
        ("test=true", vec![&test]),
        ("test=false", vec![&loan, &second, &first]),
    ];
    for (query, expected) in cases {
        assert_eq!(ids(&gateway, &format!("/v1/leads?{query}")).await.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let at = text_at(&gateway.lead(&second).await, "/received_at");
    assert_eq!(ids(&gateway, &format!("/v1/leads?from={at}")).await.len(), 3, "from is inclusive");
    assert_eq!(ids(&gateway, &format!("/v1/leads?to={at}")).await, std::slice::from_ref(&first), "to is exclusive");
    assert_eq!(ids(&gateway, &format!("/v1/leads?from={at}&to={at}")).await.len(), 0);
    let elsewhere: jiff::Timestamp = at.parse().unwrap();
    let elsewhere = elsewhere
        .to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(5)))
        .strftime("%Y-%m-%dT%H:%M:%S.%6f%:z")
        .to_string();
    assert_eq!(
        ids(&gateway, &format!("/v1/leads?to={}", elsewhere.replace('+', "%2B"))).await,
        std::slice::from_ref(&first)
    );
    gateway.finish().await;
}

#[tokio::test]
async fn pages_hold_every_lead_once_while_new_ones_arrive() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let gateway = world.start().await;
    let mut old = HashSet::new();
    for number in 0..25 {
        assert!(old.insert(gateway.post(&lead(&format!("old{number}@example.com"))).await.at("/lead_id")));
    }
    for (list, id) in [("leads", "/lead_id"), ("deliveries", "/lead_id")] {
        gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
        let mut seen = Vec::new();
        let mut cursor = String::new();
        let mut pages = 0;
        loop {
            let page = gateway.get(&format!("/v1/{list}?limit=7{cursor}")).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 7);
            seen.extend(items.iter().map(|item| text_at(item, id)));
            pages += 1;
            gateway.post(&lead(&format!("new{list}{pages}@example.com"))).await;
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let distinct: HashSet<String> = seen.iter().cloned().collect();
        assert_eq!(distinct.len(), seen.len(), "an item came twice");
        assert!(old.is_subset(&distinct), "an item is missing");
    }
    // A full page with nothing after it says so.
    let all = gateway.get("/v1/leads?limit=500").await;
    let count = all["items"].as_array().unwrap().len();
    let exact = gateway.get(&format!("/v1/leads?limit={count}")).await;
    assert_eq!((exact["items"].as_array().unwrap().len(), &exact["next_cursor"]), (count, &Value::Null));
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}

#[tokio::test]
async fn wrong_parameters_are_refused_all_at_once_by_name() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let gateway = world.start().await;
    for (path, wrong) in [
        ("/v1/leads?limit=501", vec!["limit"]),
        ("/v1/leads?limit=0", vec!["limit"]),
        ("/v1/leads?limit=-1", vec!["limit"]),
        ("/v1/leads?limit=ten", vec!["limit"]),
        ("/v1/leads?emial=a@example.com", vec!["emial"]),
        ("/v1/leads?state=sold", vec!["state"]),
        (
            "/v1/leads?status=lost&from=yesterday&to=2026&test=perhaps&cursor=x&campaign=a%20b&nonsense=1",
            vec!["campaign", "cursor", "from", "nonsense", "status", "test", "to"],
        ),
        (
            "/v1/deliveries?limit=501&state=sold&verdict=no&status_code=x&held=perhaps&lead=1&partner=A%20B&email=a@example.com",
            vec!["email", "held", "lead", "limit", "partner", "state", "status_code", "verdict"],
        ),
        ("/v1/refusals?limit=501&request_id=1&status=422", vec!["limit", "request_id", "status"]),
    ] {
        let answer = get_as(&gateway, &gateway.token, path).await;
        is_problem(&answer, 400, "malformed");
        let mut named: Vec<String> =
            answer.json()["errors"].as_array().unwrap().iter().map(|error| text_at(error, "/field")).collect();
        named.sort();
        assert_eq!(named, wrong, "{path}");
    }
    assert_eq!(get_as(&gateway, &gateway.token, "/v1/leads?limit=500").await.status, 200);
    gateway.finish().await;
}

#[tokio::test]
async fn deliveries_are_found_by_every_filter() {
    let yes = Stub::start(Behaviour::reply(201, "{\"ok\":true,\"ref\":\"REF 77/ä\"}")).await;
    let no = Stub::start(Behaviour::ok("{\"ok\":false,\"why\":\"Over Cap today\"}")).await;
    let lost = Stub::start(Behaviour::reset_after_reading()).await;
    let closed = buyer(
        "shut",
        "http://127.0.0.1:9/",
        "",
        "when_paused = \"hold\"\nfilters = { all = [{ field = \"name\", equals = \"held\" }] }",
        "",
    );
    let network = [
        buyer(
            "nope",
            &no.url("/"),
            "",
            "priority = 1\nfilters = { all = [{ field = \"name\", one_of = [\"both\"] }] }",
            RULES,
        ),
        buyer(
            "yep",
            &yes.url("/"),
            "",
            "priority = 2\nfilters = { all = [{ field = \"name\", one_of = [\"both\", \"yes\"] }] }",
            RULES,
        ),
        buyer("lost", &lost.url("/"), "", "filters = { all = [{ field = \"name\", equals = \"lost\" }] }", ""),
        closed,
    ];
    let world = World::new(&network.concat());
    let gateway = world.start().await;
    assert_eq!(gateway.act("/v1/contracts/shut/pause", &json!({})).await.status, 200);
    let named = |name: &str| json!({"email": format!("{name}@example.com"), "name": name});
    let both = settled(&gateway, &named("both")).await;
    let yes = settled(&gateway, &named("yes")).await;
    let unknown = gateway.post_and_wait(&named("lost")).await.at("/lead_id");
    let held = gateway.post_and_wait(&named("held")).await.at("/lead_id");

    let page = gateway.get("/v1/deliveries").await;
    let items = page["items"].as_array().unwrap();
    let all: Vec<(String, String)> =
        items.iter().map(|item| (text_at(item, "/lead_id"), text_at(item, "/contract"))).collect();
    let pair = |lead: &String, contract: &str| (lead.clone(), contract.to_owned());
    let (nope, yep, second, lost, shut) =
        (pair(&both, "nope"), pair(&both, "yep"), pair(&yes, "yep"), pair(&unknown, "lost"), pair(&held, "shut"));
    assert_eq!(all, [shut.clone(), lost.clone(), second.clone(), yep.clone(), nope.clone()], "newest first");
    assert_eq!(items[0]["held"]["reason"], "paused");
    assert!(items.iter().all(|item| item.get("attempts").is_none()), "a page has no exchanges");
    let created = text_at(&items[2], "/created_at");
    let cases = vec![
        (format!("lead={both}"), vec![&yep, &nope]),
        ("partner=yep".to_owned(), vec![&second, &yep]),
        ("contract=nope".to_owned(), vec![&nope]),
        ("campaign=solar&source=acme".to_owned(), vec![&shut, &lost, &second, &yep, &nope]),
        ("campaign=loans".to_owned(), vec![]),
        ("source=nobody".to_owned(), vec![]),
        ("state=accepted".to_owned(), vec![&second, &yep]),
        ("state=unknown".to_owned(), vec![&lost]),
        ("verdict=rejected".to_owned(), vec![&nope]),
        ("verdict=unknown".to_owned(), vec![&lost]),
        ("status_code=201".to_owned(), vec![&second, &yep]),
        ("status_code=404".to_owned(), vec![]),
        ("reference=REF%2077/%C3%A4".to_owned(), vec![&second, &yep]),
        ("reference=REF".to_owned(), vec![]),
        ("reason=over%20cap".to_owned(), vec![&nope]),
        ("reason=100%25".to_owned(), vec![]),
        ("held=true".to_owned(), vec![&shut]),
        ("held=false".to_owned(), vec![&lost, &second, &yep, &nope]),
        (format!("from={created}"), vec![&shut, &lost, &second]),
        (format!("to={created}"), vec![&yep, &nope]),
        ("state=accepted&reference=REF%2077/%C3%A4&limit=1".to_owned(), vec![&second]),
    ];
    for (query, expected) in cases {
        let page = gateway.get(&format!("/v1/deliveries?{query}")).await;
        let found: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| (text_at(item, "/lead_id"), text_at(item, "/contract")))
            .collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    gateway.stop().await;
}

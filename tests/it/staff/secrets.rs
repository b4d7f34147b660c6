//! Secrets and sensitive fields are masked before they are stored, whatever echoes them.

use super::super::harness::all_bytes;
use super::*;

const HEADER: &str = "header-secret-4711";
const BEARER: &str = "bearer/secret+\"quoted-tail\"";
const BORN: &str = "1980-02-17";

#[tokio::test]
async fn no_secret_lies_in_the_store_the_log_or_an_answer_even_where_the_partner_echoes_it() {
    let echoed =
        json!({"ok": false, "why": format!("no {HEADER} born {BORN} with {BEARER}"), "ref": format!("ref-{HEADER}")})
            .to_string();
    let reply = Behaviour::reply_with(200, &[("X-Echo", HEADER), ("X-Born", BORN)], &echoed);
    let partner = Stub::start(reply).await;
    let world = World::new("");
    for (name, secret) in [("header", HEADER), ("bearer", BEARER)] {
        world.write(name, &format!("{secret}\n"));
    }
    let file = |name: &str| world.path(name).display().to_string();
    let keys = format!(
        "headers = {{ X-Api-Key = \"file:{}\", X-Plain = \"yes\" }}\nauth = {{ bearer = {{ token = \"file:{}\" }} }}\n{RULES}",
        file("header"),
        file("bearer"),
    );
    world.write("network/buyers.toml", &buyer("sunny", &partner.url("/leads"), "", "", &keys));
    world.write("templates/lead.json.hbs", "{\"born\": \"{{lead.birth_date}}\", \"email\": \"{{lead.email}}\"}");
    world.configure("[log]\nlevel = \"debug\"");
    let gateway = world.start().await;
    let id = settled(&gateway, &json!({"email": "a@example.com", "birth_date": BORN})).await;
    let sent = &partner.requests()[0];
    assert_eq!(sent.header("x-api-key"), Some(HEADER));
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {BEARER}").as_str()));
    assert!(sent.text().contains(BORN));

    let lead = gateway.lead(&id).await;
    assert_eq!(text_at(&lead, "/fields/birth_date"), BORN, "support may see it in the lead");
    let delivery = gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await;
    let mut shown = delivery.to_string();
    for path in ["/v1/deliveries", "/v1/contracts", "/v1/contracts/sunny", "/v1/sources", "/v1/refusals", "/metrics"] {
        let answer = gateway.send(gateway.client.get(gateway.url(path)).bearer_auth(&gateway.token)).await;
        shown.push_str(&answer.text);
    }
    for secret in [HEADER, BORN, BEARER, "quoted-tail"] {
        assert!(!shown.contains(secret), "{secret} is shown: {delivery:#}");
    }
    let attempt = &delivery["attempts"][0];
    assert_eq!(text_at(attempt, "/request/body"), "{\"born\": \"***\", \"email\": \"a@example.com\"}");
    let headers = attempt["request"]["headers"].as_array().unwrap();
    let masked = headers.iter().filter(|header| header[1] == "***").count();
    assert_eq!(masked, 2, "{headers:#?}");
    assert!(text_at(&delivery, "/reason").starts_with("no ***"), "{delivery:#}");
    gateway.finish().await;

    let (kept, log) = (all_bytes(&world.path("data")), world.log());
    for secret in [HEADER, BEARER, "bearer/secret", "quoted-tail", KEY] {
        assert!(memchr::memmem::find(&kept, secret.as_bytes()).is_none(), "{secret} lies in the data directory");
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
    assert!(!log.contains(BORN) && !log.contains("a@example.com"), "the log holds personal data");
    // The lead's own row holds it, or it could not be delivered: once as posted and once as a field.
    assert_eq!(memchr::memmem::find_iter(&kept, BORN).count() % 2, 0);
    gateway_tables_hold_it_only_in_leads(&world);
}

/// Looks into the tables themselves: the sensitive value may stand in `lead_data` alone.
fn gateway_tables_hold_it_only_in_leads(world: &World) {
    let file = std::fs::read_dir(world.path("data")).unwrap().map(|entry| entry.unwrap().path());
    let file = file
        .into_iter()
        .find(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")))
        .unwrap();
    let database = rusqlite::Connection::open(file).unwrap();
    let tables: Vec<String> = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'lead_data'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(tables.iter().any(|table| table.starts_with("exchange")), "{tables:?}");
    for table in tables {
        let mut select = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                use rusqlite::types::ValueRef;
                if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column).unwrap() {
                    assert!(
                        memchr::memmem::find(bytes, BORN.as_bytes()).is_none(),
                        "{table} holds the sensitive value"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_resource_is_shown_with_its_version_and_without_its_secrets() {
    let keys = "headers = { X-Api-Key = \"typed-secret-1\", X-Token = \"typed-secret-2 {{delivery.id}}\" }\nauth = { basic = { username = \"user\", password = \"typed-secret-3\" } }\n";
    let network = buyer("sunny", "http://127.0.0.1:9/leads?token=typed-secret-4", "", "", keys);
    let by_post =
        buyer("poster", "http://127.0.0.1:9/", "", "", "").replace("method = \"json\"", "method = \"post\"").replace(
            "template = \"lead.json.hbs\"\n",
            "form = { oid = \"00D000000000062\", api_key = \"typed-secret-5\", email = \"{{lead.email}}\" }\n",
        );
    let by_post = by_post.replacen(
        "[contract.endpoint]",
        "[contract.secrets]\nsigning = \"typed-secret-6\"\n[contract.endpoint]",
        1,
    );
    let world = World::new(&format!("{network}{by_post}"));
    world.configure("[log]\nlevel = \"debug\"");
    let gateway = world.start().await;
    let get = async |path: &str| gateway.send(gateway.client.get(gateway.url(path)).bearer_auth(&gateway.token)).await;
    for (kind, id) in [
        ("campaigns", "solar"),
        ("sources", "acme"),
        ("partners", "sunny"),
        ("contracts", "sunny"),
        ("contracts", "poster"),
    ] {
        let one = get(&format!("/v1/{kind}/{id}")).await;
        assert_eq!((one.status, one.at("/id")), (200, id.to_owned()));
        let tag = one.headers["etag"].to_str().unwrap();
        assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        let all = get(&format!("/v1/{kind}")).await;
        assert!(all.json()["items"].as_array().unwrap().contains(&one.json()), "{}", all.text);
        for text in [&one.text, &all.text] {
            assert!(!text.contains("typed-secret") && !text.contains(KEY), "{text}");
        }
        is_problem(&get(&format!("/v1/{kind}/nothing")).await, 404, "not-found");
    }
    let contract = get("/v1/contracts/sunny").await;
    assert_eq!(
        (contract.at("/price"), contract.at("/endpoint/method"), contract.at("/endpoint/headers/X-Api-Key")),
        ("31.00".to_owned(), "json".to_owned(), "***".to_owned())
    );
    assert_eq!(get("/v1/contracts/poster").await.at("/secrets/signing"), "***");
    assert!(!world.log().contains("typed-secret"));
    gateway.finish().await;
}

//! `gateway import`: rows become leads by the checks of a post, each once, whatever interrupts it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lead_gateway::clock;
use serde_json::{Value, json};

use super::{run, told};
use crate::harness::{Gateway, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};

const IMPORT: [&str; 4] = ["import", "--source", "acme", "leads.csv"];

/// A file of so many people.
fn people(count: usize) -> String {
    let rows = (0..count).map(|number| format!("p{number}@example.com,Person {number}\n"));
    format!("email,name\n{}", rows.collect::<String>())
}

/// Every lead's e-mail address with how often it is there.
async fn everybody(gateway: &Gateway) -> BTreeMap<String, usize> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = gateway.get(&format!("/v1/leads?limit=500&cursor={cursor}")).await;
        for item in page["items"].as_array().unwrap() {
            *all.entry(text_at(item, "/fields/email")).or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

/// How many leads the gateway has accepted since it started.
async fn accepted(gateway: &Gateway) -> u64 {
    let metrics = gateway.send(gateway.client.get(gateway.url("/metrics"))).await.text;
    let line = metrics.lines().find(|line| line.starts_with("gateway_leads_total{") && line.contains("\"accepted\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

fn once_each(count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("p{number}@example.com"), 1)).collect()
}

fn record(world: &World) -> Value {
    let text = std::fs::read_to_string(world.path("leads.import.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn read(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.path(name)).unwrap()
}

/// Starts an import and waits until so many rows are recorded as done.
async fn started(world: &World, rows: u64) -> Child {
    let mut child = world.command(&IMPORT).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while record(world)["done"].as_u64().unwrap_or(0) < rows {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the import ended with {status}: {}", record(world));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    child
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap().success());
}

#[tokio::test]
async fn an_import_that_is_killed_again_and_again_makes_every_row_one_lead() {
    let stub = Stub::start(Behaviour::ok("{}")).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    world.write("leads.csv", &people(400));
    let gateway = world.start().await;
    for rows in [50, 150, 250] {
        let mut child = started(&world, rows).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(record(&world)["finished"], false);
    }
    let text = run(&world, 0, &IMPORT);
    assert!(text.contains("400 of 400 rows: 400 accepted, 0 duplicate, 0 refused."), "{text}");
    assert!(text.contains("going on with row "), "{text}");
    assert_eq!(everybody(&gateway).await, once_each(400));

    let text = run(&world, 0, &IMPORT);
    assert!(text.contains("has been imported") && text.contains("--restart"), "{text}");
    // Even with the record lost, the gateway knows the rows.
    std::fs::remove_file(world.path("leads.import.json")).unwrap();
    run(&world, 0, &IMPORT);
    assert_eq!(everybody(&gateway).await, once_each(400));
    gateway.eventually("/v1/deliveries?state=queued", |page| page["items"] == json!([])).await;
    gateway.eventually("/v1/deliveries?state=sending", |page| page["items"] == json!([])).await;
    assert_eq!(stub.requests().len(), 400);
    gateway.finish().await;
}

#[tokio::test]
async fn an_import_goes_on_after_the_gateway_was_killed() {
    let world = World::new("");
    world.write("leads.csv", &people(1000));
    let gateway = world.start().await;
    let child = started(&world, 100).await;
    // In the midst of a call: rows that are leads already, of which the import was told nothing.
    while !(10..40).contains(&(accepted(&gateway).await % 50)) {}
    gateway.kill();
    let (code, text) = told(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Stopped at row") && text.contains("The same command goes on there"), "{text}");

    let gateway = world.start().await;
    run(&world, 0, &IMPORT);
    assert_eq!(everybody(&gateway).await, once_each(1000));
    gateway.finish().await;
}

#[tokio::test]
async fn an_interrupted_import_says_where_it_stopped_and_ends_with_1() {
    // So slow that it is still under way when the signal comes.
    let world = World::with("", "rate = \"5/h\"", "");
    world.write("leads.csv", &people(20));
    let gateway = world.start().await;
    let child = started(&world, 5).await;
    signal(&child, "-INT");
    let (code, text) = told(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("5 of 20 rows: 5 accepted") && text.contains("Stopped at row 6: interrupted"), "{text}");
    assert_eq!(everybody(&gateway).await, once_each(5));
    gateway.finish().await;
}

#[tokio::test]
async fn a_sources_rate_is_waited_for() {
    let world = World::with("", "rate = \"20/s\"", "");
    world.write("leads.csv", &people(50));
    let gateway = world.start().await;
    let began = clock::instant();
    let text = run(&world, 0, &IMPORT);
    assert!(text.contains("50 accepted"), "{text}");
    // 20 at once, and 30 more at 20 a second.
    assert!(began.elapsed() > Duration::from_millis(1_300), "{:?}", began.elapsed());
    gateway.finish().await;
}

#[tokio::test]
async fn refused_rows_are_written_with_every_reason_for_their_owner_and_can_be_mended_and_imported() {
    let world = World::new("");
    world.write(
        "leads.csv",
        "\u{feff}E-Mail;Name;Bill\r\nann@example.com;\"Ann\nof \"\"Kent\"\"\";10\r\nnobody;Bob;-5\r\n;;\r\nzoe@example.com;Zoe\r\n",
    );
    let gateway = world.start().await;
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("4 of 4 rows: 1 accepted, 0 duplicate, 2 refused, 1 blank."), "{text}");
    assert!(text.contains("gateway import --source acme leads.refused.csv"), "{text}");
    let refused = read(&world, "leads.refused.csv");
    let mut lines = refused.lines();
    assert_eq!(lines.next().unwrap(), "E-Mail;Name;Bill;line;status_code;reasons");
    let wrong = lines.next().unwrap();
    assert!(wrong.starts_with("nobody;Bob;-5;4;422;"), "{wrong}");
    assert!(
        wrong.contains("bill ") && wrong.contains("; email ") || wrong.contains("email ") && wrong.contains("; bill "),
        "{wrong}"
    );
    let short = lines.next().unwrap();
    assert!(short.starts_with("zoe@example.com;Zoe;;6;400;"), "{short}");
    assert!(short.contains("the row has 2 columns and the header 3"), "{short}");
    let mode = std::fs::metadata(world.path("leads.refused.csv")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    // Mended, it is imported as it is: the report's columns are no fields.
    let mended = refused.replace("nobody;Bob;-5", "bob@example.com;Bob;5");
    world.write("leads.refused.csv", &mended);
    run(&world, 0, &["import", "--source", "acme", "leads.refused.csv"]);
    let page = gateway.get("/v1/leads?email=bob@example.com").await;
    assert_eq!(page["items"][0]["fields"], json!({"email": "bob@example.com", "name": "Bob", "bill": "5"}));
    let page = gateway.get("/v1/leads?email=ann@example.com").await;
    assert_eq!(text_at(&page, "/items/0/fields/name"), "Ann\nof \"Kent\"");
    gateway.finish().await;
}

#[tokio::test]
async fn a_file_of_refused_rows_that_somebody_mends_in_the_meantime_is_left_alone() {
    let world = World::with("", "limits = { daily = 1 }", "");
    world.write("leads.csv", "email\nnobody\nann@example.com\nbob@example.com\nno-one\n");
    let gateway = world.start().await;
    run(&world, 1, &IMPORT);
    let mended = read(&world, "leads.refused.csv").replace("nobody", "kim@example.com");
    world.write("leads.refused.csv", &mended);
    let base = read(&world, "network/base.toml").replace("daily = 1", "daily = 9");
    world.write("network/base.toml", &base);
    run(&world, 0, &["apply", "network"]);

    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("leads.refused.csv has been changed"), "{text}");
    assert_eq!(read(&world, "leads.refused.csv"), mended);
    std::fs::rename(world.path("leads.refused.csv"), world.path("mended.csv")).unwrap();
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("4 of 4 rows: 2 accepted, 0 duplicate, 2 refused."), "{text}");
    assert!(read(&world, "leads.refused.csv").starts_with("email,line,status_code,reasons\nno-one,5,422,"));
    run(&world, 0, &["import", "--source", "acme", "mended.csv"]);
    gateway.finish().await;
}

#[tokio::test]
async fn columns_go_by_their_names_or_as_told_and_a_preview_shows_it_and_imports_nothing() {
    let world = World::new("");
    world.write(
        "leads.csv",
        "Mail;POST-CODE;External ID;Roof colour;Note\nann@example.com;sw1a1aa;A-17;red;private\nnobody;x;A-18;;\n",
    );
    world.write("map.toml", "Mail = \"email\"\nNote = false\n");
    let gateway = world.start().await;
    let mapped = [&IMPORT[..], &["--mapping", "map.toml"]].concat();

    let text = run(&world, 2, &IMPORT);
    assert!(text.contains("no column goes into `email`") && text.contains("--map"), "{text}");
    let text = run(&world, 2, &[&mapped[..], &["--map", "Colour=name"]].concat());
    assert!(text.contains("there is no column \"Colour\"; there are \"Mail\""), "{text}");
    let text = run(&world, 2, &[&mapped[..], &["--map", "Roof colour=email"]].concat());
    assert!(text.contains("columns \"Mail\" and \"Roof colour\" all go into `email`"), "{text}");

    let text = run(&world, 1, &[&mapped[..], &["--preview"]].concat());
    for told in [
        "2 rows",
        "POST-CODE",
        "→ postcode",
        "→ external_id",
        "kept as text",
        "left out",
        "postcode = SW1A 1AA",
        "refused: email ",
        "external_id = A-17",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(everybody(&gateway).await, BTreeMap::new());
    assert!(!world.path("leads.import.json").exists());

    run(&world, 1, &mapped);
    let page = gateway.get("/v1/leads?external_id=A-17").await;
    assert_eq!(
        page["items"][0]["fields"],
        json!({"email": "ann@example.com", "postcode": "SW1A 1AA", "Roof colour": "red"})
    );
    gateway.finish().await;
}

#[tokio::test]
async fn a_campaign_that_takes_no_other_fields_is_asked_about_them_before_the_first_row() {
    let world = World::with("unknown_fields = \"refuse\"", "", "");
    world.write("leads.csv", "email,Roof colour\nann@example.com,red\n");
    let gateway = world.start().await;
    let text = run(&world, 2, &IMPORT);
    assert!(text.contains("\"Roof colour\" is no field") && text.contains("--ignore-unmapped"), "{text}");
    run(&world, 0, &[&IMPORT[..], &["--ignore-unmapped"]].concat());
    let page = gateway.get("/v1/leads?email=ann@example.com").await;
    assert_eq!(page["items"][0]["fields"], json!({"email": "ann@example.com"}));
    gateway.finish().await;
}

#[tokio::test]
async fn older_encodings_and_tabs_are_read_and_a_wrong_encoding_is_found_before_the_first_row() {
    let world = World::new("");
    std::fs::write(world.path("leads.csv"), b"email\tname\nzoe@example.com\tZo\xeb\n").unwrap();
    let gateway = world.start().await;
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("line 2: this is not UTF-8") && text.contains("--encoding windows-1252"), "{text}");
    run(&world, 0, &[&IMPORT[..], &["--encoding", "windows-1252"]].concat());
    let page = gateway.get("/v1/leads?email=zoe@example.com").await;
    assert_eq!(text_at(&page, "/items/0/fields/name"), "Zoë");
    gateway.finish().await;
}

#[tokio::test]
async fn a_limit_stops_the_import_says_when_it_opens_and_the_same_command_goes_on() {
    let world = World::with("", "limits = { daily = 3 }", "");
    world.write("leads.csv", &people(5));
    let gateway = world.start().await;
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("3 of 5 rows: 3 accepted"), "{text}");
    assert!(
        text.contains("Stopped at row 4: the daily limit of source acme (3, Europe/London) is reached; it opens at 2"),
        "{text}"
    );
    assert!(!world.path("leads.refused.csv").exists());

    let base = read(&world, "network/base.toml").replace("daily = 3", "daily = 5");
    world.write("network/base.toml", &base);
    run(&world, 0, &["apply", "network"]);
    run(&world, 0, &IMPORT);
    assert_eq!(everybody(&gateway).await, once_each(5));
    gateway.finish().await;
}

#[tokio::test]
async fn a_paused_source_stops_the_import_and_duplicates_are_counted() {
    let world = World::with("dedupe = [{ fields = [\"email\"], window = \"30d\" }]", "", "");
    world.write("leads.csv", &people(3));
    let gateway = world.start().await;
    gateway.post(&lead("p1@example.com")).await;
    assert_eq!(gateway.act("/v1/sources/acme/pause", &json!({})).await.status, 200);
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("Stopped at row 1: acme is paused"), "{text}");
    assert_eq!(gateway.act("/v1/sources/acme/resume", &json!({})).await.status, 200);
    let text = run(&world, 0, &IMPORT);
    assert!(text.contains("3 of 3 rows: 2 accepted, 1 duplicate, 0 refused."), "{text}");
    gateway.finish().await;
}

#[tokio::test]
async fn test_leads_are_sent_to_nobody_and_the_real_import_follows_as_if_they_had_not_been() {
    let stub = Stub::start(Behaviour::ok("{}")).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    world.write("leads.csv", &people(2));
    let gateway = world.start().await;
    run(&world, 0, &[&IMPORT[..], &["--test"]].concat());
    assert!(!world.path("leads.import.json").exists());
    let page = gateway.get("/v1/leads?test=true").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(stub.requests().len(), 0);
    run(&world, 0, &IMPORT);
    gateway.eventually("/v1/deliveries?state=accepted", |page| page["items"].as_array().unwrap().len() == 2).await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_file_that_has_changed_is_refused_with_what_to_do() {
    let world = World::with("", "limits = { daily = 3 }", "");
    world.write("leads.csv", &people(5));
    let gateway = world.start().await;
    run(&world, 1, &IMPORT);
    world.write("leads.csv", &people(4));
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("the file has changed") && text.contains("--restart"), "{text}");
    let text = run(&world, 1, &["import", "--source", "nobody", "leads.csv"]);
    assert!(text.contains("there is no source `nobody`"), "{text}");
    gateway.finish().await;
}

#[tokio::test]
async fn a_run_that_broke_off_longer_ago_than_rows_are_remembered_asks_where_to_go_on() {
    let world = World::new("");
    world.write("leads.csv", &people(80));
    let gateway = world.start().await;
    run(&world, 0, &IMPORT);
    let mut old = record(&world);
    for (key, value) in [
        ("done", json!(50)),
        ("stopped", json!(false)),
        ("finished", json!(false)),
        ("at", json!("2026-01-01T00:00:00Z")),
    ] {
        old[key] = value;
    }
    world.write("leads.import.json", &old.to_string());
    let text = run(&world, 1, &IMPORT);
    assert!(text.contains("broke off at row 50") && text.contains("--from-row"), "{text}");
    run(&world, 0, &[&IMPORT[..], &["--from-row", "81"]].concat());
    assert_eq!(everybody(&gateway).await, once_each(80));
    gateway.finish().await;
}

#[tokio::test]
async fn without_a_running_gateway_leads_are_taken_and_delivered_after_the_next_start() {
    let stub = Stub::start(Behaviour::ok("{}")).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    world.write("leads.csv", &people(60));
    world.start().await.stop().await;
    let text = run(&world, 0, &IMPORT);
    assert!(text.contains("60 accepted") && text.contains("No gateway runs"), "{text}");
    assert_eq!(stub.requests().len(), 0);
    let gateway = world.start().await;
    gateway
        .eventually("/v1/deliveries?state=accepted&limit=500", |page| page["items"].as_array().unwrap().len() == 60)
        .await;
    assert_eq!(everybody(&gateway).await, once_each(60));
    gateway.finish().await;
}

#[tokio::test]
async fn columns_of_a_list_all_go_into_it_and_empty_cells_are_no_entries() {
    let world = World::new("");
    let base = std::fs::read_to_string(world.path("network/base.toml")).unwrap().replace(
        "[campaign.fields]\n",
        "[campaign.fields]\ninterests = { type = \"list\", items = { type = \"text\" } }\n\
         cars = { type = \"list\", fields = { make = { type = \"text\" }, year = { type = \"integer\" } } }\n",
    );
    world.write("network/base.toml", &base);
    world.write(
        "leads.csv",
        "email,Interest 1,Interest 2,cars[0].make,cars[0].year,cars[1].make\nann@example.com,solar,,Kia,2019,\nbob@example.com,wind,heat,,,\n",
    );
    let gateway = world.start().await;
    let lists = ["--map", "Interest 1=interests", "--map", "Interest 2=interests"];
    let preview = run(&world, 0, &[&IMPORT[..], &lists, &["--preview"]].concat());
    assert!(preview.contains("interests = ") && !preview.contains("refused"), "{preview}");
    run(&world, 0, &[&IMPORT[..], &lists].concat());
    let fields = |page: &Value, email: &str| {
        let leads = page["items"].as_array().unwrap();
        leads.iter().find(|lead| lead["fields"]["email"] == email).unwrap()["fields"].clone()
    };
    let page = gateway.get("/v1/leads").await;
    let ann = fields(&page, "ann@example.com");
    assert_eq!((&ann["interests"], &ann["cars"]), (&json!(["solar"]), &json!([{"make": "Kia", "year": 2019}])));
    let bob = fields(&page, "bob@example.com");
    assert_eq!((&bob["interests"], bob.get("cars")), (&json!(["wind", "heat"]), None));
    gateway.finish().await;
}

#[tokio::test]
async fn a_quote_that_never_closes_is_found_before_the_first_row() {
    let world = World::new("");
    let gateway = world.start().await;
    for (file, told) in [
        ("email,name\nann@example.com,\"Ann\nbob@example.com,Bob\n", "leads.csv, line 2: a quote opens here"),
        ("email,\"name\nann@example.com,Ann\n", "leads.csv, line 1: a quote opens here"),
        ("email,\"name\nann@example.com,Ann\"\nbob@example.com,x\n", "has a line break in its name"),
    ] {
        world.write("leads.csv", file);
        let text = run(&world, 1, &IMPORT);
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(everybody(&gateway).await, BTreeMap::new());
    // Quotes that do not open a cell, doubled ones and closed ones are as they should be.
    world.write("leads.csv", "email,name\nann@example.com,5\" pipe\nbob@example.com,\"Bob \"\"the\"\"\n roofer\"\n");
    run(&world, 0, &IMPORT);
    assert_eq!(everybody(&gateway).await.len(), 2);
    gateway.finish().await;
}

#[tokio::test]
async fn a_file_that_is_written_anew_while_it_is_imported_stops_the_import() {
    let world = World::with("", "rate = \"100/s\"", "");
    world.write("leads.csv", &people(600));
    let gateway = world.start().await;
    let mut child = started(&world, 100).await;
    world.write("leads.csv", &people(700));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let taken = everybody(&gateway).await;
    assert!(taken.len() < 600 && taken.values().all(|count| *count == 1), "{}", taken.len());
    gateway.finish().await;
}

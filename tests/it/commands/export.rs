//! `gateway export`: what is written is what `check` and `apply` read back without a difference.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{run, told};
use crate::harness::{World, buyer};
use crate::partner_stub::{Authority, Behaviour, Stub};

/// A campaign, an introducer, a source, a buyer and contracts that say something for every key.
const EVERY_KEY: &str = r#"
[[campaign]]
id = "full"
name = "Every \"key\" of a campaign\nand a line break \u007F"
timezone = "Europe/Berlin"
currency = "EUR"
distribution = "round_robin"
sell_to = 0
unknown_fields = "refuse"
dedupe = [{ fields = ["email"], window = "30d" }, { fields = ["phone", "address.zip"], window = "90m" }]
limits = { daily = 10, monthly = 100, total = 1000 }

[campaign.fields]
"address.zip" = { type = "postcode", country = "DE" }
email = { type = "email", required = true, sensitive = true }
phone = { type = "phone", region = "DE" }
"fields" = { type = "text", min = 1, max = 20, pattern = '\d+"x' }
kind = { type = "one_of", values = ["a", "b", "it's"], default = "a" }
when = { type = "date", min = "2020-01-01" }
bill = { type = "decimal", min = 0.5, max = "99999999999999999999.5" }
on = { type = "boolean", default = true }
home = { type = "url" }
from = { type = "ip" }
count = { type = "integer", max = 7 }
tags = { type = "list", items = { type = "one_of", values = ["x", "y"] }, min = 1, max = 5 }
cars = { type = "list", fields = { make = { type = "text", required = true }, year = { type = "integer", min = 1900 } }, sensitive = true }

[[partner]]
id = "full"
name = "Both"
kind = "both"
timezone = "America/New_York"
contact = { email = "a@b.example", phone = "+1", transfer_phone = "+2" }
limits = { monthly = 5 }
schedule = { mon-fri = "09:00-12:00, 13:00-17:00", sat = "22:00-02:00" }
closed_on = ["2026-12-25", "2026-12-26"]

[[source]]
id = "full"
name = "S"
campaign = "full"
partner = "full"
key = ["sha256:bb3bcca0f88ca8f8ed4d5e31e40d1cb2b9ae6a3ac4f6a0a2a3a0cb4a3b9cb8d2", "a-literal-key-of-sixteen"]
key_in_body = true
payout = "1.25"
rate = "50/10s"
limits = { total = 9 }
wait = "10s"
status = "ended"

[[contract]]
id = "soap"
name = "C"
partner = "full"
campaign = "full"
price = "31.00"
priority = 3
weight = 4
limits = { daily = 2 }
schedule = { mon = "00:00-24:00" }
when_closed = "hold"
when_full = "skip"
when_paused = "hold"
hold_for = "36h"
on_unknown = "retry"
filters = { all = [
    { any = [{ field = "address.zip", prefix = ["10", "12"] }, { field = "bill", min = 5, max = "50" }] },
    { not = { field = "kind", one_of = ["b", "it's"] } },
    { field = "email", matches = '^[a-z]+@"', exists = true },
    { source = true, prefix = "f" },
    { field = "on", equals = true },
] }
maps.yes_no = { true = "Y", "*" = "N", 'a.b "c"' = "\\" }
maps.second = { a = "1" }
secrets = { signing = "file:secret", typed = "typed in" }

[contract.endpoint]
method = "soap11"
url = "https://127.0.0.1:1/{{lead.kind}}"
action = "urn:do"
backup_url = "https://127.0.0.1:2/{{lead.kind}}"
charset = "iso-8859-1"
tls = { ca = "file:ca.pem" }
keep_alive = "50s"
template = "deep/down/body.hbs"
header_template = "deep/head.hbs"
headers = { X-Source = "{{source.id}}", X-Secret = "file:secret" }
auth = { basic = { username = "me", password = "file:secret" } }
connect_timeout = "1500ms"
timeout = "2m"
concurrency = 3
rate = "600/m"
retry = { max_attempts = 2, first = "1s", max = "1m", give_up_after = "2h" }
on_5xx = "retry"
unmatched = "rejected"
idempotency_header = false

[contract.endpoint.response]
duplicate = [{ status = true, one_of = [409, "410"] }, { header = "X-Dup", exists = true }]
accepted = { all = [{ xpath = "//Status", equals = "OK" }, { contains = "fine" }] }
rejected = { inside = { xpath = "//Result", as = "json" }, json = "$.code", min = 1, max = 5 }
retryable = { regex = '(wait|"later")', matches = "^w" }
reason = [{ form = "why" }, { css = "input.why", attribute = "value" }, { body = true }]
reference = { json = "$['id']" }
redirect_url = { header = "Location" }
price = { inside = { form = "x", as = "xml" }, xpath = "//Price", minor_units = true }

[[contract]]
id = "form"
partner = "full"
campaign = "full"

[contract.endpoint]
method = "post"
url = "http://127.0.0.1:1/"
idempotency_header = "X-Id"
auth = { query = { name = "token", value = "file:secret" } }

[contract.endpoint.form]
"first.name" = "{{lead.email}}"
form = "a{{lead.kind}}\n'\"b"

[[contract]]
id = "tokens"
partner = "full"
campaign = "full"

[contract.endpoint]
method = "get"
url = "http://127.0.0.1:1/"
concurrency = "adaptive"

[contract.endpoint.auth.oauth2]
token_url = "https://127.0.0.1:1/token"
grant = "password"
client_id = "me"
client_secret = "file:secret"
client_auth = "basic_plain"
username = "ada"
password = "file:secret"
scope = "a b"
params = { audience = "x", "odd name" = "file:secret" }
header = "X-Token"
scheme = ""

[contract.endpoint.response]
unauthorized = { status = true, equals = 418 }
accepted = { json = "$.all[*].ok", every = true, equals = true }

[[contract]]
id = "security"
partner = "full"
campaign = "full"

[contract.endpoint]
method = "soap12"
url = "http://127.0.0.1:1/"
template = "deep/part.hbs"
auth = { wsse = { username = "me", password = "file:secret", password_type = "digest", timestamp = "5m", must_understand = false } }
"#;

/// What the network refers to.
fn write_secrets(world: &World) {
    world.write("secret", "s3cret-of-theirs");
    world.write("ca.pem", &String::from_utf8(Authority::new().pem()).unwrap());
}

fn full() -> World {
    let world = World::new(EVERY_KEY);
    write_secrets(&world);
    std::fs::create_dir_all(world.path("templates/deep/down")).unwrap();
    world.write("templates/deep/down/body.hbs", "<a>{{> deep/part.hbs}}</a>\n");
    world.write("templates/deep/part.hbs", "<b>{{lead.email}}</b>");
    world.write("templates/deep/head.hbs", "<h>{{source.id}}</h>");
    world
}

/// Applies a network, exports it, and reads the export back in every way there is.
fn round_trip(world: &World, network: &str) {
    run(world, 0, &["apply", network]);
    let told = run(world, 0, &["export", "out", "--with-secrets"]);
    assert!(told.contains("gateway apply out --dry-run"), "{told}");
    // From the export alone.
    std::fs::rename(world.path("templates"), world.path("templates-away")).unwrap();
    run(world, 0, &["check", "out"]);
    assert_eq!(run(world, 0, &["apply", "out", "--dry-run", "--prune"]), "Nothing differs.\n");
    // Into an empty store, and out again: the same files.
    let again = World::new("");
    if world.path("secret").exists() {
        write_secrets(&again);
    }
    run(&again, 0, &["apply", &world.path("out").display().to_string()]);
    run(&again, 0, &["export", "out", "--with-secrets"]);
    assert_eq!(files(&again.path("out")), files(&world.path("out")));
}

/// Every file below a directory with its text.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_network_that_uses_every_key_is_exported_and_read_back_without_a_difference() {
    let world = full();
    round_trip(&world, "network");
    let names: Vec<String> = files(&world.path("out")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "campaign-full.toml",
            "campaign-solar.toml",
            "partner-full.toml",
            "partner-media.toml",
            "templates/deep/down/body.hbs",
            "templates/deep/head.hbs",
            "templates/deep/part.hbs"
        ]
    );
}

#[test]
fn the_shipped_networks_are_exported_and_read_back_without_a_difference() {
    for network in ["config/network", "config/demo"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let world = World::new("");
        std::fs::remove_dir_all(world.path("templates")).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([root.join("templates"), world.path("templates")])
            .status()
            .unwrap();
        assert!(copied.success());
        world.write("secret", "s3cret-of-theirs");
        let secret = format!("file:{}", world.path("secret").display());
        std::fs::create_dir(world.path("shipped")).unwrap();
        for entry in std::fs::read_dir(root.join(network)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                // What the shipped files leave to their reader.
                let text = text
                    .replace("env:BRIGHTROOF_KEY", &secret)
                    .replace("env:ACME_KEY", &secret)
                    .replace("\"SOURCE_KEY\"", "\"a-key-of-the-demos-source\"")
                    .replace("CLOSED_NOW", "01:00-02:00");
                world.write(&format!("shipped/{}", path.file_name().unwrap().to_str().unwrap()), &text);
            }
        }
        round_trip(&world, "shipped");
    }
}

#[tokio::test]
async fn a_running_gateway_is_exported_too_and_an_export_is_complete_for_a_person() {
    let stub = Stub::start(Behaviour::ok("{}")).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "priority = 1", ""));
    let gateway = world.start().await;
    run(&world, 0, &["export", "out"]);
    let text = std::fs::read_to_string(world.path("out/partner-one.toml")).unwrap();
    assert!(!text.contains("priority"), "a default was written: {text}");
    assert!(text.contains("\n[[contract]]\nid = \"one\"\npartner = \"one\"\n"), "{text}");
    assert!(text.contains("\n[contract.endpoint]\nmethod = \"json\"\n"), "{text}");
    assert_eq!(run(&world, 0, &["apply", "out", "--dry-run", "--prune"]), "Nothing differs.\n");
    gateway.finish().await;
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone_unless_forced_and_what_is_out_of_date_in_it_is_named() {
    let world = World::new("");
    run(&world, 0, &["apply", "network"]);
    std::fs::create_dir(world.path("out")).unwrap();
    world.write("out/partner-gone.toml", "[[partner]]\nid = \"gone\"\nkind = \"buyer\"\ntimezone = \"UTC\"\n");
    let text = run(&world, 1, &["export", "out"]);
    assert!(text.contains("not empty") && text.contains("--force"), "{text}");
    assert_eq!(files(&world.path("out")).len(), 1);

    let text = run(&world, 1, &["export", "out", "--force"]);
    assert!(text.contains("out/partner-gone.toml"), "{text}");
    std::fs::remove_file(world.path("out/partner-gone.toml")).unwrap();
    run(&world, 0, &["export", "out", "--force"]);
}

#[test]
fn secrets_that_are_written_out_are_refused_with_their_places_and_exported_for_the_owner_alone() {
    let endpoint = "headers = { X-Api-Key = \"k-written-out\", X-Kind = \"solar\" }\nauth = { bearer = { token = \"t-written-out\" } }";
    let world = World::new(&buyer("one", "https://127.0.0.1:1/?key=u-written-out", "", "", endpoint));
    run(&world, 0, &["apply", "network"]);
    let text = run(&world, 1, &["export", "out"]);
    for place in ["endpoint.headers.X-Api-Key", "endpoint.auth.bearer.token", "endpoint.url", "--with-secrets"] {
        assert!(text.contains(place), "{place}: {text}");
    }
    assert!(!text.contains("written-out") && !text.contains("X-Kind"), "{text}");
    assert!(!world.path("out").exists());

    run(&world, 0, &["export", "out", "--with-secrets"]);
    let mode = |name: &str| std::fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("out/partner-one.toml"), 0o600);
    assert_ne!(mode("out/partner-media.toml") & 0o600, 0);
    assert_eq!(run(&world, 0, &["apply", "out", "--dry-run"]), "Nothing differs.\n");
}

#[test]
fn without_a_network_there_is_nothing_to_export() {
    let world = World::new("");
    let (code, text) = told(&world.run(&["export", "out"]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("gateway serve"), "{text}");
    assert!(!world.path("data").exists() && !world.path("out").exists());
}

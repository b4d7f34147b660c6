//! List fields from a source's post to a partner's request.

use super::super::partner_stub::{Behaviour, Stub};
use super::*;

const CARS: &str = r#"
[[campaign]]
id = "cars"
timezone = "Europe/London"
currency = "GBP"
[campaign.fields]
email = { type = "email", required = true }
interests = { type = "list", items = { type = "one_of", values = ["Lease", "Buy"] } }
vehicles = { type = "list", fields = { make = { type = "text", required = true }, year = { type = "integer", min = 1950 } } }
ills = { type = "list", items = { type = "text" }, sensitive = true }

[[source]]
id = "garage"
campaign = "cars"
partner = "media"
key = "test-key-of-garage-01"
"#;
const GARAGE_KEY: &str = "test-key-of-garage-01";
const CARS_LEADS: &str = "/v1/campaigns/cars/leads";

#[tokio::test]
async fn a_list_reaches_the_partner_that_wants_it_from_every_format() {
    let partner = Stub::start(Behaviour::ok("{}")).await;
    let wanting = "filters = { field = \"vehicles.year\", min = 2015 }";
    let network = buyer("dealer", &partner.url("/"), "", wanting, "").replace("\"solar\"", "\"cars\"");
    let world = World::new(&format!("{CARS}{network}"));
    world.write(
        "templates/lead.json.hbs",
        "{\"wants\": {{json lead.interests}}, \"cars\": [{{#each lead.vehicles}}{\"make\": \"{{this.make}}\", \"year\": \
         {{this.year}}}{{#unless @last}},{{/unless}}{{/each}}], \"ills\": \"{{concat lead.ills separator=', '}}\"}",
    );
    let gateway = world.start().await;
    let json = json!({"email": "a@example.com", "interests": ["buy", "lease"], "ills": ["asthma"],
        "vehicles": [{"make": "V\"W", "year": 2004}, {"make": "Kia", "year": "2021"}]});
    let form = "email=a%40example.com&interests=buy&interests=lease&ills=asthma&vehicles[0][make]=V%22W&vehicles[0][year]=2004\
                &vehicles[1][make]=Kia&vehicles[1][year]=2021";
    let parts = [
        ("email", "a@example.com"),
        ("interests[]", "buy"),
        ("interests[]", "lease"),
        ("ills", "asthma"),
        ("vehicles.0.make", "V\"W"),
        ("vehicles.0.year", "2004"),
        ("vehicles.1.make", "Kia"),
        ("vehicles.1.year", "2021"),
    ];
    let xml = "<lead><email>a@example.com</email><interests>buy</interests><interests>lease</interests><ills>asthma</ills><vehicles>\
               <v><make>V\"W</make><year>2004</year></v><v><make>Kia</make><year>2021</year></v></vehicles></lead>";
    let bodies = [
        ("application/json", json.to_string()),
        ("application/x-www-form-urlencoded", form.to_owned()),
        ("multipart/form-data; boundary=b", multipart(&parts)),
        ("application/xml", xml.to_owned()),
    ];
    for (number, (kind, body)) in bodies.into_iter().enumerate() {
        let request = gateway.client.post(gateway.url(CARS_LEADS)).bearer_auth(GARAGE_KEY).header("content-type", kind);
        let id = accepted(&gateway.send(request.header("accept", "application/json").body(body)).await);
        let lead = gateway.lead_becomes(&id, "sold").await;
        assert_eq!(
            lead["fields"],
            json!({"email": "a@example.com", "interests": ["Buy", "Lease"], "ills": ["asthma"],
                "vehicles": [{"make": "V\"W", "year": 2004}, {"make": "Kia", "year": 2021}]}),
            "{kind}"
        );
        let requests = partner.requests();
        let sent: Value = serde_json::from_slice(&requests[number].body).unwrap();
        assert_eq!(
            sent,
            json!({"wants": ["Buy", "Lease"], "cars": [{"make": "V\"W", "year": 2004}, {"make": "Kia", "year": 2021}], "ills": "asthma"}),
            "{kind}"
        );
        let delivery = gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await;
        let kept = text_at(&delivery, "/attempts/0/request/body");
        assert!(kept.contains("\"***\"") && !kept.contains("asthma"), "{kept}");
    }
    // Nobody wants old cars.
    let old = json!({"email": "a@example.com", "vehicles": {"make": "VW", "year": 2004}}).to_string();
    let id = accepted(&post(&gateway, CARS_LEADS, GARAGE_KEY, "application/json", old).await);
    let lead = gateway.lead_becomes(&id, "unsold").await;
    assert_eq!(text_at(&lead, "/candidates/0/reason"), "vehicles.year is not at least 2015");
    gateway.finish().await;
}

#[tokio::test]
async fn a_refused_list_names_its_entries_and_what_is_sensitive_in_it_is_not_kept() {
    let world = World::new(CARS);
    let gateway = world.start().await;
    let body = json!({"email": "a@example.com", "ills": ["asthma", "in\u{1}fluenza"], "vehicles": [{"make": "VW"}, {"year": 1900}]});
    let answer = post(&gateway, CARS_LEADS, GARAGE_KEY, "application/json", body.to_string()).await;
    is_problem(&answer, 422, "validation");
    assert_eq!(wrong_fields(&answer), ["ills[1]", "vehicles[1].make", "vehicles[1].year"]);
    let refusals = gateway.get("/v1/refusals").await;
    let kept = text_at(&refusals, "/items/0/request/body");
    assert!(kept.contains("vehicles") && !kept.contains("asthma") && !kept.contains("fluenza"), "{kept}");
    gateway.finish().await;
}

//! SOAP services of both versions that check every message against their schema, want a header block, and know who
//! calls them by WS-Security.

use serde_json::{Value, json};

use super::super::harness::{Gateway, World, buyer, text_at};
use super::Peer;

const WSSE: &str = "password = \"p<&>w of ours\"";

/// A contract with this service; `wsse` are the keys of its `auth.wsse` beside the user's name.
fn network(peer: &Peer, version: &str, wsse: &str) -> String {
    let endpoint = format!(
        "action = \"urn:partner/SubmitLead\"\nheader_template = \"header.xml.hbs\"\nretry = {{ first = \"1h\" }}\n\
         auth = {{ wsse = {{ username = \"gateway\", {wsse} }} }}\n\
         [contract.endpoint.response]\naccepted = {{ xpath = \"//Status\", equals = \"OK\" }}\n\
         reference = {{ xpath = \"//Reference\" }}\nreason = {{ xpath = \"//Echo\" }}\n"
    );
    buyer("sunny", &peer.url(&format!("/{version}")), "", "", &endpoint)
        .replace("method = \"json\"", &format!("method = \"soap{version}\""))
        .replace("lead.json.hbs", "lead.xml.hbs")
}

fn world(network: &str) -> World {
    let world = World::new(network);
    world.write(
        "templates/lead.xml.hbs",
        "<SubmitLead xmlns=\"urn:partner\"><Email>{{lead.email}}</Email><Name>{{lead.name}}</Name><Bill>{{lead.bill}}</Bill></SubmitLead>",
    );
    world.write("templates/header.xml.hbs", "<Campaign xmlns=\"urn:partner\">{{campaign.id}}</Campaign>");
    world
}

async fn delivered(gateway: &Gateway, name: &str) -> Value {
    let lead = json!({"email": format!("{}@example.com", name.len()), "name": name, "bill": "85.50"});
    let answer = gateway.post_and_wait(&lead).await;
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await
}

#[tokio::test]
async fn services_of_both_versions_take_our_messages_with_headers_and_ws_security_and_their_faults_are_understood() {
    let peer = Peer::start("soap_server.py", &[]);
    let hostile = "Zoë <O'Neil> & \"Sons\" ]]> 🦀";
    for version in ["11", "12"] {
        for wsse in [
            WSSE.to_owned(),
            format!("{WSSE}, password_type = \"digest\""),
            format!("{WSSE}, password_type = \"digest\", timestamp = \"5m\""),
        ] {
            let world = world(&network(&peer, version, &wsse));
            let gateway = world.start().await;
            let taken = delivered(&gateway, hostile).await;
            assert_eq!(text_at(&taken, "/state"), "accepted", "{version} {wsse}: {taken:#}");
            assert_eq!(
                (text_at(&taken, "/reference"), text_at(&taken, "/reason")),
                ("solar-85.50".into(), hostile.into())
            );
            // The nonce serves once: a second lead needs another.
            assert_eq!(text_at(&delivered(&gateway, "Ann").await, "/state"), "accepted");

            let refused = delivered(&gateway, "refuse").await;
            assert_eq!(
                (text_at(&refused, "/state"), text_at(&refused, "/attempts/0/explanation/rule")),
                ("rejected".into(), "soap_fault".into())
            );
            assert_eq!(text_at(&refused, "/reason"), "we do not want <6@example.com>");
            let failed = delivered(&gateway, "fail").await;
            assert_eq!(
                (text_at(&failed, "/state"), text_at(&failed, "/attempts/0/verdict")),
                ("queued".into(), "retryable".into()),
                "{failed:#}"
            );
            assert_eq!(text_at(&failed, "/reason"), "the database is away");
            let shown = taken.to_string();
            assert!(!shown.contains("w of ours") && !shown.contains("p&lt;"), "{taken:#}");
            gateway.stop().await;
        }
    }
}

#[tokio::test]
async fn a_service_that_does_not_know_us_says_so() {
    let peer = Peer::start("soap_server.py", &[]);
    for version in ["11", "12"] {
        let world = world(&network(&peer, version, "password = \"not-that-one\", password_type = \"digest\""));
        let gateway = world.start().await;
        let refused = delivered(&gateway, "Ann").await;
        assert_eq!(text_at(&refused, "/reason"), "wrong user name or password", "{refused:#}");
        gateway.stop().await;
    }
}

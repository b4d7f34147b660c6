//! What operators and their machines ask.

use super::*;

#[tokio::test]
async fn health_readiness_and_the_description_need_no_token() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let gateway = world.start().await;
    let get = async |path: &str| gateway.send(gateway.client.get(gateway.url(path))).await;
    assert_eq!((get("/healthz").await.status, get("/healthz").await.json()), (200, json!({"status": "ok"})));
    let ready = get("/readyz").await;
    assert_eq!((ready.status, ready.at("/status")), (200, "ready".to_owned()));
    let description = get("/openapi.json").await;
    assert_eq!((description.status, description.headers["content-type"].to_str().unwrap()), (200, "application/json"));
    assert!(description.json().is_object());
    assert_eq!(gateway.send(gateway.client.head(gateway.url("/healthz"))).await.status, 200);
    gateway.finish().await;
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let no = Stub::start(Behaviour::ok("{\"ok\":false,\"why\":\"Zebediah is known\"}")).await;
    let yes = Stub::start(Behaviour::ok("{\"ok\":true}")).await;
    let world = World::new(
        &[buyer("no", &no.url("/"), "", "priority = 1", RULES), buyer("yes", &yes.url("/"), "", "priority = 2", RULES)]
            .concat(),
    );
    let gateway = world.start().await;
    settled(&gateway, &json!({"email": "zebediah@example.com", "name": "Zebediah"})).await;
    gateway.post(&email("nobody")).await;
    let answer = gateway.send(gateway.client.get(gateway.url("/metrics"))).await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let metrics = answer.text;
    let has = |name: &str, labels: &[&str], value: &str| {
        metrics.lines().any(|line| {
            line.starts_with(name)
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with(&format!(" {value}"))
        })
    };
    let source = ["source=\"acme\"", "campaign=\"solar\""];
    assert!(has("gateway_leads_total", &[source[0], source[1], "result=\"sold\""], "1"), "{metrics}");
    assert!(has("gateway_leads_total", &[source[0], source[1], "result=\"refused\""], "1"), "{metrics}");
    assert!(
        has("gateway_deliveries_total", &["partner=\"no\"", "contract=\"no\"", "state=\"rejected\""], "1"),
        "{metrics}"
    );
    assert!(has("gateway_deliveries_total", &["partner=\"yes\"", "state=\"accepted\""], "1"), "{metrics}");
    assert!(
        has("gateway_attempts_total", &["partner=\"yes\"", "verdict=\"accepted\"", "class=\"response\""], "1"),
        "{metrics}"
    );
    assert!(has("gateway_gate_answers_total", &["contract=\"yes\"", "answer=\"open\""], "1"), "{metrics}");
    for stage in ["intake", "accept_commit", "render", "attempt_commit", "dispatch", "completion_commit"] {
        assert!(metrics.contains(&format!("gateway_stage_seconds_bucket{{stage=\"{stage}\"")), "{stage}: {metrics}");
    }
    for personal in ["Zebediah", "zebediah", KEY, &gateway.token] {
        assert!(!metrics.contains(personal), "{metrics}");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn metrics_on_an_address_of_their_own_are_not_served_to_everybody() {
    let (_partner, world) = ruled(Behaviour::ok("{\"ok\":true}"), "", "").await;
    let free = super::super::partner_stub::refused().await;
    let config = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    world.write("gateway.toml", &config.replace("[server]\n", &format!("[server]\nmetrics_listen = \"{free}\"\n")));
    let gateway = world.start().await;
    is_problem(&gateway.send(gateway.client.get(gateway.url("/metrics"))).await, 404, "not-found");
    let own = gateway.send(gateway.client.get(format!("http://{free}/metrics"))).await;
    assert_eq!(own.status, 200);
    let else_there = gateway.send(gateway.client.get(format!("http://{free}/v1/leads"))).await;
    assert_eq!(else_there.status, 404);
    gateway.finish().await;
}

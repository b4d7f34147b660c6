//! The demo's table, and what to try next.

use std::net::SocketAddr;
use std::time::Duration;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde_json::Value;

use super::network::{CAMPAIGN, CLOSED_CONTRACT};
use super::result::{LeadResult, text};

/// Prints what became of every lead.
pub(super) fn show(results: &[LeadResult], took: Duration) {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    // Without a terminal there is no width to keep to.
    if table.width().is_none() {
        table.set_width(160);
    }
    table.set_header(["#", "lead", "status", "partner", "method", "attempts", "verdict", "why"]);
    for (index, result) in results.iter().enumerate() {
        table.add_row(row(index + 1, result));
    }
    println!("{table}");
    let good = results.iter().filter(|result| result.is_as_expected()).count();
    println!("{good} of {} leads ended as expected, after {:.1} s.", results.len(), took.as_secs_f64());
    for result in results.iter().filter(|result| !result.is_as_expected()) {
        println!("\n{}: {}", result.lead.file, result.lead.shows);
        result.differences().iter().for_each(|difference| println!("  {difference}"));
    }
}

fn row(number: usize, result: &LeadResult) -> Vec<Cell> {
    let record = result.record.as_ref().unwrap_or(&Value::Null);
    let status = match text(record, "/status") {
        "" => format!("HTTP {}", result.status_code),
        status => status.to_owned(),
    };
    let deliveries = result.deliveries();
    let lines = |of: &dyn Fn(&Value) -> String| {
        if deliveries.is_empty() { "–".to_owned() } else { deliveries.iter().map(of).collect::<Vec<_>>().join("\n") }
    };
    let verdicts = lines(&|delivery| text(delivery, "/state").to_owned());
    let color = match deliveries.last().map(|delivery| text(delivery, "/state")) {
        Some("accepted") => Color::Green,
        Some("unknown" | "queued") => Color::Yellow,
        _ => Color::Reset,
    };
    vec![
        Cell::new(number),
        Cell::new(result.lead.shows).fg(if result.is_as_expected() { Color::Reset } else { Color::Red }),
        Cell::new(status),
        Cell::new(lines(&|delivery| text(delivery, "/partner").to_owned())),
        Cell::new(lines(&method)),
        Cell::new(lines(&|delivery| delivery.get("attempt_count").map_or(String::new(), Value::to_string))),
        Cell::new(verdicts).fg(color),
        Cell::new(if deliveries.is_empty() { without_delivery(result) } else { lines(&why) }),
    ]
}

/// The partner's format, from what was sent to it.
fn method(delivery: &Value) -> String {
    let Some(request) = delivery.pointer("/attempts/0/request") else { return "–".to_owned() };
    let headers = request.get("headers").and_then(Value::as_array);
    let content_type =
        headers.into_iter().flatten().find(|header| text(header, "/0").eq_ignore_ascii_case("content-type"));
    let soap_action = headers
        .is_some_and(|headers| headers.iter().any(|header| text(header, "/0").eq_ignore_ascii_case("soapaction")));
    match content_type.map(|header| text(header, "/1")).unwrap_or_default() {
        _ if text(request, "/method") == "GET" => "GET",
        kind if kind.starts_with("application/soap+xml") => "SOAP 1.2",
        _ if soap_action => "SOAP 1.1",
        kind if kind.starts_with("application/json") => "JSON",
        kind if kind.starts_with("application/x-www-form-urlencoded") => "POST",
        _ => "XML",
    }
    .to_owned()
}

fn why(delivery: &Value) -> String {
    let held = text(delivery, "/held/reason");
    if !held.is_empty() {
        let until = delivery
            .pointer("/held/until")
            .and_then(Value::as_str)
            .map_or("somebody resumes it", |until| until.get(..16).unwrap_or(until));
        return format!("{held} until {} UTC", until.replace('T', " "));
    }
    let state = text(delivery, "/state");
    let reason = text(delivery, "/reason");
    if state == "skipped" {
        return format!("{reason}: passed over");
    }
    let last =
        delivery.get("attempts").and_then(Value::as_array).and_then(|attempts| attempts.last()).unwrap_or(&Value::Null);
    let selector = text(last, "/explanation/selector");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    if selector.is_empty() {
        return text(last, "/explanation/rule").to_owned();
    }
    format!("{selector} is {}", text(last, "/explanation/found"))
}

fn without_delivery(result: &LeadResult) -> String {
    if !result.wrong_fields().is_empty() {
        return format!("wrong: {}", result.wrong_fields().join(", "));
    }
    let record = result.record.as_ref().unwrap_or(&Value::Null);
    let candidates = record.get("candidates").and_then(Value::as_array);
    match text(record, "/reason") {
        "no_buyer" => {
            let reasons = candidates
                .into_iter()
                .flatten()
                .take(2)
                .map(|candidate| format!("{}: {}", text(candidate, "/contract"), text(candidate, "/reason")));
            format!("{}, …", reasons.collect::<Vec<_>>().join("; "))
        }
        "duplicate" => "the campaign had this person before".to_owned(),
        reason => reason.to_owned(),
    }
}

/// Two or three things to do with the gateway while it runs.
pub(super) fn say_what_to_try(address: &SocketAddr, source_key: &str, token: &str, results: &[LeadResult]) {
    let delivery = |state: &str| {
        let all = results.iter().flat_map(LeadResult::deliveries);
        all.filter(|delivery| text(delivery, "/state") == state)
            .map(|delivery| text(delivery, "/id").to_owned())
            .next_back()
            .unwrap_or_default()
    };
    let (accepted, unknown) = (delivery("accepted"), delivery("unknown"));
    println!(
        "\nThe gateway goes on at http://{address}. Try, in another terminal:\n
  # What exactly was sent, what came back, and why it was judged so
  curl -s -H 'Authorization: Bearer {token}' http://{address}/v1/deliveries/{accepted}\n
  # You telephoned the silent partner, and they have the lead
  curl -s -H 'Authorization: Bearer {token}' -d '{{\"verdict\":\"accepted\",\"reason\":\"by telephone\"}}' http://{address}/v1/deliveries/{unknown}/resolve\n
  # What waits for {CLOSED_CONTRACT} to open, and until when
  curl -s -H 'Authorization: Bearer {token}' 'http://{address}/v1/deliveries?held=true'\n
  # Post a lead yourself; leave a field out to see the answer
  curl -s -H 'Authorization: Bearer {source_key}' -H 'Content-Type: application/json' -H 'Prefer: wait=5' \\
    -d '{example}' http://{address}/v1/campaigns/{CAMPAIGN}/leads\n
Ctrl-C ends it; nothing is left behind.",
        example = example(results),
    );
}

/// The second lead, as somebody else.
fn example(results: &[LeadResult]) -> String {
    let Some(result) = results.get(1) else { return "{}".to_owned() };
    let Ok(mut lead) = serde_json::from_slice::<Value>(result.lead.body) else { return "{}".to_owned() };
    if let Some(lead) = lead.as_object_mut() {
        lead.insert("email".to_owned(), Value::from("you@example.com"));
        lead.remove("external_id");
    }
    lead.to_string()
}

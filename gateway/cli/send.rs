//! `gateway render` and `gateway send`: one lead, one contract, outside routing, limits and the store.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::app::{dispatcher, told};
use crate::capture::{self, Redactor};
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::{Network, files};
use crate::intake::Format;
use crate::model::delivery::Judgement;
use crate::model::exchange::{Outgoing, Reply, SendFaultKind, Sent, Timings};
use crate::model::id::{DeliveryId, LeadId, SourceId};
use crate::model::lead::Lead;
use crate::model::secret::MASK;
use crate::pipeline::{Authorisation, TokenExchange, deliver, masked, request_for};

/// The source in whose name a lead is rendered that no source has sent.
const NOBODY: &str = "command-line";

struct Prepared {
    network: Network,
    contract: crate::model::id::ContractId,
    outgoing: Outgoing,
}

pub(super) fn render(config: &Config, contract: &str, lead: &Path, json: bool) -> anyhow::Result<bool> {
    let Prepared { network, contract, mut outgoing } = prepare(config, contract, lead)?;
    if let Some(tokens) = network.contract(&contract).and_then(|entry| entry.tokens.as_ref()) {
        // It is fetched when there is something to send; its place can be shown without.
        outgoing.add_secret_header(tokens.header(), MASK, MASK);
    }
    let outgoing = &outgoing;
    if json {
        super::print_json(&request(outgoing))?;
    } else {
        show_request(outgoing);
    }
    Ok(true)
}

pub(super) async fn send(config: &Config, contract: &str, lead: &Path, json: bool) -> anyhow::Result<bool> {
    let Prepared { network, contract, mut outgoing } = prepare(config, contract, lead)?;
    let dispatcher = dispatcher(config)?;
    let entry = network.contract(&contract).context("the contract is gone")?;
    let authorisation = Authorisation::obtain(&dispatcher, entry).await;
    authorisation.put_into(&mut outgoing);
    let (outgoing, sent) = match authorisation.fault {
        Some(fault) => (outgoing, Sent { result: Err(fault), timings: Timings::default() }),
        None => deliver(&dispatcher, entry, outgoing, None).await,
    };
    let outgoing = &outgoing;
    let judgement = entry.rules.judge(&sent.result, Clock::system().now());
    let judgement = masked(judgement, &Redactor::new(&outgoing.secrets));
    let campaign = network.campaign(&entry.contract.campaign).context("the contract's campaign is gone")?;
    let price = judgement.price.map(|price| price.display(campaign.campaign.currency));
    let token = authorisation.exchange.as_deref();
    if json {
        super::print_json(&json!({
            "token_exchange": token.map(|TokenExchange { outgoing, sent }| {
                json!({"request": request(outgoing), "response": response(outgoing, sent)})
            }),
            "verdict": judgement.verdict,
            "class": judgement.class,
            "explanation": judgement.explanation,
            "reason": judgement.reason,
            "reference": judgement.reference,
            "redirect_url": judgement.redirect_url,
            "price": price,
            "timings_ms": sent.timings,
            "request": request(outgoing),
            "response": response(outgoing, &sent),
        }))?;
    } else {
        if let Some(TokenExchange { outgoing, sent }) = token {
            show_request(outgoing);
            show_response(outgoing, sent);
        }
        show_request(outgoing);
        show_response(outgoing, &sent);
        show_judgement(&judgement, price.as_deref());
    }
    Ok(judgement.verdict == crate::model::delivery::Verdict::Accepted)
}

fn prepare(config: &Config, contract: &str, path: &Path) -> anyhow::Result<Prepared> {
    let set = files::read(&config.network.dir, &config.network.templates)
        .map_err(|faults| told("the network's files cannot be used", &faults))?;
    let network = Network::compile(&set, None).map_err(|faults| told("the network's files cannot be used", &faults))?;
    let id = contract.parse()?;
    let Some(entry) = network.contract(&id) else {
        let mut known: Vec<String> = network.contracts().map(|entry| entry.contract.id.to_string()).collect();
        known.sort();
        bail!("there is no contract `{contract}` in {}; there are: {}", config.network.dir.display(), known.join(", "));
    };
    let Some(campaign) = network.campaign(&entry.contract.campaign) else { bail!("its campaign is gone") };

    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let posted =
        campaign.rules.parse(Format::Json, &text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let valid = campaign.rules.validate(posted).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("  {}: {}", error.field, error.message)).collect();
        anyhow::anyhow!("{} is not a lead of campaign {}:\n{}", path.display(), campaign.campaign.id, lines.join("\n"))
    })?;
    let clock = Clock::system();
    let lead = Lead {
        id: LeadId(clock.uuid()),
        campaign: campaign.campaign.id.clone(),
        source: NOBODY.parse::<SourceId>()?,
        received_at: clock.now(),
        test: true,
        fields: valid.fields,
        meta: valid.meta,
    };
    let outgoing =
        request_for(&network, entry, &lead, DeliveryId(clock.uuid()), 1, clock.now()).map_err(anyhow::Error::msg)?;
    Ok(Prepared { contract: id, outgoing, network })
}

/// What may be shown of a request: secrets and sensitive fields are masked as they are in captures.
fn visible(outgoing: &Outgoing) -> (&str, &[(String, String)], &[u8]) {
    match &outgoing.masked {
        Some(masked) => (&masked.url, &masked.headers, &masked.body),
        None => (&outgoing.url, &outgoing.headers, &outgoing.body),
    }
}

fn request(outgoing: &Outgoing) -> Value {
    let (url, headers, body) = visible(outgoing);
    let (body, encoding) = capture::presentable(body);
    json!({"method": outgoing.http_method, "url": url, "headers": headers, "body": body, "encoding": encoding})
}

/// What may be shown of a reply: whatever of the request's secrets it echoes is masked.
fn visible_reply(outgoing: &Outgoing, reply: &Reply) -> (Vec<(String, String)>, Vec<u8>) {
    let redactor = Redactor::new(&outgoing.secrets);
    (capture::redact_headers(&reply.headers, &redactor), redactor.redact(&reply.body).into_owned())
}

fn response(outgoing: &Outgoing, sent: &Sent) -> Value {
    match &sent.result {
        Ok(reply) => {
            let (headers, body) = visible_reply(outgoing, reply);
            let (body, encoding) = capture::presentable(&body);
            json!({"status": reply.status, "headers": headers, "body": body, "encoding": encoding})
        }
        Err(fault) => json!({"error": fault.message}),
    }
}

fn show_request(outgoing: &Outgoing) {
    let (url, headers, body) = visible(outgoing);
    println!("{} {url}", outgoing.http_method);
    show_message(headers, body);
}

fn show_message(headers: &[(String, String)], body: &[u8]) {
    for (name, value) in headers {
        println!("{name}: {}", printable(value));
    }
    if !body.is_empty() {
        println!("\n{}", printable(&capture::presentable(body).0));
    }
    println!();
}

/// A text that a stranger wrote, for a terminal: without what would command it.
fn printable(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && !matches!(c, '\n' | '\t') { c.escape_default().to_string() } else { c.to_string() }
    };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

fn show_response(outgoing: &Outgoing, sent: &Sent) {
    match &sent.result {
        Ok(reply) => {
            let (headers, body) = visible_reply(outgoing, reply);
            println!("HTTP {} after {} ms", reply.status, sent.timings.total);
            show_message(&headers, &body);
        }
        Err(fault)
            if matches!(fault.kind, SendFaultKind::NotSent | SendFaultKind::TooLate | SendFaultKind::NoToken) =>
        {
            println!("NOT SENT: {}\n", fault.message);
        }
        Err(fault) => println!("no reply after {} ms: {}\n", sent.timings.total, fault.message),
    }
}

fn show_judgement(judgement: &Judgement, price: Option<&str>) {
    println!("verdict   {}", judgement.verdict);
    let explanation = &judgement.explanation;
    let place = explanation.selector.as_deref().map(|selector| format!(", {selector}")).unwrap_or_default();
    let found = explanation.found.as_deref().filter(|found| judgement.reason.as_deref() != Some(found));
    let found = found.map(|found| format!(", found `{found}`")).unwrap_or_default();
    println!("why       rule {}{place}{found} (class {})", explanation.rule, judgement.class);
    for (name, value) in [
        ("reason", judgement.reason.as_deref()),
        ("reference", judgement.reference.as_deref()),
        ("price", price),
        ("redirect", judgement.redirect_url.as_deref()),
    ] {
        if let Some(value) = value {
            println!("{name:<9} {value}");
        }
    }
}

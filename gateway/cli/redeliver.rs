//! `gateway redeliver`

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Misuse;
use super::progress::{Interrupt, Progress, counted};
use crate::app::control::{Found, Line, RedeliverRequest, Redelivered, Standing, StandingsRequest};
use crate::clock;
use crate::config::Config;
use crate::model::delivery::{DeliveryState, Verdict};
use crate::model::id::{CampaignId, ContractId, DeliveryId, LeadId, PartnerId, SourceId};
use crate::model::units::{Rate, Span};
use crate::pipeline::RedeliverLimits;

/// Deliveries that one command may send again; more are better done in parts.
const AT_MOST: usize = 1_000_000;
/// Deliveries on a page of a search.
const PAGE: &str = "500";
/// Deliveries whose standing is asked for at a time.
const STANDINGS: usize = 500;
/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many a dry run shows.
const SHOWN: usize = 10;

/// What to send again, and how.
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// The deliveries' ids; or leave them out and search.
    #[arg(value_name = "DELIVERY", value_parser = DeliveryId::from_str)]
    ids: Vec<DeliveryId>,
    /// Why; kept with your act.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// consume: it takes places and obeys limits, like any delivery. bypass: no place, and no limit stops it. By
    /// default bypass where the old delivery still has its place, else consume.
    #[arg(long, value_name = "consume|bypass", value_parser = limits)]
    limits: Option<RedeliverLimits>,
    /// Only count, and show the first few.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// At most so many in a time, such as 10/s, for a partner that should not get all at once.
    #[arg(long, value_parser = Rate::from_str)]
    rate: Option<Rate>,
    /// Follow the new deliveries until they have ended or need a person, at most so long.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "10m", value_parser = Span::from_str)]
    wait: Option<Span>,
    // Last, for its heading would also stand above what follows.
    #[command(flatten)]
    search: Search,
}

/// As `GET /v1/deliveries` takes them; every one that is given must hold.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Search (every one given must hold)")]
struct Search {
    /// Of this lead.
    #[arg(long, value_parser = is::<LeadId>)]
    lead: Option<String>,
    /// To this partner.
    #[arg(long, value_parser = is::<PartnerId>)]
    partner: Option<String>,
    /// To this contract.
    #[arg(long, value_parser = is::<ContractId>)]
    contract: Option<String>,
    /// Of this campaign.
    #[arg(long, value_parser = is::<CampaignId>)]
    campaign: Option<String>,
    /// Of this source's leads.
    #[arg(long, value_parser = is::<SourceId>)]
    source: Option<String>,
    /// accepted, rejected, duplicate, failed, skipped, expired or cancelled. (Others are unfinished, and are refused.)
    #[arg(long, value_parser = state)]
    state: Option<String>,
    /// The last attempt's: accepted, rejected, duplicate, retryable or unknown.
    #[arg(long, value_parser = verdict)]
    verdict: Option<String>,
    /// The last reply's HTTP status.
    #[arg(long, value_parser = is::<u16>)]
    status_code: Option<String>,
    /// The partner's own id.
    #[arg(long)]
    reference: Option<String>,
    /// Whose reason contains this.
    #[arg(long = "reason-contains", value_name = "TEXT")]
    reason_contains: Option<String>,
    /// Made at or after this time, such as 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// Made before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// Older than this delivery; what an interrupted run names, to go on.
    #[arg(long, value_name = "DELIVERY", value_parser = is::<Uuid>)]
    before: Option<String>,
}

fn is<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<String, String> {
    text.parse::<Timestamp>()
        .map(|_| text.to_owned())
        .map_err(|_| "write a time such as 2026-11-21T09:30:00Z".to_owned())
}

fn state(text: &str) -> Result<String, String> {
    DeliveryState::from_word(text).map(|_| text.to_owned()).ok_or_else(|| "that is no state".to_owned())
}

fn verdict(text: &str) -> Result<String, String> {
    Verdict::from_word(text).map(|_| text.to_owned()).ok_or_else(|| "that is no verdict".to_owned())
}

fn limits(text: &str) -> Result<RedeliverLimits, String> {
    match text {
        "consume" => Ok(RedeliverLimits::Consume),
        "bypass" => Ok(RedeliverLimits::Bypass),
        _ => Err("use consume or bypass".to_owned()),
    }
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("say why, in a few words".to_owned()) } else { Ok(text.to_owned()) }
}

impl Search {
    fn parameters(&self) -> HashMap<String, String> {
        let given = [
            ("lead", &self.lead),
            ("partner", &self.partner),
            ("contract", &self.contract),
            ("campaign", &self.campaign),
            ("source", &self.source),
            ("state", &self.state),
            ("verdict", &self.verdict),
            ("status_code", &self.status_code),
            ("reference", &self.reference),
            ("reason", &self.reason_contains),
            ("from", &self.from),
            ("to", &self.to),
            ("cursor", &self.before),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
    }
}

/// A delivery to be sent again.
#[derive(Debug, Clone, Serialize)]
struct Old {
    delivery: DeliveryId,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    contract: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Refused {
    delivery: DeliveryId,
    status: u16,
    detail: String,
}

#[derive(Debug, Serialize)]
struct New {
    delivery: DeliveryId,
    redelivered_as: DeliveryId,
}

/// States in which a delivery is not sent again.
const UNFINISHED: [&str; 3] = ["queued", "sending", "unknown"];

#[derive(Debug, Default, Serialize)]
struct Report {
    matched: usize,
    redelivered: Vec<New>,
    refused: Vec<Refused>,
    /// What broke off before it was answered: it may have been sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_doubt: Option<DeliveryId>,
    /// Where the new ones stood at last, where it was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    states: Option<BTreeMap<String, u64>>,
    interrupted: bool,
}

pub(super) async fn run(config: Config, wish: Wish, json: bool) -> anyhow::Result<bool> {
    let parameters = wish.search.parameters();
    match (wish.ids.is_empty(), parameters.is_empty()) {
        (true, true) => {
            bail!(Misuse(
                "name deliveries by their ids, or search for them, as with --contract ID --state failed".into()
            ))
        }
        (false, false) => bail!(Misuse("name deliveries by their ids, or search for them; not both".into())),
        _ => {}
    }
    let line = Line::open(config).await?;
    let done = redeliver(&line, &wish, parameters, json).await;
    line.close().await;
    done
}

async fn redeliver(line: &Line, wish: &Wish, parameters: HashMap<String, String>, json: bool) -> anyhow::Result<bool> {
    if wish.wait.is_some() && !line.is_running() {
        bail!("no gateway runs, so nothing would move while waiting; start it first, or leave --wait out");
    }
    // All of them before the first is sent again, so that no new one is ever found by the same search.
    let found = if wish.ids.is_empty() { search(line, parameters).await? } else { named(line, &wish.ids).await? };
    if wish.dry_run {
        show(&found, json)?;
        return Ok(true);
    }
    if found.is_empty() && !json {
        println!("No delivery is found.");
        return Ok(true);
    }
    if found.len() > 1 && wish.ids.is_empty() && !wish.yes {
        if !std::io::stdin().is_terminal() {
            bail!(Misuse(format!(
                "{} would be sent again, and nobody is here to be asked: look with --dry-run, and say --yes",
                deliveries(found.len())
            )));
        }
        if !agreed(&found).await? {
            println!("Nothing was done.");
            return Ok(true);
        }
    }
    let mut interrupt = Interrupt::listen()?;
    let mut report = Report { matched: found.len(), ..Report::default() };
    let failed = send_again(line, wish, &found, &mut report, &mut interrupt, json).await.err();
    report.interrupted |= failed.is_some();
    if let (Some(span), None, false) = (wish.wait, &failed, report.interrupted) {
        report.states = Some(follow(line, &report.redelivered, span.0, &mut interrupt).await?);
    }
    if json {
        super::print_json(&report)?;
    } else {
        tell(&report, wish, line.is_running());
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(report.refused.is_empty() && !report.interrupted),
    }
}

/// Every delivery that is found, newest first.
async fn search(line: &Line, mut parameters: HashMap<String, String>) -> anyhow::Result<Vec<Old>> {
    parameters.insert("limit".to_owned(), PAGE.to_owned());
    let mut all = Vec::new();
    loop {
        let page: Found = line.ask("/deliveries/find", &parameters).await?;
        for item in page.items {
            let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
            let delivery = text("id").and_then(|id| id.parse().ok()).context("the gateway's answer has no id")?;
            let state = text("state").unwrap_or_default();
            all.push(Old { delivery, state, contract: text("contract"), reason: text("reason") });
        }
        if all.len() > AT_MOST {
            bail!("more than {AT_MOST} deliveries are found; narrow the search, by --from and --to for instance");
        }
        let Some(cursor) = page.next_cursor else { return Ok(all) };
        parameters.insert("cursor".to_owned(), cursor);
    }
}

/// Where those stand that were named.
async fn named(line: &Line, ids: &[DeliveryId]) -> anyhow::Result<Vec<Old>> {
    let mut known: HashMap<DeliveryId, Standing> =
        standings(line, ids).await?.into_iter().map(|standing| (standing.delivery, standing)).collect();
    let mut found: Vec<Old> = Vec::new();
    for id in ids {
        if found.iter().any(|old| old.delivery == *id) {
            continue;
        }
        let standing = known.remove(id);
        found.push(Old {
            delivery: *id,
            state: standing.as_ref().map_or("not found".to_owned(), |standing| standing.state.clone()),
            contract: None,
            reason: standing.and_then(|standing| standing.reason),
        });
    }
    Ok(found)
}

async fn standings(line: &Line, ids: &[DeliveryId]) -> anyhow::Result<Vec<Standing>> {
    let mut all = Vec::with_capacity(ids.len());
    for some in ids.chunks(STANDINGS) {
        let request = StandingsRequest { deliveries: some.to_vec() };
        all.extend(line.ask::<_, Vec<Standing>>("/deliveries/standings", &request).await?);
    }
    Ok(all)
}

fn by_state<'a>(states: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for state in states {
        *counts.entry(state.to_owned()).or_default() += 1;
    }
    counts
}

fn in_words(counts: &BTreeMap<String, u64>) -> String {
    counted(counts.iter().map(|(state, count)| (state.as_str(), *count)))
}

fn show(found: &[Old], json: bool) -> anyhow::Result<()> {
    let states = by_state(found.iter().map(|old| old.state.as_str()));
    let first = found.get(..SHOWN).unwrap_or(found);
    if json {
        #[derive(Serialize)]
        struct Shown<'a> {
            matched: usize,
            states: BTreeMap<String, u64>,
            first: &'a [Old],
        }
        return super::print_json(&Shown { matched: found.len(), states, first });
    }
    if found.is_empty() {
        println!("No delivery is found.");
        return Ok(());
    }
    println!("{} would be redelivered (dry run): {}", deliveries(found.len()), in_words(&states));
    let unfinished = found.iter().filter(|old| UNFINISHED.contains(&old.state.as_str())).count();
    if unfinished > 0 {
        println!("Of these {unfinished} would be refused, for they are unfinished: resolve or cancel them first.");
    }
    for old in first {
        let contract = old.contract.as_deref().unwrap_or_default();
        println!("  {}  {}  {contract}  {}", old.delivery, old.state, old.reason.as_deref().unwrap_or_default());
    }
    if found.len() > first.len() {
        println!("  … and {} more", found.len() - first.len());
    }
    Ok(())
}

async fn agreed(found: &[Old]) -> anyhow::Result<bool> {
    let states = in_words(&by_state(found.iter().map(|old| old.state.as_str())));
    let question = format!("Redeliver {} ({states})? [y/N] ", deliveries(found.len()));
    let answer = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut answer = String::new();
        write!(std::io::stderr(), "{question}")?;
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    });
    Ok(matches!(answer.await??.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

async fn send_again(
    line: &Line,
    wish: &Wish,
    found: &[Old],
    report: &mut Report,
    interrupt: &mut Interrupt,
    json: bool,
) -> anyhow::Result<()> {
    let mut progress = Progress::new("deliveries", found.len() as u64);
    let pause = wish.rate.map(|rate| rate.per / rate.count);
    for (number, old) in found.iter().enumerate() {
        let stop = match pause.filter(|_| number > 0) {
            Some(pause) => interrupt.within(pause).await,
            None => interrupt.came(),
        };
        if stop {
            report.interrupted = true;
            return Ok(());
        }
        let request = RedeliverRequest { delivery: old.delivery, limits: wish.limits, reason: wish.reason.clone() };
        // Until it is answered nobody can say whether it was sent again.
        report.in_doubt = Some(old.delivery);
        let answer = line.ask("/deliveries/redeliver", &request).await?;
        report.in_doubt = None;
        let told = match answer {
            Redelivered::As(new) => {
                report.redelivered.push(New { delivery: old.delivery, redelivered_as: new });
                format!("{}  redelivered as {new}", old.delivery)
            }
            Redelivered::Refused { status, detail } => {
                let named = format!("delivery {}", old.delivery);
                let detail = if status == 404 { detail } else { detail.replace(&named, "it") };
                let told = format!("{}  refused: {detail}", old.delivery);
                report.refused.push(Refused { delivery: old.delivery, status, detail });
                told
            }
        };
        if !json {
            progress.say(&told);
        }
        let counts = [("redelivered", report.redelivered.len()), ("refused", report.refused.len())];
        progress.at(number as u64 + 1, &counted(counts.map(|(what, count)| (what, count as u64))));
    }
    Ok(())
}

/// Waits until the new ones have ended or need a person; how many stand where then.
async fn follow(
    line: &Line,
    new: &[New],
    at_most: Duration,
    interrupt: &mut Interrupt,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut left: Vec<DeliveryId> = new.iter().map(|new| new.redelivered_as).collect();
    let mut ended: Vec<String> = Vec::new();
    let mut progress = Progress::new("ended", left.len() as u64);
    let began = clock::instant();
    loop {
        let standings = standings(line, &left).await?;
        let (over, going): (Vec<_>, Vec<_>) = standings.into_iter().partition(|standing| standing.ended);
        ended.extend(over.into_iter().map(|standing| standing.state));
        left = going.iter().map(|standing| standing.delivery).collect();
        let going = going.iter().map(|standing| standing.state.as_str());
        let states = by_state(ended.iter().map(String::as_str).chain(going));
        progress.at(ended.len() as u64, &in_words(&states));
        if left.is_empty() || began.elapsed() >= at_most || interrupt.within(LOOK_EVERY).await {
            return Ok(states);
        }
    }
}

fn tell(report: &Report, wish: &Wish, running: bool) {
    println!("\n{} redelivered, {} refused.", deliveries(report.redelivered.len()), report.refused.len());
    for (why, count) in by_state(report.refused.iter().map(|refused| refused.detail.as_str())) {
        println!("  {count} refused: {why}");
    }
    if let Some(states) = &report.states {
        println!("They stand now: {}.", in_words(states));
    }
    if !running && !report.redelivered.is_empty() {
        println!("No gateway runs: they are sent after the next start.");
    }
    if report.interrupted {
        let done = report.redelivered.len() + report.refused.len() + usize::from(report.in_doubt.is_some());
        if let Some(delivery) = report.in_doubt {
            println!(
                "Whether {delivery} was sent again is not known: its lead shows it (GET /v1/deliveries/{delivery} names the \
                 lead), as a delivery with \"redelivery_of\": \"{delivery}\"."
            );
        }
        println!("Interrupted: {} of {} were not reached.", report.matched - done, report.matched);
        let last = [
            report.redelivered.last().map(|new| new.delivery),
            report.refused.last().map(|old| old.delivery),
            report.in_doubt,
        ];
        // Newest first: the oldest of what was done is where it stopped.
        if let (true, Some(last)) = (wish.ids.is_empty(), last.into_iter().flatten().min_by_key(|id| id.0)) {
            println!("To go on, give the same search with --before {last}");
        }
    }
}

fn deliveries(count: usize) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") }
}

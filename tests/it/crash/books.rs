//! The books: what the gateways say of every lead, held against what the sources were told and what the partners saw.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lead_gateway::clock;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::partners::{Partner, Request};
use super::sources::{Account, CAPPED_AT};
use crate::harness::text_at;

/// One contract of the network under fire.
#[derive(Debug, Clone, Copy)]
pub struct Contract {
    pub id: &'static str,
    pub partner: &'static str,
    pub on_unknown: &'static str,
    pub concurrency: usize,
    /// Daily, monthly, total; 0 = none.
    pub limits: [usize; 3],
}

/// One partner of it: daily, monthly and total limits, and the zone in which they are counted.
#[derive(Debug, Clone, Copy)]
pub struct Buyer {
    pub id: &'static str,
    pub timezone: &'static str,
    pub limits: [usize; 3],
}

/// So long nothing may stand still that could move: longer than an attempt that meets silence.
const MOVES_WITHIN: Duration = Duration::from_mins(1);
/// Questions at the same time.
const AT_ONCE: usize = 8;
/// A partner's answer that went out so long before a kill was not lost by it.
const SURELY_READ: jiff::SignedDuration = jiff::SignedDuration::from_secs(20);

/// Where the books are read: any gateway that is up.
#[derive(Clone)]
pub struct Reader {
    pub address: SocketAddr,
    pub token: String,
    pub client: reqwest::Client,
}

impl Reader {
    async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.address);
        let answer = self.client.get(&url).bearer_auth(&self.token).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "GET {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn all(&self, path: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=500{cursor}")).await;
            all.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// Returns when nothing is under way and nothing can be sent; with what still moves, if that takes too long.
    pub async fn quiet(&self, requests: impl Fn() -> usize) -> Result<(), Value> {
        let (mut moved, mut seen, mut still) = (clock::instant(), requests(), 0);
        while still < 3 {
            still += 1;
            for search in ["state=sending", "state=queued&held=false"] {
                let page = self.get(&format!("/v1/deliveries?{search}&limit=1")).await;
                if page["items"] != json!([]) {
                    still = 0;
                    // However slow the machine is: as long as partners are asked, it goes on.
                    if requests() != seen {
                        (moved, seen) = (clock::instant(), requests());
                    }
                    if moved.elapsed() > MOVES_WITHIN {
                        return Err(page);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Each of these, by its path below `path`.
    async fn each(&self, path: &'static str, ids: impl IntoIterator<Item = String>) -> HashMap<String, Value> {
        let (mut asked, mut all) = (JoinSet::new(), HashMap::new());
        for id in ids {
            let reader = self.clone();
            asked.spawn(async move {
                let found = reader.get(&format!("{path}/{id}")).await;
                (id, found)
            });
            if asked.len() >= AT_ONCE
                && let Some(answer) = asked.join_next().await
            {
                let (id, found) = answer.unwrap();
                all.insert(id, found);
            }
        }
        while let Some(answer) = asked.join_next().await {
            let (id, found) = answer.unwrap();
            all.insert(id, found);
        }
        all
    }
}

/// Everything that must agree.
pub struct Books<'a> {
    pub contracts: &'a [Contract],
    pub buyers: &'a [Buyer],
    pub partners: &'a [Partner],
    pub account: &'a Account,
    /// When gateways died.
    pub kills: &'a [Timestamp],
    /// Attempts that were open when their gateway died, as the store had them.
    pub open: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    pub leads: usize,
    pub deliveries: usize,
    pub attempts: usize,
    pub requests: usize,
    /// Attempts that were open when a gateway died.
    pub crashed: usize,
    /// Other attempts whose outcome is unknown.
    pub unclear: usize,
    /// Ambiguous faults that the partners injected.
    pub injected: usize,
    pub held: usize,
    /// Where something is held, and why.
    pub held_at: BTreeSet<(&'static str, String)>,
    pub sold: usize,
    /// Leads of the source that may send only so many.
    pub capped: usize,
    /// What may not be.
    pub violations: Vec<String>,
}

impl Findings {
    /// Adds what another round found.
    pub fn add(&mut self, other: &Self) {
        self.leads += other.leads;
        self.deliveries += other.deliveries;
        self.attempts += other.attempts;
        self.requests += other.requests;
        self.crashed += other.crashed;
        self.unclear += other.unclear;
        self.injected += other.injected;
        self.held += other.held;
        self.sold += other.sold;
        self.capped += other.capped;
        self.violations.extend(other.violations.iter().cloned());
    }

    fn wrong(&mut self, what: impl Display) {
        self.violations.push(what.to_string());
    }
}

/// A delivery with its attempts.
struct Entry {
    id: String,
    contract: Contract,
    lead: String,
    state: String,
    view: Value,
}

impl Books<'_> {
    /// Reads everything and says what is wrong with it.
    pub async fn check(&self, reader: &Reader) -> Findings {
        let mut found = Findings::default();
        for partner in self.partners {
            found.violations.extend(partner.faults());
        }
        found.violations.extend(self.account.faults.iter().cloned());

        let leads = reader.all("/v1/leads").await;
        let ids: Vec<String> = reader.all("/v1/deliveries").await.iter().map(|item| text_at(item, "/id")).collect();
        let views = reader.each("/v1/deliveries", ids).await;
        let deliveries: Vec<Entry> = views
            .into_iter()
            .map(|(id, view)| Entry {
                id,
                contract: *self.contracts.iter().find(|one| view["contract"] == one.id).unwrap(),
                lead: text_at(&view, "/lead_id"),
                state: text_at(&view, "/state"),
                view,
            })
            .collect();
        let mut of_lead: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for entry in &deliveries {
            of_lead.entry(&entry.lead).or_default().push(entry);
        }
        let requests: Vec<Request> = self.partners.iter().flat_map(Partner::requests).collect();
        (found.leads, found.deliveries, found.requests) = (leads.len(), deliveries.len(), requests.len());

        self.acknowledged(&mut found, &leads);
        for lead in &leads {
            Self::lead(
                &mut found,
                lead,
                of_lead.get(text_at(lead, "/lead_id").as_str()).map_or(&[][..], Vec::as_slice),
            );
        }
        self.attempts(&mut found, &deliveries, &requests);
        self.reasons(&mut found, &deliveries);
        Self::requests(&mut found, &leads, &deliveries, &requests);
        self.limits(&mut found, &deliveries, &requests);
        let capped = leads.iter().filter(|lead| lead["source"] == "capped").count();
        found.capped = capped;
        if capped as u64 > CAPPED_AT {
            found.wrong(format!("{capped} leads of a source that may have {CAPPED_AT}"));
        }
        found
    }

    /// Every yes is kept, and means one lead.
    fn acknowledged(&self, found: &mut Findings, leads: &[Value]) {
        let by_id: HashMap<String, &Value> = leads.iter().map(|lead| (text_at(lead, "/lead_id"), lead)).collect();
        let mut by_email: HashMap<String, usize> = HashMap::new();
        for lead in leads {
            *by_email.entry(text_at(lead, "/fields/email")).or_default() += 1;
        }
        for (email, times) in by_email {
            // Each was posted once, or again with its key.
            if times > 1 {
                found.wrong(format!("{email} became {times} leads"));
            }
        }
        for yes in &self.account.acknowledged {
            let Some(lead) = by_id.get(&yes.lead) else {
                found.wrong(format!("acknowledged and lost: {yes:?}"));
                continue;
            };
            let (email, status) = (text_at(lead, "/fields/email"), text_at(lead, "/status"));
            if email != yes.email || (yes.told != "pending" && yes.told != status) {
                found.wrong(format!("told {yes:?}, and it is {email} {status}"));
            }
        }
    }

    /// A lead is decided, or something says what it waits for.
    fn lead(found: &mut Findings, lead: &Value, deliveries: &[&Entry]) {
        let (id, status) = (text_at(lead, "/lead_id"), text_at(lead, "/status"));
        let mut waits = false;
        for entry in deliveries {
            match entry.state.as_str() {
                "queued" if entry.view["held"].is_null() => found.wrong(format!("queued and not held: {}", entry.view)),
                "queued" => {
                    let why = text_at(&entry.view, "/held/reason");
                    found.held_at.insert((entry.contract.id, why));
                    found.held += 1;
                    waits = true;
                }
                "unknown" => waits = true,
                "sending" => found.wrong(format!("sending for ever: {}", entry.view)),
                _ => {}
            }
        }
        found.sold += usize::from(status == "sold");
        if status == "pending" && !waits {
            found.wrong(format!("lead {id} is pending, and nothing says why"));
        }
        let accepted = deliveries.iter().filter(|entry| entry.state == "accepted").count();
        if (status == "sold") != (accepted > 0) {
            found.wrong(format!("lead {id} is {status} with {accepted} accepted deliveries"));
        }
        // Whoever may have it counts, unless its owner chose to take the risk.
        let counts = |entry: &Entry| match entry.state.as_str() {
            "unknown" => entry.contract.on_unknown != "next",
            state => ["accepted", "queued", "sending"].contains(&state),
        };
        let counting = deliveries.iter().filter(|entry| counts(entry)).count();
        let sell_to = if lead["campaign"] == "wind" { 2 } else { 1 };
        if counting > sell_to {
            let states: Vec<_> = deliveries.iter().map(|entry| (entry.contract.id, &entry.state)).collect();
            found.wrong(format!("lead {id} may be sold {counting} times, and {sell_to} are allowed: {states:?}"));
        }
        // One that was passed over after answers that ask for another time has surely not taken it, and may be waited at again.
        let tried = deliveries.iter().filter(|entry| entry.view["attempt_count"] != 0 && entry.state != "skipped");
        let partners: Vec<_> = tried.map(|entry| entry.contract.partner).collect();
        if partners.iter().collect::<HashSet<_>>().len() < partners.len() {
            found.wrong(format!("lead {id} was offered to one partner twice: {partners:?}"));
        }
    }

    /// Every attempt has its outcome and its exchange; every unknown one its reason.
    fn attempts(&self, found: &mut Findings, deliveries: &[Entry], requests: &[Request]) {
        let mut of_delivery: HashMap<&str, Vec<&Request>> = HashMap::new();
        for request in requests {
            of_delivery.entry(&request.delivery).or_default().push(request);
        }
        let cut_unread: usize = self.partners.iter().map(Partner::cut_unread).sum();
        found.injected = cut_unread + requests.iter().filter(|request| request.decision.is_ambiguous()).count();
        let mut unexplained = Vec::new();
        for entry in deliveries {
            let attempts = entry.view["attempts"].as_array().unwrap();
            found.attempts += attempts.len();
            if text_at(&entry.view, "/attempt_count") != attempts.len().to_string() {
                found.wrong(format!("attempts are missing: {}", entry.view));
            }
            let seen = of_delivery.get(entry.id.as_str()).map_or(&[][..], Vec::as_slice);
            let mut ambiguous = seen.iter().filter(|request| request.decision.is_ambiguous()).count();
            let mut sent = 0;
            for (number, attempt) in (1_usize..).zip(attempts) {
                let (verdict, class) = (text_at(attempt, "/verdict"), text_at(attempt, "/class"));
                if attempt["ended_at"].is_null() || text_at(attempt, "/number") != number.to_string() {
                    found.wrong(format!("an attempt without an outcome: {}", entry.view));
                }
                if (class == "crash") != attempt["request"].is_null() {
                    found.wrong(format!("an attempt without its exchange: {}", entry.view));
                }
                sent += usize::from(class != "not_sent");
                match (verdict.as_str(), class.as_str()) {
                    ("unknown", "crash") => {
                        found.crashed += 1;
                        let started: Timestamp = text_at(attempt, "/started_at").parse().unwrap();
                        let answered = seen.get(number - 1).filter(|request| !request.decision.is_ambiguous());
                        match self.kills.iter().find(|kill| **kill >= started) {
                            None => found.wrong(format!("lost, and nothing died since: {}", entry.view)),
                            Some(kill)
                                if answered.is_some_and(|request| kill.duration_since(request.at) > SURELY_READ) =>
                            {
                                found.wrong(format!("answered long before the kill, and lost: {}", entry.view));
                            }
                            Some(_) => {}
                        }
                    }
                    ("unknown", _) => {
                        found.unclear += 1;
                        match ambiguous.checked_sub(1) {
                            Some(left) => ambiguous = left,
                            None => unexplained.push(attempt.to_string()),
                        }
                    }
                    _ => {}
                }
            }
            if seen.len() > sent {
                found.wrong(format!("{} requests of {sent} attempts: {}", seen.len(), entry.view));
            }
        }
        if unexplained.len() > cut_unread {
            found.wrong(format!("{cut_unread} connections were cut unread, and unknown are {unexplained:#?}"));
        }
        if found.crashed > self.open {
            found.wrong(format!("{} attempts are lost by kills, and {} were open", found.crashed, self.open));
        }
        if found.unclear > found.injected {
            found.wrong(format!("{} are unknown, and {} faults were injected", found.unclear, found.injected));
        }
    }

    /// Whatever is held is held for a reason that is true: `shut` is closed, and who is said to be full is.
    fn reasons(&self, found: &mut Findings, deliveries: &[Entry]) {
        for (contract, why) in found.held_at.clone() {
            let is_true = match why.as_str() {
                "closed" => contract == "shut",
                "full" => self.is_full(contract, deliveries),
                _ => false,
            };
            if !is_true {
                found.wrong(format!("{contract} holds what it has as {why}, which is not so"));
            }
        }
    }

    /// Whether a limit of the contract or its partner is used up. (What is taken may be of more than one day.)
    fn is_full(&self, contract: &str, deliveries: &[Entry]) -> bool {
        let contract = self.contracts.iter().find(|one| one.id == contract).unwrap();
        let taken = |of: &dyn Fn(&Contract) -> bool| {
            let takes = |entry: &&Entry| ["accepted", "unknown"].contains(&entry.state.as_str());
            deliveries.iter().filter(takes).filter(|entry| of(&entry.contract)).count()
        };
        let of_contract = taken(&|one| one.id == contract.id);
        let of_partner = taken(&|one| one.partner == contract.partner);
        let reached = |limits: [usize; 3], taken: usize| limits.iter().any(|limit| *limit > 0 && taken >= *limit);
        reached(contract.limits, of_contract) || reached(self.buyer(contract.partner).limits, of_partner)
    }

    /// What the partners saw is what the books say, and no more.
    fn requests(found: &mut Findings, leads: &[Value], deliveries: &[Entry], requests: &[Request]) {
        let by_id: HashMap<&str, &Entry> = deliveries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
        let emails: HashMap<String, String> =
            leads.iter().map(|lead| (text_at(lead, "/lead_id"), text_at(lead, "/fields/email"))).collect();
        let mut before: HashMap<&str, &Request> = HashMap::new();
        let mut has: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for request in requests {
            let Some(entry) = by_id.get(request.delivery.as_str()) else {
                found.wrong(format!("a request without a delivery: {request:?}"));
                continue;
            };
            if emails.get(&entry.lead) != Some(&request.email) || entry.contract.id != request.contract {
                found.wrong(format!("a request for somebody else's delivery: {request:?}, {}", entry.view));
            }
            if let Some(first) = before.insert(&request.delivery, request)
                && first.decision != super::partners::Decision::Later
                && entry.contract.on_unknown != "retry"
            {
                found.wrong(format!("sent twice: {first:?}, {request:?}"));
            }
            if request.decision.has_it() {
                has.entry(&request.delivery).or_default().insert(&request.email);
                if !["accepted", "unknown", "queued"].contains(&entry.state.as_str()) {
                    found.wrong(format!("the partner has it: {request:?}, and the books say {}", entry.view));
                }
            }
        }
        for entry in deliveries {
            if entry.state == "accepted" && !has.contains_key(entry.id.as_str()) {
                found.wrong(format!("sold, and the partner does not have it: {}", entry.view));
            }
        }
    }

    /// No limit was passed: by what the partners have, and by what the books say they may have.
    fn limits(&self, found: &mut Findings, deliveries: &[Entry], requests: &[Request]) {
        let owners =
            self.contracts.iter().map(|one| (one.id, one.limits, self.buyer(one.partner), vec![one.id])).chain(
                self.buyers.iter().map(|one| {
                    let contracts = self.contracts.iter().filter(|contract| contract.partner == one.id);
                    (one.id, one.limits, one, contracts.map(|contract| contract.id).collect())
                }),
            );
        for (owner, limits, buyer, contracts) in owners {
            let zone = TimeZone::get(buyer.timezone).unwrap();
            let of = |contract: &str| contracts.contains(&contract);
            // By the partner: each lead it has, at the time it got it.
            let mut first: HashMap<&str, Timestamp> = HashMap::new();
            for request in requests.iter().filter(|request| of(&request.contract) && request.decision.has_it()) {
                first.entry(&request.email).or_insert(request.at);
            }
            // By the books: each that is or may be taken, at its last attempt.
            let taken = deliveries
                .iter()
                .filter(|entry| of(entry.contract.id) && ["accepted", "unknown"].contains(&entry.state.as_str()));
            let taken = taken.filter_map(|entry| {
                let last = entry.view["attempts"].as_array()?.last()?;
                text_at(last, "/started_at").parse().ok()
            });
            for (by, times, slack) in
                [("partner", first.into_values().collect::<Vec<Timestamp>>(), true), ("books", taken.collect(), false)]
            {
                for (period, limit) in ["%F", "%Y-%m", ""].into_iter().zip(limits) {
                    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                    for at in &times {
                        let name = at.to_zoned(zone.clone()).strftime(period).to_string();
                        *counts.entry(name).or_default() += 1;
                    }
                    // What is sent before midnight may arrive after it.
                    let most = if slack { limit * counts.len() } else { limit };
                    let most_taken =
                        if slack { counts.values().sum() } else { counts.values().copied().max().unwrap_or(0) };
                    if limit > 0 && most_taken > most {
                        found.wrong(format!("{owner} may have {limit} in a period, and by the {by} {counts:?}"));
                    }
                }
            }
        }
    }

    fn buyer(&self, id: &str) -> &Buyer {
        self.buyers.iter().find(|buyer| buyer.id == id).unwrap()
    }
}

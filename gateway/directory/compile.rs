//! From resources to a network: every reference checked, every template, rule and schedule compiled, every fault told
//! at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::tz::TimeZone;

use super::{CampaignEntry, ContractEntry, Fault, Network, ResourceSet, SourceEntry};
use crate::clock;
use crate::dispatch::token::TokenSource;
use crate::dispatch::{SettingFault, Transport};
use crate::gate::rules::{GateRules, PartnerRules};
use crate::intake::{self, auth, identity};
use crate::model::campaign::{Campaign, DedupeRule, Distribution, Field, UnknownFields};
use crate::model::contract::{Auth, Concurrency, Contract, Endpoint, Method, On5xx, ResponseRules, Unmatched};
use crate::model::id::{CampaignId, ContractId, PartnerId};
use crate::model::money::{Amount, Currency};
use crate::model::partner::{Partner, PartnerKind};
use crate::model::shared::Shared;
use crate::model::source::Source;
use crate::pace::Pace;
use crate::render::{Known, Renderer};
use crate::routing::RoutedContract;
use crate::telemetry::Counts;
use crate::verdict;

/// Faults gathered on the way.
#[derive(Default)]
struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    fn add(&self, resource: &str, key: &str, message: impl std::fmt::Display) {
        let place = if key.is_empty() { resource.to_owned() } else { format!("{resource} {key}") };
        self.0.borrow_mut().push(Fault::new(place, message.to_string()));
    }
}

#[expect(clippy::mutable_key_type, reason = "only what a shared part remembers of its hash changes")]
pub(super) fn compile(set: &ResourceSet, before: Option<&Network>) -> Result<Network, Vec<Fault>> {
    let faults = Faults::default();
    let mut network = Network {
        partners: set.partners.iter().map(|(id, partner)| (id.clone(), Arc::clone(partner))).collect(),
        templates: set.templates.clone(),
        ..Network::default()
    };

    let partner_rules = partners(set, &faults);
    network.contracts = contracts(set, &partner_rules, before, &faults);
    let mut routed: HashMap<&CampaignId, Vec<_>> = HashMap::new();
    for contract in set.contracts.values() {
        let Some(entry) = network.contracts.get(&contract.id) else { continue };
        network.by_partner.entry(contract.partner.clone()).or_default().push(contract.id.clone());
        routed.entry(&contract.campaign).or_default().push(Arc::clone(&entry.routed));
    }
    let mut intake_rules = HashMap::new();
    for campaign in set.campaigns.values() {
        let routed = routed.remove(&campaign.id).unwrap_or_default();
        if let Some(entry) = campaign_entry(campaign, routed, &mut intake_rules, &faults) {
            network.phone_regions.extend(campaign.fields.values().filter_map(|field| field.region.clone()));
            network.campaigns.insert(campaign.id.clone(), Arc::new(entry));
        }
    }
    network.phone_regions.sort();
    network.phone_regions.dedup();
    // A region's first number makes its tables, which takes a moment: better now than with the first lead.
    for region in &network.phone_regions {
        let _ = identity::normalise_lookup(identity::PHONE, "2079460000", Some(region));
    }
    for source in set.sources.values() {
        if let Some(entry) = source_entry(source, set, before, &faults) {
            network.sources.insert(source.id.clone(), entry);
        }
    }
    network.keys = key_ring(set, &faults);

    let mut faults = faults.0.into_inner();
    if faults.is_empty() {
        return Ok(network);
    }
    faults.sort();
    faults.dedup();
    Err(faults)
}

fn partners(set: &ResourceSet, faults: &Faults) -> HashMap<PartnerId, Arc<PartnerRules>> {
    let mut rules = HashMap::new();
    for partner in set.partners.values() {
        match PartnerRules::compile(partner) {
            Ok(compiled) => {
                rules.insert(partner.id.clone(), Arc::new(compiled));
            }
            Err(found) => {
                found
                    .iter()
                    .for_each(|fault| faults.add(&format!("partner {}", partner.id), &fault.at, &fault.problem));
            }
        }
    }
    rules
}

/// What an endpoint's rules for replies are compiled from.
type Replies = (Shared<ResponseRules>, Method, On5xx, Unmatched, Currency);

/// What contracts with equal parts compile once.
#[derive(Default)]
struct Parts {
    templates: Known,
    replies: HashMap<Replies, Arc<verdict::Rules>>,
}

/// A contract with what it stands on.
struct Subject<'a> {
    contract: &'a Arc<Contract>,
    partner: &'a Arc<Partner>,
    campaign: &'a Arc<Campaign>,
    /// As faults are told.
    name: &'a str,
}

fn contracts(
    set: &ResourceSet,
    partner_rules: &HashMap<PartnerId, Arc<PartnerRules>>,
    before: Option<&Network>,
    faults: &Faults,
) -> HashMap<ContractId, Arc<ContractEntry>> {
    let mut parts = Parts::default();
    let mut entries = HashMap::with_capacity(set.contracts.len());
    let same_templates = before.is_some_and(|before| before.templates == set.templates);
    for contract in set.contracts.values() {
        let name = format!("contract {}", contract.id);
        let partner = set.partners.get(&contract.partner);
        let campaign = set.campaigns.get(&contract.campaign);
        match partner {
            None => faults.add(&name, "partner", format_args!("there is no partner `{}`", contract.partner)),
            Some(partner) if partner.kind == PartnerKind::Introducer => {
                faults.add(
                    &name,
                    "partner",
                    format_args!("{} is an introducer; a contract needs a partner of kind buyer or both", partner.id),
                );
            }
            Some(_) => {}
        }
        if campaign.is_none() {
            faults.add(&name, "campaign", format_args!("there is no campaign `{}`", contract.campaign));
        }
        let (Some(partner), Some(campaign)) = (partner, campaign) else { continue };
        let subject = Subject { contract, partner, campaign, name: &name };
        if let Some(before) = before.filter(|_| same_templates)
            && let Some(same) = unchanged(&subject, before)
        {
            entries.insert(contract.id.clone(), same);
            continue;
        }
        let gate = partner_rules.get(&partner.id).and_then(|rules| {
            let rules = GateRules::compile(Arc::clone(rules), contract).map(Arc::new);
            rules.map_err(|found| found.iter().for_each(|fault| faults.add(&name, &fault.at, &fault.problem))).ok()
        });
        let routed = routed_contract(contract, campaign, faults, &name);
        if let Some(entry) = contract_entry(&subject, set, (routed, gate), before, &mut parts, faults) {
            entries.insert(contract.id.clone(), Arc::new(entry));
        }
    }
    entries
}

/// The entry that a contract has already, where everything that it is compiled from is the same. One that refers to
/// secrets is compiled again, for what is behind its references may have changed.
fn unchanged(subject: &Subject<'_>, before: &Network) -> Option<Arc<ContractEntry>> {
    let known = before.contract(&subject.contract.id)?;
    let campaign = before.campaign(&subject.contract.campaign)?;
    let same = same(&known.contract, subject.contract)
        && same(&known.partner, subject.partner)
        && same(&campaign.campaign, subject.campaign)
        && !subject.contract.may_refer()
        && known.renderer.is_self_contained();
    same.then(|| Arc::clone(known))
}

/// Whether a resource is the same; what was taken over is one with what it was taken from.
fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn routed_contract(
    contract: &Contract,
    campaign: &Campaign,
    faults: &Faults,
    name: &str,
) -> Option<Arc<RoutedContract>> {
    match RoutedContract::compile(contract, campaign) {
        Ok(routed) => Some(Arc::new(routed)),
        Err(found) => {
            found.iter().for_each(|fault| faults.add(name, &fault.at, &fault.problem));
            None
        }
    }
}

fn contract_entry(
    subject: &Subject<'_>,
    set: &ResourceSet,
    (routed, gate): (Option<Arc<RoutedContract>>, Option<Arc<GateRules>>),
    before: Option<&Network>,
    parts: &mut Parts,
    faults: &Faults,
) -> Option<ContractEntry> {
    let Subject { contract, partner, campaign, name } = *subject;
    let price = contract.price.as_deref().map(|price| Amount::parse(price, campaign.currency)).transpose();
    if let Err(error) = &price {
        faults.add(name, "price", error);
    }
    let lookup = |path: &str| set.templates.get(path).cloned();
    let renderer = Renderer::compile_among(contract, campaign, &lookup, &mut parts.templates);
    if let Err(found) = &renderer {
        found.iter().for_each(|fault| faults.add(name, "", fault));
    }
    let rules = reply_rules(&contract.endpoint, campaign.currency, parts);
    if let Err(found) = &rules {
        found.iter().for_each(|fault| faults.add(name, &format!("endpoint.{}", fault.path), &fault.message));
    }
    let endpoint = &contract.endpoint;
    let before = before.and_then(|before| before.contract(&contract.id));
    let transport = Transport::of(endpoint, before.map(|before| &before.transport));
    if let Err(found) = &transport {
        found.iter().for_each(|fault| faults.add(name, &format!("endpoint.{}", fault.key), &fault.message));
    }
    let tokens = tokens(endpoint, before).transpose();
    if let Err(found) = &tokens {
        found.iter().for_each(|fault| faults.add(name, &format!("endpoint.{}", fault.key), &fault.message));
    }
    if endpoint.concurrency == Concurrency::Fixed(0) {
        faults.add(name, "endpoint.concurrency", "must be at least 1, or \"adaptive\"");
    }
    if endpoint.retry.max_attempts == 0 {
        faults.add(name, "endpoint.retry.max_attempts", "must be at least 1: the first attempt counts");
    }
    if endpoint.timeout.0.is_zero() || endpoint.connect_timeout.0.is_zero() {
        faults.add(name, "endpoint.timeout", "must be longer than nothing");
    }
    Some(ContractEntry {
        partner: Arc::clone(partner),
        timezone: TimeZone::get(&partner.timezone).ok()?,
        price: price.ok()?,
        renderer: renderer.ok()?,
        rules: rules.ok()?,
        transport: transport.ok()?,
        tokens: tokens.ok()?,
        contract: Arc::clone(contract),
        counts: Counts::default(),
        routed: routed?,
        gate: gate?,
    })
}

/// An endpoint's rules for replies, compiled once for all that have the same.
fn reply_rules(
    endpoint: &Endpoint,
    currency: Currency,
    parts: &mut Parts,
) -> Result<Arc<verdict::Rules>, Vec<verdict::RuleFault>> {
    let key = (endpoint.response.clone(), endpoint.method, endpoint.on_5xx, endpoint.unmatched, currency);
    if let Some(known) = parts.replies.get(&key) {
        return Ok(Arc::clone(known));
    }
    let rules = Arc::new(verdict::Rules::compile(endpoint, currency)?);
    parts.replies.insert(key, Arc::clone(&rules));
    Ok(rules)
}

/// Where an endpoint's access tokens come from. One whose settings stay the same keeps the token it has.
fn tokens(
    endpoint: &Endpoint,
    before: Option<&Arc<ContractEntry>>,
) -> Option<Result<Arc<TokenSource>, Vec<SettingFault>>> {
    let Some(Auth::Oauth2(oauth2)) = endpoint.auth.as_deref() else { return None };
    let same = |tokens: &TokenSource| {
        before.and_then(|before| before.tokens.as_ref()).filter(|known| known.is_like(tokens)).map(Arc::clone)
    };
    Some(TokenSource::compile(oauth2).map(|tokens| same(&tokens).unwrap_or_else(|| Arc::new(tokens))))
}

/// What a campaign's posts are held against, by what that is compiled from.
type IntakeRules = HashMap<(Shared<BTreeMap<String, Field>>, UnknownFields, Vec<DedupeRule>), Arc<intake::Rules>>;

#[expect(clippy::mutable_key_type, reason = "only what a shared part remembers of its hash changes")]
fn campaign_entry(
    campaign: &Arc<Campaign>,
    routed: Vec<Arc<RoutedContract>>,
    known: &mut IntakeRules,
    faults: &Faults,
) -> Option<CampaignEntry> {
    let name = format!("campaign {}", campaign.id);
    if campaign.distribution == Distribution::Auction {
        faults.add(&name, "distribution", "`auction` is reserved; use priority, weighted, round_robin or broadcast");
    }
    let timezone = TimeZone::get(&campaign.timezone);
    if timezone.is_err() {
        faults.add(
            &name,
            "timezone",
            format_args!("`{}` is not an IANA time zone; write one such as \"Europe/London\"", campaign.timezone),
        );
    }
    let key = (campaign.fields.clone(), campaign.unknown_fields, campaign.dedupe.clone());
    let rules = match known.get(&key) {
        Some(rules) => Ok(Arc::clone(rules)),
        None => intake::Rules::compile(campaign).map(Arc::new),
    };
    match &rules {
        Ok(rules) => drop(known.insert(key, Arc::clone(rules))),
        Err(found) => found.iter().for_each(|fault| faults.add(&name, &fault.key, &fault.message)),
    }
    Some(CampaignEntry { campaign: Arc::clone(campaign), rules: rules.ok()?, timezone: timezone.ok()?, routed })
}

fn source_entry(
    source: &Arc<Source>,
    set: &ResourceSet,
    before: Option<&Network>,
    faults: &Faults,
) -> Option<Arc<SourceEntry>> {
    let name = format!("source {}", source.id);
    match set.partners.get(&source.partner) {
        None => faults.add(&name, "partner", format_args!("there is no partner `{}`", source.partner)),
        Some(partner) if partner.kind == PartnerKind::Buyer => {
            faults.add(
                &name,
                "partner",
                format_args!("{} is a buyer; a source needs a partner of kind introducer or both", partner.id),
            );
        }
        Some(_) => {}
    }
    let Some(campaign) = set.campaigns.get(&source.campaign) else {
        faults.add(&name, "campaign", format_args!("there is no campaign `{}`", source.campaign));
        return None;
    };
    if source.wait.is_some_and(|wait| wait.0 > std::time::Duration::from_mins(1)) {
        faults.add(&name, "wait", "may be 60s at most");
    }
    let payout = source.payout.as_deref().map(|payout| Amount::parse(payout, campaign.currency)).transpose();
    if let Err(error) = &payout {
        faults.add(&name, "payout", error);
    }
    let known = before.and_then(|before| before.source(&source.id));
    let same_campaign =
        before.and_then(|before| before.campaign(&campaign.id)).is_some_and(|known| same(&known.campaign, campaign));
    if let Some(known) = known.filter(|known| same_campaign && same(&known.source, source)) {
        return Some(Arc::clone(known));
    }
    // A source whose rate stays the same keeps what it has used of it.
    let pace = match known.filter(|known| known.source.rate == source.rate) {
        Some(old) => old.pace.clone(),
        None => source.rate.map(|rate| Arc::new(Pace::with_bursts(rate, clock::instant()))),
    };
    let counts = Counts::default();
    let present = ArcSwapOption::empty();
    Some(Arc::new(SourceEntry { source: Arc::clone(source), payout: payout.ok()?, counts, pace, present }))
}

fn key_ring(set: &ResourceSet, faults: &Faults) -> auth::KeyRing {
    let mut keys = Vec::new();
    for source in set.sources.values() {
        let name = format!("source {}", source.id);
        for key in &source.key.0 {
            match key.resolve().map(|key| auth::configured_key(&key)) {
                Ok(Ok(hash)) => keys.push((source.id.clone(), hash)),
                Ok(Err(fault)) => faults.add(&name, "key", fault),
                Err(fault) => faults.add(&name, "key", fault),
            }
        }
    }
    auth::KeyRing::new(keys).unwrap_or_else(|found| {
        found.iter().for_each(|fault| faults.add("sources", "key", fault));
        auth::KeyRing::default()
    })
}

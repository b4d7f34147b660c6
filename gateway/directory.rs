//! The network in memory: campaigns, sources, partners and contracts, with everything compiled that a lead needs on its
//! way. A new network is built beside the old one and swapped in whole, so that no lead ever sees half a change.

pub mod changes;
mod compile;
pub mod export;
pub mod files;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::dispatch::Transport;
use crate::dispatch::token::TokenSource;
use crate::gate::limits;
use crate::gate::rules::GateRules;
use crate::intake::{self, auth};
use crate::model::campaign::{Campaign, Field, FieldType, UnknownFields};
use crate::model::contract::{Contract, Maps, ResponseRules};
use crate::model::id::{CampaignId, ContractId, PartnerId, SourceId};
use crate::model::limit::{OwnerKind, Place, PlaceKey};
use crate::model::money::Amount;
use crate::model::partner::Partner;
use crate::model::secret::SecretText;
use crate::model::shared::Pool;
use crate::model::source::Source;
use crate::pace::Pace;
use crate::render::{Party, Renderer};
use crate::routing::RoutedContract;
use crate::store::{Kind, PausedKind, ResourceRecord};
use crate::telemetry::Counts;
use crate::verdict;

/// Resources by kind and id, as files or the store have them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceSet {
    /// By id.
    pub campaigns: BTreeMap<CampaignId, Arc<Campaign>>,
    /// By id.
    pub partners: BTreeMap<PartnerId, Arc<Partner>>,
    /// By id.
    pub sources: BTreeMap<SourceId, Arc<Source>>,
    /// By id.
    pub contracts: BTreeMap<ContractId, Arc<Contract>>,
    /// By path below the templates directory.
    pub templates: BTreeMap<String, String>,
}

/// Something wrong with a resource: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// A file with its line, or a resource with its key.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl Fault {
    /// A fault at a place.
    #[must_use]
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl ResourceSet {
    /// Every resource as the store keeps it, in the order in which they refer to one another.
    #[must_use]
    pub fn documents(&self) -> BTreeMap<(Kind, String), String> {
        fn json<T: serde::Serialize>(value: &T) -> String {
            // Texts, numbers and maps with text keys: this cannot fail.
            serde_json::to_string(value).unwrap_or_default()
        }
        let mut documents = BTreeMap::new();
        documents.extend(self.campaigns.iter().map(|(id, one)| ((Kind::Campaign, id.to_string()), json(one.as_ref()))));
        documents.extend(self.partners.iter().map(|(id, one)| ((Kind::Partner, id.to_string()), json(one.as_ref()))));
        documents.extend(self.sources.iter().map(|(id, one)| ((Kind::Source, id.to_string()), json(one.as_ref()))));
        documents.extend(self.contracts.iter().map(|(id, one)| ((Kind::Contract, id.to_string()), json(one.as_ref()))));
        documents.extend(self.templates.iter().map(|(path, text)| ((Kind::Template, path.clone()), text.clone())));
        documents
    }

    /// Back from the store.
    ///
    /// # Errors
    /// Every document that this version cannot read.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a ResourceRecord>) -> Result<Self, Vec<Fault>> {
        let mut set = Self::default();
        let mut common = Common::default();
        let mut faults = Vec::new();
        for record in records {
            let read = match record.kind {
                Kind::Campaign => serde_json::from_str(&record.document)
                    .map(|one: Campaign| drop(set.campaigns.insert(one.id.clone(), common.campaign(one)))),
                Kind::Partner => serde_json::from_str(&record.document)
                    .map(|one: Partner| drop(set.partners.insert(one.id.clone(), Arc::new(one)))),
                Kind::Source => serde_json::from_str(&record.document)
                    .map(|one: Source| drop(set.sources.insert(one.id.clone(), Arc::new(one)))),
                Kind::Contract => serde_json::from_str(&record.document)
                    .map(|one: Contract| drop(set.contracts.insert(one.id.clone(), common.contract(one)))),
                Kind::Template => {
                    set.templates.insert(record.id.clone(), record.document.clone());
                    Ok(())
                }
            };
            if let Err(error) = read {
                faults.push(Fault::new(format!("stored {} {}", record.kind, record.id), error.to_string()));
            }
        }
        if faults.is_empty() { Ok(set) } else { Err(faults) }
    }
}

/// What the resources of one set have in common, kept once.
#[derive(Debug, Default)]
struct Common {
    fields: Pool<BTreeMap<String, Field>>,
    replies: Pool<ResponseRules>,
    maps: Pool<Maps>,
}

impl Common {
    fn campaign(&mut self, mut campaign: Campaign) -> Arc<Campaign> {
        self.fields.share(&mut campaign.fields);
        Arc::new(campaign)
    }

    fn contract(&mut self, mut contract: Contract) -> Arc<Contract> {
        self.replies.share(&mut contract.endpoint.response);
        self.maps.share(&mut contract.maps);
        Arc::new(contract)
    }
}

/// A source whose literal keys are replaced by their hashes: no key is ever stored or shown.
pub(crate) fn with_hashed_keys(mut source: Source) -> Source {
    for key in &mut source.key.0 {
        // One that cannot be used is left for the compiler to refuse with its reason.
        if !key.is_reference()
            && let Ok(hash) = auth::configured_key(&key.0)
        {
            *key = SecretText(auth::hash_text(&hash));
        }
    }
    source
}

/// A campaign, ready to take leads.
#[derive(Debug)]
pub struct CampaignEntry {
    /// As configured.
    pub campaign: Arc<Campaign>,
    /// Its fields, compiled.
    pub rules: Arc<intake::Rules>,
    timezone: TimeZone,
    routed: Vec<Arc<RoutedContract>>,
}

impl CampaignEntry {
    /// Its contracts, as routing wants them.
    #[must_use]
    pub fn routed(&self) -> &[Arc<RoutedContract>] {
        &self.routed
    }

    /// What a lead of `source`, which is one of the campaign's, takes of the campaign's and the source's limits.
    #[must_use]
    pub fn places(&self, source: &SourceEntry, now: Timestamp) -> Vec<Place> {
        if let Some(present) = &*source.present.load()
            && (present.from..present.until).contains(&now)
        {
            return present.places.clone();
        }
        let of = |kind, id: &str, owner| limits::places(kind, id, owner, &self.timezone, now);
        let sources = of(OwnerKind::Source, source.source.id.as_str(), &source.source.limits);
        let campaigns = of(OwnerKind::Campaign, self.campaign.id.as_str(), &self.campaign.limits);
        let ends = sources.iter().chain(&campaigns).filter_map(|(_, ends)| *ends);
        let until = ends.min().unwrap_or(Timestamp::MAX);
        // The longest period first: where several are full, the source is told of the one that opens last.
        let pairs = sources.into_iter().zip(campaigns).rev();
        let places: Vec<Place> = pairs.flat_map(|((source, _), (campaign, _))| [source, campaign]).collect();
        source.present.store(Some(Arc::new(PresentPlaces { from: now, until, places: places.clone() })));
        places
    }

    /// Which limit `key` is, and when it opens.
    #[must_use]
    pub fn limit_reached(&self, source: &SourceEntry, key: &PlaceKey, now: Timestamp) -> LimitReached {
        let owners = [
            (OwnerKind::Source, source.source.id.as_str(), &source.source.limits),
            (OwnerKind::Campaign, self.campaign.id.as_str(), &self.campaign.limits),
        ];
        for (kind, id, owner) in owners {
            let words = ["daily", "monthly", "total"];
            for ((place, ends), word) in limits::places(kind, id, owner, &self.timezone, now).into_iter().zip(words) {
                if place.key == *key {
                    let whose = if kind == OwnerKind::Source { "source" } else { "campaign" };
                    let what = format!(
                        "the {word} limit of {whose} {id} ({}, {})",
                        place.limit.unwrap_or(0),
                        self.campaign.timezone
                    );
                    return LimitReached { what, opens: ends };
                }
            }
        }
        LimitReached { what: "a limit".to_owned(), opens: None }
    }

    /// Whether a field is masked in what is captured.
    #[must_use]
    pub fn is_sensitive(&self, name: &str) -> bool {
        self.campaign.fields.get(name).is_some_and(|field| field.sensitive)
    }

    /// Whether a field can tell who the person is; undeclared ones may.
    #[must_use]
    pub fn is_personal(&self, name: &str) -> bool {
        fn tells(field: &Field) -> bool {
            field.sensitive
                || match field.kind {
                    FieldType::Integer | FieldType::Decimal | FieldType::Boolean | FieldType::OneOf => false,
                    FieldType::List => field.items.as_deref().is_some_and(tells) || field.fields.values().any(tells),
                    _ => true,
                }
        }
        let field = self.campaign.fields.get(name);
        // The entries of a list of groups may have undeclared members, where the campaign keeps such.
        let open = |field: &Field| !field.fields.is_empty() && self.campaign.unknown_fields == UnknownFields::Keep;
        field.is_none_or(|field| tells(field) || open(field))
    }
}

/// A source or campaign limit that refused a lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReached {
    /// Whose, and which, in words.
    pub what: String,
    /// The start of the next period; `None` for a total.
    pub opens: Option<Timestamp>,
}

/// A source, ready to post.
#[derive(Debug)]
pub struct SourceEntry {
    /// As configured.
    pub source: Arc<Source>,
    /// What it earns for a lead.
    pub payout: Option<Amount>,
    /// Its counters.
    pub counts: Counts,
    pace: Option<Arc<Pace>>,
    present: ArcSwapOption<PresentPlaces>,
}

/// What each lead of a source takes, from an instant until a period ends.
#[derive(Debug)]
struct PresentPlaces {
    from: Timestamp,
    until: Timestamp,
    places: Vec<Place>,
}

impl SourceEntry {
    /// Takes one of the source's rate.
    ///
    /// # Errors
    /// How long to wait.
    pub fn pace(&self, now: Instant) -> Result<(), Duration> {
        self.pace.as_ref().map_or(Ok(()), |pace| pace.ready(now))
    }

    /// Its rate, for people.
    #[must_use]
    pub fn rate_in_words(&self) -> String {
        self.source.rate.map_or("without limit".to_owned(), |rate| rate.to_string())
    }
}

/// A contract, ready to be delivered to.
#[derive(Debug)]
pub struct ContractEntry {
    /// As configured.
    pub contract: Arc<Contract>,
    /// The buyer.
    pub partner: Arc<Partner>,
    /// The buyer's zone.
    pub timezone: TimeZone,
    /// What a lead is sold for.
    pub price: Option<Amount>,
    /// Makes its requests.
    pub renderer: Renderer,
    /// Understands its replies.
    pub rules: Arc<verdict::Rules>,
    /// How its requests travel.
    pub transport: Transport,
    /// Where its access tokens come from, if it needs any.
    pub tokens: Option<Arc<TokenSource>>,
    /// Its counters.
    pub counts: Counts,
    routed: Arc<RoutedContract>,
    gate: Arc<GateRules>,
}

impl ContractEntry {
    /// Its counters, where `partner` is its partner still: they name that one.
    #[must_use]
    pub fn counts_for(&self, partner: &PartnerId) -> Option<&Counts> {
        (self.partner.id == *partner).then_some(&self.counts)
    }

    /// The partner's zone by name, for people.
    #[must_use]
    pub fn timezone_name(&self) -> Arc<str> {
        self.partner.timezone.as_str().into()
    }

    /// The partner, as templates see it.
    #[must_use]
    pub fn partner_party(&self) -> Party<'_> {
        Party { id: self.partner.id.as_str(), name: self.partner.title() }
    }

    /// What a delivery takes of the partner's and the contract's limits.
    #[must_use]
    pub fn places(&self, now: Timestamp) -> Vec<Place> {
        let of = |kind, id: &str, owner| limits::places(kind, id, owner, &self.timezone, now).map(|(place, _)| place);
        let mut places = Vec::with_capacity(6);
        places.extend(of(OwnerKind::Partner, self.partner.id.as_str(), &self.partner.limits));
        places.extend(of(OwnerKind::Contract, self.contract.id.as_str(), &self.contract.limits));
        places
    }
}

/// A whole network, compiled. Immutable.
#[derive(Debug, Default)]
pub struct Network {
    campaigns: HashMap<CampaignId, Arc<CampaignEntry>>,
    sources: HashMap<SourceId, Arc<SourceEntry>>,
    contracts: HashMap<ContractId, Arc<ContractEntry>>,
    by_partner: HashMap<PartnerId, Vec<ContractId>>,
    partners: HashSet<PartnerId>,
    keys: auth::KeyRing,
    /// What its contracts are compiled from, by path.
    templates: BTreeMap<String, String>,
    phone_regions: Vec<String>,
}

impl Network {
    /// Compiles resources. What is the same as in `before` is taken over from it: compiled contracts, connections, and what
    /// sources have used of their rates, so that a change elsewhere does not give them a new burst.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn compile(set: &ResourceSet, before: Option<&Self>) -> Result<Self, Vec<Fault>> {
        compile::compile(set, before)
    }

    /// A campaign.
    #[must_use]
    pub fn campaign(&self, id: &CampaignId) -> Option<&Arc<CampaignEntry>> {
        self.campaigns.get(id)
    }

    /// A source.
    #[must_use]
    pub fn source(&self, id: &SourceId) -> Option<&Arc<SourceEntry>> {
        self.sources.get(id)
    }

    /// A contract.
    #[must_use]
    pub fn contract(&self, id: &ContractId) -> Option<&Arc<ContractEntry>> {
        self.contracts.get(id)
    }

    /// Every contract.
    pub fn contracts(&self) -> impl Iterator<Item = &Arc<ContractEntry>> {
        self.contracts.values()
    }

    /// A partner's contracts.
    #[must_use]
    pub fn contracts_of(&self, partner: &PartnerId) -> &[ContractId] {
        self.by_partner.get(partner).map_or(&[], Vec::as_slice)
    }

    /// The sources' keys.
    #[must_use]
    pub fn keys(&self) -> &auth::KeyRing {
        &self.keys
    }

    /// The home regions of phone fields, for reading a number that somebody searches.
    #[must_use]
    pub fn phone_regions(&self) -> &[String] {
        &self.phone_regions
    }

    /// Everything that can be paused.
    pub fn pausable(&self) -> impl Iterator<Item = (PausedKind, String)> {
        let partners = self.partners.iter().map(|id| (PausedKind::Partner, id.to_string()));
        let contracts = self.contracts.keys().map(|id| (PausedKind::Contract, id.to_string()));
        let sources = self.sources.keys().map(|id| (PausedKind::Source, id.to_string()));
        partners.chain(contracts).chain(sources)
    }

    /// Whether there is such a thing to be paused.
    #[must_use]
    pub fn has(&self, kind: PausedKind, id: &str) -> bool {
        match kind {
            PausedKind::Partner => id.parse().is_ok_and(|id| self.partners.contains(&id)),
            PausedKind::Contract => id.parse().is_ok_and(|id| self.contracts.contains_key(&id)),
            PausedKind::Source => id.parse().is_ok_and(|id| self.sources.contains_key(&id)),
        }
    }

    /// Every contract's hours and limits, for the gate.
    #[must_use]
    pub fn gate_rules(&self) -> HashMap<ContractId, Arc<GateRules>> {
        self.contracts.iter().map(|(id, entry)| (id.clone(), Arc::clone(&entry.gate))).collect()
    }

    /// How many campaigns, partners, sources and contracts there are.
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        [self.campaigns.len(), self.partners.len(), self.sources.len(), self.contracts.len()]
    }
}

/// The present network, and which sources are paused.
#[derive(Debug)]
pub struct Directory {
    network: ArcSwap<Network>,
    paused_sources: RwLock<HashSet<String>>,
}

impl Directory {
    /// A directory of this network.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network: ArcSwap::from_pointee(network), paused_sources: RwLock::default() }
    }

    /// The network as it is now; hold on to it for the length of one decision.
    #[must_use]
    pub fn network(&self) -> Arc<Network> {
        self.network.load_full()
    }

    /// Swaps in a new network.
    pub fn install(&self, network: Network) {
        self.network.store(Arc::new(network));
    }

    /// Whether staff paused a source.
    #[must_use]
    pub fn is_source_paused(&self, id: &str) -> bool {
        self.paused_sources.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Pauses or resumes a source.
    pub fn set_source_paused(&self, id: &str, paused: bool) {
        let mut sources = self.paused_sources.write().unwrap_or_else(PoisonError::into_inner);
        if paused {
            sources.insert(id.to_owned());
        } else {
            sources.remove(id);
        }
    }
}

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
use serde::Serialize;
use serde::de::DeserializeOwned;

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
use crate::model::schedule::WeekTable;
use crate::model::secret::SecretText;
use crate::model::shared::Pool;
use crate::model::source::Source;
use crate::pace::Pace;
use crate::render::{Party, Renderer};
use crate::routing::RoutedContract;
use crate::store::{Kind, PausedKind, ResourceRecord, StoredResource};
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
        self.clone().into_documents().map(|(kind, id, document)| ((kind, id), document)).collect()
    }

    /// The same, one after the other; what has been given is forgotten.
    pub fn into_documents(self) -> impl Iterator<Item = (Kind, String, String)> + Send {
        let Self { campaigns, partners, sources, contracts, templates } = self;
        let campaigns = campaigns.into_iter().map(|(id, one)| (Kind::Campaign, id.into(), json(&one)));
        let sources = sources.into_iter().map(|(id, one)| (Kind::Source, id.into(), json(&one)));
        let partners = partners.into_iter().map(|(id, one)| (Kind::Partner, id.into(), json(&one)));
        let contracts = contracts.into_iter().map(|(id, one)| (Kind::Contract, id.into(), json(&one)));
        let templates = templates.into_iter().map(|(path, text)| (Kind::Template, path, text));
        campaigns.chain(sources).chain(partners).chain(contracts).chain(templates)
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let Self { campaigns, partners, sources, contracts, templates } = self;
        campaigns.len() + partners.len() + sources.len() + contracts.len() + templates.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every kind and id, in the order of [`Self::documents`].
    pub fn names(&self) -> impl Iterator<Item = (Kind, &str)> {
        let campaigns = self.campaigns.keys().map(|id| (Kind::Campaign, id.as_str()));
        let sources = self.sources.keys().map(|id| (Kind::Source, id.as_str()));
        let partners = self.partners.keys().map(|id| (Kind::Partner, id.as_str()));
        let contracts = self.contracts.keys().map(|id| (Kind::Contract, id.as_str()));
        let templates = self.templates.keys().map(|path| (Kind::Template, path.as_str()));
        campaigns.chain(sources).chain(partners).chain(contracts).chain(templates)
    }

    /// One resource as the store keeps it.
    #[must_use]
    pub fn document(&self, kind: Kind, id: &str) -> Option<String> {
        match kind {
            Kind::Campaign => self.campaigns.get(id).map(json),
            Kind::Partner => self.partners.get(id).map(json),
            Kind::Source => self.sources.get(id).map(json),
            Kind::Contract => self.contracts.get(id).map(json),
            Kind::Template => self.templates.get(id).cloned(),
        }
    }

    /// Whether there is such a resource.
    #[must_use]
    pub fn contains(&self, kind: Kind, id: &str) -> bool {
        match kind {
            Kind::Campaign => self.campaigns.contains_key(id),
            Kind::Partner => self.partners.contains_key(id),
            Kind::Source => self.sources.contains_key(id),
            Kind::Contract => self.contracts.contains_key(id),
            Kind::Template => self.templates.contains_key(id),
        }
    }

    /// Whether there is such a resource, and this is its document.
    #[must_use]
    pub fn has(&self, kind: Kind, id: &str, document: &str) -> bool {
        match kind {
            Kind::Campaign => self.campaigns.get(id).is_some_and(|one| is_written(one, document)),
            Kind::Partner => self.partners.get(id).is_some_and(|one| is_written(one, document)),
            Kind::Source => self.sources.get(id).is_some_and(|one| is_written(one, document)),
            Kind::Contract => self.contracts.get(id).is_some_and(|one| is_written(one, document)),
            Kind::Template => self.templates.get(id).is_some_and(|text| text == document),
        }
    }

    /// Back from the store.
    ///
    /// # Errors
    /// Every document that this version cannot read.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a ResourceRecord>) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::default();
        for ResourceRecord { kind, id, document, .. } in records {
            reader.take(*kind, id, document);
        }
        reader.finish()
    }
}

fn json(value: &impl Serialize) -> String {
    // Texts, numbers and maps with text keys: this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Whether `document` is what [`json`] makes of a value; nothing is made to find out.
fn is_written(value: &impl Serialize, document: &str) -> bool {
    struct Rest<'a>(&'a [u8]);
    impl std::io::Write for Rest<'_> {
        fn write(&mut self, written: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.strip_prefix(written).ok_or(std::io::ErrorKind::InvalidData)?;
            Ok(written.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut rest = Rest(document.as_bytes());
    serde_json::to_writer(&mut rest, value).is_ok() && rest.0.is_empty()
}

/// Reads the documents of a set, one after the other. What a network has already, word for word, is taken over from it
/// instead of being read: a large network of which little changes is in memory once.
#[derive(Debug, Default)]
pub struct Reader {
    set: ResourceSet,
    known: Option<Arc<Network>>,
    common: Common,
    faults: Vec<Fault>,
}

impl Reader {
    /// A reader that knows the resources of a network.
    #[must_use]
    pub fn beside(known: Option<Arc<Network>>) -> Self {
        Self { known, ..Self::default() }
    }

    /// Reads the document of a resource.
    pub fn take(&mut self, kind: Kind, id: &str, document: &str) {
        let Self { set, common, known, faults } = self;
        let known = known.as_deref();
        let read = match kind {
            Kind::Campaign => {
                let known = known.and_then(|known| known.campaigns.get(id)).map(|entry| &entry.campaign);
                known_or_read(known, document, |one| common.campaign(one))
                    .map(|one| drop(set.campaigns.insert(one.id.clone(), one)))
            }
            Kind::Partner => {
                let known = known.and_then(|known| known.partners.get(id));
                known_or_read(known, document, |one| common.partner(one))
                    .map(|one| drop(set.partners.insert(one.id.clone(), one)))
            }
            Kind::Source => {
                let known = known.and_then(|known| known.sources.get(id)).map(|entry| &entry.source);
                known_or_read(known, document, Arc::new).map(|one| drop(set.sources.insert(one.id.clone(), one)))
            }
            Kind::Contract => {
                let known = known.and_then(|known| known.contracts.get(id)).map(|entry| &entry.contract);
                known_or_read(known, document, |one| common.contract(one))
                    .map(|one| drop(set.contracts.insert(one.id.clone(), one)))
            }
            Kind::Template => {
                set.templates.insert(id.to_owned(), document.to_owned());
                Ok(())
            }
        };
        if let Err(error) = read {
            faults.push(Fault::new(format!("stored {kind} {id}"), error.to_string()));
        }
    }

    /// As [`Reader::take`], of a stored resource.
    pub fn take_stored(&mut self, stored: StoredResource<'_>) {
        self.take(stored.kind, stored.id, stored.document);
    }

    /// All that was read.
    ///
    /// # Errors
    /// Every document that this version cannot read.
    pub fn finish(self) -> Result<ResourceSet, Vec<Fault>> {
        if self.faults.is_empty() { Ok(self.set) } else { Err(self.faults) }
    }
}

fn known_or_read<T: Serialize + DeserializeOwned>(
    known: Option<&Arc<T>>,
    document: &str,
    new: impl FnOnce(T) -> Arc<T>,
) -> serde_json::Result<Arc<T>> {
    match known.filter(|known| is_written(known, document)) {
        Some(known) => Ok(Arc::clone(known)),
        None => serde_json::from_str(document).map(new),
    }
}

/// What the resources of one set have in common, kept once.
#[derive(Debug, Default)]
struct Common {
    fields: Pool<BTreeMap<String, Field>>,
    schedules: Pool<WeekTable>,
    replies: Pool<ResponseRules>,
    maps: Pool<Maps>,
}

impl Common {
    fn campaign(&mut self, mut campaign: Campaign) -> Arc<Campaign> {
        self.fields.share(&mut campaign.fields);
        Arc::new(campaign)
    }

    fn partner(&mut self, mut partner: Partner) -> Arc<Partner> {
        partner.schedule.iter_mut().for_each(|schedule| self.schedules.share(schedule));
        Arc::new(partner)
    }

    fn contract(&mut self, mut contract: Contract) -> Arc<Contract> {
        contract.schedule.iter_mut().for_each(|schedule| self.schedules.share(schedule));
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
    partners: HashMap<PartnerId, Arc<Partner>>,
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
        let partners = self.partners.keys().map(|id| (PausedKind::Partner, id.to_string()));
        let contracts = self.contracts.keys().map(|id| (PausedKind::Contract, id.to_string()));
        let sources = self.sources.keys().map(|id| (PausedKind::Source, id.to_string()));
        partners.chain(contracts).chain(sources)
    }

    /// Whether there is such a thing to be paused.
    #[must_use]
    pub fn has(&self, kind: PausedKind, id: &str) -> bool {
        match kind {
            PausedKind::Partner => self.partners.contains_key(id),
            PausedKind::Contract => self.contracts.contains_key(id),
            PausedKind::Source => self.sources.contains_key(id),
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

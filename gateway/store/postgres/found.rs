//! The first round trip of a commit: everything its jobs depend on, locked and read, in the order that everybody keeps.
//!
//! Counts of places are locked later, as long as no limit is near (store/postgres/writer.rs).
//!
//! All statements are sent at once and answered one after the other. Each sees what was committed before it began, and so
//! everything that those wrote whose locks it waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::{Client, Error, Row, Statement};
use uuid::Uuid;

use super::statements::Statements;
use super::writer::Work;
use super::writes::{Values, number};
use crate::model::delivery::{Class, DeliveryState, Verdict};
use crate::model::limit::PlaceKey;
use crate::store::{LeadStep, StoreError};

/// What a batch has to lock and read.
#[derive(Default)]
pub(super) struct Reads {
    keys: BTreeMap<(String, String), KeyRow>,
    people: BTreeMap<[u8; 32], PersonRow>,
    deliveries: BTreeSet<Uuid>,
    leads: BTreeSet<Uuid>,
    attempts: BTreeSet<(Uuid, i32)>,
    /// Deliveries whose own places may be given back or moved.
    owners: BTreeSet<Uuid>,
    places: BTreeSet<PlaceKey>,
    /// Some are about to be sent.
    sends: bool,
    makes_deliveries: bool,
}

/// An idempotency key, as stored.
#[derive(Clone)]
pub(super) struct KeyRow {
    pub(super) fingerprint: Vec<u8>,
    pub(super) lead: Uuid,
    pub(super) at: i64,
}

/// A dedupe hash, as stored.
#[derive(Clone, Copy)]
pub(super) struct PersonRow {
    pub(super) lead: Uuid,
    pub(super) at: i64,
    pub(super) until: i64,
}

/// A delivery, as far as a commit cares.
pub(super) struct DeliveryRow {
    pub(super) state: DeliveryState,
    pub(super) attempts: u32,
    pub(super) had_unknown: bool,
    pub(super) places: Vec<PlaceKey>,
    /// Its partner or its contract is. Known of those that are about to be sent.
    pub(super) is_paused: bool,
    /// Who delivers it; `None`: nobody any more. Known of those that are about to be sent.
    pub(super) owner: Option<Uuid>,
}

/// A lead, as far as a commit cares.
#[derive(Clone)]
pub(super) struct LeadRow {
    pub(super) version: i64,
    pub(super) campaign: String,
    pub(super) source: String,
    pub(super) received_at: i64,
}

/// How long a commit waits for rows that others have locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the session may; for counts only in the end, when they are changed: until then it trusts what it reads of
    /// them, and they are checked when they are changed.
    Trusts,
    /// As long as the session may.
    Waits,
    /// Not at all: jobs that need such a row fail, and the others go on.
    StepsOver,
}

/// What is known of an attempt's end; `None`: it is open.
pub(super) type EndRow = Option<(Verdict, Option<Class>)>;

/// What the locks and reads found. Counts are changed by the decisions as they are made.
#[derive(Default)]
pub(super) struct Found {
    keys: HashMap<(String, String), KeyRow>,
    people: HashMap<[u8; 32], PersonRow>,
    deliveries: HashMap<Uuid, DeliveryRow>,
    leads: HashMap<Uuid, LeadRow>,
    attempts: HashMap<(Uuid, u32), EndRow>,
    places: HashMap<PlaceKey, i64>,
    stepped_over: bool,
}

impl Reads {
    pub(super) fn of<'a>(batch: impl Iterator<Item = &'a Work>) -> Self {
        let mut reads = Self::default();
        for work in batch {
            reads.add(work);
        }
        reads
    }

    fn add(&mut self, work: &Work) {
        match work {
            Work::Accept(work) => {
                let lead = &*work.accept.lead;
                let at = lead.received_at.as_microsecond();
                if let Some((key, fingerprint)) = work.key() {
                    self.keys.insert(key, KeyRow { fingerprint: fingerprint.to_vec(), lead: lead.id.0, at });
                }
                for (hash, window) in work.people() {
                    let until = at.saturating_add(*window);
                    self.people.insert(*hash, PersonRow { lead: lead.id.0, at, until });
                }
                self.places.extend(work.places().iter().map(|place| place.key.clone()));
                self.makes_deliveries = true;
            }
            Work::Attempt(attempt) => {
                self.sends = true;
                self.deliveries.insert(attempt.delivery.0);
                // Before its first one a delivery owns nothing.
                if attempt.number > 1 {
                    self.owners.insert(attempt.delivery.0);
                }
                self.places.extend(attempt.places.iter().map(|place| place.key.clone()));
            }
            Work::Step(work) => {
                let step = &work.step;
                self.deliveries.insert(step.delivery.0);
                self.leads.insert(step.lead.0);
                if let Some(end) = &step.attempt {
                    self.attempts.insert((step.delivery.0, number(end.number)));
                }
                if step.change.give_back {
                    self.owners.insert(step.delivery.0);
                }
                if matches!(&step.then, LeadStep::Advance { deliveries, .. } if !deliveries.is_empty()) {
                    self.makes_deliveries = true;
                }
            }
            Work::Redeliver(work) => {
                self.deliveries.extend(work.new.redelivery_of.map(|old| old.0));
                self.leads.insert(work.lead.0);
                self.makes_deliveries = true;
            }
            Work::Refuse(_) => {}
        }
    }

    /// The places that are asked for.
    pub(super) fn places(&self) -> &BTreeSet<PlaceKey> {
        &self.places
    }

    /// What begins the transaction. Who pauses or takes over locks these tables in EXCLUSIVE mode: an attempt is committed
    /// before that, or sees it.
    fn begin(&self) -> &'static str {
        match (self.sends, self.makes_deliveries) {
            (true, _) => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_current_xact_id();
                 LOCK TABLE paused, gateway IN ROW SHARE MODE"
            }
            (false, true) => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_current_xact_id(); LOCK TABLE gateway IN ROW SHARE MODE"
            }
            (false, false) => "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_current_xact_id()",
        }
    }
}

/// Runs a statement if there is anything for it to do. A prepared statement is sent when this is first polled.
async fn rows(client: &Client, needed: bool, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Error> {
    if needed { client.query(statement, values).await } else { Ok(Vec::new()) }
}

impl Found {
    /// Begins a transaction; locks and reads.
    pub(super) async fn read(
        client: &Client,
        statements: &Statements,
        reads: &Reads,
        patience: Patience,
    ) -> Result<Self, Error> {
        let (sources, keys): (Vec<&str>, Vec<&str>) =
            reads.keys.keys().map(|(source, key)| (source.as_str(), key.as_str())).unzip();
        let key_rows: Vec<&KeyRow> = reads.keys.values().collect();
        let fingerprints: Vec<&[u8]> = key_rows.iter().map(|row| row.fingerprint.as_slice()).collect();
        let key_leads: Vec<Uuid> = key_rows.iter().map(|row| row.lead).collect();
        let key_times: Vec<i64> = key_rows.iter().map(|row| row.at).collect();

        let hashes: Vec<&[u8]> = reads.people.keys().map(<[u8; 32]>::as_slice).collect();
        let person_leads: Vec<Uuid> = reads.people.values().map(|row| row.lead).collect();
        let person_times: Vec<i64> = reads.people.values().map(|row| row.at).collect();
        let untils: Vec<i64> = reads.people.values().map(|row| row.until).collect();

        let list = |set: &BTreeSet<Uuid>| set.iter().copied().collect::<Vec<Uuid>>();
        let (deliveries, leads) = (list(&reads.deliveries), list(&reads.leads));
        let owners = list(&reads.owners);
        let (attempts, numbers): (Vec<Uuid>, Vec<i32>) = reads.attempts.iter().copied().unzip();
        let places: Vec<&str> = reads.places.iter().map(PlaceKey::as_str).collect();

        let s = statements;
        let (lock_deliveries, lock_leads, lock_places, lock_owned_places) = match patience {
            Patience::Trusts => (&s.lock_deliveries, &s.lock_leads, &s.read_places, &s.read_owned_places),
            Patience::Waits => (&s.lock_deliveries, &s.lock_leads, &s.lock_places, &s.lock_owned_places),
            Patience::StepsOver => {
                (&s.lock_free_deliveries, &s.lock_free_leads, &s.lock_free_places, &s.lock_free_owned_places)
            }
        };

        let key_values: Values<'_> = &[&sources, &keys, &fingerprints, &key_leads, &key_times];
        let person_values: Values<'_> = &[&hashes, &person_leads, &person_times, &untils];
        let delivery_values: Values<'_> = &[&deliveries];
        let lead_values: Values<'_> = &[&leads];
        let attempt_values: Values<'_> = &[&attempts, &numbers];
        let place_values: Values<'_> = &[&places];
        let owned_place_values: Values<'_> = &[&places, &owners];
        let (counts, lock_counts, count_values) = if owners.is_empty() {
            (!places.is_empty(), lock_places, place_values)
        } else {
            (true, lock_owned_places, owned_place_values)
        };
        let (begun, keys_found, people_found, deliveries_found, leads_found, attempts_found, places_found) = tokio::join!(
            biased;
            client.simple_query(reads.begin()),
            rows(client, !keys.is_empty(), &s.lock_keys, key_values),
            rows(client, !hashes.is_empty(), &s.lock_people, person_values),
            rows(client, !deliveries.is_empty(), lock_deliveries, delivery_values),
            rows(client, !leads.is_empty(), lock_leads, lead_values),
            rows(client, !attempts.is_empty(), &s.read_attempts, attempt_values),
            rows(client, counts, lock_counts, count_values),
        );
        // The first error is the cause of those behind it.
        begun?;
        let mut found = Self { stepped_over: patience == Patience::StepsOver, ..Self::default() };
        for row in keys_found? {
            let row_of = KeyRow { fingerprint: row.try_get(2)?, lead: row.try_get(3)?, at: row.try_get(4)? };
            found.keys.insert((row.try_get(0)?, row.try_get(1)?), row_of);
        }
        for row in people_found? {
            if let Ok(hash) = row.try_get::<_, &[u8]>(0)?.try_into() {
                let row_of = PersonRow { lead: row.try_get(1)?, at: row.try_get(2)?, until: row.try_get(3)? };
                found.people.insert(hash, row_of);
            }
        }
        for row in deliveries_found? {
            let Some(state) = DeliveryState::from_word(row.try_get(1)?) else { continue };
            let row_of = DeliveryRow {
                state,
                attempts: u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0),
                had_unknown: row.try_get(3)?,
                places: row.try_get::<_, &str>(4)?.lines().map(PlaceKey::from_text).collect(),
                is_paused: row.try_get(5)?,
                owner: row.try_get(6)?,
            };
            found.deliveries.insert(row.try_get(0)?, row_of);
        }
        for row in leads_found? {
            let row_of = LeadRow {
                version: row.try_get(1)?,
                campaign: row.try_get(2)?,
                source: row.try_get(3)?,
                received_at: row.try_get(4)?,
            };
            found.leads.insert(row.try_get(0)?, row_of);
        }
        for row in attempts_found? {
            let verdict = row.try_get::<_, Option<&str>>(2)?.and_then(Verdict::from_word);
            let class = row.try_get::<_, Option<&str>>(3)?.and_then(Class::from_word);
            let number = u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or(0);
            found.attempts.insert((row.try_get(0)?, number), verdict.map(|verdict| (verdict, class)));
        }
        for row in places_found? {
            found.places.insert(PlaceKey::from_text(row.try_get(0)?), row.try_get(1)?);
        }
        Ok(found)
    }

    pub(super) fn key(&self, key: &(String, String)) -> Option<&KeyRow> {
        self.keys.get(key)
    }

    pub(super) fn person(&self, hash: &[u8; 32]) -> Option<PersonRow> {
        self.people.get(hash).copied()
    }

    /// A delivery; `None`: there is none.
    ///
    /// # Errors
    /// When somebody else may hold it.
    pub(super) fn delivery(&self, id: Uuid) -> Result<Option<&DeliveryRow>, StoreError> {
        self.unless_held(self.deliveries.get(&id), "delivery", id)
    }

    /// A lead; `None`: there is none.
    ///
    /// # Errors
    /// When somebody else may hold it.
    pub(super) fn lead(&self, id: Uuid) -> Result<Option<&LeadRow>, StoreError> {
        self.unless_held(self.leads.get(&id), "lead", id)
    }

    fn unless_held<'a, T>(&self, row: Option<&'a T>, what: &str, id: Uuid) -> Result<Option<&'a T>, StoreError> {
        if row.is_none() && self.stepped_over {
            return Err(StoreError::Failed(format!("another session holds {what} {id}")));
        }
        Ok(row)
    }

    /// What is known of an attempt's end; `None`: there is no such attempt.
    pub(super) fn attempt(&self, delivery: Uuid, number: u32) -> Option<&EndRow> {
        self.attempts.get(&(delivery, number))
    }

    /// Whether all of these places were found.
    pub(super) fn has_places(&self, wanted: &BTreeSet<PlaceKey>) -> bool {
        wanted.iter().all(|key| self.places.contains_key(key))
    }

    /// Places taken so far under `key`.
    ///
    /// # Errors
    /// When somebody else holds it.
    pub(super) fn used(&self, key: &PlaceKey) -> Result<u64, StoreError> {
        match self.places.get(key) {
            Some(used) => Ok(u64::try_from(*used).unwrap_or(0)),
            None => Err(StoreError::Failed(format!("another session holds the count of {key}"))),
        }
    }

    /// Whether `key`, of a place that a delivery owns, can be counted now; one that retention has forgotten need not be.
    ///
    /// # Errors
    /// When somebody else may hold it.
    pub(super) fn can_count(&self, key: &PlaceKey) -> Result<(), StoreError> {
        if self.stepped_over { self.used(key).map(drop) } else { Ok(()) }
    }

    /// Takes (`1`) or gives back (`-1`) a place.
    pub(super) fn count(&mut self, key: &PlaceKey, by: i64) {
        if let Some(used) = self.places.get_mut(key) {
            *used += by;
        }
    }
}

//! The accept commit in PostgreSQL.

use super::found::{Found, PersonRow};
use super::rows::text;
use super::writer::{Done, Held, Work};
use super::writes::{DeliveryWrite, KeyWrite, Writes, number};
use super::{Postgres, lookups};
use crate::model::id::LeadId;
use crate::model::lead::{LeadReason, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::store::days::day_of;
use crate::store::hashes::{keyed, lookup_hash};
use crate::store::leads::REMEMBER_KEYS_HOURS;
use crate::store::{Accept, Accepted, Remembered, StoreError};
use jiff::{Timestamp, ToSpan as _};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A lead with all that can be made ready before it is its turn.
pub(super) struct AcceptWork {
    pub(super) accept: Accept,
    pub(super) fields: String,
    pub(super) meta: String,
    pub(super) candidates: String,
    pub(super) day: u32,
    /// What it is looked up by, as a list; `None`: nothing.
    lookups: Option<String>,
    /// What makes it the same person as an earlier one: hash, and how far back it looks, in microseconds.
    people: BTreeMap<[u8; 32], i64>,
}

impl AcceptWork {
    fn new(accept: Accept, hash_key: &[u8; 32]) -> Result<Self, StoreError> {
        let mut people = BTreeMap::new();
        // A test lead is nobody, and takes nothing.
        for rule in accept.dedupe.iter().filter(|_| !accept.lead.test) {
            let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
            let longest = people.entry(keyed(hash_key, &["dedupe", &rule.text])).or_insert(window);
            *longest = window.max(*longest);
        }
        let lookups = accept.lookups.iter().map(|(kind, value)| lookup_hash(hash_key, kind, value));
        let lookups = (!accept.lookups.is_empty()).then(|| lookups::list(lookups));
        Ok(Self {
            fields: to_json(&accept.lead.fields)?,
            meta: to_json(&accept.lead.meta)?,
            candidates: to_json(&accept.candidates)?,
            day: day_of(accept.lead.received_at),
            lookups,
            people,
            accept,
        })
    }

    /// Its idempotency key with its source, and the hash of its body.
    pub(super) fn key(&self) -> Option<((String, String), &[u8; 32])> {
        let idempotency = self.accept.idempotency.as_ref()?;
        let key = (self.accept.lead.source.as_str().to_owned(), text(&idempotency.key).into_owned());
        Some((key, &idempotency.fingerprint))
    }

    pub(super) fn people(&self) -> &BTreeMap<[u8; 32], i64> {
        &self.people
    }

    /// What it takes: limits neither see nor count a test lead.
    pub(super) fn places(&self) -> &[Place] {
        if self.accept.lead.test { &[] } else { &self.accept.places }
    }

    pub(super) fn holds(&self) -> Vec<Held> {
        let key = self.key().map(|((source, key), _)| Held::Key(source, key));
        key.into_iter().chain(self.people.keys().map(|hash| Held::Person(*hash))).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.accept.body.len() + self.fields.len() + self.candidates.len()
    }
}

/// Our own types always serialise; should one not, the write fails like any other.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Failed(error.to_string()))
}

impl Postgres {
    pub(in crate::store) async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError> {
        let work = AcceptWork::new(accept, &self.lookup_key)?;
        match self.writer.commit(Work::Accept(Arc::new(work))).await? {
            Done::Accepted(accepted) => Ok(accepted),
            _ => Err(StoreError::Closed),
        }
    }
}

pub(super) fn decide<'a>(
    work: &'a AcceptWork,
    found: &mut Found,
    writes: &mut Writes<'a>,
) -> Result<Accepted, StoreError> {
    let accept = &work.accept;
    let lead = &*accept.lead;
    let at = lead.received_at;
    if let Some(other) = remembered(work, found, at) {
        forget_person(work, found, writes);
        return Ok(Accepted::KeyTaken(other));
    }
    match full_place(work, found) {
        Ok(None) => {}
        Ok(Some(full)) => {
            writes.is_full = true;
            forget_key(work, found, writes);
            forget_person(work, found, writes);
            return Ok(Accepted::LimitReached(full));
        }
        Err(held) => {
            forget_key(work, found, writes);
            forget_person(work, found, writes);
            return Err(held);
        }
    }
    let duplicate = is_duplicate(work, found);
    if duplicate {
        writes.leads.push((work, LeadStatus::Rejected, Some(LeadReason::Duplicate)));
        forget_person(work, found, writes);
    } else {
        writes.leads.push((work, accept.status, accept.reason));
        writes.deliveries.extend(accept.deliveries.iter().map(|new| DeliveryWrite {
            new,
            lead: lead.id.0,
            campaign: lead.campaign.as_str().to_owned(),
            source: lead.source.as_str().to_owned(),
            received_at: at.as_microsecond(),
            at: at.as_microsecond(),
        }));
        for place in work.places() {
            writes.take(found, place);
        }
        remember_person(work, found, writes);
        if let Some((contract, turn)) = &accept.turn {
            writes.turn(contract, *turn);
        }
    }
    if let Some((key, fingerprint)) = work.key()
        && found.key(&key).is_some_and(|row| row.lead != lead.id.0)
    {
        // The key of a lead that is forgotten by now.
        writes.set_keys.push(KeyWrite { key, fingerprint, lead: lead.id.0, at: at.as_microsecond() });
    }
    writes.lookups.extend(work.lookups.as_deref().map(|hashes| (number(work.day), lead.id.0, hashes)));
    Ok(if duplicate { Accepted::Duplicate } else { Accepted::Stored })
}

fn full_place(work: &AcceptWork, found: &Found) -> Result<Option<PlaceKey>, StoreError> {
    for place in work.places() {
        let used = found.used(&place.key)?;
        if place.limit.is_some_and(|limit| used >= limit) {
            return Ok(Some(place.key.clone()));
        }
    }
    Ok(None)
}

/// The lead that has its key already.
fn remembered(work: &AcceptWork, found: &Found, at: Timestamp) -> Option<Remembered> {
    let since = at.checked_sub(REMEMBER_KEYS_HOURS.hours()).map_or(i64::MIN, Timestamp::as_microsecond);
    let (key, _) = work.key()?;
    let row = found.key(&key).filter(|row| row.lead != work.accept.lead.id.0 && row.at > since)?;
    Some(Remembered { lead: LeadId(row.lead), fingerprint: row.fingerprint.as_slice().try_into().ok()? })
}

fn is_duplicate(work: &AcceptWork, found: &Found) -> bool {
    let at = work.accept.lead.received_at.as_microsecond();
    work.people.iter().any(|(hash, window)| {
        found.person(hash).is_some_and(|row| row.lead != work.accept.lead.id.0 && at.saturating_sub(row.at) < *window)
    })
}

/// Takes over the hashes of leads that are too old to count. Those that were not there are its own already, by the lock.
fn remember_person<'a>(work: &'a AcceptWork, found: &Found, writes: &mut Writes<'a>) {
    let lead = &work.accept.lead;
    let at = lead.received_at.as_microsecond();
    for (hash, window) in &work.people {
        if let Some(old) = found.person(hash).filter(|row| row.lead != lead.id.0) {
            let until = old.until.max(at.saturating_add(*window));
            writes.set_people.push((*hash, PersonRow { lead: lead.id.0, at, until }));
        }
    }
}

/// Takes its hashes back out that the lock put there.
fn forget_person(work: &AcceptWork, found: &Found, writes: &mut Writes<'_>) {
    let own = |hash: &&[u8; 32]| found.person(hash).is_some_and(|row| row.lead == work.accept.lead.id.0);
    writes.drop_people.extend(work.people.keys().filter(own));
}

/// Likewise its key: a refused post leaves none.
fn forget_key(work: &AcceptWork, found: &Found, writes: &mut Writes<'_>) {
    if let Some((key, _)) = work.key()
        && found.key(&key).is_some_and(|row| row.lead == work.accept.lead.id.0)
    {
        writes.drop_keys.push(key);
    }
}

//! Searches in PostgreSQL, by keyset.

use super::deliveries::{DELIVERY_COLUMNS, delivery_of};
use super::leads::{LEAD_COLUMNS, lead_of};
use super::lookups::stored;
use super::refusals::{REFUSAL_COLUMNS, refusal_of};
use super::{Postgres, SearchSession, rows};
use crate::model::delivery::{DeliveryState, Verdict};
use crate::model::lead::LeadStatus;
use crate::store::days::{ID_SLACK_MICROS, day_of, id_bound};
use crate::store::hashes::lookup_hash;
use crate::store::search::page;
use crate::store::{
    DeliveryRecord, DeliverySearch, LeadRecord, LeadSearch, Page, RefusalRecord, RefusalSearch, StoreError,
};
use deadpool_postgres::Object;
use jiff::Timestamp;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Ids looked up at a time.
const LOOKED_UP: usize = 1_000;

/// Conditions of a query with their values, in step.
#[derive(Default, Clone)]
pub(super) struct Where {
    sql: Vec<String>,
    values: Vec<Arc<dyn ToSql + Sync + Send>>,
}

impl Where {
    /// Keeps a value and says what it is called in the text.
    fn value(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Arc::new(value));
        format!("${}", self.values.len())
    }

    /// Adds a condition with one `?`, where there is a value.
    pub(super) fn and(&mut self, sql: &str, value: Option<impl ToSql + Sync + Send + 'static>) {
        if let Some(value) = value {
            let name = self.value(value);
            self.sql.push(sql.replace('?', &name));
        }
    }

    /// From `from` inclusive to `to` exclusive; by id too, so that nothing outside is read.
    fn and_between(&mut self, column: &str, from: Option<Timestamp>, to: Option<Timestamp>) {
        self.and(&format!("{column} >= ?"), micros(from));
        self.and(&format!("{column} < ?"), micros(to));
        self.and("id >= ?", micros(from).map(|from| id_bound(from.saturating_sub(ID_SLACK_MICROS))));
        self.and("id < ?", micros(to).map(|to| id_bound(to.saturating_add(ID_SLACK_MICROS))));
    }

    pub(super) fn clause(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!(" WHERE {}", self.sql.join(" AND ")) }
    }

    /// What a statement that ends in these conditions finds.
    async fn find<T>(
        &self,
        db: &Object,
        sql: &str,
        of: fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let values: Vec<&(dyn ToSql + Sync)> =
            self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
        // Not kept: each combination of conditions is another statement, and planned for its values.
        db.query(sql, &values).await?.iter().map(of).collect()
    }
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_microsecond)
}

fn day(at: Timestamp) -> i32 {
    i32::try_from(day_of(at)).unwrap_or(i32::MAX)
}

/// What is looked up: for each kind any of the hashes; and the days it can lie in.
struct Lookups {
    hashes: Vec<Vec<[u8; 16]>>,
    first: Option<i32>,
    last: Option<i32>,
}

impl Postgres {
    /// Searches to the end, though whoever asked may have gone: a session that is still busy must not be given to the next
    /// who reads.
    async fn search<T, F>(&self, work: impl FnOnce(SearchSession) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let session = self.search_session().await?;
        tokio::spawn(work(session)).await.map_err(|_| StoreError::Failed("a search broke off".to_owned()))?
    }

    pub(in crate::store) async fn find_leads(&self, search: LeadSearch) -> Result<Page<LeadRecord>, StoreError> {
        let hashes = search
            .lookups
            .iter()
            .map(|(kind, values)| values.iter().map(|value| lookup_hash(&self.lookup_key, kind, value)).collect())
            .collect();
        // A lead is looked up in the day it was received.
        let lookups = Lookups { hashes, first: search.from.map(day), last: search.to.map(day) };
        let mut conditions = Where::default();
        conditions.and("source = ?", search.source.map(|id| id.as_str().to_owned()));
        conditions.and("campaign = ?", search.campaign.map(|id| id.as_str().to_owned()));
        conditions.and("status = ?", search.status.map(LeadStatus::as_str));
        conditions.and("test = ?", search.test);
        conditions.and_between("received_at", search.from, search.to);
        let select = format!("SELECT {LEAD_COLUMNS} FROM lead");
        self.search(async move |db| {
            let items = newest(&db, &select, &conditions, &lookups, search.cursor, search.limit, lead_of).await?;
            Ok(page(items, search.limit, |record| record.lead.id.0))
        })
        .await
    }

    pub(in crate::store) async fn find_deliveries(
        &self,
        search: DeliverySearch,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let hashes = search
            .reference
            .iter()
            .map(|reference| vec![lookup_hash(&self.lookup_key, "reference", reference)])
            .collect();
        // A reference comes with a reply, on the delivery's first day or any later one.
        let lookups = Lookups { hashes, first: search.from.map(day), last: None };
        let conditions = delivery_conditions(&search);
        let select = format!("SELECT {DELIVERY_COLUMNS} FROM delivery");
        self.search(async move |db| {
            let items = newest(&db, &select, &conditions, &lookups, search.cursor, search.limit, delivery_of).await?;
            Ok(page(items, search.limit, |record| record.delivery.id.0))
        })
        .await
    }

    pub(in crate::store) async fn find_refusals(
        &self,
        search: RefusalSearch,
    ) -> Result<Page<RefusalRecord>, StoreError> {
        let mut conditions = Where::default();
        conditions.and("id < ?", search.cursor);
        conditions.and("id = ?", search.request_id.map(|id| id.0));
        conditions.and("source = ?", search.source.as_ref().map(|id| id.as_str().to_owned()));
        conditions.and("at >= ?", micros(search.from));
        conditions.and("at < ?", micros(search.to));
        // So that no other days are read.
        conditions.and("day >= ?", search.from.map(day));
        conditions.and("day <= ?", search.to.map(day));
        let sql = refusals_sql(&conditions, search.limit as usize + 1);
        self.search(async move |db| {
            let items = conditions.find(&db, &sql, refusal_of).await?;
            Ok(page(items, search.limit, |record| record.request_id.0))
        })
        .await
    }
}

fn delivery_conditions(search: &DeliverySearch) -> Where {
    let mut conditions = Where::default();
    conditions.and("lead = ?", search.lead.map(|id| id.0));
    conditions.and("partner = ?", search.partner.as_ref().map(|id| id.as_str().to_owned()));
    conditions.and("contract = ?", search.contract.as_ref().map(|id| id.as_str().to_owned()));
    conditions.and("campaign = ?", search.campaign.as_ref().map(|id| id.as_str().to_owned()));
    conditions.and("source = ?", search.source.as_ref().map(|id| id.as_str().to_owned()));
    match search.state {
        // Said in the text, so that their indexes serve: they are few among many.
        Some(few @ (DeliveryState::Sending | DeliveryState::Unknown)) => {
            conditions.sql.push(format!("state = '{few}'"));
        }
        state => conditions.and("state = ?", state.map(DeliveryState::as_str)),
    }
    conditions.and("verdict = ?", search.verdict.map(Verdict::as_str));
    conditions.and(
        "position(lower(?) in lower(reason)) > 0",
        search.reason.as_deref().map(|reason| rows::text(reason).into_owned()),
    );
    conditions.and(
        "EXISTS (SELECT 1 FROM attempt WHERE attempt.delivery = delivery.id AND attempt.number = delivery.attempt_count
                 AND attempt.status_code = ?)",
        search.status_code.map(i32::from),
    );
    if let Some((held, shut)) = &search.held {
        let shut: Vec<String> = shut.iter().map(|id| id.as_str().to_owned()).collect();
        let (now, shut) = (conditions.value(search.now.as_microsecond()), conditions.value(shut));
        conditions.sql.push(if *held {
            format!("state = 'queued' AND (due_at IS NULL OR due_at <= {now}) AND contract = ANY({shut})")
        } else {
            // Not queued, not yet due, or at an open gate.
            format!("(state <> 'queued' OR due_at > {now} OR contract <> ALL({shut}))")
        });
    }
    conditions.and_between("created_at", search.from, search.to);
    conditions
}

pub(super) fn refusals_sql(conditions: &Where, limit: usize) -> String {
    format!("SELECT {REFUSAL_COLUMNS} FROM refusal{} ORDER BY id DESC LIMIT {limit}", conditions.clause())
}

/// One more than `limit` of the rows below `cursor`, newest first; where there are `lookups`, of those looked up.
async fn newest<T>(
    db: &Object,
    select: &str,
    conditions: &Where,
    lookups: &Lookups,
    cursor: Option<Uuid>,
    limit: u32,
    of: fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let wanted = limit as usize + 1;
    let (mut items, mut below) = (Vec::new(), cursor);
    loop {
        let mut conditions = conditions.clone();
        let mut last = None;
        if lookups.hashes.is_empty() {
            conditions.and("id < ?", below);
        } else {
            let found = looked_up(db, lookups, below).await?;
            last = found.last().copied().filter(|_| found.len() >= LOOKED_UP);
            conditions.and("id = ANY(?)", Some(found));
        }
        let sql = format!("{select}{} ORDER BY id DESC LIMIT {}", conditions.clause(), wanted - items.len());
        items.extend(conditions.find(db, &sql, of).await?);
        // The other conditions may have left little of what was looked up: then look further.
        let (Some(last), true) = (last, items.len() < wanted) else { return Ok(items) };
        below = Some(last);
    }
}

/// The newest ids below `below` that are found under a hash of each of the look-ups, newest first; at most [`LOOKED_UP`].
async fn looked_up(db: &Object, lookups: &Lookups, below: Option<Uuid>) -> Result<Vec<Uuid>, StoreError> {
    let (conditions, sql) = lookup_sql(lookups, below);
    if sql.is_empty() {
        return Ok(Vec::new());
    }
    conditions.find(db, &sql, |row| Ok(row.try_get(0)?)).await
}

/// One index has all the hashes of a lead together. What an older version wrote has a row for each, and parts of its own:
/// there each partition's key begins with the hash and goes on with the id, and a part for each hash lets PostgreSQL know of
/// each how frequent it is. Empty where there is nothing to look for.
fn lookup_sql(lookups: &Lookups, below: Option<Uuid>) -> (Where, String) {
    let mut conditions = Where::default();
    let Some((any, others)) = lookups.hashes.split_first().filter(|(any, _)| !any.is_empty()) else {
        return (conditions, String::new());
    };
    conditions.and("id < ?", below);
    conditions.and("day >= ?", lookups.first);
    conditions.and("day <= ?", lookups.last);
    let common = match conditions.sql.join(" AND ") {
        none if none.is_empty() => none,
        all => format!(" AND {all}"),
    };
    let newest = format!("ORDER BY id DESC LIMIT {LOOKED_UP}");

    let mut of_each = Vec::new();
    for any in &lookups.hashes {
        let any: Vec<Uuid> = any.iter().copied().map(stored).collect();
        of_each.push(format!("hashes && {}", conditions.value(any)));
    }
    let mut parts = vec![format!("(SELECT id FROM found_by WHERE {}{common} {newest})", of_each.join(" AND "))];

    let mut common = common;
    for others in others {
        let others: Vec<Vec<u8>> = others.iter().map(|hash| hash.to_vec()).collect();
        // All that a lead is looked up by lies in one day's partition.
        let _ = write!(
            common,
            " AND EXISTS (SELECT 1 FROM lookup other WHERE other.day = lookup.day AND other.id = lookup.id AND other.hash = ANY({}))",
            conditions.value(others)
        );
    }
    for hash in any {
        let hash = conditions.value(hash.to_vec());
        parts.push(format!("(SELECT id FROM lookup WHERE hash = {hash}{common} {newest})"));
    }
    let sql = format!("SELECT DISTINCT id FROM ({}) found {newest}", parts.join(" UNION ALL "));
    (conditions, sql)
}

//! The second round trip of a commit: what the decisions write, one statement for each table and kind, and COMMIT.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

use super::accept::AcceptWork;
use super::found::{Found, Patience, PersonRow};
use super::mark::Mark;
use super::rows::text;
use super::statements::Statements;
use super::step::StepWork;
use crate::clock;
use crate::model::delivery::Verdict;
use crate::model::id::ContractId;
use crate::model::lead::{LeadReason, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::store::days::day_of;
use crate::store::fleet::Member;
use crate::store::{Audit, ExchangeRecord, NewDelivery, RefusalRecord, StartAttempt, Step};
use jiff::Timestamp;

/// A new delivery with what it has from its lead.
pub(super) struct DeliveryWrite<'a> {
    pub(super) new: &'a NewDelivery,
    pub(super) lead: Uuid,
    pub(super) campaign: String,
    pub(super) source: String,
    pub(super) received_at: i64,
    pub(super) at: i64,
}

/// A lead that moves on; `None`: only its version is counted up.
pub(super) struct LeadWrite {
    pub(super) lead: Uuid,
    pub(super) moved: Option<(LeadStatus, Option<LeadReason>)>,
}

/// An idempotency key with its source, and whose it is from now on.
pub(super) struct KeyWrite<'a> {
    pub(super) key: (String, String),
    pub(super) fingerprint: &'a [u8; 32],
    pub(super) lead: Uuid,
    pub(super) at: i64,
}

/// One captured exchange.
pub(super) struct ExchangeWrite<'a> {
    pub(super) delivery: Uuid,
    pub(super) number: i32,
    pub(super) part: i16,
    pub(super) day: i32,
    pub(super) record: &'a ExchangeRecord,
}

/// How a count changes.
#[derive(Clone, Copy)]
struct CountWrite {
    change: i64,
    /// Places taken, without those given back.
    taken: i64,
    /// The lowest of the limits that these were taken under.
    cap: i64,
}

/// What a commit writes, by table.
pub(super) struct Writes<'a> {
    member: &'a Member,
    pub(super) leads: Vec<(&'a AcceptWork, LeadStatus, Option<LeadReason>)>,
    pub(super) deliveries: Vec<DeliveryWrite<'a>>,
    pub(super) set_keys: Vec<KeyWrite<'a>>,
    pub(super) drop_keys: Vec<(String, String)>,
    pub(super) set_people: Vec<([u8; 32], PersonRow)>,
    pub(super) drop_people: Vec<[u8; 32]>,
    /// What new leads are looked up by: day, id and hashes.
    pub(super) lookups: Vec<(i32, Uuid, &'a str)>,
    /// Likewise deliveries, by the reference that the partner gave.
    pub(super) references: Vec<(i32, Uuid, &'a str)>,
    pub(super) starts: Vec<&'a StartAttempt>,
    pub(super) steps: Vec<&'a Step>,
    pub(super) ends: Vec<&'a StepWork>,
    pub(super) exchanges: Vec<ExchangeWrite<'a>>,
    pub(super) moves: Vec<LeadWrite>,
    pub(super) audit: Vec<(&'a Audit, Timestamp)>,
    pub(super) refusals: Vec<&'a RefusalRecord>,
    places: BTreeMap<PlaceKey, CountWrite>,
    /// A place was refused, for its count is at the limit.
    pub(super) is_full: bool,
    turns: BTreeMap<ContractId, u64>,
}

/// The values of a statement.
pub(super) type Values<'v> = &'v [&'v (dyn ToSql + Sync)];

/// Writes so many rows, if there are any. The statement is sent when this is first polled.
async fn write(client: &Client, rows: usize, statement: &Statement, values: Values<'_>) -> Result<(), Error> {
    if rows == 0 { Ok(()) } else { client.execute(statement, values).await.map(drop) }
}

/// A column of the rows.
fn column<'r, R, T>(rows: &'r [R], of: impl FnMut(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

impl<'a> Writes<'a> {
    /// Nothing yet, by `member`.
    pub(super) fn of(member: &'a Member) -> Self {
        Self {
            member,
            leads: Vec::new(),
            deliveries: Vec::new(),
            set_keys: Vec::new(),
            drop_keys: Vec::new(),
            set_people: Vec::new(),
            drop_people: Vec::new(),
            lookups: Vec::new(),
            references: Vec::new(),
            starts: Vec::new(),
            steps: Vec::new(),
            ends: Vec::new(),
            exchanges: Vec::new(),
            moves: Vec::new(),
            audit: Vec::new(),
            refusals: Vec::new(),
            places: BTreeMap::new(),
            is_full: false,
            turns: BTreeMap::new(),
        }
    }

    /// Whose commit it is.
    pub(super) fn token(&self) -> Uuid {
        self.member.token
    }

    /// Takes a place; written once per commit, however many jobs touch it.
    pub(super) fn take(&mut self, found: &mut Found, place: &Place) {
        let count = self.count(found, &place.key, 1);
        count.taken += 1;
        count.cap = count.cap.min(place.limit.map_or(i64::MAX, signed));
    }

    /// Gives a place back.
    pub(super) fn give_back(&mut self, found: &mut Found, key: &PlaceKey) {
        self.count(found, key, -1);
    }

    fn count(&mut self, found: &mut Found, key: &PlaceKey, by: i64) -> &mut CountWrite {
        found.count(key, by);
        let count = self.places.entry(key.clone()).or_insert(CountWrite { change: 0, taken: 0, cap: i64::MAX });
        count.change += by;
        count
    }

    /// A contract had its turn.
    pub(super) fn turn(&mut self, contract: &ContractId, turn: u64) {
        let last = self.turns.entry(contract.clone()).or_insert(turn);
        *last = (*last).max(turn);
    }

    /// The days of what was written to be looked up, one for each row.
    pub(super) fn looked_up(&self) -> impl Iterator<Item = i32> {
        self.lookups.iter().chain(&self.references).map(|row| row.0)
    }

    /// Sends all of it and COMMIT behind it.
    ///
    /// # Errors
    /// With the error of a statement, when nothing was done; without one, when nobody can say.
    pub(super) async fn commit(
        &self,
        client: &Client,
        statements: &Statements,
        patience: Patience,
        mark: Mark,
    ) -> Result<(), Option<Error>> {
        let s = statements;
        let results = in_order(vec![
            Box::pin(self.insert_leads(client, s)),
            Box::pin(self.insert_deliveries(client, s)),
            Box::pin(self.set_keys(client, s)),
            Box::pin(self.drop_keys(client, s)),
            Box::pin(self.set_people(client, s)),
            Box::pin(self.drop_people(client, s)),
            Box::pin(self.start_attempts(client, s)),
            Box::pin(self.change_deliveries(client, s)),
            Box::pin(self.end_attempts(client, s)),
            Box::pin(self.move_leads(client, s)),
            Box::pin(self.insert_audit(client, s)),
            Box::pin(self.insert_refusals(client, s)),
            Box::pin(self.lock_counts(client, s, patience)),
            Box::pin(self.set_turns(client, s)),
            Box::pin(self.count_and_leave(client, s, patience, mark)),
            Box::pin(client.batch_execute("COMMIT")),
        ])
        .await;
        let (mut results, mut cause) = (results, None);
        let commit = results.pop().unwrap_or(Ok(()));
        for failed in results.into_iter().filter_map(Result::err) {
            if failed.as_db_error().is_none() {
                return Err(None);
            }
            // Those behind the first one only say that the transaction has failed.
            cause = cause.or(Some(failed));
        }
        match (cause, commit) {
            (None, Ok(())) => Ok(()),
            // The server answered them all: a COMMIT behind a failed statement rolls back.
            (Some(cause), Ok(())) => Err(Some(cause)),
            (_, Err(_)) => Err(None),
        }
    }

    async fn insert_leads(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.leads;
        let values: Values<'_> = &[
            &column(rows, |(work, ..)| work.accept.lead.id.0),
            &column(rows, |(work, ..)| work.accept.lead.campaign.as_str()),
            &column(rows, |(work, ..)| work.accept.lead.source.as_str()),
            &column(rows, |(_, status, _)| status.as_str()),
            &column(rows, |(_, _, reason)| reason.map(LeadReason::as_str)),
            &column(rows, |(work, ..)| work.accept.lead.test),
            &column(rows, |(work, ..)| work.accept.lead.received_at.as_microsecond()),
            &column(rows, |(work, ..)| work.accept.payout.map(|amount| amount.0)),
            &column(rows, |(work, ..)| work.fields.as_str()),
            &column(rows, |(work, ..)| work.meta.as_str()),
            &column(rows, |(work, ..)| work.candidates.as_str()),
            &column(rows, |(work, ..)| text(&work.accept.content_type)),
            &column(rows, |(work, ..)| &work.accept.body[..]),
            &column(rows, |(work, ..)| work.accept.request.0),
            &column(&self.lookups, |row| row.0),
            &column(&self.lookups, |row| row.1),
            &column(&self.lookups, |row| row.2),
        ];
        write(client, rows.len(), &s.insert_leads, values).await
    }

    async fn insert_deliveries(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.deliveries;
        let values: Values<'_> = &[
            &column(rows, |row| row.new.id.0),
            &column(rows, |row| row.lead),
            &column(rows, |row| row.campaign.as_str()),
            &column(rows, |row| row.source.as_str()),
            &column(rows, |row| row.new.partner.as_str()),
            &column(rows, |row| row.new.contract.as_str()),
            &column(rows, |row| row.received_at),
            &column(rows, |row| row.new.state.as_str()),
            &column(rows, |row| row.new.waits),
            &column(rows, |row| row.new.reason.as_deref().map(text)),
            &column(rows, |row| row.new.price.map(|amount| amount.0)),
            &column(rows, |row| row.new.redelivery_of.map(|id| id.0)),
            &column(rows, |row| row.new.bypass_limits),
            &column(rows, |row| row.at),
            &self.member.token,
        ];
        write(client, rows.len(), &s.insert_deliveries, values).await
    }

    async fn set_keys(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.set_keys;
        let values: Values<'_> = &[
            &column(rows, |row| row.key.0.as_str()),
            &column(rows, |row| row.key.1.as_str()),
            &column(rows, |row| row.fingerprint.as_slice()),
            &column(rows, |row| row.lead),
            &column(rows, |row| row.at),
        ];
        write(client, rows.len(), &s.set_keys, values).await
    }

    async fn drop_keys(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.drop_keys;
        let values: Values<'_> = &[&column(rows, |row| row.0.as_str()), &column(rows, |row| row.1.as_str())];
        write(client, rows.len(), &s.drop_keys, values).await
    }

    async fn set_people(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.set_people;
        let values: Values<'_> = &[
            &column(rows, |row| row.0.as_slice()),
            &column(rows, |row| row.1.lead),
            &column(rows, |row| row.1.at),
            &column(rows, |row| row.1.until),
        ];
        write(client, rows.len(), &s.set_people, values).await
    }

    async fn drop_people(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.drop_people;
        write(client, rows.len(), &s.drop_people, &[&column(rows, <[u8; 32]>::as_slice)]).await
    }

    async fn start_attempts(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.starts;
        // The end of the lease by the sender's own measure, for whoever looks into a takeover later.
        let now = clock::uptime();
        let lease = self.member.until.map(|until| micros(now.until(until)));
        let values: Values<'_> = &[
            &column(rows, |row| row.delivery.0),
            &column(rows, |row| number(row.number)),
            &column(rows, |row| row.started_at.as_microsecond()),
            &column(rows, |row| {
                let deadline = row.deadline.as_microsecond();
                lease.map_or(deadline, |left| row.started_at.as_microsecond().saturating_add(left).min(deadline))
            }),
            &column(rows, |row| row.deadline.as_microsecond()),
            &column(rows, |row| {
                let keys: Vec<&str> = row.places.iter().map(|place| place.key.as_str()).collect();
                keys.join("\n")
            }),
            &column(rows, |row| signed(row.held_ms)),
            &self.member.token,
        ];
        write(client, rows.len(), &s.start_attempts, values).await
    }

    async fn change_deliveries(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.steps;
        let values: Values<'_> = &[
            &column(rows, |row| row.delivery.0),
            &column(rows, |row| row.change.state.as_str()),
            &column(rows, |row| row.change.verdict.map(Verdict::as_str)),
            &column(rows, |row| row.change.reason.as_deref().map(text)),
            &column(rows, |row| row.change.price.map(|amount| amount.0)),
            &column(rows, |row| row.change.reference.as_deref().map(text)),
            &column(rows, |row| row.change.redirect_url.as_deref().map(text)),
            &column(rows, |row| row.change.due_at.map(Timestamp::as_microsecond)),
            &column(rows, |row| row.change.unknown),
            &column(rows, |row| row.change.give_back),
            &column(rows, |row| row.at.as_microsecond()),
        ];
        write(client, rows.len(), &s.change_deliveries, values).await
    }

    async fn end_attempts(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows: Vec<_> =
            self.ends.iter().filter_map(|work| work.step.attempt.as_ref().map(|end| (*work, end))).collect();
        let kept = &self.exchanges;
        let response = |row: &ExchangeWrite<'a>| row.record.response.as_ref();
        let values: Values<'_> = &[
            &column(&rows, |(work, _)| work.step.delivery.0),
            &column(&rows, |(_, end)| number(end.number)),
            &column(&rows, |(work, _)| work.step.at.as_microsecond()),
            &column(&rows, |(_, end)| end.verdict.as_str()),
            &column(&rows, |(_, end)| end.class.as_str()),
            &column(&rows, |(_, end)| end.status_code.map(i32::from)),
            &column(&rows, |(_, end)| end.latency_ms.map(i64::from)),
            &column(&rows, |(work, _)| work.explanation.as_deref()),
            &column(&rows, |(work, _)| work.timings.as_deref()),
            &column(&rows, |(work, end)| end.exchange.as_ref().map(|_| number(work.day))),
            &column(kept, |row| row.day),
            &column(kept, |row| row.delivery),
            &column(kept, |row| row.number),
            &column(kept, |row| row.part),
            &column(kept, |row| text(&row.record.request.head)),
            &column(kept, |row| row.record.request.body.as_slice()),
            &column(kept, |row| row.record.request.truncated),
            &column(kept, |row| response(row).map(|message| text(&message.head))),
            &column(kept, |row| response(row).map(|message| message.body.as_slice())),
            &column(kept, |row| response(row).is_some_and(|message| message.truncated)),
        ];
        write(client, rows.len(), &s.end_attempts, values).await
    }

    async fn move_leads(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.moves;
        let values: Values<'_> = &[
            &column(rows, |row| row.lead),
            &column(rows, |row| row.moved.is_some()),
            &column(rows, |row| row.moved.map(|(status, _)| status.as_str())),
            &column(rows, |row| row.moved.and_then(|(_, reason)| reason).map(LeadReason::as_str)),
            &column(&self.references, |row| row.0),
            &column(&self.references, |row| row.1),
            &column(&self.references, |row| row.2),
        ];
        write(client, rows.len(), &s.move_leads, values).await
    }

    async fn insert_audit(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.audit;
        let values: Values<'_> = &[
            &column(rows, |(_, at)| at.as_microsecond()),
            &column(rows, |(act, _)| text(&act.who)),
            &column(rows, |(act, _)| act.action),
            &column(rows, |(act, _)| text(&act.subject)),
            &column(rows, |(act, _)| act.reason.as_deref().map(text)),
        ];
        write(client, rows.len(), &s.insert_audit, values).await
    }

    async fn insert_refusals(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let rows = &self.refusals;
        let values: Values<'_> = &[
            &column(rows, |row| number(day_of(row.at))),
            &column(rows, |row| row.request_id.0),
            &column(rows, |row| row.source.as_str()),
            &column(rows, |row| text(&row.campaign)),
            &column(rows, |row| row.at.as_microsecond()),
            &column(rows, |row| text(&row.request.head)),
            &column(rows, |row| row.request.body.as_slice()),
            &column(rows, |row| row.request.truncated),
            &column(rows, |row| i32::from(row.status)),
            &column(rows, |row| text(&row.answer)),
        ];
        write(client, rows.len(), &s.insert_refusals, values).await
    }

    /// The counts that change.
    fn counts(&self) -> Vec<(&str, CountWrite)> {
        let counts = self.places.iter().map(|(key, count)| (key.as_str(), *count));
        counts.filter(|(_, count)| count.change != 0 || count.taken != 0).collect()
    }

    /// Locks them, where that was not done before the decisions, in the order that everybody keeps.
    async fn lock_counts(&self, client: &Client, s: &Statements, patience: Patience) -> Result<(), Error> {
        let counts = self.counts();
        let rows = if patience == Patience::Trusts { counts.len() } else { 0 };
        write(client, rows, &s.lock_places, &[&column(&counts, |(key, _)| *key)]).await
    }

    async fn count_and_leave(
        &self,
        client: &Client,
        s: &Statements,
        patience: Patience,
        mark: Mark,
    ) -> Result<(), Error> {
        let counts = self.counts();
        if counts.is_empty() {
            return write(client, 1, &s.leave_mark, &[&mark.link, &mark.mark]).await;
        }
        let taken = counts.iter().filter(|(_, count)| count.taken > 0).count();
        let values: Values<'_> = &[
            &mark.link,
            &mark.mark,
            &column(&counts, |(key, _)| *key),
            &column(&counts, |(_, count)| count.change),
            &column(&counts, |(_, count)| count.taken),
            // Locked before they were read, they were decided upon one by one.
            &column(&counts, |(_, count)| if patience == Patience::Trusts { count.cap } else { i64::MAX }),
            &i64::try_from(taken).unwrap_or(i64::MAX),
        ];
        write(client, counts.len(), &s.count_and_leave_mark, values).await
    }

    async fn set_turns(&self, client: &Client, s: &Statements) -> Result<(), Error> {
        let (contracts, turns): (Vec<&str>, Vec<i64>) =
            self.turns.iter().map(|(contract, turn)| (contract.as_str(), signed(*turn))).unzip();
        write(client, contracts.len(), &s.set_turns, &[&contracts, &turns]).await
    }
}

type Writing<'w> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'w>>;

/// Polls them all, the first first; so they are sent in this order, and together.
async fn in_order(mut writings: Vec<Writing<'_>>) -> Vec<Result<(), Error>> {
    let mut results: Vec<Option<Result<(), Error>>> = writings.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (writing, result) in writings.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(done) = writing.as_mut().poll(context)
            {
                *result = Some(done);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// A number of the model as PostgreSQL keeps it.
pub(super) fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A count of the model as PostgreSQL keeps it.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn micros(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

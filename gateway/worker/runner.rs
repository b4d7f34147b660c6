//! A contract's runner: takes the first of its queue when permit, pace, breaker and gate let it, and hands it to the
//! pipeline. While the contract is shut it passes waiting deliveries over as the contract says, ends those that have
//! waited too long, and sleeps until the next opening, the next retry, or the bell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::fresh::{Fresh, Memory};
use super::queue::Queue;
use super::window::{Item, Which};
use crate::directory::ContractEntry;
use crate::gate::{Answer, Shut, Ticket};
use crate::model::delivery::ShutReason;
use crate::model::id::DeliveryId;
use crate::pipeline::{Attempted, Go, Lane, Permit, Pipeline, Space};
use crate::routing::advance::{AtShut, Terms};
use crate::store::{Loaded, QueueKey, Queued, StoreError};
use crate::tasks;
use crate::telemetry;

/// How long to wait after the store or the gate could not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(250);
/// How long to wait for a network that has the contract.
const NOT_IN_FORCE_PAUSE: Duration = Duration::from_secs(5);
/// How long to wait for room among all attempts, unless one of the contract's own ends before.
const CROWDED_PAUSE: Duration = Duration::from_millis(200);
/// How long a contract that opens has its turn at most.
const OPENING_TAKES: Duration = Duration::from_millis(250);
/// How many deliveries are started before other tasks have their turn.
const IN_ONE_GO: u32 = 64;
/// How many of a contract ask a shared gate at the same time.
const AT_THE_GATE: usize = 16;
/// An idle runner looks at its queue at least this often, whatever the bell says.
const AT_LEAST_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Runner {
    queue: Arc<Queue>,
    pipeline: Arc<Pipeline>,
    tasks: TaskTracker,
    stop: watch::Receiver<bool>,
    /// The present hold, while the contract is shut.
    hold: Option<Hold>,
    /// Whether it has been open since this runner started.
    seen_open: bool,
    /// Who may open at the same time as others: see [`super::OPENINGS`].
    openings: Arc<Semaphore>,
    memory: Memory,
    /// Its turn to open.
    opening: Option<OwnedSemaphorePermit>,
}

/// A time during which the contract is shut.
struct Hold {
    since: Timestamp,
    /// The runner has not seen the contract open: what was made to wait here may have waited since before it started.
    from_start: bool,
    /// How far what lies in the store behind the window has been looked through for deliveries to pass over.
    swept: Sweep,
    /// When the store last confirmed that it is full.
    confirmed: Option<Timestamp>,
}

/// How far a sweep has come.
#[derive(Clone, Copy)]
enum Sweep {
    /// Up to here; `None`: not begun.
    After(Option<QueueKey>),
    Done,
}

impl Sweep {
    /// So that what was received then is looked at, too.
    fn back_to(self, received_at: Timestamp) -> Self {
        let before = received_at.checked_sub(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MIN);
        match self {
            Self::After(None) => Self::After(None),
            Self::After(Some((so_far, id))) if so_far < received_at => Self::After(Some((so_far, id))),
            Self::After(Some(_)) | Self::Done => Self::After(Some((before, DeliveryId(uuid::Uuid::max())))),
        }
    }
}

/// When to look at the queue again.
enum Next {
    /// At once.
    Again,
    /// Then, or at the bell; `None`: at the bell.
    SleepUntil(Option<Timestamp>),
    /// After a pause, whatever the bell says.
    Pause(Duration),
    /// At the bell, and soon in any case.
    Soon,
    /// When it is its turn to open.
    Opening,
    /// When the store takes writes again.
    StoreIsWell,
}

impl Runner {
    pub(super) fn new(
        queue: Arc<Queue>,
        pipeline: Arc<Pipeline>,
        tasks: TaskTracker,
        stop: watch::Receiver<bool>,
        openings: Arc<Semaphore>,
        memory: Memory,
    ) -> Self {
        queue.shut(false);
        Self { queue, pipeline, tasks, stop, hold: None, seen_open: false, openings, memory, opening: None }
    }

    pub(super) async fn run(mut self) {
        let mut in_one_go = 0;
        while !*self.stop.borrow() {
            let next = self.look().await.unwrap_or_else(|error| {
                tracing::warn!(contract.id = %self.queue.contract, store.error = %error, "deliveries wait for the store");
                Next::Pause(TROUBLE_PAUSE)
            });
            // Where it came to no attempt, others may open.
            self.opening = None;
            match next {
                // Others have their turn only now and then: to come back from it takes longer the more there is to do.
                Next::Again if in_one_go < IN_ONE_GO => in_one_go += 1,
                Next::Again => {
                    in_one_go = 0;
                    tokio::task::yield_now().await;
                }
                Next::SleepUntil(until) => self.sleep(until).await,
                Next::Pause(pause) => {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                }
                Next::Soon => {
                    tokio::select! {
                        () = self.queue.woken() => {}
                        () = tokio::time::sleep(CROWDED_PAUSE) => {}
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                }
                Next::Opening => {
                    let turn = Arc::clone(&self.openings).acquire_owned();
                    tokio::select! {
                        turn = turn => self.opening = turn.ok(),
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                }
                Next::StoreIsWell => {
                    tokio::select! {
                        () = self.pipeline.store.well() => {}
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                }
            }
        }
    }

    async fn sleep(&mut self, until: Option<Timestamp>) {
        let clock = &self.pipeline.clock;
        let at_least = after(clock.now(), AT_LEAST_EVERY);
        tokio::select! {
            () = self.queue.woken() => {}
            () = clock.sleep_until(until.unwrap_or(at_least).min(at_least)) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Does the one thing that is to be done now.
    async fn look(&mut self) -> Result<Next, StoreError> {
        if self.pipeline.store.trouble().is_some() {
            // Nothing can be sent without its commit. To try it would take permits, pace and tickets for nothing.
            return Ok(Next::StoreIsWell);
        }
        let now = self.pipeline.clock.now();
        if self.refill(now).await? {
            return Ok(Next::Again);
        }
        let (first, next_due) = {
            let mut window = self.queue.window();
            window.mature(now);
            (window.first().map(|item| item.queued.clone()), window.next_due())
        };
        let Some(first) = first else {
            self.hold = None;
            self.queue.shut(false);
            return Ok(Next::SleepUntil(next_due));
        };
        let network = self.pipeline.directory.network();
        let Some(entry) = network.contract(&self.queue.contract).cloned() else {
            if self.pipeline.store.has_contract(&self.queue.contract).await? {
                // Only this gateway cannot use it yet, and has taken over from one that could.
                tracing::warn!(contract.id = %self.queue.contract, "deliveries wait: the newest network is not in force here");
                return Ok(Next::Pause(NOT_IN_FORCE_PAUSE));
            }
            return self.work_off(vec![Ending::Orphaned(first)]).await;
        };
        match self.pipeline.shut(&entry, now).await {
            None => {
                if (self.hold.is_some() || !self.seen_open) && self.opening.is_none() {
                    return Ok(Next::Opening);
                }
                self.opened(now);
                self.start(&entry, first, now, next_due).await
            }
            Some(shut) => match self.passing_limits() {
                Some(queued) if shut.reason == ShutReason::Full => self.start(&entry, queued, now, next_due).await,
                _ => self.wait(&entry, &shut, now, next_due).await,
            },
        }
    }

    /// What goes past those that wait at a limit: a person's bypass, or one that has its place from an unknown attempt.
    fn passing_limits(&self) -> Option<Queued> {
        let window = self.queue.window();
        let bypass = window.ready().find(|item| item.queued.bypass_limits);
        bypass.or_else(|| window.ready().find(|item| item.queued.had_unknown)).map(|item| item.queued.clone())
    }

    /// Reads the next page of the store if the window needs it.
    async fn refill(&self, now: Timestamp) -> Result<bool, StoreError> {
        let Some(refill) = self.queue.window().wants() else { return Ok(false) };
        let limit = u32::try_from(refill.limit).unwrap_or(u32::MAX);
        let contract = self.queue.contract.clone();
        let page = match refill.which {
            Which::Ready => self.pipeline.store.ready_page(contract, refill.after, now, limit).await?,
            Which::Due => self.pipeline.store.due_page(contract, refill.after, limit).await?,
        };
        // What is about to go is read with its leads, as far as there is room for them.
        let is_going = refill.which == Which::Ready && self.seen_open && self.hold.is_none();
        let room = if is_going { self.memory.room(true) } else { 0 };
        let mut loaded = match page.get(..page.len().min(room)) {
            None | Some([]) => HashMap::new(),
            // Each is read by itself, then: one that cannot be read does not hold up the others.
            Some(going) => self.pipeline.store.load(going).await.unwrap_or_else(|error| {
                tracing::warn!(contract.id = %self.queue.contract, store.error = %error, "a page was read without its leads");
                HashMap::new()
            }),
        };
        let items = page.into_iter().map(|queued| {
            let found = loaded.remove(&queued.id);
            let lead = found.and_then(|Loaded { record, lead }| self.memory.keep(lead, Some(Box::new(record))));
            Item { lead, ..Item::stored(queued) }
        });
        self.queue.window().fill(refill, items.collect());
        Ok(true)
    }

    /// Starts a delivery if it may go: with a permit, at its pace, with the gate's ticket.
    async fn start(
        &mut self,
        entry: &Arc<ContractEntry>,
        queued: Queued,
        now: Timestamp,
        next_due: Option<Timestamp>,
    ) -> Result<Next, StoreError> {
        let lane = self.pipeline.lanes.lane(entry);
        match lane.space() {
            Space::Free => {}
            // One that comes free rings the bell.
            Space::Full => return Ok(Next::SleepUntil(next_due)),
            Space::Crowded => return Ok(Next::Soon),
        }
        let owned = if queued.had_unknown && !queued.bypass_limits {
            Some(self.pipeline.places_of(queued.id).await?)
        } else {
            None
        };
        if let Err(pause) = lane.pace() {
            return Ok(Next::SleepUntil([Some(after(now, pause)), next_due].into_iter().flatten().min()));
        }
        // None while the breaker's one probe is out: its end rings the bell, too.
        let Some(permit) = lane.permit(now) else { return Ok(Next::SleepUntil(next_due)) };
        let gate = &self.pipeline.gate;
        let others = self.others(entry, &lane, &queued, now);
        let answers = match &owned {
            Some(owned) => vec![gate.take_again(&entry.contract.id, now, owned).await],
            None if others.is_empty() => vec![gate.take(&entry.contract.id, now, queued.bypass_limits).await],
            None => {
                let asked = (0..=others.len()).map(|_| gate.take(&entry.contract.id, now, false));
                tasks::all(asked.collect()).await
            }
        };
        let (mut tickets, mut shut, mut unavailable) = (Vec::new(), None, None);
        for answer in answers {
            match answer {
                Ok(Answer::Open(ticket)) => tickets.push(ticket),
                Ok(Answer::Shut(said)) => shut = Some(said),
                Err(error) => unavailable = Some(error),
            }
        }
        let some_may_go = !tickets.is_empty();
        // A ticket is good for any of those that asked together: they go in their order, whosever answer was the better.
        let mut tickets = tickets.into_iter();
        for (queued, permit) in std::iter::once((queued, permit)).chain(others) {
            let Some(ticket) = tickets.next() else {
                permit.unused(now);
                continue;
            };
            telemetry::gate_answered(&entry.counts, entry.contract.id.as_str(), "open");
            let item = self.queue.window().take(&queued);
            if let Some(mut item) = item {
                item.release(now);
                self.attempt(item, entry, ticket, permit);
            } else {
                self.pipeline.not_started(entry, &ticket, permit, &[]);
            }
        }
        if let Some(unavailable) = unavailable {
            tracing::warn!(contract.id = %entry.contract.id, gate.error = %unavailable, "deliveries wait for the gate");
            return Ok(Next::Pause(TROUBLE_PAUSE));
        }
        match shut {
            // Where some may go, what the others were told may have been true for a moment only: the next look asks.
            Some(shut) if !some_may_go => self.wait(entry, &shut, now, next_due).await,
            _ => Ok(Next::Again),
        }
    }

    /// Those after `first` that may ask the gate at the same time: a gate that has to be asked over a network would else be
    /// asked by one after the other. None where one has to see what becomes of the first: its pace, its turn to open.
    fn others(&self, entry: &ContractEntry, lane: &Arc<Lane>, first: &Queued, now: Timestamp) -> Vec<(Queued, Permit)> {
        let plain = |queued: &Queued| !queued.bypass_limits && !queued.had_unknown;
        let by_itself = self.opening.is_some() || entry.contract.endpoint.rate.is_some() || !plain(first);
        let mut others = Vec::new();
        if by_itself || !self.pipeline.gate.is_shared() {
            return others;
        }
        let window = self.queue.window();
        let behind = window.ready().map(|item| &item.queued).filter(|queued| queued.id != first.id);
        for queued in behind.take_while(|queued| plain(queued)).take(AT_THE_GATE - 1) {
            if lane.space() != Space::Free {
                break;
            }
            let Some(permit) = lane.permit(now) else { break };
            others.push((queued.clone(), permit));
        }
        others
    }

    /// Sends one on its way; whatever comes of it, the queue hears of it.
    fn attempt(&mut self, item: Item, entry: &Arc<ContractEntry>, ticket: Ticket, permit: Permit) {
        let (queue, pipeline, entry) = (Arc::clone(&self.queue), Arc::clone(&self.pipeline), Arc::clone(entry));
        let opening = self.opening.take();
        self.tasks.spawn(async move {
            let Item { queued, lead, held, .. } = item;
            let (known, bell) = (lead.map(Fresh::known), || queue.wake());
            let go = Go { queued: &queued, known, entry: &entry, ticket: &ticket, permit, held, bell: &bell };
            // Even a panic in it is followed by what must follow.
            let mut attempt = std::pin::pin!(tasks::unless_it_panics(pipeline.attempt(go)));
            let ended = match opening {
                None => attempt.await,
                Some(opening) => {
                    // The next may open when this one is through, and need not wait for a partner that is slow.
                    let ended = tokio::time::timeout(OPENING_TAKES, &mut attempt).await;
                    drop(opening);
                    match ended {
                        Ok(ended) => ended,
                        Err(_) => attempt.await,
                    }
                }
            };
            let outcome = if let Some(outcome) = ended {
                outcome
            } else {
                tracing::error!(delivery.id = %queued.id, "an attempt broke off");
                conclude_what_broke_off(&pipeline, &queued, &ticket).await
            };
            let put_back = match outcome {
                Ok(Attempted::Done | Attempted::Gone) => false,
                Ok(Attempted::BackToGate) => true,
                Err(error) => {
                    tracing::debug!(delivery.id = %queued.id, store.error = %error, "an attempt could not be started");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                    true
                }
            };
            let now = pipeline.clock.now();
            {
                let mut window = queue.window();
                window.done(queued.id);
                if put_back {
                    window.push(Item { held, ..Item::stored(queued.clone()) }, now);
                }
            }
            queue.wake();
        });
    }

    /// The contract is open again: what is still waiting is held no longer.
    fn opened(&mut self, now: Timestamp) {
        self.seen_open = true;
        self.queue.shut(false);
        if self.hold.take().is_some() {
            for item in self.queue.window().ready_mut() {
                item.release(now);
            }
        }
    }

    /// The contract is shut: passes over, ends, or lets wait, as it says.
    async fn wait(
        &mut self,
        entry: &Arc<ContractEntry>,
        shut: &Shut,
        now: Timestamp,
        next_due: Option<Timestamp>,
    ) -> Result<Next, StoreError> {
        telemetry::gate_answered(&entry.counts, entry.contract.id.as_str(), shut.reason.as_str());
        let from_start = !self.seen_open;
        let fresh = Hold { since: now, from_start, swept: Sweep::After(None), confirmed: None };
        self.queue.shut(true);
        let hold = self.hold.get_or_insert(fresh);
        if let Some((received_at, _)) = self.queue.window().left_since() {
            hold.swept = hold.swept.back_to(received_at);
        }
        let policy = Policy::of(entry, shut, now);
        let mut endings = Vec::new();
        let mut staying = Vec::new();
        let mut wake = [shut.until, next_due].into_iter().flatten().min();
        for item in self.queue.window().ready_mut() {
            if policy.passes_over(&item.queued) {
                endings.push(Ending::PassedOver(item.queued.clone(), shut.reason));
                continue;
            }
            let earliest = if hold.from_start && item.queued.waits { item.queued.since } else { hold.since };
            let begun = *item.held_since.get_or_insert(item.queued.since.max(earliest));
            let ends = after(begun, entry.contract.hold_for.0);
            if ends <= now {
                endings.push(Ending::Expired(item.queued.clone()));
            } else {
                wake = Some(wake.map_or(ends, |wake| wake.min(ends)));
                staying.push(item.queued.clone());
            }
        }
        for queued in &staying {
            self.pipeline.parked(queued).await?;
        }
        let sweeps = matches!(hold.swept, Sweep::After(_)) && self.queue.window().has_more_ready();
        let passes_over = sweeps || endings.iter().any(|ending| matches!(ending, Ending::PassedOver(..)));
        if shut.reason == ShutReason::Full && passes_over && policy.may_pass_over() {
            // A gate that is behind must end nobody's wait: a place may be on its way back, and its coming rings the bell.
            let network = self.pipeline.directory.network();
            if self.pipeline.gate_was_behind(&network, [&entry.contract.id], now).await {
                return Ok(Next::Soon);
            }
        }
        if !endings.is_empty() {
            return self.work_off(endings).await;
        }
        let due = hold.confirmed.is_none_or(|last| after(last, AT_LEAST_EVERY) <= now);
        if shut.reason == ShutReason::Full && due && !staying.is_empty() {
            hold.confirmed = Some(now);
            // What waits here asks the store itself, lest it wait for a place that is free.
            let network = self.pipeline.directory.network();
            if self.pipeline.gate_was_behind(&network, [&entry.contract.id], now).await {
                return Ok(Next::Again);
            }
        }
        if let (true, Sweep::After(last)) = (sweeps, hold.swept) {
            let swept = self.sweep(last, &policy, shut.reason, now).await?;
            if let Some(hold) = &mut self.hold {
                hold.swept = swept;
            }
            return Ok(Next::Again);
        }
        Ok(Next::SleepUntil(wake))
    }

    /// Passes over a page of what lies in the store behind the window, so that it does not wait for what waits in front
    /// of it.
    async fn sweep(
        &self,
        last: Option<QueueKey>,
        policy: &Policy,
        reason: ShutReason,
        now: Timestamp,
    ) -> Result<Sweep, StoreError> {
        const PAGE: u32 = 64;
        let page = self.pipeline.store.ready_page(self.queue.contract.clone(), last, now, PAGE).await?;
        for queued in page.iter().filter(|queued| policy.passes_over(queued)) {
            self.pipeline.pass_over(queued, reason.as_skipped().to_owned()).await?;
        }
        let more = page.len() == PAGE as usize;
        Ok(if more { Sweep::After(page.last().map(|queued| (queued.received_at, queued.id))) } else { Sweep::Done })
    }

    /// Ends waiting deliveries, several at a time, for each is a commit.
    async fn work_off(&self, endings: Vec<Ending>) -> Result<Next, StoreError> {
        const AT_A_TIME: usize = 32;
        let mut endings = endings.into_iter();
        let mut under_way = tokio::task::JoinSet::new();
        let mut by_task = HashMap::new();
        let mut failed = None;
        loop {
            while under_way.len() < AT_A_TIME
                && let Some(ending) = endings.next()
            {
                let queued = ending.queued().clone();
                if self.queue.window().take(&queued).is_none() {
                    continue;
                }
                let pipeline = Arc::clone(&self.pipeline);
                let task = under_way.spawn(async move { ending.record(&pipeline).await });
                by_task.insert(task.id(), queued);
            }
            let Some(ended) = under_way.join_next_with_id().await else { break };
            let (task, outcome) = match ended {
                Ok(ended) => ended,
                Err(broken) => {
                    tracing::error!(panicked = broken.is_panic(), "the end of a wait broke off; it is tried again");
                    (broken.id(), Err(StoreError::Failed("the end of a wait broke off".to_owned())))
                }
            };
            let Some(queued) = by_task.remove(&task) else { continue };
            let mut window = self.queue.window();
            window.done(queued.id);
            if let Err(error) = outcome {
                window.push(Item::stored(queued), self.pipeline.clock.now());
                failed = Some(error);
            }
        }
        failed.map_or(Ok(Next::Again), Err)
    }
}

/// What a broken attempt has left is concluded before anything else happens to it.
async fn conclude_what_broke_off(
    pipeline: &Pipeline,
    queued: &Queued,
    ticket: &Ticket,
) -> Result<Attempted, StoreError> {
    loop {
        match pipeline.broke_off(queued, ticket).await {
            Ok(()) => return Ok(Attempted::Done),
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                tracing::warn!(delivery.id = %queued.id, store.error = %error, "a broken attempt cannot be concluded yet");
                tokio::time::sleep(TROUBLE_PAUSE).await;
                pipeline.store.well().await;
            }
        }
    }
}

/// How a waiting delivery ends without an attempt.
enum Ending {
    PassedOver(Queued, ShutReason),
    Expired(Queued),
    Orphaned(Queued),
}

impl Ending {
    fn queued(&self) -> &Queued {
        match self {
            Self::PassedOver(queued, _) | Self::Expired(queued) | Self::Orphaned(queued) => queued,
        }
    }

    async fn record(&self, pipeline: &Pipeline) -> Result<(), StoreError> {
        match self {
            Self::PassedOver(queued, reason) => pipeline.pass_over(queued, reason.as_skipped().to_owned()).await,
            Self::Expired(queued) => pipeline.expire(queued).await,
            Self::Orphaned(queued) => pipeline.orphaned(queued).await,
        }
    }
}

/// Whom a shut contract passes over.
struct Policy {
    at_shut: AtShut,
    /// There is no use in waiting: its total is used up.
    never: bool,
}

impl Policy {
    fn of(entry: &ContractEntry, shut: &Shut, now: Timestamp) -> Self {
        let at_shut = Terms::from(entry.contract.as_ref()).at_shut(shut.reason, shut.until, shut.never, now);
        Self { at_shut, never: shut.never }
    }

    fn may_pass_over(&self) -> bool {
        self.never || self.at_shut == AtShut::PassOver
    }

    fn passes_over(&self, queued: &Queued) -> bool {
        // One that may be with the partner already is never passed over; one that was made to wait here, only where
        // that is of no use.
        !queued.had_unknown && if queued.waits { self.never } else { self.at_shut == AtShut::PassOver }
    }
}

fn after(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

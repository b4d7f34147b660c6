//! One question to Redis, from the first round trip to an answer: what is missing is loaded on the way.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};

use super::courier::{Errand, new_epoch};
use super::link::{Failed, Patience, Up};
use super::script::{Loaded, Mark, Missing, Said, args, loaded, said};
use super::{FLUSH_WITHIN, KEEP_RULES, KEEP_STATE, LOADERS, Shared, keep, told};
use crate::gate::rules::{Full, GateRules, Present, reason};
use crate::gate::{Answer, AsOf, GateUnavailable, Paused};
use crate::model::delivery::ShutReason;
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::{Place, PlaceKey};

/// How far ahead hours are written out; then they are loaded anew.
const HORIZON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// And how far back, for gateways whose clocks differ.
const BACK: SignedDuration = SignedDuration::from_hours(24);
/// Asked again so often when something is missing or has just changed.
const ROUNDS: usize = 12;
/// After so many vain tries counts are loaded although places were given back meanwhile.
const PATIENT: usize = 3;

/// Over which connection the copies of each were last loaded or found good.
#[derive(Default)]
pub(super) struct Verified {
    partners: HashMap<PartnerId, u64>,
    contracts: HashMap<ContractId, u64>,
}

/// What of the copies is not to be believed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubted {
    Nothing,
    Contract,
    Partner,
}

/// One question to Redis.
struct Question<'a> {
    rules: &'a GateRules,
    present: &'a Present,
    now: Timestamp,
    /// Counts, if it is open.
    take: bool,
    bypass: bool,
    owned: &'a [PlaceKey],
    /// As installed when it was asked.
    mine: u64,
    need: u64,
}

/// Why a question has no answer.
pub(super) enum Unanswered {
    /// Redis is away; nothing was counted.
    Away,
    /// It may have counted.
    Unclear,
    /// It answers, and cannot say.
    Cannot(GateUnavailable),
}

impl From<Failed> for Unanswered {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Away | Failed::NoScript => Self::Away,
            Failed::Unclear => Self::Unclear,
        }
    }
}

impl Shared {
    /// Asks Redis, loads what it lacks, and asks again.
    pub(super) async fn ask(
        &self,
        contract: &ContractId,
        now: Timestamp,
        take: bool,
        bypass: bool,
        owned: &[PlaceKey],
    ) -> Result<Answer, Unanswered> {
        let installed = self.installed.load_full();
        let Some(rules) = installed.rules.get(contract) else {
            return Err(Unanswered::Cannot(GateUnavailable::NoRules(contract.clone())));
        };
        let present = rules.present(now);
        let need = installed.changed.get(rules.partner()).copied().unwrap_or(installed.first);
        let question = Question { rules, present: &present, now, take, bypass, owned, mine: installed.version, need };
        let mut patience = self.link.patience();
        let mut loading = None;
        let (mut waited, mut dropped) = (false, false);
        for round in 0..ROUNDS {
            let up = self.link.up().ok_or(Unanswered::Away)?;
            let doubted = if dropped { Doubted::Nothing } else { self.doubted(rules, &up) };
            // Who drops copies is alone with it, lest he drop what another has just counted.
            if doubted != Doubted::Nothing && loading.as_ref().is_none_or(|(of, _)| *of != doubted) {
                drop(loading.take());
                let id = if doubted == Doubted::Partner { rules.partner().as_str() } else { contract.as_str() };
                loading = Some((doubted, self.loader(id).lock().await));
                continue;
            }
            let (queued, all_told) = self.errands.queued();
            let said = self.put(&question, doubted, &up, &mut patience).await?;
            // A bypass names no counters, so none were dropped, and the next take drops them.
            dropped |= bypass && doubted != Doubted::Nothing;
            if !bypass {
                self.set_verified(rules, doubted, &up);
            }
            match said {
                Said::Open(mark, counts) => return Ok(self.open(&question, mark, &counts)),
                Said::Shut { mark, partner_paused, contract_paused, open, counts } => {
                    let full = self.shut(&question, mark, [partner_paused, contract_paused], &counts);
                    let paused = partner_paused || contract_paused;
                    // What was given back here a moment ago is on its way there.
                    if full != Full::No && !all_told && !waited {
                        waited = true;
                        self.errands.until(queued, FLUSH_WITHIN).await;
                        continue;
                    }
                    let Some(reason) = reason(paused, open, full) else {
                        return Err(Unanswered::Cannot(GateUnavailable::Unsettled(contract.clone())));
                    };
                    return Ok(Answer::Shut(rules.shut(now, reason, full)));
                }
                Said::Behind(theirs) => self.behind(&question, theirs, &up, &mut patience).await?,
                Said::Missing(..) if loading.is_none() => {
                    loading = Some((Doubted::Nothing, self.loader(contract.as_str()).lock().await));
                }
                Said::Missing(mark, missing) => {
                    self.load(&question, mark, &missing, round >= PATIENT, &up, &mut patience).await?;
                }
            }
        }
        Err(Unanswered::Cannot(GateUnavailable::Unsettled(contract.clone())))
    }

    /// One round trip.
    async fn put(
        &self,
        question: &Question<'_>,
        doubted: Doubted,
        up: &Up,
        patience: &mut Patience,
    ) -> Result<Said, Unanswered> {
        let Question { rules, present, now, take, bypass, owned, mine, need } = question;
        let keys = self.keys(rules, present, *bypass);
        let owns = |place: &Place| if owned.contains(&place.key) { '1' } else { '0' };
        let owns: String = present.places().map(owns).collect();
        let told = args([
            &if *take { "take" } else { "look" },
            &now.as_second(),
            rules.contract(),
            mine,
            need,
            &match doubted {
                Doubted::Nothing => "",
                Doubted::Contract => "contract",
                Doubted::Partner => "partner",
            },
            &owns,
        ]);
        let answer = self.scripts.take.run(&self.link, up, &keys, &told, patience).await?;
        self.errands.touch(rules.contract());
        said(&answer).ok_or(Unanswered::Unclear)
    }

    fn open(&self, question: &Question<'_>, mark: Mark, counts: &[u64]) -> Answer {
        let Question { rules, present, now, take, bypass, owned, .. } = question;
        let keys: Vec<&PlaceKey> = present.places().map(|place| &place.key).collect();
        let counts: Vec<(&PlaceKey, u64)> = keys.iter().copied().zip(counts.iter().copied()).collect();
        let counted: Vec<&PlaceKey> =
            keys.into_iter().filter(|key| *take && !*bypass && !owned.contains(key)).collect();
        let event = self.mirror.took(&counts, &counted, mark.stamp(), *now);
        self.mirror.set_paused(Paused::Partner(rules.partner().clone()), false);
        self.mirror.set_paused(Paused::Contract(rules.contract().clone()), false);
        let as_of = AsOf { event, shared: (mark.epoch, mark.given_back), seen: Vec::new() };
        // The hours there are ours, written out; should they differ (another time zone database), the shorter hold.
        let Some(hours_end) = rules.open_until(*now) else {
            let ticket = present.ticket(*now, *bypass, owned, as_of);
            if *take && !*bypass {
                let errand = Errand::of_ticket(rules.partner().clone(), &ticket, &[]);
                self.mirror.owe(&errand.free, false);
                self.send(errand);
            }
            return Answer::Shut(rules.shut(*now, ShutReason::Closed, Full::No));
        };
        Answer::Open(present.ticket(hours_end, *bypass, owned, as_of))
    }

    /// Notes why it is shut; whether a limit is reached, and until when.
    fn shut(&self, question: &Question<'_>, mark: Mark, paused: [bool; 2], counts: &[u64]) -> Full {
        let Question { rules, present, bypass, owned, .. } = question;
        let counts: HashMap<&PlaceKey, u64> =
            present.places().map(|place| &place.key).zip(counts.iter().copied()).collect();
        self.mirror.saw(counts.iter().map(|(key, used)| (*key, *used)), mark.stamp());
        self.mirror.set_paused(Paused::Partner(rules.partner().clone()), paused[0]);
        self.mirror.set_paused(Paused::Contract(rules.contract().clone()), paused[1]);
        if *bypass {
            return Full::No;
        }
        let others = |key: &PlaceKey| if owned.contains(key) { 0 } else { counts.get(key).copied().unwrap_or(0) };
        present.full(others)
    }

    /// Redis has rules of a newer network than this gateway. If the store has none newer, they are of another life (a
    /// store that was restored, a Redis that was another's) and are dropped.
    async fn behind(
        &self,
        question: &Question<'_>,
        theirs: u64,
        up: &Up,
        patience: &mut Patience,
    ) -> Result<(), Unanswered> {
        let mine = question.mine;
        if self.newest().await? > mine {
            return Err(Unanswered::Cannot(GateUnavailable::Behind { mine, theirs }));
        }
        let partner = question.rules.partner();
        let keys = [self.state_key(partner), self.rules_key(partner, question.rules.contract())];
        let told = args([&new_epoch(), &KEEP_STATE, &"", &"version"]);
        self.scripts.void.run(&self.link, up, &keys, &told, patience).await?;
        Ok(())
    }

    /// Loads what is missing, as the store and the network have it now.
    async fn load(
        &self,
        question: &Question<'_>,
        mark: Mark,
        missing: &Missing,
        insist: bool,
        up: &Up,
        patience: &mut Patience,
    ) -> Result<(), Unanswered> {
        let Question { rules, present, now, bypass, mine, .. } = question;
        let partner = rules.partner();
        if missing.state || missing.rules {
            // Ours may be older than what was forgotten.
            let theirs = self.newest().await?;
            if theirs > *mine {
                return Err(Unanswered::Cannot(GateUnavailable::Behind { mine: *mine, theirs }));
            }
        }
        let flag = |paused: bool| u8::from(paused).to_string();
        let (partner_paused, contract_paused) = if missing.partner_pause || missing.contract_pause {
            let asked = self.truth.paused(partner.clone(), rules.contract().clone());
            let (of_partner, of_contract) = told(asked).await.map_err(untold)?;
            (flag(of_partner), flag(of_contract))
        } else {
            (String::new(), String::new())
        };
        let mut told_all = args([
            &mark.epoch,
            &mark.given_back,
            &new_epoch(),
            mine,
            &u8::from(insist),
            rules.contract(),
            &partner_paused,
            &contract_paused,
            &u8::from(missing.rules),
        ]);
        told_all.extend(written(rules, *now));
        told_all.push(KEEP_STATE.to_string());
        if !*bypass {
            let lacking = |(place, lacks): (&Place, &bool)| lacks.then(|| place.key.clone());
            let keys: Vec<PlaceKey> = present.places().zip(&missing.counters).filter_map(lacking).collect();
            let held: HashMap<PlaceKey, u64> = if keys.is_empty() {
                HashMap::new()
            } else {
                told(self.truth.counts(keys)).await.map_err(untold)?.into_iter().collect()
            };
            for (place, lacks) in present.places().zip(&missing.counters) {
                let holds = held.get(&place.key).copied().unwrap_or(0);
                told_all.push(if *lacks { holds.to_string() } else { String::new() });
                told_all.push(keep(&place.key).to_string());
            }
        }
        let keys = self.keys(rules, present, *bypass);
        let answer = self.scripts.load.run(&self.link, up, &keys, &told_all, patience).await?;
        match loaded(&answer) {
            // Whatever it is, the next round is told so, and sees to it.
            Some(Loaded::Done | Loaded::Changed | Loaded::Behind) => Ok(()),
            None => Err(Unanswered::Unclear),
        }
    }

    async fn newest(&self) -> Result<u64, Unanswered> {
        told(self.truth.version()).await.map_err(untold)
    }

    fn doubted(&self, rules: &GateRules, up: &Up) -> Doubted {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.partners.get(rules.partner()).is_none_or(|generation| *generation < up.generation) {
            Doubted::Partner
        } else if verified.contracts.get(rules.contract()).is_none_or(|generation| *generation < up.generation) {
            Doubted::Contract
        } else {
            Doubted::Nothing
        }
    }

    fn set_verified(&self, rules: &GateRules, doubted: Doubted, up: &Up) {
        if doubted == Doubted::Nothing {
            return;
        }
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.contracts.insert(rules.contract().clone(), up.generation);
        if doubted == Doubted::Partner {
            verified.partners.insert(rules.partner().clone(), up.generation);
        }
    }

    fn loader(&self, id: &str) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % LOADERS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are LOADERS of them")]
        &self.loaders[at]
    }
}

fn untold(why: String) -> Unanswered {
    Unanswered::Cannot(GateUnavailable::Untold(why))
}

/// A contract's rules as take.lua reads them: from, until, limits, hours, and how long to keep them.
fn written(rules: &GateRules, now: Timestamp) -> [String; 5] {
    let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
    let from = whole(now.checked_sub(BACK).unwrap_or(Timestamp::MIN)).max(Timestamp::UNIX_EPOCH);
    let until = whole(now.checked_add(HORIZON).unwrap_or(Timestamp::MAX)).max(from);
    let open = rules.intervals(from, until);
    let hours = if open == [(from, until)] {
        "always".to_owned()
    } else {
        let both = open.iter().flat_map(|(opens, closes)| [opens, closes]);
        both.map(|at| format!("{:012}", at.as_second())).collect::<Vec<_>>().concat()
    };
    let limits: Vec<String> = rules.present(now).places().map(|place| place.limit.unwrap_or(0).to_string()).collect();
    [from.as_second().to_string(), until.as_second().to_string(), limits.join(" "), hours, KEEP_RULES.to_string()]
}

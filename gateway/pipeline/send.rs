//! One exchange from the lead to the judged reply: what is sent, where to, and what it means.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

use super::Lane;
use crate::capture::Redactor;
use crate::directory::{ContractEntry, Network};
use crate::dispatch::Dispatcher;
use crate::model::delivery::Judgement;
use crate::model::exchange::{Outgoing, SendFaultKind, Sent};
use crate::model::id::DeliveryId;
use crate::model::lead::Lead;
use crate::render::{Party, RenderInput};

/// The request that delivers `lead` to a contract.
///
/// # Errors
/// Why it cannot be rendered, with template and line.
pub fn request_for(
    network: &Network,
    entry: &ContractEntry,
    lead: &Lead,
    delivery: DeliveryId,
    number: u32,
    now: Timestamp,
) -> Result<Outgoing, String> {
    let source = network.source(&lead.source);
    let payout =
        network.campaign(&lead.campaign).and_then(|campaign| Some(source?.payout?.display(campaign.campaign.currency)));
    let input = RenderInput {
        lead,
        source: Party {
            id: lead.source.as_str(),
            name: source.map_or(lead.source.as_str(), |source| source.source.title()),
        },
        payout: payout.as_deref(),
        partner: entry.partner_party(),
        delivery,
        attempt: number,
        now,
        timezone: &entry.timezone,
    };
    entry.renderer.render(&input).map_err(|fault| fault.to_string())
}

/// Sends a request to its endpoint: to `url`, and to `backup_url` when nothing at all could be handed over there; the other
/// way round while `lane` knows `url` to be out of reach. Gives back which of the two requests it was that went.
pub async fn deliver(
    dispatcher: &Dispatcher,
    entry: &ContractEntry,
    mut outgoing: Outgoing,
    lane: Option<&Lane>,
) -> (Outgoing, Sent) {
    let Some(backup) = outgoing.backup.take() else {
        let sent = dispatcher.send(&entry.transport, &outgoing).await;
        return (outgoing, sent);
    };
    let backup_first = lane.is_some_and(Lane::backup_first);
    let (first, second) = if backup_first { (*backup, outgoing) } else { (outgoing, *backup) };
    let sent = dispatcher.send(&entry.transport, &first).await;
    let not_sent = |sent: &Sent| matches!(&sent.result, Err(fault) if fault.kind == SendFaultKind::NotSent);
    if matches!(&sent.result, Err(fault) if fault.kind == SendFaultKind::TooLate) {
        return (first, sent);
    }
    if !not_sent(&sent) {
        if let (Some(lane), false) = (lane, backup_first) {
            lane.reached(true);
        }
        return (first, sent);
    }
    let sent = dispatcher.send(&entry.transport, &second).await;
    if let Some(lane) = lane {
        lane.reached(backup_first && !not_sent(&sent));
    }
    (second, sent)
}

/// A reply so large that judging it may take long enough for others to notice.
const LARGE_REPLY: usize = 64 << 10;

/// Judges an exchange; a large reply beside the runtime, so that it costs nobody else anything.
pub(super) async fn judge(entry: &Arc<ContractEntry>, sent: Sent, now: Timestamp) -> (Sent, Judgement) {
    if !matches!(&sent.result, Ok(reply) if reply.body.len() > LARGE_REPLY) {
        let judgement = entry.rules.judge(&sent.result, now);
        return (sent, judgement);
    }
    let entry = Arc::clone(entry);
    match tokio::task::spawn_blocking(move || (entry.rules.judge(&sent.result, now), sent)).await {
        Ok((judgement, sent)) => (sent, judgement),
        // The runner's guard makes an unknown outcome of it.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// A judgement without the secrets that the reply it was read from echoed. (Not `redirect_url`: the person needs it whole.)
pub fn masked(mut judgement: Judgement, redactor: &Redactor<'_>) -> Judgement {
    for text in
        [&mut judgement.reason, &mut judgement.reference, &mut judgement.explanation.found].into_iter().flatten()
    {
        if let Cow::Owned(masked) = redactor.redact_text(text) {
            *text = masked;
        }
    }
    judgement
}

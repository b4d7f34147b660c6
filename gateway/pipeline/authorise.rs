//! Access tokens: into the request before its attempt begins, and out of use when the partner refuses one.

use crate::directory::ContractEntry;
use crate::dispatch::Dispatcher;
use crate::dispatch::token::{NoToken, TokenExchange, is_refusal};
use crate::model::delivery::{Class, Judgement};
use crate::model::exchange::{Outgoing, Reply, SendFault};

/// What came of asking for the token that a request needs.
#[derive(Debug, Default)]
pub struct Authorisation {
    /// What was said to the token endpoint, if it was asked just now.
    pub exchange: Option<Box<TokenExchange>>,
    /// Why there is no token: the request cannot be sent.
    pub fault: Option<SendFault>,
    /// Which token it was, where it was one that had been used before.
    used: Option<u64>,
}

/// Puts the access token that an endpoint asks for into its request.
pub async fn authorise(dispatcher: &Dispatcher, entry: &ContractEntry, outgoing: &mut Outgoing) -> Authorisation {
    let Some(tokens) = &entry.tokens else { return Authorisation::default() };
    match tokens.obtain(dispatcher, &entry.transport).await {
        Ok(obtained) => {
            outgoing.add_secret_header(&obtained.header, &obtained.value, &obtained.token);
            let used = obtained.exchange.is_none().then_some(obtained.number);
            Authorisation { exchange: obtained.exchange, fault: None, used }
        }
        Err(NoToken { fault, exchange }) => Authorisation { exchange, fault: Some(fault), used: None },
    }
}

impl Authorisation {
    /// Whether the partner refused a token that had served before, and that may have expired or been withdrawn: then it
    /// is fetched anew and the delivery tried again at once. A token that was refused while it was fresh is a fault of
    /// our settings, like any 401.
    pub(super) async fn refused(
        &self,
        entry: &ContractEntry,
        reply: &Result<Reply, SendFault>,
        judgement: &mut Judgement,
    ) -> bool {
        let (Some(tokens), Some(number)) = (&entry.tokens, self.used) else { return false };
        if judgement.class != Class::Configuration || !is_refusal(reply) {
            return false;
        }
        tokens.refuse(number).await;
        judgement.class = Class::Response;
        judgement.reason = Some("the partner no longer knows the access token; a new one is fetched".to_owned());
        true
    }
}

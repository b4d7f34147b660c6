//! Access tokens: fetched before a request is rendered, and out of use when the partner refuses one.

use crate::directory::ContractEntry;
use crate::dispatch::Dispatcher;
use crate::dispatch::token::{NoToken, Obtained, TokenExchange, is_refusal};
use crate::model::delivery::{Class, Explanation, Judgement, Verdict};
use crate::model::exchange::{Outgoing, Reply, SendFault};

/// What came of asking for the token that an endpoint's requests need.
#[derive(Debug, Default)]
pub struct Authorisation {
    /// What was said to the token endpoint, if it was asked just now.
    pub exchange: Option<Box<TokenExchange>>,
    /// Why there is no token: the request cannot be sent.
    pub fault: Option<SendFault>,
    token: Option<Obtained>,
}

impl Authorisation {
    /// Gets the token, if the endpoint wants one. That may take as long as an exchange: what is rendered should be rendered
    /// afterwards, for it may hold the time.
    pub async fn obtain(dispatcher: &Dispatcher, entry: &ContractEntry) -> Self {
        let Some(tokens) = &entry.tokens else { return Self::default() };
        match tokens.obtain(dispatcher, &entry.transport).await {
            Ok(mut token) => Self { exchange: token.exchange.take(), fault: None, token: Some(token) },
            Err(NoToken { fault, exchange }) => Self { exchange, fault: Some(fault), token: None },
        }
    }

    /// Puts the token into the request.
    pub fn put_into(&self, outgoing: &mut Outgoing) {
        if let Some(token) = &self.token {
            outgoing.add_secret_header(&token.header, &token.value, &token.token);
        }
    }

    /// Whether the partner refused (by a 401) a token that had served before, and that may have expired or been withdrawn:
    /// then it is fetched anew and the delivery tried again at once, whatever the contract's rules make of the reply. A
    /// token that was refused while it was fresh is judged like any reply.
    pub(super) async fn refused(
        &self,
        entry: &ContractEntry,
        reply: &Result<Reply, SendFault>,
        judgement: &mut Judgement,
    ) -> bool {
        let (Some(tokens), Some(token)) = (&entry.tokens, &self.token) else { return false };
        let taken = matches!(judgement.verdict, Verdict::Accepted | Verdict::Duplicate);
        if self.exchange.is_some() || taken || !is_refusal(reply) {
            return false;
        }
        tokens.refuse(token.number).await;
        judgement.verdict = Verdict::Retryable;
        judgement.class = Class::Response;
        judgement.explanation = Explanation {
            rule: "token_refused".to_owned(),
            selector: Some("status".to_owned()),
            found: Some("401".to_owned()),
        };
        judgement.reason = Some("the partner no longer knows the access token; a new one is fetched".to_owned());
        true
    }
}

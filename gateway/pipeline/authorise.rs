//! Access tokens: fetched before a request is rendered, and out of use when the partner refuses one.

use crate::directory::ContractEntry;
use crate::dispatch::Dispatcher;
use crate::dispatch::token::{NoToken, Obtained, TokenExchange, is_refusal};
use crate::model::delivery::{Class, Explanation, Judgement, Verdict};
use crate::model::exchange::{Outgoing, Reply, SendFault};
use crate::verdict::UNAUTHORIZED;

/// What came of asking for the token that an endpoint's requests need.
#[derive(Debug, Default)]
pub struct Authorisation {
    /// What was said to the token endpoint, if it was asked just now.
    pub exchange: Option<Box<TokenExchange>>,
    /// Why there is no token: the request cannot be sent.
    pub fault: Option<SendFault>,
    token: Option<Obtained>,
    secrets: Vec<String>,
}

impl Authorisation {
    /// Gets the token, if the endpoint wants one. That may take as long as an exchange: what is rendered should be rendered
    /// afterwards, for it may hold the time.
    pub async fn obtain(dispatcher: &Dispatcher, entry: &ContractEntry) -> Self {
        let Some(tokens) = &entry.tokens else { return Self::default() };
        let secrets = tokens.secrets().to_vec();
        match tokens.obtain(dispatcher, &entry.transport).await {
            Ok(mut token) => Self { exchange: token.exchange.take(), fault: None, token: Some(token), secrets },
            Err(NoToken { fault, exchange }) => Self { exchange, fault: Some(fault), token: None, secrets },
        }
    }

    /// Puts the token into the request. With or without one, what it is fetched with is then masked in all that is said.
    pub fn put_into(&self, outgoing: &mut Outgoing) {
        if let Some(token) = &self.token {
            outgoing.add_secret_header(&token.header, &token.value, &token.token);
        }
        outgoing.secrets.extend_from_slice(&self.secrets);
        if let Some(backup) = &mut outgoing.backup {
            backup.secrets.extend_from_slice(&self.secrets);
        }
    }

    /// Whether the partner refused (by a 401, or what the contract's rules call `unauthorized`) a token that had served before, and that may have expired or been withdrawn:
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
        let said_so = judgement.explanation.rule == UNAUTHORIZED;
        if self.exchange.is_some() || taken || !(said_so || is_refusal(reply)) {
            return false;
        }
        tokens.refuse(token.number).await;
        judgement.verdict = Verdict::Retryable;
        judgement.class = Class::Response;
        if !said_so {
            let (selector, found) = (Some("status".to_owned()), Some("401".to_owned()));
            judgement.explanation = Explanation { selector, found, ..Explanation::default() };
        }
        "token_refused".clone_into(&mut judgement.explanation.rule);
        judgement.reason = Some("the partner no longer knows the access token; a new one is fetched".to_owned());
        true
    }
}

//! The network as it is stored: campaigns, sources, partners, contracts and templates, each with every version it had;
//! what is paused; and the tokens of staff.

use super::audit::Audit;
use super::{Store, StoreError};
use crate::model::id::ContractId;
use crate::model::words;
use jiff::Timestamp;

words! {
    /// Kinds of resource.
    Kind {
        /// A campaign.
        Campaign = "campaign",
        /// A source.
        Source = "source",
        /// A partner.
        Partner = "partner",
        /// A contract.
        Contract = "contract",
        /// A template; its id is its path below the templates directory, its document the text.
        Template = "template",
    }
}

words! {
    /// What can be paused.
    PausedKind {
        /// A partner with all its contracts.
        Partner = "partner",
        /// A contract.
        Contract = "contract",
        /// A source.
        Source = "source",
    }
}

/// A stored resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRecord {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// 1 first.
    pub version: u64,
    /// Its JSON (a template's text).
    pub document: String,
    /// Whether it was changed by something else than files since files last set it.
    pub changed_elsewhere: bool,
}

/// A change of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceChange {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// The version it must have; `None` when it must not exist.
    pub from: Option<u64>,
    /// Its new document; `None` deletes it.
    pub document: Option<String>,
}

/// A staff token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// What it may do: `viewer`, `support`, `admin`.
    pub role: String,
}

/// How often something was changed, since whenever: who sees another number than before looks again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Resources.
    pub network: u64,
    /// What is paused.
    pub pauses: u64,
    /// Staff tokens.
    pub tokens: u64,
}

impl Store {
    /// How often the network, its pauses and the tokens were changed: cheap enough to be asked a few times a second, for
    /// another gateway may have changed them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn changes(&self) -> Result<Changes, StoreError> {
        on_engine!(self, db => db.changes().await)
    }

    /// Whether there is such a contract, in force here or not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_contract(&self, id: &ContractId) -> Result<bool, StoreError> {
        on_engine!(self, db => db.has_contract(id.clone()).await)
    }

    /// Every resource.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resources(&self) -> Result<Vec<ResourceRecord>, StoreError> {
        on_engine!(self, db => db.resources().await)
    }

    /// Changes resources from files, all or none; `false` when one is not at the version expected.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn apply(&self, changes: Vec<ResourceChange>, who: String, at: Timestamp) -> Result<bool, StoreError> {
        on_engine!(self, db => db.apply(changes, who, at).await)
    }

    /// What is paused.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn paused(&self) -> Result<Vec<(PausedKind, String)>, StoreError> {
        on_engine!(self, db => db.paused().await)
    }

    /// Pauses or resumes.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn set_paused(
        &self,
        kind: PausedKind,
        id: String,
        paused: bool,
        at: Timestamp,
        audit: Audit,
    ) -> Result<(), StoreError> {
        on_engine!(self, db => db.set_paused(kind, id, paused, at, audit).await)
    }

    /// Every staff token.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        on_engine!(self, db => db.tokens().await)
    }

    /// Keeps a new token; `false` when the name is taken.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn add_token(&self, token: TokenRecord, at: Timestamp, audit: Audit) -> Result<bool, StoreError> {
        on_engine!(self, db => db.add_token(token, at, audit).await)
    }
}

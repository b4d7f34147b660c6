//! The network as it is stored: campaigns, sources, partners, contracts and templates, each with every version it had;
//! what is paused; and the tokens of staff.

use super::audit::Audit;
use super::{Store, StoreError};
use crate::model::id::ContractId;
use crate::model::words;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

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

/// A stored resource as it is read: its texts are the engine's, for as long as one looks at it.
#[derive(Debug, Clone, Copy)]
pub struct StoredResource<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: &'a str,
    /// 1 first.
    pub version: u64,
    /// Its JSON (a template's text).
    pub document: &'a str,
    /// Whether it was changed by something else than files since files last set it.
    pub changed_elsewhere: bool,
}

impl From<StoredResource<'_>> for ResourceRecord {
    fn from(one: StoredResource<'_>) -> Self {
        let StoredResource { kind, version, changed_elsewhere, .. } = one;
        Self { kind, id: one.id.to_owned(), version, document: one.document.to_owned(), changed_elsewhere }
    }
}

/// What is kept beside a resource that files have set, to tell whether something else has changed it since: the digest of
/// its document.
pub(super) fn mark(document: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(document)))
}

/// Whether a document is another than files have set, by what was kept beside it: its mark, or the document itself.
pub(super) fn is_changed_elsewhere(document: &str, applied: Option<&str>) -> bool {
    applied.is_none_or(|applied| applied != document && applied != mark(document))
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

    /// Every resource, by kind and id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resources(&self) -> Result<Vec<ResourceRecord>, StoreError> {
        self.read_resources(Vec::new(), |records, one| records.push(one.into())).await
    }

    /// Has `take` look at every resource, by kind and id, so that no more of them need be held in memory than is wanted; what
    /// it has made of `into`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read_resources<T, F>(&self, into: T, take: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut T, StoredResource<'_>) + Send + 'static,
    {
        on_engine!(self, db => db.read_resources(into, take).await)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_files_have_set_is_known_by_its_mark_and_by_itself() {
        assert!(!is_changed_elsewhere("{}", Some(&mark("{}"))));
        // As the gateways before this one wrote it.
        assert!(!is_changed_elsewhere("{}", Some("{}")));
        assert!(is_changed_elsewhere("{}", Some(&mark("{ }"))));
        assert!(is_changed_elsewhere("{}", Some("{ }")));
        assert!(is_changed_elsewhere("{}", None), "files never set it");
    }
}

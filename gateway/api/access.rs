//! Who is asking: staff by token and role.

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::views::Reveal;
use crate::model::words;
use crate::store::TokenRecord;
use crate::web::problem::Problem;

words! {
    /// What a member of staff may do; each role includes those before it.
    Role {
        /// Reads, personal data masked.
        Viewer = "viewer",
        /// Reads everything, redelivers, resolves, cancels, pauses.
        Support = "support",
        /// Edits, exports, erases.
        Admin = "admin",
    }
}

/// A member of staff.
#[derive(Debug, Clone)]
pub struct Staff {
    /// The token's name.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

impl Staff {
    /// How much of a person's data they may see.
    #[must_use]
    pub fn reveal(&self) -> Reveal {
        if self.role >= Role::Support { Reveal::All } else { Reveal::Masked }
    }

    /// Lets them pass if they have `role` at least.
    ///
    /// # Errors
    /// 403 otherwise.
    pub fn must_be(self, role: Role) -> Result<Self, Problem> {
        if self.role >= role {
            Ok(self)
        } else {
            Err(Problem::forbidden(format!("this needs the role {role}; the token `{}` has {}", self.name, self.role)))
        }
    }
}

/// The tokens there are.
#[derive(Debug, Default)]
pub struct Tokens(Vec<(TokenRecord, Role)>);

impl Tokens {
    /// From the store; a token whose role this version does not know opens nothing.
    #[must_use]
    pub fn new(records: Vec<TokenRecord>) -> Self {
        Self(
            records.into_iter().filter_map(|record| Role::from_word(&record.role).map(|role| (record, role))).collect(),
        )
    }

    /// Whose token this is. Every token is compared, in constant time, so that time tells nothing.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<Staff> {
        let hash = hash_token(presented);
        let mut found = None;
        for (record, role) in &self.0 {
            if bool::from(record.hash.ct_eq(&hash)) {
                found = Some(Staff { name: record.name.clone(), role: *role });
            }
        }
        found
    }
}

/// What is stored of a token. Tokens are 256 random bits, so a plain hash cannot be guessed back.
#[must_use]
pub fn hash_token(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A new token's text.
#[must_use]
pub fn new_token() -> String {
    format!("gwt_{}", hex::encode(crate::clock::random_bytes::<32>()))
}

/// The token in `Authorization: Bearer …`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

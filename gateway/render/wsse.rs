//! The WS-Security header of a SOAP message: a user name and password (OASIS Web Services Security UsernameToken Profile
//! 1.1, section 3), and the time for which the message holds (SOAP Message Security 1.1, section 10).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use sha1::{Digest, Sha1};

use super::compile::Piece;
use super::escape::Format;
use crate::model::secret::MASK;

const EXTENSION: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const UTILITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const PROFILE: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0";
const BASE64: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary";

/// What a contract's `auth.wsse` asks for.
pub(super) struct Security {
    pub(super) username: Piece,
    pub(super) password: Piece,
    /// The password goes as a digest, and not as it is.
    pub(super) digest: bool,
    /// How long the message holds, where it says so.
    pub(super) valid_for: Option<SignedDuration>,
    pub(super) must_understand: bool,
}

impl Security {
    pub(super) fn pieces(&self) -> [&Piece; 2] {
        [&self.username, &self.password]
    }

    /// The header block.
    pub(super) fn block(&self, username: &str, proof: &Proof, now: Timestamp) -> String {
        let created = written(now);
        // Both versions read "1" as true.
        let must_understand = if self.must_understand { r#" soap:mustUnderstand="1""# } else { "" };
        let expires = self.valid_for.and_then(|span| now.checked_add(span).ok()).map(written);
        let timestamp = expires.map_or_else(String::new, |expires| {
            format!(
                r#"<wsu:Timestamp wsu:Id="Timestamp-1"><wsu:Created>{created}</wsu:Created><wsu:Expires>{expires}</wsu:Expires></wsu:Timestamp>"#
            )
        });
        let (kind, once) = if self.digest {
            let nonce = &proof.nonce;
            let once = format!(
                r#"<wsse:Nonce EncodingType="{BASE64}">{nonce}</wsse:Nonce><wsu:Created>{created}</wsu:Created>"#
            );
            ("PasswordDigest", once)
        } else {
            ("PasswordText", String::new())
        };
        let (username, password) = (Format::Xml.escape(username), Format::Xml.escape(&proof.password));
        [
            format!(r#"<wsse:Security xmlns:wsse="{EXTENSION}" xmlns:wsu="{UTILITY}"{must_understand}>{timestamp}"#),
            format!(r#"<wsse:UsernameToken wsu:Id="UsernameToken-1"><wsse:Username>{username}</wsse:Username>"#),
            format!(r#"<wsse:Password Type="{PROFILE}#{kind}">{password}</wsse:Password>"#),
            once,
            "</wsse:UsernameToken></wsse:Security>".to_owned(),
        ]
        .concat()
    }

    /// What shows that we know the password. A nonce is used once: it is drawn for each message.
    pub(super) fn proof(&self, password: &str, nonce: [u8; 16], now: Timestamp) -> Proof {
        let password = if self.digest { digest(&nonce, &written(now), password) } else { password.to_owned() };
        Proof { password, nonce: STANDARD.encode(nonce) }
    }
}

/// What shows that we know the password.
pub(super) struct Proof {
    /// As it is, or its digest.
    pub(super) password: String,
    pub(super) nonce: String,
}

impl Proof {
    /// As it is stored.
    pub(super) fn masked() -> Self {
        Self { password: MASK.to_owned(), nonce: MASK.to_owned() }
    }
}

/// `Base64 ( SHA-1 ( nonce + created + password ) )`, of the nonce's own bytes (section 3.1).
fn digest(nonce: &[u8], created: &str, password: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(nonce).chain_update(created).chain_update(password).finalize())
}

/// Whole seconds in UTC, which every receiver can read.
fn written(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

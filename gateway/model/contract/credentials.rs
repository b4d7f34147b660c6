//! How an endpoint proves who we are, and whom it trusts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::secret::SecretText;
use crate::model::units::Span;

/// Credentials: exactly one of these. Values may be `env:` or `file:` references and are masked in captures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// The user name.
        username: SecretText,
        /// The password.
        password: SecretText,
    },
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer {
        /// The token.
        token: SecretText,
    },
    /// A header of the partner's own.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: SecretText,
    },
    /// A parameter in the URL's query.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: SecretText,
    },
    /// An access token fetched first (RFC 6749), kept until it expires.
    Oauth2(OAuth2),
    /// A WS-Security UsernameToken in the SOAP header; SOAP methods only.
    Wsse {
        /// The user name.
        username: SecretText,
        /// The password.
        password: SecretText,
        /// How the password goes.
        #[serde(default)]
        password_type: PasswordType,
        /// Adds when the message was created, and that it expires so much later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<Span>,
        /// The receiver must refuse the message if it does not understand this header.
        #[serde(default = "yes")]
        must_understand: bool,
    },
}

/// How an access token is fetched, and how it is shown to the partner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth2 {
    /// The token endpoint.
    pub token_url: SecretText,
    /// What is shown to get a token.
    #[serde(default)]
    pub grant: Grant,
    /// Who we are to the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<SecretText>,
    /// What proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretText>,
    /// Where these two stand in the token request.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// The user of the `password` grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<SecretText>,
    /// His password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretText>,
    /// The token of the `refresh_token` grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<SecretText>,
    /// What the token is wanted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Further parameters of the token request, such as `audience` or `resource`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, SecretText>,
    /// The header that carries the token.
    #[serde(default = "OAuth2::default_header")]
    pub header: String,
    /// The word before the token; empty for none.
    #[serde(default = "OAuth2::default_scheme")]
    pub scheme: String,
}

impl OAuth2 {
    fn default_header() -> String {
        "Authorization".to_owned()
    }

    fn default_scheme() -> String {
        "Bearer".to_owned()
    }
}

/// What is shown to get a token (RFC 6749, sections 4.3, 4.4 and 6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The client's own credentials.
    #[default]
    ClientCredentials,
    /// A user's name and password.
    Password,
    /// A token that somebody was given once for good.
    RefreshToken,
}

impl Grant {
    /// The word of the configuration and of the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// Where the client's credentials stand in a token request (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// In `Authorization: Basic …`, each form-encoded first.
    #[default]
    Basic,
    /// There as they are, for the many servers that do not decode them.
    BasicPlain,
    /// In the form.
    Body,
}

fn yes() -> bool {
    true
}

/// How a WS-Security password goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordType {
    /// As it is.
    #[default]
    Text,
    /// As a digest of it with a nonce and the time.
    Digest,
}

/// Whom a contract's endpoint trusts, and how it proves who we are: PEM texts, usually by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate, and those that lead to its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<SecretText>,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
    /// Authorities trusted beside the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretText>,
}

//! A contract: a buyer's order on one campaign, and the endpoint that takes its leads.

mod credentials;
mod reply;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::campaign::Scalar;
use super::id::{CampaignId, ContractId, PartnerId};
use super::limit::Limits;
use super::schedule::WeekTable;
use super::secret::SecretText;
use super::shared::Shared;
use super::units::{Rate, Span};

pub use self::credentials::{Auth, ClientAuth, Grant, OAuth2, PasswordType, Tls};
pub use self::reply::{DocumentKind, Inside, ResponseRules, Rule};

/// One contract, as configured, stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Its id.
    pub id: ContractId,
    /// A name for people; the id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The buyer.
    pub partner: PartnerId,
    /// The campaign it buys from.
    pub campaign: CampaignId,
    /// What a lead is sold for (lead value), in the campaign's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// 1 first.
    #[serde(default = "one")]
    pub priority: u32,
    /// Its share among equals.
    #[serde(default = "one")]
    pub weight: u32,
    /// Beside the partner's, never above them.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Own hours beside the partner's: both must be open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Shared<WeekTable>>,
    /// Which leads it wants; none = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filter>,
    /// What to do with a lead outside the hours.
    #[serde(default)]
    pub when_closed: WhenShut,
    /// What to do with a lead at a limit.
    #[serde(default)]
    pub when_full: WhenShut,
    /// What to do with a lead while paused, or while the breaker is open.
    #[serde(default)]
    pub when_paused: WhenShut,
    /// How long a lead may wait, per hold.
    #[serde(default = "Contract::default_hold_for")]
    pub hold_for: Span,
    /// What to do when the outcome of an attempt is not known.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// Tables for the `map` helper: name → key → value; the key `*` catches the rest.
    #[serde(default, skip_serializing_if = "no_maps")]
    pub maps: Shared<Maps>,
    /// Secrets that templates name as `secret.NAME`, masked wherever they would be stored or shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretText>,
    /// How a lead is delivered.
    pub endpoint: Endpoint,
}

/// Tables for the `map` helper: name → key → value.
pub type Maps = BTreeMap<String, BTreeMap<String, String>>;

fn one() -> u32 {
    1
}

fn no_maps(maps: &Shared<Maps>) -> bool {
    maps.is_empty()
}

fn no_rules(rules: &Shared<ResponseRules>) -> bool {
    rules.is_empty()
}

impl Contract {
    /// The name for people.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }

    /// Whether anything in it may be read from outside of the network: a secret behind a reference, or a certificate.
    #[must_use]
    pub fn may_refer(&self) -> bool {
        let endpoint = &self.endpoint;
        let texts = [&self.secrets, &endpoint.form, &endpoint.headers].into_iter().flat_map(BTreeMap::values);
        endpoint.auth.is_some()
            || endpoint.tls.is_some()
            || texts.chain([&endpoint.url]).chain(&endpoint.backup_url).any(SecretText::is_reference)
    }

    fn default_hold_for() -> Span {
        Span::seconds(24 * 3600)
    }
}

/// What to do with a lead while a contract is shut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenShut {
    /// Offer it to the others; wait here only if none takes it and this one opens first.
    #[default]
    Next,
    /// Wait here.
    Hold,
    /// Offer it to the others only.
    Skip,
}

/// What to do when nobody can say whether the partner has the lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// A person decides.
    #[default]
    Review,
    /// Send again to the same partner, which may then have it twice.
    Retry,
    /// Offer it to the next candidate, accepting a double sale.
    Next,
}

/// A condition on a lead: exactly one of `all`, `any`, `not`, or `field`/`source` with one test or more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// All of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<Filter>>,
    /// At least one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any: Option<Vec<Filter>>,
    /// Not this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<Box<Filter>>,
    /// Tests this field of the lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Tests the id of the lead's source: this one, or with `true` and a test, any that passes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceTest>,
    /// The value is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// The value starts with one of these (a text or a list).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<OneOrMore<Scalar>>,
    /// The value matches this regular expression, anywhere in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// The value, as a number or date, is at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Scalar>,
    /// The value, as a number or date, is at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Scalar>,
    /// A value was given, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

/// `source = "acme"`, `source = ["acme", "best"]`, or `source = true` beside a test such as `prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a source id, a list of them, or true beside a test")]
pub enum SourceTest {
    /// Any source that the test beside it lets pass.
    ByTest(bool),
    /// This source.
    Is(String),
    /// One of these sources.
    OneOf(Vec<String>),
}

/// A value, or a list of values of which any will do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T: Serialize> Serialize for OneOrMore<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    // Not an untagged enum, for that would swallow the inner error ("unknown field …").
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{self, value};
        struct Any<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Any<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one value or a list of them")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(all)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                T::deserialize(value::MapAccessDeserializer::new(map)).map(|one| vec![one])
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Vec<T>, E> {
                T::deserialize(value::StrDeserializer::new(v)).map(|one| vec![one])
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Vec<T>, E> {
                T::deserialize(value::I64Deserializer::new(v)).map(|one| vec![one])
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Vec<T>, E> {
                T::deserialize(value::U64Deserializer::new(v)).map(|one| vec![one])
            }

            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Vec<T>, E> {
                T::deserialize(value::BoolDeserializer::new(v)).map(|one| vec![one])
            }
        }
        deserializer.deserialize_any(Any(std::marker::PhantomData)).map(Self)
    }
}

/// How a contract's leads are delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The partner's format.
    pub method: Method,
    /// Where to; a template too.
    pub url: SecretText,
    /// Where to instead when nothing could be handed over at `url`; a template too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_url: Option<SecretText>,
    /// The charset of the body; UTF-8 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<Charset>,
    /// SOAP action; SOAP methods only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The body's template, below `[network] templates`; `xml`, `json` and SOAP methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A second template for the SOAP header block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_template: Option<String>,
    /// The fields of a `post` body or a `get` query, each value a template. They are sent in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub form: BTreeMap<String, SecretText>,
    /// Headers for any method, each value a template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, SecretText>,
    /// Credentials beside the headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Box<Auth>>,
    /// A client certificate, and authorities of the partner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// For the connection, TLS included.
    #[serde(default = "Endpoint::default_connect_timeout")]
    pub connect_timeout: Span,
    /// For the whole exchange, response body included.
    #[serde(default = "Endpoint::default_timeout")]
    pub timeout: Span,
    /// How long a connection may rest and be used again. Shorter than the partner closes its own, for a request that
    /// crosses such a closing leaves its outcome unknown.
    #[serde(default = "Endpoint::default_keep_alive")]
    pub keep_alive: Span,
    /// Attempts at the same time.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// How fast to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// When and how long to try again.
    #[serde(default)]
    pub retry: Retry,
    /// What a 5xx that no rule explains means.
    #[serde(default)]
    pub on_5xx: On5xx,
    /// What a 2xx that no rule explains means, when there are rules.
    #[serde(default)]
    pub unmatched: Unmatched,
    /// The header that carries the delivery id, or `false`.
    #[serde(default)]
    pub idempotency_header: IdempotencyHeader,
    /// What the partner's replies mean.
    #[serde(default, skip_serializing_if = "no_rules")]
    pub response: Shared<ResponseRules>,
}

impl Endpoint {
    /// How long an idle connection is used again unless an endpoint says otherwise: a request that crosses the partner's
    /// closing of it leaves its outcome unknown, which costs a person's time, while a new connection costs milliseconds.
    /// Common servers close theirs after 2 s (gunicorn) or 5 s (Apache, Node).
    pub const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_millis(1_500);

    fn default_connect_timeout() -> Span {
        Span::seconds(5)
    }

    fn default_timeout() -> Span {
        Span::seconds(15)
    }

    /// The longest that one attempt may take: where there is a backup URL, the first may use up its time to connect.
    #[must_use]
    pub fn longest_exchange(&self) -> std::time::Duration {
        let before = self.backup_url.as_ref().map_or_else(Default::default, |_| self.connect_timeout.0);
        before.saturating_add(self.timeout.0)
    }

    fn default_keep_alive() -> Span {
        Span(Self::KEEP_ALIVE)
    }
}

/// How many attempts may run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// So many.
    Fixed(u32),
    /// As many as the partner bears, found by trying.
    Adaptive,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::Fixed(16)
    }
}

impl Serialize for Concurrency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(many) => serializer.serialize_u32(*many),
            Self::Adaptive => serializer.serialize_str("adaptive"),
        }
    }
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Adaptive,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, or \"adaptive\"")]
        enum NumberOrWord {
            Number(u32),
            Word(Word),
        }
        Ok(match NumberOrWord::deserialize(deserializer)? {
            NumberOrWord::Number(many) => Self::Fixed(many),
            NumberOrWord::Word(Word::Adaptive) => Self::Adaptive,
        })
    }
}

/// The charset of a request's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charset {
    /// UTF-8.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO-8859-1 (Latin-1).
    #[serde(rename = "iso-8859-1")]
    Latin1,
    /// windows-1252.
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// US-ASCII.
    #[serde(rename = "us-ascii")]
    Ascii,
}

impl Charset {
    /// The word of the configuration, which is the name in a Content-Type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Latin1 => "iso-8859-1",
            Self::Windows1252 => "windows-1252",
            Self::Ascii => "us-ascii",
        }
    }
}

/// A partner's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// An XML document by POST.
    Xml,
    /// A JSON document by POST.
    Json,
    /// SOAP 1.1.
    Soap11,
    /// SOAP 1.2.
    Soap12,
    /// A form by POST.
    Post,
    /// A form in the query of a GET.
    Get,
}

impl Method {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xml => "xml",
            Self::Json => "json",
            Self::Soap11 => "soap11",
            Self::Soap12 => "soap12",
            Self::Post => "post",
            Self::Get => "get",
        }
    }

    /// Whether fields come from a `form` table and not from a template file.
    #[must_use]
    pub fn is_form(self) -> bool {
        matches!(self, Self::Post | Self::Get)
    }

    /// Whether the gateway wraps the content in a SOAP envelope.
    #[must_use]
    pub fn is_soap(self) -> bool {
        matches!(self, Self::Soap11 | Self::Soap12)
    }
}

/// When and how long a retryable delivery is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// The first pause; later ones double, with jitter.
    pub first: Span,
    /// The longest pause.
    pub max: Span,
    /// No further attempt once this much time has passed since the first, time held not counted.
    pub give_up_after: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            first: Span::seconds(10),
            max: Span::seconds(15 * 60),
            give_up_after: Span::seconds(3600),
        }
    }
}

/// What a 5xx that no rule explains means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On5xx {
    /// The partner may have the lead.
    #[default]
    Unknown,
    /// It surely has not: try again.
    Retry,
}

/// What a 2xx that no rule explains means, when there are rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// A person must look.
    #[default]
    Unknown,
    /// Everything but the named successes is a refusal.
    Rejected,
}

/// The header that carries the delivery id: a name, or `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyHeader(pub Option<String>);

impl Default for IdempotencyHeader {
    fn default() -> Self {
        Self(Some("Idempotency-Key".to_owned()))
    }
}

impl Serialize for IdempotencyHeader {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for IdempotencyHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a header name, or false")]
        enum NameOrFalse {
            Name(String),
            Switch(bool),
        }
        match NameOrFalse::deserialize(deserializer)? {
            NameOrFalse::Name(name) => Ok(Self(Some(name))),
            NameOrFalse::Switch(false) => Ok(Self(None)),
            NameOrFalse::Switch(true) => Ok(Self::default()),
        }
    }
}

//! What a partner's replies mean, as configured.

use serde::{Deserialize, Serialize};

use super::OneOrMore;
use crate::model::campaign::Scalar;

/// What a partner's replies mean: verdict rules, tried in the order `unauthorized`, `duplicate`, `accepted`, `rejected`,
/// `retryable`,
/// and extractors, of which a list means the first that finds something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseRules {
    /// It does not know us: a wrong key, an expired token. Ours to fix, whatever else the reply says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unauthorized: Option<OneOrMore<Rule>>,
    /// The partner has this person already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<OneOrMore<Rule>>,
    /// It took the lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<OneOrMore<Rule>>,
    /// It refused the lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<OneOrMore<Rule>>,
    /// It wants it later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<OneOrMore<Rule>>,
    /// Where the reply says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<OneOrMore<Rule>>,
    /// Where it gives the partner's own id of the lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<OneOrMore<Rule>>,
    /// Where it gives the page that the person should see next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_url: Option<OneOrMore<Rule>>,
    /// Where it gives the price it pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<OneOrMore<Rule>>,
}

impl ResponseRules {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A selector and a test, or `all` of several. An extractor is a rule whose test, if any, must pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// All of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<Rule>>,
    /// Selects the status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<bool>,
    /// Selects a header by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Selects by RFC 9535 JSONPath.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Selects by XPath in XML or an HTML page; unprefixed names match any namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xpath: Option<String>,
    /// Selects elements of an HTML page by CSS selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub css: Option<String>,
    /// This attribute of the elements that `css` selects, instead of their text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// Selects a field of a form-encoded body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Selects the first group, or the whole match, in the body's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Selects this text if the body contains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Selects the body's whole text, without the white space around it; an empty body is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<bool>,
    /// Parses a nested document first and selects in that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// The selected text is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// It matches this regular expression, anywhere in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// Something was selected, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// As a decimal, it is at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Scalar>,
    /// As a decimal, it is at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Scalar>,
    /// Every selected text must pass the test, not just one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<bool>,
    /// A price is a whole number of the currency's smallest unit (cents); of `price` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_units: Option<bool>,
    /// What stands before a price's decimals, `.` or `,`; of `price` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decimal: Option<String>,
}

/// Where a nested document stands, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inside {
    /// Selects a header by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Selects by JSONPath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Selects by XPath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xpath: Option<String>,
    /// Selects elements of an HTML page by CSS selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub css: Option<String>,
    /// This attribute of the elements that `css` selects, instead of their text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// Selects a field of a form-encoded body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Selects by regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// What the nested text is.
    #[serde(rename = "as")]
    pub kind: DocumentKind,
}

/// What a nested document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// XML.
    Xml,
    /// An HTML page, or a piece of one.
    Html,
    /// JSON.
    Json,
    /// Form-encoded.
    Form,
    /// Plain text.
    Text,
}

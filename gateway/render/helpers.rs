//! What templates may call. A helper takes values and returns one; escaping is not its business, and the value `""`
//! (a field that was not given) passes through all of them unless said otherwise.
//!
//! | call | gives |
//! |---|---|
//! | `default VALUE OTHER…` | the first that is not empty |
//! | `upper VALUE`, `lower VALUE`, `title VALUE`, `trim VALUE` | the text in capitals, in small letters, with capital initials, without white space around it |
//! | `slice VALUE START [END]` | characters START to before END, counted from 0, negative from the end |
//! | `replace VALUE FROM TO` | every FROM replaced by TO |
//! | `concat VALUE… [separator=", "]` | all in one, a list's entries too; with a separator, empty ones are left out |
//! | `len VALUE` | how many characters; of a list how many entries |
//! | `date VALUE [FORMAT] [timezone=ZONE]` | a date or timestamp by strftime; `%Y-%m-%d` and the partner's zone unless said |
//! | `now [FORMAT] [timezone=ZONE]` | the time of rendering; RFC 3339 in UTC without a format |
//! | `phone VALUE [e164\|national\|international\|digits] [region="GB"]` | a phone number written so |
//! | `number VALUE [DECIMALS] [decimals=2] [decimal=","] [group="."]` | a number, rounded half up, with these signs |
//! | `map VALUE TABLE` | the value's entry in the contract's table, or that of `*` |
//! | `json VALUE [type="number"\|"boolean"\|"string"]` | JSON with its quotes: number, boolean, string, or null for an empty value; `json lead` the whole lead; of a list an array |
//! | `hash VALUE [md5\|sha1\|sha256\|sha512] [encoding="hex"\|"base64"\|"base64url"]` | a digest, SHA-256 in hex unless said |
//! | `hmac VALUE [md5\|sha1\|sha256\|sha512] key=secret.NAME [key_encoding="text"\|"hex"\|"base64"] [encoding="hex"\|"base64"\|"base64url"]` | a keyed digest |
//! | `base64 VALUE [url=true]` | base64 with padding, or URL-safe without |
//! | `uuid` | an id that stays the same however often this attempt is rendered |
//! | `eq ne A B`, `gt gte lt lte A B`, `and or A B…`, `not A` | true or false, for `{{#if (eq …)}}`; numbers compare as numbers |
//! | `lookup lead "NAME"` | a field by its name, also one that the campaign does not declare |
//!
//! A value that a helper cannot read (a `date` that is none, a `number` of letters) is a render failure that names the
//! variable and never its value. In the masked copy of a request any helper given a masked value returns the mask.

#[expect(clippy::unnecessary_wraps, reason = "helpers share one signature")]
mod digest;
mod number;
mod phone;
#[expect(clippy::unnecessary_wraps, reason = "helpers share one signature")]
mod text;
mod time;
#[expect(clippy::unnecessary_wraps, reason = "helpers share one signature")]
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use handlebars::JsonTruthy;
use serde_json::{Number, Value as Json};

pub(super) use value::NUMBERS;

use super::engine::Scene;
use crate::model::contract::Contract;
use crate::model::secret::{MASK, SecretText};

/// Hidden options that loading gives to an `hmac`: where its key's value is computed, and which of the template's
/// signatures with a secret key it is.
pub(super) const COMPUTED_KEY: &str = "@computed_key";
pub(super) const SIGNATURE: &str = "@signature";

/// A helper as templates see it.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) args: RangeInclusive<usize>,
    pub(super) options: &'static [&'static str],
    pub(super) function: Function,
    pub(super) gives: Gives,
    /// Looks at literal arguments when the template is loaded.
    pub(super) check: Option<Check>,
}

/// Says what is wrong with a call as it stands in the template.
type Check = fn(&Literals<'_>, &Contract) -> Result<(), String>;

/// How a helper is called. The message of an error never holds a value.
#[derive(Clone, Copy)]
pub(super) enum Function {
    /// Its arguments are all that it needs.
    Pure(for<'v> fn(&Args<'_, 'v>) -> Result<Value<'v>, String>),
    /// It also looks at the delivery being rendered, or at the contract.
    Scenic(for<'v> fn(&Args<'_, 'v>, &Scene<'_>) -> Result<Value<'v>, String>),
    /// It tells yes or no.
    Truth(fn(&Args<'_, '_>) -> bool),
}

/// What kind of value comes out, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    Text,
    Number,
    Boolean,
    /// JSON text, written as it is into JSON.
    Json,
}

/// The helper of this name.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    HELPERS.iter().find(|helper| helper.name == name)
}

use Function::{Pure, Scenic, Truth};

/// Every helper.
pub(super) static HELPERS: &[Spec] = &[
    plain("default", 1..=9, value::default),
    plain("upper", 1..=1, text::upper),
    plain("lower", 1..=1, text::lower),
    plain("title", 1..=1, text::title),
    plain("trim", 1..=1, text::trim),
    plain("slice", 2..=3, text::slice),
    plain("replace", 3..=3, text::replace),
    Spec { options: &["separator"], ..plain("concat", 1..=99, text::concat) },
    Spec { gives: Gives::Number, ..plain("len", 1..=1, text::len) },
    Spec {
        options: &["format", "timezone"],
        function: Scenic(time::date),
        check: Some(time::check_date),
        ..plain("date", 1..=2, nothing)
    },
    Spec {
        options: &["format", "timezone"],
        function: Scenic(time::now),
        check: Some(time::check_now),
        ..plain("now", 0..=1, nothing)
    },
    Spec {
        options: &["format", "region"],
        check: Some(phone::check),
        ..plain("phone", 1..=2, |args| phone::phone(args).map(Value::from))
    },
    Spec {
        options: &["decimals", "decimal", "group"],
        gives: Gives::Number,
        check: Some(number::check),
        ..plain("number", 1..=2, number::number)
    },
    Spec { function: Scenic(value::map), check: Some(value::check_map), ..plain("map", 2..=2, nothing) },
    Spec {
        options: &["type"],
        gives: Gives::Json,
        check: Some(value::check_json),
        ..plain("json", 1..=1, value::json)
    },
    Spec {
        options: &["algorithm", "encoding"],
        function: Scenic(digest::hash),
        check: Some(digest::check_hash),
        ..plain("hash", 1..=2, nothing)
    },
    Spec {
        options: &["algorithm", "key", "key_encoding", "encoding"],
        function: Scenic(digest::hmac),
        check: Some(digest::check_hmac),
        ..plain("hmac", 1..=3, nothing)
    },
    Spec { options: &["url"], function: Scenic(digest::base64), ..plain("base64", 1..=1, nothing) },
    Spec { function: Scenic(digest::uuid), ..plain("uuid", 0..=0, nothing) },
    truth("eq", 2..=2, value::equal),
    truth("ne", 2..=2, |args| !value::equal(args)),
    truth("gt", 2..=2, |args| value::order(args).is_some_and(std::cmp::Ordering::is_gt)),
    truth("gte", 2..=2, |args| value::order(args).is_some_and(std::cmp::Ordering::is_ge)),
    truth("lt", 2..=2, |args| value::order(args).is_some_and(std::cmp::Ordering::is_lt)),
    truth("lte", 2..=2, |args| value::order(args).is_some_and(std::cmp::Ordering::is_le)),
    truth("and", 2..=9, |args| value::truths(args).all(|truth| truth)),
    truth("or", 2..=9, |args| value::truths(args).any(|truth| truth)),
    truth("not", 1..=1, |args| !value::truths(args).all(|truth| truth)),
    plain("lookup", 2..=2, value::lookup),
];

/// Stands around what another helper makes of a secret; no template can write this name.
pub(super) static DERIVED: Spec = Spec { function: Scenic(digest::derived), ..plain("@derived", 1..=1, nothing) };

const fn plain(
    name: &'static str,
    args: RangeInclusive<usize>,
    function: for<'v> fn(&Args<'_, 'v>) -> Result<Value<'v>, String>,
) -> Spec {
    Spec { name, args, options: &[], function: Pure(function), gives: Gives::Text, check: None }
}

const fn truth(name: &'static str, args: RangeInclusive<usize>, function: fn(&Args<'_, '_>) -> bool) -> Spec {
    Spec { gives: Gives::Boolean, function: Truth(function), ..plain(name, args, nothing) }
}

/// Stands where another function replaces it.
#[expect(clippy::unnecessary_wraps, reason = "helpers share one signature")]
fn nothing<'v>(_: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    Ok(Value::Null)
}

/// A value that templates work with: the lead's own text as long as nothing has to be changed in it.
#[derive(Clone)]
pub(super) enum Value<'v> {
    Null,
    Boolean(bool),
    Number(Number),
    Text(Cow<'v, str>),
    /// A list or a group.
    Parts(Cow<'v, Json>),
}

impl<'v> Value<'v> {
    pub(super) fn of(json: &'v Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Boolean(*truth),
            Json::Number(number) => Self::Number(number.clone()),
            Json::String(text) => Self::Text(text.into()),
            Json::Array(_) | Json::Object(_) => Self::Parts(Cow::Borrowed(json)),
        }
    }

    pub(super) fn into_json(self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Boolean(truth) => Json::Bool(truth),
            Self::Number(number) => Json::Number(number),
            Self::Text(text) => Json::String(text.into_owned()),
            Self::Parts(json) => json.into_owned(),
        }
    }

    /// A scalar as text. (Objects and lists are kept out when templates are loaded.)
    pub(super) fn into_text(self) -> Cow<'v, str> {
        match self {
            Self::Text(text) => text,
            Self::Boolean(true) => "true".into(),
            Self::Boolean(false) => "false".into(),
            Self::Number(number) => number.to_string().into(),
            Self::Null | Self::Parts(_) => "".into(),
        }
    }

    pub(super) fn text(&self) -> Cow<'v, str> {
        self.clone().into_text()
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Null | Self::Parts(_) => true,
            Self::Boolean(_) | Self::Number(_) => false,
        }
    }

    /// Whether it is the mask that stands for a value which must not be stored.
    pub(super) fn is_mask(&self) -> bool {
        matches!(self, Self::Text(text) if text == MASK)
    }

    /// As Handlebars sees it.
    pub(super) fn is_truthy(&self, zero_counts: bool) -> bool {
        match self {
            Self::Null => false,
            Self::Boolean(truth) => *truth,
            Self::Number(_) if zero_counts => true,
            Self::Number(number) => number.as_f64().is_some_and(f64::is_normal),
            Self::Text(text) => !text.is_empty(),
            Self::Parts(json) => json.is_truthy(zero_counts),
        }
    }
}

impl From<Json> for Value<'_> {
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Boolean(truth),
            Json::Number(number) => Self::Number(number),
            Json::String(text) => Self::Text(text.into()),
            Json::Array(_) | Json::Object(_) => Self::Parts(Cow::Owned(json)),
        }
    }
}

impl<'v> From<Cow<'v, str>> for Value<'v> {
    fn from(text: Cow<'v, str>) -> Self {
        Self::Text(text)
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// What a helper was given, evaluated.
pub(super) struct Args<'a, 'v> {
    pub(super) values: &'a [Value<'v>],
    pub(super) options: &'a [(&'a str, Value<'v>)],
}

impl<'a, 'v> Args<'a, 'v> {
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }

    /// The argument; null where there is none.
    pub(super) fn value(&self, at: usize) -> &'a Value<'v> {
        const NULL: &Value<'static> = &Value::Null;
        self.values.get(at).unwrap_or(NULL)
    }

    /// The argument as text; empty where there is none.
    pub(super) fn text(&self, at: usize) -> Cow<'v, str> {
        self.value(at).text()
    }

    pub(super) fn option(&self, name: &str) -> Option<Cow<'v, str>> {
        self.option_value(name).map(Value::text)
    }

    pub(super) fn option_value(&self, name: &str) -> Option<&'a Value<'v>> {
        self.options.iter().find(|(option, _)| *option == name).map(|(_, value)| value)
    }

    /// A setting that may come as the argument `at` or by name.
    pub(super) fn setting(&self, at: usize, name: &str) -> Option<Cow<'v, str>> {
        if at < self.count() { Some(self.text(at)) } else { self.option(name) }
    }

    /// Whether a value among them is masked.
    pub(super) fn are_masked(&self) -> bool {
        self.values.iter().chain(self.options.iter().map(|(_, value)| value)).any(Value::is_mask)
    }
}

/// A scalar as text. (Objects and lists are kept out when templates are loaded.)
pub(super) fn text_of(value: &Json) -> Cow<'_, str> {
    Value::of(value).into_text()
}

/// The arguments of a call that stand in the template as they are.
pub(super) struct Literals<'a> {
    /// `None` where the argument is a variable or another call.
    pub(super) args: Vec<Option<&'a Json>>,
    pub(super) options: BTreeMap<&'a str, Option<&'a Json>>,
}

impl<'a> Literals<'a> {
    /// A setting's literal text: the argument `at`, or the option. `Ok(None)` where it is not given; `Err` where it is
    /// computed.
    pub(super) fn setting(&self, at: usize, name: &str) -> Result<Option<Cow<'a, str>>, ()> {
        match self.args.get(at).or_else(|| self.options.get(name)) {
            None => Ok(None),
            Some(None) => Err(()),
            Some(Some(literal)) => Ok(Some(text_of(literal))),
        }
    }

    /// Checks a setting that takes one of a few words.
    pub(super) fn one_of(&self, at: usize, name: &str, words: &[&str]) -> Result<(), String> {
        match self.setting(at, name) {
            Ok(Some(word)) if !words.contains(&word.as_ref()) => {
                Err(format!("`{}` is no {name} that we know: use one of {}", shorten(&word), words.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// The key of an `hmac` that stands in the template, as a reference or as it is. `Ok(None)` where there is none;
    /// `Err` where it is a variable or a call.
    pub(super) fn key(&self) -> Result<Option<SecretText>, ()> {
        Ok(self.setting(2, "key")?.map(|key| SecretText(key.into_owned())))
    }
}

/// A word of a template, cut for a message.
fn shorten(word: &str) -> String {
    word.chars().take(40).collect()
}

//! Leads to try templates with: a plain one, a hostile one, and one that gives only what it must.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::{Party, RenderInput, Renderer, TemplateFault};
use crate::model::campaign::{Campaign, Field, FieldType, UnknownFields};
use crate::model::id::{DeliveryId, LeadId, SourceId};
use crate::model::lead::{FieldValue, Fields, Lead, Meta};

/// Characters of a text field where its declaration sets no `max`: ten times what intake would take, since a template
/// outlives a campaign's settings.
const LONG: usize = 10_000;

/// A lead of plain, valid values for every declared field.
#[must_use]
pub fn sample(campaign: &Campaign) -> Lead {
    lead(campaign, campaign.fields.iter().map(|(name, field)| (name.clone(), plain(name, field))).collect(), "sample")
}

/// A lead that tries to break out: wherever its type leaves room, a field holds quotes, markup, control characters,
/// emoji, right-to-left text and 10,000 characters (or its `max`). Typed values stay valid.
#[must_use]
pub fn hostile(campaign: &Campaign) -> Lead {
    let mut fields: Fields = campaign.fields.iter().map(|(name, field)| (name.clone(), nasty(name, field))).collect();
    if campaign.unknown_fields == UnknownFields::Keep {
        fields.insert("undeclared \"<&'>".to_owned(), FieldValue::Text(nasty_text(LONG)));
    }
    lead(campaign, fields, &nasty_text(200))
}

/// A lead with the required fields only.
fn bare(campaign: &Campaign) -> Lead {
    let required = campaign.fields.iter().filter(|(_, field)| field.required);
    let mut lead = lead(campaign, required.map(|(name, field)| (name.clone(), plain(name, field))).collect(), "");
    lead.meta = Meta::default();
    lead
}

pub(super) fn check(renderer: &Renderer, campaign: &Campaign) -> Vec<TemplateFault> {
    let mut faults: Vec<TemplateFault> = Vec::new();
    let leads = [
        ("a plain lead", sample(campaign)),
        ("a hostile lead", hostile(campaign)),
        ("a lead with required fields only", bare(campaign)),
    ];
    for (which, lead) in leads {
        let input = RenderInput {
            lead: &lead,
            source: Party { id: "sample", name: "Sample & Söhne <Media>" },
            payout: Some("12.50"),
            partner: Party { id: &renderer.partner, name: "Sample \"Partner\" & Co" },
            delivery: DeliveryId(Uuid::nil()),
            attempt: 1,
            now: lead.received_at,
            timezone: &TimeZone::UTC,
        };
        let Err(fault) = renderer.render(&input) else { continue };
        let known = faults.iter().any(|other| {
            other.template == fault.template && other.line == fault.line && other.message.starts_with(&fault.message)
        });
        if !known {
            let message = format!("{} (with {which})", fault.message);
            faults.push(TemplateFault { template: fault.template, line: fault.line, message });
        }
    }
    faults
}

fn lead(campaign: &Campaign, fields: Fields, meta: &str) -> Lead {
    let text = || Some(meta.to_owned());
    Lead {
        id: LeadId(Uuid::nil()),
        campaign: campaign.id.clone(),
        // A valid id by its spelling.
        source: "sample".parse::<SourceId>().unwrap_or_else(|_| unreachable!("`sample` is a valid id")),
        // 2026-01-31T12:00:00Z: a month's end, so that a day and a month are not taken for each other.
        received_at: Timestamp::from_second(1_769_860_800).unwrap_or(Timestamp::UNIX_EPOCH),
        test: true,
        fields,
        meta: Meta {
            external_id: text(),
            click_id: text(),
            sub1: text(),
            sub2: text(),
            sub3: text(),
            sub4: text(),
            sub5: text(),
            ip: Some("203.0.113.9".to_owned()),
            user_agent: text(),
        },
    }
}

fn plain(name: &str, field: &Field) -> FieldValue {
    let bound = || field.min.as_ref().or(field.max.as_ref()).map(|scalar| scalar.0.clone());
    let preset = field.default.as_ref().map(|scalar| scalar.0.clone());
    let text = |value: &str| FieldValue::Text(preset.clone().unwrap_or_else(|| value.to_owned()));
    match field.kind {
        FieldType::Text => FieldValue::Text(preset.clone().unwrap_or_else(|| plain_text(name, field))),
        FieldType::Email => text("ann.sample@example.com"),
        FieldType::Phone => text(match field.region.as_deref() {
            Some("US" | "CA") => "+12025550123",
            Some("DE") => "+493012345678",
            Some("FR") => "+33123456789",
            Some("ES") => "+34912345678",
            _ => "+442079460018",
        }),
        FieldType::Integer => {
            FieldValue::Integer(preset.clone().or_else(bound).and_then(|text| text.parse().ok()).unwrap_or(42))
        }
        FieldType::Decimal => FieldValue::Text(preset.clone().or_else(bound).unwrap_or_else(|| "85.50".to_owned())),
        FieldType::Date => FieldValue::Text(preset.clone().or_else(bound).unwrap_or_else(|| "1985-12-31".to_owned())),
        FieldType::Boolean => FieldValue::Boolean(preset.as_deref() != Some("false")),
        FieldType::OneOf => text(field.values.first().map_or("", String::as_str)),
        FieldType::Postcode => text(match field.country.as_deref() {
            Some("US") => "20500",
            Some("GB") | None => "SW1A 1AA",
            Some(_) => "10115",
        }),
        FieldType::Url => text("https://www.example.com/quote?a=1&b=2"),
        FieldType::Ip => text("203.0.113.9"),
        FieldType::List => entries(field, plain),
    }
}

/// A list of two entries, or of as many as it must have or may.
fn entries(field: &Field, value: fn(&str, &Field) -> FieldValue) -> FieldValue {
    let bound =
        |scalar: &Option<crate::model::campaign::Scalar>| scalar.as_ref().and_then(|scalar| scalar.0.parse().ok());
    let count = 2.max(bound(&field.min).unwrap_or(0)).min(bound(&field.max).unwrap_or(usize::MAX));
    let entry = match &field.items {
        Some(items) => value("entry", items),
        None => {
            FieldValue::Group(field.fields.iter().map(|(name, member)| (name.clone(), value(name, member))).collect())
        }
    };
    FieldValue::List(vec![entry; count])
}

/// What patterns commonly ask for.
const SHAPES: [&str; 14] = [
    "Sample",
    "sample",
    "SAMPLE",
    "A",
    "AB",
    "ABC",
    "1",
    "12",
    "123",
    "1234",
    "12345678",
    "A1",
    "AB123456C",
    "2026-01-31",
];

/// A text that its pattern takes, if one of the common shapes does.
fn plain_text(name: &str, field: &Field) -> String {
    let Some(pattern) = &field.pattern else { return cut(&format!("Sample {name}"), field) };
    let Ok(pattern) = regex::Regex::new(&format!("^(?:{pattern})$")) else { return cut("Sample", field) };
    SHAPES.into_iter().find(|shape| pattern.is_match(shape)).unwrap_or("Sample").to_owned()
}

fn nasty(name: &str, field: &Field) -> FieldValue {
    match field.kind {
        // A pattern restricts like a type does.
        FieldType::Text if field.pattern.is_none() => FieldValue::Text(cut(&nasty_text(LONG), field)),
        FieldType::Email => FieldValue::Text("o'neil&\"co\"+{x}@example.com".to_owned()),
        FieldType::Url => FieldValue::Text("https://www.example.com/?a='1'&b=%3C{x}%3E#f".to_owned()),
        FieldType::Ip => FieldValue::Text("2001:db8::ff".to_owned()),
        FieldType::List => entries(field, nasty),
        _ => plain(name, field),
    }
}

/// The field's first `max` characters.
fn cut(text: &str, field: &Field) -> String {
    let most = field.max.as_ref().and_then(|max| max.0.parse().ok()).unwrap_or(LONG);
    text.chars().take(most).collect()
}

fn nasty_text(length: usize) -> String {
    const TRICKS: &str = "\"'<b a=\"1\">&amp;]]></b><!-- --><![CDATA[ {{lead.email}} {{{x}}} \\\\\" \\u0000 %00%41+&a=b;#? \
        \u{0}\u{1}\u{8}\t\r\n\u{b}\u{1f}\u{7f}\u{85}\u{2028}\u{feff}\u{fffe}\u{ffff} é ß ÅÅ 😀👩‍👩‍👧 \
        \u{202e}שלום مرحبا\u{202c} \u{10ffff} ${x} '; -- ";
    TRICKS.chars().cycle().take(length).collect()
}

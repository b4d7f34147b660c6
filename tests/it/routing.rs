//! Routing: filters, the order of candidates, and moving on until a lead is sold or nobody is left.

mod advance;
mod filters;
mod order;

use lead_gateway::model::campaign::Campaign;
use lead_gateway::model::id::LeadId;
use lead_gateway::model::lead::{FieldValue, Lead, Meta};

pub fn campaign(keys: &str) -> Campaign {
    toml::from_str(&format!(
        r#"
        id = "solar-uk"
        timezone = "Europe/London"
        currency = "GBP"
        {keys}
        [fields]
        email = {{ type = "email" }}
        phone = {{ type = "phone" }}
        postcode = {{ type = "postcode", country = "GB" }}
        monthly_bill = {{ type = "decimal" }}
        rooms = {{ type = "integer" }}
        birth_date = {{ type = "date" }}
        owner = {{ type = "boolean" }}
        roof = {{ type = "one_of", values = ["flat", "pitched"] }}
        comment = {{ type = "text" }}
        "#
    ))
    .unwrap()
}

/// A campaign that declares these fields alone.
pub fn campaign_with(fields: &str) -> Campaign {
    toml::from_str(&format!("id = \"solar-uk\"\ntimezone = \"UTC\"\ncurrency = \"GBP\"\n[fields]\n{fields}")).unwrap()
}

pub fn lead(fields: &[(&str, FieldValue)]) -> Lead {
    Lead {
        id: LeadId(uuid::Uuid::nil()),
        campaign: "solar-uk".parse().unwrap(),
        source: "acme-solar".parse().unwrap(),
        received_at: "2026-11-21T09:30:00Z".parse().unwrap(),
        test: false,
        fields: fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        meta: Meta::default(),
    }
}

pub fn text(value: &str) -> FieldValue {
    FieldValue::Text(value.to_owned())
}

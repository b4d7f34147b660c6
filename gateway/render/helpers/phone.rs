//! Phone numbers. Fields of the type `phone` are E.164 already; other texts need a `region` or a leading `+`.

use phonenumber::{Mode, country};
use serde_json::Value as Json;

use super::{Args, Literals, shorten};
use crate::model::contract::Contract;

const FORMATS: [&str; 4] = ["e164", "national", "international", "digits"];

pub(super) fn phone(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    if text.trim().is_empty() {
        return Ok("".into());
    }
    let region = args.option("region").map(|name| region(&name).ok_or(NO_REGION)).transpose()?;
    let number = phonenumber::parse(region, text.trim())
        .map_err(|_| "not a phone number with a country code, and no region=\"…\" says which it would have")?;
    let format = args.setting(1, "format");
    Ok(match format.as_deref().unwrap_or("e164") {
        "e164" => number.format().mode(Mode::E164).to_string(),
        "national" => number.format().mode(Mode::National).to_string(),
        "international" => number.format().mode(Mode::International).to_string(),
        "digits" => number.format().mode(Mode::E164).to_string().replace('+', ""),
        _ => return Err(format!("the format is not one of {}", FORMATS.join(", "))),
    }
    .into())
}

pub(super) fn check(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    if let Ok(Some(name)) = literals.setting(usize::MAX, "region") {
        region(&name).ok_or_else(|| format!("`{}`: {NO_REGION}", shorten(&name)))?;
    }
    literals.one_of(1, "format", &FORMATS)
}

const NO_REGION: &str = "the region is not an ISO 3166 code such as \"GB\"";

fn region(name: &str) -> Option<country::Id> {
    name.parse().ok()
}

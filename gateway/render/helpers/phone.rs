//! Phone numbers. Fields of the type `phone` are E.164 already; other texts need a `region` or a leading `+`.

use serde_json::Value as Json;

use super::{Args, Literals, shorten};
use crate::model::contract::Contract;
use crate::model::phone::{Number, Region};

const FORMATS: [&str; 4] = ["e164", "national", "international", "digits"];

pub(super) fn phone(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    let text = text.trim();
    if text.is_empty() {
        return Ok("".into());
    }
    let region = args.option("region").map(|name| Region::new(&name).ok_or(NO_REGION)).transpose()?;
    let number = Number::read(text, region)
        .ok_or("not a phone number with a country code, and no region=\"…\" says which it would have")?;
    let format = args.setting(1, "format");
    Ok(match format.as_deref().unwrap_or("e164") {
        "e164" => number.e164(),
        "national" => number.national(),
        "international" => number.international(),
        "digits" => number.e164().replace('+', ""),
        _ => return Err(format!("the format is not one of {}", FORMATS.join(", "))),
    }
    .into())
}

pub(super) fn check(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    if let Ok(Some(name)) = literals.setting(usize::MAX, "region") {
        Region::new(&name).ok_or_else(|| format!("`{}`: {NO_REGION}", shorten(&name)))?;
    }
    literals.one_of(1, "format", &FORMATS)
}

const NO_REGION: &str = "the region is not an ISO 3166 code such as \"GB\"";

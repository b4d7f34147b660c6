//! Numbers, as exact decimals: never through a float.

use rust_decimal::{Decimal, RoundingStrategy};

use super::{Args, Literals, Value};
use crate::model::contract::Contract;

pub(super) fn number<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    if text.trim().is_empty() {
        return Ok("".into());
    }
    let value = read(&text).ok_or("not a number")?;
    let text = match args.setting(1, "decimals") {
        Some(decimals) => {
            let places = places(&decimals)?;
            let rounded = value.round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero);
            format!("{rounded:.width$}", width = places as usize)
        }
        None => value.to_string(),
    };
    Ok(punctuate(&text, args.option("decimal").as_deref().unwrap_or("."), args.option("group").as_deref()).into())
}

pub(super) fn check(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    match literals.setting(1, "decimals") {
        Ok(Some(decimals)) => places(&decimals).map(drop),
        _ => Ok(()),
    }
}

/// A decimal of at most 28 digits, with an exponent or without.
pub(super) fn read(text: &str) -> Option<Decimal> {
    let text = text.trim();
    text.parse().ok().or_else(|| Decimal::from_scientific(text).ok())
}

fn places(text: &str) -> Result<u32, String> {
    let places = text.trim().parse().ok().filter(|places| *places <= 20);
    places.ok_or_else(|| "decimals is not a whole number from 0 to 20".to_owned())
}

fn punctuate(text: &str, decimal: &str, group: Option<&str>) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let mut out = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push_str(group.unwrap_or_default());
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push_str(decimal);
        out.push_str(fraction);
    }
    out
}

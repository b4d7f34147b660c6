//! Helpers that cut and change text. Positions and lengths are in characters (Unicode scalar values).

use serde_json::Value as Json;

use super::{Args, text_of};

pub(super) fn upper(args: &Args<'_, '_>) -> Result<Json, String> {
    Ok(args.text(0).to_uppercase().into())
}

pub(super) fn lower(args: &Args<'_, '_>) -> Result<Json, String> {
    Ok(args.text(0).to_lowercase().into())
}

/// Initials are capitals after white space, a hyphen, and an apostrophe that follows a single letter (O'Brien, but not
/// don't).
pub(super) fn title(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    let mut out = String::with_capacity(text.len());
    let mut letters = 0_usize;
    for c in text.chars() {
        if letters == 0 {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        let ends_word = c.is_whitespace() || c == '-' || (matches!(c, '\'' | '’') && letters == 1);
        letters = if ends_word { 0 } else { letters + 1 };
    }
    Ok(out.into())
}

pub(super) fn trim(args: &Args<'_, '_>) -> Result<Json, String> {
    Ok(args.text(0).trim().into())
}

pub(super) fn slice(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    let length = text.chars().count();
    let place = |at: usize, word: &str| {
        let number: i64 = args.text(at).trim().parse().map_err(|_| format!("{word} is not a whole number"))?;
        let distance = usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX);
        Ok::<_, String>(if number < 0 { length.saturating_sub(distance) } else { distance.min(length) })
    };
    let start = place(1, "START")?;
    let end = if args.count() > 2 { place(2, "END")? } else { length };
    Ok(text.chars().skip(start).take(end.saturating_sub(start)).collect::<String>().into())
}

pub(super) fn replace(args: &Args<'_, '_>) -> Result<Json, String> {
    let from = args.text(1);
    if from.is_empty() {
        return Err("FROM is empty: say what to replace".to_owned());
    }
    Ok(args.text(0).replace(from.as_ref(), &args.text(2)).into())
}

pub(super) fn concat(args: &Args<'_, '_>) -> Result<Json, String> {
    let parts = args.values().flat_map(|value| match value {
        Json::Array(entries) => entries.iter().map(text_of).collect(),
        value => vec![text_of(value)],
    });
    Ok(match args.option("separator") {
        Some(separator) => parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&separator).into(),
        None => parts.collect::<String>().into(),
    })
}

pub(super) fn len(args: &Args<'_, '_>) -> Result<Json, String> {
    Ok(match args.value(0) {
        Json::Array(entries) => entries.len(),
        _ => args.text(0).chars().count(),
    }
    .into())
}

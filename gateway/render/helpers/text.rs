//! Helpers that cut and change text. Positions and lengths are in characters (Unicode scalar values).

use std::borrow::Cow;

use serde_json::Value as Json;

use super::{Args, Value, text_of};

pub(super) fn upper<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    let as_it_is = text.bytes().all(|b| b.is_ascii() && !b.is_ascii_lowercase());
    Ok(if as_it_is { text.into() } else { text.to_uppercase().into() })
}

pub(super) fn lower<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    let as_it_is = text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase());
    Ok(if as_it_is { text.into() } else { text.to_lowercase().into() })
}

/// Initials are capitals after white space, a hyphen, and an apostrophe that follows a single letter (O'Brien, but not
/// don't).
pub(super) fn title<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
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

pub(super) fn trim<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    Ok(match args.text(0) {
        Cow::Borrowed(text) => text.trim().into(),
        Cow::Owned(text) => text.trim().to_owned().into(),
    })
}

pub(super) fn slice<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
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

pub(super) fn replace<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let from = args.text(1);
    if from.is_empty() {
        return Err("FROM is empty: say what to replace".to_owned());
    }
    Ok(args.text(0).replace(from.as_ref(), &args.text(2)).into())
}

pub(super) fn concat<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let parts = args.values.iter().flat_map(|value| match value {
        Value::Parts(list) => match list.as_ref() {
            Json::Array(entries) => entries.iter().map(text_of).collect(),
            _ => Vec::new(),
        },
        value => vec![value.text()],
    });
    Ok(match args.option("separator") {
        Some(separator) => parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&separator).into(),
        None => parts.collect::<String>().into(),
    })
}

pub(super) fn len<'v>(args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    let length = match args.value(0) {
        Value::Parts(list) => list.as_array().map_or(0, Vec::len),
        value => value.text().chars().count(),
    };
    Ok(Value::Number(length.into()))
}

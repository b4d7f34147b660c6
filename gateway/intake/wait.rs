//! How long a source wants to wait for its lead's outcome.

use std::time::Duration;

use http::HeaderMap;

/// The longest wait; a longer wish is cut to it.
pub const MAX_WAIT: Duration = Duration::from_mins(1);

/// `?wait=` is not a whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`wait` in the query must be a whole number of seconds from 0 to 60")]
pub struct BadWait;

/// How long to wait: `?wait=N`, or else `Prefer: wait=N` (RFC 7240, section 4.3), or else the source's `usual`; zero is
/// not at all.
///
/// # Errors
/// When the query's is no number of seconds. A preference that is not understood is ignored, as RFC 7240 asks.
pub fn wait(headers: &HeaderMap, query: Option<&str>, usual: Option<Duration>) -> Result<Duration, BadWait> {
    let wish = match super::query_value(query, "wait") {
        Some(text) => Some(seconds(&text).ok_or(BadWait)?),
        None => preferred(headers).or(usual),
    };
    Ok(wish.unwrap_or_default().min(MAX_WAIT))
}

/// The first `wait` counts, even when it is not understood (RFC 7240, section 2).
fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wish = values.flat_map(|value| split_unquoted(value, ',')).find_map(|preference| {
        // What stands after a `;` are parameters, of which `wait` has none.
        let (name, value) = split_unquoted(preference, ';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    })?;
    seconds(wish.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(wish))
}

/// Whole seconds. More digits than fit are a very long wait, not an error.
fn seconds(text: &str) -> Option<Duration> {
    let numeric = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| text.parse().map_or(MAX_WAIT, Duration::from_secs))
}

/// The parts between separators that do not stand within quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

//! Reading rows back into the model: ids, times and words.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// A column that must hold what this version can read.
pub(super) fn bad(column: usize, why: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why.to_string().into())
}

pub(super) fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    Uuid::from_slice(row.get_ref(column)?.as_blob()?).map_err(|error| bad(column, error))
}

pub(super) fn uuid_opt(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Uuid>> {
    match row.get_ref(column)?.as_blob_or_null()? {
        Some(bytes) => Uuid::from_slice(bytes).map(Some).map_err(|error| bad(column, error)),
        None => Ok(None),
    }
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?).map_err(|error| bad(column, error))
}

pub(super) fn time_opt(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?
        .map(|micros| Timestamp::from_microsecond(micros).map_err(|error| bad(column, error)))
        .transpose()
}

/// A name or number kept as text.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| bad(column, error))
}

/// A word of one of the model's vocabularies.
pub(super) fn word<T>(row: &Row<'_>, column: usize, from_word: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let word = row.get_ref(column)?.as_str()?;
    from_word(word).ok_or_else(|| bad(column, format!("unknown word `{word}`")))
}

pub(super) fn word_opt<T>(
    row: &Row<'_>,
    column: usize,
    from_word: fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        Some(word) => from_word(word).map(Some).ok_or_else(|| bad(column, format!("unknown word `{word}`"))),
        None => Ok(None),
    }
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| bad(column, error))
}

pub(super) fn json_opt<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| bad(column, error)),
        None => Ok(None),
    }
}

/// Our own types always serialise; should one not, the write fails like any other.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// A count of the model as SQLite keeps it.
pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

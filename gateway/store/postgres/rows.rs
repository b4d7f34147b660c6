//! Reading PostgreSQL's rows back into the model: ids, times and words.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::store::StoreError;

/// A column that must hold what this version can read.
pub(super) fn bad(row: &Row, column: usize, why: impl std::fmt::Display) -> StoreError {
    let name = row.columns().get(column).map_or("?", |column| column.name());
    StoreError::Failed(format!("the column {name} holds what this version cannot read: {why}"))
}

pub(super) fn time(row: &Row, column: usize) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(row.try_get(column)?).map_err(|error| bad(row, column, error))
}

pub(super) fn time_opt(row: &Row, column: usize) -> Result<Option<Timestamp>, StoreError> {
    row.try_get::<_, Option<i64>>(column)?
        .map(|micros| Timestamp::from_microsecond(micros).map_err(|error| bad(row, column, error)))
        .transpose()
}

/// A name or number kept as text.
pub(super) fn parsed<T>(row: &Row, column: usize) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    row.try_get::<_, &str>(column)?.parse().map_err(|error| bad(row, column, error))
}

/// A word of one of the model's vocabularies.
pub(super) fn word<T>(row: &Row, column: usize, from_word: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    let word: &str = row.try_get(column)?;
    from_word(word).ok_or_else(|| bad(row, column, format!("unknown word `{word}`")))
}

pub(super) fn word_opt<T>(row: &Row, column: usize, from_word: fn(&str) -> Option<T>) -> Result<Option<T>, StoreError> {
    match row.try_get::<_, Option<&str>>(column)? {
        Some(word) => from_word(word).map(Some).ok_or_else(|| bad(row, column, format!("unknown word `{word}`"))),
        None => Ok(None),
    }
}

pub(super) fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, StoreError> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| bad(row, column, error))
}

pub(super) fn json_opt<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, StoreError> {
    match row.try_get::<_, Option<&str>>(column)? {
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| bad(row, column, error)),
        None => Ok(None),
    }
}

/// A count, which PostgreSQL keeps signed.
pub(super) fn count(row: &Row, column: usize) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}

/// A smaller one.
pub(super) fn small<T: TryFrom<i32>>(row: &Row, column: usize) -> Result<T, StoreError> {
    let n: i32 = row.try_get(column)?;
    T::try_from(n).map_err(|_| bad(row, column, format!("{n} is out of range")))
}

pub(super) fn small_opt<T: TryFrom<i32>>(row: &Row, column: usize) -> Result<Option<T>, StoreError> {
    match row.try_get::<_, Option<i32>>(column)? {
        Some(n) => T::try_from(n).map(Some).map_err(|_| bad(row, column, format!("{n} is out of range"))),
        None => Ok(None),
    }
}

/// What a statement finds; it is prepared once on each connection.
pub(super) async fn query(
    db: &impl GenericClient,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query(&statement, parameters).await?)
}

/// The row that a statement finds, if any; it is prepared once on each connection.
pub(super) async fn query_opt(
    db: &impl GenericClient,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Option<Row>, StoreError> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query_opt(&statement, parameters).await?)
}

/// How many rows a statement changed; it is prepared once on each connection.
pub(super) async fn execute(
    db: &impl GenericClient,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, StoreError> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.execute(&statement, parameters).await?)
}

/// A text without NUL, which PostgreSQL's text cannot hold and SQLite's can.
pub(super) fn text(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

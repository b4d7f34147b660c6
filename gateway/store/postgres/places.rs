//! Place counts in PostgreSQL.

use super::{Postgres, rows};
use crate::model::limit::PlaceKey;
use crate::store::StoreError;
use std::collections::HashMap;
use tokio_postgres::Row;

impl Postgres {
    pub(in crate::store) async fn places(&self, keys: Vec<PlaceKey>) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        let texts: Vec<&str> = keys.iter().map(PlaceKey::as_str).collect();
        let session = self.session().await?;
        let found = rows::query(&session, "SELECT key, used FROM place WHERE key = ANY($1)", &[&texts]).await?;
        let counts: HashMap<PlaceKey, u64> = found.iter().map(count_of).collect::<Result<_, _>>()?;
        Ok(keys.into_iter().map(|key| (key.clone(), counts.get(&key).copied().unwrap_or(0))).collect())
    }

    pub(in crate::store) async fn all_places(&self) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        let session = self.session().await?;
        rows::query(&session, "SELECT key, used FROM place WHERE used <> 0", &[]).await?.iter().map(count_of).collect()
    }

    pub(in crate::store) async fn recount_places(&self) -> Result<HashMap<PlaceKey, u64>, StoreError> {
        let session = self.session().await?;
        let counted = "SELECT key, count(*) FROM delivery, unnest(string_to_array(places, E'\\n')) AS own (key)
             WHERE places <> '' GROUP BY key";
        rows::query(&session, counted, &[]).await?.iter().map(count_of).collect()
    }
}

fn count_of(row: &Row) -> Result<(PlaceKey, u64), StoreError> {
    Ok((PlaceKey::from_text(row.try_get(0)?), rows::count(row, 1)?))
}

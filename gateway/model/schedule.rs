//! Weekly hours as people write them. What they mean at an instant is the gate's business (`gate/schedule.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The configured table, day or range of days → hours: `{ mon-fri = "09:00-12:00, 13:00-17:00", sat = "10:00-14:00" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WeekTable(pub BTreeMap<String, String>);

//! Many leads in an embedded store, without a gateway: copies of one lead that a gateway took, with ids, times, addresses
//! and numbers of their own, and with everything by which they are found. Whatever columns the store has are copied.

use std::path::Path;

use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use sha2::Sha256;
use uuid::Uuid;

/// The load of the sample and the load whose name its copies have.
const COPY: &str = "999999";
/// Entries of a run of look-ups, and of one of its rows.
const RUN: usize = 60_000;
const PER_ROW: usize = 56;
/// Columns that hold a time, and so move with the lead.
const TIMES: [&str; 8] =
    ["received_at", "created_at", "updated_at", "first_attempt_at", "started_at", "ended_at", "deadline", "due_at"];

/// The e-mail address of the `n`th copy.
pub fn email(n: u64) -> String {
    format!("lead.{COPY}.{n:010}@example.com")
}

/// Copies the only lead of the database so many times; received evenly from `from` to `to`. The sample's exchanges are not
/// copied: theirs have been dropped.
pub fn copies(database: &Path, many: u64, from: Timestamp, to: Timestamp) -> anyhow::Result<()> {
    let mut conn = Connection::open(database).with_context(|| format!("{} cannot be opened", database.display()))?;
    // Nobody else has it open, and what breaks off is thrown away: no log, no syncs.
    conn.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -524288;",
    )?;
    let sample = Sample::read(&conn)?;
    let step = (to.as_microsecond() - from.as_microsecond()) as f64 / many.max(1) as f64;
    let mut next = 0;
    while next < many {
        // A day at a time, for look-ups have a table for each.
        let day = day_of(Timestamp::from_microsecond(from.as_microsecond() + (next as f64 * step) as i64)?);
        let tx = conn.transaction()?;
        for definition in &sample.day_tables {
            tx.execute_batch(&definition.replace(&sample.day, &day))?;
        }
        next = sample.copy_day(&tx, next..many, &day, |n| from.as_microsecond() + (n as f64 * step) as i64)?;
        tx.commit()?;
    }
    // What a gateway finds when it starts.
    conn.execute_batch("PRAGMA locking_mode = NORMAL; PRAGMA journal_mode = WAL;")?;
    Ok(())
}

/// One lead with what belongs to it.
struct Sample {
    key: Vec<u8>,
    /// YYYYMMDD
    day: String,
    received: i64,
    lead: Row,
    /// What it brought.
    data: Row,
    delivery: Row,
    attempts: Vec<Row>,
    /// What it is found by: kind and value, the value with the sample's digits.
    lookups: Vec<(&'static str, String)>,
    /// What makes the tables and indexes of a day, as the store wrote it.
    day_tables: Vec<String>,
    run: String,
}

/// A row of a table: its columns and their values.
struct Row {
    table: &'static str,
    columns: Vec<String>,
    values: Vec<Value>,
}

impl Sample {
    fn read(conn: &Connection) -> anyhow::Result<Self> {
        let only = |table| Row::all(conn, table)?.pop().with_context(|| format!("the store has no {table} to copy"));
        let (lead, data, delivery) = (only("lead")?, only("lead_data")?, only("delivery")?);
        let fields: serde_json::Value = serde_json::from_str(&data.text("fields")?)?;
        let meta: serde_json::Value = serde_json::from_str(&data.text("meta")?)?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("the sample lacks a field");
        let email = text(&fields["email"])?;
        let run = email.split('.').nth(1).context("the sample's address is not one of ours")?.to_owned();
        let mut lookups = vec![
            ("email", email),
            ("phone", text(&fields["phone"])?),
            ("external_id", text(&meta["external_id"])?),
            ("click_id", text(&meta["click_id"])?),
        ];
        if let Value::Text(reference) = delivery.value("reference")? {
            lookups.push(("reference", reference.clone()));
        }
        let received = lead.integer("received_at")?;
        let day = day_of(Timestamp::from_microsecond(received)?);
        let key: Vec<u8> = conn.query_row("SELECT value FROM meta WHERE key = 'lookup_key'", [], |row| row.get(0))?;
        let sample = Self {
            lookups,
            day_tables: definitions(conn, &day)?,
            attempts: Row::all(conn, "attempt")?,
            key,
            day,
            received,
            lead,
            data,
            delivery,
            run,
        };
        sample.check_lookups(conn)?;
        Ok(sample)
    }

    /// The store must hash as we do, or the copies would not be found.
    fn check_lookups(&self, conn: &Connection) -> anyhow::Result<()> {
        let mut select = conn.prepare("SELECT hashes FROM lookup_tail")?;
        let rows: Vec<Vec<u8>> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut theirs: Vec<Vec<u8>> = rows.iter().flat_map(|row| row.chunks(16).map(<[u8]>::to_vec)).collect();
        let mut ours: Vec<Vec<u8>> = self.lookups.iter().map(|(kind, value)| self.hash(kind, value)).collect();
        theirs.sort();
        ours.sort();
        anyhow::ensure!(ours == theirs, "the store looks leads up by something else than fill.rs knows of");
        Ok(())
    }

    /// Copies those of `left` that were received on `day`; the first that was not.
    fn copy_day(
        &self,
        conn: &Connection,
        left: std::ops::Range<u64>,
        day: &str,
        received: impl Fn(u64) -> i64,
    ) -> anyhow::Result<u64> {
        let mut insert_lead = conn.prepare(&self.lead.insert())?;
        let mut insert_delivery = conn.prepare(&self.delivery.insert())?;
        let mut insert_attempt = conn.prepare(&Row::insert_into("attempt", self.attempts.first()))?;
        let mut insert_data = conn.prepare(&self.data.insert())?;
        let mut runs = Runs { conn, day, run: 0, entries: Vec::new() };
        let end = day_ends(received(left.start))?;
        for n in left.clone() {
            let at = received(n);
            if at >= end {
                runs.write()?;
                return Ok(n);
            }
            // The first is the sample's.
            let seq = Value::Integer(n as i64 + 2);
            let (lead, delivery) = (id(at, 1, n), id(at, 2, n));
            let own = |name: &str, value: &Value| self.own(name, value, n, at, &lead, &delivery);
            insert_data.execute(params_from_iter(self.data.with(|name, value| match name {
                "seq" => seq.clone(),
                _ => own(name, value),
            })))?;
            insert_lead.execute(params_from_iter(self.lead.with(|name, value| match name {
                "id" => Value::Blob(lead.to_vec()),
                "data" => seq.clone(),
                _ => own(name, value),
            })))?;
            insert_delivery.execute(params_from_iter(self.delivery.with(|name, value| match name {
                "id" => Value::Blob(delivery.to_vec()),
                _ => own(name, value),
            })))?;
            for attempt in &self.attempts {
                insert_attempt.execute(params_from_iter(attempt.with(own)))?;
            }
            for (kind, value) in &self.lookups {
                let id = if *kind == "reference" { &delivery } else { &lead };
                runs.entries.push([self.hash(kind, &self.renumber(value, n)), id.to_vec()].concat());
            }
            if runs.entries.len() >= RUN {
                runs.write()?;
            }
        }
        runs.write()?;
        Ok(left.end)
    }

    /// A column's value in the `n`th copy.
    fn own(&self, name: &str, value: &Value, n: u64, at: i64, lead: &[u8], delivery: &[u8]) -> Value {
        match (name, value) {
            ("lead", _) => Value::Blob(lead.to_vec()),
            ("delivery", _) => Value::Blob(delivery.to_vec()),
            ("exchange_day", _) => Value::Null,
            (name, Value::Integer(time)) if TIMES.contains(&name) => Value::Integer(time - self.received + at),
            ("fields" | "meta" | "reference", Value::Text(text)) => Value::Text(self.renumber(text, n)),
            ("body", Value::Blob(body)) => Value::Blob(self.renumber(&String::from_utf8_lossy(body), n).into_bytes()),
            _ => value.clone(),
        }
    }

    /// A text with this copy's numbers in place of the sample's.
    fn renumber(&self, text: &str, n: u64) -> String {
        let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let places = [
            (format!("lead.{}.", self.run), format!("lead.{COPY}."), 10, n),
            (format!("X-{}-", self.run), format!("X-{COPY}-"), 10, n),
            ("EAIaIQobChMI".to_owned(), "EAIaIQobChMI".to_owned(), 10, spread),
            ("07400 ".to_owned(), "07400 ".to_owned(), 6, spread),
            ("+447400".to_owned(), "+447400".to_owned(), 6, spread),
        ];
        let mut text = text.to_owned();
        for (before, instead, width, number) in places {
            if let Some(at) = text.find(&before) {
                let number = number % 10_u64.pow(width);
                let width = width as usize;
                text.replace_range(at..at + before.len() + width, &format!("{instead}{number:0width$}"));
            }
        }
        // A reference is nothing else.
        if text.len() == 13 && text.starts_with('R') { format!("R{n:012}") } else { text }
    }

    /// As the store hashes what it looks up (store/hashes.rs).
    fn hash(&self, kind: &str, value: &str) -> Vec<u8> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return Vec::new() };
        for part in [kind, value] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes()[..16].to_vec()
    }
}

/// Look-ups as the store writes them when it has sorted them (store/sqlite/lookups.rs).
struct Runs<'a> {
    conn: &'a Connection,
    day: &'a str,
    run: i64,
    /// Hash and id.
    entries: Vec<Vec<u8>>,
}

impl Runs<'_> {
    fn write(&mut self) -> anyhow::Result<()> {
        self.entries.sort_unstable();
        self.run += 1;
        let sql = format!("INSERT INTO lookup_run_{} (run, first, entries) VALUES (?1, ?2, ?3)", self.day);
        let mut insert = self.conn.prepare_cached(&sql)?;
        for row in self.entries.chunks(PER_ROW) {
            insert.execute((self.run, &row[0], row.concat()))?;
        }
        self.entries.clear();
        Ok(())
    }
}

impl Row {
    fn all(conn: &Connection, table: &'static str) -> anyhow::Result<Vec<Self>> {
        let mut select = conn.prepare(&format!("SELECT * FROM {table}"))?;
        let columns: Vec<String> = select.column_names().map(str::to_owned).collect();
        let rows = select.query_map([], |row| {
            let values = (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
            Ok(Self { table, columns: columns.clone(), values })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn insert(&self) -> String {
        let places = vec!["?"; self.columns.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({places})", self.table, self.columns.join(", "))
    }

    /// The statement for a row; one that does nothing where there is none.
    fn insert_into(table: &str, row: Option<&Self>) -> String {
        row.map_or_else(|| format!("DELETE FROM {table} WHERE false"), Self::insert)
    }

    /// The values of a copy.
    fn with(&self, of: impl Fn(&str, &Value) -> Value) -> Vec<Value> {
        self.columns.iter().zip(&self.values).map(|(name, value)| of(name, value)).collect()
    }

    fn value(&self, name: &str) -> anyhow::Result<&Value> {
        let at = self.columns.iter().position(|column| column == name);
        at.and_then(|at| self.values.get(at)).with_context(|| format!("{} has no column {name}", self.table))
    }

    fn text(&self, name: &str) -> anyhow::Result<String> {
        match self.value(name)? {
            Value::Text(text) => Ok(text.clone()),
            other => anyhow::bail!("{}.{name} is {other:?} and not a text", self.table),
        }
    }

    fn integer(&self, name: &str) -> anyhow::Result<i64> {
        match self.value(name)? {
            Value::Integer(number) => Ok(*number),
            other => anyhow::bail!("{}.{name} is {other:?} and not a number", self.table),
        }
    }
}

/// How the tables and indexes of a day were made.
fn definitions(conn: &Connection, day: &str) -> anyhow::Result<Vec<String>> {
    let mut select = conn.prepare(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name LIKE '%' || ?1 || '%' ORDER BY type DESC",
    )?;
    let found: Vec<String> = select.query_map([day], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let again = |sql: &String| {
        sql.replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1).replacen(
            "CREATE INDEX ",
            "CREATE INDEX IF NOT EXISTS ",
            1,
        )
    };
    Ok(found.iter().map(again).collect())
}

/// The UTC day as YYYYMMDD.
fn day_of(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%d").to_string()
}

/// The midnight (UTC) after an instant, microseconds.
fn day_ends(micros: i64) -> anyhow::Result<i64> {
    const DAY: i64 = 86_400_000_000;
    micros.div_euclid(DAY).checked_add(1).map(|days| days * DAY).context("no such day")
}

/// A UUIDv7 of that time; of two, the later and then the one with the greater number is the greater.
fn id(micros: i64, kind: u8, n: u64) -> [u8; 16] {
    let millis = u64::try_from(micros / 1_000).unwrap_or_default();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    // What the variant overwrites is zero in any number that is copied.
    bytes[9] = kind;
    let id: Uuid = uuid::Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid();
    *id.as_bytes()
}

//! `gateway import`: a CSV file's rows become leads of a source, by the checks of a post.
//!
//! No row becomes a second lead: each has an idempotency key made of the source, the file's hash and its number. How far
//! the import came is kept beside the file, so that the same command goes on there.

mod mapping;
mod record;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Misuse;
use super::progress::{Interrupt, Progress, counted};
use crate::api::import::{ImportRequest, ROWS_AT_MOST, Rehearsed, Row as Posted, RowAnswer, Target, TargetRequest};
use crate::app::control::Line;
use crate::clock::Clock;
use crate::config::Config;
use mapping::{Column, To};
use record::{Paths, Record, Refused};
use table::{Encoding, Row, Table};

/// Rows that a preview shows.
const PREVIEWED: usize = 5;
/// How often a row is tried that the gateway cannot take now, a moment after each other.
const TRIES: u32 = 30;

/// What to import, and how.
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// A CSV file whose first line names the columns.
    file: PathBuf,
    /// Whose leads they are: a source's id.
    #[arg(long)]
    source: String,
    /// Where a column goes: --map "E-mail address=email". Repeat it for others; nothing after the `=` leaves a column out.
    /// Columns called like a field or a metadata name (whatever the case, spaces, `_` and `-`) need none.
    #[arg(long = "map", value_name = "COLUMN=FIELD", value_parser = wish)]
    maps: Vec<(String, String)>,
    /// The same as a file: lines such as "E-mail address" = "email"; false leaves a column out.
    #[arg(long, value_name = "FILE.toml")]
    mapping: Option<PathBuf>,
    /// Leave out columns that are no field of the campaign. (Else they are kept as text, or refused, as the campaign says.)
    #[arg(long)]
    ignore_unmapped: bool,
    /// Show the mapping and how the first rows would be read, and import nothing.
    #[arg(long)]
    preview: bool,
    /// Mark all as test leads: validated, routed and rendered, never sent.
    #[arg(long)]
    test: bool,
    /// What stands between columns: `,`, `;` or `tab`. By default what the first line suggests.
    #[arg(long, value_name = ",|;|tab", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// utf-8 or windows-1252.
    #[arg(long, default_value = "utf-8", value_parser = encoding)]
    encoding: Encoding,
    /// Forget how far an earlier run came, and begin with the first row.
    #[arg(long)]
    restart: bool,
    /// Begin with this row, the first below the header being 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from_row: Option<u64>,
}

fn wish(text: &str) -> Result<(String, String), String> {
    // A header may have a `=` in it; a field's name has none.
    let (column, field) = text.rsplit_once('=').ok_or("write COLUMN=FIELD")?;
    Ok((column.trim().to_owned(), field.trim().to_owned()))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "," => Ok(b','),
        ";" => Ok(b';'),
        "tab" | "\t" => Ok(b'\t'),
        _ => Err("use `,`, `;` or `tab`".to_owned()),
    }
}

fn encoding(text: &str) -> Result<Encoding, String> {
    match text.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => Ok(Encoding::Utf8),
        "windows-1252" | "cp1252" | "latin1" | "iso-8859-1" => Ok(Encoding::Windows1252),
        _ => Err("use utf-8 or windows-1252".to_owned()),
    }
}

/// What came of an import.
#[derive(Debug, Serialize)]
struct Report {
    rows: u64,
    done: u64,
    accepted: u64,
    duplicate: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_file: Option<PathBuf>,
    /// Why it stopped before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

pub(super) async fn run(config: Config, wish: Wish, json: bool) -> anyhow::Result<bool> {
    let table = Table::open(&wish.file, wish.delimiter, wish.encoding)?;
    let wishes = wishes(&wish)?;
    let line = Line::open(config).await?;
    let done = import(&line, &wish, &table, &wishes, json).await;
    line.close().await;
    done
}

/// Header → field, of the file and of the arguments, which win.
fn wishes(wish: &Wish) -> anyhow::Result<BTreeMap<String, String>> {
    let mut wishes = BTreeMap::new();
    if let Some(path) = &wish.mapping {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
        let file: toml::Table = toml::from_str(&text).with_context(|| format!("{shown} is not TOML"))?;
        for (column, field) in file {
            let field = match field {
                toml::Value::String(field) => field,
                toml::Value::Boolean(false) => String::new(),
                _ => bail!("{shown}: \"{column}\" must be a field's name, or false to leave the column out"),
            };
            wishes.insert(column, field);
        }
    }
    wishes.extend(wish.maps.iter().cloned());
    Ok(wishes)
}

async fn import(
    line: &Line,
    wish: &Wish,
    table: &Table,
    wishes: &BTreeMap<String, String>,
    json: bool,
) -> anyhow::Result<bool> {
    let request = TargetRequest { source: wish.source.clone() };
    let target: Target = line.ask("/import/target", &request).await?;
    let columns = match mapping::map(&table.header, &target, wishes, wish.ignore_unmapped) {
        Ok(columns) => columns,
        Err(faults) => bail!(Misuse(format!("the columns cannot be mapped:\n  {}", faults.join("\n  ")))),
    };
    if wish.preview {
        return preview(line, wish, table, &columns, json).await;
    }
    let clock = Clock::system();
    let paths = Paths::of(&wish.file, wish.test);
    let now = clock.now();
    let mut record = if wish.test {
        // A rehearsal leaves nothing behind that the real import would have to know.
        Record::new(table, &wish.source, now)
    } else {
        Record::begin(&paths, table, &wish.source, wish.restart, wish.from_row.is_some(), now)?
    };
    if let Some(row) = wish.from_row {
        // One behind the last says that all are done.
        if row > table.rows + 1 {
            bail!(Misuse(format!("--from-row {row}: the file has {} rows", table.rows)));
        }
        record.go_to(row);
    }
    if record.finished {
        if json {
            super::print_json(&report(&record, table, &paths, None))?;
        } else {
            println!(
                "{} has been imported: {} To import it again, use --restart.",
                wish.file.display(),
                summary(&record, table)
            );
        }
        return Ok(record.refused == 0);
    }
    if record.done > 0 && !json {
        super::progress::note(&format!("going on with row {} of {}", record.done + 1, table.rows));
    }
    let mut importer = Importer { line, wish, table, columns: &columns, paths: &paths, clock, record };
    let ended = importer.run().await;
    let stopped = match &ended {
        Ok(stopped) => stopped.clone(),
        Err(error) => Some(format!("{error:#}")),
    };
    let record = importer.record;
    if json {
        super::print_json(&report(&record, table, &paths, stopped.clone()))?;
    } else {
        tell(&record, wish, table, &paths, stopped.as_deref(), line.is_running());
    }
    Ok(stopped.is_none() && record.refused == 0)
}

fn report(record: &Record, table: &Table, paths: &Paths, stopped: Option<String>) -> Report {
    Report {
        rows: table.rows,
        done: record.done,
        accepted: record.accepted,
        duplicate: record.duplicate,
        refused: record.refused,
        refused_file: (record.refused > 0).then(|| paths.refused.clone()),
        stopped,
    }
}

fn summary(record: &Record, table: &Table) -> String {
    let blank = if record.blank > 0 { format!(", {} blank", record.blank) } else { String::new() };
    format!(
        "{} of {} rows: {} accepted, {} duplicate, {} refused{blank}.",
        record.done, table.rows, record.accepted, record.duplicate, record.refused
    )
}

fn tell(record: &Record, wish: &Wish, table: &Table, paths: &Paths, stopped: Option<&str>, running: bool) {
    println!("{}", summary(record, table));
    if record.refused > 0 {
        println!(
            "The refused rows are in {0}, each with its reasons: mend them there, and import that file:\n  \
             gateway import --source {1} {0}",
            paths.refused.display(),
            wish.source
        );
    }
    if let Some(why) = stopped {
        println!("Stopped at row {}: {why}", record.done + 1);
        if !wish.test {
            println!("The same command goes on there; no row becomes a second lead within 24 hours.");
        }
    }
    if !running && record.accepted > 0 && !wish.test {
        println!("No gateway runs: the leads are delivered after the next start.");
    }
}

struct Importer<'a> {
    line: &'a Line,
    wish: &'a Wish,
    table: &'a Table,
    columns: &'a [Column],
    paths: &'a Paths,
    clock: Clock,
    record: Record,
}

/// What became of the rows of one call.
enum Went {
    /// All are answered.
    On,
    /// The next one may be tried after a while.
    Wait { seconds: u64, counts: bool, why: String },
    /// The next one cannot be taken for longer.
    Stop(String),
}

impl Importer<'_> {
    /// Until the end, or until something stops it: then why.
    async fn run(&mut self) -> anyhow::Result<Option<String>> {
        let mut interrupt = Interrupt::listen()?;
        let mut refused = Refused::open(&self.paths.refused, self.table, &self.record)?;
        let mut rows = self.table.read()?;
        for _ in 0..self.record.done {
            rows.next_row()?;
        }
        let mut progress = Progress::new("rows", self.table.rows);
        self.record.stopped = false;
        self.save()?;
        let mut tries = 0;
        let mut waiting: Vec<Row> = Vec::new();
        let stopped = loop {
            while waiting.len() < ROWS_AT_MOST
                && let Some(row) = rows.next_row()?
            {
                waiting.push(row);
            }
            if !self.table.is_unchanged() {
                bail!(
                    "{} was changed while it was being imported: what is in it now may be other rows. Rows up to {} were answered \
                     as they stood before",
                    self.wish.file.display(),
                    self.record.done
                );
            }
            if waiting.is_empty() {
                self.record.finished = true;
                break None;
            }
            if interrupt.came() {
                break Some("interrupted".to_owned());
            }
            // Where this fails, some of them may have been taken; only their keys know.
            let (answered, went) = self.ask(&waiting, &mut refused).await?;
            self.save()?;
            waiting.drain(..answered);
            progress.at(self.record.done, &self.counts());
            if answered > 0 {
                tries = 0;
            }
            match went {
                Went::On => {}
                Went::Stop(why) => break Some(why),
                Went::Wait { seconds, counts, why } => {
                    tries += u32::from(counts);
                    if tries > TRIES {
                        break Some(why);
                    }
                    if interrupt.within(Duration::from_secs(seconds)).await {
                        break Some("interrupted".to_owned());
                    }
                }
            }
        };
        self.record.stopped = true;
        self.save()?;
        Ok(stopped)
    }

    fn counts(&self) -> String {
        let record = &self.record;
        counted([("accepted", record.accepted), ("duplicate", record.duplicate), ("refused", record.refused)])
    }

    fn save(&mut self) -> anyhow::Result<()> {
        if self.wish.test { Ok(()) } else { self.record.write(self.paths, self.clock.now()) }
    }

    /// Asks for these rows; how many were answered, and how it goes on.
    async fn ask(&mut self, rows: &[Row], refused: &mut Refused<'_>) -> anyhow::Result<(usize, Went)> {
        let shaped = |row: &&Row| row.cells.len() == self.table.header.len() && !row.is_blank();
        let asked = rows.iter().filter(shaped).map(|row| self.posted(row)).collect();
        let request = ImportRequest { source: self.wish.source.clone(), test: self.wish.test, rows: asked };
        let answers: Vec<RowAnswer> = self.line.ask("/import", &request).await?;
        let mut answers = answers.into_iter();
        let mut wrong: Vec<(&Row, u16, String)> = Vec::new();
        let (mut answered, mut went) = (0, Went::On);
        let (mut accepted, mut duplicate, mut blank) = (0, 0, 0);
        for row in rows {
            if row.is_blank() {
                blank += 1;
                answered += 1;
                continue;
            }
            if !shaped(&row) {
                let (has, wants) = (row.cells.len(), self.table.header.len());
                wrong.push((
                    row,
                    400,
                    format!("the row has {has} columns and the header {wants}; is a quote missing?"),
                ));
                answered += 1;
                continue;
            }
            let Some(answer) = answers.next() else {
                went = Went::Stop("the gateway did not answer for every row".to_owned());
                break;
            };
            if answer.is_duplicate() {
                duplicate += 1;
            } else if answer.status < 300 || answer.is_problem("idempotency-reused") {
                // Reused: the row became a lead in an earlier run, under another mapping.
                accepted += 1;
            } else if answer.is_about_the_row() {
                wrong.push((row, answer.status, answer.reasons()));
            } else {
                went = Went::after(&answer);
                break;
            }
            answered += 1;
        }
        let refused_bytes = refused.add(&wrong)?;
        let record = &mut self.record;
        record.refused_bytes = refused_bytes;
        record.done += answered as u64;
        record.accepted += accepted;
        record.duplicate += duplicate;
        record.blank += blank;
        record.refused += wrong.len() as u64;
        Ok((answered, went))
    }

    /// A row as a form would post it. Empty cells are left out: not given.
    fn posted(&self, row: &Row) -> Posted {
        let mut key = Sha256::new();
        let test = if self.wish.test { "test" } else { "" };
        for part in [self.wish.source.as_str(), self.table.hash.as_str(), row.number.to_string().as_str(), test] {
            key.update((part.len() as u64).to_be_bytes());
            key.update(part);
        }
        Posted { key: format!("import-{}", hex::encode(key.finalize())), form: form(self.columns, row) }
    }
}

impl Went {
    fn after(answer: &RowAnswer) -> Self {
        let seconds = answer.retry_after.unwrap_or(1);
        let why = answer.reasons();
        if answer.is_problem("rate-limited") {
            Self::Wait { seconds, counts: false, why }
        } else if answer.is_problem("unavailable") || answer.is_problem("idempotency-in-progress") {
            Self::Wait { seconds, counts: true, why }
        } else {
            Self::Stop(why)
        }
    }
}

fn form(columns: &[Column], row: &Row) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (column, cell) in columns.iter().zip(&row.cells) {
        if let To::Known(name) | To::Kept(name) = &column.to
            && !cell.trim().is_empty()
        {
            form.append_pair(name, cell);
        }
    }
    form.finish()
}

#[derive(Serialize)]
struct Preview<'a> {
    rows: u64,
    columns: &'a [Column],
    first: Vec<(u64, Rehearsed)>,
}

async fn preview(line: &Line, wish: &Wish, table: &Table, columns: &[Column], json: bool) -> anyhow::Result<bool> {
    let mut rows = Vec::new();
    let mut records = table.read()?;
    while rows.len() < PREVIEWED
        && let Some(row) = records.next_row()?
    {
        rows.push(row);
    }
    let posted = rows.iter().map(|row| Posted { key: "preview".to_owned(), form: form(columns, row) }).collect();
    let request = ImportRequest { source: wish.source.clone(), test: true, rows: posted };
    let read: Vec<Rehearsed> = line.ask("/import/rehearse", &request).await?;
    let good = read.iter().all(|row| matches!(row, Rehearsed::Valid(_)));
    let first: Vec<(u64, Rehearsed)> = rows.iter().map(|row| row.line).zip(read).collect();
    if json {
        super::print_json(&Preview { rows: table.rows, columns, first })?;
        return Ok(good);
    }
    println!("{} rows. Columns:", table.rows);
    for column in columns {
        match &column.to {
            To::Known(name) => println!("  {:<28} → {name}", column.header),
            To::Kept(name) => println!("  {:<28} → {name} (no field of the campaign; kept as text)", column.header),
            To::Ignored => println!("  {:<28}   left out", column.header),
        }
    }
    for (line, row) in first {
        println!("\nline {line}:");
        match row {
            Rehearsed::Valid(values) => values.iter().for_each(|(name, value)| println!("  {name} = {value}")),
            Rehearsed::Wrong(errors) => errors.iter().for_each(|(field, why)| println!("  refused: {field} {why}")),
        }
    }
    println!("\nNothing was imported (preview).");
    Ok(good)
}

//! What an import leaves beside its file: how far it came, and the rows that were refused.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::mapping::REPORT;
use super::table::{Row, Table};

/// Keys of rows are remembered for 24 h; an hour is left for clocks and slowness.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(23);

/// How far an import came; written anew after every few rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// SHA-256 of the file.
    file: String,
    /// Whose leads.
    source: String,
    /// Rows that have been answered.
    pub(super) done: u64,
    pub(super) accepted: u64,
    pub(super) duplicate: u64,
    pub(super) refused: u64,
    /// Rows of nothing but blank cells.
    pub(super) blank: u64,
    /// How long the file of refused rows was then.
    pub(super) refused_bytes: u64,
    /// It ended by itself, so that no row beyond `done` was asked for.
    pub(super) stopped: bool,
    /// Every row has been answered.
    pub(super) finished: bool,
    /// When this was written.
    at: Timestamp,
}

/// Where an import of `file` keeps what.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) record: PathBuf,
    pub(super) refused: PathBuf,
}

impl Paths {
    pub(super) fn of(file: &Path, test: bool) -> Self {
        let refused = if test { "test-refused.csv" } else { "refused.csv" };
        // `leads.csv` → `leads.import.json`; `a.refused.csv` → `a.refused.import.json`.
        let beside = |end: &str| file.with_extension("").with_added_extension(end);
        Self { record: beside("import.json"), refused: beside(refused) }
    }
}

impl Record {
    /// Of an import that begins.
    pub(super) fn new(table: &Table, source: &str, now: Timestamp) -> Self {
        Self {
            file: table.hash.clone(),
            source: source.to_owned(),
            done: 0,
            accepted: 0,
            duplicate: 0,
            refused: 0,
            blank: 0,
            refused_bytes: 0,
            stopped: true,
            finished: false,
            at: now,
        }
    }

    /// Where to begin: at the first row, or where an earlier run of the same import stopped. Somebody who `knows_better`
    /// says from where.
    pub(super) fn begin(
        paths: &Paths,
        table: &Table,
        source: &str,
        restart: bool,
        knows_better: bool,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let record = paths.record.display();
        let earlier: Option<Self> = match std::fs::read(&paths.record) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                format!("{record} cannot be understood; if no import of this file was interrupted, delete it")
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("{record} cannot be read")),
        };
        let begun = match earlier.filter(|_| !restart) {
            None if paths.refused.exists() && !restart => bail!(
                "{} is there from an earlier import; move it away if you still need it, or overwrite it with --restart",
                paths.refused.display()
            ),
            None => Self::new(table, source, now),
            Some(earlier) if earlier.file != table.hash => bail!(
                "the file has changed since {record} was written, so rows may be others now. To import only what was refused \
                 or is new, put those rows into a file of their own. To import this file from its first row, use \
                 --restart: rows that are leads already become leads again unless the campaign's dedupe finds them"
            ),
            Some(earlier) if earlier.source != source => bail!(
                "{record} is of an import for source {}; to import the file for {source} too, use --restart",
                earlier.source
            ),
            Some(earlier) if !earlier.stopped && !knows_better && now.duration_since(earlier.at) > REMEMBERED => {
                bail!(
                    "the import broke off at row {} at {}, longer ago than the gateway remembers rows (24 h): the next {} rows \
                     may be leads already. Look some of them up (GET /v1/leads?email=…), and go on behind the last one that is \
                     there with --from-row N",
                    earlier.done,
                    earlier.at,
                    crate::api::import::ROWS_AT_MOST
                )
            }
            Some(earlier) => earlier,
        };
        Ok(begun)
    }

    /// Begins with this row instead, the first being 1.
    pub(super) fn go_to(&mut self, row: u64) {
        self.done = row.saturating_sub(1);
        self.finished = false;
    }

    /// Replaces the record in one step.
    pub(super) fn write(&mut self, paths: &Paths, now: Timestamp) -> anyhow::Result<()> {
        self.at = now;
        let path = &paths.record;
        let cannot = || format!("{} cannot be written; the import stops here", path.display());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // For its owner alone, as a temporary file is.
        let mut new = tempfile::Builder::new().prefix(".import-").tempfile_in(parent).with_context(cannot)?;
        serde_json::to_writer_pretty(&mut new, self)?;
        new.as_file().sync_all().with_context(cannot)?;
        new.persist(path).with_context(cannot)?;
        Ok(())
    }
}

/// The rows that were refused, with all their columns and why; for its owner alone.
pub(super) struct Refused<'a> {
    path: &'a Path,
    table: &'a Table,
    file: Option<File>,
    length: u64,
}

impl<'a> Refused<'a> {
    /// Goes on where `record` says; what lies beyond was not recorded, and comes again. A file that somebody has begun to
    /// mend is left alone.
    pub(super) fn open(path: &'a Path, table: &'a Table, record: &Record) -> anyhow::Result<Self> {
        let cannot = || format!("{} cannot be replaced", path.display());
        let mut refused = Self { path, table, file: None, length: 0 };
        let found = std::fs::metadata(path).map(|file| file.len()).ok();
        match found {
            // None yet, or it has been taken away to be mended.
            None => {}
            Some(_) if record.refused_bytes == 0 => std::fs::remove_file(path).with_context(cannot)?,
            Some(length) if length < record.refused_bytes || (record.stopped && length != record.refused_bytes) => {
                bail!(
                    "{} has been changed since the import stopped; give it another name, then the same command goes on and \
                 writes further refused rows to a new one",
                    path.display()
                )
            }
            Some(_) => {
                let mut file = refused.make(false)?;
                file.set_len(record.refused_bytes).with_context(cannot)?;
                file.seek(SeekFrom::End(0))?;
                refused.length = record.refused_bytes;
                refused.file = Some(file);
            }
        }
        Ok(refused)
    }

    fn make(&self, new: bool) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(new).mode(0o600);
        options.open(self.path).with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Adds rows: their cells, line, status and reasons.
    pub(super) fn add(&mut self, rows: &[(&Row, u16, String)]) -> anyhow::Result<u64> {
        if rows.is_empty() {
            return Ok(self.length);
        }
        let mut writer =
            csv::WriterBuilder::new().delimiter(self.table.delimiter).flexible(true).from_writer(Vec::new());
        // A file of refused rows has these columns already; they are told anew.
        let own = self.table.header.len()
            - if self.table.header.ends_with(&REPORT.map(str::to_owned)) { REPORT.len() } else { 0 };
        let mut file = if let Some(file) = self.file.take() {
            file
        } else {
            let header = self.table.header.iter().take(own).map(String::as_str).chain(REPORT);
            writer.write_record(header)?;
            self.make(true)?
        };
        for (row, status, reasons) in rows {
            // A row that is too long keeps all that it has, and stays too long until it is mended.
            let keeps = if row.cells.len() == self.table.header.len() { own } else { row.cells.len() };
            // A short one is filled up, so that what is told of it stands below its own names.
            let missing = own.saturating_sub(keeps);
            let cells = row.cells.iter().take(keeps).map(String::as_str).chain(std::iter::repeat_n("", missing));
            let (line, status) = (row.line.to_string(), status.to_string());
            let report = [line.as_str(), status.as_str(), reasons.as_str()];
            writer.write_record(cells.chain(report))?;
        }
        let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .with_context(|| format!("{} cannot be written; the import stops here", self.path.display()))?;
        self.length += bytes.len() as u64;
        self.file = Some(file);
        Ok(self.length)
    }
}

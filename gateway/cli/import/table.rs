//! The file: CSV with a header line, whatever its delimiter, in UTF-8 or windows-1252.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use csv::{ByteRecord, Reader, ReaderBuilder};
use encoding_rs::WINDOWS_1252;
use sha2::{Digest as _, Sha256};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Windows1252,
}

/// A file that has been looked through once.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    pub(super) delimiter: u8,
    encoding: Encoding,
    /// Bytes before the header line.
    start: u64,
    /// Lines end with CR LF, of which the reader counts the second half to the next line.
    crlf: bool,
    pub(super) header: Vec<String>,
    /// Rows below the header.
    pub(super) rows: u64,
    /// SHA-256 of the file, in hex.
    pub(super) hash: String,
    /// The file's size, time and number when it was looked through.
    seen: Seen,
}

/// By what a change of the file is noticed.
type Seen = (u64, Option<std::time::SystemTime>, u64);

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// From 1, the header not counted.
    pub(super) number: u64,
    /// Where it begins in the file, from 1.
    pub(super) line: u64,
    pub(super) cells: Vec<String>,
}

impl Row {
    /// Nothing but blanks, as spreadsheets leave them at the end.
    pub(super) fn is_blank(&self) -> bool {
        self.cells.iter().all(|cell| cell.trim().is_empty())
    }
}

impl Table {
    /// Looks a file through: its header, how many rows it has, and that all of it can be read.
    pub(super) fn open(path: &Path, delimiter: Option<u8>, encoding: Encoding) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
        let seen = seen(&file.metadata()?);
        let hash = hash(&mut file).with_context(|| format!("{shown} cannot be read"))?;
        file.rewind()?;
        if let Some(line) = open_quote(BufReader::new(&mut file), delimiter)? {
            bail!(
                "{shown}, line {line}: a quote opens here and never closes, so all that follows would be one cell; close it, or \
                 double it where it is part of the text"
            );
        }
        file.rewind()?;
        let mut first = BufReader::new(&mut file);
        let beginning = first.fill_buf()?;
        if beginning.starts_with(b"\xFF\xFE") || beginning.starts_with(b"\xFE\xFF") {
            bail!("{shown} is in UTF-16; save it as UTF-8 (in a spreadsheet: \"CSV UTF-8\") and import that");
        }
        let start = if beginning.starts_with(BOM) { BOM.len() } else { 0 };
        let delimiter = delimiter.unwrap_or_else(|| likely_delimiter(beginning.get(start..).unwrap_or_default()));
        let crlf = memchr::memmem::find(beginning, b"\r\n").is_some();
        let mut table = Self {
            path: path.to_owned(),
            delimiter,
            encoding,
            start: start as u64,
            crlf,
            header: Vec::new(),
            rows: 0,
            hash,
            seen,
        };
        let mut records = table.records()?;
        let Some(header) = records.next_row()? else {
            bail!("{shown} is empty; its first line must name the columns");
        };
        let mut rows = 0;
        while let Some(row) = records.next_row()? {
            rows = row.number;
        }
        table.rows = rows;
        if let Some(name) = header.cells.iter().find(|name| name.trim().contains(['\n', '\r'])) {
            let name: String = name.trim().lines().next().unwrap_or_default().chars().take(40).collect();
            bail!(
                "{shown}: the column \"{name}…\" has a line break in its name; is a quote missing in the first line?"
            );
        }
        table.header = header.cells.into_iter().map(|name| name.trim().to_owned()).collect();
        Ok(table)
    }

    /// Whether the file is still the one that was looked through.
    pub(super) fn is_unchanged(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| seen(&file) == self.seen)
    }

    /// The rows, the header left out.
    pub(super) fn read(&self) -> anyhow::Result<Records<'_>> {
        let mut records = self.records()?;
        records.next_row()?;
        Ok(records)
    }

    fn records(&self) -> anyhow::Result<Records<'_>> {
        let mut file = File::open(&self.path).with_context(|| format!("{} cannot be read", self.path.display()))?;
        file.seek(SeekFrom::Start(self.start))?;
        // Rows of another length are refused one by one, and not the file.
        let reader = ReaderBuilder::new().delimiter(self.delimiter).has_headers(false).flexible(true).from_reader(file);
        Ok(Records { table: self, reader, record: ByteRecord::new(), next: 0 })
    }
}

/// Reads rows, from the header on.
pub(super) struct Records<'a> {
    table: &'a Table,
    reader: Reader<File>,
    record: ByteRecord,
    next: u64,
}

impl Records<'_> {
    pub(super) fn next_row(&mut self) -> anyhow::Result<Option<Row>> {
        let shown = self.table.path.display();
        if !self.reader.read_byte_record(&mut self.record).with_context(|| format!("{shown} cannot be read"))? {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        let late = u64::from(self.table.crlf && number > 0);
        let line = self.record.position().map_or(0, csv::Position::line) + late;
        let mut cells = Vec::with_capacity(self.record.len());
        for cell in &self.record {
            cells.push(match self.table.encoding {
                Encoding::Windows1252 => WINDOWS_1252.decode_without_bom_handling(cell).0.into_owned(),
                Encoding::Utf8 => match std::str::from_utf8(cell) {
                    Ok(text) => text.to_owned(),
                    Err(_) => bail!(
                        "{shown}, line {line}: this is not UTF-8; if the file is from an older spreadsheet, use \
                         --encoding windows-1252"
                    ),
                },
            });
        }
        Ok(Some(Row { number, line, cells }))
    }
}

fn seen(file: &std::fs::Metadata) -> Seen {
    (file.len(), file.modified().ok(), file.ino())
}

/// The line of a quote that opens a cell and is still open at the end of the file.
fn open_quote(mut file: impl std::io::BufRead, delimiter: Option<u8>) -> std::io::Result<Option<u64>> {
    #[derive(PartialEq)]
    enum At {
        Start,
        Plain,
        Quoted,
        /// Right behind a quote in a quoted cell: it closes the cell, or is the first half of a doubled one.
        Closing,
    }
    let ends = |byte: u8| match delimiter {
        Some(delimiter) => byte == delimiter,
        None => matches!(byte, b',' | b';' | b'\t'),
    };
    let (mut at, mut line, mut opened) = (At::Start, 1, 1);
    // A byte order mark is no part of the first cell.
    if file.fill_buf()?.starts_with(BOM) {
        file.consume(BOM.len());
    }
    loop {
        let chunk = file.fill_buf()?;
        if chunk.is_empty() {
            return Ok((at == At::Quoted).then_some(opened));
        }
        for byte in chunk {
            at = match (at, *byte) {
                (At::Start, b'"') => {
                    opened = line;
                    At::Quoted
                }
                (At::Quoted, b'"') => At::Closing,
                (At::Closing, b'"') => At::Quoted,
                (At::Quoted, _) => At::Quoted,
                (_, b'\n' | b'\r') => At::Start,
                (_, byte) if ends(byte) => At::Start,
                _ => At::Plain,
            };
            line += u64::from(*byte == b'\n');
        }
        let read = chunk.len();
        file.consume(read);
    }
}

fn hash(file: &mut File) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(buffer.get(..read).unwrap_or_default());
    }
}

/// The candidate that stands most often in the first line, outside of quotes.
fn likely_delimiter(beginning: &[u8]) -> u8 {
    let mut counts = [(b',', 0_usize), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for byte in beginning {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if quoted => {}
            byte => counts.iter_mut().filter(|(candidate, _)| candidate == byte).for_each(|(_, count)| *count += 1),
        }
    }
    // The first of equals: a comma.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(candidate, _)| *candidate)
}

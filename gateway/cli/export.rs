//! `gateway export`

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::app::control::{self, Reach};
use crate::app::told;
use crate::config::{Config, StorePlace};
use crate::directory::ResourceSet;
use crate::directory::export::{self, ExportedFile};
use crate::store::{Kind, ResourceRecord};

/// How to export.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Into a directory that is not empty.
    pub(super) force: bool,
    /// Secrets that were written out are exported as they are.
    pub(super) with_secrets: bool,
}

#[derive(Serialize)]
struct Report {
    directory: PathBuf,
    /// Below the directory.
    files: Vec<String>,
    /// What else `apply` would read there.
    left: Vec<PathBuf>,
}

pub(super) async fn run(config: &Config, directory: &Path, wish: Wish, json: bool) -> anyhow::Result<bool> {
    let set = stored(config).await?;
    let files = export::files(&set).map_err(|faults| told("the network cannot be exported", &faults))?;
    let secrets: Vec<&str> = files.values().flat_map(|file| &file.secrets).map(String::as_str).collect();
    if !secrets.is_empty() && !wish.with_secrets {
        bail!(
            "secrets are written out in the network, and would be in the files:\n  {}\n\
             Name them by env:NAME or file:PATH instead and apply that; or export them as they are with --with-secrets, \
             into files that only you can read. Nothing was written.",
            secrets.join("\n  ")
        );
    }
    write(directory, &files, wish.force)?;
    let left = left_over(directory, &files)?;
    let report = Report { directory: directory.to_owned(), files: files.keys().cloned().collect(), left };
    if json {
        super::print_json(&report)?;
    } else {
        tell(&report, &set, secrets.len());
    }
    Ok(report.left.is_empty())
}

/// The network in the store.
async fn stored(config: &Config) -> anyhow::Result<ResourceSet> {
    let documents: Vec<(Kind, String, String)> = match config.store.place()? {
        // Looking must not make one.
        StorePlace::Directory(directory) if !directory.exists() => Vec::new(),
        _ => match control::reach(config).await? {
            Reach::Gateway(directory) => control::ask(&directory, "/resources", &()).await?,
            Reach::Store(store) => {
                let records = store.resources().await?.into_iter();
                records.map(|record| (record.kind, record.id, record.document)).collect()
            }
        },
    };
    if documents.is_empty() {
        bail!(
            "the store {} has no network yet; `gateway serve` loads {} into it at its first start",
            config.store,
            config.network.dir.display()
        );
    }
    let records: Vec<ResourceRecord> = documents
        .into_iter()
        .map(|(kind, id, document)| ResourceRecord { kind, id, version: 0, document, changed_elsewhere: false })
        .collect();
    ResourceSet::from_records(&records).map_err(|faults| told("the stored network cannot be read", &faults))
}

/// Writes every file. A new directory appears with all of them or not at all; in one that is there, each file does.
fn write(directory: &Path, files: &BTreeMap<String, ExportedFile>, force: bool) -> anyhow::Result<()> {
    let cannot = || format!("{} cannot be written", directory.display());
    if directory.exists() {
        if !force && fs::read_dir(directory).with_context(cannot)?.next().is_some() {
            bail!(
                "{} is not empty; choose a new directory, or overwrite the files in it with --force",
                directory.display()
            );
        }
        return write_files(directory, files).with_context(cannot);
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(cannot)?;
    let beside = tempfile::Builder::new().prefix(".export-").tempdir_in(parent).with_context(cannot)?;
    let whole = beside.path().join("network");
    fs::create_dir(&whole).with_context(cannot)?;
    write_files(&whole, files).with_context(cannot)?;
    fs::rename(&whole, directory).with_context(cannot)
}

/// Files that are synced at the same time: a sync of several costs the disk little more than that of one.
const AT_A_TIME: usize = 16;

fn write_files(directory: &Path, files: &BTreeMap<String, ExportedFile>) -> std::io::Result<()> {
    let files: Vec<_> = files.iter().collect();
    let share = files.len().div_ceil(AT_A_TIME).max(1);
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            files.chunks(share).map(|files| scope.spawn(move || write_each(directory, files))).collect();
        // All of them are waited for in any case.
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn write_each(directory: &Path, files: &[(&String, &ExportedFile)]) -> std::io::Result<()> {
    for (name, file) in files {
        let path = directory.join(name);
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent)?;
        // What the umask leaves of it, unless there are secrets.
        let mode = if file.secrets.is_empty() { 0o666 } else { 0o600 };
        let mut new = tempfile::Builder::new()
            .prefix(".export-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(parent)?;
        new.write_all(file.text.as_bytes())?;
        new.as_file().sync_all()?;
        new.persist(&path).map_err(|error| error.error)?;
    }
    Ok(())
}

/// Other resource files in the directory, which a reader of the export would read too.
fn left_over(directory: &Path, files: &BTreeMap<String, ExportedFile>) -> anyhow::Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| files.contains_key(name));
        if !ours && path.extension().is_some_and(|extension| extension == "toml") {
            left.push(path);
        }
    }
    left.sort();
    Ok(left)
}

fn tell(report: &Report, set: &ResourceSet, secrets: usize) {
    let directory = report.directory.display();
    println!(
        "{directory}: {} campaigns, {} partners, {} sources, {} contracts, {} templates in {} files.",
        set.campaigns.len(),
        set.partners.len(),
        set.sources.len(),
        set.contracts.len(),
        set.templates.len(),
        report.files.len()
    );
    if secrets > 0 {
        println!("note: {secrets} secrets are written out in them; those files are for your eyes only.");
    }
    if report.left.is_empty() {
        println!("Read it back with: gateway check {directory}, gateway apply {directory} --dry-run");
    } else {
        println!("\nThese files are not of this export, and would be read with it; delete what is out of date:");
        for path in &report.left {
            println!("  {}", path.display());
        }
    }
}

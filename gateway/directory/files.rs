//! Resources as files: `*.toml` in one directory, templates in another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{Common, Fault, ResourceSet};
use crate::config::{place, with_nearest};
use crate::model::campaign::Campaign;
use crate::model::contract::Contract;
use crate::model::partner::Partner;
use crate::model::source::Source;

/// One file: any number of each kind of resource.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ResourceFile {
    campaign: Vec<Campaign>,
    partner: Vec<Partner>,
    source: Vec<Source>,
    contract: Vec<Contract>,
}

/// What was read of a file, or of several pieces of one: as the set will have it, what is equal kept once.
#[derive(Default)]
struct Resources {
    campaigns: Vec<Arc<Campaign>>,
    partners: Vec<Arc<Partner>>,
    sources: Vec<Arc<Source>>,
    contracts: Vec<Arc<Contract>>,
}

impl Resources {
    fn add(&mut self, file: ResourceFile, common: &mut Common) {
        self.campaigns.extend(file.campaign.into_iter().map(|campaign| common.campaign(campaign)));
        self.partners.extend(file.partner.into_iter().map(|partner| common.partner(partner)));
        self.sources.extend(file.source.into_iter().map(super::with_hashed_keys).map(Arc::new));
        self.contracts.extend(file.contract.into_iter().map(|contract| common.contract(contract)));
    }
}

/// The directory of templates that an export has beside its resources.
pub const TEMPLATES: &str = "templates";

/// Reads a directory of resources (its `*.toml`, not those of directories below it), or one file. Templates are taken
/// up as far as contracts refer to them: from `templates/` beside the resources where there is such a directory, as in
/// an export, else from the directory `templates`.
///
/// # Errors
/// Every fault of every file, with its line where it has one.
pub fn read(path: &Path, templates: &Path) -> Result<ResourceSet, Vec<Fault>> {
    let mut set = ResourceSet::default();
    let mut common = Common::default();
    let mut faults = Vec::new();
    for file in toml_files(path).map_err(|fault| vec![fault])? {
        let origin = file.display().to_string();
        match std::fs::read_to_string(&file) {
            Ok(text) => match parse(&text, &mut common) {
                Ok(read) => add(&mut set, read, &origin, &mut faults),
                Err(error) => {
                    faults.push(Fault::new(place(&origin, &text, error.span()), with_nearest(error.message())));
                }
            },
            Err(error) => faults.push(Fault::new(origin, format!("cannot be read ({error})"))),
        }
    }
    let directory = if path.is_file() { path.parent().unwrap_or(Path::new("")) } else { path };
    let beside = directory.join(TEMPLATES);
    let disk = TemplateDirectory::new(if beside.is_dir() { &beside } else { templates });
    for contract in set.contracts.values() {
        for name in [&contract.endpoint.template, &contract.endpoint.header_template].into_iter().flatten() {
            disk.take_up(name, 0);
        }
    }
    set.templates = disk.taken.into_inner();
    if faults.is_empty() { Ok(set) } else { Err(faults) }
}

/// A file of this size or less is read at once; a larger one in pieces, which takes a fraction of the memory, and of the
/// time where there are several processors.
const AT_ONCE: usize = 64 * 1024;
/// The size of a piece, about. The reader's buffers are some fifty times as large: these are used again, while larger ones are
/// taken from the system anew for each piece.
const PIECE: usize = 4 * 1024;

/// Reads a file's text. What is wrong with it is told as of the whole.
fn parse(text: &str, common: &mut Common) -> Result<Resources, toml::de::Error> {
    if let Some(read) = pieces(text).and_then(|pieces| parse_pieces(&pieces)) {
        return Ok(read);
    }
    let mut read = Resources::default();
    read.add(toml::from_str(text)?, common);
    Ok(read)
}

/// Cuts a large file where a resource begins; `None` for one that is read at once.
///
/// What looks like a beginning may stand in a text of several lines, and a table may belong to a resource further up. Then
/// the piece before, or this one, cannot be read by itself, and the file is read as a whole.
fn pieces(text: &str) -> Option<Vec<&str>> {
    const BEGINNINGS: [&str; 4] = ["[[campaign]]", "[[partner]]", "[[source]]", "[[contract]]"];
    if text.len() <= AT_ONCE {
        return None;
    }
    let begins = |line: &str| BEGINNINGS.iter().any(|beginning| line.starts_with(beginning));
    let mut rest = text;
    let mut pieces = Vec::new();
    // What stands before the first resource belongs to none.
    let mut first = true;
    let (mut length, mut cut) = (0, 0);
    for line in text.split_inclusive('\n') {
        if begins(line) {
            first = false;
            if length - cut > PIECE {
                let (piece, after) = rest.split_at_checked(length - cut)?;
                pieces.push(piece);
                (rest, cut) = (after, length);
            }
        } else if first && !matches!(line.trim_start().as_bytes().first(), None | Some(b'#')) {
            return None;
        }
        length += line.len();
    }
    pieces.push(rest);
    Some(pieces)
}

/// `None` where any of them cannot be read by itself.
fn parse_pieces(pieces: &[&str]) -> Option<Resources> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(pieces.len());
    let share = pieces.len().div_ceil(threads.max(1)).max(1);
    let read = |pieces: &[&str]| {
        let (mut read, mut common) = (Resources::default(), Common::default());
        for piece in pieces {
            read.add(toml::from_str(piece).ok()?, &mut common);
        }
        Some(read)
    };
    let parts: Vec<Option<Resources>> = std::thread::scope(|scope| {
        let begin = |pieces| std::thread::Builder::new().spawn_scoped(scope, move || read(pieces));
        let readers: Vec<_> = pieces.chunks(share).map(begin).collect();
        // Without threads it is read as a whole.
        readers.into_iter().map(|reader| reader.ok()?.join().ok().flatten()).collect()
    });
    let mut whole = Resources::default();
    for part in parts.into_iter().collect::<Option<Vec<_>>>()? {
        whole.campaigns.extend(part.campaigns);
        whole.partners.extend(part.partners);
        whole.sources.extend(part.sources);
        whole.contracts.extend(part.contracts);
    }
    Some(whole)
}

fn toml_files(path: &Path) -> Result<Vec<PathBuf>, Fault> {
    let fault = |error: std::io::Error| {
        Fault::new(
            path.display().to_string(),
            format!("cannot be read ({error}); name a file or a directory of *.toml files"),
        )
    };
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        if file.extension().is_some_and(|extension| extension == "toml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn add(set: &mut ResourceSet, read: Resources, origin: &str, faults: &mut Vec<Fault>) {
    fn keep<K: Ord + Clone + std::fmt::Display, V>(
        kind: &str,
        map: &mut BTreeMap<K, Arc<V>>,
        new: Vec<Arc<V>>,
        id: impl Fn(&V) -> &K,
        origin: &str,
        faults: &mut Vec<Fault>,
    ) {
        for one in new {
            let key = id(&one).clone();
            if let std::collections::btree_map::Entry::Vacant(free) = map.entry(key.clone()) {
                free.insert(one);
            } else {
                faults.push(Fault::new(
                    origin.to_owned(),
                    format!("{kind} `{key}` is there twice; give each its own id"),
                ));
            }
        }
    }
    keep("campaign", &mut set.campaigns, read.campaigns, |campaign| &campaign.id, origin, faults);
    keep("partner", &mut set.partners, read.partners, |partner| &partner.id, origin, faults);
    keep("source", &mut set.sources, read.sources, |source| &source.id, origin, faults);
    keep("contract", &mut set.contracts, read.contracts, |contract| &contract.id, origin, faults);
}

/// Reads templates from disk and remembers which.
struct TemplateDirectory<'a> {
    root: &'a Path,
    taken: RefCell<BTreeMap<String, String>>,
}

/// How deep templates may include one another.
const DEPTH: usize = 8;

impl<'a> TemplateDirectory<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, taken: RefCell::default() }
    }

    /// Takes up a template and those it includes. One that is not there is missed where it is compiled.
    fn take_up(&self, name: &str, depth: usize) {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if depth > DEPTH || !inside || self.taken.borrow().contains_key(name) {
            return;
        }
        let Ok(text) = std::fs::read_to_string(self.root.join(name)) else { return };
        let included: Vec<String> = included(&text).map(str::to_owned).collect();
        self.taken.borrow_mut().insert(name.to_owned(), text);
        for name in included {
            self.take_up(&name, depth + 1);
        }
    }
}

/// The names in `{{> name}}` and `{{#> name}}`.
fn included(template: &str) -> impl Iterator<Item = &str> {
    template.split("{{").skip(1).filter_map(|tag| {
        let tag = tag.trim_start_matches(['~', '#']).trim_start();
        let name = tag.strip_prefix('>')?.trim_start();
        let name = name.split(|c: char| c.is_whitespace() || c == '}').next()?;
        Some(name.trim_matches(['"', '\'']))
    })
}

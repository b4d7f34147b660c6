//! `gateway check --replies DIR`: what the contracts' rules make of replies that lie there as files.
//!
//! `DIR/CONTRACT/*.http`: a status line, headers, an empty line, the body. A name that begins with a verdict
//! (`accepted.http`, `unknown-outage.http`) says what it must be; any other is only shown.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;

use crate::clock::Clock;
use crate::directory::{ContractEntry, Network};
use crate::model::delivery::Verdict;
use crate::model::exchange::Reply;

/// As much of a file as dispatch would take of a reply.
const MAX_FILE: u64 = 1024 * 1024;

/// What the rules made of the replies.
#[derive(Default, Serialize)]
pub(super) struct Judged {
    replies: Vec<JudgedReply>,
    /// Directories that are named like no contract.
    left_out: Vec<String>,
}

/// One reply and its verdict.
#[derive(Serialize)]
struct JudgedReply {
    contract: String,
    file: String,
    expected: Option<Verdict>,
    verdict: Verdict,
    rule: String,
    selector: Option<String>,
    found: Option<String>,
    reason: Option<String>,
    reference: Option<String>,
    redirect_url: Option<String>,
    price: Option<String>,
}

impl JudgedReply {
    fn is_as_named(&self) -> bool {
        self.expected.is_none_or(|expected| expected == self.verdict)
    }

    /// By which rule, and what was read out.
    fn explained(&self) -> String {
        let mut text = self.selector.clone().unwrap_or_else(|| self.rule.clone());
        if let Some(found) = &self.found {
            text = format!("{text} = {found}");
        }
        for (name, value) in [
            ("reason", &self.reason),
            ("reference", &self.reference),
            ("price", &self.price),
            ("redirect", &self.redirect_url),
        ] {
            if let Some(value) = value {
                text = format!("{text} | {name} {value}");
            }
        }
        text
    }
}

impl Judged {
    /// How many replies are not what their name says.
    pub(super) fn wrong(&self) -> usize {
        self.replies.iter().filter(|reply| !reply.is_as_named()).count()
    }

    /// Prints a line for each reply, below its contract.
    pub(super) fn show(&self) {
        let width = self.replies.iter().map(|reply| reply.file.chars().count()).max().unwrap_or(0);
        let mut contract = "";
        for reply in &self.replies {
            if reply.contract != contract {
                contract = &reply.contract;
                println!("{contract}");
            }
            let wrong = reply.expected.filter(|_| !reply.is_as_named());
            let wrong = wrong.map(|expected| format!(" NOT {expected}")).unwrap_or_default();
            println!("  {:width$}  {:9}{wrong}  {}", reply.file, reply.verdict.as_str(), reply.explained());
        }
        println!();
        if !self.left_out.is_empty() {
            println!("Left out, for no contract has this name: {}.", self.left_out.join(", "));
        }
        match self.wrong() {
            0 => println!("{} replies, each as its name says.", self.replies.len()),
            wrong => println!("{wrong} of {} replies are not what their name says.", self.replies.len()),
        }
    }
}

/// Judges every reply below `dir` by the rules of the contract whose name its directory has.
///
/// # Errors
/// When a directory or a file cannot be read, is no reply, or when there is no reply at all.
pub(super) fn judge(network: &Network, dir: &Path) -> anyhow::Result<Judged> {
    let mut judged = Judged::default();
    for path in listed(dir)?.into_iter().filter(|path| path.is_dir()) {
        let name = name_of(&path);
        match name.parse().ok().and_then(|id| network.contract(&id)) {
            Some(entry) => judged.replies.extend(of_contract(network, entry, &path)?),
            None => judged.left_out.push(name),
        }
    }
    if judged.replies.is_empty() {
        anyhow::bail!(
            "there is no reply in {}: put them into {}/CONTRACT/accepted-1.http, with the contract's id for CONTRACT",
            dir.display(),
            dir.display()
        );
    }
    Ok(judged)
}

fn of_contract(network: &Network, entry: &ContractEntry, dir: &Path) -> anyhow::Result<Vec<JudgedReply>> {
    let campaign = network.campaign(&entry.contract.campaign).context("the contract's campaign is gone")?;
    let files = listed(dir)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "http"));
    files
        .map(|path| {
            let reply = read(&path).with_context(|| path.display().to_string())?;
            let judgement = entry.rules.judge(&Ok(reply), Clock::system().now());
            let file = name_of(&path);
            Ok(JudgedReply {
                contract: entry.contract.id.to_string(),
                expected: expected(&file),
                file,
                verdict: judgement.verdict,
                rule: judgement.explanation.rule,
                selector: judgement.explanation.selector,
                found: judgement.explanation.found,
                reason: judgement.reason,
                reference: judgement.reference,
                redirect_url: judgement.redirect_url,
                price: judgement.price.map(|price| price.display(campaign.campaign.currency)),
            })
        })
        .collect()
}

fn listed(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("{} cannot be read; name a directory that has one per contract", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(unreadable)? {
        paths.push(entry.with_context(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The verdict that a file's name begins with.
fn expected(file: &str) -> Option<Verdict> {
    let word = file.split(['-', '.', '_']).next()?;
    [Verdict::Accepted, Verdict::Rejected, Verdict::Duplicate, Verdict::Retryable, Verdict::Unknown]
        .into_iter()
        .find(|verdict| verdict.as_str() == word)
}

/// A reply as it stands on the wire, or as a person writes one: lines may end with or without CR.
fn read(path: &Path) -> anyhow::Result<Reply> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    let mut headers = Vec::new();
    let mut status = None;
    let mut rest = bytes.as_slice();
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = String::from_utf8_lossy(&rest[..end]);
        let line = line.trim_end();
        rest = rest.get(end + 1..).unwrap_or_default();
        match (status, line) {
            (None, line) => {
                let code = line.strip_prefix("HTTP/").and_then(|line| line.split_whitespace().nth(1));
                let code = code.and_then(|code| code.parse().ok());
                status = Some(code.context("line 1 is no status line: write `HTTP/1.1 200 OK`")?);
            }
            (Some(status), "") => return Ok(Reply { status, headers, body: Bytes::copy_from_slice(rest) }),
            (Some(_), line) => {
                let (name, value) = line.split_once(':').with_context(|| {
                    format!("line {}: write `Name: value`, and an empty line before the body", headers.len() + 2)
                })?;
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
    }
}

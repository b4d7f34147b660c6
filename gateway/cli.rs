//! The command line (CONTRACT 8). Exit codes: 0 done, 1 ran and found problems, 2 misuse.

/// In place of the standard one, which panics when whoever reads has gone (`gateway check | head -1`).
macro_rules! println {
    () => { $crate::cli::say(format_args!("")) };
    ($($text:tt)*) => { $crate::cli::say(format_args!($($text)*)) };
}

/// The same for standard error, where nothing is left to be told if it cannot be written.
macro_rules! eprintln {
    ($($line:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($line)*)));
    }};
}

mod apply;
mod check;
pub mod demo;
mod export;
mod import;
mod progress;
mod redeliver;
mod send;
mod serve;
mod token;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::api::access::Role;
use crate::config::Config;

/// Takes sales leads in, decides which partner may have each one now, and delivers it in the partner's own format.
///
/// Try `gateway demo` first: it needs no server, no network and no files.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, arg_required_else_help = true)]
struct Cli {
    /// The process's configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print one JSON document instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const DEFAULT_CONFIG: &str = "config/gateway.toml";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the whole gateway at work: posts sample leads over HTTP to a gateway with five strict simulated partners,
    /// all in this process, and prints what happened to each.
    Demo {
        /// End after the table, with exit code 1 if an outcome was not the expected one.
        #[arg(long)]
        once: bool,
    },
    /// Runs the gateway. SIGTERM (or Ctrl-C) makes it finish what is under way and stop.
    Serve,
    /// Checks configuration, resources, templates and rules; renders every template with a plain lead, a hostile one and a bare one.
    Check {
        /// A directory of *.toml files, or one file; by default the configured one.
        path: Option<PathBuf>,
        /// Also judge the replies in DIR/CONTRACT/*.http (status line, headers, empty line, body) by the contract's rules
        /// and show what they mean. A file whose name begins with a verdict, such as accepted-1.http, must be that.
        #[arg(long, value_name = "DIR")]
        replies: Option<PathBuf>,
    },
    /// Shows how files differ from the network in the store, and applies them.
    Apply {
        /// A directory of *.toml files, or one file.
        path: PathBuf,
        /// Only show the differences.
        #[arg(long)]
        dry_run: bool,
        /// Overwrite what was changed elsewhere since the last apply.
        #[arg(long)]
        force: bool,
        /// Delete what the files do not have.
        #[arg(long)]
        prune: bool,
    },
    /// Writes the network that is in the store as files, which `check` and `apply` read back without a difference.
    ///
    /// One file for each campaign with its sources, one for each partner with its contracts, and the templates below
    /// DIR/templates, which `check` and `apply` prefer to the configured ones. Defaults are left out; references to
    /// secrets (env:NAME, file:PATH) stay references; pauses are no part of it.
    Export {
        /// The directory to write; made if it is not there.
        directory: PathBuf,
        /// Write into a directory that is not empty, over files of the same names.
        #[arg(long)]
        force: bool,
        /// Export secrets that are written out in the network, instead of refusing; only you can read those files.
        #[arg(long)]
        with_secrets: bool,
    },
    /// Prints the request that would be sent to a contract's endpoint for a lead.
    Render {
        /// The contract's id.
        contract: String,
        /// A JSON file with the lead's fields, as a source would post them.
        lead: PathBuf,
    },
    /// Delivers one lead now, outside routing and limits, and shows the exchange, the verdict and why.
    Send {
        /// The contract's id.
        contract: String,
        /// A JSON file with the lead's fields, as a source would post them.
        lead: PathBuf,
    },
    /// Takes the rows of a CSV file as leads of a source, each through the same checks as a post.
    ///
    /// gateway import --source acme-solar leads.csv --preview
    ///
    /// gateway import --source acme-solar leads.csv --map "E-mail address=email"
    ///
    /// Rows that are refused are written to leads.refused.csv with their reasons, to be mended and imported. How far it came
    /// is kept in leads.import.json: after an interruption or a crash the same command goes on, and no row becomes a
    /// second lead. The source's rate is kept, its limits stop the import and say when they open. With no gateway
    /// running, the leads wait for the next start.
    #[command(verbatim_doc_comment)]
    Import(import::Wish),
    /// Sends finished deliveries again, by their ids or by a search: each as a new delivery to the same contract,
    /// rendered with today's template.
    ///
    /// gateway redeliver 0199f6c2-… --reason "they lost it"
    ///
    /// gateway redeliver --contract brightroof-solar --state failed --from 2026-11-21T09:00:00Z --reason "their outage"
    ///
    /// Try it with --dry-run first. Deliveries that are unfinished are refused. With no gateway running, the new
    /// deliveries wait for the next start.
    #[command(verbatim_doc_comment)]
    Redeliver(Box<redeliver::Wish>),
    /// Staff's tokens for the API.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it: this once, for only its hash is stored.
    New {
        /// Whose it is; stands beside everything that is done with it.
        name: String,
        /// What it may do: viewer (reads, personal data masked), support (also redelivers, resolves, cancels, pauses),
        /// admin (everything).
        #[arg(long, value_parser = role)]
        role: Role,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_word(text).ok_or_else(|| "use viewer, support or admin".to_owned())
}

/// Reads the arguments, does what they say, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Misuse>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Arguments that do not go together; says what would.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// `Ok(false)`: it ran, and found problems that it has told.
async fn run(cli: Cli) -> anyhow::Result<bool> {
    let config = || load(&cli.config);
    match cli.command {
        Command::Demo { once } => demo::run(once, cli.json).await,
        Command::Serve => serve::run(config()?).await,
        Command::Check { path, replies } => check::run(&config()?, path.as_deref(), replies.as_deref(), cli.json),
        Command::Apply { path, dry_run, force, prune } => {
            apply::run(&config()?, &path, crate::app::apply::Flags { dry_run, force, prune }, cli.json).await
        }
        Command::Export { directory, force, with_secrets } => {
            export::run(&config()?, &directory, export::Wish { force, with_secrets }, cli.json).await
        }
        Command::Render { contract, lead } => send::render(&config()?, &contract, &lead, cli.json),
        Command::Send { contract, lead } => send::send(&config()?, &contract, &lead, cli.json).await,
        Command::Import(wish) => import::run(config()?, wish, cli.json).await,
        Command::Redeliver(wish) => redeliver::run(config()?, *wish, cli.json).await,
        Command::Token { command: TokenCommand::New { name, role } } => {
            token::new(&config()?, name, role, cli.json).await
        }
    }
}

/// The configuration; a file that was asked for must be there.
fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, path != Path::new(DEFAULT_CONFIG))?)
}

/// Prints a line. A reader that has gone wants no more of it; what cannot be written otherwise ends the command with 1.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "error: the output cannot be written: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Prints a JSON document.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

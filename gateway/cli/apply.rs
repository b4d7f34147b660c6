//! `gateway apply`

use std::path::Path;

use crate::app::apply::{Flags, Report, apply};
use crate::app::control::{self, ApplyRequest, Reach};
use crate::app::told;
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::files;

pub(super) async fn run(config: &Config, path: &Path, flags: Flags, json: bool) -> anyhow::Result<bool> {
    let set =
        files::read(path, &config.network.templates).map_err(|faults| told("the files cannot be used", &faults))?;
    let report: Report = match control::reach(config).await? {
        Reach::Gateway(directory) => {
            let documents = set.documents().into_iter().map(|((kind, id), document)| (kind, id, document)).collect();
            control::ask(&directory, "/apply", &ApplyRequest { flags, documents }).await?
        }
        Reach::Store(store) => apply(&store, &set, flags, "apply", Clock::system().now(), None).await?.0,
    };
    if json {
        super::print_json(&report)?;
    } else {
        tell(&report, flags);
    }
    Ok(report.refused.is_empty())
}

fn tell(report: &Report, flags: Flags) {
    for change in &report.changes {
        println!("{change}");
    }
    for note in &report.notes {
        println!("note: {note}");
    }
    if !report.refused.is_empty() {
        println!("\nNothing was applied:");
        for why in &report.refused {
            println!("  {why}");
        }
    } else if report.changes.is_empty() {
        println!("Nothing differs.");
    } else if flags.dry_run {
        println!("\n{} would change (dry run).", resources(report.changes.len()));
    } else {
        println!("\n{} applied.", resources(report.applied));
    }
}

fn resources(count: usize) -> String {
    if count == 1 { "1 resource".to_owned() } else { format!("{count} resources") }
}

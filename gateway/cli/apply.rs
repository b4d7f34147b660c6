//! `gateway apply`

use std::path::Path;

use crate::app::apply::{Flags, Report, apply, followed};
use crate::app::control::{self, Reach};
use crate::app::told;
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::files;

pub(super) async fn run(config: &Config, path: &Path, flags: Flags, json: bool) -> anyhow::Result<bool> {
    let set =
        files::read(path, &config.network.templates).map_err(|faults| told("the files cannot be used", &faults))?;
    let report: Report = match control::reach(config).await? {
        Reach::Gateway(directory) => control::ask_to_apply(&directory, set, flags).await?,
        Reach::Store(store) => {
            let (mut report, _) = apply(&store, set, flags, "apply", Clock::system().now(), None).await?;
            if store.is_shared() && !flags.dry_run && report.refused.is_empty() {
                report.in_force = Some(followed(&store).await?);
            }
            report
        }
    };
    if json {
        super::print_json(&report)?;
    } else {
        tell(&report, flags);
    }
    Ok(report.refused.is_empty())
}

fn tell(report: &Report, flags: Flags) {
    // Many lines are written at once, and not one by one.
    let notes = report.notes.iter().map(|note| format!("note: {note}"));
    let lines: Vec<String> = report.changes.iter().cloned().chain(notes).collect();
    for lines in lines.chunks(1_000) {
        println!("{}", lines.join("\n"));
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
    match report.in_force {
        None | Some((_, 0)) => {}
        Some((there, all)) if there < all => println!(
            "In force at {there} of {all} gateways; the log of the others says why they cannot use it (a secret that is \
             missing there, perhaps). They go on by the network before it, and try again every 10 s."
        ),
        Some((1, _)) => println!("In force at the one gateway that runs."),
        Some((there, _)) => println!("In force at all {there} gateways."),
    }
}

fn resources(count: usize) -> String {
    if count == 1 { "1 resource".to_owned() } else { format!("{count} resources") }
}

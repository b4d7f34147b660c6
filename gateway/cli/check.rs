//! `gateway check`: is what the files say good, and do the rules mean what they should?

use std::path::Path;

use serde::Serialize;

use crate::config::Config;
use crate::directory::{Fault, Network, files};

mod replies;

#[derive(Serialize)]
struct Report {
    campaigns: usize,
    partners: usize,
    sources: usize,
    contracts: usize,
    faults: Vec<Told>,
    #[serde(flatten)]
    judged: Option<replies::Judged>,
}

#[derive(Serialize)]
struct Told {
    place: String,
    message: String,
}

pub(super) fn run(config: &Config, path: Option<&Path>, replies: Option<&Path>, json: bool) -> anyhow::Result<bool> {
    let path = path.unwrap_or(&config.network.dir);
    let (counts, faults, network) = check(config, path);
    let [campaigns, partners, sources, contracts] = counts;
    let judged = match (replies, &network) {
        (Some(dir), Some(network)) => Some(replies::judge(network, dir)?),
        _ => None,
    };
    let good = faults.is_empty() && judged.as_ref().is_none_or(|judged| judged.wrong() == 0);
    if json {
        let faults: Vec<Told> =
            faults.into_iter().map(|fault| Told { place: fault.place, message: fault.message }).collect();
        super::print_json(&Report { campaigns, partners, sources, contracts, faults, judged })?;
        return Ok(good);
    }
    for fault in &faults {
        println!("{fault}");
    }
    if let Some(judged) = &judged {
        judged.show();
    }
    match faults.len() {
        0 => println!(
            "{}: good. {campaigns} campaigns, {partners} partners, {sources} sources, {contracts} contracts; every template rendered \
             with a plain lead, a hostile one and a bare one.",
            path.display()
        ),
        1 => println!("\n1 fault."),
        n => println!("\n{n} faults."),
    }
    if network.is_none() && replies.is_some() {
        println!("The replies were not judged: that needs a network without faults.");
    }
    if faults.iter().any(|fault| fault.message.contains("environment variable")) {
        println!(
            "To check without the real secrets, set stand-ins, as config/network/examples/secrets.env does for the examples:"
        );
        println!("    set -a; . config/network/examples/secrets.env; set +a");
    }
    Ok(good)
}

/// Reads and compiles everything, and renders every contract's request with a plain lead, a hostile one and a bare one.
fn check(config: &Config, path: &Path) -> ([usize; 4], Vec<Fault>, Option<Network>) {
    let set = match files::read(path, &config.network.templates) {
        Ok(set) => set,
        Err(faults) => return ([0; 4], faults, None),
    };
    let network = match Network::compile(&set, None) {
        Ok(network) => network,
        Err(faults) => {
            let counts = [set.campaigns.len(), set.partners.len(), set.sources.len(), set.contracts.len()];
            return (counts, faults, None);
        }
    };
    let mut faults = Vec::new();
    for entry in network.contracts() {
        let Some(campaign) = network.campaign(&entry.contract.campaign) else { continue };
        let place = format!("contract {}", entry.contract.id);
        faults.extend(
            entry
                .renderer
                .check(&campaign.campaign)
                .into_iter()
                .map(|fault| Fault::new(place.clone(), fault.to_string())),
        );
    }
    faults.sort();
    (network.counts(), faults, Some(network))
}

//! `gateway check`

use std::path::Path;

use serde::Serialize;

use crate::config::Config;
use crate::directory::{Fault, Network, files};

#[derive(Serialize)]
struct Report {
    campaigns: usize,
    partners: usize,
    sources: usize,
    contracts: usize,
    faults: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    place: String,
    message: String,
}

pub(super) fn run(config: &Config, path: Option<&Path>, json: bool) -> anyhow::Result<bool> {
    let path = path.unwrap_or(&config.network.dir);
    let (counts, faults) = check(config, path);
    let [campaigns, partners, sources, contracts] = counts;
    if json {
        let faults: Vec<Told> =
            faults.into_iter().map(|fault| Told { place: fault.place, message: fault.message }).collect();
        let good = faults.is_empty();
        super::print_json(&Report { campaigns, partners, sources, contracts, faults })?;
        return Ok(good);
    }
    for fault in &faults {
        println!("{fault}");
    }
    match faults.len() {
        0 => println!(
            "{}: good. {campaigns} campaigns, {partners} partners, {sources} sources, {contracts} contracts; every template rendered \
             with a plain and a hostile lead.",
            path.display()
        ),
        1 => println!("\n1 fault."),
        n => println!("\n{n} faults."),
    }
    Ok(faults.is_empty())
}

/// Reads and compiles everything, and renders every contract's request with a plain and a hostile lead.
fn check(config: &Config, path: &Path) -> ([usize; 4], Vec<Fault>) {
    let set = match files::read(path, &config.network.templates) {
        Ok(set) => set,
        Err(faults) => return ([0; 4], faults),
    };
    let network = match Network::compile(&set, None) {
        Ok(network) => network,
        Err(faults) => {
            return ([set.campaigns.len(), set.partners.len(), set.sources.len(), set.contracts.len()], faults);
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
    (network.counts(), faults)
}

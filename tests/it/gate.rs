//! The gate: hours and periods against a minute-by-minute reference, and the suite that every kind of gate must pass.

mod books;
mod hours;
mod periods;
mod redis;
mod suite;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use lead_gateway::gate::memory::MemoryGate;
use lead_gateway::gate::rules::{GateRules, PartnerRules};
use lead_gateway::gate::{Answer, Gate};
use lead_gateway::model::contract::Contract;
use lead_gateway::model::id::ContractId;
use lead_gateway::model::partner::Partner;

use books::Subject;

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub type Network = HashMap<ContractId, Arc<GateRules>>;

/// One partner called `brightroof` with contracts, from the keys that matter here.
pub fn network(partner: &str, contracts: &[(&str, &str)]) -> Network {
    let partner: Partner = toml::from_str(&format!(
        "id = \"brightroof\"\nkind = \"buyer\"\n{partner}\n{}",
        if partner.contains("timezone") { "" } else { "timezone = \"Europe/London\"" }
    ))
    .unwrap();
    let partner = Arc::new(PartnerRules::compile(&partner).unwrap());
    contracts
        .iter()
        .map(|(id, keys)| {
            let contract: Contract = toml::from_str(&format!(
                "id = \"{id}\"\npartner = \"brightroof\"\ncampaign = \"solar-uk\"\n{keys}\n\
                 [endpoint]\nmethod = \"json\"\nurl = \"https://api.brightroof.example/leads\"\n"
            ))
            .unwrap();
            (contract.id.clone(), Arc::new(GateRules::compile(Arc::clone(&partner), &contract).unwrap()))
        })
        .collect()
}

#[test]
fn the_memory_gate_passes_the_suite() {
    suite::run(async |network| {
        let gate = Gate::Memory(MemoryGate::new());
        gate.install(network, 1).await;
        Subject::new(gate, Arc::default())
    });
}

#[tokio::test]
async fn memory_is_bounded_because_counts_of_past_periods_are_dropped() {
    let memory = MemoryGate::new();
    let contract: ContractId = "c".parse().unwrap();
    let gate = Gate::Memory(memory);
    gate.install(network("", &[("c", "")]), 1).await;
    for day in 0..800 {
        let now = at("2026-01-01T12:00:00Z") + jiff::SignedDuration::from_hours(24 * day);
        assert!(matches!(gate.take(&contract, now, false).await.unwrap(), Answer::Open(_)));
        let Gate::Memory(memory) = &gate else { panic!("it is a memory gate") };
        // Two owners, each with a total, at most two months and today with the few days before it.
        assert!(memory.counters() <= 2 * (1 + 2 + 4), "{} counters on day {day}", memory.counters());
    }
}

#[test]
fn a_wrong_zone_and_every_wrong_day_are_told_at_once() {
    let partner: Partner = toml::from_str(
        r#"
        id = "brightroof"
        kind = "buyer"
        timezone = "Europe/Londn"
        schedule = { mon = "9-5", funday = "09:00-10:00" }
        "#,
    )
    .unwrap();
    let faults: Vec<String> = PartnerRules::compile(&partner).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].starts_with("timezone: `Europe/Londn` is not"), "{faults:?}");
    assert!(faults[1].starts_with("schedule.funday: `funday` is not a day"), "{faults:?}");
    assert!(faults[2].starts_with("schedule.mon: `9-5` is not a window"), "{faults:?}");
}

//! The order of candidates.

use std::collections::{BTreeMap, VecDeque};

use lead_gateway::model::campaign::Distribution;
use lead_gateway::model::contract::{Contract, Filter};
use lead_gateway::model::id::ContractId;
use lead_gateway::model::lead::{Candidate, FieldValue, Lead};
use lead_gateway::routing::{RoutedContract, candidates};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{campaign, lead};

fn contract(id: &str, priority: u32, weight: u32) -> RoutedContract {
    RoutedContract {
        id: id.parse().unwrap(),
        partner: format!("partner-{id}").parse().unwrap(),
        priority,
        weight,
        filters: None,
    }
}

fn never(_: &ContractId) -> u64 {
    0
}

fn ids(candidates: &[Candidate]) -> Vec<&str> {
    candidates.iter().map(|candidate| candidate.contract.as_str()).collect()
}

/// A source of draws that is the same in every run.
fn seeded(seed: u64) -> impl FnMut() -> f64 {
    let mut random = StdRng::seed_from_u64(seed);
    move || random.random::<f64>()
}

#[test]
fn matching_contracts_come_in_order_and_filtered_ones_after_them_with_their_reason() {
    let compile = |id: &str, keys: &str| {
        let contract: Contract = toml::from_str(&format!(
            "id = \"{id}\"\npartner = \"p\"\ncampaign = \"solar-uk\"\n{keys}\n\
             [endpoint]\nmethod = \"json\"\nurl = \"https://p.example\"\n"
        ))
        .unwrap();
        RoutedContract::compile(&contract, &campaign("")).unwrap()
    };
    let contracts = [
        compile("z", "filters = { field = \"rooms\", min = 3 }\npriority = 1"),
        compile("d", "priority = 3"),
        compile("c", "filters = { field = \"rooms\", max = 3 }\npriority = 2"),
        compile("a", "filters = { field = \"roof\", equals = \"flat\" }\npriority = 1"),
    ];
    let lead = lead(&[("rooms", FieldValue::Integer(2))]);
    let found = candidates(&lead, &contracts, Distribution::Priority, &mut || 0.5, &never);
    assert_eq!(ids(&found), ["c", "d", "a", "z"]);
    let reasons: Vec<Option<&str>> = found.iter().map(|candidate| candidate.filtered.as_deref()).collect();
    assert_eq!(reasons, [None, None, Some("roof is not given"), Some("rooms is not at least 3")]);
    assert_eq!(found[0].partner.as_str(), "p");
}

#[test]
fn a_fault_in_a_contracts_filters_is_told() {
    let contract: Contract = toml::from_str(
        "id = \"a\"\npartner = \"p\"\ncampaign = \"solar-uk\"\nfilters = {}\n\
         [endpoint]\nmethod = \"json\"\nurl = \"https://p.example\"\n",
    )
    .unwrap();
    assert_eq!(contract.filters, Some(Filter::default()));
    assert_eq!(RoutedContract::compile(&contract, &campaign("")).unwrap_err().len(), 1);
}

#[test]
fn broadcast_goes_by_priority_and_id_without_a_draw() {
    let contracts = [contract("c", 1, 9), contract("a", 2, 9), contract("b", 1, 1)];
    let mut no_draw = || panic!("nothing is drawn");
    let found = candidates(&lead(&[]), &contracts, Distribution::Broadcast, &mut no_draw, &never);
    assert_eq!(ids(&found), ["b", "c", "a"]);
}

#[test]
fn priority_goes_by_priority_and_draws_ties_by_weight() {
    let contracts = [contract("late", 2, 100), contract("light", 1, 1), contract("heavy", 1, 3)];
    let mut draw = seeded(1);
    let mut heavy_first = 0;
    for _ in 0..10_000 {
        let found = candidates(&lead(&[]), &contracts, Distribution::Priority, &mut draw, &never);
        assert_eq!(found[2].contract.as_str(), "late");
        heavy_first += u32::from(found[0].contract.as_str() == "heavy");
    }
    // Binomial(10000, 3/4): standard deviation 43.
    assert!((7_327..=7_673).contains(&heavy_first), "{heavy_first}");
}

#[test]
fn a_weighted_draw_is_successive_and_without_replacement() {
    let contracts = [contract("a", 9, 1), contract("b", 1, 2), contract("c", 1, 5), contract("z", 1, 0)];
    let weights: BTreeMap<&str, f64> = [("a", 1.0), ("b", 2.0), ("c", 5.0)].into();
    let mut draw = seeded(2);
    let runs = 40_000;
    let mut seen: BTreeMap<(String, String), f64> = BTreeMap::new();
    for _ in 0..runs {
        let found = candidates(&lead(&[]), &contracts, Distribution::Weighted, &mut draw, &never);
        let order = ids(&found);
        assert_eq!(order[3], "z", "weight 0 comes only when nobody else is left");
        *seen.entry((order[0].to_owned(), order[1].to_owned())).or_default() += 1.0;
    }
    for (first, weight) in &weights {
        for (second, other) in weights.iter().filter(|(id, _)| *id != first) {
            // By hand: drawn first of all three, then of the two that are left.
            let share = weight / 8.0 * other / (8.0 - weight);
            let expected = share * f64::from(runs);
            let deviation = (expected * (1.0 - share)).sqrt();
            let found = seen[&((*first).to_owned(), (*second).to_owned())];
            assert!((found - expected).abs() < 4.0 * deviation, "{first}, {second}: {found} instead of {expected}");
        }
    }
}

#[test]
fn contracts_of_weight_0_are_drawn_evenly_among_themselves() {
    let contracts = [contract("a", 1, 0), contract("b", 1, 0)];
    let mut draw = seeded(3);
    let first = |draw: &mut dyn FnMut() -> f64| {
        candidates(&lead(&[]), &contracts, Distribution::Weighted, draw, &never)[0].contract.as_str() == "a"
    };
    let a_first = (0..10_000).filter(|_| first(&mut draw)).count();
    assert!((4_800..=5_200).contains(&a_first), "{a_first}");
}

#[test]
fn the_same_draw_gives_the_same_order_however_the_contracts_are_listed() {
    let mut contracts: Vec<RoutedContract> = (0..9).map(|i| contract(&format!("c{i}"), 1 + i % 2, i)).collect();
    let order = |contracts: &[RoutedContract], distribution| {
        let found = candidates(&lead(&[]), contracts, distribution, &mut seeded(4), &never);
        ids(&found).join(" ")
    };
    for distribution in [Distribution::Priority, Distribution::Weighted, Distribution::Broadcast] {
        let before = order(&contracts, distribution);
        contracts.reverse();
        assert_eq!(order(&contracts, distribution), before);
    }
}

/// A lead and which of the contracts want it.
fn wanted_by(wanted: &[bool], contracts: &[RoutedContract]) -> (Lead, Vec<RoutedContract>) {
    let those = contracts.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(contract, _)| contract.clone());
    (lead(&[]), those.collect())
}

proptest! {
    #[test]
    fn round_robin_is_a_queue_in_which_who_was_served_goes_to_the_back(
        leads in prop::collection::vec(prop::collection::vec(any::<bool>(), 5), 1..200),
    ) {
        let contracts: Vec<RoutedContract> = (0..5).map(|i| contract(&format!("c{i}"), 1, 1)).collect();
        let mut turns: BTreeMap<ContractId, u64> = BTreeMap::new();
        let mut queue: VecDeque<ContractId> = contracts.iter().map(|contract| contract.id.clone()).collect();
        for (number, wanted) in (1..).zip(&leads) {
            let (lead, those) = wanted_by(wanted, &contracts);
            let last_turn = |id: &ContractId| turns.get(id).copied().unwrap_or(0);
            let found = candidates(&lead, &those, Distribution::RoundRobin, &mut || panic!("no draw"), &last_turn);
            let expected: Vec<&ContractId> =
                queue.iter().filter(|id| those.iter().any(|contract| contract.id == **id)).collect();
            let order: Vec<&ContractId> = found.iter().map(|candidate| &candidate.contract).collect();
            prop_assert_eq!(&order, &expected);
            if let Some(first) = found.first() {
                turns.insert(first.contract.clone(), number);
                queue.retain(|id| *id != first.contract);
                queue.push_back(first.contract.clone());
            }
        }
    }

    #[test]
    fn every_contract_is_a_candidate_exactly_once(
        listed in prop::collection::vec((1..4u32, 0..4u32), 0..12),
        seed in any::<u64>(),
        distribution in prop::sample::select(vec![
            Distribution::Priority, Distribution::Weighted, Distribution::RoundRobin, Distribution::Broadcast,
        ]),
    ) {
        let contracts: Vec<RoutedContract> = listed
            .iter()
            .enumerate()
            .map(|(i, (priority, weight))| contract(&format!("c{i}"), *priority, *weight))
            .collect();
        let found = candidates(&lead(&[]), &contracts, distribution, &mut seeded(seed), &never);
        let mut found: Vec<&ContractId> = found.iter().map(|candidate| &candidate.contract).collect();
        found.sort();
        let mut expected: Vec<&ContractId> = contracts.iter().map(|contract| &contract.id).collect();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}

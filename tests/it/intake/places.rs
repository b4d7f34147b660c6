//! What a lead takes of the limits of its source and its campaign.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use lead_gateway::directory::{Network, ResourceSet};
use lead_gateway::gate::limits;
use lead_gateway::model::id::{CampaignId, SourceId};
use lead_gateway::model::limit::{Limits, OwnerKind, Place};
use proptest::prelude::*;

/// A campaign `c` in this zone and its source `s`, with limits.
fn network(timezone: &str) -> Network {
    let mut set = ResourceSet::default();
    let campaign = "id = \"c\"\ncurrency = \"GBP\"\nlimits = { daily = 5, total = 90 }";
    let campaign = toml::from_str(&format!("{campaign}\ntimezone = \"{timezone}\"")).unwrap();
    set.campaigns.insert("c".parse().unwrap(), campaign);
    let partner = "id = \"p\"\nkind = \"introducer\"\ntimezone = \"UTC\"";
    set.partners.insert("p".parse().unwrap(), toml::from_str(partner).unwrap());
    let source =
        "id = \"s\"\ncampaign = \"c\"\npartner = \"p\"\nkey = \"a-key-of-the-source\"\nlimits = { monthly = 7 }";
    set.sources.insert("s".parse().unwrap(), toml::from_str(source).unwrap());
    Network::compile(&set, None).unwrap()
}

/// The places of a lead at `now`, computed anew: of the total first, and of the source before the campaign.
fn computed(timezone: &str, now: Timestamp) -> Vec<Place> {
    let tz = TimeZone::get(timezone).unwrap();
    let of = |kind, id, limits: Limits| limits::places(kind, id, &limits, &tz, now).map(|(place, _)| place);
    let [source_day, source_month, source_all] = of(OwnerKind::Source, "s", Limits { monthly: 7, ..Limits::default() });
    let [day, month, all] = of(OwnerKind::Campaign, "c", Limits { daily: 5, total: 90, ..Limits::default() });
    vec![source_all, all, source_month, month, source_day, day]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// … through the ends of days and months, changes of the clocks, and a clock that was set back.
    #[test]
    fn the_places_of_a_lead_are_those_of_its_moment_whatever_was_asked_before(
        timezone in proptest::sample::select(vec!["UTC", "Europe/London", "America/New_York", "Pacific/Apia", "Africa/Cairo"]),
        start in 1_761_000_000_i64..1_800_000_000,
        steps in proptest::collection::vec(-3_000_i64..90_000, 1..60),
    ) {
        let network = network(timezone);
        let campaign = network.campaign(&"c".parse::<CampaignId>().unwrap()).unwrap();
        let source = network.source(&"s".parse::<SourceId>().unwrap()).unwrap();
        let mut now = Timestamp::from_second(start).unwrap();
        for step in steps {
            now += SignedDuration::from_secs(step);
            prop_assert_eq!(campaign.places(source, now), computed(timezone, now));
        }
    }
}

#[test]
fn the_last_instant_of_a_day_and_the_first_of_the_next_take_different_places() {
    let network = network("Europe/London");
    let campaign = network.campaign(&"c".parse::<CampaignId>().unwrap()).unwrap();
    let source = network.source(&"s".parse::<SourceId>().unwrap()).unwrap();
    // British Summer Time: the day begins an hour before that of UTC.
    let midnight: Timestamp = "2026-06-30T23:00:00Z".parse().unwrap();
    for now in [midnight - SignedDuration::from_secs(9), midnight - SignedDuration::from_nanos(1), midnight] {
        assert_eq!(campaign.places(source, now), computed("Europe/London", now), "at {now}");
    }
}

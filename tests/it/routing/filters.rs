//! Filters, by example.

use lead_gateway::model::contract::Filter;
use lead_gateway::model::lead::{FieldValue, Lead};
use lead_gateway::routing::filters::Filters;

use super::{campaign, campaign_with, lead, text};

fn filter(toml_value: &str) -> Filter {
    #[derive(serde::Deserialize)]
    struct Holder {
        filters: Filter,
    }
    toml::from_str::<Holder>(&format!("filters = {toml_value}")).unwrap().filters
}

fn check(toml_value: &str, lead: &Lead) -> Result<(), String> {
    Filters::compile(&filter(toml_value), &campaign("")).unwrap().check(lead)
}

fn londoner() -> Lead {
    lead(&[
        ("email", text("Ann@Example.com")),
        ("phone", text("+442079460000")),
        ("postcode", text("SW1A 1AA")),
        ("monthly_bill", text("49.90")),
        ("rooms", FieldValue::Integer(5)),
        ("birth_date", text("1980-02-29")),
        ("owner", FieldValue::Boolean(true)),
        ("roof", text("flat")),
        ("comment", text("Call after six")),
        ("utm.campaign", text("spring")),
        ("empty", text("")),
    ])
}

#[test]
fn a_filter_passes_or_says_why_not_in_its_own_words() {
    let lead = londoner();
    for (filter, expected) in [
        (r#"{ field = "postcode", prefix = ["SW", "SE"] }"#, Ok(())),
        (r#"{ field = "postcode", prefix = ["N", "SE"] }"#, Err("postcode does not start with N or SE")),
        (r#"{ field = "postcode", prefix = "sw1a1" }"#, Ok(())),
        (r#"{ field = "postcode", equals = "sw1a1aa" }"#, Ok(())),
        (r#"{ field = "email", equals = "ann@example.COM" }"#, Ok(())),
        (r#"{ field = "comment", prefix = "call" }"#, Err("comment does not start with call")),
        (r#"{ field = "phone", prefix = "+44" }"#, Ok(())),
        (r#"{ field = "roof", equals = "pitched" }"#, Err("roof is not pitched")),
        (r#"{ field = "roof", one_of = ["pitched", "flat"] }"#, Ok(())),
        (r#"{ field = "owner", equals = false }"#, Err("owner is not false")),
        (r#"{ field = "owner", equals = "yes" }"#, Ok(())),
        (r#"{ field = "rooms", one_of = [1, 2, 3] }"#, Err("rooms is not 1, 2 or 3")),
        (r#"{ field = "rooms", equals = "5.0" }"#, Ok(())),
        (r#"{ field = "rooms", one_of = [1, 2, 3, 4, 6, 7, 8] }"#, Err("rooms is not 1, 2, 3, 4, 6 or 2 more")),
        // As numbers, not as texts: "49.90" is not below "5".
        (r#"{ field = "monthly_bill", min = "5" }"#, Ok(())),
        (r#"{ field = "monthly_bill", equals = "49.9" }"#, Ok(())),
        (r#"{ field = "monthly_bill", min = "50" }"#, Err("monthly_bill is not at least 50")),
        (r#"{ field = "monthly_bill", min = 49.9, max = 49.9 }"#, Ok(())),
        (r#"{ field = "rooms", max = 4 }"#, Err("rooms is not at most 4")),
        (r#"{ field = "birth_date", min = "1980-02-29", max = "1980-03-01" }"#, Ok(())),
        (r#"{ field = "birth_date", max = "1980-02-28" }"#, Err("birth_date is not at most 1980-02-28")),
        (r#"{ field = "comment", matches = "after (five|six)$" }"#, Ok(())),
        (r#"{ field = "comment", matches = "^after" }"#, Err("comment does not match /^after/")),
        (r#"{ field = "utm.campaign", equals = "spring" }"#, Ok(())),
        (r#"{ field = "comment", min = 3 }"#, Err("comment is not at least 3")),
        (r#"{ source = "acme-solar" }"#, Ok(())),
        (r#"{ source = ["best", "other"] }"#, Err("source is not best or other")),
        (r#"{ source = true, prefix = "acme-" }"#, Ok(())),
        (r#"{ source = true, prefix = "best-" }"#, Err("source does not start with best-")),
    ] {
        assert_eq!(check(filter, &lead), expected.map_err(str::to_owned), "{filter}");
    }
}

#[test]
fn a_missing_or_empty_field_fails_every_test_but_that_of_its_absence() {
    let lead = londoner();
    for field in ["gone", "empty"] {
        for test in
            [r#"equals = """#, r#"one_of = ["", "a"]"#, r#"prefix = "a""#, r#"matches = """#, "min = 0", "max = 9"]
        {
            let refused = Err(format!("{field} is not given"));
            assert_eq!(check(&format!("{{ field = \"{field}\", {test} }}"), &lead), refused);
            assert_eq!(check(&format!("{{ not = {{ field = \"{field}\", {test} }} }}"), &lead), Ok(()));
        }
        assert_eq!(check(&format!("{{ field = \"{field}\", exists = false }}"), &lead), Ok(()));
        let refused = Err(format!("{field} is not given"));
        assert_eq!(check(&format!("{{ field = \"{field}\", exists = true }}"), &lead), refused);
    }
    assert_eq!(check(r#"{ field = "roof", exists = false }"#, &lead), Err("roof is given".to_owned()));
}

#[test]
fn all_any_and_not_say_what_decided_them() {
    let lead = londoner();
    for (filter, expected) in [
        (
            r#"{ all = [{ field = "postcode", prefix = "SW" }, { field = "monthly_bill", min = "50" }, { field = "rooms", min = 9 }] }"#,
            Err("monthly_bill is not at least 50"),
        ),
        (
            r#"{ any = [{ field = "postcode", prefix = "SE" }, { field = "monthly_bill", min = "50" }] }"#,
            Err("postcode does not start with SE and monthly_bill is not at least 50"),
        ),
        (r#"{ any = [{ field = "postcode", prefix = "SE" }, { field = "rooms", min = 5 }] }"#, Ok(())),
        (r#"{ not = { field = "postcode", prefix = "SW" } }"#, Err("postcode starts with SW")),
        (r#"{ not = { field = "rooms", min = 4, max = 6 } }"#, Err("rooms is at least 4 and is at most 6")),
        (r#"{ not = { not = { field = "postcode", prefix = "SE" } } }"#, Err("postcode does not start with SE")),
        (
            r#"{ not = { any = [{ field = "rooms", equals = 4 }, { source = "acme-solar" }] } }"#,
            Err("source is acme-solar"),
        ),
        (
            r#"{ not = { all = [{ field = "rooms", equals = 5 }, { source = "acme-solar" }] } }"#,
            Err("rooms is 5 and source is acme-solar"),
        ),
    ] {
        assert_eq!(check(filter, &lead), expected.map_err(str::to_owned), "{filter}");
    }
}

#[test]
fn a_reason_never_holds_the_leads_values_and_never_grows_without_bound() {
    let secret = lead(&[("comment", text("hunter2 hunter2")), ("monthly_bill", text("hunter2"))]);
    let long: Vec<String> =
        (0..500).map(|i| format!("{{ field = \"comment\", equals = \"value number {i}\" }}")).collect();
    for filter in [
        r#"{ field = "comment", equals = "a" }"#.to_owned(),
        r#"{ field = "monthly_bill", min = 5 }"#.to_owned(),
        r#"{ not = { field = "comment", exists = true } }"#.to_owned(),
        format!("{{ any = [{}] }}", long.join(", ")),
        format!("{{ field = \"comment\", equals = \"{}\" }}", "é".repeat(10_000)),
    ] {
        let reason = check(&filter, &secret).unwrap_err();
        assert!(!reason.contains("hunter2"), "{reason}");
        assert!(reason.chars().count() <= 301, "{reason}");
    }
}

#[test]
fn faults_say_where_they_stand_and_come_all_at_once() {
    for (filter_text, expected) in [
        ("{}", &["filters: nothing is selected"][..]),
        (r#"{ field = "roof", source = "a", equals = "flat" }"#, &["filters: field and source stand side by side"]),
        (r"{ all = [], any = [] }", &["filters: all and any stand side by side"]),
        (r"{ all = [] }", &["filters.all: the list is empty"]),
        (r#"{ all = [{ field = "roof", exists = true }], equals = 1 }"#, &["filters: a test stands beside `all`"]),
        (r#"{ field = "roof" }"#, &["filters: a test is missing"]),
        (r"{ source = true }", &["filters: a test is missing"]),
        (r"{ source = false }", &["filters: source = false selects nothing"]),
        (r#"{ source = "acme", prefix = "a" }"#, &["filters: a test stands beside a source's id"]),
        (r#"{ source = ["Acme Media"] }"#, &["filters: source `Acme Media` is not an id"]),
        (r#"{ field = "comment", matches = "(" }"#, &["filters.matches: is no regular expression"]),
        (r#"{ field = "rooms", min = "many" }"#, &["filters.min: `many` is not a number"]),
        (r#"{ field = "birth_date", max = 5 }"#, &["filters.max: `5` is not a date"]),
        (r#"{ field = "undeclared", max = "soon" }"#, &["filters.max: `soon` is not a number or a date"]),
        (r#"{ field = "email", min = 5 }"#, &["filters.min: the field is neither a number nor a date"]),
        (r#"{ field = "rooms", min = 5, max = 4 }"#, &["filters: min 5 and max 4 leave nothing"]),
        (r#"{ field = "comment", min = 5, max = "2026-01-01" }"#, &["filters: min 5 and max 2026-01-01 leave nothing"]),
        (r#"{ field = "owner", equals = "perhaps" }"#, &["filters.equals: `perhaps` is not true or false"]),
        (
            r#"{ field = "roof", one_of = ["flat", "Pitched"] }"#,
            &["filters.one_of: `Pitched` is not one of the values"],
        ),
        (r#"{ field = "roof", one_of = [] }"#, &["filters.one_of: the list is empty"]),
        (r#"{ field = "comment", prefix = ["a", ""] }"#, &["filters.prefix: an empty prefix is no test"]),
        (r#"{ field = "comment", exists = false, prefix = "a" }"#, &["filters: exists = false stands beside"]),
        (
            r#"{ all = [{ any = [{ field = "rooms", min = "x" }] }, { not = { field = "comment", matches = "[" } }, {}] }"#,
            &[
                "filters.all[0].any[0].min: `x` is not a number",
                "filters.all[1].not.matches: is no regular expression",
                "filters.all[2]: nothing is selected",
            ],
        ),
    ] {
        let faults: Vec<String> = Filters::compile(&filter(filter_text), &campaign(""))
            .expect_err(filter_text)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(faults.len(), expected.len(), "{filter_text}: {faults:?}");
        for (found, expected) in faults.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} instead of {expected}");
        }
    }
}

#[test]
fn an_undeclared_field_is_a_fault_where_the_campaign_refuses_it() {
    let wanted = filter(r#"{ any = [{ field = "utm.campaign", exists = true }, { field = "roof", exists = true }] }"#);
    assert!(Filters::compile(&wanted, &campaign(r#"unknown_fields = "keep""#)).is_ok());
    let faults = Filters::compile(&wanted, &campaign(r#"unknown_fields = "refuse""#)).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(
        faults[0].to_string(),
        "filters.any[0]: field `utm.campaign` is not declared by campaign solar-uk, which refuses it"
    );
}

#[test]
fn filters_nested_beyond_reason_are_a_fault_and_not_a_crash() {
    let mut deep = filter(r#"{ field = "roof", exists = true }"#);
    for _ in 0..40 {
        deep = Filter { not: Some(Box::new(deep)), ..Filter::default() };
    }
    let faults = Filters::compile(&deep, &campaign("")).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].problem.contains("more than 32 deep"), "{faults:?}");
}

#[test]
fn one_entry_of_a_list_that_passes_every_test_is_enough() {
    let campaign = campaign_with(
        "interests = { type = \"list\", items = { type = \"one_of\", values = [\"solar\", \"wind\"] } }\n\
         rates = { type = \"list\", items = { type = \"decimal\" } }\n\
         vehicles = { type = \"list\", fields = { make = { type = \"text\" }, year = { type = \"integer\" } } }",
    );
    let vehicle = |make: &str, year: i64| {
        FieldValue::Group([("make".to_owned(), text(make)), ("year".to_owned(), FieldValue::Integer(year))].into())
    };
    let lead = lead(&[
        ("interests", FieldValue::List(vec![text("wind"), text("solar")])),
        ("rates", FieldValue::List(vec![text("1.50"), text("20")])),
        ("vehicles", FieldValue::List(vec![vehicle("VW", 2004), vehicle("Kia", 2021)])),
    ]);
    for (filter, expected) in [
        (r#"{ field = "interests", equals = "solar" }"#, Ok(())),
        (r#"{ field = "interests", one_of = ["solar"] }"#, Ok(())),
        (r#"{ field = "interests", prefix = "sun" }"#, Err("interests does not start with sun")),
        (r#"{ field = "interests", matches = "^sol" }"#, Ok(())),
        (r#"{ not = { field = "interests", equals = "wind" } }"#, Err("interests is wind")),
        (r#"{ field = "interests", exists = true }"#, Ok(())),
        (r#"{ field = "interests", exists = false }"#, Err("interests is given")),
        (r#"{ field = "vehicles", exists = true }"#, Ok(())),
        (r#"{ field = "rates", min = "9" }"#, Ok(())),
        (r#"{ field = "rates", min = "30" }"#, Err("rates is not at least 30")),
        (r#"{ field = "vehicles.make", equals = "Kia" }"#, Ok(())),
        (r#"{ field = "vehicles.make", equals = "BMW" }"#, Err("vehicles.make is not BMW")),
        (r#"{ field = "vehicles.year", min = 2020, max = 2022 }"#, Ok(())),
        // One is old enough, another young enough, and none is both.
        (
            r#"{ field = "vehicles.year", min = 2010, max = 2015 }"#,
            Err("vehicles.year is not at least 2010 and is not at most 2015"),
        ),
        (r#"{ field = "vehicles.colour", exists = false }"#, Ok(())),
        (r#"{ field = "vehicles.colour", equals = "red" }"#, Err("vehicles.colour is not given")),
    ] {
        let checked = Filters::compile(&self::filter(filter), &campaign).unwrap().check(&lead);
        assert_eq!(checked, expected.map_err(str::to_owned), "{filter}");
    }
    for filter in [
        r#"{ field = "interests", equals = "sun" }"#,
        r#"{ field = "vehicles", equals = "Kia" }"#,
        r#"{ field = "vehicles.year", equals = "new" }"#,
        r#"{ field = "vehicles.make", min = "2020-01-01x" }"#,
    ] {
        assert!(Filters::compile(&self::filter(filter), &campaign).is_err(), "{filter}");
    }
}

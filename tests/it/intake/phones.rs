//! Telephone numbers: read and written as the crate `phonenumber` does, but without its lock and its cache.

use lead_gateway::intake::identity::{PHONE, normalise_lookup};
use lead_gateway::model::phone::{Number, Region};
use phonenumber::metadata::DATABASE;
use phonenumber::{Metadata, Mode, country};
use proptest::prelude::*;
use proptest::sample::select;

/// The regions that have a numbering plan.
fn regions() -> Vec<&'static str> {
    let mut ids: Vec<_> = DATABASE.iter().map(Metadata::id).filter(|id| id.parse::<country::Id>().is_ok()).collect();
    ids.sort_unstable();
    assert!(ids.len() > 240, "{}", ids.len());
    ids
}

/// Numbers that the metadata names as examples, of every kind of subscriber, with their plans.
fn examples() -> Vec<(&'static Metadata, &'static str)> {
    let mut ids: Vec<_> = DATABASE.iter().collect();
    ids.sort_unstable_by_key(|plan| plan.id());
    let mut all = Vec::new();
    for plan in ids {
        let kinds = plan.descriptors();
        let kinds = [
            kinds.fixed_line(),
            kinds.mobile(),
            kinds.toll_free(),
            kinds.premium_rate(),
            kinds.shared_cost(),
            kinds.personal_number(),
            kinds.voip(),
            kinds.pager(),
            kinds.uan(),
            kinds.voicemail(),
        ];
        let examples = kinds.into_iter().flatten().filter_map(|kind| kind.example());
        all.extend(examples.map(|example| (plan, example)));
    }
    assert!(all.len() > 1_000, "{}", all.len());
    all
}

/// What the crate makes of a number of digits, as intake has always asked it.
fn normalised_by_crate(plus: bool, digits: &str, region: Option<&str>) -> Option<String> {
    if !(4..=22).contains(&digits.len()) {
        return None;
    }
    let number = match (if plus { Some(digits) } else { abroad(digits, region) }, region) {
        (Some(digits), _) => phonenumber::parse(None, format!("+{digits}")),
        (None, Some(region)) => phonenumber::parse(Some(region.parse().unwrap()), digits),
        (None, None) => return None,
    };
    let number = number.ok()?;
    let e164 = format!("+{}{}", number.code().value(), number.national());
    let is_for_fiction = e164.len() == 13 && (e164.starts_with("+447700900") || e164.starts_with("+441632960"));
    (phonenumber::is_valid(&number) || is_for_fiction).then_some(e164)
}

/// What follows the prefix for calls abroad.
fn abroad<'d>(digits: &'d str, region: Option<&str>) -> Option<&'d str> {
    let Some(region) = region else { return digits.strip_prefix("00") };
    let prefix = DATABASE.by_id(region)?.international_prefix()?;
    let end = prefix.find(digits).filter(|found| found.start() == 0)?.end();
    digits.get(end..).filter(|rest| !rest.starts_with('0'))
}

/// A number in every writing that a template may ask for. Where it has a country code the crate is told no region: it would
/// take that region's trunk prefix off the number of another country.
fn written_by_crate(text: &str, region: Option<&str>) -> Option<[String; 3]> {
    let is_digits = text.bytes().all(|b| b.is_ascii_digit());
    let has_code = text.strip_prefix("tel:").unwrap_or(text).starts_with('+');
    let number = match region.and_then(|region| abroad(text, Some(region))).filter(|_| is_digits) {
        Some(international) => phonenumber::parse(None, format!("+{international}")),
        None => phonenumber::parse(region.filter(|_| !has_code).map(|code| code.parse::<country::Id>().unwrap()), text),
    };
    let number = number.ok()?;
    Some([Mode::E164, Mode::National, Mode::International].map(|mode| number.format().mode(mode).to_string()))
}

fn written(text: &str, region: Option<&str>) -> Option<[String; 3]> {
    let number = Number::read(text, region.map(|code| Region::new(code).unwrap()))?;
    Some([number.e164(), number.national(), number.international()])
}

fn assert_same(plus: bool, digits: &str, region: Option<&str>) {
    let text = format!("{}{digits}", if plus { "+" } else { "" });
    let normalised = normalise_lookup(PHONE, &text, region);
    assert_eq!(normalised, normalised_by_crate(plus, digits, region), "{text:?} of {region:?} is normalised");
    assert_eq!(written(&text, region), written_by_crate(&text, region), "{text:?} of {region:?} is written");
}

/// Digits that are somebody's number, or nearly: an example, with one digit changed, one more or one less. They are mostly
/// read in their own region.
fn nearly() -> impl Strategy<Value = (bool, String, Option<&'static str>)> {
    let change = (0_u8..8, any::<proptest::sample::Index>(), 0_u8..10);
    let writing = select(vec!["+", "+0", "00", "011", "", "0", "1", "8", "code", "trunk", "trunktrunk", "0code"]);
    let region = proptest::option::of(anywhere());
    (select(examples()), change, writing, region).prop_map(|((plan, example), (how, at, digit), writing, region)| {
        let (code, trunk) = (plan.country_code(), plan.national_prefix().unwrap_or(""));
        let mut national = example.to_owned();
        let at = at.index(national.len());
        match how {
            0 => national.insert(at, char::from(b'0' + digit)),
            1 => drop(national.remove(at)),
            2..=4 => national.replace_range(at..=at, &digit.to_string()),
            _ => {}
        }
        let digits = match writing {
            "+" | "code" => format!("{code}{national}"),
            "+0" => format!("{code}0{national}"),
            "00" | "011" => format!("{writing}{code}{national}"),
            "0code" => format!("0{code}{national}"),
            "trunk" | "trunktrunk" => format!("{}{national}", writing.replace("trunk", trunk)),
            prefix => format!("{prefix}{national}"),
        };
        let home = Some(plan.id()).filter(|id| id.parse::<country::Id>().is_ok());
        (writing.starts_with('+'), digits, region.unwrap_or(home))
    })
}

/// A region, or none.
fn anywhere() -> impl Strategy<Value = Option<&'static str>> {
    proptest::option::weighted(0.8, select(regions()))
}

proptest! {
    /// … and so do numbers that are nobody's, whatever region they are read in.
    #[test]
    fn numbers_become_what_the_crate_makes_of_them(
        (plus, digits, region) in prop_oneof![5 => nearly(), 1 => (any::<bool>(), "[0-9]{0,23}", anywhere())],
    ) {
        assert_same(plus, &digits, region);
    }

    /// What is not digits alone, the crate reads.
    #[test]
    fn other_texts_are_written_as_the_crate_writes_them(
        text in "(\\+|\\+\\+|tel:|)[0-9]{1,6}[-x. ()]{0,2}[0-9]{3,9}( ?(ext\\.|x|;ext=)[0-9]{1,5}|abc|)",
        region in proptest::option::weighted(0.7, select(vec!["GB", "US", "DE", "BR", "IT"])),
    ) {
        prop_assert_eq!(written(&text, region), written_by_crate(&text, region));
    }
}

#[test]
fn the_number_of_another_country_keeps_what_would_be_a_trunk_prefix_at_home() {
    for (text, region, e164) in [
        ("+390612345678", "GB", "+390612345678"),
        ("00390612345678", "GB", "+390612345678"),
        ("+441632960123", "US", "+441632960123"),
        ("+2250701234567", "FR", "+2250701234567"),
        ("+39 06 1234 5678", "GB", "+390612345678"),
        ("020 7946 0018", "GB", "+442079460018"),
        ("+44 (0)20 7946 0018", "GB", "+442079460018"),
    ] {
        assert_eq!(written(text, Some(region)).map(|[e164, ..]| e164).as_deref(), Some(e164), "{text} of {region}");
    }
}

#[test]
fn the_examples_of_every_region_are_read_at_home_and_from_abroad() {
    let mut valid = 0;
    for id in regions() {
        let plan = DATABASE.by_id(id).unwrap();
        let example = plan.descriptors().mobile().or(plan.descriptors().fixed_line()).and_then(|kind| kind.example());
        let Some(example) = example else { continue };
        let (code, trunk) = (plan.country_code(), plan.national_prefix().unwrap_or(""));
        assert_same(true, &format!("{code}{example}"), None);
        for digits in [trunk, &trunk.repeat(2)].map(|before| format!("{before}{example}")) {
            assert_same(false, &digits, Some(id));
        }
        valid += usize::from(normalise_lookup(PHONE, &format!("+{code}{example}"), None).is_some());
    }
    assert!(valid > 240, "only {valid} examples are valid numbers");
}

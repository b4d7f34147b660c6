//! Prices as partners write them.

use lead_gateway::model::money::{Amount, Currency};
use lead_gateway::verdict::Rules;

use super::{endpoint, faults, now, reply};

/// What a price in this notation is read as, in minor units.
fn read(currency: &str, notation: &str, text: &str) -> Option<i64> {
    let currency: Currency = currency.parse().unwrap();
    let rule = format!("price = {{ body = true{notation} }}");
    let rules = Rules::compile(&endpoint("post", &rule), currency).unwrap();
    let judgement = rules.judge(&Ok(reply(200, &[], text.to_owned())), now());
    judgement.price.map(|Amount(minor)| minor)
}

#[test]
fn a_price_is_read_with_signs_codes_and_separators_where_only_one_reading_is_possible() {
    for (currency, text, expected) in [
        ("GBP", "£31.00", Some(3100)),
        ("GBP", "31.00 £", Some(3100)),
        ("GBP", "£ 31", Some(3100)),
        ("GBP", "GBP31.5", Some(3150)),
        ("GBP", "gbp 31.00", Some(3100)),
        ("GBP", "£31.00 GBP", Some(3100)),
        ("GBP", "£1,200.00", Some(120_000)),
        ("GBP", "1,200,000", Some(120_000_000)),
        ("GBP", "1 200.50", Some(120_050)),
        ("GBP", "1\u{a0}200", Some(120_000)),
        ("GBP", "1'200.50", Some(120_050)),
        ("GBP", "1,200", None),
        ("GBP", "1,20.00", None),
        ("GBP", "1200,000.00", None),
        ("GBP", "1,200'000.00", None),
        ("GBP", "31,00", None),
        ("GBP", "31.", None),
        ("GBP", ".50", None),
        ("GBP", "$31.00", None),
        ("GBP", "EUR 31.00", None),
        ("GBP", "31.00 €", None),
        ("GBP", "£-31.00", None),
        ("GBP", "-£31.00", None),
        ("GBP", "(31.00)", None),
        ("GBP", "−31.00", None),
        ("GBP", "£", None),
        ("GBP", "££31", None),
        ("GBP", "about 31", None),
        ("USD", "$31.00", Some(3100)),
        ("USD", "US$31.00", Some(3100)),
        ("USD", "A$31.00", None),
        ("AUD", "A$31.00", Some(3100)),
        ("EUR", "31.00€", Some(3100)),
        ("CHF", "Fr. 31.00", Some(3100)),
        ("SEK", "31.00 kr", Some(3100)),
        ("JPY", "¥3,100,000", Some(3_100_000)),
        ("JPY", "31.5", None),
        ("KWD", "1,200.125", Some(1_200_125)),
    ] {
        assert_eq!(read(currency, "", text), expected, "{currency} {text:?}");
    }
}

#[test]
fn a_contract_says_what_stands_before_the_decimals_and_that_prices_are_in_cents() {
    for (notation, text, expected) in [
        (", decimal = ','", "31,00", Some(3100)),
        (", decimal = ','", "31,00 €", Some(3100)),
        (", decimal = ','", "1.200,50", Some(120_050)),
        (", decimal = ','", "1.200", Some(120_000)),
        (", decimal = ','", "1 200,50", Some(120_050)),
        (", decimal = ','", "31", Some(3100)),
        (", decimal = ','", "31.00", None),
        (", decimal = ','", "1,200.50", None),
        (", decimal = '.'", "1,200", Some(120_000)),
        (", decimal = '.'", "31,00", None),
        (", minor_units = true", "3100", Some(3100)),
        (", minor_units = true", "3100.0", Some(3100)),
        (", minor_units = true", "€ 3100", Some(3100)),
        (", minor_units = true", "0", Some(0)),
        (", minor_units = true", "31.5", None),
        (", minor_units = true", "-3100", None),
        (", minor_units = true, decimal = '.'", "1,200", Some(1200)),
        (", minor_units = true", "99999999999999999999", None),
        (", minor_units = false", "31.00", Some(3100)),
    ] {
        assert_eq!(read("EUR", notation, text), expected, "{notation} {text:?}");
    }
}

#[test]
fn the_keys_of_a_price_stand_in_no_other_rule_and_take_no_other_value() {
    assert_eq!(faults("price = { body = true, decimal = ';' }"), ["response.price.decimal"]);
    assert_eq!(faults("reason = { body = true, decimal = ',' }"), ["response.reason.decimal"]);
    assert_eq!(faults("accepted = { body = true, minor_units = true }"), ["response.accepted.minor_units"]);
    assert_eq!(faults("rejected = { all = [{ body = true, decimal = '.' }] }"), ["response.rejected.all[0].decimal"]);
}

#[test]
fn the_first_price_that_can_be_read_counts() {
    let rules = "price = [{ json = '$.final' }, { json = '$.cents', minor_units = true }, { json = '$.price' }]";
    let rules = Rules::compile(&endpoint("post", rules), super::gbp()).unwrap();
    let price = |body: &str| super::judge(&rules, body).price;
    assert_eq!(price(r#"{"final":"n/a","cents":3100,"price":"5"}"#), Some(Amount(3100)));
    assert_eq!(price(r#"{"final":"","price":31.00}"#), Some(Amount(3100)));
    assert_eq!(price(r#"{"cents":"free"}"#), None);
}

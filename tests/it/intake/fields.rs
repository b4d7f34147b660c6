//! Field types, the rules of a campaign, and what is said of a field that breaks them.

use std::collections::BTreeMap;

use lead_gateway::intake::{self, Code, FieldError, Format, Posted, PostedValue, Rules};
use lead_gateway::model::lead::{FieldValue, Fields};
use proptest::prelude::*;
use serde_json::json;

use super::{campaign, rules};

fn faults(rest: &str) -> Vec<String> {
    Rules::compile(&campaign(rest)).unwrap_err().into_iter().map(|fault| fault.key).collect()
}

fn codes(errors: &[FieldError]) -> Vec<(String, Code)> {
    errors.iter().map(|error| (error.field.clone(), error.code)).collect()
}

/// What becomes of one text posted to one field, declared as this TOML says.
fn read(field: &str, text: &str) -> Result<FieldValue, Code> {
    let rules = rules(&format!("fields = {{ f = {field} }}"));
    let posted = Posted { fields: vec![("f".into(), PostedValue::Text(text.into()))], ..Posted::default() };
    match rules.validate(posted) {
        Ok(valid) => Ok(valid.fields.get("f").cloned().expect("a value")),
        Err(errors) => {
            assert_eq!(errors.len(), 1);
            Err(errors[0].code)
        }
    }
}

fn assert_read(field: &str, table: &[(&str, Result<&str, Code>)]) {
    for (posted, expected) in table {
        let expected = expected.map(|text| FieldValue::Text(text.to_owned()));
        // FieldValue hides itself in Debug output, so the assertion must name the case.
        assert!(read(field, posted) == expected, "{field}: {posted:?} was not read as {expected:?}");
    }
}

#[test]
fn phone_numbers_become_e164_whoever_wrote_them() {
    let wrong = Err(Code::Type);
    assert_read(
        "{ type = \"phone\", region = \"GB\" }",
        &[
            ("020 7946 0000", Ok("+442079460000")),
            ("+44 (0)20 7946 0000", Ok("+442079460000")),
            ("0044 20 7946 0000", Ok("+442079460000")),
            ("442079460000", Ok("+442079460000")),
            ("07911\u{a0}123456", Ok("+447911123456")),
            ("\u{202a}+44 7911 123456\u{202c}", Ok("+447911123456")),
            ("020 7946 0000 x12", Ok("+442079460000")),
            ("020-7946-0000 Ext: 1234", Ok("+442079460000")),
            ("0039 06 698 12345", Ok("+390669812345")),
            ("+1 (202) 555-0123", Ok("+12025550123")),
            ("01632 960 001", Ok("+441632960001")),
            ("0000000000", wrong),
            ("12345678901", wrong),
            ("999", wrong),
            ("+44", wrong),
            ("020 7946 0000 or 0113 496 0000", wrong),
            ("call 020 7946 0000", wrong),
            ("020 7946 0000 x", wrong),
            ("+1 800 FLOWERS", wrong),
            ("+020 7946 0000", wrong),
            ("02079460000020794600000207946000002079460000", wrong),
        ],
    );
    assert_read(
        "{ type = \"phone\", region = \"US\" }",
        &[
            ("(202) 555-0123", Ok("+12025550123")),
            ("1-202-555-0123", Ok("+12025550123")),
            // Read as the US's own, the leading 1 of Leeds would be lost.
            ("+44 113 496 0000", Ok("+441134960000")),
            ("011 44 113 496 0000", Ok("+441134960000")),
        ],
    );
    assert_read(
        "{ type = \"phone\" }",
        &[("0033 6 12 34 56 78", Ok("+33612345678")), ("+33612345678", Ok("+33612345678")), ("020 7946 0000", wrong)],
    );
}

#[test]
fn email_addresses_are_checked_and_their_domain_put_in_lower_case() {
    let wrong = Err(Code::Type);
    let local = "l".repeat(65);
    assert_read(
        "{ type = \"email\" }",
        &[
            ("Ada.Byron+solar@Mail.EXAMPLE.co.uk", Ok("Ada.Byron+solar@mail.example.co.uk")),
            ("o'brien@example.com", Ok("o'brien@example.com")),
            ("jürgen@bücher.example", Ok("jürgen@xn--bcher-kva.example")),
            ("a@b.io", Ok("a@b.io")),
            ("ada", wrong),
            ("ada@", wrong),
            ("@example.com", wrong),
            ("ada@example", wrong),
            ("ada@@example.com", wrong),
            ("ada@exa mple.com", wrong),
            ("a da@example.com", wrong),
            (".ada@example.com", wrong),
            ("ada.@example.com", wrong),
            ("a..da@example.com", wrong),
            ("ada@-example.com", wrong),
            ("ada@example..com", wrong),
            ("ada@example.com.", wrong),
            ("ada@127.0.0.1", wrong),
            ("ada@[127.0.0.1]", wrong),
            ("ada@example.c", wrong),
            ("ada@example.com, eve@example.com", wrong),
            ("Ada <ada@example.com>", wrong),
            (&format!("{local}@example.com"), wrong),
            (&format!("ada@{}.com", "d".repeat(64)), wrong),
            (&format!("ada@{}com", "d123456789.".repeat(23)), wrong),
        ],
    );
}

#[test]
fn numbers_keep_their_exact_digits() {
    let wrong = Err(Code::Type);
    assert_read(
        "{ type = \"decimal\" }",
        &[
            ("12.10", Ok("12.10")),
            ("+0012.10", Ok("12.10")),
            ("-0", Ok("0")),
            ("-0012.5", Ok("-12.5")),
            ("0.00", Ok("0.00")),
            ("1234567890123456789012345678", Ok("1234567890123456789012345678")),
            ("1e3", wrong),
            ("1,000", wrong),
            ("1 000", wrong),
            ("1_000", wrong),
            (".5", wrong),
            ("5.", wrong),
            ("--5", wrong),
            ("£5", wrong),
            ("NaN", wrong),
            ("٣", wrong),
            ("123456789012345678901234567890", wrong),
        ],
    );
    for (posted, expected) in [
        ("42", Ok(42)),
        ("+42", Ok(42)),
        ("-007", Ok(-7)),
        ("9223372036854775807", Ok(i64::MAX)),
        ("9223372036854775808", Err(Code::Type)),
        ("4.0", Err(Code::Type)),
        ("4e1", Err(Code::Type)),
    ] {
        assert!(read("{ type = \"integer\" }", posted) == expected.map(FieldValue::Integer), "{posted}");
    }
}

#[test]
fn bounds_hold_at_both_ends() {
    let integer = "{ type = \"integer\", min = 1, max = 3 }";
    assert!(read(integer, "0") == Err(Code::Min));
    assert!(read(integer, "1") == Ok(FieldValue::Integer(1)));
    assert!(read(integer, "3") == Ok(FieldValue::Integer(3)));
    assert!(read(integer, "4") == Err(Code::Max));
    let (min, max) = (Err(Code::Min), Err(Code::Max));
    assert_read(
        "{ type = \"decimal\", min = \"0.5\", max = 2.5 }",
        &[("0.49999", min), ("0.50", Ok("0.50")), ("2.500", Ok("2.500")), ("2.501", max)],
    );
    assert_read(
        "{ type = \"date\", min = \"2000-02-29\", max = \"2000-03-01\" }",
        &[("2000-02-28", min), ("2000-02-29", Ok("2000-02-29")), ("2000-03-01", Ok("2000-03-01")), ("2000-03-02", max)],
    );
    let length = Err(Code::Length);
    assert_read(
        "{ type = \"text\", min = 2, max = 3 }",
        &[("é", length), ("éé", Ok("éé")), ("👩👩👩", Ok("👩👩👩")), ("abcd", length), ("éééé", length)],
    );
    let long = "é".repeat(1_000);
    assert_read("{ type = \"text\" }", &[(&long, Ok(&long)), (&format!("{long}x"), length)]);
}

#[test]
fn dates_are_days_of_the_calendar() {
    let wrong = Err(Code::Type);
    assert_read(
        "{ type = \"date\" }",
        &[
            ("2024-02-29", Ok("2024-02-29")),
            ("0001-01-01", Ok("0001-01-01")),
            ("2023-02-29", wrong),
            ("2024-13-01", wrong),
            ("29/02/2024", wrong),
            ("2024-2-29", wrong),
            ("20240229", wrong),
            ("2024-02-29T00:00:00Z", wrong),
            ("2024-W09-4", wrong),
        ],
    );
}

#[test]
fn booleans_and_choices_are_read_whatever_their_case() {
    for (posted, expected) in [
        ("TRUE", true),
        ("1", true),
        ("Yes", true),
        ("on", true),
        ("False", false),
        ("0", false),
        ("NO", false),
        ("off", false),
    ] {
        assert!(read("{ type = \"boolean\" }", posted) == Ok(FieldValue::Boolean(expected)), "{posted}");
    }
    assert!(read("{ type = \"boolean\" }", "2") == Err(Code::Type));
    let wrong = Err(Code::OneOf);
    assert_read(
        "{ type = \"one_of\", values = [\"Ms\", \"MS\", \"Straße\", \"3\"] }",
        &[("MS", Ok("MS")), ("Ms", Ok("Ms")), ("ms", Ok("Ms")), ("STRAßE", Ok("Straße")), ("3", Ok("3")), ("M", wrong)],
    );
}

#[test]
fn postcodes_are_written_as_their_country_writes_them() {
    let wrong = Err(Code::Type);
    assert_read(
        "{ type = \"postcode\", country = \"GB\" }",
        &[
            ("sw1a1aa", Ok("SW1A 1AA")),
            (" M1  1ae ", Ok("M1 1AE")),
            ("ec1a 1bb", Ok("EC1A 1BB")),
            ("W1A-0AX", Ok("W1A 0AX")),
            ("CR2 6XH", Ok("CR2 6XH")),
            ("DN551PT", Ok("DN55 1PT")),
            ("SW1A", wrong),
            ("90210", wrong),
            ("SW1A 1AAA", wrong),
            ("SW1A 11A", wrong),
            ("ＳＷ1A 1AA", wrong),
        ],
    );
    assert_read(
        "{ type = \"postcode\", country = \"US\" }",
        &[("90210", Ok("90210")), ("902101234", Ok("90210-1234")), ("90210-1234", Ok("90210-1234")), ("9021", wrong)],
    );
    assert_read("{ type = \"postcode\", country = \"NL\" }", &[("1012ab", Ok("1012 AB")), ("AB1012", wrong)]);
    assert_read("{ type = \"postcode\", country = \"IE\" }", &[("d6wxy45", Ok("D6W XY45"))]);
    assert_read(
        "{ type = \"postcode\", country = \"AR\" }",
        &[("c1425  abc", Ok("C1425 ABC")), ("?", wrong), ("x", wrong), ("1234567890123", wrong)],
    );
}

#[test]
fn urls_and_addresses_are_whole() {
    let wrong = Err(Code::Type);
    assert_read(
        "{ type = \"url\" }",
        &[
            ("https://example.com", Ok("https://example.com")),
            ("HTTP://Example.com:8080/a?b=c#d", Ok("HTTP://Example.com:8080/a?b=c#d")),
            ("//example.com", wrong),
            ("example.com", wrong),
            ("ftp://example.com", wrong),
            ("javascript:alert(1)", wrong),
            ("https://", wrong),
            ("https:///example.com", wrong),
            ("https://exa mple.com", wrong),
            ("https://example.com/a\nb", wrong),
        ],
    );
    assert_read(
        "{ type = \"ip\" }",
        &[
            ("203.0.113.9", Ok("203.0.113.9")),
            ("2001:DB8::0:1", Ok("2001:db8::1")),
            ("203.0.113", wrong),
            ("203.0.113.09", wrong),
        ],
    );
}

#[test]
fn a_pattern_must_match_the_whole_normalised_value() {
    let pattern = Err(Code::Pattern);
    assert_read(
        "{ type = \"text\", pattern = \"a|ab\" }",
        &[("ab", Ok("ab")), ("abc", pattern), ("cab", pattern), ("a\nb", pattern)],
    );
    assert_read(
        "{ type = \"postcode\", country = \"GB\", pattern = \"SW.*\" }",
        &[("sw1a1aa", Ok("SW1A 1AA")), ("EC1A 1BB", pattern)],
    );
    assert!(read("{ type = \"integer\", pattern = \"[0-9]{4}\" }", "123") == Err(Code::Pattern));
}

#[test]
fn defaults_fill_what_is_not_given_and_nothing_else() {
    let rules = rules("fields = { n = { type = \"integer\", default = \"007\", required = true, max = 9 } }");
    let validate = |body: &str| rules.validate(intake::parse(Format::Json, body.as_bytes()).unwrap());
    for absent in ["{}", r#"{"n":null}"#, r#"{"n":"  "}"#] {
        assert!(validate(absent).unwrap().fields == Fields::from([("n".into(), FieldValue::Integer(7))]), "{absent}");
    }
    assert_eq!(codes(&validate(r#"{"n":10}"#).unwrap_err()), [("n".into(), Code::Max)]);
}

#[test]
fn unknown_fields_are_kept_as_text_or_refused_one_by_one() {
    let body = br#"{"b":true,"a":12.10,"list":[1],"none":null,"long":{"er":"x"}}"#;
    let posted = || intake::parse(Format::Json, body).unwrap();
    let kept = rules("").validate(posted()).unwrap_err();
    assert_eq!(codes(&kept), [("list".into(), Code::Type)]);
    let refused = rules("unknown_fields = \"refuse\"").validate(posted()).unwrap_err();
    let unknown = ["b", "a", "list", "long.er"].map(|name| (name.to_owned(), Code::Unknown));
    assert_eq!(codes(&refused), unknown);
}

#[test]
fn every_fault_of_a_campaign_is_named_with_its_key() {
    assert_eq!(
        faults(
            r#"
            dedupe = [{ fields = ["email", "nobody"], window = "1d" }, { fields = [], window = "0s" }]
            [fields]
            "a b" = { type = "text" }
            address = { type = "text" }
            "address.city" = { type = "text" }
            age = { type = "integer", min = 9, max = 8 }
            born = { type = "date", max = "yesterday" }
            choice = { type = "one_of" }
            choice2 = { type = "one_of", values = ["a", " b"], default = "c" }
            code = { type = "postcode", country = "Britain" }
            email = { type = "email", region = "GB", default = "nobody" }
            name = { type = "text", pattern = "(", values = ["x"] }
            note = { type = "text", min = 2000 }
            ok = { type = "boolean", min = 1, default = "yes" }
            phone = { type = "phone", region = "ZZ" }
            price = { type = "decimal", min = "cheap", default = "1,5" }
            rate = { type = "decimal", max = 5, default = 6 }
            sub3 = { type = "text" }
            tail = { type = "text", max = -1 }
            test = { type = "boolean" }
            void = { type = "text", max = 0, default = "x" }
            yes = { type = "boolean", default = "perhaps" }
            zip = { type = "text", country = "US", default = " " }
            "#
        ),
        [
            "fields.a b",
            "fields.address.city",
            "fields.age.min",
            "fields.born.max",
            "fields.choice.values",
            "fields.choice2.values",
            "fields.code.country",
            "fields.email.region",
            "fields.name.values",
            "fields.name.pattern",
            "fields.note.min",
            "fields.ok.min",
            "fields.phone.region",
            "fields.price.min",
            "fields.rate.default",
            "fields.sub3",
            "fields.tail.max",
            "fields.test",
            "fields.void.max",
            "fields.yes.default",
            "fields.zip.country",
            "dedupe[0].fields",
            "dedupe[1].fields",
            "dedupe[1].window",
        ]
    );
}

#[test]
fn errors_are_serialised_as_the_contract_shows() {
    let error = FieldError { field: "a.b".into(), code: Code::OneOf, message: "m".into() };
    assert_eq!(serde_json::to_value(error).unwrap(), json!({"field": "a.b", "code": "one_of", "message": "m"}));
}

proptest! {
    #[test]
    fn no_value_makes_a_field_panic_and_what_was_normalised_stays_so(
        kind in proptest::sample::select(vec!["text", "email", "phone", "integer", "decimal", "date", "boolean", "postcode", "url", "ip"]),
        posted in prop_oneof![
            "\\PC{1,40}", "[-+0-9.,() x#;]{1,25}", "[a-zA-Z.%@_-]{1,12}@[a-zé.-]{1,12}", "[0-9]{4}-[0-9]{2}-[0-9]{2}",
            "\\+[1-9][0-9]{5,14}", "0[0-9]{7,12}", "https?://[a-z0-9.:/?#@\\[\\]%-]{1,30}", "[A-Z]{1,2}[0-9]{1,2} ?[0-9][A-Z]{2}",
        ],
        region in proptest::sample::select(vec!["GB", "US", "IT", "AR", "MX", "RU", "SM", "AU"]),
    ) {
        prop_assume!(!posted.trim().is_empty());
        let field = match kind {
            "phone" => format!("{{ type = \"phone\", region = \"{region}\" }}"),
            "postcode" => format!("{{ type = \"postcode\", country = \"{region}\" }}"),
            _ => format!("{{ type = \"{kind}\" }}"),
        };
        if let Ok(value) = read(&field, &posted) {
            prop_assert!(read(&field, &value.to_string()) == Ok(value), "{} {:?}", field, posted);
        }
    }
}

proptest! {
    /// … whatever the order and however often a name comes.
    #[test]
    fn fields_are_a_map_in_the_order_of_their_names(
        given in proptest::collection::vec(("[a-d.]{0,3}", 0_i64..9), 0..40),
        more in proptest::collection::vec(("[a-d.]{0,3}", 0_i64..9), 0..9),
    ) {
        let given = given.into_iter().map(|(name, value)| (name, FieldValue::Integer(value)));
        let mut fields: Fields = given.clone().collect();
        let mut map: BTreeMap<String, FieldValue> = given.collect();
        for (name, value) in more {
            prop_assert_eq!(fields.contains_key(&name), map.contains_key(&name));
            prop_assert!(fields.get(&name) == map.get(&name));
            fields.insert(name.clone(), FieldValue::Integer(value));
            map.insert(name, FieldValue::Integer(value));
        }
        prop_assert!(fields.iter().eq(map.iter()));
        prop_assert_eq!(fields.len(), map.len());
        let json = serde_json::to_string(&fields).unwrap();
        prop_assert_eq!(&json, &serde_json::to_string(&map).unwrap());
        prop_assert!(serde_json::from_str::<Fields>(&json).unwrap() == fields);
        prop_assert!(fields.into_iter().eq(map));
    }
}

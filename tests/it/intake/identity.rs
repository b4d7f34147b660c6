//! By what leads are recognised and found.

use std::time::Duration;

use lead_gateway::intake::{self, Format, Rules, Valid, identity};
use lead_gateway::model::lead::{Fields, Meta};
use serde_json::json;

use super::rules;

fn valid(rules: &Rules, body: &serde_json::Value) -> Valid {
    rules.validate(intake::parse(Format::Json, body.to_string().as_bytes()).unwrap()).unwrap()
}

#[test]
fn dedupe_keys_are_equal_for_the_same_person_only() {
    let rules = rules(
        r#"
        dedupe = [{ fields = ["email"], window = "30d" }, { fields = ["phone", "email"], window = "7d" },
                  { fields = ["email", "phone"], window = "1d" }, { fields = ["name"], window = "1d" },
                  { fields = ["other"], window = "1d" }, { fields = ["nam"], window = "1d" }]
        [fields]
        email = { type = "email" }
        phone = { type = "phone", region = "GB" }
        name = { type = "text" }
        other = { type = "text" }
        nam = { type = "text" }
        "#,
    );
    let keys = |body: serde_json::Value| rules.dedupe_keys(&valid(&rules, &body).fields);
    let one = keys(json!({"email": "ADA@Example.com", "phone": "020 7946 0000", "name": "x"}));
    let same = keys(json!({"email": "ada@example.COM", "phone": "+442079460000", "name": "x", "other": ""}));
    assert!(one == same);
    assert_eq!(one.iter().map(|key| key.rule).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(one[0].window, Duration::from_hours(30 * 24));
    assert_eq!(one[1].text, one[2].text, "the order in a rule does not matter");
    assert!(!format!("{one:?}").contains("ada"));

    // Neither another field with the same value nor another split of the same letters is the same.
    let name = keys(json!({"name": "x"}));
    let other = keys(json!({"other": "x"}));
    let split = keys(json!({"nam": "ex"}));
    assert_ne!(name[0].text, other[0].text);
    assert_ne!(name[0].text, split[0].text);
    assert!(keys(json!({"phone": "020 7946 0000"})).is_empty());
}

#[test]
fn staff_find_a_lead_by_what_it_was_stored_under() {
    let rules = rules(
        r#"
        [fields]
        email = { type = "email" }
        work_email = { type = "email" }
        phone = { type = "phone", region = "GB" }
        "#,
    );
    let body = json!({"email": "Ada@Example.com", "work_email": "ada@example.COM", "phone": "020 7946 0000",
                      "external_id": "A-17", "click_id": "c9"});
    let lead = valid(&rules, &body);
    let keys = rules.lookup_keys(&lead.fields, &lead.meta);
    assert_eq!(
        keys,
        [("click_id", "c9"), ("email", "ada@example.com"), ("external_id", "A-17"), ("phone", "+442079460000")]
            .map(|(kind, value)| (kind, value.to_owned()))
    );
    for (kind, search, region) in [
        (identity::EMAIL, " ADA@EXAMPLE.COM", None),
        (identity::PHONE, "020-7946 0000", Some("GB")),
        (identity::PHONE, "+44 20 7946 0000", None),
        (identity::PHONE, "0044 20 7946 0000", None),
        (identity::EXTERNAL_ID, "A-17 ", None),
        (identity::CLICK_ID, "c9", None),
    ] {
        let wanted = identity::normalise_lookup(kind, search, region).unwrap();
        assert!(keys.contains(&(kind, wanted)), "{kind} {search}");
    }
    for (kind, search) in [(identity::EMAIL, "ada"), (identity::PHONE, "020 7946 0000"), (identity::CLICK_ID, " ")] {
        assert_eq!(identity::normalise_lookup(kind, search, None), None);
    }
    assert!(rules.lookup_keys(&Fields::new(), &Meta::default()).is_empty());
}

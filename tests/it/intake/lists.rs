//! List fields: every format, every entry, and what is said of a list that breaks its rules.

use lead_gateway::intake::{self, Format, MAX_ENTRIES, MAX_LIST_VALUES, Malformed, Posted, Rules};
use lead_gateway::model::lead::Meta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{campaign, rules};

const LISTS: &str = "
interests = { type = \"list\", items = { type = \"one_of\", values = [\"Solar\", \"Heat pump\", \"Battery\"] } }
rates = { type = \"list\", items = { type = \"decimal\", min = \"0\" }, min = 2, max = 3 }
vehicles = { type = \"list\", fields = { make = { type = \"text\", required = true }, year = { type = \"integer\", min = 1950 }, owned = { type = \"boolean\", default = true } } }
\"home.phones\" = { type = \"list\", items = { type = \"phone\", region = \"GB\" } }
email = { type = \"email\" }
";

fn lists() -> Rules {
    rules(&format!("[fields]\n{LISTS}"))
}

/// The fields that become of a body, or what is wrong with them: `field code`.
fn read(format: Format, body: &str) -> Result<Value, Vec<String>> {
    let rules = lists();
    let posted = rules.parse(format, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
    match rules.validate(posted) {
        Ok(valid) => Ok(serde_json::to_value(valid.fields).unwrap()),
        Err(errors) => Err(errors.iter().map(|error| format!("{} {}", error.field, error.code)).collect()),
    }
}

fn malformed(format: Format, body: &str) -> Malformed {
    lists().parse(format, body.as_bytes()).err().unwrap_or_else(|| panic!("{body} was taken"))
}

#[test]
fn a_list_of_values_is_read_from_every_format_and_each_entry_normalised() {
    let expected = json!({"interests": ["Solar", "Heat pump"]});
    for (format, body) in [
        (Format::Json, r#"{"interests": ["solar", "HEAT PUMP"]}"#),
        (Format::Json, r#"{"interests": [null, "solar", "", "heat pump", "  "]}"#),
        (Format::Form, "interests=solar&interests=heat+pump"),
        (Format::Form, "interests[]=solar&interests[]=heat+pump"),
        (Format::Form, "interests%5B%5D=solar&interests%5B%5D=heat%20pump"),
        (Format::Form, "interests[1]=heat+pump&interests[0]=solar"),
        (Format::Form, "interests.7=heat+pump&interests.0=solar"),
        (Format::Form, "interests[4]=solar&interests=heat+pump&interests="),
        (Format::Xml, "<l><interests>solar</interests><interests>heat pump</interests></l>"),
        (Format::Xml, "<l><interests><item>solar</item><x>heat pump</x></interests></l>"),
        (Format::Xml, "<l><interests>solar</interests><email/><interests><item>heat pump</item></interests></l>"),
    ] {
        assert_eq!(read(format, body), Ok(expected.clone()), "{body}");
    }
    let dotted = json!({"home.phones": ["+442079460000", "+442079460018"]});
    for (format, body) in [
        (Format::Json, r#"{"home": {"phones": ["020 7946 0000", "020 7946 0018"]}}"#),
        (Format::Form, "home.phones=020+7946+0000&home.phones=020+7946+0018"),
        (Format::Form, "home.phones[0]=020+7946+0000&home.phones.1=020+7946+0018"),
        (Format::Xml, "<l><home><phones>020 7946 0000</phones><phones>020 7946 0018</phones></home></l>"),
    ] {
        assert_eq!(read(format, body), Ok(dotted.clone()), "{body}");
    }
    assert_eq!(read(Format::Json, r#"{"rates": [1.50, "02.10"]}"#), Ok(json!({"rates": ["1.50", "2.10"]})));
}

#[test]
fn a_list_of_groups_is_read_from_every_format() {
    let expected = json!({"vehicles": [{"make": "VW", "owned": true, "year": 2019}, {"make": "Kia", "owned": false}]});
    for (format, body) in [
        (
            Format::Json,
            r#"{"vehicles": [{"make": "VW", "year": 2019}, {}, {"make": "Kia", "year": null, "owned": "no"}]}"#,
        ),
        (Format::Form, "vehicles[0][make]=VW&vehicles[0][year]=2019&vehicles[1][make]=Kia&vehicles[1][owned]=off"),
        (Format::Form, "vehicles[3].make=Kia&vehicles[2].make=VW&vehicles[2].year=2019&vehicles[3].owned=no"),
        (
            Format::Form,
            "vehicles.0.make=VW&vehicles.0.year=2019&vehicles.1.make=&vehicles.2.make=Kia&vehicles.2.owned=0",
        ),
        (
            Format::Xml,
            "<l><vehicles><make>VW</make><year>2019</year></vehicles><vehicles/><vehicles><make>Kia</make><owned>no</owned></vehicles></l>",
        ),
        (
            Format::Xml,
            "<l><vehicles><v><make>VW</make><year>2019</year></v><v><make>Kia</make><owned>0</owned></v></vehicles></l>",
        ),
    ] {
        assert_eq!(read(format, body), Ok(expected.clone()), "{body}");
    }
}

#[test]
fn one_value_is_a_list_of_one_and_none_is_no_list() {
    for (format, body) in [
        (Format::Json, r#"{"interests": "solar"}"#),
        (Format::Form, "interests=solar"),
        (Format::Xml, "<l><interests>solar</interests></l>"),
    ] {
        assert_eq!(read(format, body), Ok(json!({"interests": ["Solar"]})), "{body}");
    }
    for (format, body) in [
        (Format::Json, r#"{"vehicles": {"make": "VW"}}"#),
        (Format::Form, "vehicles.make=VW"),
        (Format::Form, "vehicles[make]=VW"),
        (Format::Xml, "<l><vehicles><make>VW</make></vehicles></l>"),
        (Format::Xml, "<l><vehicles><vehicle><make>VW</make></vehicle></vehicles></l>"),
    ] {
        assert_eq!(read(format, body), Ok(json!({"vehicles": [{"make": "VW", "owned": true}]})), "{body}");
    }
    for (format, body) in [
        (Format::Json, r#"{"interests": [], "vehicles": [{}, null], "rates": null}"#),
        (Format::Form, "interests=&vehicles[0][make]=&rates[]="),
        (Format::Xml, "<l><interests/><vehicles><vehicle/></vehicles><rates></rates></l>"),
    ] {
        assert_eq!(read(format, body), Ok(json!({})), "{body}");
    }
}

#[test]
fn an_error_names_the_entry_and_all_of_them_come_at_once() {
    for (body, expected) in [
        (
            r#"{"interests": ["solar", "wind", ["solar"], {"a": 1}]}"#,
            vec!["interests[1] one_of", "interests[2] type", "interests[3] type"],
        ),
        (r#"{"rates": ["1"]}"#, vec!["rates length"]),
        (r#"{"rates": [1, 2, 3, 4]}"#, vec!["rates length"]),
        (r#"{"rates": ["1", "-1", "x"]}"#, vec!["rates[1] min", "rates[2] type"]),
        (
            r#"{"vehicles": [{"make": "VW", "year": 1900}, {"year": "new"}, "VW", {"make": ["VW"]}], "email": "x"}"#,
            vec![
                "email type",
                "vehicles[0].year min",
                "vehicles[1].make required",
                "vehicles[1].year type",
                "vehicles[2] type",
                "vehicles[3].make type",
            ],
        ),
    ] {
        assert_eq!(read(Format::Json, body), Err(expected.into_iter().map(str::to_owned).collect()), "{body}");
    }
    // A form's own numbers are named, not how many came before.
    assert_eq!(read(Format::Form, "interests[7]=wind"), Err(vec!["interests[7] one_of".to_owned()]));
    let required = rules("fields = { tags = { type = \"list\", required = true, items = { type = \"text\" } } }");
    for body in ["{}", r#"{"tags": []}"#, r#"{"tags": [""]}"#] {
        let errors = required.validate(required.parse(Format::Json, body.as_bytes()).unwrap()).unwrap_err();
        assert_eq!((errors[0].field.as_str(), errors[0].code.as_str()), ("tags", "required"), "{body}");
    }
}

#[test]
fn members_that_are_not_declared_are_kept_or_refused_as_fields_are() {
    let body = br#"{"vehicles": [{"make": "VW", "paint": {"colour": "red"}}]}"#;
    let fields = "fields = { vehicles = { type = \"list\", fields = { make = { type = \"text\" } } } }";
    let keep = rules(fields);
    let valid = keep.validate(keep.parse(Format::Json, body).unwrap()).unwrap();
    assert_eq!(json!(valid.fields), json!({"vehicles": [{"make": "VW", "paint.colour": "red"}]}));
    let refuse = rules(&format!("unknown_fields = \"refuse\"\n{fields}"));
    let errors = refuse.validate(refuse.parse(Format::Json, body).unwrap()).unwrap_err();
    assert_eq!((errors[0].field.as_str(), errors[0].code.as_str()), ("vehicles[0].paint.colour", "unknown"));
}

#[test]
fn what_is_no_list_is_what_it_was_before() {
    assert!(malformed(Format::Form, "email=a%40b.example&email=a%40b.example").message.contains("given twice"));
    assert!(malformed(Format::Json, r#"{"interests": ["solar"], "interests": ["solar"]}"#).message.contains("twice"));
    assert!(intake::parse(Format::Form, b"interests=solar&interests=wind").is_err());
    assert_eq!(read(Format::Json, r#"{"email": ["a@example.com"]}"#), Err(vec!["email type".to_owned()]));
    assert_eq!(read(Format::Json, r#"{"other": [1]}"#), Err(vec!["other type".to_owned()]));
    assert_eq!(
        read(Format::Form, "interests.why=x&other[]=y&interestsx=z"),
        Ok(json!({"interests.why": "x", "interestsx": "z", "other[]": "y"}))
    );
}

#[test]
fn names_and_markup_that_no_list_can_have_are_refused_where_they_stand() {
    let mut wrong = Vec::new();
    for (format, body, place, message) in [
        (Format::Form, "email=&interests[0]=a&interests[0]=b", (1, 23), "given twice"),
        (Format::Form, "vehicles[0][make]=a&vehicles[0][make]=b", (1, 21), "`make` is given twice"),
        (Format::Form, "vehicles[][make]=a", (1, 1), "number them: vehicles[0]"),
        (Format::Form, "vehicles[0][make][x]=a", (1, 1), "cannot be read"),
        (Format::Form, "vehicles[0=a", (1, 1), "cannot be read"),
        (Format::Form, "interests[0][x]=a", (1, 1), "holds single values"),
        (Format::Form, "interests[1000]=a", (1, 1), "a number beyond 999"),
        (Format::Form, "interests[99999999999999999999]=a", (1, 1), "a number beyond 999"),
        (Format::Form, "interests[999]=a&interests=b", (1, 18), "more than 1000 entries"),
        (Format::Form, "vehicles[0]=a&vehicles[0][make]=b", (1, 15), "given twice"),
        (Format::Xml, "<l><interests><a><b>x</b></a></interests></l>", (1, 18), "too deep"),
        (Format::Xml, "<l><vehicles><a><b><c>x</c></b></a></vehicles></l>", (1, 20), "too deep"),
        (Format::Xml, "<l><vehicles><make>x</make><v><make>y</make></v></vehicles></l>", (1, 45), "beside its entries"),
        (Format::Xml, "<l><vehicles><v><make>y</make></v><make>x</make></vehicles></l>", (1, 42), "beside its entries"),
        (Format::Xml, "<l><interests>a<item>b</item></interests></l>", (1, 30), "text beside elements"),
    ] {
        let fault = malformed(format, body);
        assert!(fault.message.contains(message), "{body}: {fault}");
        if (fault.line, fault.column) != place {
            wrong.push(format!("{body}: {fault}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn lists_have_bounds_whatever_comes() {
    let many = |count: usize| vec!["\"x\""; count].join(",");
    assert!(malformed(Format::Json, &format!("{{\"rates\": [{}]}}", many(MAX_ENTRIES + 1))).message.contains("1000"));
    let group = format!("{{{}}}", (0..499).map(|n| format!("\"m{n}\":1")).collect::<Vec<_>>().join(","));
    let groups = [group.as_str(); MAX_LIST_VALUES / 499 + 1].join(",");
    assert!(malformed(Format::Json, &format!("{{\"vehicles\": [{groups}]}}")).message.contains("5000 values in lists"));
    // … which no usual list comes near to: a hundred entries are taken without a word.
    let hundred = format!("{{\"home.phones\": [{}]}}", vec!["\"020 7946 0000\""; 100].join(","));
    assert!(read(Format::Json, &hundred).is_ok());
    let more = format!("{{\"home.phones\": [{}]}}", vec!["\"020 7946 0000\""; 101].join(","));
    assert_eq!(read(Format::Json, &more), Err(vec!["home.phones length".to_owned()]));
    let deep = format!("{{\"vehicles\": {}{}}}", "{\"a\":".repeat(200), "}".repeat(200));
    assert!(lists().parse(Format::Json, deep.as_bytes()).is_err());
}

#[test]
fn a_declaration_that_makes_no_list_says_why() {
    let faults = |field: &str| -> Vec<String> {
        let faults = Rules::compile(&campaign(&format!("fields = {{ l = {field} }}"))).unwrap_err();
        faults.into_iter().map(|fault| fault.key).collect()
    };
    for (field, keys) in [
        ("{ type = \"list\" }", vec!["fields.l"]),
        ("{ type = \"list\", items = { type = \"text\" }, fields = { a = { type = \"text\" } } }", vec!["fields.l"]),
        ("{ type = \"text\", items = { type = \"text\" } }", vec!["fields.l.items"]),
        ("{ type = \"text\", fields = { a = { type = \"text\" } } }", vec!["fields.l.fields"]),
        ("{ type = \"list\", items = { type = \"list\", items = { type = \"text\" } } }", vec!["fields.l.items.type"]),
        (
            "{ type = \"list\", fields = { a = { type = \"list\", items = { type = \"text\" } } } }",
            vec!["fields.l.fields.a.type"],
        ),
        ("{ type = \"list\", items = { type = \"one_of\" } }", vec!["fields.l.items.values"]),
        (
            "{ type = \"list\", fields = { a = { type = \"phone\", region = \"UK\" } } }",
            vec!["fields.l.fields.a.region"],
        ),
        ("{ type = \"list\", fields = { \"a.b\" = { type = \"text\" } } }", vec!["fields.l.fields.a.b"]),
        (
            "{ type = \"list\", items = { type = \"text\", required = true, default = \"x\", sensitive = true } }",
            vec!["fields.l.items.sensitive", "fields.l.items.required", "fields.l.items.default"],
        ),
        (
            "{ type = \"list\", items = { type = \"text\" }, pattern = \"x\", default = \"x\" }",
            vec!["fields.l.default", "fields.l.pattern"],
        ),
        ("{ type = \"list\", items = { type = \"text\" }, max = 1001 }", vec!["fields.l.max"]),
        ("{ type = \"list\", items = { type = \"text\" }, min = 101 }", vec!["fields.l.min"]),
        ("{ type = \"list\", items = { type = \"text\" }, min = 3, max = 2 }", vec!["fields.l.min"]),
    ] {
        assert_eq!(faults(field), keys, "{field}");
    }
    let twice = "dedupe = [{ fields = [\"l\"], window = \"1d\" }]\nfields = { l = { type = \"list\", items = { type = \"text\" } } }";
    let faults = Rules::compile(&campaign(twice)).unwrap_err();
    assert_eq!(faults[0].key, "dedupe[0].fields");
    assert!(faults[0].message.contains("is a list"), "{faults:?}");
}

#[test]
fn addresses_and_numbers_in_lists_find_the_lead_too() {
    let rules = lists();
    let body = br#"{"home": {"phones": ["020 7946 0000", "020 7946 0018"]}}"#;
    let valid = rules.validate(rules.parse(Format::Json, body).unwrap()).unwrap();
    let keys = rules.lookup_keys(&valid.fields, &Meta::default());
    assert_eq!(keys, [("phone", "+442079460000".to_owned()), ("phone", "+442079460018".to_owned())]);
}

#[test]
fn a_list_hides_itself_in_debug_output() {
    let rules = lists();
    let posted: Posted =
        rules.parse(Format::Json, br#"{"interests": ["solar"], "vehicles": [{"make": "Trabant"}]}"#).unwrap();
    assert!(!format!("{posted:?} {:?}", posted.fields).contains("Trabant"));
    assert!(!format!("{:?}", rules.validate(posted).unwrap()).contains("Trabant"));
}

proptest! {
    #[test]
    fn no_names_make_a_list_parser_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "vehicles", "interests", "[", "]", "[]", "[0]", "[1]", ".0", ".", "make", "=", "&", "a", "\"", "{", "}", ",", ":", "null", "1",
            "<l>", "</l>", "<vehicles>", "</vehicles>", "<interests>", "</interests>", "<x>", "</x>", "%5B",
        ]), 0..60),
        start in proptest::sample::select(vec!["", "{\"vehicles\":", "{\"interests\":[", "<l><vehicles>", "<l><interests>"]),
    ) {
        let rules = lists();
        let body = format!("{start}{}", parts.concat());
        for format in [Format::Json, Format::Form, Format::Xml] {
            if let Ok(posted) = rules.parse(format, body.as_bytes()) {
                let _ = rules.validate(posted);
            }
        }
    }
}

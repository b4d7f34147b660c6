//! The demo, as a newcomer runs it.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_ends_with_every_lead_as_expected() {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["demo", "--once"])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    for word in ["SOAP 1.2", "SOAP 1.1", "JSON", "XML", "POST", "GET", "unknown", "closed until", "duplicate"] {
        assert!(shown.contains(word), "{word} is missing in\n{shown}");
    }
}

#[test]
fn the_demo_speaks_json_to_programs() {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway")).args(["demo", "--once", "--json"]).output().unwrap();
    let results: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(results.len() > 10);
    for result in results {
        assert_eq!(result["differences"], serde_json::json!([]), "{result:#}");
    }
}

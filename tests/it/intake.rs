//! Intake: bodies, headers and values to checked leads.

mod bodies;
mod fields;
mod headers;
mod identity;
mod lists;
mod phones;
mod places;

use lead_gateway::intake::Rules;
use lead_gateway::model::campaign::Campaign;

/// A campaign with these fields, as its TOML says, and nothing else.
fn campaign(rest: &str) -> Campaign {
    toml::from_str(&format!("id = \"c\"\ntimezone = \"UTC\"\ncurrency = \"GBP\"\n{rest}")).unwrap()
}

fn rules(rest: &str) -> Rules {
    Rules::compile(&campaign(rest)).unwrap()
}

//! The demo's network as configuration files and templates: `config/demo` and `templates/partner/demo`, compiled in, with
//! what only this run knows filled in.

use jiff::Timestamp;
use jiff::civil::Time;

use super::partners::Addresses;
use crate::clock;

/// The campaign that the demo posts to.
pub const CAMPAIGN: &str = "solar-uk";

/// The source that posts.
pub const SOURCE: &str = "acme-solar";

/// The contract that is closed while the demo runs.
pub const CLOSED_CONTRACT: &str = "slate-sons-thatch";

/// What `[egress] allow` must hold for the demo: its partners live on this machine.
pub const EGRESS_ALLOW: &str = "127.0.0.0/8";

/// The zone of [`CLOSED_CONTRACT`]'s partner.
const CLOSED_ZONE: &str = "Europe/London";

/// The resource files of `config/demo`, before anything is filled in.
const FILES: &[(&str, &str)] = &[
    ("solar-uk.toml", include_str!("../../../config/demo/solar-uk.toml")),
    ("brightroof.toml", include_str!("../../../config/demo/brightroof.toml")),
    ("solarnow.toml", include_str!("../../../config/demo/solarnow.toml")),
    ("leadhouse.toml", include_str!("../../../config/demo/leadhouse.toml")),
    ("greenquote.toml", include_str!("../../../config/demo/greenquote.toml")),
    ("slate-sons.toml", include_str!("../../../config/demo/slate-sons.toml")),
];

/// The templates by the names that contracts have for them: their paths below `[network] templates`.
pub static TEMPLATES: &[(&str, &str)] = &[
    ("partner/demo/brightroof-lead.xml.hbs", include_str!("../../../templates/partner/demo/brightroof-lead.xml.hbs")),
    ("partner/demo/solarnow-lead.json.hbs", include_str!("../../../templates/partner/demo/solarnow-lead.json.hbs")),
    ("partner/demo/greenquote-lead.xml.hbs", include_str!("../../../templates/partner/demo/greenquote-lead.xml.hbs")),
    (
        "partner/demo/slate-sons-enquiry.xml.hbs",
        include_str!("../../../templates/partner/demo/slate-sons-enquiry.xml.hbs"),
    ),
    (
        "partner/demo/slate-sons-account.xml.hbs",
        include_str!("../../../templates/partner/demo/slate-sons-account.xml.hbs"),
    ),
];

/// A resource file, ready to be loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkFile {
    /// Its name in `config/demo`, for messages.
    pub name: &'static str,
    /// Its TOML.
    pub text: String,
}

impl std::fmt::Debug for NetworkFile {
    // The text holds the source's key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetworkFile({})", self.name)
    }
}

/// A new key for the demo's source: 32 hexadecimal digits after a word that says where it belongs.
pub fn new_source_key() -> String {
    format!("demo-{}", hex::encode(clock::random_bytes::<16>()))
}

/// The resource files for partners at `addresses` and a source that posts with `source_key`, such that
/// [`CLOSED_CONTRACT`] is closed at `now`, stays so for an hour at least, and opens within 18 hours.
///
/// # Errors
/// When the partner's time zone cannot be found.
pub fn files(addresses: &Addresses, source_key: &str, now: Timestamp) -> Result<Vec<NetworkFile>, jiff::Error> {
    let values = [
        ("BRIGHTROOF_ADDRESS", addresses.brightroof.to_string()),
        ("SOLARNOW_ADDRESS", addresses.solarnow.to_string()),
        ("LEADHOUSE_ADDRESS", addresses.leadhouse.to_string()),
        ("GREENQUOTE_ADDRESS", addresses.greenquote.to_string()),
        ("SLATE_SONS_ADDRESS", addresses.slate_sons.to_string()),
        ("SOURCE_KEY", source_key.to_owned()),
        ("CLOSED_NOW", closed_hours(now.in_tz(CLOSED_ZONE)?.time()).to_owned()),
    ];
    let fill = |text: &str| values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    Ok(FILES.iter().map(|(name, text)| NetworkFile { name, text: fill(text) }).collect())
}

/// Hours of every day that do not hold `time` and begin no sooner than in an hour: the day's, or the evening's while the
/// day's are near. Both keep clear of the small hours in which DST moves the clock.
fn closed_hours(time: Time) -> &'static str {
    if (8..17).contains(&time.hour()) { "18:00-22:00" } else { "09:00-17:00" }
}

//! Who did what, and why.

/// One act of a person.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The token's name, or `cli`.
    pub who: String,
    /// Such as `redeliver`.
    pub action: &'static str,
    /// What it was done to, such as `delivery/0199…`.
    pub subject: String,
    /// In their words.
    pub reason: Option<String>,
}

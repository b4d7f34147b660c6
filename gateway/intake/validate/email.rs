//! E-mail addresses: the forms that mail systems really deliver to (RFC 5321 without quoted local parts and address
//! literals; RFC 6531 letters are fine).

use url::Host;

/// The address with its domain in lower case, an international domain in its ASCII form (RFC 5890). `None` when it is
/// no address. The local part keeps its case: whether case matters there is its own mail system's business.
pub(in crate::intake) fn normalise(text: &str) -> Option<String> {
    let (local, domain) = text.split_once('@')?;
    let local_fits = (1..=64).contains(&local.len())
        && local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char));
    if !local_fits {
        return None;
    }
    let domain = if domain.is_ascii() { domain.to_ascii_lowercase() } else { to_ascii(domain)? };
    let mut labels = domain.rsplit('.');
    let top = labels.next()?;
    let domain_fits = top.len() >= 2
        && !top.bytes().all(|b| b.is_ascii_digit())
        && is_label(top)
        // Checks the others, and that there are any: `all` of none would be true.
        && labels.next().is_some_and(is_label)
        && labels.all(is_label);
    let address = [local, "@", &domain].concat();
    (domain_fits && address.len() <= 254).then_some(address)
}

/// RFC 5322 atext, and letters and digits beyond ASCII.
fn is_atom_char(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn to_ascii(domain: &str) -> Option<String> {
    // A URL's host may be percent-encoded, an e-mail's domain not.
    if domain.contains('%') {
        return None;
    }
    match Host::parse(domain).ok()? {
        Host::Domain(ascii) => Some(ascii),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

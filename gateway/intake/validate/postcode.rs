//! Postal codes: each country's forms as masks, after the Universal Postal Union's addressing guides.

/// Country → the forms its codes have: `9` a digit, `A` a letter, `*` either, anything else itself. A posted code is
/// compared without its spaces and hyphens, and written as the mask has them.
const FORMS: &[(&str, &[&str])] = &[
    ("AT", &["9999"]),
    ("AU", &["9999"]),
    ("BE", &["9999"]),
    ("BG", &["9999"]),
    ("BR", &["99999-999"]),
    ("CA", &["A9A 9A9"]),
    ("CH", &["9999"]),
    ("CY", &["9999"]),
    ("CZ", &["999 99"]),
    ("DE", &["99999"]),
    ("DK", &["9999"]),
    ("EE", &["99999"]),
    ("ES", &["99999"]),
    ("FI", &["99999"]),
    ("FR", &["99999"]),
    // The last two: Girobank's, which is still in old lists, and the overseas territories (ASCN 1ZZ).
    ("GB", &["A9 9AA", "A99 9AA", "A9A 9AA", "AA9 9AA", "AA99 9AA", "AA9A 9AA", "GIR 0AA", "AAAA 9AA"]),
    ("GR", &["999 99"]),
    ("HR", &["99999"]),
    ("HU", &["9999"]),
    ("IE", &["A99 ****", "A9A ****"]),
    ("IL", &["9999999"]),
    ("IN", &["999999"]),
    ("IT", &["99999"]),
    ("JP", &["999-9999"]),
    ("KR", &["99999"]),
    ("LT", &["99999"]),
    ("LU", &["9999"]),
    ("LV", &["9999"]),
    ("MX", &["99999"]),
    ("NL", &["9999 AA"]),
    ("NO", &["9999"]),
    ("NZ", &["9999"]),
    ("PL", &["99-999"]),
    ("PT", &["9999-999"]),
    ("RO", &["999999"]),
    ("RS", &["99999"]),
    ("SE", &["999 99"]),
    ("SG", &["999999"]),
    ("SI", &["9999"]),
    ("SK", &["999 99"]),
    ("TR", &["99999"]),
    ("UA", &["99999"]),
    ("US", &["99999", "99999-9999"]),
    ("ZA", &["9999"]),
];

/// The code in upper case and its country's writing, such as `SW1A 1AA`; `None` when it is none of that country.
/// Where the country is not given or not in the table: 2 to 12 letters and digits with single spaces or hyphens.
pub(super) fn normalise(text: &str, country: Option<&str>) -> Option<String> {
    let forms = country.and_then(|country| FORMS.iter().find(|(code, _)| *code == country));
    match forms {
        Some((_, masks)) => {
            // Longer than any code; what is cut off cannot matter, for it makes the code too long already.
            let compact: Vec<char> = text
                .chars()
                .filter(|c| !c.is_whitespace() && *c != '-')
                .map(|c| c.to_ascii_uppercase())
                .take(20)
                .collect();
            masks.iter().find_map(|mask| fill(mask, &compact))
        }
        None => generic(text),
    }
}

/// The code written as the mask has it, if it fits.
fn fill(mask: &str, compact: &[char]) -> Option<String> {
    let mut rest = compact.iter();
    let mut filled = String::with_capacity(mask.len());
    for form in mask.chars() {
        if matches!(form, ' ' | '-') {
            filled.push(form);
            continue;
        }
        let c = *rest.next()?;
        let fits = match form {
            '9' => c.is_ascii_digit(),
            'A' => c.is_ascii_uppercase(),
            '*' => c.is_ascii_uppercase() || c.is_ascii_digit(),
            other => c == other,
        };
        if !fits {
            return None;
        }
        filled.push(c);
    }
    rest.next().is_none().then_some(filled)
}

fn generic(text: &str) -> Option<String> {
    let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
    let fits = (2..=12).contains(&spaced.len())
        && spaced.split([' ', '-']).all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    fits.then_some(spaced)
}

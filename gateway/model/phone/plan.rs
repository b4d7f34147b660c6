//! Numbering plans: the metadata of each region, with its expressions compiled when a number first needs them.
//!
//! They are held against ASCII digits only, so that `\d` need not know the digits of every script.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use phonenumber::metadata::{DATABASE, Descriptor, Format};
use phonenumber::{Metadata, country};
use regex::{Regex, RegexBuilder};

/// Country codes have three digits at most.
const CODES: u16 = 1_000;

/// Every plan, by country code; the main country of a code first.
static PLANS: LazyLock<Vec<Vec<Plan>>> = LazyLock::new(|| {
    let of = |code: u16| DATABASE.by_code(&code).unwrap_or_default().into_iter().map(Plan::new).collect();
    (0..CODES).map(of).collect()
});

fn of_code(code: u16) -> &'static [Plan] {
    PLANS.get(usize::from(code)).map_or(&[], Vec::as_slice)
}

/// The plan of a region, by ISO 3166 code.
pub(super) fn of_region(id: &str) -> Option<&'static Plan> {
    let code = DATABASE.by_id(id)?.country_code();
    of_code(code).iter().find(|plan| plan.metadata.id() == id)
}

/// The plan of a code's main country, by which all of its numbers are written.
pub(super) fn main(code: u16) -> Option<&'static Plan> {
    of_code(code).first()
}

/// The plan that a number belongs to, among those of its country code.
pub(super) fn of_number(code: u16, national: &str) -> Option<&'static Plan> {
    match of_code(code) {
        [only] => only.is_known.then_some(only),
        several => several.iter().find(|plan| plan.claims(national)),
    }
}

/// An international number as country code and the rest. `None` where no country has the code.
pub(super) fn split_code(digits: &str) -> Option<(u16, &str)> {
    if digits.len() < 3 || digits.starts_with('0') {
        return None;
    }
    (1..=3).find_map(|length| {
        let (code, national) = digits.split_at_checked(length)?;
        let code = code.parse().ok()?;
        (!of_code(code).is_empty()).then_some((code, national))
    })
}

/// The numbering plan of a region, or of a code that belongs to none, such as 800.
#[derive(Debug)]
pub(super) struct Plan {
    metadata: &'static Metadata,
    /// Whether the crate knows its region by name.
    is_known: bool,
    abroad: OnceLock<Option<Regex>>,
    trunk: OnceLock<Option<Regex>>,
    leading: OnceLock<Option<Regex>>,
    general: OnceLock<Form>,
    types: OnceLock<Vec<Form>>,
    formats: OnceLock<[Vec<Writing>; 2]>,
}

impl Plan {
    fn new(metadata: &'static Metadata) -> Self {
        Self {
            metadata,
            is_known: metadata.id() == "001" || metadata.id().parse::<country::Id>().is_ok(),
            abroad: OnceLock::new(),
            trunk: OnceLock::new(),
            leading: OnceLock::new(),
            general: OnceLock::new(),
            types: OnceLock::new(),
            formats: OnceLock::new(),
        }
    }

    pub(super) fn code(&self) -> u16 {
        self.metadata.country_code()
    }

    pub(super) fn extension_prefix(&self) -> Option<&'static str> {
        self.metadata.preferred_extension_prefix()
    }

    /// What follows the prefix for calls abroad. No country code begins with 0.
    pub(super) fn without_prefix_abroad<'d>(&self, digits: &'d str) -> Option<&'d str> {
        let pattern = self.metadata.international_prefix();
        let prefix = self.abroad.get_or_init(|| pattern.and_then(|pattern| anchored(pattern.as_str()))).as_ref()?;
        let rest = digits.get(prefix.find(digits)?.end()..)?;
        (!rest.starts_with('0')).then_some(rest)
    }

    /// A number of this region without its country code, where that cannot be the beginning of the number itself.
    pub(super) fn without_code<'d>(&self, digits: &'d str) -> &'d str {
        let rest = digits.strip_prefix(self.code().to_string().as_str());
        rest.filter(|_| !self.general().matches(digits) || !self.may_have_length(digits.len())).unwrap_or(digits)
    }

    /// A number without what one dials before it within the country, and what chose the carrier (where no carrier was
    /// chosen, the prefix itself). `None` where the number is to stay as it is.
    pub(super) fn without_trunk_prefix(&self, national: &str) -> Option<(String, Option<String>)> {
        let prefix = self.metadata.national_prefix();
        let without = |number: &str| prefix.and_then(|prefix| number.strip_prefix(prefix)).unwrap_or(number).to_owned();
        let pattern = self.metadata.national_prefix_for_parsing();
        let (number, carrier) = match self.trunk.get_or_init(|| pattern.and_then(|one| anchored(one.as_str()))) {
            None => (without(national), None),
            Some(trunk) => self.by_pattern(trunk, national).unwrap_or_else(|| (national.to_owned(), None)),
        };
        let number = without(&number);
        (!self.is_too_short(number.len())).then_some((number, carrier))
    }

    fn by_pattern(&self, trunk: &Regex, national: &str) -> Option<(String, Option<String>)> {
        let whole = trunk.find(national)?;
        let rest = national.get(whole.end()..)?.to_owned();
        if trunk.captures_len() == 1 {
            return Some((rest, Some(whole.as_str().to_owned())));
        }
        let groups = trunk.captures(national)?;
        let group = |at: usize| groups.get(at).map(|group| group.as_str().to_owned());
        let last = group(groups.len() - 1);
        let (Some(transform), Some(_)) = (self.metadata.national_prefix_transform_rule(), &last) else {
            return Some((rest, last));
        };
        let transformed = trunk.replace(national, transform).into_owned();
        let spoilt = self.general().matches(national) && !self.general().matches(&transformed);
        (!spoilt).then_some((transformed, group(1)))
    }

    /// Whether some kind of subscriber has such numbers.
    pub(super) fn has(&self, national: &str) -> bool {
        self.general().matches(national) && self.types().iter().any(|form| form.matches(national))
    }

    /// Whether a number of a code that several regions share is of this one.
    fn claims(&self, national: &str) -> bool {
        let pattern = self.metadata.leading_digits();
        match self.leading.get_or_init(|| pattern.and_then(|pattern| anchored(pattern.as_str()))) {
            Some(leading) => leading.is_match(national),
            None => self.has(national),
        }
    }

    /// What every number of the plan looks like.
    fn general(&self) -> &Form {
        self.general.get_or_init(|| {
            let general = self.metadata.descriptors().general();
            Form::new(&[general], (0..LENGTHS).filter(|length| allows(general, *length)))
        })
    }

    /// What the numbers of any kind of subscriber look like: one form for all lengths that have the same kinds.
    fn types(&self) -> &[Form] {
        self.types.get_or_init(|| {
            let all = self.metadata.descriptors();
            let types = [
                all.premium_rate(),
                all.toll_free(),
                all.shared_cost(),
                all.voip(),
                all.personal_number(),
                all.pager(),
                all.uan(),
                all.voicemail(),
                all.fixed_line(),
                all.mobile(),
            ];
            let of_length =
                |length| types.iter().enumerate().filter(move |(_, one)| one.is_some_and(|one| allows(one, length)));
            let mut lengths_of: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
            for length in 0..LENGTHS {
                lengths_of.entry(of_length(length).map(|(at, _)| at).collect()).or_default().push(length);
            }
            let form = |(kinds, lengths): (Vec<usize>, Vec<usize>)| {
                let kinds: Vec<_> = kinds.iter().filter_map(|at| *types.get(*at)?).collect();
                Form::new(&kinds, lengths)
            };
            lengths_of.into_iter().filter(|(kinds, _)| !kinds.is_empty()).map(form).collect()
        })
    }

    fn may_have_length(&self, length: usize) -> bool {
        let general = self.metadata.descriptors().general();
        let among = |lengths: &[u16]| lengths.iter().any(|one| usize::from(*one) == length);
        !general.possible_length().is_empty()
            && (among(general.possible_local_length()) || among(general.possible_length()))
    }

    fn is_too_short(&self, length: usize) -> bool {
        let general = self.metadata.descriptors().general();
        let local = general.possible_local_length().iter().any(|one| usize::from(*one) == length);
        !local && general.possible_length().first().is_some_and(|least| length < usize::from(*least))
    }

    /// A number as one writes it within the country.
    pub(super) fn national(&self, national: &str, carrier: Option<&str>) -> String {
        let [formats, _] = self.formats();
        Writing::of(national, formats).map_or_else(|| national.to_owned(), |one| one.national(national, carrier))
    }

    /// A number as one writes it behind its country code.
    pub(super) fn international(&self, national: &str) -> String {
        let [formats, abroad] = self.formats();
        let formats = if abroad.is_empty() { formats } else { abroad };
        Writing::of(national, formats).map_or_else(|| national.to_owned(), |one| one.international(national))
    }

    /// Those for use within the country, and those for abroad where they differ.
    fn formats(&self) -> &[Vec<Writing>; 2] {
        let prefix = self.metadata.national_prefix().unwrap_or_default();
        let compile = |formats: &'static [Format]| formats.iter().filter_map(|one| Writing::new(one, prefix)).collect();
        self.formats.get_or_init(|| [compile(self.metadata.formats()), compile(self.metadata.international_formats())])
    }
}

/// Longer than any number, so that the lengths of a form fit into the bits of a word.
const LENGTHS: usize = 32;

/// Whether numbers that a descriptor describes may have so many digits.
fn allows(descriptor: &Descriptor, length: usize) -> bool {
    let lengths = descriptor.possible_length();
    lengths.is_empty() || lengths.iter().any(|one| usize::from(*one) == length)
}

/// What numbers of some lengths begin with.
#[derive(Debug)]
struct Form {
    /// A bit for each length.
    lengths: u32,
    beginning: Option<Regex>,
}

impl Form {
    fn new(descriptors: &[&Descriptor], lengths: impl IntoIterator<Item = usize>) -> Self {
        let patterns: Vec<_> =
            descriptors.iter().map(|one| format!("(?:{})", one.national_number().as_str())).collect();
        Self {
            lengths: lengths.into_iter().filter(|length| *length < LENGTHS).fold(0, |bits, length| bits | 1 << length),
            beginning: anchored(&patterns.join("|")),
        }
    }

    fn matches(&self, national: &str) -> bool {
        national.len() < LENGTHS
            && self.lengths & 1 << national.len() != 0
            && self.beginning.as_ref().is_some_and(|beginning| beginning.is_match(national))
    }
}

/// How some numbers of a plan are written.
#[derive(Debug)]
struct Writing {
    format: &'static Format,
    /// What such numbers begin with; `None` for all numbers.
    leading: Option<Regex>,
    /// The parts of such a number.
    pattern: Regex,
    /// How the parts are put together within the country.
    within: String,
    /// The prefix that one dials within the country.
    prefix: &'static str,
}

impl Writing {
    fn new(format: &'static Format, prefix: &'static str) -> Option<Self> {
        let within = format.national_prefix().and_then(|rule| with_prefix(format.format(), rule, prefix, ""));
        Some(Self {
            format,
            leading: match format.leading_digits().last() {
                Some(leading) => Some(anchored(leading.as_str())?),
                None => None,
            },
            pattern: expression(format.pattern().as_str())?,
            within: within.unwrap_or_else(|| format.format().to_owned()),
            prefix,
        })
    }

    /// The first that is for such a number.
    fn of<'w>(national: &str, all: &'w [Self]) -> Option<&'w Self> {
        let whole = |found: regex::Match<'_>| found.start() == 0 && found.end() == national.len();
        all.iter().find(|one| match &one.leading {
            None => true,
            Some(leading) => leading.is_match(national) && one.pattern.find(national).is_some_and(whole),
        })
    }

    fn national(&self, national: &str, carrier: Option<&str>) -> String {
        let by_carrier = carrier.zip(self.format.domestic_carrier());
        let template =
            by_carrier.and_then(|(carrier, rule)| with_prefix(self.format.format(), rule, self.prefix, carrier));
        self.pattern.replace(national, template.as_deref().unwrap_or(&self.within)).into_owned()
    }

    fn international(&self, national: &str) -> String {
        self.pattern.replace(national, self.format.format()).into_owned()
    }
}

/// A format such as `$1 $2` whose first group is written by a rule, such as `($NP$FG)`: national prefix and group.
fn with_prefix(format: &str, rule: &str, prefix: &str, carrier: &str) -> Option<String> {
    static GROUP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\$\d)").ok());
    let group = GROUP.as_ref()?;
    let first = group.find(format)?.as_str();
    let rule = rule.replace("$NP", prefix).replace("$FG", &format!("${first}")).replace("$CC", carrier);
    Some(group.replace(format, rule.as_str()).into_owned())
}

/// An expression of the metadata that must match from the first digit on.
fn anchored(pattern: &str) -> Option<Regex> {
    expression(&format!(r"\A(?:{pattern})"))
}

/// `None` never comes: the crate has compiled each of them in its own way.
fn expression(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).ignore_whitespace(true).unicode(false).build().ok()
}

//! Capture: what is kept of a body, and how secrets are found in it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lead_gateway::capture::{Captured, Redactor, cut, presentable, redact, redact_headers};
use proptest::prelude::*;

fn secrets(list: &[&str]) -> Vec<String> {
    list.iter().map(|secret| (*secret).to_owned()).collect()
}

fn redacted(text: &str, list: &[&str]) -> String {
    String::from_utf8(redact(text.as_bytes(), &secrets(list)).into_owned()).unwrap()
}

#[test]
fn a_secret_is_masked_in_every_spelling() {
    let secret = "k\"<é/&' 7?";
    let spellings = [
        secret.to_owned(),
        "k\\\"<é/&' 7?".to_owned(),
        "k\\\"<é\\/&' 7?".to_owned(),
        "k\\\"<\\u00e9/&' 7?".to_owned(),
        "k&quot;&lt;é/&amp;&apos; 7?".to_owned(),
        "k&quot;&lt;é/&amp;&#39; 7?".to_owned(),
        "k%22%3C%C3%A9%2F%26%27%207%3F".to_owned(),
        "k%22%3c%c3%a9%2f%26%27%207%3f".to_owned(),
        "k%22%3C%C3%A9%2F%26'%207%3F".to_owned(),
        "k%22%3C%C3%A9%2F%26%27+7%3F".to_owned(),
        // As .NET, PHP, Go, and whoever knows numbers only, write it; and our own markup.
        "k\\u0022\\u003C\\u00E9/\\u0026\\u0027 7?".to_owned(),
        "k\\\"<\\u00e9\\/&' 7?".to_owned(),
        "k\\\"\\u003cé/\\u0026' 7?".to_owned(),
        "k&#34;&#x3C;&#xE9;/&#38;&#039; 7?".to_owned(),
        "k&quot;&lt;&#233;/&amp;' 7?".to_owned(),
        "k%22%3C%E9%2F%26%27+7%3F".to_owned(),
        STANDARD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
    ];
    for spelling in spellings {
        let text = format!("<before>{spelling}|after");
        let shown = redacted(&text, &[secret]);
        assert!(shown.starts_with("<before>***"), "{spelling}: {shown}");
        assert!(shown.ends_with("|after") && shown.len() <= "<before>***==|after".len(), "{spelling}: {shown}");
    }
}

#[test]
fn a_secret_is_found_inside_basic_credentials() {
    for user in ["u", "us", "use", "user"] {
        let basic = STANDARD.encode(format!("{user}:p4ss-w0rd-x"));
        let shown = redacted(&format!("Basic {basic}!"), &["p4ss-w0rd-x"]);
        assert!(shown.contains("***"), "{shown}");
        let inner = &basic[8..16];
        assert!(!shown.contains(inner), "{shown} holds {inner}");
    }
}

#[test]
fn what_holds_no_secret_is_left_as_it_is() {
    assert_eq!(redacted("nothing here", &["secret"]), "nothing here");
    assert!(matches!(redact(b"abc", &secrets(&["secret"])), std::borrow::Cow::Borrowed(b"abc")));
    // Three bytes stand everywhere by chance.
    assert_eq!(redacted("abc abc", &["abc"]), "abc abc");
}

#[test]
fn overlapping_secrets_leave_nothing_of_either() {
    assert_eq!(redacted("xabcdefghix", &["abcdef", "defghi"]), "x***x");
    assert_eq!(redacted("abcdabcd", &["abcd"]), "******");
    assert_eq!(redacted("abcdefgh", &["abcdefgh", "cdef"]), "***");
    assert_eq!(redacted("x111111x ababab", &["1111", "abab"]), "x***x ***");
}

#[test]
fn a_secret_that_the_end_cut_off_is_masked_too() {
    assert_eq!(redacted("token=supersec", &["supersecret"]), "token=***");
    assert_eq!(redacted("token=sup", &["supersecret"]), "token=sup");
}

#[test]
fn bytes_that_are_not_text_are_searched_too() {
    assert_eq!(redact(b"\xff\xfesecret\xff", &secrets(&["secret"])).as_ref(), b"\xff\xfe***\xff");
    // As ISO-8859-1 and Windows-1252 have it.
    assert_eq!(redact(b"<M\xfcller \x80 5>", &secrets(&["Müller € 5"])).as_ref(), b"<***>");
}

#[test]
fn a_secret_of_any_length_is_one_mask() {
    let secret: String = (0..2_000).map(|n: u32| char::from_u32(0x30 + n * 7 % 0x50).unwrap()).collect();
    let known = [secret.as_str()];
    assert_eq!(redacted(&format!("<{secret}>"), &known), "<***>");
    assert_eq!(redacted(&format!("<{}", &secret[..1_500]), &known), "<***");
    let escaped = serde_json::to_string(&secret).unwrap();
    assert_eq!(redacted(&escaped, &known), "\"***\"");
    let encoded = redacted(&STANDARD.encode(&secret), &known);
    assert!(encoded.len() < 400 && encoded.replace("***", "").len() < 4, "{encoded}");
}

/// A list of ten thousand sensitive values and a body that looks like all of them: neither may take the gateway's time or
/// memory.
#[test]
fn many_secrets_that_are_alike_are_found_in_one_pass() {
    let many: Vec<String> =
        (0..5_000).map(|n| "a".repeat(4 + n % 40) + &n.to_string()).chain(vec!["aaaa".into(); 5_000]).collect();
    let body = vec![b'a'; 64 << 10];
    // Compared with each at each place, this would go on for minutes.
    assert_eq!(redact(&body, &many).as_ref(), b"***");
    let encoded = STANDARD.encode(&body);
    assert!(redact(encoded.as_bytes(), &many).len() < 100);
}

#[test]
fn a_body_is_cut_after_masking_and_says_so() {
    let known = secrets(&["supersecret"]);
    let redactor = Redactor::new(&known);
    let captured = Captured::of(b"id=supersecret&x=1", &redactor, 8);
    assert_eq!((captured.body.as_slice(), captured.truncated), (b"id=***&x".as_slice(), true));
    let whole = Captured::of(b"id=supersecret", &redactor, 6);
    assert_eq!((whole.body.as_slice(), whole.truncated), (b"id=***".as_slice(), false));
    assert!(!format!("{captured:?} {redactor:?}").contains("secret"));
}

#[test]
fn text_is_not_cut_inside_a_character_and_other_bytes_are_cut_exactly() {
    assert_eq!(cut("aé😀".as_bytes(), 5).body, "aé".as_bytes());
    assert_eq!(cut("aé😀".as_bytes(), 7).body, "aé😀".as_bytes());
    assert_eq!(cut(b"\xff\xfe\xfd\xfc", 3).body, b"\xff\xfe\xfd");
    assert!(cut(b"x", 0).truncated && !cut(b"", 0).truncated);
}

#[test]
fn bodies_are_shown_as_text_or_as_base64() {
    assert_eq!(presentable("é".as_bytes()), ("é".to_owned(), "utf-8"));
    assert_eq!(presentable(b"\xff\x00"), ("/wA=".to_owned(), "base64"));
}

#[test]
fn headers_lose_cookies_credentials_and_known_secrets() {
    let headers = [
        ("Set-Cookie", "sid=abc123; Path=/; HttpOnly"),
        ("set-cookie", "broken"),
        ("X-Auth-Token", "t"),
        ("Location", "https://x.example/?key=s3cr%2Ft"),
        ("Idempotency-Key", "0199"),
        ("Content-Type", "text/plain"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let shown = redact_headers(&headers, &Redactor::new(&secrets(&["s3cr/t"])));
    let shown: Vec<&str> = shown.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(shown, ["sid=***; Path=/; HttpOnly", "***", "***", "https://x.example/?key=***", "0199", "text/plain"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_survives_masking_and_cutting(
        secret in "[ -~é]{4,20}", before in any::<Vec<u8>>(), after in any::<Vec<u8>>(), limit in 0_usize..80
    ) {
        let bytes = [before, secret.clone().into_bytes(), after].concat();
        let kept = Captured::of(&bytes, &Redactor::new(&secrets(&[&secret])), limit).body;
        let survives = kept.windows(secret.len()).any(|window| window == secret.as_bytes());
        // The mask itself may complete a secret made of stars; nothing else can.
        prop_assert!(!survives || secret.contains('*'));
        prop_assert!(kept.len() <= limit);
    }

    /// A writer may spell each character as it likes.
    #[test]
    fn a_secret_is_found_however_each_of_its_characters_is_spelled(
        characters in prop::collection::vec((prop::sample::select("ab7~+@ /\"'&<>!éü€😀\\\t-".chars().collect::<Vec<_>>()), 0_usize..9), 4..50)
    ) {
        let secret: String = characters.iter().map(|(c, _)| *c).collect();
        let spelled: String = characters.iter().map(|(c, way)| spelled(*c, *way)).collect();
        prop_assert_eq!(redacted(&format!("[{spelled}]"), &[&secret]), "[***]", "{}", spelled);
    }

    /// Here each spelling is searched for alone, and more may be found than these.
    #[test]
    fn every_spelling_is_found_wherever_a_search_for_it_alone_finds_it(
        one in r#"[a-d0-9~+@ /"'&<>!é€😀\\\t-]{4,12}"#, two in "[ab]{4,6}",
        parts in prop::collection::vec((0_usize..60, 0_usize..20, "[ab=<&%+ ]{0,3}"), 0..8), cut in 0_usize..12
    ) {
        let mut all: Vec<Vec<u8>> = [&one, &two].into_iter().flat_map(|secret| spellings(secret)).collect();
        all.retain(|form| form.len() >= 4);
        let mut text = Vec::new();
        for (number, skipped, between) in parts {
            let form = &all[number % all.len()];
            // Often a part of a form only, as its end may be where the next one begins.
            text.extend_from_slice(&form[if skipped < 12 { 0 } else { skipped % form.len() }..]);
            text.extend_from_slice(between.as_bytes());
        }
        text.truncate(text.len().saturating_sub(cut));
        let shown = redact(&text, &secrets(&[&one, &two])).into_owned();
        let kept = kept_one_by_one(&text, &all);
        let shown: Vec<u8> = shown.split(|byte| *byte == b'*').collect::<Vec<_>>().concat();
        prop_assert!(is_part_of(&shown, &kept), "{:?}: {:?}", String::from_utf8_lossy(&text), String::from_utf8_lossy(&shown));
    }
}

/// Whether what is kept here is kept there, too.
fn is_part_of(shown: &[u8], kept: &[u8]) -> bool {
    let mut kept = kept.iter();
    shown.iter().all(|byte| kept.any(|other| other == byte))
}

fn spelled(c: char, way: usize) -> String {
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units);
    let number = u32::from(c);
    match way {
        0 => units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat(),
        1 => units.iter().map(|unit| format!("\\u{unit:04X}")).collect::<Vec<_>>().concat(),
        2 => c.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat(),
        3 => c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat(),
        4 => format!("&#{number};"),
        5 => format!("&#x{number:x};"),
        6 => format!("&#x0{number:X};"),
        7 => match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\'' => "&apos;".to_owned(),
            ' ' => "+".to_owned(),
            '\t' => "\\t".to_owned(),
            '\\' | '/' => format!("\\{c}"),
            _ => c.to_string(),
        },
        _ => c.to_string(),
    }
}

/// A secret as formats write it.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    const LENIENT: &AsciiSet = &STRICT.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
    let json = serde_json::to_string(secret).unwrap();
    let json = json[1..json.len() - 1].to_owned();
    let ascii: String = json
        .chars()
        .map(|c| match c {
            _ if c.is_ascii() => c.to_string(),
            _ => c.encode_utf16(&mut [0; 2]).iter().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}")),
        })
        .collect();
    let markup = |quote: &str, apostrophe: &str, greater: &str| {
        let text = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', greater);
        text.replace('"', quote).replace('\'', apostrophe)
    };
    let mut texts = vec![secret.to_owned(), json.replace('/', "\\/"), json, ascii];
    for (quote, apostrophe, greater) in [
        ("&quot;", "&apos;", "&gt;"),
        ("&quot;", "&#39;", "&gt;"),
        ("&#34;", "&#39;", "&gt;"),
        ("\"", "'", "&gt;"),
        ("\"", "'", ">"),
    ] {
        texts.push(markup(quote, apostrophe, greater));
    }
    for (set, space) in [(STRICT, "%20"), (LENIENT, "%20"), (STRICT, "+")] {
        texts.push(utf8_percent_encode(secret, set).to_string().replace("%20", space));
    }
    texts.push(form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    for encoded in texts.split_off(9) {
        let lower = encoded.char_indices().map(|(at, c)| {
            let hex = encoded[..at].ends_with('%') || at >= 2 && encoded.as_bytes()[at - 2] == b'%';
            if hex { c.to_ascii_lowercase() } else { c }
        });
        texts.push(lower.collect());
        texts.push(encoded);
    }
    let mut all: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    for before in 0..3 {
        let bytes = [vec![0; before], secret.as_bytes().to_vec()].concat();
        for text in [STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            all.push(text.as_bytes()[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_vec());
        }
    }
    all
}

/// What of a text is left without each form's finds, one after another, and the longest beginning of it that ends the text;
/// without stars, which the mask is made of.
fn kept_one_by_one(text: &[u8], forms: &[Vec<u8>]) -> Vec<u8> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for form in forms {
        found.extend(memchr::memmem::find_iter(text, form).map(|at| at..at + form.len()));
        let cut = (4..form.len()).rev().find(|length| text.ends_with(&form[..*length]));
        found.extend(cut.map(|length| text.len() - length..text.len()));
    }
    found.sort_by_key(|range| range.start);
    let (mut out, mut done) = (Vec::new(), 0);
    for range in found {
        if range.start >= done {
            out.extend_from_slice(&text[done..range.start]);
        }
        done = done.max(range.end);
    }
    out.extend_from_slice(&text[done..]);
    out.retain(|byte| *byte != b'*');
    out
}

//! `multipart/form-data` bodies (RFC 7578 over RFC 2046, section 5.1) without files, read strictly as UTF-8.
//!
//! The whole body is at hand and what is wrong with it is told with line and column, which the streaming parsers
//! (multer, which axum uses) cannot do; what is left without files is a search for the boundary and two headers.

use std::borrow::Cow;

use memchr::memmem;

use super::lists::Lists;
use super::posted::{Collector, Posted};
use super::{Malformed, is_utf8_charset};

/// Characters of a boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Bytes of one part's headers: they name a field of at most 200 characters.
const MAX_HEAD: usize = 8 << 10;

/// What stands between the parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    text: [u8; MAX_BOUNDARY],
    length: usize,
}

impl Boundary {
    /// From the `boundary` parameter of a `Content-Type`; `None` where RFC 2046 does not allow it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
        if text.is_empty() || text.ends_with(' ') || !text.bytes().all(|b| allowed(&b)) {
            return None;
        }
        let mut kept = [0; MAX_BOUNDARY];
        kept.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { text: kept, length: text.len() })
    }

    fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }
}

impl std::fmt::Debug for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Boundary({})", String::from_utf8_lossy(self.as_bytes()))
    }
}

pub(super) fn parse<'b>(body: &'b [u8], boundary: Boundary, lists: &Lists) -> Result<Posted<'b>, Malformed> {
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let finder = memmem::Finder::new(&delimiter);
    let fault = |at: usize, message: &str| Malformed::at(body, at, message);
    let from = |at: usize| body.get(at..).unwrap_or_default();

    // The first delimiter may begin the body; what stands before it means nothing.
    let first = delimiter.get(2..).unwrap_or_default();
    let mut at = if body.starts_with(first) {
        first.len()
    } else {
        finder.find(body).ok_or_else(|| fault(0, "the boundary that Content-Type names does not stand in the body"))?
            + delimiter.len()
    };
    let mut collector = Collector::new(lists);
    while !from(at).starts_with(b"--") {
        let padding = from(at).iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        at += padding;
        if !from(at).starts_with(b"\r\n") {
            return Err(fault(at, "a boundary must be followed by a line break (CR LF), the last one by `--`"));
        }
        // The delimiter of an empty part begins with this very line break.
        let end =
            at + finder.find(from(at)).ok_or_else(|| fault(body.len(), "the body ends before its closing boundary"))?;
        at += 2;
        let part = body.get(at..end).unwrap_or_default();
        let head = memmem::find(part, b"\r\n\r\n")
            .filter(|head| *head <= MAX_HEAD)
            .ok_or_else(|| fault(at, "a part needs headers and an empty line after them (lines end with CR LF)"))?;
        let content_at = at + head + 4;
        let content = body.get(content_at..end).unwrap_or_default();
        let head = part.get(..head).and_then(|head| std::str::from_utf8(head).ok());
        let head = head.ok_or_else(|| fault(at, "a part's headers are not UTF-8"))?;
        if let Some(name) = name_of(head, content).map_err(|message| fault(at, &message))? {
            let text = std::str::from_utf8(content).map_err(|error| {
                fault(content_at + error.valid_up_to(), "a value is not UTF-8; encode the form as UTF-8")
            })?;
            collector.form_field(Cow::Owned(name), Cow::Borrowed(text)).map_err(|message| fault(at, &message))?;
        }
        at = end + delimiter.len();
    }
    Ok(collector.finish())
}

/// The field that a part's headers name; `None` for a file input in which nothing was chosen.
fn name_of(head: &str, content: &[u8]) -> Result<Option<String>, String> {
    let mut named = None;
    let mut is_file = false;
    for line in head.split("\r\n") {
        let (header, value) =
            line.split_once(':').ok_or("a part's header is not `Name: value`, each on one line".to_owned())?;
        let value = value.trim();
        let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
        match header.trim().to_ascii_lowercase().as_str() {
            "content-disposition" => {
                if !kind.trim().eq_ignore_ascii_case("form-data") {
                    return Err("a part's Content-Disposition is not form-data".to_owned());
                }
                for (parameter, value) in
                    parameters_of(parameters).ok_or("a part's Content-Disposition cannot be read".to_owned())?
                {
                    match parameter.as_str() {
                        "name" => named = Some(unescaped(&value)),
                        "filename" if value.is_empty() && content.is_empty() => is_file = true,
                        "filename" | "filename*" => {
                            return Err("a part has a filename; files are not taken, leave it out".to_owned());
                        }
                        _ => {}
                    }
                }
            }
            "content-type" => {
                let parameters = parameters_of(parameters).unwrap_or_default();
                if parameters.iter().any(|(name, value)| name == "charset" && !is_utf8_charset(value)) {
                    return Err("a part names another charset; send UTF-8".to_owned());
                }
            }
            "content-transfer-encoding"
                if !["7bit", "8bit", "binary"].iter().any(|plain| kind.trim().eq_ignore_ascii_case(plain)) =>
            {
                return Err("a part has a Content-Transfer-Encoding; send values as they are".to_owned());
            }
            _ => {}
        }
    }
    let name = named.ok_or("a part has no name; give it Content-Disposition: form-data; name=\"…\"".to_owned())?;
    Ok((!is_file).then_some(name))
}

/// `; name="value"; other=token`: names in small letters. `None` where that cannot be read.
fn parameters_of(text: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_matches([' ', '\t', ';']);
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            until_quote(quoted)?
        } else {
            let (token, after) = value.split_at(value.find(';').unwrap_or(value.len()));
            (token.trim_end().to_owned(), after)
        };
        parameters.push((name.trim().to_ascii_lowercase(), value));
        let after = after.trim_start();
        rest = if after.is_empty() { after } else { after.strip_prefix(';')?.trim_start_matches([' ', '\t', ';']) };
    }
    Some(parameters)
}

/// A quoted text up to its end, and what follows. A backslash escapes a quote or itself, and is itself before others,
/// as in a path.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            c => value.push(c),
        }
    }
    None
}

/// A name with the three escapes of browsers (WHATWG HTML, "multipart form data") undone.
fn unescaped(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

//! Where in its format a template stands when a value comes. A format's escaper makes a value safe in some places
//! only: inside JSON strings, in XML text and quoted attributes. Elsewhere (a tag's name, a comment, CDATA, bare JSON)
//! no escaping could keep the promise that a body is well-formed, so such templates are refused when they are loaded.

use super::escape::Format;

/// A place in a text of some format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A format in which every place is alike.
    Anywhere,
    /// JSON, between strings.
    JsonBare,
    /// Inside a JSON string.
    JsonString,
    /// Inside a JSON string, after a backslash.
    JsonEscape,
    /// XML or HTML text.
    Content,
    /// Inside a tag, outside of a value.
    Tag,
    /// Inside an attribute's value in double quotes.
    Double,
    /// Inside an attribute's value in single quotes.
    Single,
    /// Inside a comment.
    Comment,
    /// Inside a CDATA section.
    CData,
    /// Inside a processing instruction or declaration.
    Instruction,
    /// Inside a DOCTYPE, and how deep in its brackets.
    Doctype(bool),
}

impl Place {
    /// Where a text of this format begins, and must end.
    pub(super) fn start(format: Format) -> Self {
        match format {
            Format::Json => Self::JsonBare,
            Format::Xml | Format::Html => Self::Content,
            Format::Form | Format::Text | Format::Header | Format::Url => Self::Anywhere,
        }
    }

    /// The place after `text`.
    pub(super) fn after(self, text: &str) -> Self {
        let mut place = self;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (next, length) = place.step(c, rest);
            place = next;
            // Markers are ASCII and stand at the front of `rest`, so this is a character boundary.
            rest = rest.get(length..).unwrap_or_default();
        }
        place
    }

    /// The place after what stands at the front of `rest`, and how many bytes that is.
    pub(super) fn step(self, c: char, rest: &str) -> (Self, usize) {
        let one = c.len_utf8();
        match (self, c) {
            (Self::JsonBare, '"') | (Self::JsonEscape, _) => (Self::JsonString, one),
            (Self::JsonString, '"') => (Self::JsonBare, one),
            (Self::JsonString, '\\') => (Self::JsonEscape, one),
            (Self::Content, '<') => [
                ("<!--", Self::Comment),
                ("<![CDATA[", Self::CData),
                ("<!", Self::Doctype(false)),
                ("<?", Self::Instruction),
            ]
            .into_iter()
            .find(|(marker, _)| rest.starts_with(marker))
            .map_or((Self::Tag, one), |(marker, place)| (place, marker.len())),
            (Self::Tag | Self::Doctype(false), '>') => (Self::Content, one),
            (Self::Tag, '"') => (Self::Double, one),
            (Self::Tag, '\'') => (Self::Single, one),
            (Self::Double, '"') | (Self::Single, '\'') => (Self::Tag, one),
            (Self::Comment, '-') if rest.starts_with("-->") => (Self::Content, 3),
            (Self::CData, ']') if rest.starts_with("]]>") => (Self::Content, 3),
            (Self::Instruction, '?') if rest.starts_with("?>") => (Self::Content, 2),
            (Self::Doctype(_), '[') => (Self::Doctype(true), one),
            (Self::Doctype(_), ']') => (Self::Doctype(false), one),
            _ => (self, one),
        }
    }

    /// Why no escaped value may stand here, if so.
    pub(super) fn refuses(self) -> Option<&'static str> {
        match self {
            Self::Anywhere | Self::JsonString | Self::Content | Self::Double | Self::Single => None,
            Self::JsonBare => Some("stands outside of quotes: put quotes around it, or write {{json …}}"),
            Self::JsonEscape => Some("stands right after a backslash"),
            Self::Tag => Some("stands inside a tag: a value may be text or stand in an attribute's quotes"),
            Self::Comment => Some("stands in a comment, where it cannot be escaped; use {{! … }} for remarks"),
            Self::CData => Some(
                "stands in a CDATA section, where it cannot be escaped; write {{#nested \"xml\" encode=\"cdata\"}}",
            ),
            Self::Instruction | Self::Doctype(_) => {
                Some("stands in a declaration or processing instruction, where it cannot be escaped")
            }
        }
    }
}

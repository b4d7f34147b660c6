//! CSS selectors, written as the XPath that selects the same elements.
//!
//! What of CSS selects by structure, names and attributes is there; what speaks of a browser (`:hover`) is not.

use std::fmt::Write as _;

/// The XPath of a selector, or what is wrong with the selector. `attribute` selects that of each element.
pub(super) fn to_xpath(selector: &str, attribute: Option<&str>) -> Result<String, String> {
    let mut parser = Parser { rest: selector.trim(), whole: selector };
    let mut paths = Vec::new();
    loop {
        let mut path = parser.complex()?;
        if let Some(name) = attribute {
            if name.is_empty() || !name.chars().all(is_name_char) {
                return Err(format!("`{name}` is not the name of an attribute"));
            }
            // HTML's own names are in small letters, however a page writes them.
            path = format!("{path}/@{}", name.to_ascii_lowercase());
        }
        paths.push(path);
        if !parser.take(",") {
            break;
        }
        parser.skip_space();
    }
    if !parser.rest.is_empty() {
        return Err(parser.fault("there is something that CSS does not know"));
    }
    Ok(paths.join(" | "))
}

struct Parser<'s> {
    rest: &'s str,
    whole: &'s str,
}

impl<'s> Parser<'s> {
    fn fault(&self, what: &str) -> String {
        let at = self.whole.len() - self.rest.len();
        format!("is no CSS selector: {what} at character {}", self.whole.get(..at).map_or(0, |t| t.chars().count()) + 1)
    }

    fn take(&mut self, begin: &str) -> bool {
        let behind = self.rest.strip_prefix(begin);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    fn skip_space(&mut self) -> bool {
        let behind = self.rest.trim_start();
        let skipped = behind.len() < self.rest.len();
        self.rest = behind;
        skipped
    }

    /// Compounds with combinators between them: `form > input[name=x]`.
    fn complex(&mut self) -> Result<String, String> {
        let mut path = String::new();
        let mut axis = "//";
        loop {
            let (name, tests) = self.compound()?;
            // `+` looks at the very next element, whatever its name.
            if axis == "+" {
                write!(path, "/following-sibling::*[1]{}", self_test(&name)).unwrap_or_default();
            } else {
                write!(path, "{axis}{name}").unwrap_or_default();
            }
            path.push_str(&tests);
            let spaced = self.skip_space();
            axis = if self.take(">") {
                "/"
            } else if self.take("+") {
                "+"
            } else if self.take("~") {
                "/following-sibling::"
            } else if spaced && !self.rest.is_empty() && !self.rest.starts_with(',') {
                "//"
            } else {
                return Ok(path);
            };
            self.skip_space();
        }
    }

    /// `a#id.class[attr]:first-child`: the element's name or `*`, and its predicates.
    fn compound(&mut self) -> Result<(String, String), String> {
        let begin = self.rest;
        let name = if self.take("*") {
            "*".to_owned()
        } else if self.rest.starts_with(is_name_begin) {
            self.name()?.to_ascii_lowercase()
        } else {
            "*".to_owned()
        };
        let mut tests = String::new();
        loop {
            let test = if self.take("#") {
                format!("@id = {}", literal(&self.name()?)?)
            } else if self.take(".") {
                has_word("class", &self.name()?)?
            } else if self.take("[") {
                self.attribute()?
            } else if self.take(":") {
                self.pseudo(&name)?
            } else {
                break;
            };
            write!(tests, "[{test}]").unwrap_or_default();
        }
        if self.rest.len() == begin.len() {
            return Err(self.fault("a name, `*`, `#`, `.`, `[` or `:` is missing"));
        }
        Ok((name, tests))
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        loop {
            let end = self.rest.find(|c| !is_name_char(c)).unwrap_or(self.rest.len());
            let (part, behind) = self.rest.split_at(end);
            name.push_str(part);
            self.rest = behind;
            // `a\:b` names `a:b`.
            let escaped = behind.strip_prefix('\\').and_then(|behind| behind.chars().next());
            let Some(escaped) = escaped.filter(|c| !c.is_ascii_hexdigit() && !c.is_control()) else { break };
            name.push(escaped);
            self.rest = behind.get(1 + escaped.len_utf8()..).unwrap_or_default();
        }
        if name.is_empty() { Err(self.fault("a name is missing")) } else { Ok(name) }
    }

    /// Behind a `[`.
    fn attribute(&mut self) -> Result<String, String> {
        self.skip_space();
        let name = self.name()?.to_ascii_lowercase();
        if !name.chars().all(is_name_char) {
            return Err(self.fault("an attribute's name holds a character that cannot be looked for"));
        }
        self.skip_space();
        if self.take("]") {
            return Ok(format!("@{name}"));
        }
        let operator = ["=", "~=", "|=", "^=", "$=", "*="].into_iter().find(|operator| self.take(operator));
        let Some(operator) = operator else {
            return Err(self.fault("`]`, or one of = ~= |= ^= $= *= is missing"));
        };
        self.skip_space();
        let value = self.value()?;
        let spaced = self.skip_space();
        let any_case = spaced && (self.take("i") || self.take("I"));
        self.skip_space();
        if !self.take("]") {
            return Err(self.fault("`]` is missing"));
        }
        if value.is_empty() && operator != "=" {
            return Err(self.fault("an empty text is in no attribute"));
        }
        let (of, value) = if any_case {
            let lower = "translate(@NAME, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')";
            (lower.replace("NAME", &name), value.to_ascii_lowercase())
        } else {
            (format!("@{name}"), value)
        };
        let text = literal(&value)?;
        Ok(match operator {
            "=" => format!("@{name} and {of} = {text}"),
            "~=" if value.contains(char::is_whitespace) => return Err(self.fault("a word holds no white space")),
            "~=" => format!("contains(concat(' ', normalize-space({of}), ' '), {})", literal(&format!(" {value} "))?),
            "|=" => format!("{of} = {text} or starts-with({of}, {})", literal(&format!("{value}-"))?),
            "^=" => format!("starts-with({of}, {text})"),
            "$=" => format!("substring({of}, string-length({of}) - {}) = {text}", value.chars().count() - 1),
            _ => format!("contains({of}, {text})"),
        })
    }

    /// In quotes, or a name.
    fn value(&mut self) -> Result<String, String> {
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return self.name() };
        let inside: &'s str = self.rest.get(1..).unwrap_or_default();
        let Some((value, behind)) = inside.split_once(quote) else { return Err(self.fault("a quote is not closed")) };
        self.rest = behind;
        Ok(value.to_owned())
    }

    /// Behind a `:`.
    fn pseudo(&mut self, element: &str) -> Result<String, String> {
        let known = "know first-child, last-child, only-child, nth-child(), first-of-type, last-of-type, nth-of-type(), \
                     empty, checked and not()";
        if self.rest.starts_with(':') {
            return Err(self.fault("a pseudo-element selects nothing here"));
        }
        let name = self.name()?.to_ascii_lowercase();
        let mut argument = None;
        if self.take("(") {
            self.skip_space();
            if name == "not" {
                let (name, tests) = self.compound()?;
                self.skip_space();
                if !self.take(")") {
                    return Err(self.fault("`)` is missing"));
                }
                return Ok(format!("not(self::{name}{tests})"));
            }
            let Some((inside, behind)) = self.rest.split_once(')') else {
                return Err(self.fault("`)` is missing"));
            };
            argument = Some(inside.trim().to_ascii_lowercase());
            self.rest = behind;
        }
        if name.ends_with("-of-type") && element == "*" {
            return Err(self.fault("`of-type` needs the element's name"));
        }
        let among = if name.ends_with("-of-type") { element } else { "*" };
        Ok(match (name.as_str(), argument.as_deref()) {
            ("first-child" | "first-of-type", None) => format!("not(preceding-sibling::{among})"),
            ("last-child" | "last-of-type", None) => format!("not(following-sibling::{among})"),
            ("only-child", None) => "not(preceding-sibling::*) and not(following-sibling::*)".to_owned(),
            ("nth-child" | "nth-of-type", Some(which)) => {
                let before = format!("count(preceding-sibling::{among})");
                match which {
                    "odd" => format!("{before} mod 2 = 0"),
                    "even" => format!("{before} mod 2 = 1"),
                    number => match number.parse::<u16>() {
                        Ok(number @ 1..) => format!("{before} = {}", number - 1),
                        _ => return Err(self.fault("write a number from 1, odd or even before this `)`")),
                    },
                }
            }
            ("empty", None) => "not(node())".to_owned(),
            ("checked", None) => "@checked or @selected".to_owned(),
            _ => return Err(self.fault(&format!("`:{name}` is none of those that rules {known},"))),
        })
    }
}

fn self_test(name: &str) -> String {
    if name == "*" { String::new() } else { format!("[self::{name}]") }
}

fn has_word(attribute: &str, word: &str) -> Result<String, String> {
    Ok(format!("contains(concat(' ', normalize-space(@{attribute}), ' '), {})", literal(&format!(" {word} "))?))
}

/// XPath 1.0 knows no escapes.
fn literal(text: &str) -> Result<String, String> {
    match (text.contains('\''), text.contains('"')) {
        (false, _) => Ok(format!("'{text}'")),
        (true, false) => Ok(format!("\"{text}\"")),
        (true, true) => Err("is no selector that can be run: it looks for a text with both kinds of quotes".to_owned()),
    }
}

fn is_name_begin(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == '\\' || !c.is_ascii()
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || !c.is_ascii()
}

//! `application/x-www-form-urlencoded` bodies (WHATWG URL, section 5.1), read strictly: what is not UTF-8 is refused
//! where browsers would put a replacement character into a person's name.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::Malformed;
use super::lists::Lists;
use super::posted::{Collector, Posted};

pub(super) fn parse<'b>(body: &'b [u8], lists: &Lists) -> Result<Posted<'b>, Malformed> {
    let mut collector = Collector::new(lists);
    let mut offset = 0;
    for pair in body.split(|b| *b == b'&') {
        let here = offset;
        offset += pair.len() + 1;
        // "a=1&&b=2" and a final "&" are common and harmless.
        if pair.is_empty() {
            continue;
        }
        let mut halves = pair.splitn(2, |b| *b == b'=');
        let name = decode(halves.next().unwrap_or_default());
        let value = decode(halves.next().unwrap_or_default());
        let (Some(name), Some(value)) = (name, value) else {
            return Err(Malformed::at(body, here, "this field is not percent-encoded UTF-8"));
        };
        collector.form_field(name, value).map_err(|message| Malformed::at(body, here, message))?;
    }
    Ok(collector.finish())
}

fn decode(text: &[u8]) -> Option<Cow<'_, str>> {
    if !text.contains(&b'+') {
        return percent_decode(text).decode_utf8().ok();
    }
    let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_decode(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

//! Names and values by `application/x-www-form-urlencoded`, in a body or in a URL's query. Well-formed by
//! construction: names and rendered values are encoded here and nowhere else.

use std::borrow::Cow;

use crate::model::contract::Charset;

/// A name or value, encoded.
pub(super) fn encode(text: &str, charset: Charset) -> String {
    form_urlencoded::byte_serialize(&charset.encode(text)).collect()
}

/// Appends `name=value`; `name` is encoded already.
pub(super) fn push(form: &mut String, name: &str, value: &str, charset: Charset) {
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(name);
    form.push('=');
    form.extend(form_urlencoded::byte_serialize(&charset.encode(value)));
}

/// The URL with `query` (encoded pairs) behind what its query already holds and before its fragment.
pub(super) fn with_query<'a>(url: &'a str, query: &str) -> Cow<'a, str> {
    if query.is_empty() {
        return url.into();
    }
    let (base, fragment) = url.find('#').map_or((url, ""), |at| url.split_at(at));
    let joint = match base.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some((_, present)) if present.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{base}{joint}{query}{fragment}").into()
}

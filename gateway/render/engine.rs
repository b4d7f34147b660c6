//! How Handlebars is driven: one registry per format, so that an escaper belongs to the place that is being written
//! and not to the template, and a second set of them for the masked copy of a request.
//!
//! Registries hold helpers only. Templates belong to their contract and are rendered directly; what a helper must know
//! of the delivery comes as local helpers that borrow the [`Scene`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, Output, RenderContext, RenderError, RenderErrorReason,
    Renderable, ScopedJson, Template,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value as Json;

use super::escape::{Encode, Format, cdata};
use super::helpers::{Args, Function, Gives, HELPERS, SIGNATURE, Spec, Value, text_of};
use super::wellformed::{self, Xml};
use crate::model::contract::Charset;
use crate::model::id::DeliveryId;
use crate::model::secret::MASK;

/// The block that an inlined `{{> partial}}` becomes; no template can write this name.
pub(super) const PARTIAL: &str = "@partial";

/// What helpers may know of the delivery being rendered.
pub(super) struct Scene<'a> {
    pub(super) delivery: DeliveryId,
    pub(super) attempt: u32,
    pub(super) now: Timestamp,
    pub(super) timezone: &'a TimeZone,
    pub(super) maps: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// Keys of `hmac` by what the template calls them.
    pub(super) keys: &'a BTreeMap<String, String>,
    /// In which digests and encodings see a text's bytes.
    pub(super) charset: Charset,
    /// Which piece of the request is being rendered (high half) and how many ids it has drawn (low half).
    ids: AtomicU64,
    /// Signatures with secret keys, by their piece, their number and how often that piece has drawn it: the masked copy
    /// shows them as they were sent, though what they sign is masked there.
    signatures: Mutex<BTreeMap<(u32, u64, u32), String>>,
    /// How often the piece being rendered has drawn each.
    drawn: Mutex<BTreeMap<u64, u32>>,
    /// What helpers made of the contract's secrets.
    derived: Mutex<BTreeSet<String>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        delivery: DeliveryId,
        attempt: u32,
        now: Timestamp,
        timezone: &'a TimeZone,
        maps: &'a BTreeMap<String, BTreeMap<String, String>>,
        keys: &'a BTreeMap<String, String>,
        charset: Charset,
    ) -> Self {
        Self {
            delivery,
            attempt,
            now,
            timezone,
            maps,
            keys,
            charset,
            ids: AtomicU64::new(0),
            signatures: Mutex::default(),
            drawn: Mutex::default(),
            derived: Mutex::default(),
        }
    }

    /// The name of the next id in this attempt: the same whenever the same piece is rendered again.
    pub(super) fn next_id_name(&self) -> String {
        let at = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("attempt/{}/{}/{}", self.attempt, at >> 32, at & u64::from(u32::MAX))
    }

    /// Something was made of a secret.
    pub(super) fn remember(&self, derived: &str) {
        lock(&self.derived).insert(derived.to_owned());
    }

    /// What was made of secrets so far.
    pub(super) fn derived(&self) -> Vec<String> {
        lock(&self.derived).iter().cloned().collect()
    }

    /// A piece is about to be rendered.
    pub(super) fn begin(&self, piece: u32) {
        self.ids.store(u64::from(piece) << 32, Ordering::Relaxed);
        lock(&self.drawn).clear();
    }

    /// Names the signature `number` that is drawn now.
    fn next_signature(&self, number: u64) -> (u32, u64, u32) {
        let piece = u32::try_from(self.ids.load(Ordering::Relaxed) >> 32).unwrap_or(u32::MAX);
        let mut drawn = lock(&self.drawn);
        let count = drawn.entry(number).or_default();
        *count += 1;
        (piece, number, *count)
    }

    fn keep_signature(&self, name: (u32, u64, u32), signature: &str) {
        lock(&self.signatures).insert(name, signature.to_owned());
    }

    /// The mask where the request that was sent had none: a branch that it did not take.
    fn kept_signature(&self, name: (u32, u64, u32)) -> String {
        lock(&self.signatures).get(&name).cloned().unwrap_or_else(|| MASK.to_owned())
    }
}

/// A panic while this was held cannot have left it half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run over the pieces of one request with the same values.
pub(super) struct Run<'rc> {
    context: &'rc Context,
    scene: &'rc Scene<'rc>,
    local: RenderContext<'static, 'rc>,
    masking: bool,
}

impl<'rc> Run<'rc> {
    /// `scenic` are the helpers in use that look at the scene.
    pub(super) fn new(context: &'rc Context, scene: &'rc Scene<'rc>, scenic: &[&'static Spec], masking: bool) -> Self {
        let mut local = RenderContext::new(None);
        for spec in scenic {
            let calling = Calling { spec, scene: Some(scene), masking, raw: false };
            local.register_local_helper(spec.name, Box::new(calling));
        }
        Self { context, scene, local, masking }
    }

    /// Renders a template into `format`; `piece` tells the templates of one request apart.
    pub(super) fn render(
        &mut self,
        template: &'rc Template,
        format: Format,
        piece: u32,
    ) -> Result<String, RenderError> {
        self.scene.begin(piece);
        let mut out = Buffer(String::new());
        template.render(registry(format, self.scene.charset, self.masking), self.context, &mut self.local, &mut out)?;
        Ok(out.0)
    }

    /// The template's elements one by one: where in the result each begins, and its line. For finding a fault, not for
    /// sending.
    pub(super) fn outline(&mut self, template: &'rc Template, format: Format, piece: u32) -> Vec<(usize, usize)> {
        self.scene.begin(piece);
        let mut out = Buffer(String::new());
        let mut places = Vec::with_capacity(template.elements.len());
        for (element, mapping) in template.elements.iter().zip(&template.mapping) {
            places.push((out.0.len(), mapping.0));
            if element
                .render(registry(format, self.scene.charset, self.masking), self.context, &mut self.local, &mut out)
                .is_err()
            {
                break;
            }
        }
        places
    }
}

struct Buffer(String);

impl Output for Buffer {
    fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.0.push_str(text);
        Ok(())
    }
}

/// The helpers and the escaper of a format.
fn registry(format: Format, charset: Charset, masking: bool) -> &'static Handlebars<'static> {
    type PerFormat = [Handlebars<'static>; Format::ALL.len()];
    fn all(charset: Charset, masking: bool) -> PerFormat {
        Format::ALL.map(|format| build(format, charset, masking))
    }
    static UTF8: [LazyLock<PerFormat>; 2] =
        [LazyLock::new(|| all(Charset::Utf8, false)), LazyLock::new(|| all(Charset::Utf8, true))];
    static LATIN1: [LazyLock<PerFormat>; 2] =
        [LazyLock::new(|| all(Charset::Latin1, false)), LazyLock::new(|| all(Charset::Latin1, true))];
    static WINDOWS1252: [LazyLock<PerFormat>; 2] =
        [LazyLock::new(|| all(Charset::Windows1252, false)), LazyLock::new(|| all(Charset::Windows1252, true))];
    static ASCII: [LazyLock<PerFormat>; 2] =
        [LazyLock::new(|| all(Charset::Ascii, false)), LazyLock::new(|| all(Charset::Ascii, true))];
    let [plain, masked] = match charset {
        Charset::Utf8 => &UTF8,
        Charset::Latin1 => &LATIN1,
        Charset::Windows1252 => &WINDOWS1252,
        Charset::Ascii => &ASCII,
    };
    let all = if masking { masked } else { plain };
    // `ALL` lists the formats in the order of their numbers, as the constant below makes sure.
    &all[format as usize]
}

const _: () = {
    let mut at = 0;
    while at < Format::ALL.len() {
        assert!(Format::ALL[at] as usize == at);
        at += 1;
    }
};

fn build(format: Format, charset: Charset, masking: bool) -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.register_escape_fn(move |text| {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 8);
        write_value(text, format, charset, masking, &mut out);
        out
    });
    for spec in HELPERS {
        if !matches!(spec.function, Function::Scenic(_)) {
            let raw = writes_raw(spec, format);
            registry.register_helper(spec.name, Box::new(Calling { spec, scene: None, masking, raw }));
        }
    }
    registry.register_helper("nested", Box::new(Nested { charset, masking }));
    registry.register_helper(PARTIAL, Box::new(Partial));
    registry
}

/// Writes a value's text as the format wants it.
pub(super) fn write_value(text: &str, format: Format, charset: Charset, masking: bool, out: &mut String) {
    if masking && text == MASK {
        // It stays readable in a URL too, where it would be %2A%2A%2A.
        out.push_str(MASK);
    } else {
        format.write(text, charset, out);
    }
}

/// Whether what the helper gives is this format's own text, which is not escaped.
pub(super) fn writes_raw(spec: &Spec, format: Format) -> bool {
    format == Format::Json && spec.gives == Gives::Json
}

/// Why a helper could not do its work; carried through Handlebars' own error.
#[derive(Debug, thiserror::Error)]
#[error("{helper}: {message}")]
pub(super) struct HelperFault {
    pub(super) helper: &'static str,
    pub(super) variable: Option<String>,
    pub(super) message: String,
}

/// What a helper makes of its arguments, or of masked ones.
///
/// # Errors
/// Why it cannot. The message never holds a value.
pub(super) fn call<'v>(
    spec: &Spec,
    args: &Args<'_, 'v>,
    scene: &Scene<'_>,
    masking: bool,
) -> Result<Value<'v>, String> {
    match spec.function {
        Function::Scenic(function) => {
            let number = args.option_value(SIGNATURE).and_then(|number| match number {
                Value::Number(number) => number.as_u64(),
                _ => None,
            });
            let signature = number.map(|number| scene.next_signature(number));
            match signature {
                Some(name) if masking => return Ok(scene.kept_signature(name).into()),
                _ => {}
            }
            let value = masked(spec, args, masking).map_or_else(|| function(args, scene), Ok);
            let value = value.or_else(|why| unless_masking(spec, masking, why))?;
            if let Some(name) = signature {
                scene.keep_signature(name, &value.text());
            }
            Ok(value)
        }
        Function::Pure(_) | Function::Truth(_) => call_without_scene(spec, args, masking),
    }
}

/// The same for a helper that does not look at the scene.
fn call_without_scene<'v>(spec: &Spec, args: &Args<'_, 'v>, masking: bool) -> Result<Value<'v>, String> {
    if let Some(masked) = masked(spec, args, masking) {
        return Ok(masked);
    }
    match spec.function {
        Function::Pure(function) => function(args).or_else(|why| unless_masking(spec, masking, why)),
        Function::Truth(function) => Ok(Value::Boolean(function(args))),
        Function::Scenic(_) => Err("it is registered with each request only".to_owned()),
    }
}

/// Of a masked value a helper makes the mask. So a condition of one is true, and the masked copy shows its first branch.
fn masked(spec: &Spec, args: &Args<'_, '_>, masking: bool) -> Option<Value<'static>> {
    (masking && args.are_masked()).then(|| mask_of(spec))
}

/// In a branch that the masked copy alone shows, a value need not fit: what was sent was made without it.
fn unless_masking(spec: &Spec, masking: bool, why: String) -> Result<Value<'static>, String> {
    if masking { Ok(mask_of(spec)) } else { Err(why) }
}

fn mask_of(spec: &Spec) -> Value<'static> {
    match spec.gives {
        Gives::Json => Json::from(MASK).to_string().into(),
        _ => MASK.into(),
    }
}

/// A helper as Handlebars calls it.
struct Calling<'s> {
    spec: &'static Spec,
    /// `None` where it does not look at the scene.
    scene: Option<&'s Scene<'s>>,
    masking: bool,
    /// What it gives is this format's own text.
    raw: bool,
}

impl Calling<'_> {
    fn made(&self, helper: &Helper<'_>) -> Result<Json, RenderError> {
        let values: Vec<_> = helper.params().iter().map(|param| Value::of(param.value())).collect();
        let options: Vec<_> = helper.hash().iter().map(|(name, option)| (*name, Value::of(option.value()))).collect();
        let args = Args { values: &values, options: &options };
        let value = match self.scene {
            Some(scene) => call(self.spec, &args, scene, self.masking),
            None => call_without_scene(self.spec, &args, self.masking),
        };
        value.map(Value::into_json).map_err(|message| {
            let variable = helper.params().iter().find_map(|param| param.relative_path().cloned());
            let fault = HelperFault { helper: self.spec.name, variable, message };
            RenderErrorReason::NestedError(Box::new(fault)).into()
        })
    }
}

impl HelperDef for Calling<'_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        self.made(helper).map(ScopedJson::Derived)
    }

    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let value = self.made(helper)?;
        let text = text_of(&value);
        if self.raw {
            out.write(&text)?;
        } else {
            out.write(&registry.get_escape_fn()(&text))?;
        }
        Ok(())
    }
}

/// `{{#nested "xml"}}…{{/nested}}`: its content through the inner format's registry, the result escaped by the outer
/// one, or encoded.
struct Nested {
    charset: Charset,
    masking: bool,
}

impl HelperDef for Nested {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        outer: &'reg Handlebars<'reg>,
        context: &'rc Context,
        local: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let fault = |message: &str| {
            let fault = HelperFault { helper: "nested", variable: None, message: message.to_owned() };
            RenderError::from(RenderErrorReason::NestedError(Box::new(fault)))
        };
        let word = helper.param(0).map_or_else(Default::default, |word| text_of(word.value()));
        let format = Format::nested(&word).ok_or_else(|| fault("not a format"))?;
        let mut inner = Buffer(String::new());
        if let Some(content) = helper.template() {
            content.render(registry(format, self.charset, self.masking), context, local, &mut inner)?;
        }
        let text = match format {
            Format::Json => wellformed::without_trailing_commas(&inner.0).0,
            _ => inner.0.as_str().into(),
        };
        if !self.masking {
            match format {
                Format::Xml => wellformed::xml(&text, Xml::Nested, false),
                Format::Json => wellformed::json(&text, false),
                _ => Ok(()),
            }
            .map_err(|broken| fault(&broken.message))?;
        }
        let text = match format {
            // A form's values are encoded already, and what a text lacks is a matter of what it stands in.
            Format::Form | Format::Text => text,
            _ => self.charset.fit(&text, format).map_err(|broken| fault(&broken.message))?.into_owned().into(),
        };
        let encode = helper.hash_get("encode").and_then(|word| Encode::named(&text_of(word.value())));
        let encoded = match encode {
            None => text,
            Some(Encode::CData) => {
                out.write(&cdata(&text))?;
                return Ok(());
            }
            // What holds something masked is masked as a whole: nobody could read the mask in it.
            Some(_) if self.masking && text.contains(MASK) => MASK.into(),
            Some(Encode::Base64) => STANDARD.encode(self.charset.encode(&text)).into(),
            Some(Encode::Base64Url) => URL_SAFE_NO_PAD.encode(self.charset.encode(&text)).into(),
            Some(Encode::Hex) => hex::encode(self.charset.encode(&text)).into(),
        };
        out.write(&outer.get_escape_fn()(&encoded))?;
        Ok(())
    }
}

struct Partial;

impl HelperDef for Partial {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        context: &'rc Context,
        local: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        helper.template().map_or(Ok(()), |content| content.render(registry, context, local, out))
    }
}

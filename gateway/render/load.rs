//! From a template's text to a template that can be rendered: Handlebars parses, and every name, argument and place is
//! checked here, once, so that what rendering can still meet is only a value that does not fit.

use std::collections::BTreeMap;

use handlebars::template::{BlockParam, HelperTemplate, Parameter, Subexpression, TemplateElement};
use handlebars::{Path, Template};
use serde_json::Value as Json;

use super::TemplateFault;
use super::engine::PARTIAL;
use super::escape::{Encode, Format};
use super::helpers::{self, COMPUTED_KEY, Function, Gives, Literals, NUMBERS, SIGNATURE};
use super::position::Place;
use super::scope::{Entries, Kind, SECRET, Scope, Scopes, Shape, Uses, instead_of, unknown};
use crate::model::campaign::Campaign;
use crate::model::contract::Contract;

/// How deep blocks, partials and formats may stand in each other.
const DEEPEST: usize = 16;

/// Loads the templates of one contract and gathers their faults.
pub(super) struct Loader<'a> {
    pub(super) contract: &'a Contract,
    pub(super) campaign: &'a Campaign,
    /// Path below the templates directory → text.
    pub(super) templates: &'a dyn Fn(&str) -> Option<String>,
    /// Keys of `hmac`, resolved, by what the template calls them.
    pub(super) keys: BTreeMap<String, String>,
    /// How many signatures with secret keys there are so far.
    pub(super) signatures: u64,
    /// Whether any template signs, with whatever key.
    pub(super) signs: bool,
    pub(super) faults: Vec<TemplateFault>,
}

impl Loader<'_> {
    /// Parses and checks a template that writes `format`; `inline` ones stand in the configuration, where a line number
    /// says nothing. What it refers to is added to `uses`.
    pub(super) fn load(&mut self, name: &str, text: &str, format: Format, inline: bool, uses: &mut Uses) -> Template {
        let mut template = match Template::compile_with_name(text, name.to_owned()) {
            Ok(template) => template,
            Err(error) => {
                self.faults.push(syntax(name, inline, &error));
                return Template::default();
            }
        };
        let mut walk = Walk {
            scopes: Scopes::new(self.campaign, self.contract),
            loader: self,
            uses,
            format,
            name: name.to_owned(),
            inline,
            line: 1,
            depth: 0,
            partials: vec![name.to_owned()],
        };
        let end = walk.template(&mut template, Place::start(format));
        if end != Place::start(format) {
            walk.fault("the template ends inside of quotes, a tag or a comment");
        }
        template
    }
}

fn syntax(name: &str, inline: bool, error: &handlebars::TemplateError) -> TemplateFault {
    let line = error.pos().map(|(line, _)| line).filter(|_| !inline);
    TemplateFault { template: name.to_owned(), line, message: error.reason().to_string() }
}

struct Walk<'l, 'a> {
    loader: &'l mut Loader<'a>,
    uses: &'l mut Uses,
    scopes: Scopes<'a>,
    format: Format,
    name: String,
    inline: bool,
    line: usize,
    depth: usize,
    partials: Vec<String>,
}

impl Walk<'_, '_> {
    fn fault(&mut self, message: impl Into<String>) {
        let line = (!self.inline).then_some(self.line);
        self.loader.faults.push(TemplateFault { template: self.name.clone(), line, message: message.into() });
    }

    /// Checks a template that begins at `place`; gives the place where it ends.
    fn template(&mut self, template: &mut Template, mut place: Place) -> Place {
        for (at, element) in template.elements.iter_mut().enumerate() {
            if let Some(mapping) = template.mapping.get(at) {
                self.line = mapping.0;
            }
            place = self.element(element, place);
        }
        place
    }

    fn element(&mut self, element: &mut TemplateElement, place: Place) -> Place {
        match element {
            TemplateElement::RawString(text) => return place.after(text),
            TemplateElement::Comment(_) => {}
            TemplateElement::Expression(call) => self.expression(call, place),
            TemplateElement::HelperBlock(block) => return self.block(block, place),
            TemplateElement::HtmlExpression(_) => {
                self.fault("raw output ({{{…}}}, {{&…}}) is refused: write {{…}}, which escapes for the format");
            }
            TemplateElement::PartialExpression(partial) => {
                let plain = partial.params.is_empty() && partial.hash.is_empty();
                let name = partial.name.as_name().map(|name| name.trim_matches(['\'', '[', ']']).to_owned());
                match name.filter(|_| plain) {
                    Some(name) => return self.partial(element, &name, place),
                    None => self.fault("a partial is {{> path/below/templates.hbs}}, without arguments"),
                }
            }
            _ => self.fault("inline partials, partial blocks and decorators are not supported"),
        }
        place
    }

    /// A value or call that is written out.
    fn expression(&mut self, call: &mut Box<HelperTemplate>, place: Place) {
        let Some(shape) = self.evaluate(call) else { return };
        let is_call = !call.params.is_empty();
        let Shape::Value(kind) = shape else {
            let name = call.name.as_name().unwrap_or("this").to_owned();
            if let Shape::Entries(entries) = shape {
                return self.fault(instead_of(&name, entries));
            }
            return self.fault(format!("`{name}` is not a single value: name one of its parts"));
        };
        match (place, kind) {
            (Place::JsonBare, Kind::Json) => {}
            (Place::JsonBare, Kind::Number | Kind::Boolean) => typed(call, kind),
            (Place::JsonString, Kind::Json) => {
                self.fault("{{json …}} brings its own quotes: leave out the quotes around it, or the helper");
            }
            _ => {
                if let Some(why) = place.refuses() {
                    self.fault(format!("the value {why}"));
                }
                if is_call && kind == Kind::Text && call.params.iter().any(holds_secret) {
                    remembered(call);
                    self.uses.add_scenic(&helpers::DERIVED);
                }
            }
        }
    }

    /// What `{{…}}` or `(…)` gives.
    fn evaluate(&mut self, call: &mut HelperTemplate) -> Option<Shape> {
        let is_name_only = call.params.is_empty() && call.hash.is_empty();
        match &mut call.name {
            Parameter::Path(path) if is_name_only && helpers::find(raw(path)).is_none() => self.path(path),
            _ => self.call(call),
        }
    }

    fn path(&mut self, path: &mut Path) -> Option<Shape> {
        self.scopes.resolve(path, self.uses).map_err(|message| self.fault(message)).ok()
    }

    fn call(&mut self, call: &mut HelperTemplate) -> Option<Shape> {
        let Some(name) = call.name.as_name().map(str::to_owned) else {
            self.fault("a helper's name must be written out");
            return None;
        };
        let name = name.as_str();
        let Some(spec) = helpers::find(name) else {
            let message = if BLOCKS.contains(&name) {
                format!("`{name}` is a block: write {{{{#{name} …}}}}…{{{{/{name}}}}}")
            } else {
                let known = helpers::HELPERS.iter().map(|helper| helper.name);
                unknown(&format!("`{name}` is not a helper"), name, known)
            };
            self.fault(message);
            return None;
        };
        if !spec.args.contains(&call.params.len()) {
            let (least, most) = (spec.args.start(), spec.args.end());
            let count = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            let noun = if count == "1" { "argument" } else { "arguments" };
            self.fault(format!("`{name}` takes {count} {noun}, not {}", call.params.len()));
            return None;
        }
        if let Some(option) = call.hash.keys().find(|option| !spec.options.contains(&option.as_str())).cloned() {
            self.fault(unknown(&format!("`{name}` has no option `{option}`"), &option, spec.options.iter().copied()));
            return None;
        }
        let takes_groups = matches!(name, "json" | "lookup");
        let first = self.arguments(name, call, takes_groups)?;
        put_table_last(name, call);
        if name == "json" && matches!(first, Shape::Value(Kind::Number)) {
            // A decimal is kept as its exact text; its type says that it is a number.
            call.hash.entry("type".to_owned()).or_insert_with(|| Parameter::Literal("number".into()));
        }
        if let (Shape::Entries(_) | Shape::Entry(_), "json") = (first, name) {
            self.number_members(first, call);
        }
        self.literals(spec, call);
        if name == "hmac" {
            self.key(call);
        }
        if let Function::Scenic(_) = spec.function {
            self.uses.add_scenic(spec);
        }
        Some(Shape::Value(match spec.gives {
            Gives::Text => Kind::Text,
            Gives::Number => Kind::Number,
            Gives::Boolean => Kind::Boolean,
            Gives::Json => Kind::Json,
        }))
    }

    /// Tells `json` which values of a list are numbers: decimals are kept as texts.
    fn number_members(&self, shape: Shape, call: &mut HelperTemplate) {
        let (option, names) = match shape {
            Shape::Entries(Entries::Values(Kind::Number)) => ("type", "number".to_owned()),
            Shape::Entries(Entries::Groups(list)) | Shape::Entry(list) => {
                let members = self.loader.campaign.fields.values().nth(list).into_iter().flat_map(|list| &list.fields);
                let numbers = members.filter(|(_, member)| Kind::of(member.kind) == Kind::Number);
                (NUMBERS, numbers.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "))
            }
            _ => return,
        };
        call.hash.entry(option.to_owned()).or_insert_with(|| Parameter::Literal(names.into()));
    }

    /// Checks all arguments and options; gives the shape of the first argument.
    fn arguments(&mut self, name: &str, call: &mut HelperTemplate, takes_groups: bool) -> Option<Shape> {
        let mut fine = true;
        let mut first = Shape::Value(Kind::Text);
        for (at, argument) in call.params.iter_mut().chain(call.hash.values_mut()).enumerate() {
            match self.argument(argument) {
                Some(shape @ Shape::Value(_)) if at == 0 => first = shape,
                Some(Shape::Value(_)) => {}
                Some(shape @ (Shape::Lead | Shape::Group(_))) if at == 0 && takes_groups => {
                    first = shape;
                    self.whole(shape);
                }
                Some(shape @ Shape::Entry(_)) if at == 0 && name == "json" => first = shape,
                Some(shape @ Shape::Entries(_)) if at == 0 && matches!(name, "json" | "len") => first = shape,
                Some(Shape::Entries(Entries::Values(_))) if name == "concat" => {}
                Some(Shape::Entries(_) | Shape::Entry(_)) => {
                    self.fault(format!(
                        "`{name}` takes single values, and this is a list: go through it with {{{{#each …}}}}"
                    ));
                    fine = false;
                }
                Some(_) => {
                    self.fault(format!("`{name}` takes single values: name one of the parts"));
                    fine = false;
                }
                None => fine = false,
            }
        }
        fine.then_some(first)
    }

    fn argument(&mut self, argument: &mut Parameter) -> Option<Shape> {
        match argument {
            Parameter::Literal(Json::Array(_)) => Some(Shape::List),
            Parameter::Literal(Json::Object(_)) => {
                self.fault("objects cannot be written in a template");
                None
            }
            Parameter::Literal(Json::Number(_)) => Some(Shape::Value(Kind::Number)),
            Parameter::Literal(Json::Bool(_)) => Some(Shape::Value(Kind::Boolean)),
            Parameter::Literal(_) => Some(Shape::Value(Kind::Text)),
            Parameter::Path(path) => self.path(path),
            Parameter::Subexpression(inner) => match inner.element.as_mut() {
                TemplateElement::Expression(call) => self.call(call),
                _ => None,
            },
            Parameter::Name(name) => {
                let message = format!("`{name}` is not a value");
                self.fault(message);
                None
            }
            _ => {
                self.fault("an argument that we do not know");
                None
            }
        }
    }

    /// The lead is used as a whole, and with it whatever is sensitive in it.
    fn whole(&mut self, shape: Shape) {
        if shape == Shape::Lead {
            self.uses.whole_lead = true;
            self.uses.sensitive |= self.loader.campaign.fields.values().any(|field| field.sensitive);
        }
    }

    fn literals(&mut self, spec: &helpers::Spec, call: &HelperTemplate) {
        let literals = Literals {
            args: call.params.iter().map(literal).collect(),
            options: call.hash.iter().map(|(name, option)| (name.as_str(), literal(option))).collect(),
        };
        if let Some(Err(message)) = spec.check.map(|check| check(&literals, self.loader.contract)) {
            self.fault(format!("`{}`: {message}", spec.name));
        }
    }

    /// Reads the key of an `hmac`, and numbers the signatures whose key is secret: what they give may be stored.
    fn key(&mut self, call: &mut HelperTemplate) {
        self.loader.signs = true;
        let literals = Literals {
            args: call.params.iter().map(literal).collect(),
            options: call.hash.iter().map(|(name, option)| (name.as_str(), literal(option))).collect(),
        };
        let secret = match literals.key() {
            Ok(Some(key)) => {
                let secret = key.is_reference();
                if let Ok(value) = key.resolve() {
                    self.loader.keys.insert(key.0, value);
                }
                secret
            }
            Ok(None) => return,
            Err(()) => {
                call.hash.insert(COMPUTED_KEY.to_owned(), Parameter::Literal(true.into()));
                call.params.get(2).or_else(|| call.hash.get("key")).is_some_and(is_secret_key)
            }
        };
        if secret {
            self.loader.signatures += 1;
            call.hash.insert(SIGNATURE.to_owned(), Parameter::Literal(self.loader.signatures.into()));
        }
    }

    fn block(&mut self, block: &mut HelperTemplate, place: Place) -> Place {
        let name = block.name.as_name().unwrap_or_default().to_owned();
        if !BLOCKS.contains(&name.as_str()) {
            let hint = if helpers::find(&name).is_some() { "; write {{#if (…)}}" } else { "" };
            self.fault(unknown(&format!("`{name}` is not a block{hint}"), &name, BLOCKS.iter().copied()));
            return place;
        }
        self.depth += 1;
        let end = if self.depth > DEEPEST {
            self.fault(format!("blocks stand more than {DEEPEST} deep in each other"));
            place
        } else if name == "nested" {
            self.nested(block, place)
        } else {
            self.control(&name, block, place)
        };
        self.depth -= 1;
        end
    }

    /// `if`, `unless`, `each`, `with`.
    fn control(&mut self, name: &str, block: &mut HelperTemplate, place: Place) -> Place {
        let line = self.line;
        let conditional = matches!(name, "if" | "unless");
        let strange = block.hash.keys().any(|option| !(conditional && option == "includeZero"));
        let [argument] = block.params.as_mut_slice() else {
            self.fault(format!("`{{{{#{name} …}}}}` takes one argument"));
            return place;
        };
        if strange {
            self.fault(format!("`{{{{#{name} …}}}}` has no such option"));
        }
        let Some(shape) = self.argument(argument) else { return place };
        let scope = if conditional { Ok(None) } else { self.scope(name, shape, block.block_param.as_ref()) };
        let scope = match scope {
            Ok(scope) => scope,
            Err(message) => {
                self.fault(message);
                return place;
            }
        };
        if conditional || name == "each" {
            self.whole(shape);
        }
        let opens = scope.is_some();
        self.scopes.open.extend(scope);
        let end = block.template.as_mut().map_or(place, |content| self.template(content, place));
        if opens {
            self.scopes.open.pop();
        }
        let other = block.inverse.as_mut().map_or(place, |content| self.template(content, place));
        // A body that runs any number of times must end where it began; so must one that may be left out.
        let fits = end == other && (name != "each" || end == place);
        if !fits {
            self.line = line;
            self.fault(format!(
                "the parts of `{{{{#{name}}}}}` end in different places (inside and outside of quotes or tags): each must \
                 close what it opens"
            ));
        }
        end
    }

    /// What names mean inside `each` or `with`.
    fn scope(&self, name: &str, shape: Shape, param: Option<&BlockParam>) -> Result<Option<Scope>, String> {
        let item = Shape::Value(Kind::Text);
        let (this, locals) = match (name, shape) {
            ("with", Shape::Root | Shape::List | Shape::Entries(_)) => {
                return Err("`{{#with}}` takes a group or a value".to_owned());
            }
            ("with", shape) => (shape, self.scopes.locals()),
            (_, Shape::Lead | Shape::Group(_) | Shape::Entry(_)) => (
                item,
                vec![("key", Kind::Text), ("index", Kind::Number), ("first", Kind::Boolean), ("last", Kind::Boolean)],
            ),
            (_, Shape::List | Shape::Entries(_)) => {
                let item = if let Shape::Entries(entries) = shape { entries.one() } else { item };
                (item, vec![("index", Kind::Number), ("first", Kind::Boolean), ("last", Kind::Boolean)])
            }
            (_, Shape::Root | Shape::Value(_)) => {
                return Err(
                    "`{{#each}}` takes `lead`, a group, a list field or a list such as [\"a\", \"b\"]".to_owned()
                );
            }
        };
        let names: Vec<String> = match param {
            Some(BlockParam::Single(one)) => one.as_name().map(str::to_owned).into_iter().collect(),
            Some(BlockParam::Pair((one, two))) => {
                [one, two].into_iter().filter_map(Parameter::as_name).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        if let Some(taken) = names.iter().find(|name| helpers::find(name).is_some()) {
            return Err(format!("`{taken}` is a helper; choose another name"));
        }
        if name == "with" && names.len() > 1 {
            return Err("`{{#with}}` gives one name".to_owned());
        }
        let params = names.into_iter().zip([this, Shape::Value(Kind::Text)]).collect();
        Ok(Some(Scope { this, params, locals }))
    }

    fn nested(&mut self, block: &mut HelperTemplate, place: Place) -> Place {
        let format = match (block.params.as_slice(), block.inverse.is_none()) {
            ([Parameter::Literal(Json::String(word))], true) => Format::nested(word),
            _ => None,
        };
        let Some(format) = format else {
            self.fault("`{{#nested …}}` takes one of \"xml\", \"json\", \"form\", \"html\", \"text\"");
            return place;
        };
        let encode = match block.hash.iter().map(|(name, value)| (name.as_str(), literal(value))).collect::<Vec<_>>()[..]
        {
            [] => Ok(None),
            [("encode", Some(Json::String(word)))] => Encode::named(word).map(Some).ok_or(()),
            _ => Err(()),
        };
        match encode {
            Err(()) => {
                self.fault("`{{#nested …}}` has one option: encode=\"base64\", \"base64url\", \"hex\" or \"cdata\"");
            }
            Ok(Some(Encode::CData)) if self.format != Format::Xml || place != Place::Content => {
                self.fault("encode=\"cdata\" belongs into the text of XML");
            }
            Ok(_) => {
                if let Some(why) = place.refuses() {
                    self.fault(format!("the nested text {why}"));
                }
            }
        }
        if format != Format::Text
            && let Some(content) = &mut block.template
        {
            trim(content);
        }
        let outer = std::mem::replace(&mut self.format, format);
        let start = Place::start(format);
        let end = block.template.as_mut().map_or(start, |content| self.template(content, start));
        if end != start {
            self.fault("the nested text ends inside of quotes, a tag or a comment");
        }
        self.format = outer;
        place
    }

    /// Puts another file's template where `{{> …}}` stands.
    fn partial(&mut self, element: &mut TemplateElement, name: &str, place: Place) -> Place {
        if self.partials.len() > DEEPEST || self.partials.iter().any(|open| open == name) {
            self.fault(format!("the partial {name} includes itself, or stands too deep"));
            return place;
        }
        let Some(text) = (self.loader.templates)(name) else {
            self.fault(format!("there is no template {name}; the path counts from the templates directory"));
            return place;
        };
        let mut template = match Template::compile_with_name(without_bom(&text), name.to_owned()) {
            Ok(template) => template,
            Err(error) => {
                self.loader.faults.push(syntax(name, false, &error));
                return place;
            }
        };
        let outside = (std::mem::replace(&mut self.name, name.to_owned()), self.inline, self.line);
        self.inline = false;
        self.partials.push(name.to_owned());
        let end = self.template(&mut template, place);
        self.partials.pop();
        (self.name, self.inline, self.line) = outside;
        let mut block = new_call(Parameter::Name(PARTIAL.to_owned()), Vec::new(), BTreeMap::new());
        block.block = true;
        block.template = Some(template);
        *element = TemplateElement::HelperBlock(block);
        end
    }
}

const BLOCKS: [&str; 5] = ["if", "unless", "each", "with", "nested"];

/// Leaves out the white space that a template has around a document; never that of a value.
fn trim(content: &mut Template) {
    let is_sent = |element: &&mut TemplateElement| !matches!(element, TemplateElement::Comment(_));
    if let Some(TemplateElement::RawString(text)) = content.elements.iter_mut().find(is_sent) {
        *text = text.trim_start().to_owned();
    }
    if let Some(TemplateElement::RawString(text)) = content.elements.iter_mut().rfind(is_sent) {
        text.truncate(text.trim_end().len());
    }
}

/// A file's text as people mean it.
pub(super) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{FEFF}').unwrap_or(text)
}

fn raw(path: &Path) -> &str {
    match path {
        Path::Relative((_, raw)) | Path::Local((_, _, raw)) => raw,
    }
}

fn literal(parameter: &Parameter) -> Option<&Json> {
    match parameter {
        Parameter::Literal(value) => Some(value),
        _ => None,
    }
}

/// `map TABLE VALUE` and `hash ALGORITHM VALUE` read as well as the other way round; take both.
fn put_table_last(name: &str, call: &mut HelperTemplate) {
    if let ("map" | "hash", [Parameter::Literal(_), Parameter::Path(_) | Parameter::Subexpression(_)]) =
        (name, call.params.as_slice())
    {
        call.params.swap(0, 1);
    }
}

/// Whether a secret goes into this argument.
fn holds_secret(argument: &Parameter) -> bool {
    match argument {
        Parameter::Path(path) => {
            let mut parts = raw(path).trim_start_matches("@root").split(['.', '/']).filter(|part| !part.is_empty());
            parts.next() == Some(SECRET)
        }
        Parameter::Subexpression(inner) => match inner.element.as_ref() {
            // A keyed digest gives nothing away, neither its key nor what went in.
            TemplateElement::Expression(call) if call.name.as_name() == Some("hmac") => false,
            TemplateElement::Expression(call) => call.params.iter().chain(call.hash.values()).any(holds_secret),
            _ => false,
        },
        _ => false,
    }
}

/// Whether a key that is computed is made of a secret, or signed with one.
fn is_secret_key(key: &Parameter) -> bool {
    match key {
        Parameter::Subexpression(inner) => match inner.element.as_ref() {
            TemplateElement::Expression(call) if call.name.as_name() == Some("hmac") => {
                call.hash.contains_key(SIGNATURE)
            }
            TemplateElement::Expression(call) => call.params.iter().any(is_secret_key),
            _ => false,
        },
        key => holds_secret(key),
    }
}

/// What a helper makes of a secret is a secret too: it is looked for in replies.
fn remembered(call: &mut Box<HelperTemplate>) {
    let name = std::mem::replace(&mut call.name, Parameter::Name(helpers::DERIVED.name.to_owned()));
    let (params, hash) = (std::mem::take(&mut call.params), std::mem::take(&mut call.hash));
    let value = Parameter::Subexpression(Subexpression::new(name, params, hash));
    *call = new_call(Parameter::Name(helpers::DERIVED.name.to_owned()), vec![value], BTreeMap::new());
}

/// A number or truth where JSON has no quotes: written by the `json` helper, which makes `null` of an empty one.
fn typed(call: &mut Box<HelperTemplate>, kind: Kind) {
    let name = std::mem::replace(&mut call.name, Parameter::Name("json".to_owned()));
    let params = std::mem::take(&mut call.params);
    let hash = std::mem::take(&mut call.hash);
    let value = match name {
        Parameter::Path(path) if params.is_empty() && hash.is_empty() && helpers::find(raw(&path)).is_none() => {
            Parameter::Path(path)
        }
        name => Parameter::Subexpression(Subexpression::new(name, params, hash)),
    };
    let kind = if kind == Kind::Boolean { "boolean" } else { "number" };
    let options = BTreeMap::from([("type".to_owned(), Parameter::Literal(kind.into()))]);
    *call = new_call(Parameter::Name("json".to_owned()), vec![value], options);
}

/// Handlebars lets nobody else build a call, but a subexpression holds one.
fn new_call(name: Parameter, params: Vec<Parameter>, hash: BTreeMap<String, Parameter>) -> Box<HelperTemplate> {
    match *Subexpression::new(name, params, hash.into_iter().collect()).element {
        TemplateElement::Expression(call) => call,
        _ => unreachable!("Subexpression::new always holds an expression"),
    }
}

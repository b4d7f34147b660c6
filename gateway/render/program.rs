//! The short way to render a template: what most templates are made of (text, variables, helpers, `if` and `unless`) is
//! compiled, when they are loaded, to steps that write straight into the result.
//!
//! Handlebars stays the measure. What is not of that kind is left to it, a value that does not fit is left to it to
//! complain about, and a test renders everything both ways and compares.

use std::cell::Cell;

use handlebars::template::{HelperTemplate, Parameter, TemplateElement};
use handlebars::{Path, Template};

use super::RenderInput;
use super::context::Own;
use super::engine::{self, PARTIAL, Scene, write_value};
use super::escape::Format;
use super::helpers::{self, Args, SIGNATURE, Spec, Value};
use super::scope::{REQUEST, SECRET, Trail};
use crate::model::campaign::{Campaign, FieldType};
use crate::model::contract::Charset;
use crate::model::lead::FieldValue;
use crate::model::secret::MASK;

/// A template as steps.
pub(super) struct Program {
    steps: Vec<Step>,
    /// How much text of its own it has.
    length: usize,
    /// Something in it counts how often it is rendered.
    counts: bool,
}

enum Step {
    Text(String),
    Value {
        value: Expression,
        /// It is the format's own text, which is not escaped.
        raw: bool,
        masks: bool,
    },
    Choice {
        condition: Expression,
        /// `unless`
        negated: bool,
        zero_counts: bool,
        then: Vec<Step>,
        otherwise: Vec<Step>,
        masks: bool,
    },
}

enum Expression {
    Literal(Value<'static>),
    Variable(Variable),
    Call { spec: &'static Spec, args: Vec<Expression>, options: Vec<(String, Expression)> },
}

enum Variable {
    Field {
        name: String,
        sensitive: bool,
    },
    Secret(String),
    /// A member of a group.
    Member(for<'v> fn(&Reader<'v>) -> Value<'v>),
}

/// What programs read, and how they write it.
pub(super) struct Reader<'v> {
    pub(super) input: &'v RenderInput<'v>,
    pub(super) own: &'v Own,
    pub(super) scene: &'v Scene<'v>,
    pub(super) format: Format,
    pub(super) charset: Charset,
    pub(super) masking: bool,
    /// A value that is not masked looks as if it were.
    pub(super) saw_mask: Cell<bool>,
}

/// A value does not fit: Handlebars says which one, and where.
pub(super) struct Unfit;

impl Program {
    /// The template as steps, if it is of the usual kind. It has been checked.
    pub(super) fn compile(template: &Template, campaign: &Campaign, format: Format) -> Option<Self> {
        let mut compiler = Compiler { campaign, format, length: 0, counts: false };
        let steps = compiler.steps(template)?;
        Some(Self { steps, length: compiler.length, counts: compiler.counts })
    }

    /// The result. Where each step begins in it is added to `marks`.
    pub(super) fn render(&self, reader: &Reader<'_>, marks: Option<&mut Vec<usize>>) -> Result<String, Unfit> {
        let mut out = String::with_capacity(self.length + self.length / 2 + 64);
        let Some(marks) = marks else {
            return reader.all(&self.steps, &mut out).map(|()| out);
        };
        marks.reserve(self.steps.len());
        for step in &self.steps {
            marks.push(out.len());
            reader.step(step, &mut out)?;
        }
        Ok(out)
    }

    /// Whether the masked copy may take over what is not masked in it. Not where a step counts, nor where a value of
    /// the lead looks like the mask, which the masked copy treats as one.
    pub(super) fn may_be_copied(&self, sent: &Reader<'_>) -> bool {
        !self.counts && !sent.saw_mask.get()
    }

    /// The masked copy of what was `sent`, in which the steps began at `marks`.
    pub(super) fn copy(&self, reader: &Reader<'_>, sent: &str, marks: &[usize]) -> Result<String, Unfit> {
        let mut out = String::with_capacity(sent.len() + 64);
        let ends = marks.iter().skip(1).copied().chain([sent.len()]);
        for ((step, start), end) in self.steps.iter().zip(marks).zip(ends) {
            if step.masks() {
                reader.step(step, &mut out)?;
            } else {
                out.push_str(sent.get(*start..end).ok_or(Unfit)?);
            }
        }
        Ok(out)
    }
}

impl Step {
    fn masks(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Value { masks, .. } | Self::Choice { masks, .. } => *masks,
        }
    }
}

impl Expression {
    fn masks(&self) -> bool {
        match self {
            Self::Literal(_) | Self::Variable(Variable::Member(_)) => false,
            Self::Variable(Variable::Field { sensitive, .. }) => *sensitive,
            Self::Variable(Variable::Secret(_)) => true,
            Self::Call { args, options, .. } => {
                args.iter().chain(options.iter().map(|(_, option)| option)).any(Self::masks)
            }
        }
    }
}

impl<'v> Reader<'v> {
    fn all(&self, steps: &'v [Step], out: &mut String) -> Result<(), Unfit> {
        steps.iter().try_for_each(|step| self.step(step, out))
    }

    fn step(&self, step: &'v Step, out: &mut String) -> Result<(), Unfit> {
        match step {
            Step::Text(text) => out.push_str(text),
            Step::Value { value, raw, .. } => {
                let text = self.evaluate(value)?.into_text();
                if *raw {
                    out.push_str(&text);
                } else {
                    write_value(&text, self.format, self.charset, self.masking, out);
                }
            }
            Step::Choice { condition, negated, zero_counts, then, otherwise, .. } => {
                let holds = self.evaluate(condition)?.is_truthy(*zero_counts) != *negated;
                self.all(if holds { then } else { otherwise }, out)?;
            }
        }
        Ok(())
    }

    fn evaluate(&self, expression: &'v Expression) -> Result<Value<'v>, Unfit> {
        let value = match expression {
            Expression::Literal(value) => match value {
                Value::Text(text) => Value::from(text.as_ref()),
                other => other.clone(),
            },
            Expression::Variable(variable) => self.read(variable)?,
            Expression::Call { spec, args, options } => {
                // Behind the values: a helper that makes something new each time is asked in that order.
                let call = |values: &[Value<'v>]| {
                    let options = options
                        .iter()
                        .map(|(name, option)| Ok((name.as_str(), self.evaluate(option)?)))
                        .collect::<Result<Vec<_>, Unfit>>()?;
                    let args = Args { values, options: &options };
                    engine::call(spec, &args, self.scene, self.masking).map_err(|_| Unfit)
                };
                match args.as_slice() {
                    [] => call(&[]),
                    [one] => call(&[self.evaluate(one)?]),
                    [one, two] => call(&[self.evaluate(one)?, self.evaluate(two)?]),
                    more => call(&more.iter().map(|arg| self.evaluate(arg)).collect::<Result<Vec<_>, _>>()?),
                }?
            }
        };
        if !self.masking && value.is_mask() {
            self.saw_mask.set(true);
        }
        Ok(value)
    }

    fn read(&self, variable: &'v Variable) -> Result<Value<'v>, Unfit> {
        Ok(match variable {
            Variable::Field { name, sensitive } => match self.input.lead.fields.get(name) {
                None => "".into(),
                Some(FieldValue::Text(text)) if text.is_empty() => "".into(),
                // Posted when the field was a list.
                Some(FieldValue::List(_) | FieldValue::Group(_)) => return Err(Unfit),
                Some(_) if self.masking && *sensitive => MASK.into(),
                Some(FieldValue::Text(text)) => text.as_str().into(),
                Some(FieldValue::Boolean(truth)) => Value::Boolean(*truth),
                Some(FieldValue::Integer(number)) => Value::Number((*number).into()),
            },
            Variable::Secret(name) => match self.own.secrets.get(name) {
                Some(_) if self.masking => MASK.into(),
                secret => optional(secret.map(String::as_str)),
            },
            Variable::Member(read) => read(self),
        })
    }
}

fn optional(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, Value::from)
}

/// How a member of a group is read; see `context.rs`. `None` for those of the request, which are known step by step.
fn member(group: &str, name: &str) -> Option<for<'v> fn(&Reader<'v>) -> Value<'v>> {
    Some(match (group, name) {
        ("meta", "external_id") => |it| optional(it.input.lead.meta.external_id.as_deref()),
        ("meta", "click_id") => |it| optional(it.input.lead.meta.click_id.as_deref()),
        ("meta", "sub1") => |it| optional(it.input.lead.meta.sub1.as_deref()),
        ("meta", "sub2") => |it| optional(it.input.lead.meta.sub2.as_deref()),
        ("meta", "sub3") => |it| optional(it.input.lead.meta.sub3.as_deref()),
        ("meta", "sub4") => |it| optional(it.input.lead.meta.sub4.as_deref()),
        ("meta", "sub5") => |it| optional(it.input.lead.meta.sub5.as_deref()),
        ("meta", "ip") => |it| optional(it.input.lead.meta.ip.as_deref()),
        ("meta", "user_agent") => |it| optional(it.input.lead.meta.user_agent.as_deref()),
        ("meta", "received_at") => |it| it.input.lead.received_at.to_string().into(),
        ("source", "id") => |it| it.input.source.id.into(),
        ("source", "name") => |it| it.input.source.name.into(),
        ("source", "payout") => |it| optional(it.input.payout),
        ("partner", "id") => |it| it.input.partner.id.into(),
        ("partner", "name") => |it| it.input.partner.name.into(),
        ("campaign", "id") => |it| it.own.campaign[0].as_str().into(),
        ("campaign", "name") => |it| it.own.campaign[1].as_str().into(),
        ("contract", "id") => |it| it.own.contract[0].as_str().into(),
        ("contract", "name") => |it| it.own.contract[1].as_str().into(),
        ("contract", "price") => |it| optional(it.own.price.as_deref()),
        ("delivery", "id") => |it| it.input.delivery.to_string().into(),
        ("attempt", "number") => |it| Value::Number(it.input.attempt.into()),
        _ => return None,
    })
}

struct Compiler<'a> {
    campaign: &'a Campaign,
    format: Format,
    length: usize,
    counts: bool,
}

impl Compiler<'_> {
    fn steps(&mut self, template: &Template) -> Option<Vec<Step>> {
        let mut steps = Vec::with_capacity(template.elements.len());
        for element in &template.elements {
            match element {
                TemplateElement::RawString(text) => {
                    self.length += text.len();
                    steps.push(Step::Text(text.clone()));
                }
                TemplateElement::Comment(_) => {}
                TemplateElement::Expression(call) => {
                    let value = self.expression(call)?;
                    let raw = matches!(&value, Expression::Call { spec, .. } if engine::writes_raw(spec, self.format));
                    steps.push(Step::Value { masks: value.masks(), value, raw });
                }
                TemplateElement::HelperBlock(block) => self.block(block, &mut steps)?,
                _ => return None,
            }
        }
        Some(steps)
    }

    fn block(&mut self, block: &HelperTemplate, steps: &mut Vec<Step>) -> Option<()> {
        let mut inside = |content: &Option<Template>| match content {
            Some(content) => self.steps(content),
            None => Some(Vec::new()),
        };
        let (then, otherwise) = (inside(&block.template)?, inside(&block.inverse)?);
        let negated = match block.name.as_name()? {
            PARTIAL => {
                steps.extend(then);
                return Some(());
            }
            "if" => false,
            "unless" => true,
            _ => return None,
        };
        let [condition] = block.params.as_slice() else { return None };
        let condition = self.parameter(condition)?;
        let zero_counts = match block.hash.get("includeZero") {
            None => false,
            Some(Parameter::Literal(value)) => value.as_bool().unwrap_or(false),
            Some(_) => return None,
        };
        let masks = condition.masks() || then.iter().chain(&otherwise).any(Step::masks);
        steps.push(Step::Choice { condition, negated, zero_counts, then, otherwise, masks });
        Some(())
    }

    /// A variable, or the call of a helper.
    fn expression(&mut self, call: &HelperTemplate) -> Option<Expression> {
        let name = call.name.as_name()?;
        let spec = if name == helpers::DERIVED.name { Some(&helpers::DERIVED) } else { helpers::find(name) };
        let Some(spec) = spec else {
            return if call.params.is_empty() && call.hash.is_empty() { self.parameter(&call.name) } else { None };
        };
        self.counts |= spec.name == "uuid" || call.hash.contains_key(SIGNATURE);
        let args = call.params.iter().map(|param| self.parameter(param)).collect::<Option<Vec<_>>>()?;
        let options = call.hash.iter().map(|(name, option)| Some((name.clone(), self.parameter(option)?)));
        Some(Expression::Call { spec, args, options: options.collect::<Option<Vec<_>>>()? })
    }

    fn parameter(&mut self, parameter: &Parameter) -> Option<Expression> {
        match parameter {
            Parameter::Literal(value) if value.is_array() || value.is_object() => None,
            Parameter::Literal(value) => Some(Expression::Literal(value.clone().into())),
            Parameter::Path(Path::Relative((segments, _))) => {
                let trail = Trail::read(segments)?;
                // Nothing here opens a scope, so that a path leads from the root.
                if trail.up > 0 { None } else { self.variable(&trail.names).map(Expression::Variable) }
            }
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) => self.expression(call),
                _ => None,
            },
            _ => None,
        }
    }

    fn variable(&self, names: &[String]) -> Option<Variable> {
        match names {
            [one] if one == "now" => Some(Variable::Member(|it| it.input.now.to_string().into())),
            // Loading has made one name of it.
            [group, name] if group == "lead" => {
                let field = self.campaign.fields.get(name).filter(|field| field.kind != FieldType::List)?;
                Some(Variable::Field { name: name.clone(), sensitive: field.sensitive })
            }
            [group, name] if group == SECRET => Some(Variable::Secret(name.clone())),
            [group, _] if group == REQUEST => None,
            [group, name] => member(group, name).map(Variable::Member),
            _ => None,
        }
    }
}

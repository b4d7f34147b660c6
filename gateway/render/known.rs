//! Templates that are compiled already: thousands of contracts may have the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::compile::Loaded;
use super::escape::Format;
use super::load::Loader;
use super::program::Program;
use super::scope::Uses;
use crate::model::campaign::Field;
use crate::model::contract::Maps;
use crate::model::shared::Shared;

/// A template, and what it refers to.
#[derive(Clone)]
pub(super) struct Compiled {
    pub(super) loaded: Arc<Loaded>,
    pub(super) uses: Arc<Uses>,
}

/// Templates that are compiled already, for contracts with the same to share.
#[derive(Default)]
pub struct Known(HashMap<Source, Compiled>);

/// All that a template is compiled from.
#[derive(PartialEq, Eq, Hash)]
struct Source {
    name: String,
    text: String,
    format: Format,
    inline: bool,
    fields: Shared<BTreeMap<String, Field>>,
    maps: Shared<Maps>,
    secrets: Vec<String>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({} templates)", self.0.len())
    }
}

impl Known {
    /// As [`Loader::load`], once for all equal ones. A template with a fault is told of by each contract that has it; one that
    /// signs is each contract's own, for its keys and numbers are.
    pub(super) fn load(
        &mut self,
        loader: &mut Loader<'_>,
        name: &str,
        text: &str,
        format: Format,
        inline: bool,
    ) -> Compiled {
        let source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
            format,
            inline,
            fields: loader.campaign.fields.clone(),
            maps: loader.contract.maps.clone(),
            secrets: loader.contract.secrets.keys().cloned().collect(),
        };
        if let Some(compiled) = self.0.get(&source) {
            return compiled.clone();
        }
        let (faults, signs) = (loader.faults.len(), loader.signs);
        loader.signs = false;
        let mut uses = Uses::default();
        let template = loader.load(name, text, format, inline, &mut uses);
        let program = Program::compile(&template, loader.campaign, format);
        let compiled = Compiled { loaded: Arc::new(Loaded { template, program }), uses: Arc::new(uses) };
        if loader.faults.len() == faults && !loader.signs {
            self.0.insert(source, compiled.clone());
        }
        loader.signs |= signs;
        compiled
    }
}

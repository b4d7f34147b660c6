//! Which of a campaign's fields are lists. Parsers must know: only by that does a name that is given twice differ from
//! a list of two, and `<interests><item>…` from a field called `interests.item`.

use std::collections::BTreeMap;

use super::posted::MAX_ENTRIES;

/// The list fields of a campaign, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists(BTreeMap<String, Holds>);

/// What the entries of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Single values.
    Values,
    /// Groups of named values.
    Groups,
}

/// What a form's name such as `vehicles[0][make]` points at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spot<'n> {
    /// The list field.
    pub(super) list: &'n str,
    /// The entry; `None` for the next one.
    pub(super) at: Option<usize>,
    /// The group's member.
    pub(super) member: Option<&'n str>,
}

impl Lists {
    pub(super) fn new(lists: impl IntoIterator<Item = (String, Holds)>) -> Self {
        Self(lists.into_iter().collect())
    }

    /// What the field of this name holds, if it is a list.
    pub(super) fn holds(&self, name: &str) -> Option<Holds> {
        self.0.get(name).copied()
    }

    /// Reads a form's name: `name` and `name[]` are the next entry, `name[0]` and `name.0` that one, `name[0][make]`,
    /// `name[0].make` and `name.0.make` a member of it, and `name.make` a member of the only one. `None` for the names
    /// of other fields.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub(super) fn spot<'n>(&self, name: &'n str) -> Result<Option<Spot<'n>>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        if self.holds(name).is_some() {
            return Ok(Some(Spot { list: name, at: None, member: None }));
        }
        let known = name.match_indices(['[', '.']).find_map(|(end, _)| {
            let (list, rest) = name.split_at(end);
            self.holds(list).map(|holds| (list, holds, rest))
        });
        let Some((list, holds, rest)) = known else { return Ok(None) };
        let (first, rest) = segment(rest).ok_or_else(|| unreadable(list))?;
        let numbered = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
        let at = match first {
            "" => None,
            digits if numbered => Some(index(list, digits)?),
            _ if holds == Holds::Groups && rest.is_empty() => {
                return Ok(Some(Spot { list, at: Some(0), member: Some(first) }));
            }
            _ if holds == Holds::Groups => return Err(unreadable(list)),
            // `interests.other` is a field of its own.
            _ => return Ok(None),
        };
        if rest.is_empty() {
            return Ok(Some(Spot { list, at, member: None }));
        }
        let (member, rest) = segment(rest).ok_or_else(|| unreadable(list))?;
        if holds == Holds::Values {
            return Err(format!("the list `{list}` holds single values; write {list}[0]"));
        }
        if at.is_none() {
            return Err(format!("`{list}[]` does not say which entry a member belongs to; number them: {list}[0][…]"));
        }
        if member.is_empty() || !rest.is_empty() {
            return Err(unreadable(list));
        }
        Ok(Some(Spot { list, at, member: Some(member) }))
    }
}

/// The first `[…]` or `.…` of a name's end, and what follows.
fn segment(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']');
    }
    let rest = text.strip_prefix('.')?;
    let (first, rest) = rest.split_at(rest.find(['[', '.']).unwrap_or(rest.len()));
    (!first.is_empty()).then_some((first, rest))
}

fn index(list: &str, digits: &str) -> Result<usize, String> {
    digits
        .parse()
        .ok()
        .filter(|at| *at < MAX_ENTRIES)
        .ok_or_else(|| format!("an entry of `{list}` has a number beyond {}", MAX_ENTRIES - 1))
}

fn unreadable(list: &str) -> String {
    format!("a name of the list `{list}` cannot be read; write {list}[0], or {list}[0][member] for a group")
}

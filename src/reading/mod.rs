//! In: a document and the mentions that a tagger found in it.
//! Out: mentions with what the document as a whole tells of them: definitions of abbreviations, further places of certain names, groups of
//! spellings of one name, formulas, identifiers of a lexicon.
//! Method: rules, each in a file of its own that names its source; none of them runs unless it is asked for.
//!
//! ```
//! use chemtag::format::Document;
//! use chemtag::reading::Reading;
//!
//! # fn main() -> chemtag::Result<()> {
//! let tagger = chemtag::get("models/chemtag-small")?;
//! let document = Document::from_text("a", "Tetrahydrofuran (THF) was dried. THF was used at once.".into());
//! let entities = tagger.tag_documents(&[&document])?.pop().unwrap_or_default();
//! let reading = Reading { abbreviations: true, ..Reading::default() };
//! let (entities, notes) = reading.read(&document, entities);
//! assert_eq!((&*entities[2].text, notes[2].long_form.as_deref()), ("THF", Some("Tetrahydrofuran")));
//! # Ok(())
//! # }
//! ```

mod abbreviations;
mod lexicon;
mod name;
mod note;
mod repetition;

use std::collections::HashMap;
use std::sync::Arc;

pub use abbreviations::{Definition, definitions};
pub use lexicon::Lexicon;
pub use name::normalised;
pub use note::Note;
pub use repetition::repeated;

use crate::entity::Entity;
use crate::format::Document;
use crate::formula::Formula;

/// What is to be read from a document beyond its mentions; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Link abbreviations with the names that the document defines them by.
    pub abbreviations: bool,
    /// Find names again that were found with at least this probability elsewhere in the document.
    pub repetition: Option<f32>,
    /// Give every mention its normalised name, and mentions of one name a number in common.
    pub groups: bool,
    /// Read mentions that are formulas.
    pub formulas: bool,
    /// Look names up.
    pub lexicon: Option<Arc<Lexicon>>,
}

impl Reading {
    /// Whether anything is to be read.
    pub fn is_asked_for(&self) -> bool {
        self.abbreviations || self.repetition.is_some() || self.groups || self.formulas || self.lexicon.is_some()
    }

    /// The mentions of a document, in order, those found again among them, with a note for each; no notes if nothing is asked for.
    /// Entities count bytes of the document's text.
    pub fn read<'t>(&self, document: &'t Document, mut entities: Vec<Entity<'t>>) -> (Vec<Entity<'t>>, Vec<Note>) {
        if !self.is_asked_for() {
            return (entities, Vec::new());
        }
        let mut again = Vec::new();
        if let Some(least) = self.repetition {
            again = repeated(document, &entities, least);
            entities.extend(again.iter().cloned());
            entities.sort_by_key(|entity| entity.start);
        }
        let mut notes: Vec<Note> = vec![Note::default(); entities.len()];
        for (entity, note) in entities.iter().zip(&mut notes) {
            note.repeated = again.binary_search_by_key(&entity.start, |found| found.start).is_ok();
            if self.formulas {
                note.formula = Formula::parse(&entity.text).map(|formula| formula.amounts().collect());
            }
        }
        let found = if self.abbreviations { definitions(document, &entities) } else { Vec::new() };
        link(&found, &entities, &mut notes);
        self.name(&entities, &mut notes);
        (entities, notes)
    }

    /// Groups mentions and looks them up, an abbreviation by the name that it stands for.
    fn name(&self, entities: &[Entity], notes: &mut [Note]) {
        let mut groups = HashMap::new();
        for (entity, note) in entities.iter().zip(notes) {
            let name = normalised(note.long_form.as_deref().unwrap_or(&entity.text));
            if let Some(lexicon) = &self.lexicon {
                let found = lexicon.identifier(&name).or_else(|| lexicon.identifier(&normalised(&entity.text)));
                note.identifier = found.map(str::to_string);
            }
            if self.groups {
                let next = groups.len();
                note.group = Some(*groups.entry(name.clone()).or_insert(next));
                note.name = Some(name);
            }
        }
    }
}

/// Tells mentions of a short form its long form, and the other way round.
fn link(definitions: &[Definition], entities: &[Entity], notes: &mut [Note]) {
    // The first definition in a document holds; a second one of the same abbreviation is most often the first one again.
    let (mut long_of, mut short_of) = (HashMap::new(), HashMap::new());
    for definition in definitions {
        long_of.entry(definition.short).or_insert(definition.long);
        short_of.entry(normalised(definition.long)).or_insert(definition.short);
    }
    for (entity, note) in entities.iter().zip(notes) {
        note.long_form = long_of.get(&*entity.text).map(|long| (*long).to_string());
        if note.long_form.is_none() && !short_of.is_empty() {
            note.short_form = short_of.get(&normalised(&entity.text)).map(|short| (*short).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        Document::from_text(
            "a",
            "Tetrahydrofuran (THF) with H2O. THF and tetrahydrofurans, β-carotene, beta carotene.".into(),
        )
    }

    fn entities<'t>(document: &'t Document, mentions: &[&'static str]) -> Vec<Entity<'t>> {
        let mut at = 0;
        let find = |mention: &&'static str| {
            let start = at + document.text[at..].find(mention).unwrap();
            at = start + mention.len();
            Entity { start, end: at, text: document.text[start..at].into(), class: None, score: 0.99 }
        };
        mentions.iter().map(find).collect()
    }

    const MENTIONS: [&str; 7] =
        ["Tetrahydrofuran", "THF", "H2O", "THF", "tetrahydrofurans", "β-carotene", "beta carotene"];

    #[test]
    fn nothing_is_read_unless_asked_for() {
        let document = document();
        let found = entities(&document, &MENTIONS);
        assert_eq!(Reading::default().read(&document, found.clone()), (found, vec![]));
    }

    #[test]
    fn abbreviations_and_names_are_one_group() {
        let document = document();
        let reading = Reading { abbreviations: true, groups: true, formulas: true, ..Reading::default() };
        let (_, notes) = reading.read(&document, entities(&document, &MENTIONS));
        assert_eq!(notes.iter().map(|note| note.group).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 2, 2].map(Some));
        let forms = |index: usize| (notes[index].long_form.as_deref(), notes[index].short_form.as_deref());
        assert_eq!(
            [0, 1, 2, 3, 4].map(forms),
            [
                (None, Some("THF")),
                (Some("Tetrahydrofuran"), None),
                (None, None),
                (Some("Tetrahydrofuran"), None),
                (None, Some("THF"))
            ]
        );
        assert_eq!(notes[2].formula, Some([("H", 2.), ("O", 1.)].into()));
        assert_eq!(notes[0].formula, None);
    }

    #[test]
    fn what_is_found_again_is_said_to_be() {
        let document = document();
        let reading = Reading { repetition: Some(0.9), ..Reading::default() };
        let (entities, notes) = reading.read(&document, entities(&document, &MENTIONS[..2]));
        let found: Vec<_> = entities.iter().zip(&notes).map(|(entity, note)| (&*entity.text, note.repeated)).collect();
        assert_eq!(found, [("Tetrahydrofuran", false), ("THF", false), ("THF", true)]);
    }
}

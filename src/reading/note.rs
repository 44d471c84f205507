//! What reading a document tells of one of its mentions, as keys of the record and as columns of tables.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is known of a mention; what was not asked for or not found is absent. The fields' order is that of keys and columns.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Note {
    /// The normalised name: the same for all spellings of one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of the name among those of the document, from 0 in order of occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
    /// The name that the document defines this abbreviation by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_form: Option<String>,
    /// The abbreviation that the document defines for this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_form: Option<String>,
    /// Elements and their amounts, if the mention is a formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formula: Option<BTreeMap<&'static str, f64>>,
    /// What the lexicon gives for the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The model did not find it; it was found because the name stands elsewhere in the document, whose class and probability it has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

impl Note {
    /// Names of the columns.
    pub const COLUMNS: [&'static str; 7] =
        ["name", "group", "long_form", "short_form", "formula", "identifier", "repeated"];

    /// One text for each of the columns, empty for what is absent; a formula as `H 2 O 1`.
    pub fn columns(&self) -> [String; 7] {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let formula = self.formula.iter().flatten().map(|(element, amount)| format!("{element} {amount}"));
        [
            text(&self.name),
            self.group.map(|group| group.to_string()).unwrap_or_default(),
            text(&self.long_form),
            text(&self.short_form),
            formula.collect::<Vec<_>>().join(" "),
            text(&self.identifier),
            if self.repeated { "yes".into() } else { String::new() },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_columns_are_the_same() {
        let note = Note {
            name: Some("water".into()),
            group: Some(0),
            long_form: Some("l".into()),
            short_form: Some("s".into()),
            formula: Some([("O", 1.), ("H", 2.)].into()),
            identifier: Some("CHEBI:15377".into()),
            repeated: true,
        };
        let value = serde_json::to_value(&note).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, Note::COLUMNS);
        assert_eq!(note.columns(), ["water", "0", "l", "s", "H 2 O 1", "CHEBI:15377", "yes"]);
        assert_eq!(serde_json::to_string(&Note::default()).unwrap(), "{}");
        assert!(Note::default().columns().iter().all(String::is_empty));
    }
}

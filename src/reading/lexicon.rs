//! In: a table of a user, `name<TAB>identifier` on a line. Out: the identifier of a name in any of its spellings.

use std::collections::HashMap;
use std::path::Path;

use super::name::normalised;
use crate::error::Result;
use crate::format::lines_of;

/// Names with their identifiers.
///
/// ```
/// use chemtag::reading::{Lexicon, normalised};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("names.tsv");
/// std::fs::write(&path, "β-carotene\tCHEBI:17579\n")?;
/// let lexicon = Lexicon::read(&path)?;
/// assert_eq!(lexicon.identifier(&normalised("Beta carotene")), Some("CHEBI:17579"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lexicon {
    identifiers: HashMap<String, String>,
}

impl Lexicon {
    /// Reads a table in UTF-8, compressed or not. Empty lines and what stands behind a second tab count for nothing. A name with several
    /// identifiers has them all, with `|` between them.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) or [`Error::Input`](crate::Error::Input) if the file cannot be read; [`Error::Malformed`](crate::Error::Malformed) for a line without name or identifier.
    pub fn read(path: &Path) -> Result<Self> {
        let mut lines = lines_of(path)?;
        let mut identifiers: HashMap<String, String> = HashMap::new();
        loop {
            let (name, identifier) = match lines.next() {
                None => return Ok(Self { identifiers }),
                Some(line) => {
                    let line = line?;
                    if line.trim().is_empty() {
                        continue;
                    }
                    let mut fields = line.split('\t').map(str::trim);
                    (fields.next().map(normalised).unwrap_or_default(), fields.next().unwrap_or_default().to_string())
                }
            };
            if name.is_empty() || identifier.is_empty() {
                return Err(lines.malformed("expected a name, a tab and an identifier"));
            }
            let known = identifiers.entry(name).or_default();
            if known.is_empty() {
                *known = identifier;
            } else if known.split('|').all(|one| one != identifier) {
                known.push('|');
                known.push_str(&identifier);
            }
        }
    }

    /// The identifier of a [normalised](normalised()) name.
    pub fn identifier(&self, name: &str) -> Option<&str> {
        self.identifiers.get(name).map(String::as_str)
    }

    /// What it holds, whatever file it is from: SHA-256 of names and identifiers, in hexadecimal.
    pub fn hash(&self) -> String {
        let mut lines: Vec<String> = self.identifiers.iter().map(|(name, id)| format!("{name}\t{id}\n")).collect();
        lines.sort_unstable();
        crate::source::sha256(&[lines.concat().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &str) -> Result<Lexicon, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.tsv");
        std::fs::write(&path, table).unwrap();
        Lexicon::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_has_all_its_identifiers_once() {
        let lexicon = read(
            "\u{feff}Water\tCHEBI:15377\r\n\r\nwaters\tCHEBI:15377\tx\nwater\tC1\nCo\tcobalt\nCO\tcarbon monoxide\n",
        )
        .unwrap();
        let find = |name: &str| lexicon.identifier(&normalised(name));
        assert_eq!(
            [find("WATER"), find("Co"), find("CO"), find("ice")],
            [Some("CHEBI:15377|C1"), Some("cobalt"), Some("carbon monoxide"), None]
        );
    }

    #[test]
    fn a_line_that_says_nothing_is_named() {
        for table in ["a\t1\nwater", "a\t1\n\t2", "a\t1\nb\t \tc"] {
            let message = read(table).unwrap_err();
            assert!(message.ends_with("names.tsv, line 2: expected a name, a tab and an identifier"), "{message}");
        }
    }
}

//! Annotated documents -> variants of them with the same mentions, written as other texts write: upper-case and title-case headings, Greek letters
//! spelled out or back, other hyphens and primes, subscripts in formulas, other names in the place of names (entity swap, Dai and Adel 2020), or
//! normalised as Weston et al. (2019) normalised their materials abstracts.
//! Which document gets which variant depends on the seed and the document's place alone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use chemtag::formula::Formula;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::corpus::{Document, Mention, flat_mentions};
use crate::error::{Error, Result};

/// A way to write a document anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All of it in upper case, as headings are.
    Upper,
    /// Every word with a capital, as titles are.
    Title,
    /// Greek letters of names spelled out, or spelled ones as letters.
    Greek,
    /// Hyphens and primes as other characters.
    Marks,
    /// Numbers in formulas as subscripts.
    Subscripts,
    /// Names replaced by other names of the same class from the same corpus.
    Swap,
    /// Formulas with their elements in alphabetical order, numbers as `<nUm>`, capitals at the start of words as small letters.
    Normalised,
}

const KINDS: [(&str, Kind); 7] = [
    ("upper", Kind::Upper),
    ("title", Kind::Title),
    ("greek", Kind::Greek),
    ("marks", Kind::Marks),
    ("subscripts", Kind::Subscripts),
    ("swap", Kind::Swap),
    ("normalised", Kind::Normalised),
];

const GREEK: [(&str, &str); 12] = [
    ("α", "alpha"),
    ("β", "beta"),
    ("γ", "gamma"),
    ("δ", "delta"),
    ("ε", "epsilon"),
    ("κ", "kappa"),
    ("λ", "lambda"),
    ("μ", "mu"),
    ("π", "pi"),
    ("σ", "sigma"),
    ("ω", "omega"),
    ("Δ", "Delta"),
];

/// Share of the documents that get a variant of each kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Augmentation {
    shares: BTreeMap<Kind, f64>,
}

impl fmt::Display for Augmentation {
    /// As [`Augmentation::from_str`] reads it, in one order of the kinds.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = |kind: &Kind| KINDS.iter().find(|(_, own)| own == kind).map_or("", |(name, _)| name);
        let parts: Vec<String> = self.shares.iter().map(|(kind, share)| format!("{}={share}", name(kind))).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Augmentation {
    type Err = Error;

    /// Reads `KIND=SHARE,...`, such as `upper=0.1,swap=0.3`.
    fn from_str(list: &str) -> Result<Self> {
        let mut shares = BTreeMap::new();
        for part in list.split(',') {
            let known = || KINDS.map(|(name, _)| name).join(", ");
            let (name, share) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
            let kind = KINDS.iter().find(|(own, _)| *own == name).ok_or_else(|| {
                Error::Setting(format!("no way to augment is called \"{name}\"; there are {}", known()))
            })?;
            let share = share.parse().ok().filter(|share| (0. ..=1.).contains(share)).ok_or_else(|| {
                Error::Setting(format!("the share of \"{name}\" must be a number from 0 to 1, as in {name}=0.1"))
            })?;
            shares.insert(kind.1, share);
        }
        Ok(Self { shares })
    }
}

impl Augmentation {
    /// Variants of the documents of a corpus; one that is equal to its document is left out.
    pub fn variants(&self, documents: &[Document], seed: u64) -> Vec<Document> {
        let mut names: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for document in documents {
            for mention in flat_mentions(&document.mentions) {
                if let Some(text) = document.text.get(mention.start..mention.end) {
                    names.entry(mention.label).or_default().push(text);
                }
            }
        }
        let mut variants = Vec::new();
        for (&kind, &share) in &self.shares {
            for (index, document) in documents.iter().enumerate() {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ (index as u64) << 8 ^ kind as u64);
                if random.random::<f64>() < share {
                    let variant = edit(document, &edits(kind, document, &names, &mut random));
                    variants.extend(Some(variant).filter(|variant| variant.text != document.text));
                }
            }
        }
        variants
    }
}

type Edit = (Range<usize>, String);

/// What to write in the place of what, in order and without overlap; no edit crosses a mention's border.
fn edits(kind: Kind, document: &Document, names: &BTreeMap<String, Vec<&str>>, random: &mut ChaCha8Rng) -> Vec<Edit> {
    let text = document.text.as_str();
    let mentions = flat_mentions(&document.mentions);
    match kind {
        Kind::Upper => characters(text, |_, c| single(c.to_uppercase())),
        Kind::Title => {
            characters(text, |before, c| if before.is_alphanumeric() { None } else { single(c.to_uppercase()) })
        }
        Kind::Marks => {
            let hyphen = *['\u{2010}', '\u{2011}', '–', '−'].choose(random).unwrap_or(&'–');
            characters(text, |_, c| match c {
                '-' => Some(hyphen),
                '\'' => Some('′'),
                '′' => Some('\''),
                _ => None,
            })
        }
        Kind::Subscripts => {
            let mut all = Vec::new();
            for mention in mentions.iter().filter(|mention| is_formula(&text[mention.start..mention.end])) {
                let digits = characters(&text[mention.start..mention.end], |before, c| {
                    let subscript = c.to_digit(10).and_then(|digit| char::from_u32('₀' as u32 + digit))?;
                    (before.is_alphabetic()
                        || before == ')'
                        || ('₀'..='₉').contains(&before)
                        || before.is_ascii_digit())
                    .then_some(subscript)
                });
                all.extend(
                    digits
                        .into_iter()
                        .map(|(range, with)| (mention.start + range.start..mention.start + range.end, with)),
                );
            }
            all
        }
        Kind::Greek => {
            let mut all = Vec::new();
            for mention in &mentions {
                let name = &text[mention.start..mention.end];
                for (at, part) in chemtag::text::words(name).map(|word| (word.clone(), &name[word])) {
                    let other = GREEK.iter().find_map(|&(letter, spelled)| match part {
                        _ if part == letter => Some(spelled),
                        _ if part == spelled => Some(letter),
                        _ => None,
                    });
                    all.extend(other.map(|other| (mention.start + at.start..mention.start + at.end, other.into())));
                }
            }
            all
        }
        Kind::Normalised => normalised(document, &mentions),
        // A given word's place in another name is not known.
        Kind::Swap if document.words.is_some() => Vec::new(),
        Kind::Swap => {
            let mut chosen: BTreeMap<&str, &str> = BTreeMap::new();
            let mut all = Vec::new();
            for mention in &mentions {
                let name = &text[mention.start..mention.end];
                let Some(other) = names.get(&mention.label).and_then(|names| names.choose(random)) else {
                    continue;
                };
                // A name that stands in a text more than once stays the same name.
                let other = *chosen.entry(name).or_insert(other);
                if other != name {
                    all.push((mention.start..mention.end, other.to_string()));
                }
            }
            all
        }
    }
}

/// What `Kind::Normalised` writes. Between spaces and without the punctuation around it stands a formula, a number, a word or something else.
fn normalised(document: &Document, mentions: &[Mention]) -> Vec<Edit> {
    let mut all = Vec::new();
    let mut end = 0;
    for part in document.text.split_inclusive(char::is_whitespace) {
        let start = end;
        end += part.len();
        let outer = part.trim_end();
        // Brackets of a formula's own groups stay with it, those around a whole one do not.
        let inside = outer.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let (start, outer) = match inside.filter(|inside| Formula::parse(inside).is_some()) {
            Some(inside) => (start + 1, inside),
            None => (start, outer),
        };
        let is_formula = Formula::parse(outer).is_some();
        let edge = |c| !is_formula && ",;:.!?()[]\"'".contains(c);
        let word = outer.trim_start_matches(edge);
        let start = start + outer.len() - word.len();
        let word = word.trim_end_matches(edge);
        let range = start..start + word.len();
        let crosses = |mention: &Mention| {
            let cut = |at: usize| range.start < at && at < range.end;
            cut(mention.start) || cut(mention.end)
        };
        if let Some(other) = normalised_word(word).filter(|other| other != word && !mentions.iter().any(crosses)) {
            all.push((range, other));
        }
    }
    all
}

fn normalised_word(word: &str) -> Option<String> {
    if let Some(formula) = Formula::parse(word) {
        // Capitals alone are more often an abbreviation.
        let written = word.contains(|c: char| c.is_ascii_lowercase() || c.is_numeric());
        return if written && formula.elements() > 1 { formula.alphabetical() } else { None };
    }
    if word.parse::<f64>().is_ok() && word.starts_with(|c: char| c.is_ascii_digit()) {
        return Some("<nUm>".into());
    }
    let mut letters = word.chars();
    let first = letters.next().filter(|first| first.is_uppercase())?;
    (word.len() > 1 && letters.clone().all(char::is_lowercase)).then(|| first.to_lowercase().chain(letters).collect())
}

/// The only character of an iterator.
fn single(mut characters: impl Iterator<Item = char>) -> Option<char> {
    characters.next().filter(|_| characters.next().is_none())
}

/// One edit for each character that `other` maps to another one; it is told the character before, as it stands in the text.
fn characters(text: &str, other: impl Fn(char, char) -> Option<char>) -> Vec<Edit> {
    let mut before = ' ';
    let mut edits = Vec::new();
    for (at, c) in text.char_indices() {
        if let Some(new) = other(before, c).filter(|&new| new != c) {
            edits.push((at..at + c.len_utf8(), new.to_string()));
        }
        before = c;
    }
    edits
}

/// Capitals, small letters behind them, digits and brackets, with at least one digit: "H2SO4", "La0.6Sr0.4MnO3".
fn is_formula(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '(')
        && name.chars().any(|c| c.is_ascii_digit())
        && name.chars().filter(char::is_ascii_lowercase).count()
            <= name.chars().filter(char::is_ascii_uppercase).count()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "().·-−".contains(c))
}

/// The document with the edits made; mentions and words move along.
fn edit(document: &Document, edits: &[Edit]) -> Document {
    let mut text = String::with_capacity(document.text.len());
    // New and old end of each edit.
    let mut ends = Vec::with_capacity(edits.len());
    let mut old = 0;
    for (range, with) in edits {
        text.push_str(&document.text[old..range.start]);
        let start = text.len();
        text.push_str(with);
        ends.push((range.clone(), start..text.len()));
        old = range.end;
    }
    text.push_str(&document.text[old..]);
    let moved = |offset: usize| {
        let count = ends.partition_point(|(range, _)| range.end <= offset);
        match ends.get(count) {
            // Within an edit only its own start is known.
            Some((range, new)) if range.start < offset => new.end,
            _ => match count.checked_sub(1).map(|last| &ends[last]) {
                Some((range, new)) => offset - range.end + new.end,
                None => offset,
            },
        }
    };
    let mention =
        |mention: &Mention| Mention { start: moved(mention.start), end: moved(mention.end), ..mention.clone() };
    Document {
        id: document.id.clone(),
        text,
        mentions: document.mentions.iter().map(mention).collect(),
        words: document
            .words
            .as_ref()
            .map(|words| words.iter().map(|word| moved(word.start)..moved(word.end)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(marked: &str, label: &str) -> Document {
        let (mut text, mut mentions) = (String::new(), Vec::new());
        for part in marked.split_inclusive(']') {
            match part.split_once('[') {
                Some((outside, name)) => {
                    text.push_str(outside);
                    let start = text.len();
                    text.push_str(name.trim_end_matches(']'));
                    mentions.push(Mention { start, end: text.len(), label: label.into() });
                }
                None => text.push_str(part),
            }
        }
        Document { id: "1".into(), text, mentions, words: None }
    }

    fn marked(document: &Document) -> String {
        let mut marked = document.text.clone();
        for mention in document.mentions.iter().rev() {
            marked.insert(mention.end, ']');
            marked.insert(mention.start, '[');
        }
        marked
    }

    fn variant(kinds: &str, documents: &[Document]) -> Vec<String> {
        kinds.parse::<Augmentation>().unwrap().variants(documents, 1).iter().map(marked).collect()
    }

    #[test]
    fn an_augmentation_is_written_as_it_is_read() {
        let augmentation: Augmentation = "swap=0.25, upper=1,greek=0.1".parse().unwrap();
        assert_eq!(augmentation.to_string().parse::<Augmentation>().unwrap(), augmentation);
        assert_eq!(augmentation.to_string(), "upper=1,greek=0.1,swap=0.25");
    }

    #[test]
    fn mentions_move_with_the_text() {
        let text = document("the groß [α-pinene] in [H2SO4] and [N,N'-x] with [Fe(CN)6]", "A");
        assert_eq!(
            variant("upper=1", std::slice::from_ref(&text)),
            ["THE GROß [Α-PINENE] IN [H2SO4] AND [N,N'-X] WITH [FE(CN)6]"]
        );
        assert_eq!(
            variant("title=1", std::slice::from_ref(&text)),
            ["The Groß [Α-Pinene] In [H2SO4] And [N,N'-X] With [Fe(CN)6]"]
        );
        assert_eq!(
            variant("greek=1", std::slice::from_ref(&text)),
            ["the groß [alpha-pinene] in [H2SO4] and [N,N'-x] with [Fe(CN)6]"]
        );
        assert_eq!(
            variant("subscripts=1", std::slice::from_ref(&text)),
            ["the groß [α-pinene] in [H₂SO₄] and [N,N'-x] with [Fe(CN)₆]"]
        );
        let text = document("Films of [TiO2] ([TiO2]) and [LiNi0.5Mn1.5O4]/[C] by PVD at 300.5 K: Band of [K3]Fe", "A");
        assert_eq!(
            variant("normalised=1", std::slice::from_ref(&text)),
            ["films of [O2Ti] ([O2Ti]) and [LiNi0.5Mn1.5O4]/[C] by PVD at <nUm> K: band of [K3]Fe"]
        );
        let text = document("the groß [α-pinene] in [H2SO4] and [N,N'-x] with [Fe(CN)6]", "A");
        let marks = variant("marks=1", std::slice::from_ref(&text)).remove(0);
        assert!(marks.contains("[N,N′") && !marks.contains('-'), "{marks}");
    }

    #[test]
    fn names_are_swapped_within_their_class_and_alike_throughout_a_document() {
        let documents = [document("[one] and [one] or [three]", "A"), document("[four]", "B"), document("[five]", "A")];
        for variant in variant("swap=1", &documents) {
            assert!(!variant.contains("four"), "{variant}");
            if let Some((first, rest)) = variant.split_once(" and ") {
                assert!(rest.starts_with(first), "{variant}");
            }
        }
    }

    #[test]
    fn shares_and_seeds_are_kept() {
        let documents: Vec<Document> = (0..2000).map(|i| document(&format!("text {i} of [acid]"), "A")).collect();
        let augmentation: Augmentation = "upper=0.1".parse().unwrap();
        let variants = augmentation.variants(&documents, 1);
        assert!((150..250).contains(&variants.len()), "{}", variants.len());
        assert_eq!(augmentation.variants(&documents, 1), variants);
        assert_ne!(augmentation.variants(&documents, 2), variants);
        for wrong in ["lower=0.1", "upper", "upper=2", "upper=x", ""] {
            assert!(wrong.parse::<Augmentation>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn words_and_mentions_stay_on_borders(parts in prop::collection::vec("[aα\u{3b2}Δ'\u{2032}2H()-]{1,4}", 1..12), kind in 0usize..7) {
            let text = parts.join(" ");
            let mut words = Vec::new();
            let mut start = 0;
            for part in &parts {
                words.push(start..start + part.len());
                start += part.len() + 1;
            }
            let mentions = words.iter().step_by(2).map(|word| Mention { start: word.start, end: word.end, label: "A".into() });
            let original = Document { id: "1".into(), text, mentions: mentions.collect(), words: Some(words) };
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let changed = edit(&original, &edits(KINDS[kind].1, &original, &BTreeMap::new(), &mut random));
            let words = changed.words.unwrap();
            prop_assert_eq!(words.len(), parts.len());
            let mut end = 0;
            for word in &words {
                prop_assert!(word.start >= end && changed.text.get(word.clone()).is_some_and(|word| !word.contains(' ')));
                end = word.end;
            }
            for (mention, word) in changed.mentions.iter().zip(words.iter().step_by(2)) {
                prop_assert_eq!((mention.start, mention.end), (word.start, word.end));
            }
        }
    }
}

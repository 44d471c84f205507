//! In: the word before a full stop or a line break, or the word after it.
//! Out: what that word says about the end of a sentence.
//! Method: sorted tables, collected from PubMed abstracts, journal references and patents, and two patterns for dotted letters.

/// When the full stop after an abbreviation ends a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Never: something always follows ("e.g.", "Fig.", "Dr.").
    Never,
    /// Not before a number; otherwise the word is an ordinary one ("No. 5", "Dec. 12").
    NotBeforeNumber,
    /// Before a word that opens sentences ("The", "We"), since other capitalised words are names: "U.S. Food", "J. Smith".
    BeforeOpener,
    /// Before any capitalised word that cannot be a formula or a unit ("i.p.", "etc.", "al.").
    BeforeCapitalised,
}

use Ending::{BeforeCapitalised, BeforeOpener, Never, NotBeforeNumber};

/// Abbreviations in lower case without their last full stop, sorted by bytes.
#[rustfmt::skip] // packed lines
const ABBREVIATIONS: &[(&str, Ending)] = &[
    ("a.k.a", Never), ("abbr", Never), ("abs", BeforeCapitalised), ("acad", Never), ("al", BeforeCapitalised),
    ("am", Never), ("anal", BeforeCapitalised), ("anhyd", BeforeCapitalised), ("appl", Never),
    ("approx", Never), ("apr", NotBeforeNumber), ("aq", BeforeCapitalised), ("aug", NotBeforeNumber),
    ("avg", BeforeCapitalised), ("biochem", Never), ("biol", Never), ("biophys", Never), ("c.f", Never),
    ("ca", Never), ("calcd", BeforeCapitalised), ("cf", Never), ("chap", NotBeforeNumber),
    ("chem", BeforeOpener), ("clin", Never), ("co", BeforeOpener), ("commun", BeforeOpener),
    ("compd", NotBeforeNumber), ("compds", NotBeforeNumber), ("conc", BeforeCapitalised),
    ("concd", BeforeCapitalised), ("corp", BeforeOpener), ("cv", BeforeCapitalised), ("dec", NotBeforeNumber),
    ("dept", Never), ("diam", BeforeCapitalised), ("dil", BeforeCapitalised), ("dr", Never), ("e.g", Never),
    ("ed", BeforeOpener), ("eds", BeforeOpener), ("eg", Never), ("engl", Never), ("eq", BeforeOpener),
    ("eqn", BeforeOpener), ("eqs", BeforeOpener), ("equiv", BeforeCapitalised), ("esp", Never),
    ("est", BeforeCapitalised), ("etc", BeforeCapitalised), ("eur", Never), ("ex", NotBeforeNumber),
    ("feb", NotBeforeNumber), ("fig", Never), ("figs", Never), ("gen", BeforeOpener),
    ("hr", BeforeCapitalised), ("hrs", BeforeCapitalised), ("i.e", Never), ("ibid", BeforeCapitalised),
    ("ie", Never), ("inc", BeforeOpener), ("incl", Never), ("int", Never), ("intl", Never),
    ("jan", NotBeforeNumber), ("jpn", Never), ("jr", BeforeOpener), ("lett", BeforeOpener),
    ("liq", BeforeCapitalised), ("lit", BeforeCapitalised), ("ltd", BeforeOpener), ("max", BeforeCapitalised),
    ("med", BeforeOpener), ("messrs", Never), ("min", BeforeCapitalised), ("mol", BeforeCapitalised),
    ("mr", Never), ("mrs", Never), ("mt", BeforeOpener), ("n.b", Never), ("natl", Never),
    ("no", NotBeforeNumber), ("nos", NotBeforeNumber), ("nov", NotBeforeNumber), ("oct", NotBeforeNumber),
    ("op", BeforeOpener), ("org", Never), ("p", NotBeforeNumber), ("pat", Never), ("pats", Never),
    ("ph.d", BeforeOpener), ("pharm", Never), ("pharmacol", Never), ("phys", Never), ("pp", NotBeforeNumber),
    ("ppt", BeforeCapitalised), ("prep", BeforeCapitalised), ("proc", Never), ("prof", Never),
    ("publ", Never), ("ref", Never), ("refs", Never), ("resp", BeforeCapitalised),
    ("satd", BeforeCapitalised), ("sci", BeforeOpener), ("sec", BeforeCapitalised), ("sect", NotBeforeNumber),
    ("sep", NotBeforeNumber), ("sept", NotBeforeNumber), ("ser", BeforeOpener), ("soc", BeforeOpener),
    ("soln", BeforeCapitalised), ("sp", BeforeCapitalised), ("spp", BeforeCapitalised),
    ("ssp", BeforeCapitalised), ("st", BeforeOpener), ("subsp", BeforeCapitalised),
    ("suppl", NotBeforeNumber), ("tab", Never), ("temp", BeforeCapitalised), ("univ", Never),
    ("var", BeforeCapitalised), ("viz", Never), ("vol", NotBeforeNumber), ("vols", NotBeforeNumber),
    ("vs", Never), ("wt", BeforeCapitalised),
];

/// What the full stop after `word` means; `word` comes without that stop and as it is written. `None`: an ordinary word.
///
/// The first letter may be a capital ("Fig", "fig"), and all of them from three characters on ("FIG"): shorter words in capitals
/// are formulas and acronyms ("NO", "CA"). "Ca" is calcium.
pub(super) fn ending(word: &str) -> Option<Ending> {
    if word == "Ca" {
        return None;
    }
    let capitals = word.chars().filter(|c| c.is_uppercase()).count();
    let first_only = capitals == 1 && word.starts_with(char::is_uppercase);
    if capitals == 0 || first_only || word.len() >= 3 {
        let lower = word.to_ascii_lowercase();
        if let Ok(found) = ABBREVIATIONS.binary_search_by_key(&lower.as_str(), |entry| entry.0) {
            return Some(ABBREVIATIONS[found].1);
        }
    }
    dotted_letters(word)
}

/// Letters with a full stop after each: "s.e.m" is an abbreviation like "i.p", "U.S" and the initial "J" belong to a name.
fn dotted_letters(word: &str) -> Option<Ending> {
    let mut upper = true;
    for part in word.split('.') {
        let mut letters = part.chars();
        let letter = letters.next().filter(|c| c.is_alphabetic())?;
        if letters.next().is_some() {
            return None;
        }
        upper &= letter.is_uppercase();
    }
    // A lone small letter labels something ("panel a."), as a lone capital may.
    Some(if upper || !word.contains('.') { BeforeOpener } else { BeforeCapitalised })
}

/// Words that open sentences far more often than they open names, sorted by bytes.
#[rustfmt::skip] // packed lines
const OPENERS: &[&str] = &[
    "A", "According", "Addition", "Additionally", "Administration", "After", "All", "Also", "Although",
    "Among", "An", "Analysis", "And", "Another", "Any", "As", "At", "Background", "Based", "Because",
    "Before", "Besides", "Both", "But", "By", "Compared", "Conclusion", "Conclusions", "Consequently",
    "Conversely", "Data", "Despite", "Due", "During", "Each", "Eight", "Eleven", "Evidence", "Experimental",
    "Finally", "Findings", "First", "Five", "Following", "For", "Four", "From", "Further", "Furthermore",
    "Given", "Having", "He", "Hence", "Here", "Herein", "High", "How", "However", "I", "If", "Importantly",
    "In", "Inhibition", "Interestingly", "Introduction", "Is", "It", "Its", "Lastly", "Like", "Low", "Many",
    "Materials", "Mean", "Methods", "Mice", "More", "Moreover", "Most", "Neither", "Nevertheless", "Next",
    "Nine", "No", "None", "Nonetheless", "Not", "Notably", "Now", "Objective", "Objectives", "On", "Once",
    "One", "Only", "Or", "Oral", "Other", "Our", "Over", "Overall", "Patients", "Previous", "Previously",
    "Purpose", "Rats", "Recent", "Recently", "Results", "Samples", "Second", "Secondly", "Seven", "Several",
    "She", "Significant", "Similar", "Similarly", "Since", "Six", "So", "Some", "Subsequently", "Such",
    "Surprisingly", "Taken", "Ten", "That", "The", "Their", "Then", "There", "Therefore", "These", "They",
    "Third", "This", "Those", "Three", "Through", "Thus", "To", "Together", "Treatment", "Twelve", "Twenty",
    "Two", "Under", "Unlike", "Until", "Upon", "Using", "Various", "Was", "We", "Were", "What", "When",
    "Whereas", "Whether", "Which", "While", "Who", "Why", "With", "Within", "Without", "Yet", "You",
];

/// Whether `word` is one that commonly opens sentences.
pub(super) fn is_opener(word: &str) -> bool {
    OPENERS.binary_search(&word).is_ok()
}

/// Words after which a line break cannot end a sentence, sorted by bytes.
#[rustfmt::skip] // packed lines
const CONNECTIVES: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "been", "between", "but", "by", "can", "could", "did", "does",
    "during", "each", "either", "for", "from", "had", "has", "have", "if", "in", "into", "is", "its", "may",
    "might", "must", "nor", "not", "of", "on", "onto", "or", "our", "should", "such", "than", "that", "the",
    "their", "these", "this", "those", "to", "toward", "towards", "upon", "versus", "via", "was", "we",
    "were", "when", "where", "whereas", "which", "while", "who", "whose", "will", "with", "within", "without",
    "would",
];

/// Whether `word`, in any case, needs something after it in the same sentence.
pub(super) fn is_connective(word: &str) -> bool {
    CONNECTIVES.binary_search(&word.to_ascii_lowercase().as_str()).is_ok()
}

/// Prefixes in small letters that open chemical names, written before a hyphen, sorted by bytes.
#[rustfmt::skip] // packed lines
const NAME_PREFIXES: &[&str] = &[
    "all", "allo", "asym", "bis", "cis", "cyclo", "d", "dl", "endo", "epi", "erythro", "exo", "gem", "i",
    "iso", "l", "m", "mer", "meso", "meta", "myo", "n", "neo", "nor", "o", "ortho", "p", "para", "rac", "rel",
    "s", "scyllo", "sec", "sym", "syn", "t", "tert", "threo", "trans", "vic",
];

/// Whether `word` before a hyphen opens a chemical name, as in "tert-butanol".
pub(super) fn is_name_prefix(word: &str) -> bool {
    NAME_PREFIXES.binary_search(&word).is_ok()
}

/// Headings that stand on a line of their own, in lower case, sorted by bytes.
#[rustfmt::skip] // packed lines
const HEADINGS: &[&str] = &[
    "abstract", "acknowledgements", "acknowledgments", "aims", "background", "brief summary", "claims",
    "conclusion", "conclusions", "description", "detailed description", "discussion", "example", "examples",
    "experimental", "experimental section", "field of the invention", "introduction", "keywords",
    "materials and methods", "methods", "objective", "objectives", "purpose", "references", "results",
    "results and discussion", "summary", "supporting information", "title",
];

/// Whether `line` is a common section heading, with or without a colon.
pub(super) fn is_heading(line: &str) -> bool {
    let line = line.trim_end_matches(':');
    // No heading of the table is longer; a long line need not be copied.
    line.len() <= 24 && HEADINGS.binary_search(&line.to_ascii_lowercase().as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(ABBREVIATIONS.is_sorted_by(|a, b| a.0 < b.0));
        for table in [OPENERS, CONNECTIVES, NAME_PREFIXES, HEADINGS] {
            assert!(table.is_sorted_by(|a, b| a < b), "{table:?}");
        }
        assert!(HEADINGS.iter().all(|heading| is_heading(heading)));
    }

    #[test]
    fn case_of_an_abbreviation() {
        assert_eq!(ending("fig"), Some(Never));
        assert_eq!(ending("Fig"), Some(Never));
        assert_eq!(ending("FIG"), Some(Never));
        assert_eq!(ending("ca"), Some(Never));
        // Calcium, nitric oxide, an acronym.
        assert_eq!(ending("Ca"), None);
        assert_eq!(ending("NO"), None);
        assert_eq!(ending("SP"), None);
        assert_eq!(ending("No"), Some(NotBeforeNumber));
    }

    #[test]
    fn dotted_letters_by_case() {
        assert_eq!(ending("i.p"), Some(BeforeCapitalised));
        assert_eq!(ending("s.e.m"), Some(BeforeCapitalised));
        assert_eq!(ending("U.S"), Some(BeforeOpener));
        assert_eq!(ending("J"), Some(BeforeOpener));
        assert_eq!(ending("E.G"), Some(Never));
        assert_eq!(ending("2.5"), None);
        assert_eq!(ending("a..b"), None);
        assert_eq!(ending(""), None);
        assert_eq!(ending("daily"), None);
    }

    #[test]
    fn headings_with_a_colon() {
        assert!(is_heading("Results and Discussion:"));
        assert!(!is_heading("Results of the trial"));
    }
}

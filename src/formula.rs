//! A chemical formula as written ("Ba(NO3)2", "La0.6Sr0.4MnO3", "CuSO4·5H2O") -> its elements and their amounts.
//! Elements by IUPAC's symbols (periodic table of 4 May 2022); groups in round or square brackets; amounts as whole or decimal numbers,
//! subscripts included.

use std::collections::BTreeMap;

/// Symbols of the elements, by atomic number.
const ELEMENTS: [&str; 118] = [
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc",
    "Lv", "Ts", "Og",
];

/// Brackets within brackets that are read.
const DEPTH: usize = 16;

/// Elements and their amounts in a formula.
///
/// ```
/// use chemtag::formula::Formula;
///
/// let nitrate = Formula::parse("Ba(NO3)2").expect("a formula");
/// assert_eq!(nitrate.amounts().collect::<Vec<_>>(), [("Ba", 1.), ("N", 2.), ("O", 6.)]);
/// assert_eq!(Formula::parse("Background"), None);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Formula {
    /// By symbol, so that the order is the alphabet's.
    amounts: BTreeMap<&'static str, f64>,
}

impl Formula {
    /// Reads a whole string as a formula; `None` if any of it is not.
    pub fn parse(text: &str) -> Option<Self> {
        let mut amounts = BTreeMap::new();
        for part in text.split(['·', '•', '⋅']) {
            let mut rest: Vec<char> = part.chars().rev().map(plain_digit).collect();
            let factor = amount(&mut rest)?.unwrap_or(1.);
            let units = units(&mut rest, DEPTH)?;
            if !rest.is_empty() || units.is_empty() {
                return None;
            }
            for (element, count) in units {
                *amounts.entry(element).or_insert(0.) += factor * count;
            }
        }
        Some(Self { amounts })
    }

    /// Elements with their amounts, in alphabetical order.
    pub fn amounts(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.amounts.iter().map(|(&element, &amount)| (element, amount))
    }

    /// Number of different elements.
    pub fn elements(&self) -> usize {
        self.amounts.len()
    }

    /// The formula with its elements in alphabetical order and whole amounts, as some databases write it: "O2Ti", "Li2Mn3NiO8" for
    /// LiNi0.5Mn1.5O4. `None` if no factor up to 1000 makes all amounts whole.
    ///
    /// ```
    /// # use chemtag::formula::Formula;
    /// let spinel = Formula::parse("LiNi0.5Mn1.5O4").and_then(|formula| formula.alphabetical());
    /// assert_eq!(spinel.as_deref(), Some("Li2Mn3NiO8"));
    /// ```
    pub fn alphabetical(&self) -> Option<String> {
        let whole = |factor: f64| {
            let mut counts = self.amounts.values().map(|amount| amount * factor);
            counts.all(|count| (count.round() - count).abs() < 1e-6 && count.round() >= 1.)
        };
        let factor = (1..=1000).map(f64::from).find(|&factor| whole(factor))?;
        let write = |(element, amount): (&str, f64)| match (amount * factor).round() {
            1. => element.to_string(),
            count => format!("{element}{count}"),
        };
        Some(self.amounts().map(write).collect())
    }
}

/// A subscript digit as the digit.
fn plain_digit(c: char) -> char {
    match u32::from(c).checked_sub(u32::from('₀')) {
        Some(digit @ 0..=9) => char::from_digit(digit, 10).unwrap_or(c),
        _ => c,
    }
}

/// Reads a number from the end of a reversed string, if one stands there; `None` if it is malformed.
fn amount(rest: &mut Vec<char>) -> Option<Option<f64>> {
    let mut number = String::new();
    while let Some(c) = rest.pop_if(|c| c.is_ascii_digit() || *c == '.') {
        number.push(c);
    }
    match number.as_str() {
        "" => Some(None),
        text => text.parse().ok().filter(|number| *number > 0.).map(Some),
    }
}

/// Reads elements and groups with their amounts until the end or a closing bracket.
fn units(rest: &mut Vec<char>, depth: usize) -> Option<BTreeMap<&'static str, f64>> {
    let mut amounts = BTreeMap::new();
    while let Some(&next) = rest.last() {
        let group = match next {
            '(' | '[' => {
                rest.pop();
                let group = units(rest, depth.checked_sub(1)?)?;
                let closing = if next == '(' { ')' } else { ']' };
                rest.pop_if(|c| *c == closing)?;
                group
            }
            ')' | ']' => return Some(amounts),
            _ => BTreeMap::from([(element(rest)?, 1.)]),
        };
        let factor = amount(rest)?.unwrap_or(1.);
        for (element, count) in group {
            *amounts.entry(element).or_insert(0.) += factor * count;
        }
    }
    Some(amounts)
}

/// Reads the longest symbol that stands at the end of a reversed string.
fn element(rest: &mut Vec<char>) -> Option<&'static str> {
    let symbol: String = rest.iter().rev().take(2).collect();
    let found = ELEMENTS.iter().filter(|element| symbol.starts_with(**element)).max_by_key(|element| element.len())?;
    rest.truncate(rest.len() - found.len());
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amounts(text: &str) -> Option<Vec<(&'static str, f64)>> {
        Some(Formula::parse(text)?.amounts().collect())
    }

    #[test]
    fn groups_hydrates_and_subscripts_are_multiplied_out() {
        assert_eq!(amounts("CuSO4·5H2O"), Some(vec![("Cu", 1.), ("H", 10.), ("O", 9.), ("S", 1.)]));
        assert_eq!(amounts("K4[Fe(CN)6]"), Some(vec![("C", 6.), ("Fe", 1.), ("K", 4.), ("N", 6.)]));
        assert_eq!(amounts("H₂SO₄"), amounts("H2SO4"));
        assert_eq!(amounts("CH3COOH"), Some(vec![("C", 2.), ("H", 4.), ("O", 2.)]));
    }

    #[test]
    fn what_is_no_formula_is_none() {
        for text in ["", "Xx2", "NaCl)", "(NaCl", "(NaCl]", "Na0", "Na1.2.3", "2", "nacl", "Li1-xCoO2", "·H2O", "()2"]
        {
            assert_eq!(Formula::parse(text), None, "{text}");
        }
        assert_eq!(Formula::parse(&"(".repeat(100_000)), None);
    }

    #[test]
    fn alphabetical_amounts_are_whole() {
        let alphabetical = |text: &str| Formula::parse(text).and_then(|formula| formula.alphabetical());
        for (text, expected) in [
            ("TiO2", "O2Ti"),
            ("SiC", "CSi"),
            ("Ni0.5Zn0.5Fe2O4", "Fe4NiO8Zn"),
            ("PbZr0.52Ti0.48O3", "O75Pb25Ti12Zr13"),
            ("La0.7Ca0.3MnO3", "Ca3La7Mn10O30"),
        ] {
            assert_eq!(alphabetical(text).as_deref(), Some(expected));
        }
        assert_eq!(alphabetical("Ga0.41421356"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,12}|[HCNOSi0-9().·\\[\\]₂]{0,12}") {
            if let Some(formula) = Formula::parse(&text) {
                prop_assert!(formula.elements() > 0 && formula.amounts().all(|(_, amount)| amount > 0.));
            }
        }

        #[test]
        fn sorting_twice_changes_nothing(parts in prop::collection::vec((0usize..118, 1u32..20), 1..5)) {
            let text: String = parts.iter().map(|(element, count)| format!("{}{count}", ELEMENTS[*element])).collect();
            let once = Formula::parse(&text).and_then(|formula| formula.alphabetical());
            prop_assert!(once.is_some());
            let twice = once.as_deref().and_then(Formula::parse).and_then(|formula| formula.alphabetical());
            prop_assert_eq!(once, twice);
        }
    }
}

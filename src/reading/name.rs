//! In: a name as it stands in a text. Out: a key that its other spellings share: case, Greek letters, hyphens, spaces, primes, subscripts
//! and the plural make no difference. Method: rules of spelling; what changes the compound (locants, stereo descriptors, a formula's case) stays.

use crate::formula::Formula;

/// Greek letters by their names in chemical nomenclature (IUPAC recommendations 2013, P-14.3).
const GREEK: [(char, &str); 24] = [
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "epsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('ι', "iota"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('ο', "omicron"),
    ('π', "pi"),
    ('ρ', "rho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('υ', "upsilon"),
    ('φ', "phi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
];

/// Letters of a word that is taken for a plural; "cis", "bis" and "gas" are none.
const SHORTEST_PLURAL: usize = 5;

/// The key of a name.
///
/// ```
/// use chemtag::reading::normalised;
///
/// assert_eq!(normalised("β-Carotenes"), normalised("beta carotene"));
/// assert_ne!(normalised("CO"), normalised("Co"));
/// ```
pub fn normalised(name: &str) -> String {
    let plain: Vec<char> = name.trim().chars().map(plain).collect();
    let written: String = plain.iter().collect();
    if Formula::parse(&written).is_some() {
        // CO is not Co.
        return written;
    }
    let mut key = String::with_capacity(name.len());
    for (index, &c) in plain.iter().enumerate() {
        let neighbour = |at: Option<usize>| at.and_then(|at| plain.get(at)).is_some_and(char::is_ascii_digit);
        match c {
            // A sign in brackets, "(-)-limonene", says which of two compounds it is.
            '-' if index > 0 && plain.get(index - 1) == Some(&'(') && plain.get(index + 1) == Some(&')') => {
                key.push('-')
            }
            // Between two numbers it keeps them apart.
            '-' | ' ' if neighbour(index.checked_sub(1)) && neighbour(Some(index + 1)) => key.push('-'),
            '-' | ' ' => {}
            c => {
                for lower in c.to_lowercase() {
                    match GREEK.iter().find(|(letter, _)| *letter == lower) {
                        Some((_, name)) => key.push_str(name),
                        None => key.push(lower),
                    }
                }
            }
        }
    }
    singular(key)
}

/// Characters that look the same, or stand for the same, as one.
fn plain(c: char) -> char {
    match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ad}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{2032}' | '\u{2019}' | '\u{2018}' | '\u{b4}' | '`' => '\'',
        '\u{2033}' | '\u{201d}' | '\u{201c}' => '"',
        'µ' => 'μ',
        'ς' => 'σ',
        'ϵ' => 'ε',
        'ϕ' => 'φ',
        // Typed for beta where the keyboard has none.
        'ß' => 'β',
        '₀'..='₉' => char::from_digit(u32::from(c) - u32::from('₀'), 10).unwrap_or(c),
        '⁰' | '⁴'..='⁹' => char::from_digit(u32::from(c) - u32::from('⁰'), 10).unwrap_or(c),
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁺' => '+',
        '⁻' | '₋' => '-',
        c if c.is_whitespace() => ' ',
        c => c,
    }
}

fn singular(mut key: String) -> String {
    if let Some(stem) = key.strip_suffix("(s)") {
        return stem.into();
    }
    let letters = key.chars().rev().take_while(|c| c.is_alphabetic()).count();
    let stem = key.strip_suffix('s').unwrap_or_default();
    // "-ss", "-us", "-is", "-os" and "-as" are singular: glass, arsenous, cannabis, asbestos.
    if letters >= SHORTEST_PLURAL && stem.ends_with(|c: char| !matches!(c, 's' | 'u' | 'i' | 'o' | 'a')) {
        key.pop();
    }
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for same in [
            &["β-carotene", "Beta-Carotene", "ß‑carotene", "beta carotene", "BETA–CAROTENES"][..],
            &["acetic acid", "Acetic\nacid", "acetic-acid", "acetic acids"],
            &["H2SO4", "H₂SO₄"],
            &["1,1′-binaphthyl", "1,1'-binaphthyl"],
            &["alcohol", "alcohol(s)", "Alcohols"],
            &["μ-oxo", "µ-oxo", "mu-oxo"],
        ] {
            let keys: Vec<String> = same.iter().map(|name| normalised(name)).collect();
            assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        }
    }

    #[test]
    fn other_compounds_stay_apart() {
        for (a, b) in [
            ("CO", "Co"),
            ("1,2-dioxane", "1,4-dioxane"),
            ("alkyl 1-2", "alkyl 12"),
            ("α-pinene", "β-pinene"),
            ("(+)-limonene", "(-)-limonene"),
            ("(R)-BINOL", "(S)-BINOL"),
            ("Fe2+", "Fe3+"),
        ] {
            assert_ne!(normalised(a), normalised(b));
        }
        for singular in ["glass", "cannabis", "arsenous", "gas", "cis", "asbestos"] {
            assert_eq!(normalised(singular), singular);
        }
    }

    proptest! {
        #[test]
        fn case_hyphens_and_spaces_never_matter(name in "[a-z]{2,6}([ -][a-z]{2,6}){0,3}") {
            prop_assume!(Formula::parse(&name.to_uppercase()).is_none());
            let key = normalised(&name);
            prop_assert_eq!(&normalised(&name.to_uppercase()), &key);
            prop_assert_eq!(&normalised(&name.replace(' ', "-")), &key);
            prop_assert_eq!(&normalised(&name.replace([' ', '-'], "\u{2011}")), &key);
        }

        #[test]
        fn any_text_has_a_key(name in "\\PC{0,20}") {
            prop_assert!(normalised(&name).len() <= 8 * name.len());
        }
    }
}

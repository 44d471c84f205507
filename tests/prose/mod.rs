//! A seed -> text for the tests' random model.

/// Text that looks like a paper's, different for each seed.
pub fn prose(words: usize, seed: u64) -> String {
    const WORDS: [&str; 16] = [
        "benzene",
        "the",
        "ethanol",
        "of",
        "N,N-dimethylformamide",
        "and",
        "was",
        "α-pinene",
        "2,4-D",
        "in",
        "acid",
        "TiO2",
        "methyl",
        "(+)-catechin.",
        "water",
        "20",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::new();
    for _ in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 60) as usize]);
        text.push(' ');
    }
    text
}

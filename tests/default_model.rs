//! The default model, as it ships: it finds what the example abstract speaks of, and strange text of 300 kB does not confuse its offsets.

mod offsets;

use chemtag::{Entity, Tagger};
use offsets::check_offsets;

const MODEL: &str = "models/chemtag-small.int8.safetensors";

/// Names taken from the abstract by reading it, not by running the model.
#[test]
fn the_example_abstract_is_read_as_a_chemist_reads_it() {
    let text = std::fs::read_to_string("examples/abstract.txt").unwrap();
    let entities = Tagger::load(MODEL).unwrap().tag(&text).unwrap();
    check_offsets(&text, &entities);
    let found: Vec<&str> = entities.iter().map(|entity| &*entity.text).collect();
    for name in ["Li7La3Zr2O12", "Li6.6La3Zr1.6Nb0.4O12", "LLZO", "LLZNO", "LiMn2O4", "lithium"] {
        assert!(found.contains(&name), "{name} is missing in {found:?}");
    }
    for other in ["XRD", "SEM", "EIS", "LD"] {
        assert!(!found.contains(&other), "{other} is no chemical");
    }
}

/// 300 kB: prose without a full stop, combining marks, lone carriage returns, emoji, zero-width characters, other scripts.
#[test]
fn strange_text_is_read_to_its_end() {
    const PART: usize = 50_000;
    let of_length = |portion: &str| portion.repeat(PART / portion.len() + 1);
    let parts = [
        of_length(&std::fs::read_to_string("examples/abstract.txt").unwrap().replace(['.', ':', '\n'], " ")),
        format!("benzene{} and ethanol ", "\u{301}".repeat(PART / 2)),
        of_length("toluene\rin\racetone\r\r"),
        of_length("🧪👩‍🔬 benzene👍🏽ethanol α\u{301}β "),
        of_length("N\u{200b}O\u{2060}H2\u{feff} \u{200d}methanol\u{200b} "),
        of_length("हिन्दी 한국어 中文化學 ﷺ \u{0}\u{7f}\u{a0}\u{2028}pyridine "),
        "\n\nAspirin was dissolved in tetrahydrofuran.".into(),
    ];
    let text = parts.concat();
    assert!(text.len() >= 300_000);
    let tagger = Tagger::load(MODEL).unwrap();
    let entities = tagger.tag(&text).unwrap();
    check_offsets(&text, &entities);
    // What stands between the strange characters is found where the model can know it: no part is passed over.
    let mut start = 0;
    for (part, fewest) in parts.iter().zip([200, 0, 1000, 500, 500, 0, 2]) {
        let within = entities.iter().filter(|entity| (start..start + part.len()).contains(&entity.start)).count();
        assert!(within >= fewest, "{within} mentions in {:?}...", &part[..part.floor_char_boundary(40)]);
        start += part.len();
    }
    let streamed: chemtag::Result<Vec<Entity>> = tagger.tag_reader(&text.as_bytes()[..20_000]).collect();
    check_offsets(&text, &streamed.unwrap());
}

use super::*;
use crate::text::words;

/// Texts with a `|` at each border between two sentences; white space around it belongs to neither.
const CASES: &[&str] = &[
    // Plain ends.
    "Aspirin works.| Ibuprofen does too.",
    "Does it?| Yes!| It does.",
    "What?!| Indeed.",
    "One sentence without an end",
    "Stop with space .| Next one.",
    "Wait...| The rest came later.",
    "The series C1, C2, ... Cn was made.",
    "It rose… then fell.",
    // Abbreviations that never end a sentence.
    "NSAIDs, e.g. Aspirin, were given.",
    "NSAIDs (i.e. Aspirin) were given.",
    "See Fig. 3 and Figs. 4 and 5.",
    "See Fig. A for details.",
    "It took ca. 5 h, approx. 10 mL, cf. Smith, vs. Placebo.",
    "We thank Dr. Smith and Prof. Jones.",
    "By Eq. 2 and Ref. 12 and Refs. 13 and 14.",
    "Two acids, viz. Acetic and formic acid.",
    // Abbreviations that may.
    "Smith et al. reported it.",
    "Smith et al. (2010) reported it.",
    "It was shown by Smith et al.| The dose was low.",
    "Rats got 5 mg/kg i.p. daily.",
    "Rats got 5 mg/kg i.p. DMSO was the vehicle.",
    "Rats got 5 mg/kg i.p.| Controls got saline.",
    "Given i.v., s.c. or p.o. to rats b.i.d. for a week.",
    "Salts, acids, etc.| We used all of them.",
    "It is sold in the U.S. Food labels say so.",
    "It is sold in the U.S.| The label says so.",
    "Bought from Sigma Chemical Co. (St. Louis, MO).",
    "Bought from Acme Inc.| All were pure.",
    "Isolated from Streptomyces sp. A2 and Bacillus spp. in soil.",
    "Isolated from Streptomyces sp.| Metabolites were tested.",
    "At conc. HCl, temp. 50 and mol. wt. 500, aq. NaOH, b.p. 80, m.p. 120.",
    "The acids differ (1 and 2, resp.).| Both melt.",
    "Stirred for 10 min.| The mixture was cooled.",
    // Abbreviations before numbers.
    "CAS No. 50-78-2 is aspirin.",
    "The answer is no.| We failed.",
    "It blocks NO.| Aspirin blocks it too.",
    "Held on Dec. 12 in vol. 3, pp. 5 and 6.",
    // Initials and lone letters.
    "J. Smith and A. B. Jones wrote it.",
    "Growth of E. coli and M. scandens was slow.",
    "Published in J. Am. Chem. Soc. 2010, 132, 5.",
    "Rats were fed vitamin C.| The controls were not.",
    "Rats were fed vitamin C.| A group of controls was not.",
    "Heated to 25 °C.| Aspirin was added.",
    "Measured at 310 K.| Aspirin melted.",
    "Treated with cyclosporin-A.| Aspirin was added.",
    "Stirred for 6 h.| Aspirin at 50 mg/L.| Ibuprofen at 1 T.| Then none.",
    "They took vitamin C.| RESULTS: it fell.| © 2013 Society.",
    // Numbers and names with full stops inside.
    "We gave 2.5 mg at pH 7.4 and pH 7. 4 again.",
    "It is bicyclo[2.2.1]hept-2-ene.| Next is 2.2.1]heptane.",
    "Made from N,N-dimethyl-1,2,4-triazole and [Pt(NH3)2Cl2].| It melts.",
    "In group 2.| The dose was 5.| Then 6.",
    "Kv1.2 was blocked.| IC50 was 1.2.",
    // Starts that are no capital.
    "It blocked serotonin.| 5-HT was low.",
    "In group 2.| 5-HT was low.",
    "It is a phenol.| p-Cresol was low.",
    "It is a flavanol.| (+)-Catechin was low.",
    "It is a terpene.| α-Pinene was low.",
    "It is an alcohol.| tert-butanol was low.",
    "Levels fell.| mRNA rose.| p53 did too.| pH was 7.",
    "It is an acid.| (2S,3R)-Tartaric acid was low.| (a) First.",
    "It rose approxim. twofold.",
    "It rose.| “Twofold” is the word.",
    "It rose.| ~5% fell.| •Next.",
    // Brackets and quotes.
    "The drug (5 mg. Aspirin was pure) was given.| It worked.",
    "The drug (5 mg was given.| It worked.",
    "(The drug was given.)| It worked.",
    "It “worked.”| We agree.",
    "\"Does it work?\" he asked.| \"Yes.\"| He left.",
    "The drug (was it pure? Yes) was given.",
    // References glued to a full stop.
    "It had an effect.12| The dose was low.",
    "It had an effect.12,13| The dose was low.",
    "It had an effect.[12–14]| DMSO had none.",
    "It had an effect.¹²| The dose was low.",
    "It had an effect.12 in rats.",
    "See Fig.12 The arrow shows it.",
    // Lines.
    "A title without a stop\n|\nThe text.",
    "A title\r\n|\r\nThe text.",
    "A title\u{2029}|the text.",
    "Introduction|\nWe tested aspirin.",
    "Introduction|\n5-HT is an amine.",
    "Results:|\nwe saw none.",
    "A short heading|\r\nAspirin was tested.|\rIt worked.|\u{2028}Fine.|\u{c}End.",
    "The dose was\nlow in all\n5 groups\n(see above).",
    "In a long line of prose that has been wrapped by hand before the word\nAspirin goes on.",
    "A long line of prose that has been wrapped by hand and ends right here.|\nAspirin goes on.",
    "We tested the\nCYP2D6 enzyme, and\nAspirin.",
    "It was chloro-\nBenzene.",
    "Items:|\n- aspirin|\n- ibuprofen|\n• codeine",
    "Drugs|\n1. aspirin|\n2. ibuprofen|\n3) codeine",
    "Smith et al.\nreported e.g.\nAspirin and J.\nJones.",
    "The end of it.|\nlower case after it.",
    "A page ends\n\u{c}in a sentence.",
    "The drug (given\nOrally) worked.",
    "1. Introduction|\n2.1. Synthesis of aspirin|\nA. Reagents",
    // Other scripts.
    "阿司匹林有效。|布洛芬也有效！|真的。",
    "他说：“有效。”|然后走了。",
    "Аспирин помогает.| Ибупрофен тоже.",
    "क्या यह काम करता है?| हाँ।| ठीक है।",
];

fn marked(text: &str) -> String {
    let mut out = String::new();
    for sentence in sentences(text) {
        assert!(!sentence.continues);
        if !out.is_empty() {
            out.push('|');
        }
        out.push_str(&text[sentence.range]);
    }
    out
}

#[test]
fn borders_stand_where_a_reader_puts_them() {
    let mut wrong = Vec::new();
    for case in CASES {
        let expected: Vec<&str> = case.split('|').map(str::trim).collect();
        let found = marked(&case.replace('|', ""));
        if found != expected.join("|") {
            wrong.push(format!("expected {:?}\n   found {found:?}", expected.join("|")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn nothing_but_white_space_has_no_sentence() {
    assert_eq!(sentences("").next(), None);
    assert_eq!(sentences(" \r\n\t\u{a0}\u{2029}\u{c}").next(), None);
}

#[test]
fn white_space_that_fills_the_look_ahead_ends_a_sentence() {
    let text = format!("left{}right", " ".repeat(LOOKAHEAD_BYTES));
    assert_eq!(sentences(&text).count(), 2);
    let text = format!("left{}right", " ".repeat(LOOKAHEAD_BYTES - 1));
    assert_eq!(sentences(&text).count(), 1);
}

#[test]
fn a_long_sentence_is_cut_at_white_space() {
    let text = "aspirin, ".repeat(20_000);
    let found: Vec<Sentence> = sentences(&text).collect();
    assert_eq!(found.len(), text.len().div_ceil(MAX_SENTENCE_BYTES));
    for (i, sentence) in found.iter().enumerate() {
        assert!(text[sentence.range.clone()].ends_with("aspirin,"));
        assert_eq!(sentence.continues, i + 1 < found.len());
        assert!(sentence.range.len() <= MAX_SENTENCE_BYTES);
    }
}

#[test]
fn a_long_sentence_without_white_space_is_cut_between_words() {
    let text = "ibuprofen-".repeat(10_000);
    let found: Vec<Sentence> = sentences(&text).collect();
    for sentence in &found[..found.len() - 1] {
        assert!(sentence.continues && sentence.range.len() <= MAX_SENTENCE_BYTES);
        assert!(sentence.range.len() > MAX_SENTENCE_BYTES - 10);
    }
    let whole: Vec<_> = words(&text).collect();
    let parts = found.iter().flat_map(|s| {
        let start = s.range.start;
        words(&text[s.range.clone()]).map(move |word| start + word.start..start + word.end)
    });
    assert!(parts.eq(whole));
}

#[test]
fn a_long_word_is_cut_between_clusters_and_a_long_cluster_is_not_cut() {
    // The mark makes clusters of three bytes, which do not divide the limit.
    let text = "e\u{301}".repeat(MAX_SENTENCE_BYTES);
    let lengths: Vec<usize> = sentences(&text).map(|s| s.range.len()).collect();
    let part = MAX_SENTENCE_BYTES / 3 * 3;
    assert_eq!(lengths[..3], [part; 3]);

    let giant = format!("e{}", "\u{301}".repeat(MAX_SENTENCE_BYTES));
    let text = format!("{giant}x {giant}");
    let found: Vec<Sentence> = sentences(&text).collect();
    assert_eq!(found[0], Sentence { range: 0..giant.len(), continues: true });
    assert_eq!(found[1], Sentence { range: giant.len()..giant.len() + 1, continues: true });
    assert_eq!(found[2], Sentence { range: giant.len() + 2..text.len(), continues: false });
}

#[test]
fn the_limit_itself_is_not_too_long() {
    let text = "a".repeat(MAX_SENTENCE_BYTES);
    assert_eq!(sentences(&format!("{text} \n")).next().map(|s| s.continues), Some(false));
    assert_eq!(sentences(&format!("{text} a")).next().map(|s| s.continues), Some(true));
}

#[test]
fn a_mark_after_the_limit_does_not_move_the_cut_before_it() {
    // The prefix ends inside the cluster that makes the sentence too long.
    let prefix = format!("a {}。”", "x".repeat(MAX_SENTENCE_BYTES - 5));
    let whole = format!("{prefix}\u{301} and more");
    let cut = Sentence { range: 0..1, continues: true };
    assert_eq!(sentences(&prefix).next(), Some(cut.clone()));
    assert_eq!(sentences(&whole).next(), Some(cut));
}

#[test]
fn endless_runs_are_read_in_linear_time() {
    // With a rescan from the start of a run each of these takes minutes.
    for unit in
        [".", "A. ", "\u{301}", "(a. B", "a\n", "[1", ".)", ". ", "e.g. ", "\u{1f1e9}", "x", "。", "\n(", ".\u{301} "]
    {
        let text = unit.repeat(500_000 / unit.len());
        let covered: usize = sentences(&text).map(|s| s.range.len()).sum();
        assert!(covered > 0 && covered <= text.len(), "{unit:?}");
    }
}

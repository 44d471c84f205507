//! In: CRF parameters and emissions. Out: the valid path with the highest score.
//! Method: the Viterbi recursion (Rabiner 1989, section III.B), run from the last word to the first, so that the path is then
//! read off from the first word on and ties go to the lower tag there.

use std::array;

use super::backward::{Scores, highest, score};
use super::{Crf, TAGS, Tag};

impl Crf {
    /// The valid path with the highest score, one tag for each word.
    ///
    /// `emissions`: `[words, 3]`. Of paths with the same computed score this is the first in lexicographic order (O before B
    /// before I, compared from the first word on).
    pub fn viterbi(&self, emissions: &[[f32; TAGS]]) -> Vec<Tag> {
        let Some((last, before)) = emissions.split_last() else {
            return Vec::new();
        };
        let scores = Scores::new(self);
        // For each tag of the current word: the score of the best path from this word on, less that of the best tag.
        let mut ahead: [f64; TAGS] = array::from_fn(|tag| score(last[tag]) + scores.end[tag]);
        // choices[i][from]: the best tag of word i + 1 if word i has the tag `from`.
        let mut choices = vec![[Tag::O; TAGS]; before.len()];
        for (emission, choice) in before.iter().zip(&mut choices).rev() {
            let best = scores.transitions.map(|row| best_tag(&row, &ahead));
            *choice = best.map(|(tag, _)| tag);
            let peak = highest(best.map(|(_, score)| score));
            ahead = array::from_fn(|tag| score(emission[tag]) + (best[tag].1 - peak));
        }
        let mut tag = best_tag(&scores.start, &ahead).0;
        let mut path = Vec::with_capacity(emissions.len());
        path.push(tag);
        for choice in &choices {
            tag = choice[tag as usize];
            path.push(tag);
        }
        path
    }
}

/// The tag with the highest `step + ahead`, the lowest such tag, and that score.
fn best_tag(step: &[f64; TAGS], ahead: &[f64; TAGS]) -> (Tag, f64) {
    let mut best = (Tag::O, step[Tag::O as usize] + ahead[Tag::O as usize]);
    for tag in [Tag::B, Tag::I] {
        let score = step[tag as usize] + ahead[tag as usize];
        if score > best.1 {
            best = (tag, score);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::Tag::{B, I, O};
    use super::*;
    use crate::model::crf::oracle;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn viterbi_equals_brute_force(case in oracle::cases(0..=6)) {
            let found = case.crf.viterbi(&case.emissions);
            prop_assert!(oracle::is_valid(&found));
            prop_assert_eq!(found.len(), case.emissions.len());
            let best = oracle::score(&case, &oracle::best_path(&case));
            prop_assert!((oracle::score(&case, &found) - best).abs() < 1e-6);
        }

        // Small whole numbers: sums are exact and many paths share the highest score.
        #[test]
        fn ties_go_to_the_first_path(case in oracle::small_whole_cases(0..=6)) {
            prop_assert_eq!(case.crf.viterbi(&case.emissions), oracle::best_path(&case));
        }
    }

    #[test]
    fn equal_scores_give_o() {
        assert_eq!(Crf::default().viterbi(&[[0.0; 3]; 4]), [O; 4]);
        assert!(Crf::default().viterbi(&[]).is_empty());
    }

    #[test]
    fn i_is_unreachable_without_b_however_high() {
        let crf = Crf::default();
        assert_eq!(crf.viterbi(&[[0.0, -1.0, 1e30]]), [O]);
        assert_eq!(
            crf.viterbi(&[[5.0, 0.0, 9.0], [0.0, 0.0, 1e4]]),
            [B, I],
            "giving up 5 at the first word wins 10,000 at the second"
        );
    }

    #[test]
    fn extreme_and_missing_scores_still_give_a_valid_path() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e4];
        let emissions: Vec<[f32; 3]> = (0..125).map(|i| [odd[i % 5], odd[i / 5 % 5], odd[i / 25]]).collect();
        let path = Crf::default().viterbi(&emissions);
        assert_eq!(path.len(), emissions.len());
        assert!(oracle::is_valid(&path));

        // A word of which nothing is known leaves the choice to its neighbours.
        let mut crf = Crf::default();
        crf.transitions[I as usize][I as usize] = 1.0;
        let known = [[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
        let unknown = [known[0], known[1], [f32::NAN; 3], known[1]];
        assert_eq!(crf.viterbi(&unknown), [B, I, I, I]);
    }

    #[test]
    fn a_long_text_is_decoded_as_its_repeated_part() {
        let part = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [4.0, 0.0, 1e4]];
        let path = Crf::default().viterbi(&part.repeat(25_000));
        assert_eq!(path, [O, B, I, I].repeat(25_000));
    }

    #[test]
    fn a_small_difference_counts_before_a_long_text() {
        // The path's score is near 1e9, where f64 has no room for 1e-8.
        let mut emissions = vec![[1e4, 0.0, 0.0]; 100_000];
        emissions[0] = [0.0, 1e-8, 0.0];
        let path = Crf::default().viterbi(&emissions);
        assert_eq!(path[0], B);
        assert_eq!(path[1..], [O; 99_999]);
    }
}

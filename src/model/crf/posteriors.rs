//! In: CRF parameters and emissions. Out: exact probabilities of tags, of pairs of tags and of spans, and the likely spans.
//! Method: forward-backward (Rabiner 1989, section III.A). The backward recursion gives the chain's transition probabilities,
//! the forward pass its marginals; both are sums of products of probabilities, without cancellation at any length.

use super::backward::{self, Scores};
use super::{Crf, TAGS, Tag};

const O: usize = Tag::O as usize;
const B: usize = Tag::B as usize;
const I: usize = Tag::I as usize;

/// The lowest threshold on a span's posterior: a lower one, and NaN, counts as this one.
///
/// A threshold of 0 would list every pair of words in the text.
pub const LOWEST_THRESHOLD: f64 = 1e-6;

/// A span of words and the probability that it is a mention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredSpan {
    /// The first word.
    pub start: usize,
    /// The word after the last one.
    pub end: usize,
    /// The probability that exactly these words are a mention, 0 to 1.
    pub posterior: f64,
}

/// The probabilities of a CRF over one sequence, given its emissions: 96 bytes for each word.
#[derive(Clone, Debug, PartialEq)]
pub struct Posteriors {
    log_partition: f64,
    /// `[words]`: the probability of each tag.
    tags: Vec<[f64; TAGS]>,
    /// `[words - 1][from][to]`: the probability of the next word's tag, given this word's.
    next: Vec<[[f64; TAGS]; TAGS]>,
}

impl Crf {
    /// The probabilities of tags and spans over all valid paths, by one forward-backward pass.
    ///
    /// `emissions`: `[words, 3]`.
    pub fn posteriors(&self, emissions: &[[f32; TAGS]]) -> Posteriors {
        let mut next = vec![[[0.0; TAGS]; TAGS]; emissions.len().saturating_sub(1)];
        let start = backward::backward(&Scores::new(self), emissions, |word, rows| {
            next[word] = rows.each_ref().map(|row| row.probabilities);
        });
        Posteriors::forward(start.as_ref(), next)
    }
}

impl Posteriors {
    /// The forward pass, from where the backward recursion ended (`None` for no words) and the transition probabilities.
    pub(super) fn forward(start: Option<&backward::Start>, next: Vec<[[f64; TAGS]; TAGS]>) -> Posteriors {
        let Some(start) = start else {
            return Posteriors { log_partition: 0.0, tags: Vec::new(), next };
        };
        let mut tags = Vec::with_capacity(next.len() + 1);
        let mut here = start.first.probabilities;
        tags.push(here);
        for rows in &next {
            let mut there = [0.0; TAGS];
            for (probability, row) in here.iter().zip(rows) {
                for (sum, conditional) in there.iter_mut().zip(row) {
                    *sum += probability * conditional;
                }
            }
            // The sum is 1 but for rounding, which would add up over a long text.
            let sum: f64 = there.iter().sum();
            here = there.map(|probability| probability / sum);
            tags.push(here);
        }
        Posteriors { log_partition: start.log_partition, tags, next }
    }

    /// The logarithm of the sum of `exp(score)` over all valid paths, in nats: [`Crf::log_partition`].
    pub fn log_partition(&self) -> f64 {
        self.log_partition
    }

    /// The number of words.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// The probabilities of O, B and I at word `i`; their sum is 1.
    ///
    /// # Panics
    ///
    /// As a slice does, unless `i < len`.
    pub fn tag(&self, i: usize) -> [f64; TAGS] {
        self.tags[i]
    }

    /// The joint probability of the tags of words `i` and `i + 1`, `[tag of i][tag of i + 1]`; the sum of all nine is 1.
    ///
    /// # Panics
    ///
    /// As a slice does, unless `i + 1 < len`.
    pub fn pair(&self, i: usize) -> [[f64; TAGS]; TAGS] {
        let mut pair = self.next[i];
        for (row, probability) in pair.iter_mut().zip(self.tags[i]) {
            *row = row.map(|conditional| probability * conditional);
        }
        pair
    }

    /// The exact probability that the words `start..end` are a mention: B at `start`, I at every later word before `end`, and
    /// not I at `end`, where there is such a word.
    ///
    /// 0 for an empty span and for one that reaches beyond the sequence, as there is no such mention.
    pub fn span(&self, start: usize, end: usize) -> f64 {
        if start >= end || end > self.len() {
            return 0.0;
        }
        let mut prefix = self.tags[start][B];
        for word in start + 1..end {
            prefix *= self.continues(start, word);
        }
        prefix * self.stops(start, end)
    }

    /// The probability of I at `word`, given that the mention which begins at `start` holds every word before it.
    fn continues(&self, start: usize, word: usize) -> f64 {
        let last = if word - 1 == start { B } else { I };
        self.next[word - 1][last][I]
    }

    /// The probability of no I at `end`, given that the mention which begins at `start` holds every word before it.
    fn stops(&self, start: usize, end: usize) -> f64 {
        let last = if end - 1 == start { B } else { I };
        let row = self.next.get(end - 1).map(|rows| rows[last]);
        // The sum of two probabilities may round to more than 1.
        row.map_or(1.0, |row| (row[O] + row[B]).min(1.0))
    }

    /// All spans whose posterior is at least `threshold`, by start and then end; they may overlap unless it is above 0.5.
    ///
    /// A threshold below [`LOWEST_THRESHOLD`] counts as that. Mentions with different starts that hold the same word exclude
    /// each other, so no word is looked at for more than `1 / threshold` starts: the time is linear in the words.
    ///
    /// ```
    /// use chemtag::model::crf::Crf;
    ///
    /// let emissions = [[0.0, 3.0, 0.0], [1.0, -2.0, 1.5], [4.0, 0.0, 0.0]];
    /// let posteriors = Crf::default().posteriors(&emissions);
    /// let spans = posteriors.spans_at_least(0.3);
    /// assert_eq!(spans.len(), 2); // the first word alone, and the first two
    /// assert_eq!(posteriors.best_spans(0.3), [spans[1]]); // the likelier of the two
    /// ```
    pub fn spans_at_least(&self, threshold: f64) -> Vec<ScoredSpan> {
        let threshold = threshold.max(LOWEST_THRESHOLD);
        let mut spans = Vec::new();
        for (start, tag) in self.tags.iter().enumerate() {
            let mut prefix = tag[B];
            let mut end = start + 1;
            while prefix >= threshold {
                let posterior = prefix * self.stops(start, end);
                if posterior >= threshold {
                    spans.push(ScoredSpan { start, end, posterior });
                }
                if end == self.len() {
                    break;
                }
                prefix *= self.continues(start, end);
                end += 1;
            }
        }
        spans
    }

    /// Of the spans whose posterior is at least `threshold`, those that do not overlap and have the largest sum of
    /// posteriors, from left to right (weighted interval scheduling: Kleinberg and Tardos 2005, section 6.1).
    ///
    /// Where two choices have the same sum, up to the same word, the one that leaves this word out is taken, then the one
    /// whose span there begins first.
    pub fn best_spans(&self, threshold: f64) -> Vec<ScoredSpan> {
        let mut candidates = self.spans_at_least(threshold);
        candidates.sort_by_key(|span| (span.end, span.start));
        let mut candidates = candidates.into_iter().peekable();
        // For the words before `end`: the largest sum, and the span of that choice which ends at `end` itself.
        let mut sums = vec![0.0; self.len() + 1];
        let mut chosen: Vec<Option<ScoredSpan>> = vec![None; self.len() + 1];
        for end in 1..=self.len() {
            sums[end] = sums[end - 1];
            while let Some(span) = candidates.next_if(|span| span.end == end) {
                let sum = sums[span.start] + span.posterior;
                if sum > sums[end] {
                    sums[end] = sum;
                    chosen[end] = Some(span);
                }
            }
        }
        let mut spans = Vec::new();
        let mut end = self.len();
        while end > 0 {
            match chosen[end] {
                Some(span) => {
                    spans.push(span);
                    end = span.start;
                }
                None => end -= 1,
            }
        }
        spans.reverse();
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::crf::{oracle, spans};
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    fn overlap(spans: &[ScoredSpan]) -> bool {
        spans.iter().enumerate().any(|(i, a)| spans[i + 1..].iter().any(|b| a.start < b.end && b.start < a.end))
    }

    proptest! {
        #[test]
        fn probabilities_equal_brute_force(case in oracle::cases(0..=6)) {
            let words = case.emissions.len();
            let paths = oracle::distribution(&case);
            let posteriors = case.crf.posteriors(&case.emissions);
            prop_assert_eq!(posteriors.len(), words);
            prop_assert_eq!(posteriors.log_partition(), case.crf.log_partition(&case.emissions));
            for i in 0..words {
                for a in Tag::ALL {
                    let expected = oracle::probability(&paths, |path| path[i] == a);
                    prop_assert!(close(posteriors.tag(i)[a as usize], expected));
                    for b in Tag::ALL.into_iter().filter(|_| i + 1 < words) {
                        let expected = oracle::probability(&paths, |path| path[i] == a && path[i + 1] == b);
                        prop_assert!(close(posteriors.pair(i)[a as usize][b as usize], expected));
                    }
                }
                for end in i + 1..=words {
                    let expected = oracle::probability(&paths, |path| spans(path).any(|span| span == (i..end)));
                    prop_assert!(close(posteriors.span(i, end), expected));
                }
            }
        }

        #[test]
        fn posteriors_of_spans_add_up_to_that_of_b(case in oracle::cases(1..=40)) {
            let posteriors = case.crf.posteriors(&case.emissions);
            for start in 0..posteriors.len() {
                let ends = start + 1..=posteriors.len();
                let sum: f64 = ends.map(|end| posteriors.span(start, end)).sum();
                prop_assert!((sum - posteriors.tag(start)[B]).abs() < 1e-12);
            }
        }

        #[test]
        fn a_threshold_keeps_every_span_that_reaches_it(
            case in oracle::cases(0..=20),
            threshold in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0],
        ) {
            let posteriors = case.crf.posteriors(&case.emissions);
            let mut expected = Vec::new();
            for start in 0..posteriors.len() {
                for end in start + 1..=posteriors.len() {
                    let posterior = posteriors.span(start, end);
                    if posterior >= threshold && posterior >= LOWEST_THRESHOLD {
                        expected.push(ScoredSpan { start, end, posterior });
                    }
                }
            }
            let found = posteriors.spans_at_least(threshold);
            prop_assert_eq!(&found, &expected);
            prop_assert!(threshold <= 0.5 || !overlap(&found));
        }

        #[test]
        fn best_spans_equal_the_search_of_all_subsets(
            case in oracle::cases(0..=4),
            threshold in 0.0..0.4,
        ) {
            let posteriors = case.crf.posteriors(&case.emissions);
            let candidates = posteriors.spans_at_least(threshold);
            let mut expected = 0.0_f64;
            for subset in 0..1_u32 << candidates.len() {
                let kept: Vec<ScoredSpan> = candidates
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| subset >> i & 1 == 1)
                    .map(|(_, &span)| span)
                    .collect();
                if !overlap(&kept) {
                    expected = expected.max(kept.iter().map(|span| span.posterior).sum());
                }
            }
            let found = posteriors.best_spans(threshold);
            prop_assert!(!overlap(&found));
            prop_assert!(found.is_sorted_by_key(|span| span.start));
            prop_assert!(found.iter().all(|span| candidates.contains(span)));
            let sum: f64 = found.iter().map(|span| span.posterior).sum();
            prop_assert!((sum - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn several_short_spans_beat_the_likeliest_one() {
        // Hand-made probabilities: 0..1 with 0.4, 0..3 with 0.6, 2..3 with 0.4.
        let mut next = vec![[[1.0, 0.0, 0.0]; 3]; 2];
        next[0][B] = [0.4, 0.0, 0.6];
        next[1][O] = [0.0, 1.0, 0.0];
        next[1][I] = [0.0, 0.0, 1.0];
        let posteriors =
            Posteriors { log_partition: 0.0, tags: vec![[0.0, 1.0, 0.0], [0.4, 0.0, 0.6], [0.0, 0.4, 0.6]], next };
        let ranges = |spans: Vec<ScoredSpan>| -> Vec<(usize, usize)> {
            spans.iter().map(|span| (span.start, span.end)).collect()
        };
        assert_eq!(ranges(posteriors.best_spans(0.3)), [(0, 1), (2, 3)]);
        assert_eq!(ranges(posteriors.best_spans(0.5)), [(0, 3)]);
        assert_eq!(ranges(posteriors.best_spans(0.7)), []);
    }

    #[test]
    fn no_words_and_no_such_span_have_no_probability() {
        let posteriors = Crf::default().posteriors(&[]);
        assert!(posteriors.is_empty());
        assert_eq!(posteriors.log_partition(), 0.0);
        assert!(posteriors.spans_at_least(0.1).is_empty());
        assert!(posteriors.best_spans(0.1).is_empty());
        let posteriors = Crf::default().posteriors(&[[0.0; 3]; 2]);
        assert_eq!(posteriors.span(1, 1), 0.0);
        assert_eq!(posteriors.span(1, 0), 0.0);
        assert_eq!(posteriors.span(1, 3), 0.0);
        assert_eq!(posteriors.span(usize::MAX, usize::MAX), 0.0);
        assert_eq!(posteriors.spans_at_least(f64::NAN).len(), 3);
        assert_eq!(posteriors.spans_at_least(-1.0).len(), 3);
        assert!(posteriors.spans_at_least(f64::INFINITY).is_empty());
    }

    #[test]
    fn scores_of_any_size_give_probabilities() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e4, -1e4];
        let emissions: Vec<[f32; 3]> = (0..125).map(|i| [odd[i % 5], odd[i / 5 % 5], odd[i / 25]]).collect();
        let posteriors = Crf::default().posteriors(&emissions);
        assert!(posteriors.log_partition().is_finite());
        for i in 0..posteriors.len() {
            let tag = posteriors.tag(i);
            assert!(tag.iter().all(|p| (0.0..=1.0).contains(p)), "{i}: {tag:?}");
            assert!((tag.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // A word of which nothing is known is as likely to be anything as without emissions.
        let unknown = Crf::default().posteriors(&[[f32::NAN; 3]; 3]);
        let neutral = Crf::default().posteriors(&[[0.0; 3]; 3]);
        for i in 0..3 {
            for tag in 0..TAGS {
                assert!(close(unknown.tag(i)[tag], neutral.tag(i)[tag]));
            }
        }
    }

    #[test]
    fn a_long_text_keeps_the_probabilities_of_its_parts() {
        // The last word of the part is O for certain, so the parts are independent.
        let part = [[0.0, 3.0, 0.0], [1.0, -2.0, 1.5], [1e4, 0.0, 0.0]];
        let crf = Crf::default();
        let alone = crf.posteriors(&part);
        let copies = 33_334;
        let long = crf.posteriors(&part.repeat(copies));
        for i in 0..long.len() {
            for tag in 0..TAGS {
                assert!((long.tag(i)[tag] - alone.tag(i % 3)[tag]).abs() < 1e-12);
            }
        }
        assert_eq!(long.best_spans(0.1).len(), copies);
        assert_eq!(long.spans_at_least(0.1).len(), copies * alone.spans_at_least(0.1).len());
        // One mention of 100,000 words, each of which goes on with probability 1 - 1e-7 or more.
        let mut emissions = vec![[0.0, -20.0, 20.0]; 100_000];
        emissions[0] = [0.0, 20.0, 0.0];
        let one = crf.posteriors(&emissions).best_spans(0.5);
        assert_eq!(one.len(), 1);
        assert_eq!((one[0].start, one[0].end), (0, 100_000));
    }

    #[test]
    fn rounding_never_adds_up_nor_exceeds_one() {
        let emissions: Vec<[f32; 3]> =
            (0..100_000_u32).map(|i| [7, 11, 13].map(|step| (i * step % 31) as f32 / 8.0 - 2.0)).collect();
        let posteriors = Crf::default().posteriors(&emissions);
        for i in 0..posteriors.len() {
            let sum: f64 = posteriors.tag(i).iter().sum();
            assert!((sum - 1.0).abs() <= 2.0 * f64::EPSILON, "word {i}: {sum}");
        }
        // The first word is B for certain and the second is not I; O and B may round to more than 1 together.
        for step in 0..1000_u16 {
            let emissions = [[-1e4, 0.0, 0.0], [0.0, -f32::from(step) / 256.0, -1e4]];
            assert!(Crf::default().posteriors(&emissions).span(0, 1) <= 1.0);
        }
    }
}

//! Posteriors of predicted mentions and whether each is right -> how far a posterior can be taken at its word: bins, their expected calibration
//! error and a reliability diagram.
//! Guo, Pleiss, Sun and Weinberger 2017 (arXiv 1706.04599), section 2: equal-width bins, equation 3; fifteen of them as in their experiments.

use crate::plot::{Axis, Bar, Bars, Line, Mark, Plot};

/// Number of bins.
pub const BINS: usize = 15;

/// No outcome counts as less likely than this.
const SMALLEST: f64 = 1e-6;

/// The predictions whose posterior lies in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Number of predictions.
    pub count: u64,
    /// Sum of their posteriors.
    pub posteriors: f64,
    /// How many of them are right.
    pub correct: u64,
}

/// Predictions by their posterior: bin `m` of [`BINS`] holds those in `(m / BINS, (m + 1) / BINS]`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Calibration {
    bins: [Bin; BINS],
    /// Sum over predictions of the negative logarithm of what they gave to what is so.
    log_loss: f64,
}

impl Calibration {
    /// Adds a prediction.
    pub fn add(&mut self, posterior: f64, correct: bool) {
        let index = (posterior * BINS as f64).ceil() as usize;
        let bin = &mut self.bins[index.clamp(1, BINS) - 1];
        bin.count += 1;
        bin.posteriors += posterior;
        bin.correct += u64::from(correct);
        let given = if correct { posterior } else { 1. - posterior };
        self.log_loss -= given.max(SMALLEST).ln();
    }

    /// Mean negative logarithm, in nats, of the probability given to what turned out, right or not: smallest where posteriors mean what they say.
    /// `None` without predictions.
    pub fn log_loss(&self) -> Option<f64> {
        let count: u64 = self.bins.iter().map(|bin| bin.count).sum();
        (count > 0).then(|| self.log_loss / count as f64)
    }

    /// The bins, from the lowest posteriors up.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// Expected calibration error in percent: the mean over predictions of the distance, in each prediction's bin, between the share of right
    /// ones and the mean posterior. `None` without predictions.
    ///
    /// ```
    /// use chemtag_training::calibration::Calibration;
    ///
    /// let mut calibration = Calibration::default();
    /// for correct in [true, true, true, false] {
    ///     calibration.add(0.95, correct);
    /// }
    /// // 75 % are right where 95 % were promised.
    /// assert!((calibration.error().unwrap() - 20.).abs() < 1e-9);
    /// ```
    pub fn error(&self) -> Option<f64> {
        let count: u64 = self.bins.iter().map(|bin| bin.count).sum();
        let distances = self.bins.iter().map(|bin| (bin.correct as f64 - bin.posteriors).abs());
        // |B| / n · |correct / |B| - posteriors / |B|| is |correct - posteriors| / n.
        (count > 0).then(|| 100. * distances.sum::<f64>() / count as f64)
    }

    /// The reliability diagram: for each bin that holds something the share of right predictions, which would be on the diagonal if posteriors
    /// were what they say; a dot stands at the bin's mean posterior.
    pub fn diagram(&self) -> Plot {
        let filled = || self.bins.iter().enumerate().filter(|(_, bin)| bin.count > 0);
        let edge = |index: usize| index as f64 / BINS as f64;
        let share = |bin: &Bin| bin.correct as f64 / bin.count as f64;
        let bar =
            |(i, bin): (usize, &Bin)| Bar { x: edge(i)..edge(i + 1), y: share(bin), label: bin.count.to_string() };
        let points = filled().map(|(_, bin)| (bin.posteriors / bin.count as f64, share(bin))).collect();
        let axis = |label: &str| Axis { label: label.into(), range: Some(0. ..1.) };
        let title = match self.error() {
            Some(error) => format!("Reliability of span posteriors: expected calibration error {error:.2} %"),
            None => "Reliability of span posteriors: no predictions".into(),
        };
        Plot {
            title,
            x: axis("posterior of the span"),
            y: axis("share of spans that are right"),
            lines: vec![Line { name: "at the bin's mean posterior".into(), points, mark: Mark::Dots }],
            bars: Some(Bars {
                name: "right among the bin's spans, whose number is below".into(),
                bars: filled().map(bar).collect(),
            }),
            diagonal: Some("where posteriors are exact".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Three bins by hand: (0.9, 0.95) with one right, (0.5) right, (0.1, 0.12, 0.2) with one right; 6 predictions.
    /// 1/3 · |0.5 - 0.925| + 1/6 · |1 - 0.5| + 1/6 · ... in fifteenths: 0.9 lies in (13/15, 14/15], 0.95 in (14/15, 1]; 0.1 and 0.12 in
    /// (1/15, 2/15], 0.2 in (2/15, 3/15] with its upper edge.
    #[test]
    fn the_error_is_the_one_computed_by_hand() {
        let mut calibration = Calibration::default();
        for (posterior, correct) in [(0.9, true), (0.95, false), (0.5, true), (0.1, false), (0.12, true), (0.2, false)]
        {
            calibration.add(posterior, correct);
        }
        let counts: Vec<u64> = calibration.bins().iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [0, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1]);
        // 1/6 · (|1 - 0.9| + |0 - 0.95| + |1 - 0.5| + |0 - 0.2|) + 2/6 · |1/2 - 0.11| = 1/6 · (0.1 + 0.95 + 0.5 + 0.2 + 0.78)
        assert!((calibration.error().unwrap() - 100. * 2.53 / 6.).abs() < 1e-9);
    }

    #[test]
    fn bins_hold_their_upper_edges() {
        let mut calibration = Calibration::default();
        for posterior in [0., 1. / 15., 1., 1. + 1e-6] {
            calibration.add(posterior, true);
        }
        assert_eq!((calibration.bins()[0].count, calibration.bins()[14].count), (2, 2));
        assert_eq!(Calibration::default().error(), None);
    }

    /// Where each prediction is right with its own posterior's probability, the error goes to zero as predictions grow in number.
    #[test]
    fn exact_posteriors_have_no_error() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let [mut exact, mut sure] = [Calibration::default(); 2];
        for _ in 0..200_000 {
            let posterior: f64 = random.random();
            let correct = random.random_bool(posterior);
            exact.add(posterior, correct);
            sure.add(1., correct);
        }
        assert!(exact.error().unwrap() < 0.5, "{:?}", exact.error());
        // Right half of the time, and always sure.
        assert!((sure.error().unwrap() - 50.).abs() < 0.5, "{:?}", sure.error());
    }

    #[test]
    fn the_diagram_shows_what_bins_hold() {
        let mut calibration = Calibration::default();
        calibration.add(0.97, true);
        calibration.add(0.99, false);
        let plot = calibration.diagram();
        let bar = Bar { x: 14. / 15. ..1., y: 0.5, label: "2".into() };
        assert_eq!(plot.bars.as_ref().unwrap().bars, [bar]);
        assert_eq!(plot.lines[0].points, [(0.98, 0.5)]);
        assert!(plot.svg().unwrap().contains("expected calibration error 48.00 %"));
        assert!(Calibration::default().diagram().svg().is_ok());
    }
}

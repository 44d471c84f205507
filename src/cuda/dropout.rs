//! Seed, step, site and place of an element -> whether dropout (Srivastava et al. 2014) keeps it, the same in every pass and launch.
//! Kernels compute it (`philox.cuh`); here is what they are told, and for tests the same generator as the paper has it:
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").

use crate::error::{Error, Result};

/// One dropout: elements of a tensor `[rows, width]` are set to 0 with a probability, the others scaled up so that the mean stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share that is dropped, in steps of 1 / 65,536; with 0 no random number is made.
    pub probability: f32,
    /// Seed of the training run.
    pub seed: u64,
    /// Optimiser step, or any number that differs between passes that should differ.
    pub step: u32,
    /// Which dropout of the network.
    pub site: u32,
}

/// Random bits decide on an element as a whole number below this.
const LEVELS: u32 = 1 << 16;

impl Dropout {
    /// Keeps everything.
    pub const NONE: Self = Self { probability: 0., seed: 0, step: 0, site: 0 };

    /// Whether anything is ever dropped.
    pub fn is_active(&self) -> bool {
        self.threshold() > 0
    }

    fn threshold(&self) -> u32 {
        (self.probability * LEVELS as f32).round() as u32
    }

    /// The kernels' `struct Dropout`.
    ///
    /// # Errors
    /// [`Error::Option`] if the probability is not in 0..1.
    pub(crate) fn arguments(&self) -> Result<[u32; 6]> {
        let threshold = self.threshold();
        if !(0. ..1.).contains(&self.probability) || threshold >= LEVELS {
            return Err(Error::Option(format!(
                "a dropout probability is at least 0 and below 1, not {}",
                self.probability
            )));
        }
        let scale = LEVELS as f32 / (LEVELS - threshold) as f32;
        Ok([self.seed as u32, (self.seed >> 32) as u32, self.step, self.site, threshold, scale.to_bits()])
    }

    /// Factor on element `row * width + column`, from eight of which one counter decides.
    #[cfg(test)]
    pub(crate) fn factor(&self, element: usize) -> f64 {
        let eight = (element / 8) as u64;
        let counter = [eight as u32, (eight >> 32) as u32, self.site, self.step];
        let words = philox(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        let word = words[element % 8 / 2];
        let bits = if element.is_multiple_of(2) { word & 0xffff } else { word >> 16 };
        let (levels, threshold) = (f64::from(LEVELS), self.threshold());
        if bits >= threshold { levels / (levels - f64::from(threshold)) } else { 0. }
    }
}

#[cfg(test)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let products = [0xD251_1F53u64 * u64::from(counter[0]), 0xCD9E_8D57u64 * u64::from(counter[2])];
        counter = [
            (products[1] >> 32) as u32 ^ counter[1] ^ key[0],
            products[1] as u32,
            (products[0] >> 32) as u32 ^ counter[3] ^ key[1],
            products[0] as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the file `kat_vectors` of Random123, which the paper's authors published with it.
    #[test]
    fn philox_gives_the_published_numbers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    /// Of n elements, a share p is dropped within four standard deviations, and differently at every step and site.
    #[test]
    fn the_share_is_dropped_anew_at_each_site_and_step() {
        let dropout = Dropout { probability: 0.1, seed: 1 << 40 | 7, step: 3, site: 2 };
        let count = 100_000;
        let mask = |d: Dropout| -> Vec<bool> { (0..count).map(|i| d.factor(i) == 0.).collect() };
        let first = mask(dropout);
        let dropped = first.iter().filter(|&&d| d).count() as f64;
        assert!((dropped - 0.1 * count as f64).abs() < 4. * (count as f64 * 0.09).sqrt(), "{dropped}");
        for other in [Dropout { step: 4, ..dropout }, Dropout { site: 1, ..dropout }, Dropout { seed: 7, ..dropout }] {
            let both = first.iter().zip(mask(other)).filter(|&(&a, b)| a && b).count() as f64;
            assert!((both - 0.01 * count as f64).abs() < 4. * (count as f64 * 0.01).sqrt(), "{both}");
        }
    }

    #[test]
    fn a_probability_outside_its_range_is_refused() {
        for probability in [-0.1, 1., 2., f32::NAN] {
            assert!(Dropout { probability, ..Dropout::NONE }.arguments().is_err());
        }
        assert!(!Dropout::NONE.is_active() && Dropout::NONE.arguments().is_ok());
    }
}

//! Dropout with a mask that a seed and a step determine: same seed and step, same mask, whatever ran before.
//! On the CPU the mask comes from Philox 4x32-10 (Salmon et al. 2011), a counter-based generator; on CUDA from curand,
//! seeded by [`Dropout::reseed`].

use candle_core::{Device, Result, Tensor};

use super::gradient::multiply_constant;

/// Makes dropout masks for one training step.
pub struct Dropout {
    probability: f64,
    key: [u32; 2],
    /// Masks made since the last reseeding: the upper half of Philox's counter.
    calls: u64,
}

impl Dropout {
    /// `probability`: share of values set to 0.
    pub fn new(probability: f64) -> Self {
        Self { probability, key: [0; 2], calls: 0 }
    }

    /// Starts the sequence of masks that belongs to `seed`.
    pub fn reseed(&mut self, seed: u64) {
        self.key = [seed as u32, (seed >> 32) as u32];
        self.calls = 0;
    }

    /// What the fused operations need to make the masks of one pass, which differ from those of any other pass since the last reseeding.
    #[cfg(feature = "cuda")]
    pub fn next_pass(&mut self) -> crate::cuda::encoder::PassDropout {
        let [low, high] = self.key;
        let pass = crate::cuda::encoder::PassDropout {
            probability: self.probability as f32,
            seed: u64::from(low) | u64::from(high) << 32,
            step: self.calls as u32,
        };
        self.calls += 1;
        pass
    }

    /// `x` with a random share of its values set to 0 and the others scaled to keep the mean.
    pub fn apply(&mut self, x: &Tensor) -> Result<Tensor> {
        if self.probability == 0. {
            return Ok(x.clone());
        }
        let keep = 1. - self.probability;
        let uniform = match x.device() {
            Device::Cpu => Tensor::from_vec(self.uniform(x.elem_count()), x.shape(), &Device::Cpu)?,
            device => Tensor::rand(0f32, 1f32, x.shape(), device)?,
        };
        self.calls += 1;
        let mask = (uniform.lt(keep)?.to_dtype(x.dtype())? * (1. / keep))?;
        multiply_constant(x, mask)
    }

    /// Numbers in [0, 1).
    fn uniform(&self, count: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(count.next_multiple_of(4));
        let [low, high] = [self.calls as u32, (self.calls >> 32) as u32];
        for block in 0..count.div_ceil(4) as u64 {
            let random = philox([block as u32, (block >> 32) as u32, low, high], self.key);
            numbers.extend(random.map(|bits| (bits >> 8) as f32 * (1. / (1 << 24) as f32)));
        }
        numbers.truncate(count);
        numbers
    }
}

/// Philox 4x32-10: 128 random bits from a counter and a key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let a = MULTIPLIERS[0] * u64::from(counter[0]);
        let b = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Known answers of the reference implementation (Random123, kat_vectors).
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn same_seed_same_masks_and_the_mean_stays() -> Result<()> {
        let ones = Tensor::ones((100, 100), DType::F32, &Device::Cpu)?;
        let mut dropout = Dropout::new(0.1);
        let mut masks = |seed| -> Result<Vec<Vec<f32>>> {
            dropout.reseed(seed);
            (0..2).map(|_| dropout.apply(&ones)?.flatten_all()?.to_vec1()).collect()
        };
        let first = masks(7)?;
        assert_eq!(first, masks(7)?);
        assert_ne!(first, masks(8)?);
        assert_ne!(first[0], first[1]);
        let mean = first[0].iter().sum::<f32>() / 1e4;
        assert!((mean - 1.).abs() < 0.02, "{mean}");
        Ok(())
    }
}

//! The steps of a panel of weights -> groups of steps whose products can be added up in 16 bits: one widening to 32 bits for a group, not for each step.
//! A step is four inputs of 16 channels. Each 16-bit lane takes the products of two inputs a step; with activations of 0 to 127 its sum lies between
//! 127 times the group's negative and 127 times its positive weights, whatever the activations are, so the weights alone say what fits.
//! Method: first fit by descending size (Johnson 1973, "Near-optimal bin packing algorithms"), a bin full at [`MOST_TOGETHER`] or four steps.

use super::matrix::LARGEST_ACTIVATION;
use super::vector::{IntLine, LANES, Line};

/// Steps of a large and of a small group.
pub const LARGE: usize = 4;
pub const SMALL: usize = 3;
/// Most that the positive or the negative weights of one lane and group may sum up to, each by itself.
const MOST_TOGETHER: u8 = 254;
/// Sums of one sign for each 16-bit lane of a step: 16 channels, two pairs of inputs, two signs.
const SUMS: usize = 4 * LANES;

const _: () = assert!(MOST_TOGETHER as i32 * LARGEST_ACTIVATION <= i16::MAX as i32);

/// The groups of one panel, for a kernel to read.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    /// How many groups of [`LARGE`] steps come first, and how many of [`SMALL`] behind them.
    large: usize,
    small: usize,
    /// For each step of the groups, one after another: which step of a row of activations it takes, and its weights.
    order: &'a [u16],
    weights: &'a [IntLine],
    /// Steps of a row: larger than each of `order`.
    steps: usize,
}

impl<'a> Groups<'a> {
    /// Groups of [`LARGE`] steps.
    pub fn large(&self) -> usize {
        self.large
    }

    /// Groups of [`SMALL`] steps.
    pub fn small(&self) -> usize {
        self.small
    }

    /// `[LARGE * large + SMALL * small]`: each below [`Groups::steps`].
    pub fn order(&self) -> &'a [u16] {
        self.order
    }

    /// As many lines as `order` has numbers.
    pub fn weights(&self) -> &'a [IntLine] {
        self.weights
    }

    /// Steps of a row of activations.
    pub fn steps(&self) -> usize {
        self.steps
    }
}

/// Panels whose steps are in groups. Groups with too few steps are filled up with weights of zero.
#[derive(Debug, Clone)]
pub struct GroupedPanels {
    steps: usize,
    order: Vec<u16>,
    weights: Vec<IntLine>,
    /// For each panel: its first place in `order` and `weights`, its large and its small groups.
    panels: Vec<(usize, usize, usize)>,
}

impl GroupedPanels {
    /// Groups the steps of `[panels, steps]`; a row has at most 65,536 of them.
    pub fn new(weights: &[IntLine], steps: usize) -> Self {
        let mut grouped = Self {
            steps,
            order: Vec::with_capacity(weights.len() + weights.len() / 8),
            weights: Vec::with_capacity(weights.len() + weights.len() / 8),
            panels: Vec::with_capacity(weights.len() / steps.max(1)),
        };
        for panel in weights.chunks_exact(steps.max(1)) {
            grouped.push(panel);
        }
        grouped
    }

    /// The groups of a panel.
    pub fn panel(&self, index: usize) -> Groups<'_> {
        let (first, large, small) = self.panels[index];
        let places = first..first + LARGE * large + SMALL * small;
        Groups { large, small, order: &self.order[places.clone()], weights: &self.weights[places], steps: self.steps }
    }

    fn push(&mut self, panel: &[IntLine]) {
        let groups = first_fit(panel);
        let first = self.order.len();
        let (large, small): (Vec<&Bin>, Vec<&Bin>) = groups.iter().partition(|group| group.count == LARGE);
        for group in large.iter().chain(&small) {
            let room = if group.count == LARGE { LARGE } else { SMALL };
            for place in 0..room {
                let there = place < group.count;
                self.order.push(if there { group.steps[place] } else { 0 });
                self.weights.push(if there { panel[usize::from(group.steps[place])] } else { Line::default() });
            }
        }
        self.panels.push((first, large.len(), small.len()));
    }
}

/// A group in the making.
struct Bin {
    sums: [u8; SUMS],
    steps: [u16; LARGE],
    count: usize,
}

/// A step's weights of one sign, added up in each 16-bit lane: positive ones first.
fn sums_of(step: &IntLine) -> [u8; SUMS] {
    let mut sums = [0u8; SUMS];
    let (positive, negative) = sums.split_at_mut(SUMS / 2);
    for ((weights, positive), negative) in
        step.0.iter().zip(positive.chunks_exact_mut(2)).zip(negative.chunks_exact_mut(2))
    {
        for (pair, weights) in weights.to_le_bytes().as_chunks::<2>().0.iter().enumerate() {
            for weight in weights.map(u8::cast_signed) {
                let sum = if weight > 0 { &mut positive[pair] } else { &mut negative[pair] };
                *sum = sum.saturating_add(weight.unsigned_abs());
            }
        }
    }
    sums
}

fn first_fit(panel: &[IntLine]) -> Vec<Bin> {
    let mut sizes: Vec<(u8, u16, [u8; SUMS])> = panel
        .iter()
        .enumerate()
        .map(|(step, line)| {
            let sums = sums_of(line);
            (sums.iter().copied().fold(0, u8::max), step as u16, sums)
        })
        .collect();
    sizes.sort_by_key(|&(size, ..)| std::cmp::Reverse(size));
    let mut bins: Vec<Bin> = Vec::with_capacity(panel.len() / SMALL + 1);
    // Bins before this one are full.
    let mut open = 0;
    for (_, step, sums) in sizes {
        while bins.get(open).is_some_and(|bin| bin.count == LARGE) {
            open += 1;
        }
        let place = bins[open..].iter().position(|bin| bin.count < LARGE && fits(&bin.sums, &sums));
        let bin = match place {
            Some(place) => &mut bins[open + place],
            None => {
                bins.push(Bin { sums: [0; SUMS], steps: [0; LARGE], count: 0 });
                let last = bins.len() - 1;
                &mut bins[last]
            }
        };
        for (sum, more) in bin.sums.iter_mut().zip(&sums) {
            *sum += more;
        }
        bin.steps[bin.count] = step;
        bin.count += 1;
    }
    bins
}

/// Whether no sum of the two together exceeds [`MOST_TOGETHER`].
fn fits(held: &[u8; SUMS], more: &[u8; SUMS]) -> bool {
    let highest = held.iter().zip(more).fold(0, |highest, (&held, &more)| highest.max(held.saturating_add(more)));
    highest <= MOST_TOGETHER
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panels of random weights, some of them of the largest magnitude.
    fn panels(count: usize, steps: usize, extremes: u32) -> Vec<IntLine> {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut weight = || match next() % 100 {
            n if n < extremes => 127,
            n if n < 2 * extremes => -127,
            _ => (next() % 100) as i8 - 50,
        };
        let mut line =
            || Line(std::array::from_fn(|_| i32::from_le_bytes(std::array::from_fn(|_| weight().cast_unsigned()))));
        (0..count * steps).map(|_| line()).collect()
    }

    /// Every step is there once with its weights, the rest is zero, and the largest activations leave no lane of a group too small or too large.
    fn check(weights: &[IntLine], steps: usize) -> f64 {
        let grouped = GroupedPanels::new(weights, steps);
        let mut groups = 0;
        for (index, panel) in weights.chunks(steps).enumerate() {
            let found = grouped.panel(index);
            assert_eq!(found.order().len(), found.weights().len());
            assert_eq!(found.order().len(), LARGE * found.large() + SMALL * found.small());
            let mut seen = vec![false; steps];
            for (&step, line) in found.order().iter().zip(found.weights()) {
                let step = usize::from(step);
                if *line != Line::default() || panel[step] == Line::default() {
                    assert!(*line == panel[step] && (!seen[step] || *line == Line::default()));
                    seen[step] = true;
                }
            }
            assert!(seen.iter().all(|&seen| seen));
            let (large, small) = found.weights().split_at(LARGE * found.large());
            for group in large.chunks(LARGE).chain(small.chunks(SMALL)) {
                for lane in 0..2 * LANES {
                    let of_lane = || {
                        group.iter().flat_map(move |line| {
                            let bytes = line.0[lane / 2].to_le_bytes();
                            [bytes[lane % 2 * 2], bytes[lane % 2 * 2 + 1]].map(|byte| i32::from(byte.cast_signed()))
                        })
                    };
                    let positive: i32 = of_lane().filter(|&weight| weight > 0).sum();
                    let negative: i32 = of_lane().filter(|&weight| weight < 0).sum();
                    assert!(127 * positive <= i32::from(i16::MAX) && 127 * negative >= i32::from(i16::MIN));
                }
                groups += 1;
            }
        }
        weights.len() as f64 / groups as f64
    }

    #[test]
    fn no_group_overflows_and_no_step_is_lost() {
        for steps in if cfg!(miri) { vec![4, 12] } else { vec![4, 8, 12, 96, 384] } {
            for extremes in [0, 1, 5, 50] {
                check(&panels(3, steps, extremes), steps);
            }
        }
        check(&vec![Line([i32::from_le_bytes([127; 4]); LANES]); 24], 12);
        check(&vec![Line([i32::from_le_bytes([129; 4]); LANES]); 24], 12);
        check(&vec![Line::default(); 24], 12);
    }

    #[test]
    fn weights_of_usual_size_fill_most_groups() {
        let mean = check(&panels(if cfg!(miri) { 1 } else { 4 }, 96, 0), 96);
        assert!(mean > 3.5, "{mean} steps to a group");
    }
}

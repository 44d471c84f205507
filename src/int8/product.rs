//! Rows of 7-bit activations times packed 8-bit weights -> rows of floats: exact 32-bit sums, then scale and bias, and what comes next
//! while the sums are at hand. Method: register tiles over the whole depth (Goto and van de Geijn 2008, section 5), so that a sum is loaded and
//! stored once; the zero point is folded in by the sums of the weights (Jacob et al. 2018, equation 7).

use std::ops::Range;

use super::elementary::gelu;
use super::groups::Groups;
use super::matrix::{Matrix, Panel};
use super::vector::{FloatLine, IntLine, Operation, Vector};

/// Rows of activations: `x = scale * (q - zero)`, q from 0 to 127, a scale and a zero point for each row.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    /// `[rows, steps]`: four values to a group.
    pub values: Vec<[u8; 4]>,
    /// Groups of a row.
    pub steps: usize,
    /// `[rows]`.
    pub scales: Vec<f32>,
    /// `[rows]`: 0 to 127.
    pub zeros: Vec<i32>,
}

impl Activations {
    /// Room for `rows` rows of `steps` groups; what was there is forgotten.
    pub fn resize(&mut self, rows: usize, steps: usize) {
        self.steps = steps;
        self.values.resize(rows * steps, [0; 4]);
        self.scales.resize(rows, 0.);
        self.zeros.resize(rows, 0);
    }

    /// The rows of a range.
    pub fn rows(&self, rows: Range<usize>) -> ActivationRows<'_> {
        ActivationRows {
            values: &self.values[rows.start * self.steps..rows.end * self.steps],
            scales: &self.scales[rows.clone()],
            zeros: &self.zeros[rows],
        }
    }

    /// All rows, to be written.
    pub fn all_mut(&mut self) -> ActivationRowsMut<'_> {
        ActivationRowsMut {
            values: &mut self.values,
            steps: self.steps,
            scales: &mut self.scales,
            zeros: &mut self.zeros,
        }
    }
}

/// Some rows of activations.
#[derive(Debug, Clone, Copy)]
pub struct ActivationRows<'a> {
    values: &'a [[u8; 4]],
    scales: &'a [f32],
    zeros: &'a [i32],
}

/// Some rows of activations, to be written.
#[derive(Debug)]
pub struct ActivationRowsMut<'a> {
    pub values: &'a mut [[u8; 4]],
    pub steps: usize,
    pub scales: &'a mut [f32],
    pub zeros: &'a mut [i32],
}

/// What becomes of a product's floats.
pub trait Epilogue: Copy {
    /// The value to keep, from the product's and the one that stands there.
    fn finish<V: Vector>(self, v: V, product: V::Float, there: &FloatLine) -> V::Float;
}

/// It is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep;

/// It is added to what stands there (a residual connection).
#[derive(Debug, Clone, Copy)]
pub struct Add;

/// Its GELU is kept.
#[derive(Debug, Clone, Copy)]
pub struct Gelu;

impl Epilogue for Keep {
    #[inline(always)]
    fn finish<V: Vector>(self, _: V, product: V::Float, _: &FloatLine) -> V::Float {
        product
    }
}

impl Epilogue for Add {
    #[inline(always)]
    fn finish<V: Vector>(self, v: V, product: V::Float, there: &FloatLine) -> V::Float {
        v.add(v.load(&there.0), product)
    }
}

impl Epilogue for Gelu {
    #[inline(always)]
    fn finish<V: Vector>(self, v: V, product: V::Float, _: &FloatLine) -> V::Float {
        gelu(v, product)
    }
}

/// A linear layer on some rows.
pub struct Product<'a, E> {
    /// Rows of as many groups as `weights` has steps.
    pub activations: ActivationRows<'a>,
    /// The layer.
    pub weights: &'a Matrix,
    /// `[rows, panels]`: where the results go.
    pub out: &'a mut [FloatLine],
    /// What becomes of them.
    pub epilogue: E,
}

impl<E: Epilogue> Operation for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { activations, weights, out, epilogue } = self;
        let (panels, steps) = (weights.panels(), weights.steps());
        let mut sums = Tile::default();
        let mut panel = 0;
        while panel < panels {
            let of_panel = weights.panel(panel);
            let wide = if let Panel::InOrder(_) = of_panel { V::TILE.1.min(panels - panel) } else { 1 };
            let mut row = 0;
            while row < activations.scales.len() {
                let (rows, left) = (&activations.values[row * steps..], activations.scales.len() - row);
                let high = match of_panel {
                    Panel::InOrder(lines) => {
                        let high = tile_rows::<V>(left);
                        tile::<V, Bytes>(v, (high, wide), rows, steps, lines, &mut sums);
                        high
                    }
                    Panel::InGroups(groups) => tile_in_groups(v, left, rows, groups, &mut sums),
                };
                for r in 0..high {
                    let (scale, zero) = (v.splat(activations.scales[row + r]), v.splat_int(activations.zeros[row + r]));
                    let line = (row + r) * panels + panel;
                    for (p, there) in out[line..line + wide].iter_mut().enumerate() {
                        let correction = v.mul_int(zero, v.load_int(&weights.sums[panel + p].0));
                        let sum = v.to_float(v.sub_int(v.load_int(&sums.0[r][p].0), correction));
                        let scaled = v.mul(sum, v.mul(scale, v.load(&weights.scales[panel + p].0)));
                        let product = v.add(scaled, v.load(&weights.biases[panel + p].0));
                        let value = epilogue.finish(v, product, there);
                        v.store(value, &mut there.0);
                    }
                }
                row += high;
            }
            panel += wide;
        }
    }
}

/// The sums of a tile: at most 8 rows and 3 panels.
#[derive(Default)]
pub struct Tile(pub [[IntLine; 3]; 8]);

/// What two neighbouring groups of 32 bits hold, and how they are multiplied.
pub trait Depth {
    /// `sum` and the products within each lane.
    fn dot<V: Vector>(v: V, sum: V::Int, a: V::Int, b: V::Int) -> V::Int;
}

/// Four activations of 7 bits, four weights of 8.
pub struct Bytes;

/// Two signed values of 16 bits on both sides.
pub struct Halves;

impl Depth for Bytes {
    #[inline(always)]
    fn dot<V: Vector>(v: V, sum: V::Int, a: V::Int, b: V::Int) -> V::Int {
        v.dot_bytes(sum, a, b)
    }
}

impl Depth for Halves {
    #[inline(always)]
    fn dot<V: Vector>(v: V, sum: V::Int, a: V::Int, b: V::Int) -> V::Int {
        v.dot_halves(sum, a, b)
    }
}

/// Rows of the next tile, where so many are left.
#[inline(always)]
pub fn tile_rows<V: Vector>(left: usize) -> usize {
    for rows in [8, 6, 4, 2] {
        if rows <= V::TILE.0 && rows <= left {
            return rows;
        }
    }
    1
}

/// The sums of the next rows, of which `left` are left, with a panel in groups; returns how many rows they are.
#[inline(always)]
pub fn tile_in_groups<V: Vector>(v: V, left: usize, rows: &[[u8; 4]], groups: Groups, sums: &mut Tile) -> usize {
    match left {
        // Two and two are faster than three and one.
        2 | 4 => sum_groups::<V, 2>(v, rows, groups, sums),
        3.. => sum_groups::<V, 3>(v, rows, groups, sums),
        _ => sum_groups::<V, 1>(v, rows, groups, sums),
    }
}

#[inline(always)]
fn sum_groups<V: Vector, const R: usize>(v: V, rows: &[[u8; 4]], groups: Groups, sums: &mut Tile) -> usize {
    let row = std::array::from_fn(|r| &rows[r * groups.steps()..][..groups.steps()]);
    for (lines, sum) in sums.0.iter_mut().zip(v.dot_groups::<R>(row, groups)) {
        v.store_int(sum, &mut lines[0].0);
    }
    R
}

/// The sums of a tile of `size` rows and panels. Row `r` is `rows[r * steps..][..steps]`, and so are the panels.
#[inline(always)]
pub fn tile<V: Vector, D: Depth>(
    v: V,
    size: (usize, usize),
    rows: &[[u8; 4]],
    steps: usize,
    panels: &[IntLine],
    sums: &mut Tile,
) {
    // The size is the tile's own but at the edges. Arms that an instruction set has no registers for vanish.
    match size {
        (8, 3) if V::TILE.0 >= 8 && V::TILE.1 >= 3 => sum::<V, D, 8, 3>(v, rows, steps, panels, sums),
        (8, 2) if V::TILE.0 >= 8 && V::TILE.1 >= 2 => sum::<V, D, 8, 2>(v, rows, steps, panels, sums),
        (8, _) if V::TILE.0 >= 8 => sum::<V, D, 8, 1>(v, rows, steps, panels, sums),
        (6, 3) if V::TILE.0 >= 6 && V::TILE.1 >= 3 => sum::<V, D, 6, 3>(v, rows, steps, panels, sums),
        (6, 2) if V::TILE.0 >= 6 && V::TILE.1 >= 2 => sum::<V, D, 6, 2>(v, rows, steps, panels, sums),
        (6, _) if V::TILE.0 >= 6 => sum::<V, D, 6, 1>(v, rows, steps, panels, sums),
        (4, 3) if V::TILE.0 >= 4 && V::TILE.1 >= 3 => sum::<V, D, 4, 3>(v, rows, steps, panels, sums),
        (4, 2) if V::TILE.0 >= 4 && V::TILE.1 >= 2 => sum::<V, D, 4, 2>(v, rows, steps, panels, sums),
        (4, _) if V::TILE.0 >= 4 => sum::<V, D, 4, 1>(v, rows, steps, panels, sums),
        (2, 3) if V::TILE.0 >= 2 && V::TILE.1 >= 3 => sum::<V, D, 2, 3>(v, rows, steps, panels, sums),
        (2, 2) if V::TILE.0 >= 2 && V::TILE.1 >= 2 => sum::<V, D, 2, 2>(v, rows, steps, panels, sums),
        (2, _) if V::TILE.0 >= 2 => sum::<V, D, 2, 1>(v, rows, steps, panels, sums),
        (_, 3) if V::TILE.1 >= 3 => sum::<V, D, 1, 3>(v, rows, steps, panels, sums),
        (_, 2) if V::TILE.1 >= 2 => sum::<V, D, 1, 2>(v, rows, steps, panels, sums),
        _ => sum::<V, D, 1, 1>(v, rows, steps, panels, sums),
    }
}

/// [`tile`] of a size that is known to the compiler, so that the sums stay in registers.
#[inline(always)]
fn sum<V: Vector, D: Depth, const R: usize, const P: usize>(
    v: V,
    rows: &[[u8; 4]],
    steps: usize,
    panels: &[IntLine],
    sums: &mut Tile,
) {
    let mut row: [&[[u8; 4]]; R] = [&[]; R];
    for (r, row) in row.iter_mut().enumerate() {
        *row = &rows[r * steps..][..steps];
    }
    let mut panel: [&[IntLine]; P] = [&[]; P];
    for (p, panel) in panel.iter_mut().enumerate() {
        *panel = &panels[p * steps..][..steps];
    }
    let mut sum = [[v.splat_int(0); P]; R];
    for step in 0..steps {
        let mut weights = [v.splat_int(0); P];
        for p in 0..P {
            weights[p] = v.load_int(&panel[p][step].0);
        }
        for r in 0..R {
            let activation = v.splat_int(i32::from_le_bytes(row[r][step]));
            for p in 0..P {
                sum[r][p] = D::dot(v, sum[r][p], activation, weights[p]);
            }
        }
    }
    for (lines, row) in sums.0.iter_mut().zip(sum) {
        for (line, sum) in lines.iter_mut().zip(row) {
            v.store_int(sum, &mut line.0);
        }
    }
}

#[cfg(test)]
mod tests;

//! `qkv` [rows, 3 * hidden] (a row: q, k and v of every head, one after another) -> `context` [rows, hidden], softmax(q k^T / sqrt(width)) v
//! within each sequence of a packed batch; gradient on `context` -> gradient on `qkv`. FlashAttention-2 (Dao 2023): scores never leave the chip;
//! the backward pass computes them anew from `log_sum_exp` [heads, rows]. Heads are 32 or 64 wide.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::launch::{Checks, grid, write_or_null};
use super::{Half, Kernels, refused};
use crate::error::{Error, Result};

/// Rows that one warp has: those of a matrix instruction.
const FRAGMENT: u32 = 16;
/// Warps of a block, and so fragments of a tile.
const WARPS: usize = 8;
const THREADS: u32 = 32 * WARPS as u32;
/// Numbers that describe a fragment on the device.
const FRAGMENT_NUMBERS: usize = 4;
/// Numbers that describe a tile on the device.
const TILE_NUMBERS: usize = WARPS * FRAGMENT_NUMBERS;
/// Bytes of one matrix in a block's shared memory, as in `attention_tile.cuh`.
const SHARED_TILE: usize = 16 * 1024;

/// The work of a batch whose sequences lie at rows `cu_seqlens[i]..cu_seqlens[i + 1]`, as [`Attention`] wants it on the device: 32 numbers for each
/// block and head.
///
/// A tile has up to 8 fragments of 16 rows: of whole neighbouring sequences while they fit, or a part of one long sequence. For each it tells
/// first row, first and end row of its sequence, and end of the tile's last sequence. The tiles with most keys come first, so that the last
/// blocks to run are short ones.
#[must_use]
pub fn tiles(cu_seqlens: &[u32]) -> Vec<u32> {
    let mut tiles: Vec<Vec<[u32; 3]>> = vec![vec![]];
    let mut rows = 0;
    for (&start, &end) in cu_seqlens.iter().zip(cu_seqlens.iter().skip(1)) {
        // No row twice, even if the offsets fall somewhere: blocks rely on it.
        let start = start.max(rows);
        rows = rows.max(end);
        let fragments: Vec<_> = (start..end).step_by(FRAGMENT as usize).map(|first| [first, start, end]).collect();
        match tiles.last_mut() {
            Some(open) if open.len() + fragments.len() <= WARPS => open.extend(fragments),
            // Equal parts, so that the warps of all are equally busy; the last one takes no more.
            _ if fragments.len() > WARPS => {
                let parts = fragments.len().div_ceil(WARPS);
                tiles.extend(fragments.chunks(fragments.len().div_ceil(parts)).map(<[_]>::to_vec));
                tiles.push(vec![]);
            }
            _ => tiles.push(fragments),
        }
    }
    tiles.retain(|tile| !tile.is_empty());
    let range = |tile: &[[u32; 3]]| match (tile.first(), tile.last()) {
        (Some(&[_, start, _]), Some(&[_, _, end])) => start..end,
        _ => 0..0,
    };
    tiles.sort_by_key(|tile| std::cmp::Reverse(range(tile).len()));
    let mut numbers = Vec::with_capacity(tiles.len() * TILE_NUMBERS);
    for tile in &tiles {
        let range_end = range(tile).end;
        let idle = std::iter::repeat([range_end; 3]);
        for [first, start, end] in tile.iter().copied().chain(idle).take(WARPS) {
            numbers.extend([first, start, end, range_end]);
        }
    }
    numbers
}

/// The operation.
pub struct Attention<T> {
    stream: Arc<CudaStream>,
    heads: usize,
    width: usize,
    forward: CudaFunction,
    backward: CudaFunction,
    backward_shared: u32,
    number: PhantomData<T>,
}

impl<T: Half> Attention<T> {
    /// Loads the kernels for `heads` heads, each `width` wide.
    ///
    /// # Errors
    /// [`Error::Option`] if the width is neither 32 nor 64, [`Error::Device`] if the driver refuses the kernels.
    pub fn load(stream: &Arc<CudaStream>, heads: usize, width: usize) -> Result<Self> {
        if heads == 0 || !matches!(width, 32 | 64) {
            return Err(Error::Option(format!(
                "on a GPU attention needs heads that are 32 or 64 wide, not {heads} heads of {width}"
            )));
        }
        let kernels =
            Kernels::load(stream, "attention.cu", include_bytes!(concat!(env!("OUT_DIR"), "/attention.fatbin")))?;
        let forward = kernels.function::<T>(&format!("attention_forward_{width}"))?;
        let backward = kernels.function::<T>(&format!("attention_backward_{width}"))?;
        // Four matrices of 16-bit numbers and, for each of their rows, two 32-bit floats.
        let shared = 4 * SHARED_TILE + SHARED_TILE / (2 * width) * 8;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        backward.set_attribute(attribute, shared as i32).map_err(|e| {
            Error::Device(format!("attention's backward pass needs {shared} bytes of shared memory in a block: {e:?}"))
        })?;
        let (stream, backward_shared) = (stream.clone(), shared as u32);
        Ok(Self { stream, heads, width, forward, backward, backward_shared, number: PhantomData })
    }

    /// `qkv` [rows, 3 * hidden] -> `context` [rows, hidden] and `log_sum_exp` [heads, rows], which only training needs. `tiles` are those of
    /// [`tiles`] for these rows.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(
        &self,
        qkv: &CudaView<'_, T>,
        tiles: &CudaView<'_, u32>,
        context: &mut CudaViewMut<'_, T>,
        log_sum_exp: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<()> {
        let checks = self.checks();
        let (rows, blocks) = self.sizes(qkv, tiles)?;
        checks.view("context", context, self.hidden() * rows as usize)?;
        if let Some(log_sum_exp) = &log_sum_exp {
            checks.numbers("log_sum_exp", *log_sum_exp, self.heads * rows as usize)?;
        }
        if blocks == 0 {
            return Ok(());
        }
        let (heads, scale) = (self.heads as u32, self.scale());
        let mut launch = self.stream.launch_builder(&self.forward);
        launch.arg(qkv).arg(tiles).arg(&rows).arg(&heads).arg(&scale).arg(context);
        write_or_null(&mut launch, log_sum_exp);
        // Safety: all arguments have the sizes that the kernel takes for `rows` and `heads`, as checked above; it stops at a tile that ends
        // beyond `rows`, and within its end a list made by `tiles` names no other rows.
        unsafe { launch.launch(grid((blocks, 1), THREADS, 0)) }.map_err(refused("attention"))?;
        Ok(())
    }

    /// `grad_context` [rows, hidden], and `qkv`, `tiles`, `context`, `log_sum_exp` of the forward pass -> `grad_qkv` [rows, 3 * hidden].
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn backward(
        &self,
        grad_context: &CudaView<'_, T>,
        qkv: &CudaView<'_, T>,
        tiles: &CudaView<'_, u32>,
        context: &CudaView<'_, T>,
        log_sum_exp: &CudaView<'_, f32>,
        grad_qkv: &mut CudaViewMut<'_, T>,
    ) -> Result<()> {
        let checks = self.checks();
        let (rows, blocks) = self.sizes(qkv, tiles)?;
        checks.view("grad_context", grad_context, self.hidden() * rows as usize)?;
        checks.view("context", context, self.hidden() * rows as usize)?;
        checks.numbers("log_sum_exp", log_sum_exp, self.heads * rows as usize)?;
        checks.view("grad_qkv", grad_qkv, qkv.len())?;
        if blocks == 0 {
            return Ok(());
        }
        let (heads, scale) = (self.heads as u32, self.scale());
        let mut launch = self.stream.launch_builder(&self.backward);
        launch.arg(qkv).arg(tiles).arg(&rows).arg(&heads).arg(&scale);
        launch.arg(context).arg(log_sum_exp).arg(grad_context).arg(grad_qkv);
        // Safety: as for the forward pass; the shared memory is what `load` has asked for.
        unsafe { launch.launch(grid((blocks, 1), THREADS, self.backward_shared)) }.map_err(refused("attention"))?;
        Ok(())
    }

    /// Rows of `qkv` and blocks of a launch.
    fn sizes(&self, qkv: &CudaView<'_, T>, tiles: &CudaView<'_, u32>) -> Result<(u32, u32)> {
        let checks = self.checks();
        let rows = checks.rows(qkv.len(), 3 * self.hidden())?;
        checks.view("qkv", qkv, qkv.len())?;
        checks.view("tiles", tiles, tiles.len().next_multiple_of(TILE_NUMBERS))?;
        Ok((rows, checks.count(tiles.len() / TILE_NUMBERS * self.heads)?))
    }

    fn checks(&self) -> Checks<'_> {
        Checks { operation: "attention", stream: &self.stream }
    }

    fn hidden(&self) -> usize {
        self.heads * self.width
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }
}

#[cfg(test)]
mod tests;

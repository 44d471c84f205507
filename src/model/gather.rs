//! Rows of a matrix picked by index, each at most once: packed rows -> padded groups and back, words' first pieces.
//! In: `[rows, width]`, indices `[n]`. Out: `[n, width]`. The backward pass is a gather too (the inverse map), where candle's
//! own `index_select` would add row by row (`index_add`, serial on CUDA).

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Device, Layout, Result, Shape, Storage, Tensor, bail};

/// An injective choice of rows and its inverse, both on one device.
#[derive(Clone)]
pub struct RowGather {
    /// [n] row of the source for each row of the result.
    forward: Tensor,
    /// [source rows] row of the result for each row of the source; `n` where it was not picked.
    inverse: Tensor,
}

impl RowGather {
    /// `forward[i]` is the source row of result row `i`; `None` is a filler row, whose content is row 0 and whose gradient is dropped.
    /// No source row may be picked twice.
    pub fn new(forward: &[Option<u32>], source_rows: usize, device: &Device) -> Result<Self> {
        let n = forward.len() as u32;
        let mut inverse = vec![n; source_rows];
        for (i, row) in forward.iter().enumerate() {
            if let Some(row) = row {
                match inverse.get_mut(*row as usize) {
                    Some(slot) if *slot == n => *slot = i as u32,
                    Some(_) => bail!("row {row} is picked twice"),
                    None => bail!("row {row} is picked from {source_rows} rows"),
                }
            }
        }
        let forward: Vec<u32> = forward.iter().map(|row| row.unwrap_or(0)).collect();
        Ok(Self { forward: Tensor::new(forward, device)?, inverse: Tensor::new(inverse, device)? })
    }

    /// Picks the rows of `source` [rows, width]; differentiable.
    pub fn apply(&self, source: &Tensor) -> Result<Tensor> {
        source.contiguous()?.apply_op1(self.clone())
    }
}

fn index_select<S: BackendStorage>(
    source: &S,
    layout: &Layout,
    index: &S,
    index_layout: &Layout,
) -> Result<(S, Shape)> {
    let width = layout.shape().dims2()?.1;
    let picked = source.index_select(index, layout, index_layout, 0)?;
    Ok((picked, Shape::from((index_layout.shape().elem_count(), width))))
}

impl CustomOp1 for RowGather {
    fn name(&self) -> &'static str {
        "row-gather"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (index, index_layout) = self.forward.storage_and_layout();
        match &*index {
            Storage::Cpu(index) => index_select(storage, layout, index, index_layout),
            _ => bail!("the index lies on another device than the source"),
        }
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (index, index_layout) = self.forward.storage_and_layout();
        match &*index {
            Storage::Cuda(index) => index_select(storage, layout, index, index_layout),
            _ => bail!("the index lies on another device than the source"),
        }
    }

    fn bwd(&self, _source: &Tensor, _picked: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = gradient.dims2()?.1;
        let zero = Tensor::zeros((1, width), gradient.dtype(), gradient.device())?;
        Ok(Some(Tensor::cat(&[gradient, &zero], 0)?.index_select(&self.inverse, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn forward_and_backward_equal_index_select() -> Result<()> {
        let device = Device::Cpu;
        let source = Var::from_tensor(&Tensor::arange(0f32, 10., &device)?.reshape((5, 2))?)?;
        let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &device)?;
        let ours = RowGather::new(&[Some(3), Some(0), Some(4)], 5, &device)?.apply(source.as_tensor())?;
        let candles = source.index_select(&Tensor::new(&[3u32, 0, 4], &device)?, 0)?;
        assert_eq!(ours.to_vec2::<f32>()?, candles.to_vec2::<f32>()?);
        let ours = (ours * &weight)?.sum_all()?.backward()?;
        let candles = (candles * &weight)?.sum_all()?.backward()?;
        assert_eq!(ours.get(&source).unwrap().to_vec2::<f32>()?, candles.get(&source).unwrap().to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn filler_rows_give_no_gradient() -> Result<()> {
        let source = Var::from_tensor(&Tensor::ones((2, 1), candle_core::DType::F32, &Device::Cpu)?)?;
        let picked = RowGather::new(&[Some(1), None], 2, &Device::Cpu)?.apply(source.as_tensor())?;
        let gradients = picked.sum_all()?.backward()?;
        assert_eq!(gradients.get(&source).unwrap().to_vec2::<f32>()?, [[0.], [1.]]);
        Ok(())
    }

    #[test]
    fn a_row_picked_twice_is_refused() {
        assert!(RowGather::new(&[Some(1), Some(1)], 2, &Device::Cpu).is_err());
        assert!(RowGather::new(&[Some(2)], 2, &Device::Cpu).is_err());
    }
}

//! Results of fused operations -> differentiable tensors. candle's fused softmax and LayerNorm have no backward pass and drop gradients
//! without a word; here each comes with its own. Only what needs a gradient gets one: candle's own operators compute gradients of
//! constants too. LayerNorm after Ba et al. 2016; its gradient is the usual one, in five products.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail,
};

pub(crate) type Backward1 = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// A result that is known already, and how the gradient of it becomes the gradient of its argument.
struct Known {
    result: Tensor,
    backward: Backward1,
}

/// `result`, a contiguous tensor computed from `argument` without a graph, as a differentiable function of it.
pub(crate) fn known(argument: &Tensor, result: Tensor, backward: Backward1) -> Result<Tensor> {
    argument.apply_op1(Known { result, backward })
}

pub(crate) type Backward2 = Box<dyn Fn(&Tensor) -> Result<(Tensor, Tensor)> + Send + Sync>;

/// The same for two arguments.
struct Known2 {
    result: Tensor,
    backward: Backward2,
}

/// As [`known`], as a differentiable function of two arguments.
pub(crate) fn known2(first: &Tensor, second: &Tensor, result: Tensor, backward: Backward2) -> Result<Tensor> {
    first.apply_op2(second, Known2 { result, backward })
}

fn copy_cpu(result: &Tensor) -> Result<(CpuStorage, Shape)> {
    let (storage, layout) = result.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, result.shape().clone())),
        _ => bail!("the result lies on another device than the argument"),
    }
}

fn copy_cuda(result: &Tensor) -> Result<(CudaStorage, Shape)> {
    let (storage, layout) = result.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, result.shape().clone())),
        _ => bail!("the result lies on another device than the argument"),
    }
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "known-result"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        copy_cpu(&self.result)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copy_cuda(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((self.backward)(gradient)?))
    }
}

impl CustomOp2 for Known2 {
    fn name(&self) -> &'static str {
        "known-result-of-two"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        copy_cpu(&self.result)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copy_cuda(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (first, second) = (self.backward)(gradient)?;
        Ok((Some(first), Some(second)))
    }
}

/// Softmax over the last dimension: `y = exp(x) / Σ exp(x)`, gradient `y (g - Σ g y)`.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let y = candle_nn::ops::softmax_last_dim(&x.detach())?;
    let kept = y.clone();
    let backward = move |gradient: &Tensor| {
        let weighted = (gradient * &kept)?;
        weighted.sub(&kept.broadcast_mul(&weighted.sum_keepdim(D::Minus1)?)?)
    };
    known(x, y, Box::new(backward))
}

/// `x + constant`, broadcast; the constant gets no gradient.
pub fn add_constant(x: &Tensor, constant: &Tensor) -> Result<Tensor> {
    known(x, x.detach().broadcast_add(constant)?, Box::new(|gradient| Ok(gradient.clone())))
}

/// `x * constant`, of one shape; the constant gets no gradient.
pub fn multiply_constant(x: &Tensor, constant: Tensor) -> Result<Tensor> {
    let y = (x.detach() * &constant)?;
    known(x, y, Box::new(move |gradient| gradient * &constant))
}

/// LayerNorm over the last dimension: `y = (x - mean) / sqrt(variance + eps) * weight + bias`. `x`: [rows, width].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = candle_nn::ops::layer_norm(&x.detach(), &weight.detach(), &bias.detach(), eps as f32)?;
    x.apply_op3(weight, bias, KnownLayerNorm { result: y, eps })
}

struct KnownLayerNorm {
    result: Tensor,
    eps: f64,
}

impl CustomOp3 for KnownLayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        copy_cpu(&self.result)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        copy_cuda(&self.result)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mean = |t: &Tensor| t.mean_keepdim(D::Minus1);
        let x = x.detach();
        let centred = x.broadcast_sub(&mean(&x)?)?;
        let deviation = (mean(&centred.sqr()?)? + self.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?;
        let weighted = gradient.broadcast_mul(&weight.detach())?;
        let along = normal.broadcast_mul(&mean(&(&weighted * &normal)?)?)?;
        let to_x = (weighted.broadcast_sub(&mean(&weighted)?)? - along)?.broadcast_div(&deviation)?;
        Ok((Some(to_x), Some((gradient * normal)?.sum(0)?), Some(gradient.sum(0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn variable(rows: usize, width: usize, seed: usize) -> Result<Var> {
        let numbers: Vec<f32> = (0..rows * width).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 5. - 2.).collect();
        Var::from_tensor(&Tensor::from_vec(numbers, (rows, width), &Device::Cpu)?)
    }

    /// Value and gradients of `Σ f(variables) * c` by both ways, `c` arbitrary.
    fn compare(
        variables: &[Var],
        ours: impl Fn(&[Var]) -> Result<Tensor>,
        oracle: impl Fn(&[Var]) -> Result<Tensor>,
    ) -> Result<()> {
        let run = |f: &dyn Fn(&[Var]) -> Result<Tensor>| -> Result<Vec<Vec<f32>>> {
            let y = f(variables)?;
            let weights = variable(y.dim(0)?, y.dim(1)?, 5)?;
            let gradients = (&y * weights.as_tensor())?.sum_all()?.backward()?;
            let mut all = vec![y.flatten_all()?.to_vec1()?];
            for v in variables {
                all.push(gradients.get(v).expect("a gradient").flatten_all()?.to_vec1()?);
            }
            Ok(all)
        };
        for (a, b) in run(&ours)?.into_iter().flatten().zip(run(&oracle)?.into_iter().flatten()) {
            assert!((a - b).abs() < 1e-4 * (1. + b.abs()), "{a} {b}");
        }
        Ok(())
    }

    #[test]
    fn softmax_equals_the_one_of_single_steps() -> Result<()> {
        compare(&[variable(4, 7, 1)?], |v| softmax(&v[0]), |v| candle_nn::ops::softmax(&v[0], D::Minus1))
    }

    #[test]
    fn layer_norm_equals_the_one_of_single_steps() -> Result<()> {
        let row = |seed| Var::from_tensor(&variable(1, 8, seed)?.flatten_all()?);
        compare(
            &[variable(5, 8, 1)?, row(2)?, row(3)?],
            |v| layer_norm(&v[0], &v[1], &v[2], 1e-5),
            |v| candle_nn::ops::layer_norm_slow(&v[0], &v[1], &v[2], 1e-5),
        )
    }

    #[test]
    fn constants_add_and_multiply() -> Result<()> {
        let constant = variable(4, 7, 9)?.as_tensor().detach();
        compare(
            &[variable(4, 7, 1)?],
            |v| multiply_constant(&add_constant(&v[0], &constant)?, constant.clone()),
            |v| (v[0].as_tensor() + &constant)? * &constant,
        )
    }
}

//! Matrix products of linear layers by cuBLASLt: 16-bit operands, sums in f32, the bias in the product's epilogue.
//! `y = x Wᵀ + b` and its gradients `dx = dy W`, `dW = dyᵀ x`; all matrices row-major, W [out, in] as in a checkpoint.
//! cuBLASLt counts columns first: it is given each row-major matrix as its own transpose.

use std::collections::HashMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda_backend::cudarc::cublaslt::result::{self as lt, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr,
};
use half::{bf16, f16};

use super::{Half, refused};
use crate::error::{Error, Result};

/// Scratch memory that cuBLASLt may use: NVIDIA's advice for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Distinct shapes whose plans are kept. Batches differ in their number of rows, so that new shapes keep coming.
const MOST_PLANS: usize = 4096;
/// Alignment of all matrices, as [`super::layout`] and the driver's allocations give it.
const ALIGNMENT_BYTES: u32 = 256;

/// What a product's operands and results are.
trait MatrixElement: DeviceRepr {
    const TYPE: sys::cudaDataType;
}

impl MatrixElement for f32 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
}

impl MatrixElement for f16 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_16F;
}

impl MatrixElement for bf16 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
}

fn data_type<T: Half>() -> sys::cudaDataType {
    match T::SUFFIX {
        "f16" => f16::TYPE,
        _ => bf16::TYPE,
    }
}

/// Shape and kind of a product in cuBLASLt's terms: `d [m, n] = op(a) op(b)`, columns first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
    transpose_b: bool,
    bias: bool,
    wide_result: bool,
    accumulate: bool,
}

/// A product made ready.
struct Plan {
    description: Description,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// cuBLASLt's descriptions of a product and its matrices.
struct Description {
    product: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
}

impl Drop for Description {
    fn drop(&mut self) {
        // Safety: the handles were created with the description and are used by nothing else. An error on destruction leaves nothing to do.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.product);
            for layout in [self.a, self.b, self.d] {
                let _ = lt::destroy_matrix_layout(layout);
            }
        }
    }
}

/// cuBLASLt on one stream, for one type of activations.
pub struct Products<T> {
    stream: Arc<CudaStream>,
    state: Mutex<State>,
    element: PhantomData<T>,
}

struct State {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Shape, Plan>,
}

// Safety: cuBLASLt's handle and descriptions are plain memory that may be used from any thread, one at a time; the mutex sees to that.
unsafe impl Send for State {}

impl Drop for State {
    fn drop(&mut self) {
        self.plans.clear();
        // Safety: the handle was created with the state and no plan is left that uses it.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

fn failed(e: CublasError) -> Error {
    let message = format!("a matrix product failed on the GPU: {e:?}");
    match e.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => Error::OutOfMemory(message),
        _ => Error::Device(message),
    }
}

impl<T: Half> Products<T> {
    /// Opens cuBLASLt.
    ///
    /// # Errors
    /// If the library or its workspace cannot be had.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().map_err(refused("opening cuBLASLt"))?;
        // Safety: scratch memory, which nobody reads before cuBLASLt has written it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.map_err(refused("allocating a workspace"))?;
        let handle = lt::create_handle().map_err(failed)?;
        let state = State { handle, workspace, plans: HashMap::new() };
        Ok(Self { stream: stream.clone(), state: Mutex::new(state), element: PhantomData })
    }

    /// `y = x Wᵀ + b`: x [rows, in], weight [out, in], bias [out] -> y [rows, out].
    ///
    /// # Errors
    /// If the sizes do not fit each other or cuBLASLt fails.
    pub fn forward(
        &self,
        x: &CudaView<'_, T>,
        weight: &CudaView<'_, T>,
        bias: Option<&CudaView<'_, T>>,
        y: &mut CudaViewMut<'_, T>,
        [rows, input, output]: [usize; 3],
    ) -> Result<()> {
        check("x", x.len(), rows * input)?;
        check("weight", weight.len(), output * input)?;
        check("y", y.len(), rows * output)?;
        if let Some(bias) = bias {
            check("bias", bias.len(), output)?;
        }
        let shape = Shape {
            m: output,
            n: rows,
            k: input,
            transpose_a: true,
            transpose_b: false,
            bias: bias.is_some(),
            wide_result: false,
            accumulate: false,
        };
        self.multiply(shape, weight, x, y, bias)
    }

    /// `dx = dy W`, added to what is in `dx` if `accumulate`: dy [rows, out], weight [out, in] -> dx [rows, in].
    ///
    /// # Errors
    /// As [`Products::forward`].
    pub fn input_gradient(
        &self,
        dy: &CudaView<'_, T>,
        weight: &CudaView<'_, T>,
        dx: &mut CudaViewMut<'_, T>,
        [rows, input, output]: [usize; 3],
        accumulate: bool,
    ) -> Result<()> {
        check("dy", dy.len(), rows * output)?;
        check("weight", weight.len(), output * input)?;
        check("dx", dx.len(), rows * input)?;
        let shape = Shape {
            m: input,
            n: rows,
            k: output,
            transpose_a: false,
            transpose_b: false,
            bias: false,
            wide_result: false,
            accumulate,
        };
        self.multiply(shape, weight, dy, dx, None)
    }

    /// `dW = dyᵀ x`, added to what is in `dw` if `accumulate`: dy [rows, out], x [rows, in] -> dw f32 [out, in].
    ///
    /// # Errors
    /// As [`Products::forward`].
    pub fn weight_gradient(
        &self,
        dy: &CudaView<'_, T>,
        x: &CudaView<'_, T>,
        dw: &mut CudaViewMut<'_, f32>,
        [rows, input, output]: [usize; 3],
        accumulate: bool,
    ) -> Result<()> {
        check("dy", dy.len(), rows * output)?;
        check("x", x.len(), rows * input)?;
        check("dw", dw.len(), output * input)?;
        let shape = Shape {
            m: input,
            n: output,
            k: rows,
            transpose_a: false,
            transpose_b: true,
            bias: false,
            wide_result: true,
            accumulate,
        };
        self.multiply(shape, x, dy, dw, None)
    }

    fn multiply<D: DeviceRepr>(
        &self,
        shape: Shape,
        a: &CudaView<'_, T>,
        b: &CudaView<'_, T>,
        d: &mut CudaViewMut<'_, D>,
        bias: Option<&CudaView<'_, T>>,
    ) -> Result<()> {
        if shape.m == 0 || shape.n == 0 {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { handle, workspace, plans } = &mut *state;
        if plans.len() >= MOST_PLANS && !plans.contains_key(&shape) {
            plans.clear();
        }
        let plan = match plans.entry(shape) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(Plan::new::<T>(*handle, shape)?),
        };
        let of = &plan.description;
        let (alpha, beta) = (1f32, if shape.accumulate { 1f32 } else { 0f32 });
        let (a, _a) = a.device_ptr(&self.stream);
        let (b, _b) = b.device_ptr(&self.stream);
        let (d, _d) = d.device_ptr_mut(&self.stream);
        let (scratch, _scratch) = workspace.device_ptr_mut(&self.stream);
        let bias = bias.map(|bias| bias.device_ptr(&self.stream));
        // Safety: the plan's handles live; the callers have checked that the matrices are as large as the plan says; C is D, which cuBLASLt
        // allows; the bias pointer is set before each product that reads one.
        unsafe {
            if let Some((bias, _)) = &bias {
                lt::set_matmul_desc_attribute(
                    of.product,
                    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    (&raw const *bias).cast(),
                    size_of_val(bias),
                )
                .map_err(failed)?;
            }
            lt::matmul(
                *handle,
                of.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                a as *const c_void,
                of.a,
                b as *const c_void,
                of.b,
                d as *const c_void,
                of.d,
                d as *mut c_void,
                of.d,
                &raw const plan.algorithm,
                scratch as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
            .map_err(failed)
        }
    }
}

impl Plan {
    fn new<T: Half>(handle: sys::cublasLtHandle_t, shape: Shape) -> Result<Self> {
        let description = Description::new::<T>(shape)?;
        let algorithm = choose(handle, &description).map_err(failed)?;
        Ok(Self { description, algorithm })
    }
}

impl Description {
    fn new<T: Half>(shape: Shape) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Shape { m, n, k, transpose_a, transpose_b, bias, wide_result, .. } = shape;
        let narrow = data_type::<T>();
        let layout = |kind, rows: usize, columns: usize| {
            lt::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64).map_err(failed)
        };
        let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let (a, b) = (stored(m, k, transpose_a), stored(k, n, transpose_b));
        let description = Self {
            product: lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32::TYPE).map_err(failed)?,
            a: layout(narrow, a.0, a.1)?,
            b: layout(narrow, b.0, b.1)?,
            d: layout(if wide_result { f32::TYPE } else { narrow }, m, n)?,
        };
        let set = |attribute, value: i32| {
            // Safety: the description lives, and these attributes are 32-bit numbers.
            unsafe {
                lt::set_matmul_desc_attribute(
                    description.product,
                    attribute,
                    (&raw const value).cast(),
                    size_of_val(&value),
                )
            }
            .map_err(failed)
        };
        let operation = |transpose: bool| match transpose {
            true => cublasOperation_t::CUBLAS_OP_T as i32,
            false => cublasOperation_t::CUBLAS_OP_N as i32,
        };
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(transpose_a))?;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(transpose_b))?;
        if bias {
            set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as i32)?;
        }
        Ok(description)
    }
}

/// The algorithm that cuBLASLt's heuristics put first.
fn choose(
    handle: sys::cublasLtHandle_t,
    of: &Description,
) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
    let preference = lt::create_matmul_pref()?;
    let (workspace, alignment) = (WORKSPACE_BYTES as u64, ALIGNMENT_BYTES);
    // Safety: all handles live until the end of the block; the attributes are of the types that cuBLASLt documents (u64 and u32).
    unsafe {
        let set =
            |attribute, value: *const c_void, bytes| lt::set_matmul_pref_attribute(preference, attribute, value, bytes);
        let chosen = set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const workspace).cast(),
            size_of_val(&workspace),
        )
        .and_then(|()| {
            [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ]
            .into_iter()
            .try_for_each(|attribute| set(attribute, (&raw const alignment).cast(), size_of_val(&alignment)))
        })
        .and_then(|()| lt::get_matmul_algo_heuristic(handle, of.product, of.a, of.b, of.d, of.d, preference));
        let destroyed = lt::destroy_matmul_pref(preference);
        chosen.and_then(|chosen| destroyed.map(|()| chosen.algo))
    }
}

fn check(name: &str, found: usize, expected: usize) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Device(format!("{name} of a matrix product has {found} elements, expected {expected}"))),
    }
}

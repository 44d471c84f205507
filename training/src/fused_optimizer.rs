//! AdamW on a GPU: all variables laid end to end, one fused step for all of them, no answer from the device needed.
//! The same steps as [`crate::optimizer`]'s on candle's operations, which is the reference.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, CudaView, DriverError};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{CpuStorage, CudaDevice, Device, InplaceOp1, Layout, Tensor, Var};
use chemtag::cuda::adamw::{self, Buffers, Constants, Report, SCRATCH_LEN, STATE_WORDS, Segment, Segments};
use chemtag::cuda::fused::{tensor, with_memory};
use half::bf16;

use crate::error::{Error, Result};
use crate::optimizer::AdamW;
use crate::parameters::{ENCODER, Parameters, prefix};

/// Variables begin at multiples of this many elements, as the kernels' vectors ask for.
const ALIGNMENT: usize = 128;

/// The variables' values and moments on the device.
pub struct FusedAdamW {
    settings: AdamW,
    stream: Arc<CudaStream>,
    device: CudaDevice,
    operation: adamw::AdamW<bf16>,
    variables: Vec<(Var, Range<usize>)>,
    /// Names of the tensors and what they have where all are trained.
    segments: Vec<(String, Segment)>,
    values: CudaSlice<f32>,
    means: CudaSlice<f32>,
    squares: CudaSlice<f32>,
    averages: Option<CudaSlice<f32>>,
    copies: CudaSlice<bf16>,
    state: CudaSlice<u32>,
    starts: CudaSlice<u32>,
    factors: CudaSlice<f32>,
    scratch: CudaSlice<f64>,
}

fn failed(e: DriverError) -> Error {
    chemtag::Error::Device(format!("the optimiser failed on the GPU: {e:?}")).into()
}

impl FusedAdamW {
    /// `scale` gives the factor on the learning rate for a tensor's name. `None` if the parameters are not on a GPU.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(settings: AdamW, parameters: &Parameters, scale: impl Fn(&str) -> f64) -> Result<Option<Self>> {
        let Device::Cuda(device) = parameters.device() else { return Ok(None) };
        let stream = device.cuda_stream();
        let (mut variables, mut segments, mut end) = (Vec::new(), Vec::new(), 0);
        let mut segment = |start, name: &str, rank| {
            let decay = if rank > 1 { 1. } else { 0. };
            segments.push((name.to_string(), Segment { start, rate: scale(name) as f32, decay }));
        };
        for (name, variable) in parameters.variables() {
            match parameters.layout() {
                Some(layout) if name == ENCODER => {
                    for place in layout.places() {
                        let name = format!("{}{}", prefix(parameters.config()), place.name);
                        segment(end + place.range.start, &name, place.shape.len());
                    }
                }
                _ => segment(end, name, variable.rank()),
            }
            let range = end..end + variable.elem_count();
            end = range.end.next_multiple_of(ALIGNMENT);
            variables.push((variable.clone(), range));
        }
        let (starts, factors) = adamw::segments(&segments.iter().map(|(_, segment)| *segment).collect::<Vec<_>>())?;
        let zeros = || stream.alloc_zeros::<f32>(end).map_err(failed);
        let mut optimizer = Self {
            operation: adamw::AdamW::load(&stream)?,
            values: zeros()?,
            means: zeros()?,
            squares: zeros()?,
            averages: (settings.average_decay > 0.).then(zeros).transpose()?,
            copies: stream.alloc_zeros(end).map_err(failed)?,
            state: stream.clone_htod(&Report::initial_state(0)).map_err(failed)?,
            starts: stream.clone_htod(&starts).map_err(failed)?,
            factors: stream.clone_htod(&factors).map_err(failed)?,
            scratch: stream.alloc_zeros(SCRATCH_LEN).map_err(failed)?,
            settings,
            device: device.clone(),
            stream,
            variables,
            segments,
        };
        optimizer.read_variables()?;
        if let Some(averages) = &mut optimizer.averages {
            optimizer.stream.memcpy_dtod(&optimizer.values, averages).map_err(failed)?;
        }
        Ok(Some(optimizer))
    }

    /// One step at learning rate `rate`; `gradient` gives a variable's, f32. A variable without one has a gradient of zero.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(&mut self, gradient: impl Fn(&Var) -> Option<Tensor>, rate: f64) -> Result<()> {
        let mut gradients = self.stream.alloc_zeros::<f32>(self.values.len()).map_err(failed)?;
        for (variable, range) in &self.variables {
            if let Some(gradient) = gradient(variable) {
                with_memory::<f32, _>(&gradient.contiguous()?, |memory| {
                    let place = &mut gradients.slice_mut(range.clone());
                    self.stream.memcpy_dtod(&memory, place).map_err(|e| chemtag::Error::Device(format!("{e:?}")))
                })?;
            }
        }
        let AdamW { beta1, beta2, epsilon, weight_decay, clip_norm, average_decay } = self.settings;
        let constants = Constants { beta1, beta2, epsilon, weight_decay, clip_norm, average_decay };
        let (starts, factors) = (self.starts.as_view(), self.factors.as_view());
        let buffers = Buffers {
            values: self.values.as_view_mut(),
            means: self.means.as_view_mut(),
            squares: self.squares.as_view_mut(),
            averages: self.averages.as_mut().map(CudaSlice::as_view_mut),
            copies: self.copies.as_view_mut(),
            state: self.state.as_view_mut(),
        };
        let segments = Segments { starts: &starts, factors: &factors };
        let scratch = &mut self.scratch.as_view_mut();
        self.operation.step(&gradients.as_view(), buffers, segments, constants, rate, scratch)?;
        self.show(&self.values)
    }

    /// From now on only tensors of which `trained` is true change: the others' rate is 0, and with it their decay.
    ///
    /// # Errors
    /// If the device fails.
    pub fn train_only(&mut self, trained: impl Fn(&str) -> bool) -> Result<()> {
        let now = |(name, segment): &(String, Segment)| Segment {
            rate: if trained(name) { segment.rate } else { 0. },
            ..*segment
        };
        let (_, factors) = adamw::segments(&self.segments.iter().map(now).collect::<Vec<_>>())?;
        self.factors = self.stream.clone_htod(&factors).map_err(failed)?;
        Ok(())
    }

    /// What the device knows of the steps so far; waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn report(&self) -> Result<Report> {
        let state = self.stream.clone_dtoh(&self.state).map_err(failed)?;
        let state: [u32; STATE_WORDS] =
            state.try_into().map_err(|_| Error::Setting("the optimiser's state is damaged".into()))?;
        Ok(Report::read(&state))
    }

    /// Gives the variables the running average of their values.
    ///
    /// # Errors
    /// If the device fails.
    pub fn show_average(&self) -> Result<()> {
        self.show(self.averages.as_ref().unwrap_or(&self.values))
    }

    /// Gives the variables their own values.
    ///
    /// # Errors
    /// If the device fails.
    pub fn show_values(&self) -> Result<()> {
        self.show(&self.values)
    }

    fn show(&self, values: &CudaSlice<f32>) -> Result<()> {
        for (variable, range) in &self.variables {
            variable.inplace_op1(&Overwrite { stream: &self.stream, with: values.slice(range.clone()) })?;
        }
        Ok(())
    }

    fn read_variables(&mut self) -> Result<()> {
        for (variable, range) in &self.variables {
            with_memory::<f32, _>(&variable.as_tensor().detach().contiguous()?, |memory| {
                let place = &mut self.values.slice_mut(range.clone());
                self.stream.memcpy_dtod(&memory, place).map_err(|e| chemtag::Error::Device(format!("{e:?}")))
            })?;
        }
        Ok(())
    }

    /// The moments and averages, for a checkpoint.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let averages = self.averages.as_ref().map(|averages| ("average", averages));
        let kept = [("mean", &self.means), ("square", &self.squares)].into_iter().chain(averages);
        kept.map(|(kind, memory)| {
            let copy = memory.try_clone().map_err(failed)?;
            Ok((format!("optimizer.{kind}"), tensor(copy, &self.device, memory.len())))
        })
        .collect()
    }

    /// Goes on after `step` steps from a checkpoint's moments and averages and the values that the variables have now.
    ///
    /// # Errors
    /// If a moment is missing or of another length.
    pub fn restore(&mut self, step: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.read_variables()?;
        let read = |kind: &str, memory: &mut CudaSlice<f32>| -> Result<()> {
            let name = format!("optimizer.{kind}");
            let tensor = tensors.get(&name).ok_or_else(|| Error::Setting(format!("{name} is missing")))?;
            let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            if numbers.len() != memory.len() {
                return Err(Error::Setting(format!("{name} belongs to another model")));
            }
            self.stream.memcpy_htod(&numbers, memory).map_err(failed)
        };
        read("mean", &mut self.means)?;
        read("square", &mut self.squares)?;
        if let Some(averages) = &mut self.averages {
            read("average", averages)?;
        }
        self.stream.memcpy_htod(&Report::initial_state(step as u32), &mut self.state).map_err(failed)
    }
}

/// Overwrites a variable with memory of the device.
struct Overwrite<'m> {
    stream: &'m Arc<CudaStream>,
    with: CudaView<'m, f32>,
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("the variable is not on the GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the variable is not contiguous");
        };
        let place = &mut storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        self.stream.memcpy_dtod(&self.with, place).w()
    }
}

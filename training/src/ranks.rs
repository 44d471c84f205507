//! Devices and a training loop -> the loop on all of them: one rank for each, which computes its share of every step and makes the same
//! optimiser step on the summed gradients (data parallelism; Goyal et al. 2017, section 3).
//! Ranks are threads of one process. They share the text, a rank's error or panic is known to all at once, which no collective could tell them,
//! and whatever ends the process ends all of them; processes would add a launcher and copies of the text, and still have to be killed by it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::Tensor;

use crate::accumulation::Share;
use crate::all_reduce::{AllReduce, SharedMemory};
use crate::error::{Error, Result};
use crate::meeting::Meeting;

/// One of the ranks of a run.
pub struct Rank<'a> {
    number: usize,
    count: usize,
    group: Option<Group<'a>>,
}

struct Group<'a> {
    meeting: &'a Meeting,
    all_reduce: Box<dyn AllReduce + 'a>,
}

impl Rank<'_> {
    /// The only rank of a run that shares its work with nobody.
    pub const ALONE: Self = Self { number: 0, count: 1, group: None };

    /// Whether nothing is shared.
    pub fn is_alone(&self) -> bool {
        self.group.is_none()
    }

    /// How many ranks share the run.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether this rank writes files and tells how far the run is.
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    /// The parts of each step that are this rank's, if each rank computes `accumulate` one after another.
    ///
    /// # Errors
    /// If there shall be none.
    pub fn share(&self, accumulate: usize) -> Result<Share> {
        Share::new(self.number, self.count, accumulate)
    }

    /// The sum over ranks of a flat buffer `[n]`, f32, on the rank's device.
    ///
    /// # Errors
    /// If the device fails; [`Error::OtherRank`] if another rank has failed.
    pub fn sum_buffer(&self, buffer: Tensor) -> Result<Tensor> {
        match &self.group {
            Some(group) => group.all_reduce.sum(buffer),
            None => Ok(buffer),
        }
    }

    /// The sums over ranks of a few numbers.
    ///
    /// # Errors
    /// [`Error::OtherRank`] if another rank has failed.
    pub fn sum<const N: usize>(&self, numbers: [f64; N]) -> Result<[f64; N]> {
        let Some(group) = &self.group else { return Ok(numbers) };
        let sums = group.meeting.sum(self.number, numbers.into())?;
        sums.as_slice().try_into().map_err(|_| Error::Setting("ranks add different numbers of losses".into()))
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// [`Error::OtherRank`] if another rank has failed.
    pub fn wait(&self) -> Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| group.meeting.wait(self.number))
    }
}

/// Calls `train` once for each device, on a thread of its own, with its rank, the device's name and the device. GPUs talk through NCCL, CPUs through memory.
///
/// # Errors
/// [`Error::Rank`] with the first rank that fails, opens no device or panics. The others end at their next exchange. What the first rank has
/// written until then, the last checkpoint among it, stays good.
pub fn run(
    devices: &[chemtag::Device],
    train: impl Fn(&Rank, chemtag::Device, &candle_core::Device) -> Result<()> + Sync,
) -> Result<()> {
    let meeting = Meeting::new(devices.len());
    let session = Session::new(devices)?;
    std::thread::scope(|scope| {
        for (number, &name) in devices.iter().enumerate() {
            let (meeting, session, train) = (&meeting, &session, &train);
            scope.spawn(move || {
                // Opened here, as candle's stream on a GPU is the thread's own.
                let work = || {
                    let device = name.open()?;
                    let all_reduce = session.join(meeting, number, &device)?;
                    let group = Some(Group { meeting, all_reduce });
                    train(&Rank { number, count: devices.len(), group }, name, &device)
                };
                let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a thread panicked");
                    Err(Error::Panic(text.into()))
                });
                meeting.end(number, result);
            });
        }
    });
    match meeting.into_failure() {
        Some((rank, source)) => {
            let device = devices.get(rank).copied().unwrap_or_default();
            Err(Error::Rank { rank, device, source: Box::new(source) })
        }
        None => Ok(()),
    }
}

/// What ranks need to know to find each other.
struct Session {
    #[cfg(feature = "nccl")]
    nccl: Option<crate::nccl::Session>,
}

impl Session {
    fn new(devices: &[chemtag::Device]) -> Result<Self> {
        let all = |kind: fn(&chemtag::Device) -> bool| !devices.is_empty() && devices.iter().all(kind);
        if all(|device| *device == chemtag::Device::Cpu) {
            return Ok(Self {
                #[cfg(feature = "nccl")]
                nccl: None,
            });
        }
        if !all(|device| matches!(device, chemtag::Device::Cuda(_))) {
            return Err(Error::Setting("a run on several devices needs GPUs by their numbers, or CPUs alone".into()));
        }
        #[cfg(feature = "nccl")]
        return Ok(Self { nccl: Some(crate::nccl::Session::new(devices.len())?) });
        #[cfg(not(feature = "nccl"))]
        Err(Error::Setting(
            "this build cannot share a run among GPUs: build with `--features cuda,nccl` and NVIDIA's NCCL".into(),
        ))
    }

    fn join<'a>(
        &'a self,
        meeting: &'a Meeting,
        rank: usize,
        device: &candle_core::Device,
    ) -> Result<Box<dyn AllReduce + 'a>> {
        // A rank that opened no device ends the run here.
        meeting.wait(rank)?;
        #[cfg(feature = "nccl")]
        if let Some(session) = &self.nccl {
            return Ok(Box::new(session.join(meeting, rank, device)?));
        }
        let _ = device;
        Ok(Box::new(SharedMemory { meeting, rank }))
    }
}

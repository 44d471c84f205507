//! What the CPU can do -> the instruction set that the integer engine computes with, chosen while the program runs.
//! A released binary is fast on every CPU so, without being compiled for one. The environment variable `CHEMTAG_KERNEL` forces a choice.

#[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
use super::vector::scalar::Scalar;
use super::vector::{Operation, Vector};
use crate::error::{Error, Result};

#[cfg(target_arch = "aarch64")]
use super::vector::neon::{Neon, Pairwise, Sdot};
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::vector::simd128::Simd128;
#[cfg(target_arch = "x86_64")]
use super::vector::{
    avx2::{EvexVnni, Maddubs, VexVnni, Wide},
    avx512::Avx512,
};

/// Name of the environment variable that forces a kernel.
pub const VARIABLE: &str = "CHEMTAG_KERNEL";

/// An instruction set that this CPU has. All give the same bits; they differ in speed alone.
///
/// ```
/// use chemtag::int8::Kernel;
///
/// let best = Kernel::best();
/// assert!(Kernel::available().iter().any(|kernel| kernel.name() == best.name()));
/// assert!(Kernel::named("scalar").is_some() && Kernel::named("abacus").is_none());
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Kernel {
    /// Plain Rust; not in a module for browsers, which has SIMD wherever it runs, and is fetched with all that is in it.
    #[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
    Scalar(Scalar),
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Wide<Maddubs>),
    /// AVX-VNNI: 256 bits.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Wide<VexVnni>),
    /// AVX-512 VNNI on 256-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni256(Wide<EvexVnni>),
    /// AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<Pairwise>),
    /// NEON with the dot product of Armv8.2.
    #[cfg(target_arch = "aarch64")]
    NeonSdot(Neon<Sdot>),
    /// WebAssembly's SIMD, relaxed or not.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128(Simd128),
}

impl Kernel {
    /// The one that every machine has on which this build runs.
    #[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
    const ANYWHERE: Self = Kernel::Scalar(Scalar);
    #[cfg(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128"))]
    const ANYWHERE: Self = Kernel::Simd128(Simd128::PRESENT);

    /// All that this CPU has, the slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut kernels = vec![Self::ANYWHERE];
        #[cfg(target_arch = "x86_64")]
        kernels.extend(
            [
                Wide::new().map(Kernel::Avx2),
                Wide::new().map(Kernel::AvxVnni),
                Wide::new().map(Kernel::Avx512Vnni256),
                Avx512::new().map(Kernel::Avx512Vnni),
            ]
            .into_iter()
            .flatten(),
        );
        #[cfg(target_arch = "aarch64")]
        kernels.extend([Neon::new().map(Kernel::Neon), Neon::new().map(Kernel::NeonSdot)].into_iter().flatten());
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128", not(feature = "wasm")))]
        kernels.extend(Simd128::new().map(Kernel::Simd128));
        kernels
    }

    /// The fastest one.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::ANYWHERE)
    }

    /// The one of this name, if the CPU has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|kernel| kernel.name() == name)
    }

    /// The one that the environment variable `CHEMTAG_KERNEL` names, else the fastest one.
    ///
    /// # Errors
    /// [`Error::Option`] if this CPU has none of that name.
    pub fn from_environment() -> Result<Self> {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(Self::best()) };
        let name = name.to_string_lossy();
        Self::named(&name).ok_or_else(|| {
            let names: Vec<&str> = Self::available().iter().map(Kernel::name).collect();
            Error::Option(format!("{VARIABLE} is \"{name}\", but this CPU has the kernels {}", names.join(", ")))
        })
    }

    /// Its name in messages and in `CHEMTAG_KERNEL`.
    pub fn name(&self) -> &'static str {
        match self {
            #[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
            Kernel::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni256(_) => "avx512-vnni-256",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonSdot(_) => "neon-sdot",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kernel::Simd128(vector) => vector.name(),
        }
    }

    /// Whether it is faster with weights [in groups](super::matrix::Matrix::in_groups).
    pub(crate) fn takes_groups(self) -> bool {
        self.run(TakesGroups)
    }

    /// Computes an operation with the instruction set.
    pub(crate) fn run<O: Operation>(self, operation: O) -> O::Output {
        match self {
            #[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
            Kernel::Scalar(scalar) => operation.run(scalar),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(vector) => vector.run(operation),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(vector) => vector.run(operation),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni256(vector) => vector.run(operation),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(vector) => vector.run(operation),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(vector) => vector.run(operation),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonSdot(vector) => vector.run(operation),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kernel::Simd128(vector) => vector.run(operation),
        }
    }
}

struct TakesGroups;

impl Operation for TakesGroups {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> bool {
        V::GROUPS
    }
}

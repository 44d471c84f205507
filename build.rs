//! With the feature `cuda`: compiles every `src/cuda/*.cu` to machine code of the GPUs below, and PTX that the driver finishes for later ones.
//! nvcc at build time rather than nvrtc at run time: a released binary then needs the driver alone, loads in milliseconds (the driver's own
//! compiler takes twenty seconds for all kernels), and a kernel that does not compile fails the build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// GPU generations: Ampere, the first with bf16 matrix instructions, whose code Ada runs too, and Hopper; PTX for what comes after them.
const ARCHITECTURES: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/cuda");
    println!("cargo::rerun-if-env-changed=NVCC");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(reason) = compile_kernels()
    {
        println!("cargo::error={reason}");
    }
}

fn compile_kernels() -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let folder = Path::new("src/cuda");
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut sources: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    let nvcc = std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    for source in sources {
        let image = out.join(source.file_name().unwrap_or_default()).with_extension("fatbin");
        let run = Command::new(&nvcc)
            .args(["--fatbin", "-O3", "-std=c++17", "--threads", "0", "-o"])
            .arg(&image)
            .arg(&source)
            .args(ARCHITECTURES.iter().flat_map(|architecture| ["-gencode", architecture]))
            .output()
            .map_err(|e| {
                format!("the feature `cuda` needs nvcc of a CUDA toolkit, 12 or later, on PATH or named by NVCC ({e})")
            })?;
        if !run.status.success() {
            let message = String::from_utf8_lossy(&run.stderr).replace('\n', " | ");
            return Err(format!("nvcc refuses {}: {message}", source.display()));
        }
    }
    Ok(())
}

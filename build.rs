//! With the feature `cuda`: compiles every `src/cuda/*.cu` to PTX, which the driver finishes for the GPU that it finds.
//! nvcc at build time rather than nvrtc at run time: a released binary then needs the driver alone, and a kernel that does not compile fails the build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest GPU generation that the kernels run on: Ampere, the first with bf16 matrix instructions. Later ones run the same PTX.
const ARCHITECTURE: &str = "compute_80";

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
        let ptx = out.join(source.file_name().unwrap_or_default()).with_extension("ptx");
        let run = Command::new(&nvcc)
            .args(["--ptx", "-O3", "-std=c++17", "-arch", ARCHITECTURE, "-o"])
            .arg(&ptx)
            .arg(&source)
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

//! A device of the tensor library -> the name of what computes: a figure of speed, and the last bits of a result, belong to it.

use candle_core::Device;

/// Where Linux tells the processor's name.
const PROCESSOR: &str = "/proc/cpuinfo";

/// The name of a device, of which a CPU computes on so many threads, such as `cpu (AMD EPYC 7763 64-Core Processor, 8 threads)` or `cuda:0 (NVIDIA H100 80GB HBM3)`. The model's name is left out
/// where the system does not tell it.
///
/// ```
/// let name = chemtag_training::machine::device_name(&candle_core::Device::Cpu, 8);
/// assert!(name.starts_with("cpu (") && name.ends_with("8 threads)"));
/// ```
pub fn device_name(device: &Device, threads: usize) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let stream = cuda.cuda_stream();
            let context = stream.context();
            let number = context.ordinal();
            context.name().map_or_else(|_| format!("cuda:{number}"), |name| format!("cuda:{number} ({name})"))
        }
        _ => {
            let threads = format!("{threads} threads");
            match std::fs::read_to_string(PROCESSOR).ok().as_deref().and_then(processor) {
                Some(name) => format!("cpu ({name}, {threads})"),
                None => format!("cpu ({threads})"),
            }
        }
    }
}

/// The first processor's name.
fn processor(cpuinfo: &str) -> Option<String> {
    let (_, name) =
        cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name")?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processors_name_is_found() {
        let intel =
            "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R)  Platinum 8481C\nmodel name\t: other\n";
        assert_eq!(super::processor(intel).as_deref(), Some("Intel(R) Xeon(R) Platinum 8481C"));
        // ARM tells none.
        assert_eq!(super::processor("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
        assert_eq!(super::processor("model name:\n"), None);
    }
}

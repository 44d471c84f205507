//! `pytorch_model.bin` -> named tensors on the CPU: both forms of `torch.save`, the zip archive (since PyTorch 1.6) and the stream of pickles before it.
//! Layout of the stream: `_legacy_save` of torch/serialization.py: magic number, protocol, system, the object, keys of its storages, and the storages.
//! Pickles are read by candle, which builds values and runs no code.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, PthTensors, Stack, TensorInfo};
use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Pickles of the magic number 0x1950a86a20f9469cfc6c and of the protocol's number 1001.
const LEGACY_HEAD: [u8; 21] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.', 0x80, 2, b'M', 0xe9, 3, b'.'];
const ZIP_HEAD: [u8; 4] = *b"PK\x03\x04";
/// Folder that the names of a stream's storages get, since candle puts one before them.
const STORAGES: &str = "stream";

/// Reads the floating-point tensors of a dictionary that `torch.save` wrote.
///
/// # Errors
/// If the file cannot be read, is of neither form, is cut short, or has no tensors.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let damaged = |reason: String| Error::Dataset { path: path.into(), reason };
    let mut head = Vec::new();
    let open = || File::open(path).map_err(|e| Error::io("read", path, e));
    open()?.take(LEGACY_HEAD.len() as u64).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    let tensors = if head.starts_with(&ZIP_HEAD) {
        zipped(path)
    } else if head == LEGACY_HEAD {
        streamed(BufReader::new(open()?))
    } else {
        return Err(damaged(
            "is no checkpoint of PyTorch: it begins neither as a zip archive nor as torch.save began before 1.6".into(),
        ));
    };
    let tensors = tensors.map_err(|e| damaged(format!("is no whole checkpoint of PyTorch: {e}")))?;
    if tensors.is_empty() {
        return Err(damaged("has no tensors by name: expected the dictionary that `model.state_dict()` gives".into()));
    }
    Ok(tensors)
}

fn zipped(path: &Path) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let archive = PthTensors::new(path, None)?;
    let mut tensors = BTreeMap::new();
    for (name, _) in archive.tensor_infos().iter().filter(|(_, info)| info.dtype.is_float()) {
        if let Some(tensor) = archive.get(name)? {
            tensors.insert(name.clone(), tensor.contiguous()?);
        }
    }
    Ok(tensors)
}

fn streamed(mut file: BufReader<File>) -> candle_core::Result<BTreeMap<String, Tensor>> {
    file.read_exact(&mut [0; LEGACY_HEAD.len()])?;
    let pickle = |file: &mut BufReader<File>| {
        let mut stack = Stack::empty();
        stack.read_loop(file)?;
        stack.finalize()
    };
    let _system = pickle(&mut file)?;
    let Object::Dict(entries) = pickle(&mut file)? else { return Ok(BTreeMap::new()) };
    let Object::List(keys) = pickle(&mut file)? else { candle_core::bail!("the keys of the storages are no list") };
    let mut by_storage: HashMap<String, Vec<TensorInfo>> = HashMap::new();
    for (name, value) in entries {
        if let Some(info) = value.into_tensor_info(name, Path::new(STORAGES))? {
            by_storage.entry(info.path.clone()).or_default().push(info);
        }
    }
    let mut tensors = BTreeMap::new();
    for key in keys {
        let key = key.unicode()?;
        let infos = by_storage.remove(&format!("{STORAGES}/{key}")).unwrap_or_default();
        let Some(dtype) = infos.first().map(|info| info.dtype) else {
            candle_core::bail!("storage {key} belongs to no tensor, so that its size is not known")
        };
        let mut elements = [0; 8];
        file.read_exact(&mut elements)?;
        let bytes = u64::from_le_bytes(elements).saturating_mul(dtype.size_in_bytes() as u64);
        let mut storage = Vec::new();
        // No more than there is, so that a wrong number takes no memory.
        file.by_ref().take(bytes).read_to_end(&mut storage)?;
        if storage.len() as u64 != bytes {
            candle_core::bail!("storage {key} should have {bytes} bytes, but the file ends after {}", storage.len())
        }
        for info in infos.into_iter().filter(|info| info.dtype.is_float()) {
            tensors.insert(info.name.clone(), of_storage(&info, &storage)?);
        }
    }
    match by_storage.into_values().flatten().next() {
        Some(info) => candle_core::bail!("tensor {} has no storage", info.name),
        None => Ok(tensors),
    }
}

/// A tensor that lies in a storage row by row, or column by column as those that were converted from TensorFlow.
fn of_storage(info: &TensorInfo, storage: &[u8]) -> candle_core::Result<Tensor> {
    let (layout, dtype) = (&info.layout, info.dtype);
    let first = layout.start_offset();
    let length = layout.shape().elem_count() * dtype.size_in_bytes();
    let Some(bytes) = first.checked_add(length).and_then(|end| storage.get(first..end)) else {
        candle_core::bail!("tensor {} reaches beyond its storage", info.name)
    };
    if layout.is_contiguous() {
        return Tensor::from_raw_buffer(bytes, dtype, layout.dims(), &Device::Cpu);
    }
    if !layout.is_fortran_contiguous() {
        candle_core::bail!("tensor {} has the strides {:?}, which are not supported", info.name, layout.stride())
    }
    let reversed: Vec<usize> = layout.dims().iter().rev().copied().collect();
    let axes: Vec<usize> = (0..reversed.len()).rev().collect();
    Tensor::from_raw_buffer(bytes, dtype, &reversed, &Device::Cpu)?.permute(axes)?.contiguous()
}

//! A file or bytes of the program itself -> bytes to read, copied only where they have to be.
//! A file on disk is mapped into memory (POSIX `mmap`) while a model is made of it; what the program carries is used where it lies.

#[cfg(not(target_arch = "wasm32"))]
use std::fs::File;
use std::io;
#[cfg(not(target_arch = "wasm32"))]
use std::io::Read;
use std::ops::Deref;
use std::path::Path;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::Arc;

#[cfg(not(target_arch = "wasm32"))]
use memmap2::{Mmap, MmapOptions};
use sha2::{Digest, Sha256};

/// The bytes of one file.
#[derive(Clone)]
pub struct Contents(Storage);

#[derive(Clone)]
enum Storage {
    Owned(Vec<u8>),
    /// Bytes that are there as long as the program, and their SHA-256 where it is known.
    Static(&'static [u8], Option<&'static str>),
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(Arc<Mmap>),
}

impl Contents {
    /// Bytes inside the program whose SHA-256, in hexadecimal, is known since it was built.
    pub const fn known(bytes: &'static [u8], sha256: &'static str) -> Self {
        Self(Storage::Static(bytes, Some(sha256)))
    }

    /// Maps a file; reads it where that cannot be done, as with a pipe. A file that is overwritten or cut short meanwhile gives other bytes or ends
    /// the process, so what is mapped is dropped as soon as a model is made of it. Whoever replaces a file renames the new one into its place.
    ///
    /// # Errors
    /// If the file cannot be opened or read, or is larger than memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn map(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process; that nobody cuts the file short while it is read is asked of the caller above.
        match unsafe { MmapOptions::new().populate().map(&file) } {
            Ok(map) if !map.is_empty() => Ok(Self(Storage::Mapped(Arc::new(map)))),
            _ => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }

    /// Reads a file: WebAssembly has no maps.
    ///
    /// # Errors
    /// If the file cannot be opened or read.
    #[cfg(target_arch = "wasm32")]
    pub fn map(path: &Path) -> io::Result<Self> {
        Ok(std::fs::read(path)?.into())
    }

    /// A part of these bytes: the same ones if they stay as long as the program, else a copy.
    pub(crate) fn part(&self, part: &[u8]) -> Self {
        if let Storage::Static(bytes, _) = self.0 {
            let start = part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
            let within = bytes.get(start..start.saturating_add(part.len()));
            if let Some(same) = within.filter(|same| std::ptr::eq(*same, part)) {
                return Self(Storage::Static(same, None));
            }
        }
        part.to_vec().into()
    }

    /// SHA-256 of the bytes, in hexadecimal.
    pub fn sha256(&self) -> String {
        match self.0 {
            Storage::Static(_, Some(known)) => known.into(),
            _ => hexadecimal(&Sha256::digest(&**self)),
        }
    }
}

/// Two digits for each byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Owned(bytes) => bytes,
            Storage::Static(bytes, _) => bytes,
            #[cfg(not(target_arch = "wasm32"))]
            Storage::Mapped(map) => map,
        }
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Storage::Owned(bytes))
    }
}

impl From<&'static [u8]> for Contents {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Storage::Static(bytes, None))
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Contents {}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_holds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(Contents::map(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        for bytes in [Vec::new(), b"abc".to_vec(), vec![7; 100_000]] {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(*Contents::map(&path).unwrap(), *bytes);
        }
    }

    /// The example of FIPS 180-4.
    #[test]
    fn the_hash_is_that_of_the_standard() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Contents::from(b"abc".to_vec()).sha256(), expected);
        assert_eq!(Contents::from(b"abc".as_slice()).sha256(), expected);
        assert_eq!(Contents::known(b"abc", "known").sha256(), "known");
    }

    #[test]
    fn a_part_is_copied_only_if_it_must_be() {
        static BYTES: [u8; 5] = [1, 2, 3, 4, 5];
        let whole = Contents::known(&BYTES, "");
        let part = whole.part(&BYTES[1..4]);
        assert!(std::ptr::eq(&*part, &BYTES[1..4]));
        assert_ne!(part.sha256(), "");
        let elsewhere = [2u8, 3, 4];
        assert_eq!(*whole.part(&elsewhere), elsewhere);
        let owned = Contents::from(BYTES.to_vec());
        let part = owned.part(&owned[1..4]);
        assert!(*part == elsewhere && !std::ptr::eq(&*part, &owned[1..4]));
    }
}

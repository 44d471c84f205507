//! A model's source -> what the file system says of its files, without reading them: equal stamps mean unchanged files.
//! It is what `make`, `git` and `rsync` rely on: device and inode, size, times of the last change of content and of the inode.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

use crate::source::{FILE_NAMES, ModelSource};

/// Size, times and identity of a source's files, in the order of [`FILE_NAMES`]; of no file for the embedded model, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stamp(Vec<FileStamp>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileStamp {
    bytes: u64,
    modified: SystemTime,
    identity: Identity,
}

impl Stamp {
    /// Asks the file system; `None` if a file is missing or the file system keeps no times.
    pub(super) fn of(source: &ModelSource) -> Option<Self> {
        match source {
            ModelSource::Embedded => Some(Self(Vec::new())),
            // Fetched, it is a file or a folder.
            ModelSource::Remote(_) => None,
            ModelSource::File(path) => Some(Self(vec![FileStamp::of(path)?])),
            ModelSource::Folder(folder) => {
                FILE_NAMES.iter().map(|name| FileStamp::of(&folder.join(name))).collect::<Option<_>>().map(Self)
            }
        }
    }
}

impl FileStamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = metadata.modified().ok()?;
        Some(Self { bytes: metadata.len(), modified, identity: identity(&metadata) })
    }
}

/// Device, inode, and the time of the inode's last change in seconds and nanoseconds: a file put in another's place is another one
/// even if size and time of modification are made to agree.
#[cfg(unix)]
type Identity = [i64; 4];

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev().cast_signed(), metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
}

/// The time of creation, where there are no inodes.
#[cfg(not(unix))]
type Identity = Option<SystemTime>;

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> Identity {
    metadata.created().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_changes_with_each_file_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::from(folder.path());
        assert_eq!(Stamp::of(&source), None);
        for name in FILE_NAMES {
            std::fs::write(folder.path().join(name), "1").unwrap();
        }
        let mut last = Stamp::of(&source);
        assert!(last.is_some());
        assert_eq!(last, Stamp::of(&source));
        for name in FILE_NAMES {
            // Same size, another file.
            let copy = folder.path().join("copy");
            std::fs::write(&copy, "2").unwrap();
            std::fs::rename(copy, folder.path().join(name)).unwrap();
            let stamp = Stamp::of(&source);
            assert_ne!(stamp, last);
            last = stamp;
        }
        std::fs::remove_file(folder.path().join(FILE_NAMES[2])).unwrap();
        assert_eq!(Stamp::of(&source), None);
    }
}

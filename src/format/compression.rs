//! In: bytes as they lie on disk, perhaps compressed.
//! Out: the bytes inside; which compression it is, the first bytes say, not the file's name.
//! Method: gzip (RFC 1952) and Zstandard (RFC 8878), several members or frames one after another included, in Rust alone.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes asked of a file at once.
const BUFFER: usize = 64 * 1024;

/// A stream whose first bytes were looked at.
pub(super) type Peeked<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// Takes up to `count` bytes from the front of a stream, which then begins with them again.
pub(super) fn peek<R: Read>(mut reader: R, count: u64) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut head = Vec::new();
    reader.by_ref().take(count).read_to_end(&mut head)?;
    Ok((head.clone(), io::Cursor::new(head).chain(reader)))
}

/// What a stream holds, decompressed if it is compressed.
///
/// # Errors
/// If the stream cannot be read or its first frame is damaged.
pub(super) fn decompress(reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let (head, reader) = peek(reader, ZSTANDARD.len() as u64)?;
    let reader = BufReader::with_capacity(BUFFER, reader);
    Ok(if head.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(reader))
    } else if head == ZSTANDARD {
        Box::new(ZstandardFrames { input: Some(reader), frame: None })
    } else {
        Box::new(reader)
    })
}

type Frame<R> = StreamingDecoder<R, FrameDecoder>;

/// The frames of a Zstandard file, one after another.
struct ZstandardFrames<R: Read> {
    /// Between two frames.
    input: Option<R>,
    /// Inside one.
    frame: Option<Frame<R>>,
}

impl<R: BufRead> Read for ZstandardFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.input = self.frame.take().map(Frame::into_inner);
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.frame = open_frame(input)?;
        }
    }
}

/// Reads a frame's header; frames of users' own data, which RFC 8878 has readers skip, are named as what is not read.
fn open_frame<R: Read>(input: R) -> io::Result<Option<Frame<R>>> {
    match StreamingDecoder::new(input) {
        Ok(frame) => Ok(Some(frame)),
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { .. })) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a skippable Zstandard frame: decompress the file with zstd first",
        )),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn inside(bytes: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        decompress(io::Cursor::new(bytes))?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_are_read_one_after_another() {
        let long = "α-pinene ".repeat(50_000);
        let zstd = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        assert_eq!(inside([gzip(&long), gzip("THF")].concat()).unwrap(), long.clone() + "THF");
        assert_eq!(inside([zstd(&long), zstd("THF")].concat()).unwrap(), long + "THF");
        for plain in ["", "a", "THF"] {
            assert_eq!(inside(plain.into()).unwrap(), plain);
        }
    }

    /// `printf benzene | zstd` by zstd 1.5.4, `printf benzene | gzip -n` by gzip 1.12.
    #[test]
    fn files_of_the_command_line_tools_are_read() {
        let zstd = b"\x28\xb5\x2f\xfd\x04\x58\x39\x00\x00benzene\xd4\x27\x9e\x3f";
        assert_eq!(inside(zstd.to_vec()).unwrap(), "benzene");
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4a\xcd\xab\x4a\xcd\x4b\x05\0\xba\x4f\x46\x73\x07\0\0\0";
        assert_eq!(inside(gzip.to_vec()).unwrap(), "benzene");
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        let whole = gzip(&"benzene ".repeat(1000));
        assert!(inside(whole[..whole.len() / 2].to_vec()).is_err());
        let whole = compress_to_vec("benzene ".repeat(1000).as_bytes(), CompressionLevel::Fastest);
        assert!(inside(whole[..whole.len() / 2].to_vec()).is_err());
    }
}

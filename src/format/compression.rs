//! In: bytes as they lie on disk, perhaps compressed.
//! Out: the bytes inside; which compression it is, the first bytes say, not the file's name.
//! Method: gzip (RFC 1952) and Zstandard (RFC 8878), several members or frames one after another included, in Rust alone.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of a Zstandard frame.
const LONGEST_HEADER: usize = 18;
/// What `zstd` itself gives a frame without being asked for more (`--long=27`).
const LARGEST_WINDOW: u64 = 1 << 27;
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
        Box::new(ZstandardFrames { input: Some(Ahead { head: Vec::new(), reader }), frame: None })
    } else {
        Box::new(reader)
    })
}

type Frame<R> = StreamingDecoder<R, FrameDecoder>;

/// A stream that can be looked at before it is read.
struct Ahead<R> {
    /// Bytes that were looked at and not read.
    head: Vec<u8>,
    reader: R,
}

impl<R: Read> Ahead<R> {
    /// The next `count` bytes, or as many as there are.
    fn look(&mut self, count: usize) -> io::Result<&[u8]> {
        let missing = count.saturating_sub(self.head.len()) as u64;
        self.reader.by_ref().take(missing).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }
}

impl<R: Read> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return self.reader.read(buffer);
        }
        let read = self.head.as_slice().read(buffer)?;
        self.head.drain(..read);
        Ok(read)
    }
}

/// The frames of a Zstandard file, one after another.
struct ZstandardFrames<R: Read> {
    /// Between two frames.
    input: Option<Ahead<R>>,
    /// Inside one.
    frame: Option<Frame<Ahead<R>>>,
}

impl<R: Read> Read for ZstandardFrames<R> {
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
            let head = input.look(LONGEST_HEADER)?;
            if head.is_empty() {
                return Ok(0);
            }
            let window = window_size(head);
            if window > LARGEST_WINDOW {
                let message = format!(
                    "a Zstandard frame that asks for {window} bytes of memory, but {LARGEST_WINDOW} are the most: decompress the file with zstd first"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.frame = open_frame(input)?;
        }
    }
}

/// The memory that a frame asks for, by its header (RFC 8878, section 3.1.1.1); 0 if that is not whole. The decoder holds as much of what it gives.
fn window_size(header: &[u8]) -> u64 {
    let byte = |at: usize| header.get(at).copied().unwrap_or(0);
    let descriptor = byte(4);
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = byte(5);
        let base = 1u64 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    // The content's length, behind the dictionary's number.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = 1usize << (descriptor >> 6);
    let number = (0..length).rev().fold(0u64, |number, place| (number << 8) | u64::from(byte(at + place)));
    if length == 2 { number + 256 } else { number }
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

    /// Headers written by hand to RFC 8878: windows of 128 MB and more, and single segments whose length has one, two, four and eight bytes.
    #[test]
    fn frames_that_ask_for_too_much_are_refused() {
        for (header, window) in [
            (&b"\x28\xb5\x2f\xfd\x04\x88"[..], 1 << 27),
            (b"\x28\xb5\x2f\xfd\x04\x8a", (1 << 27) + (1 << 25)),
            (b"\x28\xb5\x2f\xfd\x04\xa8", 1 << 31),
            (b"\x28\xb5\x2f\xfd\x04\x58", 1 << 21),
            (b"\x28\xb5\x2f\xfd\x20\x07", 7),
            (b"\x28\xb5\x2f\xfd\x60\x01\x01", 513),
            (b"\x28\xb5\x2f\xfd\xa1\x09\x00\x00\x00\x01", 1 << 24),
            (b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\x01\0\0", 1 << 40),
        ] {
            assert_eq!(window_size(header), window, "{header:?}");
            let error = inside([header, &[0; 20]].concat());
            let refused = error.is_err_and(|error| error.to_string().contains("bytes of memory"));
            assert_eq!(refused, window > LARGEST_WINDOW, "{header:?}");
        }
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        let whole = gzip(&"benzene ".repeat(1000));
        assert!(inside(whole[..whole.len() / 2].to_vec()).is_err());
        let whole = compress_to_vec("benzene ".repeat(1000).as_bytes(), CompressionLevel::Fastest);
        assert!(inside(whole[..whole.len() / 2].to_vec()).is_err());
    }
}

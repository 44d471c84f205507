//! In: bytes of a text in UTF-8 or, with a byte order mark, in UTF-16.
//! Out: bytes of UTF-8; on request each ill-formed sequence is one U+FFFD. Nothing else changes, the byte order mark included.
//! Method: the Unicode Standard's byte order marks (section 23.8) and its practice of replacing maximal subparts (section 3.9).

use std::io::{self, Read};

use super::compression::peek;

/// Bytes decoded at once.
const PORTION: usize = 16 * 1024;

/// A stream as UTF-8. What is not well-formed UTF-8 stays as it is, for the reader of the format to name its line, unless `lossy`.
///
/// # Errors
/// If the stream cannot be read, or is UTF-32; reading fails where UTF-16 is ill-formed.
pub(super) fn to_utf8(reader: Box<dyn Read + Send>, lossy: bool) -> io::Result<Box<dyn Read + Send>> {
    let (head, reader) = peek(reader, 4)?;
    let little = match head.as_slice() {
        [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] => {
            let message = "UTF-32, which is not read: convert it to UTF-8 first";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        [0xff, 0xfe, ..] => true,
        [0xfe, 0xff, ..] => false,
        _ if lossy => return Ok(Box::new(Decoded::new(reader, Lossy))),
        _ => return Ok(Box::new(reader)),
    };
    Ok(Box::new(Decoded::new(reader, Utf16 { little, lossy, decoded: 0 })))
}

/// Turns bytes of one encoding into a text.
trait Decoder {
    /// Appends the text of as many bytes as are whole characters and says how many they are; at the end of the stream, of all.
    fn decode(&mut self, bytes: &[u8], last: bool, text: &mut String) -> io::Result<usize>;
}

struct Decoded<R, D> {
    reader: R,
    decoder: D,
    /// Bytes that are not yet whole characters.
    tail: Vec<u8>,
    text: String,
    /// How much of `text` was given away.
    given: usize,
    ended: bool,
}

impl<R: Read, D: Decoder> Decoded<R, D> {
    fn new(reader: R, decoder: D) -> Self {
        Self { reader, decoder, tail: Vec::new(), text: String::new(), given: 0, ended: false }
    }
}

impl<R: Read, D: Decoder> Read for Decoded<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.ended {
            self.text.clear();
            self.given = 0;
            self.ended = self.reader.by_ref().take(PORTION as u64).read_to_end(&mut self.tail)? == 0;
            let decoded = self.decoder.decode(&self.tail, self.ended, &mut self.text)?;
            self.tail.drain(..decoded);
        }
        let read = (&self.text.as_bytes()[self.given..]).read(buffer)?;
        self.given += read;
        Ok(read)
    }
}

/// UTF-8 with what is ill-formed replaced.
struct Lossy;

impl Decoder for Lossy {
    fn decode(&mut self, bytes: &[u8], last: bool, text: &mut String) -> io::Result<usize> {
        let mut decoded = 0;
        while decoded < bytes.len() {
            let rest = &bytes[decoded..];
            let error = match std::str::from_utf8(rest) {
                Ok(rest) => {
                    text.push_str(rest);
                    return Ok(bytes.len());
                }
                Err(error) => error,
            };
            let valid = error.valid_up_to();
            text.push_str(std::str::from_utf8(&rest[..valid]).unwrap_or_default());
            decoded += valid;
            match error.error_len() {
                // More bytes may make it whole.
                None if !last => return Ok(decoded),
                length => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    decoded += length.unwrap_or(rest.len() - valid);
                }
            }
        }
        Ok(decoded)
    }
}

struct Utf16 {
    little: bool,
    lossy: bool,
    /// Bytes before those that come next.
    decoded: usize,
}

impl Decoder for Utf16 {
    fn decode(&mut self, bytes: &[u8], last: bool, text: &mut String) -> io::Result<usize> {
        let unit = |pair: &[u8; 2]| if self.little { u16::from_le_bytes(*pair) } else { u16::from_be_bytes(*pair) };
        let (pairs, odd) = bytes.as_chunks::<2>();
        let mut units: Vec<u16> = pairs.iter().map(unit).collect();
        // The second half of a character may still be to come.
        if !last {
            units.pop_if(|unit| (0xd800..0xdc00).contains(unit));
        }
        let mut at = self.decoded;
        let odd = if last { odd.len() } else { 0 };
        let whole = char::decode_utf16(units.iter().copied()).map(Result::ok).chain((odd > 0).then_some(None));
        for character in whole {
            if character.is_none() && !self.lossy {
                let message = format!(
                    "not UTF-16 at byte {at}: convert it first, or give --lossy to replace such bytes by U+FFFD"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
            at += 2 * character.map_or(1, char::len_utf16);
        }
        let taken = 2 * units.len() + odd;
        self.decoded += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives a few bytes at a time.
    struct Trickle(Vec<u8>, usize);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    fn decoded(bytes: &[u8], lossy: bool) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        to_utf8(Box::new(Trickle(bytes.to_vec(), 3)), lossy)?.read_to_end(&mut text)?;
        Ok(text)
    }

    proptest! {
        #[test]
        fn lossy_is_what_the_standard_library_makes(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,20}") {
            let bytes = [b"a", text.as_bytes(), &bytes].concat();
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert_eq!(decoded(&bytes, true).unwrap(), expected.as_bytes());
            prop_assert_eq!(decoded(&bytes, false).unwrap(), bytes);
        }

        #[test]
        fn utf_16_is_the_same_text(text in "\\PC{0,20}|[aα🧪\u{301}]{0,9000}") {
            let text = format!("\u{feff}a{text}");
            let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            for bytes in [little, big] {
                let found = decoded(&bytes, false).unwrap();
                prop_assert_eq!(std::str::from_utf8(&found), Ok(text.as_str()));
            }
        }
    }

    #[test]
    fn ill_formed_utf_16_is_named_or_replaced() {
        let bytes = b"\xff\xfea\0\x3e\xd8b\0\x3e";
        let message = decoded(bytes, false).unwrap_err().to_string();
        assert!(message.starts_with("not UTF-16 at byte 4: "), "{message}");
        assert_eq!(decoded(bytes, true).unwrap(), "\u{feff}a\u{fffd}b\u{fffd}".as_bytes());
        assert!(decoded(b"\xff\xfe\0\0a\0\0\0", true).unwrap_err().to_string().starts_with("UTF-32"));
    }
}

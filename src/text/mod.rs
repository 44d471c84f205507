//! In: any `&str` (an abstract, a patent, a book without a full stop).
//! Out: sentences and words as byte ranges into that same string; nothing is copied, trimmed or normalised.
//! Method: extended grapheme clusters (Unicode Standard Annex 29) as atoms; sentence borders by rules and tables for scientific English.
//!
//! [`words`] cuts a text into runs of letters and digits; every other visible character is a word of its own. On ordinary
//! text this is the regular expression `[^\W_]+|[^\s]`; combining marks, joiners and variation selectors stay with the
//! character they follow, so no range ever cuts a grapheme.
//!
//! [`sentences`] cuts a text into sentences, trimmed of white space. It knows abbreviations, initials, names such as
//! `bicyclo[2.2.1]heptane`, reference numbers glued to a full stop, headings and hard-wrapped lines.
//!
//! ```
//! use chemtag::text::{sentences, words};
//!
//! let text = "Rats got 2.5 mg aspirin i.p. daily. (+)-Catechin was inactive.";
//! let found: Vec<&str> = sentences(text).map(|s| &text[s.range]).collect();
//! assert_eq!(found, ["Rats got 2.5 mg aspirin i.p. daily.", "(+)-Catechin was inactive."]);
//!
//! let found: Vec<&str> = words("N,N-dimethyl").map(|range| &"N,N-dimethyl"[range]).collect();
//! assert_eq!(found, ["N", ",", "N", "-", "dimethyl"]);
//! ```
//!
//! # Reading a text in pieces
//!
//! A reader of an endless text can cut it at sentences because of two promises:
//!
//! 1. What stands before a sentence never matters. If `s` is the start of a sentence of `text`, then `sentences(&text[s..])`
//!    gives the same sentences as `sentences(text)` does from there on.
//! 2. What stands more than [`LOOKAHEAD_BYTES`] after a sentence never matters. A sentence that ends at `e` in the first `n`
//!    bytes of a text, with `e + LOOKAHEAD_BYTES <= n`, is a sentence of the whole text.
//!
//! A sentence that grows beyond [`MAX_SENTENCE_BYTES`] is cut there, so the memory that such a reader needs is bounded.

mod abbreviations;
mod borders;
mod punctuation;
mod sentences;
mod starts;
mod words;

pub use sentences::{LOOKAHEAD_BYTES, MAX_SENTENCE_BYTES, Sentence, Sentences, sentences};
pub use words::{Words, words};

//! Annotated documents -> training examples: sequences of pieces with a tag for each word, and a class where the corpus gives one.
//! The product's own path makes them (sentences, words, pieces, sequences), so a model is trained on what it will read.
//! A data set can be kept in one safetensors file of small integers, to train where the corpora are not.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use chemtag::model::crf::Tag;
use chemtag::sequence::{Sequence, Sequencer};
use chemtag::text::{sentences, words};
use chemtag::tokenizer::WordPieces;

use crate::columns::{self, Column};
use crate::corpus::{Document, Mention, flat_mentions};
use crate::error::{Error, Result};

/// Marks a word that begins no mention with a known class.
pub const NO_CLASS_INDEX: u8 = u8::MAX;

/// One sequence with its gold tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Index into [`Dataset::corpora`].
    pub corpus: u8,
    /// Vocabulary ids, `[CLS]` and `[SEP]` included.
    pub piece_ids: Vec<u32>,
    /// First piece of each word.
    pub word_starts: Vec<u32>,
    /// Gold tag of each word; a valid path.
    pub tags: Vec<Tag>,
    /// Class of the mention that each word begins, or [`NO_CLASS_INDEX`].
    pub classes: Vec<u8>,
}

/// Examples of one or several corpora.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Names of the corpora.
    pub corpora: Vec<String>,
    /// In the corpora's order.
    pub examples: Vec<Example>,
}

/// How a corpus is cut into sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reading {
    /// Neighbouring sentences of a document share a sequence; a corpus of lone sentences keeps its own tokens.
    Documents,
    /// Every sentence is a sequence; a corpus of lone sentences is split into words as the product splits text.
    Sentences,
    /// Everything both ways.
    Mixed,
}

impl Dataset {
    /// Adds a corpus.
    ///
    /// `class_of` maps a label to the class head's output, where the corpus gives a class.
    pub fn add(
        &mut self,
        name: &str,
        documents: &[Document],
        reading: Reading,
        pieces: &WordPieces,
        room: usize,
        class_of: impl Fn(&str) -> Option<u8>,
    ) {
        let corpus = match self.corpora.iter().position(|known| known == name) {
            Some(index) => index,
            None => {
                self.corpora.push(name.into());
                self.corpora.len() - 1
            }
        } as u8;
        let ways: &[bool] = match reading {
            Reading::Documents => &[false],
            Reading::Sentences => &[true],
            Reading::Mixed => &[false, true],
        };
        for document in documents {
            let gold = flat_mentions(&document.mentions);
            for &lone in ways {
                for sequence in sequences(document, lone, pieces, room) {
                    let (tags, starts) = align(&sequence.words, &gold);
                    let mut classes = vec![NO_CLASS_INDEX; tags.len()];
                    for (word, mention) in starts {
                        classes[word] = class_of(&gold[mention].label).unwrap_or(NO_CLASS_INDEX);
                    }
                    self.examples.push(Example {
                        corpus,
                        piece_ids: sequence.piece_ids,
                        word_starts: sequence.word_starts,
                        tags,
                        classes,
                    });
                }
            }
        }
    }

    /// Number of pieces of all examples.
    pub fn pieces(&self) -> usize {
        self.examples.iter().map(|example| example.piece_ids.len()).sum()
    }
}

/// The sequences of a document; given tokens are its words unless it is read sentence by sentence.
pub fn sequences(document: &Document, lone: bool, pieces: &WordPieces, room: usize) -> Vec<Sequence> {
    let mut sequencer = Sequencer::new(pieces.cls(), pieces.sep(), room, lone);
    let text = &document.text;
    match &document.words {
        Some(given) if !lone => {
            for word in given {
                sequencer.push_word(word.clone(), &pieces.pieces(&text[word.clone()]));
            }
        }
        _ => {
            for sentence in sentences(text) {
                let start = sentence.range.start;
                for word in words(&text[sentence.range]) {
                    let word = start + word.start..start + word.end;
                    sequencer.push_word(word.clone(), &pieces.pieces(&text[word]));
                }
                if !sentence.continues {
                    sequencer.end_sentence();
                }
            }
        }
    }
    sequencer.end_document();
    sequencer.take_ready()
}

/// Tags of words by mentions in order of their start, and which word begins which mention.
///
/// A word that a mention touches belongs to it. A sequence that begins inside a mention has its rest as a mention.
fn align(words: &[Range<usize>], mentions: &[Mention]) -> (Vec<Tag>, Vec<(usize, usize)>) {
    let mut tags = vec![Tag::O; words.len()];
    let mut starts = Vec::new();
    let mut next = 0;
    for (index, mention) in mentions.iter().enumerate() {
        let first = next + words[next..].partition_point(|word| word.end <= mention.start);
        let end = first + words[first..].partition_point(|word| word.start < mention.end);
        if first < end {
            tags[first] = Tag::B;
            tags[first + 1..end].fill(Tag::I);
            starts.push((first, index));
            next = end;
        }
    }
    (tags, starts)
}

impl Dataset {
    /// Writes the data set to one file. Pieces are kept as 16-bit numbers.
    ///
    /// # Errors
    /// If a piece id or a sequence does not fit 16 bits, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if self.examples.iter().any(|e| e.piece_ids.iter().any(|&id| id > u32::from(u16::MAX))) {
            return Err(Error::Dataset {
                path: path.into(),
                reason: "the vocabulary has more than 65,536 pieces, which this format cannot hold".into(),
            });
        }
        let all = || self.examples.iter();
        let columns = vec![
            ("corpus", Column::bytes(all().map(|e| e.corpus))),
            ("pieces", Column::shorts(all().map(|e| e.piece_ids.len() as u16))),
            ("words", Column::shorts(all().map(|e| e.tags.len() as u16))),
            ("piece_ids", Column::shorts(all().flat_map(|e| e.piece_ids.iter().map(|&id| id as u16)))),
            ("word_starts", Column::shorts(all().flat_map(|e| e.word_starts.iter().map(|&start| start as u16)))),
            ("tags", Column::bytes(all().flat_map(|e| e.tags.iter().map(|&tag| tag as u8)))),
            ("classes", Column::bytes(all().flat_map(|e| e.classes.iter().copied()))),
        ];
        let corpora = serde_json::Value::from(self.corpora.clone()).to_string();
        columns::save(path, columns, Some(HashMap::from([("corpora".to_string(), corpora)])))
    }

    /// Reads a file written by [`Dataset::save`].
    ///
    /// # Errors
    /// If the file cannot be read or its columns do not fit each other.
    pub fn load(path: &Path) -> Result<Self> {
        let columns = columns::load(path)?;
        let corpora = columns.metadata("corpora")?;
        let corpora: Vec<String> = serde_json::from_str(&corpora).map_err(|e| columns.damaged(&e.to_string()))?;
        let numbers =
            |name: &str| -> Result<Vec<u32>> { Ok(columns.shorts(name)?.into_iter().map(u32::from).collect()) };
        let (corpus, tags, classes) = (columns.bytes("corpus")?, columns.bytes("tags")?, columns.bytes("classes")?);
        let (pieces, words) = (numbers("pieces")?, numbers("words")?);
        let (piece_ids, word_starts) = (numbers("piece_ids")?, numbers("word_starts")?);
        let total = |counts: &[u32]| counts.iter().map(|&n| n as usize).sum::<usize>();
        if pieces.len() != corpus.len()
            || words.len() != corpus.len()
            || total(&pieces) != piece_ids.len()
            || [word_starts.len(), tags.len(), classes.len()] != [total(&words); 3]
            || corpus.iter().any(|&index| usize::from(index) >= corpora.len())
        {
            return Err(columns.damaged("its columns do not fit each other"));
        }
        let tag = |&tag: &u8| [Tag::O, Tag::B, Tag::I].get(usize::from(tag)).copied();
        let tags: Option<Vec<Tag>> = tags.iter().map(tag).collect();
        let tags = tags.ok_or_else(|| columns.damaged("a tag is none of O, B, I"))?;
        let (mut piece, mut word) = (0, 0);
        let mut examples = Vec::with_capacity(corpus.len());
        for (i, &corpus) in corpus.iter().enumerate() {
            let (p, w) = (piece..piece + pieces[i] as usize, word..word + words[i] as usize);
            (piece, word) = (p.end, w.end);
            if word_starts[w.clone()].iter().any(|&start| start >= pieces[i]) {
                return Err(columns.damaged(&format!("example {i} has a word beyond its pieces")));
            }
            examples.push(Example {
                corpus,
                piece_ids: piece_ids[p].to_vec(),
                word_starts: word_starts[w.clone()].to_vec(),
                tags: tags[w.clone()].to_vec(),
                classes: classes[w].to_vec(),
            });
        }
        Ok(Self { corpora, examples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mention(start: usize, end: usize, label: &str) -> Mention {
        Mention { start, end, label: label.into() }
    }

    #[test]
    fn words_that_a_mention_touches_belong_to_it() {
        use Tag::{B, I, O};
        let words = [0..3, 3..4, 5..9, 10..12];
        for (mentions, expected, starts) in [
            (vec![], vec![O, O, O, O], vec![]),
            (vec![mention(0, 4, "")], vec![B, I, O, O], vec![(0, 0)]),
            (vec![mention(0, 3, ""), mention(3, 9, "")], vec![B, B, I, O], vec![(0, 0), (1, 1)]),
            (vec![mention(6, 8, ""), mention(8, 12, "")], vec![O, O, B, B], vec![(2, 0), (3, 1)]),
            (vec![mention(4, 5, "")], vec![O, O, O, O], vec![]),
        ] {
            assert_eq!(align(&words, &mentions), (expected, starts), "{mentions:?}");
        }
    }

    #[test]
    fn a_saved_data_set_comes_back_whole() {
        let example = Example {
            corpus: 1,
            piece_ids: vec![2, 700, 65_535, 3],
            word_starts: vec![1, 2],
            tags: vec![Tag::B, Tag::I],
            classes: vec![3, NO_CLASS_INDEX],
        };
        let dataset = Dataset { corpora: vec!["a".into(), "b".into()], examples: vec![example.clone(), example] };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.safetensors");
        dataset.save(&path).unwrap();
        assert_eq!(Dataset::load(&path).unwrap(), dataset);

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Dataset::load(&path).unwrap_err().to_string().contains("data.safetensors"));
        let mut wide = dataset.clone();
        wide.examples[0].piece_ids[1] = 70_000;
        assert!(wide.save(&path).unwrap_err().to_string().contains("65,536"));
    }
}

//! A packed batch -> what the kernels read of it, in one buffer: ids, positions, words' first pieces, the attention's tiles and, for training,
//! which rows of the batch belong to which row of the embedding tables. Made on the CPU, in any thread, and copied at once.

use std::ops::Range;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::attention;
use super::embedding::Pieces;
use super::occurrences::Occurrences;
use super::refused;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::config::EncoderConfig;

/// A batch made ready on the CPU.
#[derive(Clone)]
pub struct HostInputs {
    rows: usize,
    numbers: Vec<u32>,
    ids: Range<usize>,
    positions: Range<usize>,
    word_starts: Range<usize>,
    tiles: Range<usize>,
    tables: Option<[Table; 2]>,
}

/// Occurrences of a table's rows, and where their numbers lie.
#[derive(Clone)]
struct Table {
    occurrences: Occurrences,
    range: Range<usize>,
}

impl HostInputs {
    /// Prepares a batch for an encoder of this configuration; `training` for a pass with a backward one.
    ///
    /// # Errors
    /// If a piece's id or position lies beyond the encoder's tables.
    pub fn new(batch: &Batch, config: &EncoderConfig, training: bool) -> Result<Self> {
        let check = |what: &str, numbers: &[u32], end: usize| match numbers.iter().max() {
            Some(&highest) if highest as usize >= end => {
                Err(Error::Option(format!("a batch has the {what} {highest}, but the encoder has only {end}")))
            }
            _ => Ok(()),
        };
        check("piece id", &batch.piece_ids, config.vocab_size)?;
        check("position", &batch.positions, config.max_positions)?;
        let mut numbers = Vec::new();
        let mut place = |part: &[u32]| {
            // Kernels read up to four numbers at once.
            numbers.resize(numbers.len().next_multiple_of(4), 0);
            numbers.extend_from_slice(part);
            numbers.len() - part.len()..numbers.len()
        };
        let tiles = place(&attention::tiles(&batch.cu_seqlens));
        let (ids, positions) = (place(&batch.piece_ids), place(&batch.positions));
        let word_starts = place(&batch.word_starts);
        let tables = match training {
            false => None,
            true => {
                let mut table = |numbers: &[u32], rows| -> Result<Table> {
                    let occurrences = Occurrences::new(numbers, rows)?;
                    let range = place(occurrences.words());
                    Ok(Table { occurrences, range })
                };
                Some([table(&batch.piece_ids, config.vocab_size)?, table(&batch.positions, config.max_positions)?])
            }
        };
        Ok(Self { rows: batch.pieces(), numbers, ids, positions, word_starts, tiles, tables })
    }

    /// Copies it to the GPU.
    ///
    /// # Errors
    /// If the device fails.
    pub fn upload(self, stream: &Arc<CudaStream>) -> Result<Inputs> {
        let numbers = stream.clone_htod(&self.numbers).map_err(refused("copying a batch"))?;
        Ok(Inputs { host: self, numbers })
    }
}

/// A batch on the GPU.
pub struct Inputs {
    host: HostInputs,
    numbers: CudaSlice<u32>,
}

/// What [`Inputs::with_pieces`] lends out.
pub struct TableInputs<'i> {
    /// Which rows belong together.
    pub occurrences: &'i Occurrences,
    /// The same on the GPU.
    pub words: CudaView<'i, u32>,
}

impl Inputs {
    /// Number of pieces.
    pub fn rows(&self) -> usize {
        self.host.rows
    }

    /// Calls `operation` with the pieces' ids and positions.
    pub fn with_pieces<R>(&self, operation: impl FnOnce(Pieces<'_>) -> R) -> R {
        let ids = self.numbers.slice(self.host.ids.clone());
        let positions = self.numbers.slice(self.host.positions.clone());
        operation(Pieces { ids: &ids, positions: &positions })
    }

    /// Number of words.
    pub fn words(&self) -> usize {
        self.host.word_starts.len()
    }

    /// First piece of each word.
    pub fn word_starts(&self) -> CudaView<'_, u32> {
        self.numbers.slice(self.host.word_starts.clone())
    }

    /// Tiles of the attention.
    pub fn tiles(&self) -> CudaView<'_, u32> {
        self.numbers.slice(self.host.tiles.clone())
    }

    /// Occurrences of the rows of the word table and of the position table.
    ///
    /// # Errors
    /// If the batch was not prepared for training.
    pub fn tables(&self) -> Result<[TableInputs<'_>; 2]> {
        let tables = self.host.tables.as_ref();
        let tables = tables.ok_or_else(|| Error::Option("the batch was not prepared for training".into()))?;
        Ok(tables.each_ref().map(|table| TableInputs {
            occurrences: &table.occurrences,
            words: self.numbers.slice(table.range.clone()),
        }))
    }
}

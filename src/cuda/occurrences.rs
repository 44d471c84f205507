//! Ids of pieces (or positions) `[rows]` -> their rows sorted by id and cut into chunks, which a GPU can add up in parallel without atomics.
//! This is the sparse backward pass of an embedding table: `[MASK]` may be a third of all rows, most other ids occur once.
//! Counting sort, so rows of an id stay in order and sums are the same every time.

use crate::error::{Error, Result};

/// Rows of a chunk at most: enough to hide memory's latency, few enough that a frequent id is spread over many blocks.
const CHUNK: usize = 32;

/// Mark of a chunk's target that is a row of the partial sums rather than of the table; `embedding.cu` has it too.
const PARTIAL: u32 = 1 << 31;

/// Which rows of a batch belong to which row of a table, as kernels take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrences {
    words: Vec<u32>,
    rows: usize,
    chunks: usize,
    merges: usize,
    partials: usize,
}

impl Occurrences {
    /// Most numbers that [`words`](Self::words) has for `rows` rows: each row and three for its chunk; where an id has several rows, less.
    pub const fn max_words(rows: usize) -> usize {
        4 * rows
    }

    /// Most rows of partial sums: an id that has them has more than a chunk, so less than two chunks' worth of rows for each.
    pub const fn max_partials(rows: usize) -> usize {
        rows.div_ceil(CHUNK / 2)
    }

    /// Sorts `ids` `[rows]`, each below `table_rows`.
    ///
    /// # Errors
    /// [`Error::Option`] if an id is not in the table or there are 2^31 rows or more.
    pub fn new(ids: &[u32], table_rows: usize) -> Result<Self> {
        let mut ends = vec![0usize; table_rows];
        for (row, &id) in ids.iter().enumerate() {
            let Some(count) = ends.get_mut(id as usize) else {
                return Err(Error::Option(format!("row {row} has id {id}, but the table has {table_rows} rows")));
            };
            *count += 1;
        }
        if ids.len() >= PARTIAL as usize || table_rows >= PARTIAL as usize {
            return Err(Error::Option(format!("{} rows of {table_rows} ids are too many", ids.len())));
        }
        let (mut chunks, mut merges) = (Vec::new(), Vec::new());
        let (mut first, mut partials) = (0, 0);
        for (id, slot) in ends.iter_mut().enumerate() {
            let count = std::mem::replace(slot, first);
            let own = count.div_ceil(CHUNK);
            if own > 1 {
                merges.extend([id as u32, partials as u32, own as u32]);
            }
            for chunk in 0..own {
                let start = chunk * CHUNK;
                let target = if own > 1 { PARTIAL | (partials + chunk) as u32 } else { id as u32 };
                chunks.extend([(first + start) as u32, CHUNK.min(count - start) as u32, target]);
            }
            partials += if own > 1 { own } else { 0 };
            first += count;
        }
        // `ends` now has each id's first place, which moves on as its rows are put down.
        let mut sorted = vec![0u32; ids.len()];
        for (row, &id) in ids.iter().enumerate() {
            if let Some(end) = ends.get_mut(id as usize) {
                if let Some(place) = sorted.get_mut(*end) {
                    *place = row as u32;
                }
                *end += 1;
            }
        }
        let (chunk_count, merge_count) = (chunks.len() / 3, merges.len() / 3);
        let words = [chunks, merges, sorted].concat();
        Ok(Self { words, rows: ids.len(), chunks: chunk_count, merges: merge_count, partials })
    }

    /// All of it, to be copied to the GPU: chunks (first, count, target) `[chunks, 3]`, merges (id, first partial sum, count) `[merges, 3]`,
    /// the sorted rows `[rows]`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Chunks of rows of one id.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Ids with several chunks.
    pub fn merges(&self) -> usize {
        self.merges
    }

    /// Rows of partial sums, one for each chunk of such an id.
    pub fn partials(&self) -> usize {
        self.partials
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    /// Does what the kernels do, with row numbers in place of gradients: every row comes once, under its own id.
    #[test]
    fn every_row_belongs_to_one_chunk_of_its_id() -> Result<()> {
        for (count, table, common) in [(0, 5, 0), (1, 1, 1), (31, 3, 31), (32, 3, 32), (33, 3, 33), (5000, 700, 1500)] {
            let mut ids = Random(count as u64).numbers(count, table);
            ids.iter_mut().step_by(3).take(common).for_each(|id| *id = table as u32 / 2);
            let found = Occurrences::new(&ids, table)?;
            let (chunks, rest) = found.words().split_at(3 * found.chunks());
            let (merges, sorted) = rest.split_at(3 * found.merges());
            assert_eq!(sorted.len(), found.rows());
            let mut rows_of = vec![Vec::new(); table];
            let mut partials = vec![Vec::new(); found.partials()];
            for chunk in chunks.chunks(3) {
                let rows = &sorted[chunk[0] as usize..][..chunk[1] as usize];
                assert!((1..=CHUNK).contains(&rows.len()));
                let target = (chunk[2] & !PARTIAL) as usize;
                let slot = if chunk[2] & PARTIAL != 0 { &mut partials[target] } else { &mut rows_of[target] };
                assert!(slot.is_empty(), "two chunks have one target");
                slot.extend_from_slice(rows);
            }
            for merge in merges.chunks(3) {
                let slot = &mut rows_of[merge[0] as usize];
                assert!(slot.is_empty(), "a merge and a chunk have one target");
                *slot = partials[merge[1] as usize..][..merge[2] as usize].concat();
            }
            for (id, rows) in rows_of.iter().enumerate() {
                let expected: Vec<u32> = (0..count as u32).filter(|&row| ids[row as usize] == id as u32).collect();
                assert_eq!(rows, &expected, "{id}");
            }
            assert!(found.words().len() <= Occurrences::max_words(count));
            assert!(found.partials() <= Occurrences::max_partials(count));
        }
        Ok(())
    }

    #[test]
    fn an_id_outside_of_the_table_is_refused() {
        assert!(Occurrences::new(&[0, 4, 5], 5).is_err_and(|e| e.to_string().contains("row 2 has id 5")));
    }
}

//! A word -> its pieces' ids, if it was seen before: a table that many threads read at the same time without a lock.
//! Open addressing (Peterson 1957) in tables that follow one another, each made when the one before it is full where a word belongs. Entries are never changed nor removed, so a reader needs no more than one atomic load for each slot that it looks at.

use std::sync::{Arc, OnceLock};

/// Slots of the tables. Most texts hold a few thousand words, 5 MB of articles 40,000: memory grows with them, in steps (a slot takes 48 bytes)
/// of 0.2, 0.8, 1.6, 3.1 and 6.3 MB; with the words themselves the last table bounds it at about 28 MB.
const SLOTS: [usize; 5] = [1 << 12, 1 << 14, 1 << 15, 1 << 16, 1 << 17];
/// Neighbouring slots in which a word may lie.
const WINDOW: usize = 8;

type Table = Box<[OnceLock<Entry>]>;

/// Pieces of words.
#[derive(Default)]
pub struct WordCache {
    tables: [OnceLock<Table>; SLOTS.len()],
}

struct Entry {
    /// Compared first: it lies in the slot, the word elsewhere.
    hash: u64,
    word: Box<str>,
    pieces: Arc<[u32]>,
}

impl Entry {
    fn is(&self, hash: u64, word: &str) -> bool {
        self.hash == hash && *self.word == *word
    }
}

impl WordCache {
    /// The pieces of a word that was inserted.
    pub fn get(&self, word: &str) -> Option<&Arc<[u32]>> {
        let hash = hash(word.as_bytes());
        for table in &self.tables {
            // Slots are filled in the order in which they are looked at here: none is free before the one that holds the word.
            for slot in window(table.get()?, hash) {
                let entry = slot.get()?;
                if entry.is(hash, word) {
                    return Some(&entry.pieces);
                }
            }
        }
        None
    }

    /// Keeps a word's pieces unless all of its slots are taken.
    pub fn insert(&self, word: &str, pieces: Arc<[u32]>) {
        let hash = hash(word.as_bytes());
        let mut entry = Entry { hash, word: word.into(), pieces };
        for (table, slots) in self.tables.iter().zip(SLOTS) {
            let table = table.get_or_init(|| (0..slots).map(|_| OnceLock::new()).collect());
            for slot in window(table, hash) {
                match slot.set(entry) {
                    Ok(()) => return,
                    Err(back) => entry = back,
                }
                if slot.get().is_some_and(|taken| taken.is(hash, word)) {
                    return;
                }
            }
        }
    }
}

/// The slots of a table in which a word of this hash may lie.
fn window(table: &[OnceLock<Entry>], hash: u64) -> &[OnceLock<Entry>] {
    // The upper half is the well mixed one.
    let first = (hash >> 32) as usize % (table.len() - WINDOW);
    &table[first..first + WINDOW]
}

/// Eight bytes at a time, rotated and multiplied (the hash of Firefox and rustc, "Fx"). Words that are chosen to collide are not kept, which
/// costs time, but no more than a text whose words are all new.
fn hash(word: &[u8]) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let step = |hash: u64, part: u64| (hash.rotate_left(5) ^ part).wrapping_mul(FACTOR);
    let (whole, rest) = word.as_chunks::<8>();
    let hash = whole.iter().fold(word.len() as u64, |hash, part| step(hash, u64::from_le_bytes(*part)));
    let last = rest.iter().fold(0, |last, &byte| last << 8 | u64::from(byte));
    let hash = step(hash, last);
    // The lower bits of a product hang on few bits of its factors.
    hash ^ hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_as_long_as_there_is_room() {
        let cache = WordCache::default();
        assert_eq!(cache.get("benzene"), None);
        let words: Vec<String> = (0..300_000_u64).map(|i| format!("{:x}", i * 7919)).collect();
        for (i, word) in words.iter().enumerate() {
            cache.insert(word, [i as u32].into());
        }
        let mut kept = 0;
        for (i, word) in words.iter().enumerate() {
            if let Some(pieces) = cache.get(word) {
                assert_eq!(**pieces, [i as u32], "{word}");
                kept += 1;
            }
        }
        let slots: usize = SLOTS.iter().sum();
        assert!(kept > slots * 8 / 10 && kept <= slots, "{kept} of {slots} slots are used");
        assert_eq!(cache.get("benzene"), None);
        assert!(words[..2000].iter().all(|word| cache.get(word).is_some()));
    }

    /// What a table takes when it is made: a run on more text must not suddenly need much more memory.
    #[test]
    fn tables_grow_in_small_steps() {
        let mut sum = 0;
        for slots in SLOTS {
            assert!(sum == 0 || slots <= 4 * sum, "{slots} slots after {sum}");
            sum += slots;
        }
        assert!(SLOTS[3] * size_of::<OnceLock<Entry>>() < 4_000_000 && size_of::<OnceLock<Entry>>() <= 48);
    }

    #[test]
    fn the_first_pieces_of_a_word_stay() {
        let cache = WordCache::default();
        let first: Arc<[u32]> = [1, 2].into();
        cache.insert("", first.clone());
        cache.insert("", [3].into());
        assert!(Arc::ptr_eq(cache.get("").unwrap(), &first));
    }

    #[test]
    fn threads_see_whole_entries() {
        let cache = WordCache::default();
        let pieces = |i: u32| -> Arc<[u32]> { vec![i; 1 + i as usize % 5].into() };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for i in (0..20_000).map(|i| i * (thread + 1) % 9973) {
                        let word = i.to_string();
                        if cache.get(&word).is_none() {
                            cache.insert(&word, pieces(i));
                        }
                        assert_eq!(**cache.get(&word).unwrap(), *pieces(i));
                    }
                });
            }
        });
    }
}

//! Mentions, document by document -> how often each name occurs, in which spellings and classes, and how mentions are spread over documents and scores.
//! Spellings of one name are counted together ([`normalised`]). Memory is bounded by lossy counting (Manku and Motwani 2002): where there are too many names
//! the rarest go, and the counts of those that stay are too low by [`Statistics::missed`] at most.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::entity::Entity;
use crate::reading::{Note, normalised};

/// Most names that are held: some hundred megabytes.
const MOST_NAMES: usize = 500_000;
/// Parts of the range of scores from 0 to 1.
pub(super) const SCORE_PARTS: usize = 20;
/// Documents by the number of their mentions: 0, 1, 2 to 3, 4 to 7, and so on.
pub(super) const MENTION_PARTS: usize = 16;

/// What was counted of one name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NameCount {
    /// Times that it is mentioned.
    pub mentions: u64,
    /// Documents that mention it.
    pub documents: u64,
    /// Mentions by spelling.
    pub spellings: BTreeMap<String, u64>,
    /// Mentions by class; none where the model has no classes.
    pub classes: BTreeMap<String, u64>,
}

impl NameCount {
    /// The spelling that occurs most often.
    pub fn spelling(&self) -> &str {
        most_frequent(&self.spellings)
    }

    /// The class that it has most often; empty if it has none.
    pub fn class(&self) -> &str {
        most_frequent(&self.classes)
    }
}

/// The key of the highest count, the first one of several.
fn most_frequent(counts: &BTreeMap<String, u64>) -> &str {
    counts.iter().rev().max_by_key(|(_, count)| **count).map_or("", |(key, _)| key)
}

/// What was counted in documents.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// By normalised name.
    pub names: BTreeMap<String, NameCount>,
    /// Mentions by class.
    pub classes: BTreeMap<String, u64>,
    /// Documents by the number of their mentions: none, 1, 2 to 3, 4 to 7, and so on.
    pub documents_by_mentions: Vec<u64>,
    /// Mentions by score, in twentieths.
    pub mentions_by_score: Vec<u64>,
    /// So many mentions of a name that stands here may not be counted, and a name with fewer may be missing; 0 unless there were too many names to hold.
    pub missed: u64,
}

impl Statistics {
    /// Counts one document; `notes` is empty or has one for each entity.
    pub fn count(&mut self, entities: &[Entity], notes: &[Note]) {
        let mut seen = HashSet::new();
        increase(
            &mut self.documents_by_mentions,
            MENTION_PARTS,
            (usize::BITS - entities.len().leading_zeros()) as usize,
        );
        for (index, entity) in entities.iter().enumerate() {
            let score = (f64::from(entity.score) * SCORE_PARTS as f64) as usize;
            increase(&mut self.mentions_by_score, SCORE_PARTS, score);
            let key = notes.get(index).and_then(|note| note.name.clone()).unwrap_or_else(|| normalised(&entity.text));
            let name = self.names.entry(key.clone()).or_default();
            name.mentions += 1;
            name.documents += u64::from(seen.insert(key));
            *name.spellings.entry(on_one_line(&entity.text)).or_default() += 1;
            if let Some(class) = entity.class.as_deref() {
                *name.classes.entry(class.into()).or_default() += 1;
                *self.classes.entry(class.into()).or_default() += 1;
            }
        }
        self.prune(MOST_NAMES);
    }

    /// Adds what was counted in other documents.
    pub fn add(&mut self, other: Self) {
        for (key, count) in other.names {
            let name = self.names.entry(key).or_default();
            name.mentions += count.mentions;
            name.documents += count.documents;
            add_all(&mut name.spellings, count.spellings);
            add_all(&mut name.classes, count.classes);
        }
        add_all(&mut self.classes, other.classes);
        for (counts, more) in [
            (&mut self.documents_by_mentions, other.documents_by_mentions),
            (&mut self.mentions_by_score, other.mentions_by_score),
        ] {
            counts.resize(counts.len().max(more.len()), 0);
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        self.missed += other.missed;
        self.prune(MOST_NAMES);
    }

    /// Names by their number of mentions, the most frequent first; those of equal number by name.
    pub fn ranked(&self) -> Vec<(&str, &NameCount)> {
        let mut ranked: Vec<_> = self.names.iter().map(|(name, count)| (name.as_str(), count)).collect();
        ranked.sort_by_key(|(_, count)| std::cmp::Reverse(count.mentions));
        ranked
    }

    /// Lets the rarest names go where there are more than `most`, until half as many are left.
    fn prune(&mut self, most: usize) {
        if self.names.len() <= most {
            return;
        }
        let mut counts: Vec<u64> = self.names.values().map(|name| name.mentions).collect();
        counts.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
        let least = counts.get(most / 2).copied().unwrap_or_default();
        self.names.retain(|_, name| name.mentions > least);
        self.missed += least;
    }
}

fn increase(counts: &mut Vec<u64>, parts: usize, part: usize) {
    counts.resize(parts, 0);
    if let Some(count) = counts.get_mut(part.min(parts - 1)) {
        *count += 1;
    }
}

fn add_all(counts: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (key, count) in more {
        *counts.entry(key).or_default() += count;
    }
}

/// A line end inside a mention is no other spelling.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(text: &str, class: Option<&str>, score: f32) -> Entity<'static> {
        Entity { start: 0, end: text.len(), text: text.to_string().into(), class: class.map(Into::into), score }
    }

    #[test]
    fn spellings_of_a_name_are_counted_together() {
        let mut all = Statistics::default();
        let first = [
            entity("β-carotene", Some("TRIVIAL"), 0.99),
            entity("Beta-Carotene", Some("FAMILY"), 0.5),
            entity("acetic\nacid", None, 1.0),
        ];
        all.count(&first, &[]);
        all.count(&[entity("β-carotene", Some("TRIVIAL"), 0.01), entity("acetic acid", None, 0.97)], &[]);
        all.count(&[], &[]);
        let ranked: Vec<_> =
            all.ranked().iter().map(|(name, n)| (*name, n.spelling(), n.class(), n.mentions, n.documents)).collect();
        assert_eq!(ranked, [("betacarotene", "β-carotene", "TRIVIAL", 3, 2), ("aceticacid", "acetic acid", "", 2, 2)]);
        assert_eq!(all.documents_by_mentions[..4], [1, 0, 2, 0]);
        assert_eq!((all.mentions_by_score[0], all.mentions_by_score[10], all.mentions_by_score[19]), (1, 1, 3));
        assert_eq!((all.classes["TRIVIAL"], all.classes["FAMILY"], all.missed), (2, 1, 0));
    }

    #[test]
    fn counts_of_parts_add_up_to_those_of_the_whole() {
        let words = ["THF", "DMF", "LiCl", "THFs"];
        let documents: Vec<Vec<Entity>> = (0..40)
            .map(|i| (0..i % 5).map(|j| entity(words[(i * j) % 4], Some("C"), 0.025 * i as f32)).collect())
            .collect();
        let count = |documents: &[Vec<Entity>]| {
            let mut all = Statistics::default();
            documents.iter().for_each(|entities| all.count(entities, &[]));
            all
        };
        let mut added = count(&documents[..13]);
        added.add(count(&documents[13..30]));
        added.add(count(&documents[30..]));
        assert_eq!(added, count(&documents));
        let json = serde_json::to_string(&added).unwrap();
        assert_eq!(serde_json::from_str::<Statistics>(&json).unwrap(), added);
    }

    #[test]
    fn the_rarest_names_go_where_there_are_too_many() {
        let mut all = Statistics::default();
        for number in 0..100u64 {
            all.names.insert(format!("n{number}"), NameCount { mentions: number, ..NameCount::default() });
        }
        all.prune(100);
        assert_eq!((all.names.len(), all.missed), (100, 0));
        all.prune(80);
        assert_eq!((all.names.len(), all.missed), (40, 59));
        assert!(all.names.values().all(|name| name.mentions > all.missed));
    }
}

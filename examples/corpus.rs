//! A corpus as a stream: documents of a file of any format one after another, tagged in groups, in bounded memory; and the most frequent names.
//! `chemtag run`, and `chemtag::corpus` behind it, do the same for whole folders, on all cores, in runs that can be taken up again.
//!
//!     cargo run --release --example corpus -- FILE...

use std::collections::HashMap;
use std::path::PathBuf;

use chemtag::format::{Document, ReadOptions, open};
use chemtag::reading::normalised;

/// Documents that are tagged together.
const GROUP: usize = 256;

pub fn main() -> chemtag::Result<()> {
    let tagger = chemtag::get("models/chemtag-small.int8.safetensors")?;
    let mut files: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).filter(|path| path.is_file()).collect();
    if files.is_empty() {
        files.push("examples/abstract.txt".into());
    }
    let (mut counts, mut documents) = (HashMap::<String, usize>::new(), 0);
    for file in files {
        let mut stream = open(&file, None, &ReadOptions::default())?.peekable();
        while stream.peek().is_some() {
            // A document that cannot be read is named; those behind it follow.
            let group: Vec<Document> = stream
                .by_ref()
                .take(GROUP)
                .filter_map(|document| document.map_err(|error| eprintln!("{error}")).ok())
                .collect();
            documents += group.len();
            for entities in tagger.tag_documents(&group.iter().collect::<Vec<_>>())? {
                for entity in entities {
                    *counts.entry(normalised(&entity.text)).or_default() += 1;
                }
            }
        }
    }
    let mut ranked: Vec<(String, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    println!("{documents} documents, {} names", ranked.len());
    for (name, count) in ranked.iter().take(10) {
        println!("{count:>6}  {name}");
    }
    Ok(())
}

//! Many threads and one model: the registry loads it once, in the background, and every thread gets a tagger on it.
//!
//!     cargo run --release --example threads

use chemtag::{LoadOptions, Registry, TagOptions};

const MODEL: &str = "models/chemtag-small.int8.safetensors";
const THREADS: usize = 8;

pub fn main() -> chemtag::Result<()> {
    let registry = Registry::new();
    // Returns at once; whoever needs the model waits for what is left of the load.
    let preload = registry.preload(MODEL, LoadOptions::default());
    let work = &|number: usize| -> chemtag::Result<usize> {
        let tagger = registry.get(MODEL, LoadOptions::default())?;
        // Each of these threads is one already.
        let tagger = tagger.with_options(TagOptions { threads: Some(1), ..TagOptions::default() })?;
        Ok(tagger.tag(&format!("Sample {number} held benzene, LiCl and {number} g of ethanol."))?.len())
    };
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect::<chemtag::Result<_>>()
    })?;
    preload.wait()?;
    println!("mentions found by each of {THREADS} threads: {counts:?}; models loaded: {}", registry.loads());
    assert_eq!((counts.len(), registry.loads()), (THREADS, 1));
    Ok(())
}

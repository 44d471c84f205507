//! The tagger on the tests' random model (tests/fixtures/tiny-model): the same answer whatever shares a batch, whatever the threads and
//! however the text arrives; right offsets in the strangest texts.

mod offsets;
mod prose;

use std::io::Read;

use chemtag::{Entity, TagOptions, Tagger};
use offsets::check_offsets;
use prose::prose;

fn tagger() -> Tagger {
    Tagger::load("tests/fixtures/tiny-model").unwrap()
}

fn assert_same(a: &[Entity], b: &[Entity], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.start, a.end, &a.text, &a.class), (b.start, b.end, &b.text, &b.class), "{what}");
        assert!((a.score - b.score).abs() < 1e-5, "{what}: {a:?} {b:?}");
    }
}

#[test]
fn what_shares_a_batch_changes_nothing() {
    let tagger = tagger();
    let texts: Vec<String> = (0..40).map(|i| prose(5 + i * 17 % 300, i as u64)).collect();
    let alone: Vec<Vec<Entity>> = texts.iter().map(|text| tagger.tag(text).unwrap()).collect();
    assert!(alone.iter().map(Vec::len).sum::<usize>() > 500, "the random model finds something");
    let references: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (text, entities) in references.iter().zip(&alone) {
        check_offsets(text, entities);
    }
    for (i, together) in tagger.tag_batch(&references).unwrap().iter().enumerate() {
        assert_same(together, &alone[i], "together");
    }
    let reversed: Vec<&str> = references.iter().rev().copied().collect();
    for (i, entities) in tagger.tag_batch(&reversed).unwrap().iter().rev().enumerate() {
        assert_same(entities, &alone[i], "in reverse order");
    }
    for (threads, token_budget) in [(1, 64), (3, 500), (2, 100_000)] {
        let options = TagOptions { threads: Some(threads), token_budget, ..TagOptions::default() };
        let other = tagger.with_options(options).unwrap();
        for (i, entities) in other.tag_batch(&references).unwrap().iter().enumerate() {
            assert_same(entities, &alone[i], "other threads and budget");
        }
    }
}

#[test]
fn many_threads_share_one_tagger() {
    let tagger = tagger();
    let text = prose(300, 1);
    let expected = tagger.tag(&text).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_same(&tagger.clone().tag(&text).unwrap(), &expected, "from a thread"));
        }
    });
}

/// Gives a few bytes at a time.
struct Trickle<'b>(&'b [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(self.0.len()).min(buffer.len());
        let (now, rest) = self.0.split_at(n);
        buffer[..n].copy_from_slice(now);
        self.0 = rest;
        Ok(n)
    }
}

#[test]
fn a_stream_gives_what_the_whole_text_gives() {
    let tagger = tagger();
    let long = format!("{}\n\n🧪 ends: {}", prose(20_000, 3), prose(4_000, 4));
    for (text, portion) in [(long.as_str(), 7919), (&long[..3000], 1), ("", 1), (" \n ", 1), ("benzene", 3)] {
        let whole = tagger.tag(text).unwrap();
        let streamed: Vec<Entity> =
            tagger.tag_reader(Trickle(text.as_bytes(), portion)).collect::<chemtag::Result<_>>().unwrap();
        assert_same(&streamed, &whole, "streamed");
    }
}

#[test]
fn text_without_a_full_stop_loses_and_doubles_nothing_at_the_seams() {
    // Windows of 60 pieces: some hundred seams. Every word is spoken for exactly once, so the best mentions of any threshold do not
    // overlap, and where the text repeats, what is found repeats with it.
    let tagger = tagger();
    let text = prose(3000, 5).replace(". ", " ");
    let entities = tagger.tag(&text).unwrap();
    check_offsets(&text, &entities);
    assert!(entities.len() > 300);
    let gaps = entities.windows(2).map(|pair| pair[1].start - pair[0].end).max().unwrap();
    assert!(gaps < 400, "no stretch of the text is passed over: {gaps} bytes");

    let half = tagger.with_options(TagOptions { threshold: Some(0.2), ..TagOptions::default() }).unwrap();
    check_offsets(&text, &half.tag(&text).unwrap());
}

#[test]
fn a_lower_threshold_finds_more_and_a_higher_one_less() {
    let tagger = tagger();
    let text = prose(500, 6);
    let count = |threshold| {
        let options = TagOptions { threshold: Some(threshold), ..TagOptions::default() };
        let entities = tagger.with_options(options).unwrap().tag(&text).unwrap().into_iter().map(Entity::into_owned);
        let entities: Vec<Entity> = entities.collect();
        check_offsets(&text, &entities);
        assert!(entities.iter().all(|entity| entity.score >= threshold));
        entities.len()
    };
    let counts = [count(0.05), count(0.3), count(0.6), count(0.95)];
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts[0] > counts[3], "{counts:?}");
}

#[test]
fn strange_texts_have_right_offsets() {
    let tagger = tagger();
    let marks = format!("benzene{} and ethanol", "\u{301}".repeat(500_000));
    let texts = [
        String::new(),
        "\r".repeat(1000) + "benzene\rethanol\r\r2,4-D",
        "🧪🧪 benzene👩‍🔬ethanol 👍🏽 α\u{301}β N\u{200b}O\u{2060}H2 \u{feff}x".repeat(300),
        "\u{200b}\u{200d}\u{feff}".repeat(2000),
        "ﬁ Å ﷺ हिन्दी 한국어 中文化學 \u{0} \u{7f} _a_b_".repeat(200),
        " \u{301}\u{a0}\u{2028}\u{85}".repeat(500),
        marks,
    ];
    for text in &texts {
        let entities = tagger.tag(text).unwrap();
        check_offsets(text, &entities);
        let streamed: Vec<Entity> =
            tagger.tag_reader(Trickle(text.as_bytes(), 5000)).collect::<chemtag::Result<_>>().unwrap();
        assert_same(&streamed, &entities, "streamed");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_named_by_their_place() {
    let tagger = tagger();
    for (bytes, position) in [
        (b"benzene \xff ethanol".to_vec(), 8),
        ("é".repeat(70_000).into_bytes()[..139_999].to_vec(), 139_998),
        ([prose(30_000, 7).into_bytes(), vec![0xc3]].concat(), prose(30_000, 7).len()),
    ] {
        let error = tagger.tag_reader(bytes.as_slice()).find_map(Result::err).expect("an error");
        assert!(matches!(error, chemtag::Error::NotUtf8 { position: found } if found == position), "{error}");
    }
}

#[test]
fn given_words_are_kept_and_checked() {
    let tagger = tagger();
    let text = "La0.1Sr0.9MnO3 and benzene";
    let words = [0..14, 15..18, 19..26];
    for entity in &tagger.tag_words(&[text], &[&words]).unwrap()[0] {
        assert!(words.iter().any(|w| w.start == entity.start) && words.iter().any(|w| w.end == entity.end));
    }
    for (first, second) in [(0..0, 1..2), (5..9, 3..4), (0..1, 20..27)] {
        let wrong = [first, second];
        assert!(tagger.tag_words(&[text], &[&wrong]).is_err(), "{wrong:?}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let tagger = tagger();
    for options in [
        TagOptions { threshold: Some(0.), ..TagOptions::default() },
        TagOptions { threshold: Some(f32::NAN), ..TagOptions::default() },
        TagOptions { token_budget: 0, ..TagOptions::default() },
        TagOptions { threads: Some(0), ..TagOptions::default() },
    ] {
        assert!(matches!(tagger.with_options(options), Err(chemtag::Error::Option(_))));
    }
}

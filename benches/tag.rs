//! Word pieces a second from text to entities, and what each stage of the pipeline does meanwhile.
//!
//!     cargo bench --bench tag -- [FILE] [--device cpu|cuda|none] [--threads 1,2,4] [--megabytes N] [--budget PIECES] [--model DIR]
//!
//! FILE is repeated until there are N megabytes (default: examples/abstract.txt; 16 MB, 0.1 on the CPU). `none` puts made-up emissions, which are
//! there at once, in the place of the network: what is left is what the CPU has to do for a GPU. Prints one JSON object a line: the median of
//! three runs after one that warms up, for `documents` (the text's paragraphs in one call) and `stream` (the text as one document). `encoder_busy`
//! is a share of the time, `text_threads` and `decoding_threads` are numbers of threads; `…_per_core` is pieces a second that one thread would do.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use chemtag::batch::Batch;
use chemtag::{Activity, Backend, Emissions, Error, LoadOptions, Model, Result, TagOptions, Tagger};

const RUNS: usize = 3;

/// Emissions that cost nothing: one word in seven begins a mention, by a hash of its first piece.
struct Nothing {
    budget: usize,
    classes: usize,
}

impl Backend for Nothing {
    fn emissions(&self, batch: &Batch) -> Result<Emissions> {
        let of_word = |&start: &u32| {
            let hash = batch.piece_ids[start as usize].wrapping_mul(2_654_435_761) >> 24;
            let shade = hash as f32 / 256.;
            if hash < 220 { [6. + shade, -3., -4.] } else { [-2., 3. + shade, 2.] }
        };
        let tags: Vec<_> = batch.word_starts.iter().map(of_word).collect();
        let class_logits = vec![0.5; tags.len() * self.classes];
        Ok(Emissions { tags, class_logits, classes: self.classes })
    }

    fn token_budget(&self) -> usize {
        self.budget
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "none".into()
    }
}

struct Arguments {
    file: String,
    device: String,
    threads: Vec<usize>,
    megabytes: Option<f64>,
    budget: usize,
    model: String,
}

fn arguments() -> Result<Arguments> {
    let mut all = Arguments {
        file: "examples/abstract.txt".into(),
        device: "cpu".into(),
        threads: vec![1, std::thread::available_parallelism().map_or(1, usize::from)],
        megabytes: None,
        budget: TagOptions::BUDGET_OF_DEVICE,
        model: "models/chemtag-small.int8.safetensors".into(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        // cargo's own.
        if name == "--bench" {
            continue;
        }
        if !name.starts_with("--") {
            all.file = name;
            continue;
        }
        let wrong = || Error::Option(format!("{name}: see the first lines of benches/tag.rs"));
        let value = given.next().ok_or_else(wrong)?;
        match name.as_str() {
            "--device" => all.device = value,
            "--threads" => {
                let numbers: Option<_> = value.split(',').map(|number| number.parse().ok()).collect();
                all.threads = numbers.ok_or_else(wrong)?;
            }
            "--megabytes" => all.megabytes = Some(value.parse().map_err(|_| wrong())?),
            "--budget" => all.budget = value.parse().map_err(|_| wrong())?,
            "--model" => all.model = value,
            _ => return Err(wrong()),
        }
    }
    Ok(all)
}

fn load(arguments: &Arguments) -> Result<Tagger> {
    if arguments.device != "none" {
        let options = LoadOptions { device: arguments.device.parse()?, ..LoadOptions::default() };
        return Tagger::load_with(&arguments.model, options);
    }
    let real = Tagger::load_with(&arguments.model, LoadOptions { device: "cpu".parse()?, ..LoadOptions::default() })?;
    let (config, pieces, crf) = (real.model().config(), real.model().tokenizer(), real.model().crf());
    let backend = Box::new(Nothing { budget: 64 * 1024, classes: config.tagger.classes.len() });
    Ok(Tagger::from_model(Arc::new(Model::from_parts(config.clone(), pieces.clone(), crf.clone(), backend))))
}

/// Tags all of the text and returns the number of entities.
type Way<'t> = dyn Fn(&Tagger) -> Result<usize> + 't;

/// One run: seconds, entities, and what was done in it.
fn run(tagger: &Tagger, tag: &Way) -> Result<(f64, usize, Activity)> {
    let before = tagger.model().activity();
    let started = Instant::now();
    let entities = tag(tagger)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut done = tagger.model().activity();
    done.pieces -= before.pieces;
    done.text -= before.text;
    done.encoder -= before.encoder;
    done.decoding -= before.decoding;
    Ok((seconds, entities, done))
}

fn measure() -> Result<()> {
    let arguments = arguments()?;
    let read = std::fs::read_to_string(&arguments.file);
    let part = read.map_err(|source| Error::Read { path: arguments.file.clone().into(), source })?;
    let megabytes = arguments.megabytes.unwrap_or(if arguments.device == "cpu" { 0.1 } else { 16. });
    let mut text = String::new();
    while text.len() < (megabytes * 1e6) as usize && !part.is_empty() {
        text.push_str(part.trim_end());
        text.push_str("\n\n");
    }
    let documents: Vec<&str> = text.split_inclusive("\n\n").collect();
    let loaded = load(&arguments)?;
    let of_documents =
        |tagger: &Tagger| -> Result<usize> { Ok(tagger.tag_batch(&documents)?.iter().map(Vec::len).sum()) };
    let of_stream = |tagger: &Tagger| -> Result<usize> {
        tagger.tag_reader(text.as_bytes()).try_fold(0, |count, entity| entity.map(|_| count + 1))
    };
    let ways: [(&str, &Way); 2] = [("documents", &of_documents), ("stream", &of_stream)];
    for &threads in &arguments.threads {
        let options = TagOptions { threads: Some(threads), token_budget: arguments.budget, ..TagOptions::default() };
        let tagger = loaded.with_options(options)?;
        for (way, tag) in ways {
            run(&tagger, tag)?;
            let mut runs = (0..RUNS).map(|_| run(&tagger, tag)).collect::<Result<Vec<_>>>()?;
            runs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (seconds, entities, done) = runs[RUNS / 2];
            let (text_seconds, decoding) = (done.text.as_secs_f64(), done.decoding.as_secs_f64());
            let line = serde_json::json!({
                "engine": tagger.model().backend().describe(), "threads": threads, "way": way, "bytes": text.len(),
                "pieces": done.pieces, "entities": entities, "seconds": seconds,
                "pieces_per_second": (done.pieces as f64 / seconds).round(),
                "encoder_busy": done.encoder.as_secs_f64() / seconds,
                "text_threads": text_seconds / seconds, "decoding_threads": decoding / seconds,
                "text_per_core": (done.pieces as f64 / text_seconds).round(),
                "decoding_per_core": (done.pieces as f64 / decoding).round(),
            });
            println!("{line}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

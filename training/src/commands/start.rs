//! `chemtag-train start`.

use std::path::{Path, PathBuf};

use chemtag::model::config::{Architecture, EncoderConfig, ModelConfig};
use chemtag::tokenizer::WordPieces;
use chemtag_training::encoder_folder::EncoderFolder;
use chemtag_training::error::{Error, Result};
use chemtag_training::spelling::Spelling;
use chemtag_training::start::StartingEncoder;
use chemtag_training::start::widening::Width;

#[derive(clap::Args)]
pub struct Arguments {
    /// Trained encoder to start from: a folder, or hub:OWNER/NAME. Without it the weights are random.
    #[arg(long, value_name = "DIR")]
    from: Option<String>,
    /// tokenizer.json of the new encoder, as `vocab` makes it. Without it the trained encoder's stays.
    #[arg(long, value_name = "tokenizer.json")]
    tokenizer: Option<PathBuf>,
    /// Number of layers: a trained encoder's are stacked until there are so many; 6 where weights are random.
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Make a trained BERT encoder the DistilBERT one that computes the same.
    #[arg(long, requires = "from")]
    distilbert: bool,
    #[command(flatten)]
    sizes: Sizes,
    /// Seed of random weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write the encoder to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Sizes of an encoder.
#[derive(clap::Args)]
struct Sizes {
    /// config.json that gives all sizes, if weights are random.
    #[arg(long, value_name = "config.json", conflicts_with_all = ["from", "layers", "hidden", "heads", "ffn", "positions"])]
    config: Option<PathBuf>,
    /// Width of the hidden states, 384 where weights are random. A trained encoder becomes wider, a whole multiple of what it was, and computes the same.
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,
    /// Attention heads, 12 where weights are random. A trained encoder's stay as wide as they were, so that their number follows from the width.
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Width of the feed-forward network, four times the hidden states' where weights are random. A trained encoder's grows with the hidden states' if not given.
    #[arg(long, value_name = "N")]
    ffn: Option<usize>,
    /// How much the weights from copies of a unit differ in an encoder that becomes wider, as a share of the weights' own deviation. Copies become different only in training
    /// and, without dropout, only if this is not 0; what the encoder computes does not depend on it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    noise: f64,
    /// Longest sequence in pieces, if weights are random.
    #[arg(long, value_name = "N", default_value_t = 512, conflicts_with = "from")]
    positions: usize,
}

impl Sizes {
    /// How wide a trained encoder shall be, if it shall be wider.
    fn width(&self) -> Option<Width> {
        let Self { hidden, heads, ffn, .. } = *self;
        (hidden.is_some() || heads.is_some() || ffn.is_some()).then_some(Width { hidden, heads, ffn })
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let new = arguments.tokenizer.as_deref().map(Vocabulary::read).transpose()?;
    let (encoder, tokenizer) = match (&arguments.from, new) {
        (Some(from), new) => from_trained(arguments, &EncoderFolder::open(from)?, new)?,
        (None, Some(new)) => (fresh(arguments, &new)?, new.json),
        (None, None) => {
            return Err(Error::Setting(
                "name a trained encoder by --from, or the tokenizer of one of random weights by --tokenizer".into(),
            ));
        }
    };
    encoder.save(&arguments.out, &tokenizer)?;
    let EncoderConfig { layers, hidden, vocab_size, .. } = encoder.config().encoder;
    println!("{}: {layers} layers, {hidden} wide, {vocab_size} pieces", arguments.out.display());
    Ok(())
}

fn fresh(arguments: &Arguments, new: &Vocabulary) -> Result<StartingEncoder> {
    let sizes = &arguments.sizes;
    let mut encoder = match &sizes.config {
        Some(path) => ModelConfig::from_json(&read(path)?, &path.display().to_string())?.encoder,
        None => {
            let hidden = sizes.hidden.unwrap_or(384);
            EncoderConfig {
                architecture: Architecture::DistilBert,
                vocab_size: new.pieces.len(),
                hidden,
                layers: arguments.layers.unwrap_or(6),
                heads: sizes.heads.unwrap_or(12),
                ffn: sizes.ffn.unwrap_or(4 * hidden),
                max_positions: sizes.positions,
                token_types: 0,
                layer_norm_eps: 1e-12,
                dropout: 0.1,
            }
        }
    };
    encoder.vocab_size = new.pieces.len();
    StartingEncoder::fresh(encoder, arguments.seed)
}

fn from_trained(
    arguments: &Arguments,
    folder: &EncoderFolder,
    new: Option<Vocabulary>,
) -> Result<(StartingEncoder, Vec<u8>)> {
    let (json, name) = folder.config()?;
    let config = ModelConfig::from_json(&json, &name)?;
    let vocab_size = config.encoder.vocab_size;
    let (mut tokenizer, tokenizer_name) = folder.tokenizer()?;
    let (weights, name) = folder.weights()?;
    let mut encoder = StartingEncoder::from_checkpoint(&weights, &name, config)?;
    if let Some(new) = new {
        let spelling = Spelling::new(&tokenizer, &tokenizer_name, vocab_size)?;
        let drawn = encoder.transfer(&spelling, &new.pieces, arguments.seed)?;
        println!(
            "{} of {} pieces cannot be spelled by the old vocabulary and begin at random",
            drawn,
            new.pieces.len()
        );
        tokenizer = new.json;
    }
    if let Some(layers) = arguments.layers {
        encoder.stack(layers)?;
    }
    if let Some(width) = arguments.sizes.width() {
        encoder.widen(width, arguments.sizes.noise, arguments.seed)?;
    }
    if arguments.distilbert {
        encoder = encoder.into_distilbert()?;
    }
    Ok((encoder, tokenizer))
}

/// The tokenizer that the new encoder shall have.
struct Vocabulary {
    json: Vec<u8>,
    pieces: Vec<String>,
}

impl Vocabulary {
    fn read(path: &Path) -> Result<Self> {
        let json = read(path)?;
        let pieces = WordPieces::from_json(&json, &path.display().to_string(), usize::MAX)?.vocabulary();
        Ok(Self { json, pieces })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

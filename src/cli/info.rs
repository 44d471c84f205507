//! `chemtag info`: a model -> what it is, where it came from and what runs it.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::{Error, Model, ModelFiles};
use clap::Args;
use safetensors::SafeTensors;
use serde::Serialize;

use super::terminal::visible;
use super::{Failure, ModelArguments};

/// Arguments of `chemtag info`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

/// What is said of a model; the fields' order is that of the output.
#[derive(Serialize)]
struct Description<'m> {
    name: &'m str,
    version: &'m str,
    license: &'m str,
    architecture: &'static str,
    layers: usize,
    width: usize,
    heads: usize,
    feed_forward_width: usize,
    vocabulary: usize,
    parameters: usize,
    classes: &'m [String],
    sequence_pieces: usize,
    sha256: &'m str,
    source: String,
    engine: String,
    threads: usize,
    chemtag: &'static str,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let source = arguments.model.source();
    let files = ModelFiles::read(&source)?;
    let model = Model::load(&files, arguments.model.load_options())?;
    let ModelConfig { encoder, tagger } = model.config();
    let description = Description {
        name: &tagger.name,
        version: &tagger.version,
        license: &tagger.license,
        architecture: match encoder.architecture {
            Architecture::DistilBert => "DistilBERT with CRF",
            Architecture::Bert => "BERT with CRF",
        },
        layers: encoder.layers,
        width: encoder.hidden,
        heads: encoder.heads,
        feed_forward_width: encoder.ffn,
        vocabulary: encoder.vocab_size,
        parameters: parameters(&files)?,
        classes: &tagger.classes,
        sequence_pieces: tagger.sequence_pieces,
        sha256: model.hash(),
        source: source.to_string(),
        engine: model.backend().describe(),
        threads: arguments.model.threads().unwrap_or_else(rayon::current_num_threads),
        chemtag: env!("CARGO_PKG_VERSION"),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &description).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        description.write_lines(&mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Numbers in the tensors of the weights' file; scales of 8-bit numbers are none of the model's.
fn parameters(files: &ModelFiles) -> Result<usize, Error> {
    let tensors = SafeTensors::deserialize(&files.weights).map_err(|e| Error::Model {
        file: files.names[2].clone(),
        reason: format!("not a whole safetensors file: {e}"),
    })?;
    let is_scale = |name: &str| name.strip_suffix("_scale").is_some_and(|matrix| tensors.tensor(matrix).is_ok());
    let own = tensors.iter().filter(|(name, _)| !is_scale(name));
    Ok(own.map(|(_, tensor)| tensor.shape().iter().product::<usize>()).sum())
}

impl Description<'_> {
    fn write_lines(&self, out: &mut impl Write) -> io::Result<()> {
        let classes = if self.classes.is_empty() { "none".into() } else { self.classes.join(", ") };
        let sizes = format!(
            "layers {}, width {}, heads {}, feed-forward width {}, word pieces {}",
            self.layers, self.width, self.heads, self.feed_forward_width, self.vocabulary
        );
        for (name, value) in [
            ("model", format!("{} {}", self.name, self.version)),
            ("licence", self.license.into()),
            ("architecture", self.architecture.into()),
            ("sizes", sizes),
            ("parameters", self.parameters.to_string()),
            ("classes", classes),
            ("sequences", format!("up to {} word pieces", self.sequence_pieces)),
            ("SHA-256", self.sha256.into()),
            ("source", self.source.clone()),
            ("engine", self.engine.clone()),
            ("threads", self.threads.to_string()),
            ("chemtag", self.chemtag.into()),
        ] {
            writeln!(out, "{name:<12}  {}", visible(&value))?;
        }
        Ok(())
    }
}

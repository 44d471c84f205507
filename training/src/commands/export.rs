//! `chemtag-train export`.

use std::path::PathBuf;

use chemtag::ModelFiles;
use chemtag::int8::to_file;
use chemtag_training::error::{Error, Result};
use chemtag_training::export::{Description, export};
use chemtag_training::files::write_atomically;
use chemtag_training::onnx::to_onnx;
use chemtag_training::parameters::save_folder;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the model, as `finetune` or `distill` left it; several that were fine-tuned from one encoder become the mean of their weights.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    #[command(flatten)]
    description: Description,
    /// Folder to write the model to: config.json, tokenizer.json and model.safetensors, f16, in Hugging Face's layout.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write the model in 8 bits, quantised from the folder's weights, as one file that holds all of it and that `chemtag` reads.
    #[arg(long, value_name = "FILE.safetensors")]
    int8: Option<PathBuf>,
    /// Also write the model as ONNX, in f32: encoder, emissions and class logits.
    #[arg(long, value_name = "FILE.onnx")]
    onnx: Option<PathBuf>,
    /// Also write it as ONNX with the weights and scales of the model in 8 bits, and activations of 7 bits as chemtag computes them.
    #[arg(long, value_name = "FILE.onnx")]
    onnx_int8: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let read = |folder: &PathBuf| Ok(ModelFiles::read(&folder.into())?);
    let models = arguments.model.iter().map(read).collect::<Result<Vec<_>>>()?;
    let exported = export(&models, &arguments.description)?;
    let tokenizer = models.first().map(|model| &model.tokenizer);
    let tokenizer = tokenizer.ok_or_else(|| Error::Setting("there is no model to export".into()))?;
    save_folder(&arguments.out, &exported.config, tokenizer, exported.tensors)?;
    let written = read(&arguments.out)?;
    if let Some(file) = &arguments.int8 {
        write_atomically(file, &to_file(&written)?)?;
    }
    if let Some(file) = &arguments.onnx {
        write_atomically(file, &to_onnx(&written)?)?;
    }
    if let Some(file) = &arguments.onnx_int8 {
        write_atomically(file, &to_onnx(&ModelFiles::from_bytes(to_file(&written)?, file.display().to_string())?)?)?;
    }
    let tagger = exported.config.tagger;
    for path in
        std::iter::once(&arguments.out).chain(&arguments.int8).chain(&arguments.onnx).chain(&arguments.onnx_int8)
    {
        println!("{}: {} {}, {}", path.display(), tagger.name, tagger.version, tagger.license);
    }
    Ok(())
}

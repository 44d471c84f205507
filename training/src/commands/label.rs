//! `chemtag-train label`.

use std::path::PathBuf;

use chemtag::Device;
use chemtag_training::error::Result;
use chemtag_training::posterior_shards::{Settings, label};

use super::distillation::School;
use super::progress_bar;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    school: School,
    /// Folder for the files. Those that are there are not written again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let (_, ensemble, text) = arguments.school.read(arguments.device)?;
    let bar = progress_bar("{bar:30} file {pos}/{len}  {eta} left");
    let mut on_shard = |done: usize, shards: usize| {
        bar.set_length(shards as u64);
        bar.set_position(done as u64);
    };
    label(&text, &ensemble, arguments.settings, &arguments.out, &mut on_shard)?;
    bar.finish_and_clear();
    println!("{}: the posteriors of {} documents", arguments.out.display(), text.documents());
    Ok(())
}

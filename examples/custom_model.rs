//! A model of one's own, with what it says of itself: name, version, classes, engine; in the number format that its file holds, or another.
//!
//!     cargo run --release --example custom_model -- MODEL
//!
//! MODEL: a folder as `chemtag-train` writes it, one self-contained file, or, with `--features hub`, hf://OWNER/NAME.

use chemtag::{Device, LoadOptions, ModelSource, Precision, Tagger};

pub fn main() -> chemtag::Result<()> {
    let model = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let model = ModelSource::from(std::path::PathBuf::from(model.unwrap_or("models/chemtag-small".into())));
    // The folder holds floats; the integer engine takes them, quantised while they are loaded, and is several times faster on a CPU.
    for precision in [Precision::F32, Precision::Int8] {
        let tagger = Tagger::load_with(model.clone(), LoadOptions { device: Device::Cpu, precision })?;
        let description = &tagger.model().config().tagger;
        println!(
            "{} {} ({}), {}",
            description.name,
            description.version,
            description.license,
            tagger.model().backend().describe()
        );
        println!("classes: {}", description.classes.join(", "));
        for entity in tagger.tag("Aspirin in tetrahydrofuran (THF).")? {
            println!("  {} {:.4}", entity.text, entity.score);
        }
    }
    Ok(())
}

//! One text: the names of chemicals in it, where they stand, what they are and how sure the model is.
//!
//!     cargo run --release --example basic

pub fn main() -> chemtag::Result<()> {
    let tagger = chemtag::get("models/chemtag-small.int8.safetensors")?;
    let text = "Aspirin was dissolved in tetrahydrofuran (THF), and α-pinene was added.";
    for entity in tagger.tag(text)? {
        // Offsets are bytes of the text: slicing it gives the mention.
        assert_eq!(&text[entity.start..entity.end], entity.text);
        let class = entity.class.as_deref().unwrap_or("-");
        println!("{:>3}..{:<3} {class:<12} {:.3}  {}", entity.start, entity.end, entity.score, entity.text);
    }
    Ok(())
}

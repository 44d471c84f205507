//! Trains and scores chemtag's models: annotated corpora in, a model folder and strict scores out.
//! One stage, one module, one readable loop; the command line is in `main.rs`.

pub mod accumulation;
pub mod aligned_text;
pub mod all_reduce;
pub mod augment;
pub mod batches;
pub mod bert_tokenizer;
pub mod bootstrap;
pub mod calibration;
pub mod checkpoint;
pub mod columns;
pub mod corpus;
pub mod corpus_heads;
pub mod curves;
pub mod dataset;
pub mod distill;
pub mod encoder_folder;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod finetune;
#[cfg(feature = "cuda")]
pub mod fused_masked_lm;
#[cfg(feature = "cuda")]
pub mod fused_optimizer;
pub mod loss;
pub mod machine;
pub mod masked_lm;
pub mod masking;
pub mod meeting;
pub mod metrics;
pub mod mixture;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod onnx;
pub mod optimizer;
pub mod parameters;
pub mod partial_annotation;
pub mod plot;
pub mod posterior_shards;
pub mod pretrain;
pub mod provenance;
pub mod ranks;
pub mod recipe;
pub mod representations;
pub mod run_folder;
pub mod score;
pub mod spelling;
pub mod stage;
pub mod start;
pub mod structural;
pub mod teacher;
pub mod temperature;
pub mod text;
pub mod torch_file;
pub mod unfreezing;
pub mod vocabulary;

/// The settings that an empty command line gives: each default stands once, at its argument.
fn defaults<S: clap::Args>() -> S {
    #[derive(clap::Parser)]
    struct CommandLine<S: clap::Args> {
        #[command(flatten)]
        settings: S,
    }
    <CommandLine<S> as clap::Parser>::parse_from([""]).settings
}

//! A model that is too sure of itself, whose share of right mentions is known -> the temperature at which its posteriors are that share; a model that is
//! exported with a temperature finds the same mentions with the posteriors of that temperature.

mod support;

use std::sync::Arc;

use chemtag::batch::Batch;
use chemtag::model::config::Architecture;
use chemtag::model::crf::Crf;
use chemtag::{Backend, Emissions, Model, Tagger};
use chemtag_training::corpus::{Document, Mention};
use chemtag_training::evaluate::Options;
use chemtag_training::temperature::{Reading, fit};
use support::words::{Vocabulary, word};

/// Every word is a mention of its own by the logarithm of these odds; a neighbour makes no difference.
struct Sure(f32);

impl Backend for Sure {
    fn emissions(&self, batch: &Batch) -> chemtag::Result<Emissions> {
        Ok(Emissions { tags: vec![[0., self.0, -40.]; batch.words()], ..Emissions::default() })
    }

    fn describe(&self) -> String {
        "sure".into()
    }
}

#[test]
fn posteriors_become_the_share_that_is_right() {
    let mut config = support::config(Architecture::DistilBert, 1, 2, 8);
    config.tagger.classes.clear();
    let pieces = Arc::new(Vocabulary::Pairs.pieces());
    let text = word(&[6]);
    // Three of four documents have a mention where the model sees one.
    let document = |i: usize| Document {
        mentions: (!i.is_multiple_of(4))
            .then(|| Mention { start: 0, end: text.len(), label: "A".into() })
            .into_iter()
            .collect(),
        ..Document::unannotated(text.clone())
    };
    let documents: Vec<Document> = (0..400).map(document).collect();
    let wanted = 3f64.ln();
    for odds in [4., 0.5] {
        let model = Model::from_parts(config.clone(), pieces.clone(), Crf::default(), Box::new(Sure(odds)));
        let tagger = Tagger::from_model(Arc::new(model));
        let readings = [Reading { name: "generated".into(), documents: &documents, options: Options::default() }];
        let (temperature, fitted) = fit(&tagger, &readings).unwrap();
        let expected = f64::from(odds) / wanted;
        assert!((temperature / expected - 1.).abs() < 5e-3, "{temperature}, not {expected}");
        let [before, after] = [fitted[0].before, fitted[0].after];
        assert!(before.error().unwrap() > 5. && after.error().unwrap() < 0.2, "{fitted:?}");
        // The entropy of three to one, which no prediction can be below.
        let entropy = -(0.75f64.ln() * 0.75 + 0.25f64.ln() * 0.25);
        assert!((after.log_loss().unwrap() - entropy).abs() < 1e-3 && before.log_loss() > after.log_loss());
    }
    let silent = Model::from_parts(config, pieces, Crf::default(), Box::new(Sure(-9.)));
    let readings = [Reading { name: "generated".into(), documents: &documents, options: Options::default() }];
    let error = fit(&Tagger::from_model(Arc::new(silent)), &readings).unwrap_err().to_string();
    assert!(error.contains("predicts nothing in generated"), "{error}");
}

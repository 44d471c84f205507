//! The gradients of one training step, for both architectures: every trained tensor has one, and it is the slope of the loss. An operation
//! without backward pass would leave the tensors below it untrained without a word.

mod support;

use std::collections::BTreeSet;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use chemtag::model::Network;
use chemtag::model::config::Architecture;
use chemtag::model::crf::{Crf, TAGS, Tag};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Pass;
use chemtag_training::dataset::NO_CLASS_INDEX;
use chemtag_training::loss::{LabelledBatch, loss_and_gradients};
use chemtag_training::parameters::{Parameters, Task};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASS_WEIGHT: f64 = 0.5;
const DROPOUT_SEED: u64 = 5;

/// A model and a batch that reads all of it.
struct Step {
    parameters: Parameters,
    network: Network,
    labelled: LabelledBatch,
}

impl Step {
    /// Of corpora that mark all of their mentions.
    fn new(architecture: Architecture) -> Self {
        Self::of(architecture, Task::Tagging, &[])
    }

    /// Of two corpora with heads of their own, the second of which marks only a part.
    fn by_corpus() -> Self {
        Self::of(Architecture::DistilBert, Task::TaggingByCorpus { corpora: 2 }, &[false, true])
    }

    fn of(architecture: Architecture, task: Task, partial: &[bool]) -> Self {
        let config = support::config(architecture, 2, 2, 8);
        let checkpoint = support::checkpoint(&config.encoder, 1);
        let parameters = Parameters::from_checkpoint(&checkpoint, "generated", config, task, 2, &Device::Cpu).unwrap();
        // Heads at their first, small values would let little of the gradient through to the encoder.
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for (_, variable) in parameters.variables().iter().filter(|(name, _)| !name.contains("bert.")) {
            variable.set(&support::normal(variable.dims(), 0., 0.5, &mut random)).unwrap();
        }
        let labelled = LabelledBatch::pack(&support::examples(12, 4).examples, partial);
        let network = parameters.network().unwrap();
        Self { parameters, network, labelled }
    }

    /// The loss of the step and its gradients.
    fn gradients(&self, dropout: f64) -> (f64, GradStore) {
        let mut dropout = Dropout::new(dropout);
        dropout.reseed(DROPOUT_SEED);
        let (losses, gradients) =
            loss_and_gradients(&self.parameters, &self.network, &self.labelled, &mut dropout, CLASS_WEIGHT).unwrap();
        (losses.spans + CLASS_WEIGHT * losses.classes, gradients)
    }

    /// The loss by its definition, from the network's outputs.
    fn loss(&self, pass: &mut Pass) -> f64 {
        let output = self.labelled.forward(&self.parameters, &self.network, pass).unwrap();
        let emissions: Vec<f32> = output.emissions.flatten_all().unwrap().to_vec1().unwrap();
        let crf = self.parameters.crf().unwrap();
        let mut loss = 0.;
        for (words, &partial) in self.labelled.batch.cu_words.windows(2).zip(&self.labelled.partial) {
            let words = words[0] as usize..words[1] as usize;
            let scores = &emissions.as_chunks::<TAGS>().0[words.clone()];
            let tags = &self.labelled.tags[words];
            loss += crf.log_partition(scores);
            loss -= if partial { allowed_score(&crf, scores, tags) } else { crf.path_score(scores, tags) };
        }
        let logits: Vec<Vec<f32>> = output.class_logits.unwrap().to_vec2().unwrap();
        for (row, &class) in logits.iter().zip(&self.labelled.classes).filter(|&(_, &class)| class != NO_CLASS_INDEX) {
            let partition = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            loss += CLASS_WEIGHT * (partition - f64::from(row[usize::from(class)]));
        }
        loss / self.labelled.tags.len() as f64
    }

    /// The loss of a training pass, with the masks of [`Step::gradients`].
    fn training_loss(&self, dropout: f64) -> f64 {
        let mut dropout = Dropout::new(dropout);
        dropout.reseed(DROPOUT_SEED);
        self.loss(&mut Pass::Training(&mut dropout))
    }
}

fn steps() -> impl Iterator<Item = (Architecture, Step)> {
    [Architecture::DistilBert, Architecture::Bert]
        .into_iter()
        .map(|architecture| (architecture, Step::new(architecture)))
        .chain([(Architecture::DistilBert, Step::by_corpus())])
}

/// Logarithm of the sum over all paths that hold the marked mentions: from word to word, over the tags that each may have.
fn allowed_score(crf: &Crf, emissions: &[[f32; TAGS]], tags: &[Tag]) -> f64 {
    let mut sums: Vec<(Option<Tag>, f64)> = vec![(None, 1.)];
    for (i, (&gold, scores)) in tags.iter().zip(emissions).enumerate() {
        let after_mention = i > 0 && tags[i - 1] != Tag::O;
        let allowed = |tag: Tag| gold == tag || gold == Tag::O && !(tag == Tag::I && after_mention);
        let next = Tag::ALL.into_iter().filter(|&tag| allowed(tag)).map(|tag| {
            let step = |&(before, sum): &(Option<Tag>, f64)| {
                let score =
                    before.map_or(crf.start[tag as usize], |before| crf.transitions[before as usize][tag as usize]);
                if tag.may_follow(before) { sum * f64::from(score + scores[tag as usize]).exp() } else { 0. }
            };
            (Some(tag), sums.iter().map(step).sum())
        });
        sums = next.collect();
    }
    sums.iter().map(|&(tag, sum)| sum * tag.map_or(1., |tag| f64::from(crf.end[tag as usize]).exp())).sum::<f64>().ln()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0., |most, n| most.max(n.abs()))
}

/// The key projection's bias adds the same number to all of a query's scores, which softmax does not see.
fn is_key_bias(name: &str) -> bool {
    name.ends_with("k_lin.bias") || name.ends_with("self.key.bias")
}

#[test]
fn every_trained_tensor_has_a_gradient() {
    for (architecture, step) in steps() {
        for dropout in [0., 0.2] {
            let (_, gradients) = step.gradients(dropout);
            let mut key_biases = 0;
            for (name, variable) in step.parameters.variables() {
                let gradient =
                    gradients.get(variable).unwrap_or_else(|| panic!("{architecture:?}: {name} has no gradient"));
                assert_eq!(gradient.dims(), variable.dims(), "{name}");
                let most = largest(&numbers(gradient));
                if is_key_bias(name) {
                    key_biases += 1;
                    assert!(most < 1e-6, "{architecture:?}: {name} has a gradient of {most}");
                } else {
                    assert!(most > 1e-4, "{architecture:?}: the gradient of {name} is at most {most}");
                }
            }
            assert_eq!(key_biases, 2, "one for each layer");
        }
    }
}

#[test]
fn embedding_rows_have_a_gradient_where_they_are_read() {
    for (architecture, step) in steps() {
        let (_, gradients) = step.gradients(0.);
        let batch = &step.labelled.batch;
        let tables = [
            ("word", batch.piece_ids.iter().copied().collect::<BTreeSet<u32>>()),
            ("position", batch.positions.iter().copied().collect()),
            ("token_type", BTreeSet::from([0])),
        ];
        let mut seen = 0;
        for (table, read) in tables {
            let name = format!(".embeddings.{table}_embeddings.weight");
            let Some((_, variable)) = step.parameters.variables().iter().find(|(own, _)| own.ends_with(&name)) else {
                continue;
            };
            seen += 1;
            let rows: Vec<Vec<f32>> = gradients.get(variable).unwrap().to_vec2().unwrap();
            assert!(read.len() < rows.len(), "some rows of {name} are not read");
            for (row, gradient) in (0..).zip(&rows) {
                let most = largest(gradient);
                assert_eq!(most > 0., read.contains(&row), "{architecture:?}: row {row} of {name}: {most}");
            }
        }
        assert_eq!(seen, if architecture == Architecture::Bert { 3 } else { 2 });
    }
}

/// Slopes of the loss by differences: along the axis of the largest gradient of each tensor, along two more axes, and along a direction that
/// moves all of its numbers at once.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    // The network computes in f32, so the mean loss is known to about 1e-7 and a slope to 1e-7 / STEP. The five-point formula is wrong by
    // STEP^4 / 30 of the fifth derivative. The largest difference seen is 6e-6; half of the gradients compared are above 0.07.
    const STEP: f64 = 0.03;
    const TOLERANCE: f64 = 3e-5;
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for (architecture, step) in steps() {
        for dropout in [0., 0.2] {
            let (loss, gradients) = step.gradients(dropout);
            assert!(
                (loss - step.training_loss(dropout)).abs() < 1e-6,
                "{architecture:?}: the loss is not the one reported"
            );
            if dropout == 0. {
                assert!(
                    (loss - step.loss(&mut Pass::Inference)).abs() < 1e-5,
                    "{architecture:?}: training reads otherwise"
                );
            }
            for (name, variable) in step.parameters.variables() {
                let gradient = numbers(gradients.get(variable).unwrap());
                let start = variable.as_tensor().copy().unwrap();
                let axis = |index: usize| (0..gradient.len()).map(|i| if i == index { 1. } else { 0. }).collect();
                let steepest =
                    (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                let length = (gradient.len() as f64).sqrt();
                let mut directions: Vec<Vec<f64>> = vec![axis(steepest)];
                directions.extend((0..2).map(|_| axis(random.random_range(0..gradient.len()))));
                directions.push(gradient.iter().map(|_| if random.random() { 1. } else { -1. } / length).collect());
                for direction in directions {
                    let at = |distance: f64| {
                        let change = direction.iter().map(|d| (d * distance) as f32).collect::<Vec<f32>>();
                        let change = Tensor::from_vec(change, variable.shape(), &Device::Cpu).unwrap();
                        variable.set(&(&start + change).unwrap()).unwrap();
                        step.training_loss(dropout)
                    };
                    let slope = (8. * (at(STEP) - at(-STEP)) - (at(2. * STEP) - at(-2. * STEP))) / (12. * STEP);
                    let expected: f64 = direction.iter().zip(&gradient).map(|(d, &g)| d * f64::from(g)).sum();
                    assert!(
                        (slope - expected).abs() < TOLERANCE + 1e-4 * expected.abs(),
                        "{architecture:?}, dropout {dropout}, {name}: slope {slope}, gradient {expected}"
                    );
                }
                variable.set(&start).unwrap();
            }
        }
    }
}

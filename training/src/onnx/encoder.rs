//! A model's configuration and tensors -> the graph of its encoder (DistilBERT or BERT, post-LayerNorm, exact GELU) and heads.

use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::crf::TAGS;
use chemtag::model::layout::{EncoderLayout, Place};
use chemtag::model::names;

use super::graph::{Builder, FLOAT, INT32, Name, UINT8};
use super::proto;
use super::tensors::{Matrix, Tensors, transposed};
use crate::error::{Error, Result};
use crate::parameters::prefix;

/// Added to the scores of pieces that are only padding.
const MASKED: f32 = -1e9;
/// Activations lie between 0 and this.
const LARGEST_ACTIVATION: f32 = 127.;
/// Ranges below this count as zero, as in the integer engine.
const LEAST_RANGE: f32 = 1e-30;

/// The graph.
pub(super) fn network(tensors: &Tensors, config: &ModelConfig) -> Result<proto::Graph> {
    let layout = EncoderLayout::new(&config.encoder);
    let mut network =
        Network { graph: Builder::default(), tensors, config, places: layout.places().iter(), prefix: prefix(config) };
    let ids = network.graph.input("input_ids");
    let mask = network.graph.input("attention_mask");
    let mask = network.mask(&mask);
    let mut hidden = network.embeddings(&ids)?;
    for _ in 0..config.encoder.layers {
        hidden = network.layer(&hidden, &mask)?;
    }
    network.head(&hidden, names::SPAN_HEAD, TAGS, "emissions")?;
    let classes = config.tagger.classes.len();
    if classes > 0 {
        network.head(&hidden, names::CLASS_HEAD, classes, "class_logits")?;
    }
    let mut graph = network.graph.graph;
    graph.name.clone_from(&config.tagger.name);
    Ok(graph)
}

struct Network<'n> {
    graph: Builder,
    tensors: &'n Tensors<'n>,
    config: &'n ModelConfig,
    /// Tensors of the encoder that are not in the graph yet, in the layout's order: embeddings, then for each layer the weights of query, key and value, their
    /// biases, weights and bias of the three other products, and the two LayerNorms.
    places: std::slice::Iter<'n, Place>,
    prefix: &'static str,
}

/// Rows that go into products.
struct Rows {
    floats: Name,
    /// The same in 7 bits, once a product asks for it.
    integers: Option<Integers>,
}

/// Integers, and scale and zero point of each row.
struct Integers {
    values: Name,
    scales: Name,
    zeros: Name,
}

impl From<&Name> for Rows {
    fn from(rows: &Name) -> Self {
        Self { floats: rows.clone(), integers: None }
    }
}

/// Weights of a linear layer `[inputs, outputs]`.
enum Weights {
    Floats(Name),
    Integers { values: Name, scales: Name, sums: Name },
}

impl Network<'_> {
    fn place(&mut self) -> Result<(String, Vec<usize>)> {
        let place = self.places.next();
        let place = place.ok_or_else(|| Error::Setting("the encoder's layout has too few tensors".into()))?;
        Ok((format!("{}{}", self.prefix, place.name), place.shape.clone()))
    }

    /// The next tensor as floats.
    fn floats(&mut self) -> Result<Name> {
        let (name, shape) = self.place()?;
        let values = self.tensors.floats(&name, &shape)?;
        Ok(self.graph.floats(&name, &shape, &values))
    }

    /// The next tensor as the weights of a linear layer.
    fn weights(&mut self) -> Result<Weights> {
        let (name, shape) = self.place()?;
        let &[outputs, inputs] = shape.as_slice() else {
            return Err(Error::Setting(format!("tensor {name} of the encoder's layout is no matrix")));
        };
        Ok(match self.tensors.matrix(&name, [outputs, inputs])? {
            Matrix::Floats(values) => {
                Weights::Floats(self.graph.floats(&name, &[inputs, outputs], &transposed(&values, inputs)))
            }
            Matrix::Integers(values, scales) => {
                let sums: Vec<i32> =
                    values.chunks(inputs).map(|row| row.iter().map(|&weight| i32::from(weight)).sum()).collect();
                Weights::Integers {
                    values: self.graph.bytes(&name, &[inputs, outputs], &transposed(&values, inputs)),
                    scales: self.graph.floats(&format!("{name}_scale"), &[outputs], &scales),
                    sums: self.graph.ints(&format!("{name}_sum"), &[outputs], &sums),
                }
            }
        })
    }

    /// 0 for pieces, a large negative number for padding: `[batch, 1, 1, sequence]`.
    fn mask(&mut self, mask: &Name) -> Name {
        let graph = &mut self.graph;
        let (one, masked, axes) = (graph.scalar(1.), graph.scalar(MASKED), graph.sizes(&[1, 2]));
        let mask = graph.cast(mask, FLOAT);
        let padding = graph.two("Sub", &one, &mask);
        let added = graph.two("Mul", &padding, &masked);
        graph.two("Unsqueeze", &added, &axes)
    }

    fn embeddings(&mut self, ids: &Name) -> Result<Name> {
        let (name, shape) = self.place()?;
        let &[pieces, hidden] = shape.as_slice() else {
            return Err(Error::Setting(format!("tensor {name} of the encoder's layout is no matrix")));
        };
        let words = match self.tensors.matrix(&name, [pieces, hidden])? {
            Matrix::Floats(values) => {
                let table = self.graph.floats(&name, &shape, &values);
                self.graph.gather(&table, ids)
            }
            Matrix::Integers(values, scales) => {
                let table = self.graph.bytes(&name, &shape, &values);
                let scales = self.graph.floats(&format!("{name}_scale"), &[pieces, 1], &scales);
                let (row, scale) = (self.graph.gather(&table, ids), self.graph.gather(&scales, ids));
                let row = self.graph.cast(&row, FLOAT);
                self.graph.two("Mul", &row, &scale)
            }
        };
        let positions = self.floats()?;
        let graph = &mut self.graph;
        let shape = graph.one("Shape", ids);
        let sequence = graph.sizes(&[1]);
        let length = graph.gather(&shape, &sequence);
        let (start, axis) = (graph.sizes(&[0]), graph.sizes(&[0]));
        let positions = graph.node("Slice", &[&positions, &start, &length, &axis], Vec::new());
        let mut sum = graph.two("Add", &words, &positions);
        if self.config.encoder.architecture == Architecture::Bert {
            // chemtag reads one segment: the first token type is that of every piece.
            let types = self.floats()?;
            let first = self.graph.index(0);
            let of_type = self.graph.gather(&types, &first);
            sum = self.graph.two("Add", &sum, &of_type);
        }
        let norm = self.norm()?;
        Ok(self.normalised(&sum, &norm))
    }

    /// The next two tensors as a LayerNorm's weight and bias.
    fn norm(&mut self) -> Result<[Name; 2]> {
        Ok([self.floats()?, self.floats()?])
    }

    fn normalised(&mut self, rows: &Name, [weight, bias]: &[Name; 2]) -> Name {
        self.graph.layer_norm(rows, weight, bias, self.config.encoder.layer_norm_eps as f32)
    }

    fn layer(&mut self, hidden: &Name, mask: &Name) -> Result<Name> {
        let weights = [self.weights()?, self.weights()?, self.weights()?];
        let biases = [self.floats()?, self.floats()?, self.floats()?];
        let [output, widening, narrowing] = [self.linear()?, self.linear()?, self.linear()?];
        let [attention_norm, ffn_norm] = [self.norm()?, self.norm()?];
        let mut input = Rows::from(hidden);
        let projected = [0, 1, 2].map(|part| self.product(&mut input, &weights[part], &biases[part]));
        let context = self.attention(projected, mask);
        let attended = self.multiplied(&context, &output);
        let sum = self.graph.two("Add", hidden, &attended);
        let attended = self.normalised(&sum, &attention_norm);
        let wide = self.multiplied(&attended, &widening);
        let wide = self.gelu(&wide);
        let out = self.multiplied(&wide, &narrowing);
        let sum = self.graph.two("Add", &attended, &out);
        Ok(self.normalised(&sum, &ffn_norm))
    }

    /// Attention of all heads: softmax of the scaled scores of query and key, times value.
    fn attention(&mut self, projected: [Name; 3], mask: &Name) -> Name {
        let encoder = &self.config.encoder;
        let (heads, width) = (encoder.heads, encoder.hidden / encoder.heads);
        let graph = &mut self.graph;
        let apart = graph.sizes(&[0, 0, heads as i64, width as i64]);
        let together = graph.sizes(&[0, 0, encoder.hidden as i64]);
        let [query, key, value] = projected.map(|part| graph.two("Reshape", &part, &apart));
        let [query, value] = [query, value].map(|part| graph.transpose(&part, [0, 2, 1, 3]));
        let key = graph.transpose(&key, [0, 2, 3, 1]);
        let scores = graph.two("MatMul", &query, &key);
        let scale = graph.scalar(1. / (width as f32).sqrt());
        let scores = graph.two("Mul", &scores, &scale);
        let scores = graph.two("Add", &scores, mask);
        let weights = graph.softmax(&scores);
        let context = graph.two("MatMul", &weights, &value);
        let context = graph.transpose(&context, [0, 2, 1, 3]);
        graph.two("Reshape", &context, &together)
    }

    /// The next two tensors as the weights and the bias of a linear layer.
    fn linear(&mut self) -> Result<(Weights, Name)> {
        Ok((self.weights()?, self.floats()?))
    }

    fn multiplied(&mut self, rows: &Name, (weights, bias): &(Weights, Name)) -> Name {
        self.product(&mut rows.into(), weights, bias)
    }

    fn quantised(&mut self, rows: &Name) -> Integers {
        let graph = &mut self.graph;
        let (nothing, least, largest) = (graph.scalar(0.), graph.scalar(LEAST_RANGE), graph.scalar(LARGEST_ACTIVATION));
        let low = graph.of_rows("ReduceMin", rows);
        let low = graph.two("Min", &low, &nothing);
        let high = graph.of_rows("ReduceMax", rows);
        let high = graph.two("Max", &high, &nothing);
        let range = graph.two("Sub", &high, &low);
        let range = graph.two("Max", &range, &least);
        let scales = graph.two("Div", &range, &largest);
        let inverse = graph.two("Div", &largest, &range);
        let zeros = graph.two("Div", &low, &scales);
        let zeros = graph.one("Neg", &zeros);
        let zeros = graph.one("Round", &zeros);
        let values = graph.two("Mul", rows, &inverse);
        let values = graph.two("Add", &values, &zeros);
        let values = graph.one("Round", &values);
        let values = graph.node("Clip", &[&values, &nothing, &largest], Vec::new());
        Integers { values: graph.cast(&values, UINT8), scales, zeros: graph.cast(&zeros, INT32) }
    }

    fn product(&mut self, rows: &mut Rows, weights: &Weights, bias: &Name) -> Name {
        let product = match weights {
            Weights::Floats(matrix) => self.graph.two("MatMul", &rows.floats, matrix),
            Weights::Integers { values: matrix, scales, sums } => {
                let quantised = match rows.integers.take() {
                    Some(quantised) => quantised,
                    None => self.quantised(&rows.floats),
                };
                let Integers { values, scales: of_rows, zeros } = rows.integers.insert(quantised);
                let graph = &mut self.graph;
                let sum = graph.two("MatMulInteger", values, matrix);
                let correction = graph.two("Mul", zeros, sums);
                let sum = graph.two("Sub", &sum, &correction);
                let sum = graph.cast(&sum, FLOAT);
                let sum = graph.two("Mul", &sum, of_rows);
                graph.two("Mul", &sum, scales)
            }
        };
        self.graph.two("Add", &product, bias)
    }

    /// x (1 + erf(x / sqrt 2)) / 2.
    fn gelu(&mut self, rows: &Name) -> Name {
        let graph = &mut self.graph;
        let (half, one, root) = (graph.scalar(0.5), graph.scalar(1.), graph.scalar(std::f32::consts::FRAC_1_SQRT_2));
        let erf = graph.two("Mul", rows, &root);
        let erf = graph.one("Erf", &erf);
        let erf = graph.two("Add", &erf, &one);
        let halved = graph.two("Mul", rows, &half);
        graph.two("Mul", &halved, &erf)
    }

    /// A head in floats.
    fn head(&mut self, hidden: &Name, name: &str, outputs: usize, output: &str) -> Result<()> {
        let inputs = self.config.encoder.hidden;
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let values = transposed(&self.tensors.floats(&weight, &[outputs, inputs])?, inputs);
        let weight = self.graph.floats(&weight, &[inputs, outputs], &values);
        let values = self.tensors.floats(&bias, &[outputs])?;
        let bias = self.graph.floats(&bias, &[outputs], &values);
        let product = self.graph.two("MatMul", hidden, &weight);
        let sum = self.graph.two("Add", &product, &bias);
        self.graph.output(&sum, output, outputs);
        Ok(())
    }
}

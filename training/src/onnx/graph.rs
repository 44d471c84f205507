//! A graph under construction: each call adds a node or a constant and gives the name of what it computes.

use super::proto;

/// Element types (`TensorProto.DataType`).
pub(super) const FLOAT: i32 = 1;
pub(super) const UINT8: i32 = 2;
pub(super) const INT8: i32 = 3;
pub(super) const INT32: i32 = 6;
pub(super) const INT64: i32 = 7;

/// A value of the graph.
pub(super) type Name = String;

#[derive(Default)]
pub(super) struct Builder {
    pub graph: proto::Graph,
}

impl Builder {
    /// A node of one output.
    pub fn node(&mut self, operator: &str, inputs: &[&Name], attributes: Vec<proto::Attribute>) -> Name {
        let name = format!("{operator}_{}", self.graph.node.len());
        self.graph.node.push(proto::Node {
            input: inputs.iter().map(|input| (*input).clone()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.into(),
            attribute: attributes,
        });
        name
    }

    /// The same value under the name of an output.
    pub fn output(&mut self, value: &Name, name: &str, size: usize) {
        self.graph.node.push(proto::Node {
            input: vec![value.clone()],
            output: vec![name.into()],
            name: name.into(),
            op_type: "Identity".into(),
            attribute: Vec::new(),
        });
        let shape = [named("batch"), named("sequence"), number(size)];
        self.graph.output.push(value_of(name, FLOAT, shape.into()));
    }

    /// Integers `[batch, sequence]`.
    pub fn input(&mut self, name: &str) -> Name {
        self.graph.input.push(value_of(name, INT64, vec![named("batch"), named("sequence")]));
        name.into()
    }

    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Name {
        self.constant(name, FLOAT, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn bytes(&mut self, name: &str, shape: &[usize], values: &[i8]) -> Name {
        self.constant(name, INT8, shape, values.iter().map(|value| value.cast_unsigned()).collect())
    }

    pub fn ints(&mut self, name: &str, shape: &[usize], values: &[i32]) -> Name {
        self.constant(name, INT32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// One float.
    pub fn scalar(&mut self, value: f32) -> Name {
        self.once(format!("float {value}"), FLOAT, &[], value.to_le_bytes().into())
    }

    /// A list of sizes or axes.
    pub fn sizes(&mut self, values: &[i64]) -> Name {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.once(format!("sizes {values:?}"), INT64, &[values.len()], data)
    }

    /// One size or index.
    pub fn index(&mut self, value: i64) -> Name {
        self.once(format!("index {value}"), INT64, &[], value.to_le_bytes().into())
    }

    /// A constant that is written once, however often it is used.
    fn once(&mut self, name: String, kind: i32, shape: &[usize], data: Vec<u8>) -> Name {
        if self.graph.initializer.iter().any(|constant| constant.name == name) {
            return name;
        }
        self.constant(&name, kind, shape, data)
    }

    fn constant(&mut self, name: &str, kind: i32, shape: &[usize], raw_data: Vec<u8>) -> Name {
        let dims = shape.iter().map(|&size| size as i64).collect();
        self.graph.initializer.push(proto::Tensor { dims, data_type: kind, name: name.into(), raw_data });
        name.into()
    }

    // The operators with attributes; all others have none.

    pub fn cast(&mut self, value: &Name, kind: i32) -> Name {
        self.node("Cast", &[value], vec![int("to", i64::from(kind))])
    }

    pub fn gather(&mut self, from: &Name, indices: &Name) -> Name {
        self.node("Gather", &[from, indices], vec![int("axis", 0)])
    }

    pub fn transpose(&mut self, value: &Name, order: [i64; 4]) -> Name {
        self.node("Transpose", &[value], vec![ints("perm", &order)])
    }

    pub fn layer_norm(&mut self, value: &Name, weight: &Name, bias: &Name, eps: f32) -> Name {
        let eps = proto::Attribute { name: "epsilon".into(), f: Some(eps), kind: 1, ..proto::Attribute::default() };
        self.node("LayerNormalization", &[value, weight, bias], vec![int("axis", -1), eps])
    }

    pub fn softmax(&mut self, value: &Name) -> Name {
        self.node("Softmax", &[value], vec![int("axis", -1)])
    }

    /// The least or greatest of each row: `ReduceMin` or `ReduceMax`.
    pub fn of_rows(&mut self, operator: &str, value: &Name) -> Name {
        self.node(operator, &[value], vec![ints("axes", &[-1]), int("keepdims", 1)])
    }

    pub fn two(&mut self, operator: &str, left: &Name, right: &Name) -> Name {
        self.node(operator, &[left, right], Vec::new())
    }

    pub fn one(&mut self, operator: &str, value: &Name) -> Name {
        self.node(operator, &[value], Vec::new())
    }
}

fn int(name: &str, value: i64) -> proto::Attribute {
    proto::Attribute { name: name.into(), i: Some(value), kind: 2, ..proto::Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    proto::Attribute { name: name.into(), ints: values.into(), kind: 7, ..proto::Attribute::default() }
}

fn named(name: &str) -> proto::Dimension {
    proto::Dimension { dim_value: None, dim_param: Some(name.into()) }
}

fn number(size: usize) -> proto::Dimension {
    proto::Dimension { dim_value: Some(size as i64), dim_param: None }
}

fn value_of(name: &str, kind: i32, dim: Vec<proto::Dimension>) -> proto::Value {
    let tensor = proto::TensorType { elem_type: kind, shape: Some(proto::Shape { dim }) };
    proto::Value { name: name.into(), kind: Some(proto::Type { tensor_type: Some(tensor) }) }
}

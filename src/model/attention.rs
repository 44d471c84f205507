//! Self-attention over packed sequences: queries, keys and values [pieces, hidden] -> context [pieces, hidden].
//! Nothing but the scores is ever padded: sequences of similar length form a group, padded to the group's longest.
//! Scaled dot-product attention after Vaswani et al. 2017, equation 1.

use candle_core::{D, DType, Device, Result, Tensor};

use super::gather::RowGather;
use super::gradient::add_constant;

/// A group takes one more sequence as long as at most this share of its rows is padding.
const MOST_PADDING: f64 = 0.15;

/// How the sequences of one batch are grouped; made once per batch, used by every layer.
pub struct AttentionPlan {
    groups: Vec<Group>,
    /// Rows of all groups one after another -> packed rows.
    unpad: RowGather,
}

struct Group {
    sequences: usize,
    longest: usize,
    pad: RowGather,
    /// [sequences, 1, 1, longest]: 0 on pieces, a large negative number on padding; absent if there is no padding.
    mask: Option<Tensor>,
}

impl AttentionPlan {
    /// `cu_seqlens`: cumulative lengths of the packed sequences, starting with 0.
    pub fn new(cu_seqlens: &[u32], dtype: DType, device: &Device) -> Result<Self> {
        let total = cu_seqlens.last().copied().unwrap_or(0) as usize;
        let mut by_length: Vec<(u32, u32)> = cu_seqlens.windows(2).map(|w| (w[1] - w[0], w[0])).collect();
        by_length.sort_unstable_by_key(|&(length, start)| (std::cmp::Reverse(length), start));
        let mut unpad = vec![None; total];
        let mut groups = Vec::new();
        let mut row = 0;
        while !by_length.is_empty() {
            let count = group_size(&by_length);
            let group: Vec<(u32, u32)> = by_length.drain(..count).collect();
            let longest = group[0].0 as usize;
            let mut pad = Vec::with_capacity(count * longest);
            let mut mask = Vec::with_capacity(count * longest);
            for &(length, start) in &group {
                for i in 0..longest as u32 {
                    let piece = (i < length).then_some(start + i);
                    if let Some(piece) = piece {
                        unpad[piece as usize] = Some(row + pad.len() as u32);
                    }
                    pad.push(piece);
                    mask.push(if piece.is_some() { 0f32 } else { -1e4 });
                }
            }
            row += pad.len() as u32;
            let padded = group.iter().any(|&(length, _)| (length as usize) < longest);
            let mask =
                padded.then(|| Tensor::from_vec(mask, (count, 1, 1, longest), device)?.to_dtype(dtype)).transpose()?;
            groups.push(Group { sequences: count, longest, pad: RowGather::new(&pad, total, device)?, mask });
        }
        Ok(Self { groups, unpad: RowGather::new(&unpad, row as usize, device)? })
    }

    /// Attention of every sequence over itself.
    ///
    /// `queries`, `keys`, `values`: [pieces, hidden]; `softmax` runs over the last dimension.
    pub fn attend(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        heads: usize,
        softmax: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let hidden = queries.dim(1)?;
        let scale = 1. / ((hidden / heads) as f64).sqrt();
        let queries = (queries * scale)?;
        let mut contexts = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let split = |rows: &Tensor| {
                group
                    .pad
                    .apply(rows)?
                    .reshape((group.sequences, group.longest, heads, hidden / heads))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let keys = split(keys)?.transpose(D::Minus1, D::Minus2)?.contiguous()?;
            let scores = split(&queries)?.matmul(&keys)?;
            let scores = match &group.mask {
                Some(mask) => add_constant(&scores, mask)?,
                None => scores,
            };
            let context = softmax(&scores)?.matmul(&split(values)?)?;
            contexts.push(context.transpose(1, 2)?.reshape((group.sequences * group.longest, hidden))?);
        }
        let contexts = match contexts.as_slice() {
            [one] => one.clone(),
            many => Tensor::cat(many, 0)?,
        };
        self.unpad.apply(&contexts)
    }
}

/// How many of the sequences, longest first, form the next group.
fn group_size(by_length: &[(u32, u32)]) -> usize {
    let longest = f64::from(by_length[0].0);
    let mut pieces = 0.;
    for (i, &(length, _)) in by_length.iter().enumerate() {
        pieces += f64::from(length);
        let padded = longest * (i + 1) as f64;
        if padded - pieces > MOST_PADDING * padded {
            return i;
        }
    }
    by_length.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_padding_small() {
        let lengths = [(100, 0), (95, 100), (90, 195), (40, 285), (38, 325), (5, 363)];
        assert_eq!(group_size(&lengths), 3);
        assert_eq!(group_size(&lengths[3..]), 2);
        assert_eq!(group_size(&lengths[5..]), 1);
    }
}

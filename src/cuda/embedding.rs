//! Ids and positions `[rows]` -> `dropout(LayerNorm(word + position + type))` `[rows, width]`, the first layer of BERT (Devlin et al. 2019) and,
//! without type, of DistilBERT; gradient on that -> gradients of tables, type row, weight and bias (`embedding.cu`).
//! Tables' gradients are added up from sorted rows ([`Occurrences`]), in a fixed order and without atomics.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::column_sums::Finish;
use super::dropout::Dropout;
use super::launch::{Checks, grid, read_or_null, write_or_null};
use super::layer_norm::{BACKWARD_THREADS, FORWARD_THREADS, Norm, NormGradients, RowKernels, SavedNorm, scratch_len};
use super::occurrences::Occurrences;
use super::{Half, Kernels, refused};
use crate::error::Result;

/// What is looked up: for each piece of the batch `[rows]`.
#[derive(Clone, Copy)]
pub struct Pieces<'a> {
    /// Row of the word table.
    pub ids: &'a CudaView<'a, u32>,
    /// Row of the position table.
    pub positions: &'a CudaView<'a, u32>,
}

/// Where it is looked up.
#[derive(Clone, Copy)]
pub struct Tables<'a, T> {
    /// `[vocabulary, width]`.
    pub words: &'a CudaView<'a, T>,
    /// `[longest sequence, width]`.
    pub positions: &'a CudaView<'a, T>,
    /// A row `[width]` that is added to all: BERT's token type.
    pub token_type: Option<&'a CudaView<'a, T>>,
}

/// The operation.
pub struct Embedding<T> {
    stream: Arc<CudaStream>,
    forward: RowKernels,
    backward: RowKernels,
    finish: Finish,
    sum_chunks: CudaFunction,
    merge_chunks: CudaFunction,
    number: PhantomData<T>,
}

/// Sizes as the kernels take them.
struct Sizes {
    rows: u32,
    width: u32,
    vocabulary: u32,
    longest: u32,
}

impl<T: Half> Embedding<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let kernels =
            Kernels::load(stream, "embedding.cu", include_bytes!(concat!(env!("OUT_DIR"), "/embedding.fatbin")))?;
        Ok(Self {
            stream: stream.clone(),
            forward: RowKernels::load::<T>(&kernels, "embedding_forward")?,
            backward: RowKernels::load::<T>(&kernels, "embedding_backward")?,
            finish: Finish::load(stream)?,
            sum_chunks: kernels.function::<T>("sum_chunks")?,
            merge_chunks: kernels.plain_function("merge_chunks")?,
            number: PhantomData,
        })
    }

    fn checks(&self) -> Checks<'_> {
        Checks { operation: "embedding", stream: &self.stream }
    }

    fn sizes(&self, pieces: Pieces<'_>, tables: Tables<'_, T>, width: usize) -> Result<Sizes> {
        let checks = self.checks();
        let (vocabulary, longest) =
            (checks.rows(tables.words.len(), width)?, checks.rows(tables.positions.len(), width)?);
        checks.view("words", tables.words, tables.words.len())?;
        checks.view("positions", tables.positions, tables.positions.len())?;
        if let Some(token_type) = tables.token_type {
            checks.view("token_type", token_type, width)?;
        }
        checks.numbers("positions of pieces", pieces.positions, pieces.ids.len())?;
        if vocabulary == 0 || longest == 0 {
            return Err(checks.error("a table is empty"));
        }
        Ok(Sizes { rows: checks.count(pieces.ids.len())?, width: checks.count(width)?, vocabulary, longest })
    }

    /// Writes `out` `[rows, width]` and, for a backward pass, `statistics` `[rows, 2]`. An id or position that is not in its table makes a row of NaN.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(
        &self,
        pieces: Pieces<'_>,
        tables: Tables<'_, T>,
        norm: Norm<'_>,
        dropout: Dropout,
        statistics: Option<&mut CudaViewMut<'_, f32>>,
        out: &mut CudaViewMut<'_, T>,
    ) -> Result<()> {
        let (checks, width) = (self.checks(), norm.weight.len());
        let sizes = self.sizes(pieces, tables, width)?;
        checks.view("weight", norm.weight, width)?;
        checks.view("bias", norm.bias, width)?;
        if let Some(statistics) = &statistics {
            checks.view("statistics", &**statistics, 2 * pieces.ids.len())?;
        }
        checks.view("out", out, pieces.ids.len() * width)?;
        let (function, blocks) = self.forward.forward(&checks, sizes.rows, width)?;
        let dropout = dropout.arguments()?;
        if sizes.rows == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(function);
        launch.arg(pieces.ids).arg(pieces.positions).arg(tables.words).arg(tables.positions);
        read_or_null(&mut launch, tables.token_type);
        launch.arg(norm.weight).arg(norm.bias).arg(&norm.epsilon).arg(&dropout);
        write_or_null(&mut launch, statistics);
        launch.arg(out).arg(&sizes.rows).arg(&sizes.width).arg(&sizes.vocabulary).arg(&sizes.longest);
        // Safety: every tensor has the size that follows from `sizes`, as checked above, and the kernel looks at no row outside of a table.
        unsafe { launch.launch(grid((blocks, 1), FORWARD_THREADS, 0)) }.map_err(refused("embedding"))?;
        Ok(())
    }

    /// `grad` `[rows, width]`, the gradient on the output, becomes that on the sum of the rows, for [`add_rows`](Self::add_rows). The tables are
    /// as they were in the forward pass. `gradients.input` is that of the type row. `scratch` has room for [`scratch_len`] numbers.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn backward(
        &self,
        grad: &mut CudaViewMut<'_, T>,
        pieces: Pieces<'_>,
        tables: Tables<'_, T>,
        saved: SavedNorm<'_>,
        mut gradients: NormGradients<'_>,
        scratch: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let (checks, width) = (self.checks(), saved.weight.len());
        let sizes = self.sizes(pieces, tables, width)?;
        checks.view("grad", grad, pieces.ids.len() * width)?;
        checks.view("weight", saved.weight, width)?;
        checks.view("statistics", saved.statistics, 2 * pieces.ids.len())?;
        checks.room("scratch", scratch, scratch_len(pieces.ids.len(), width))?;
        let (function, blocks) = self.backward.backward(&checks, sizes.rows, width)?;
        let dropout = saved.dropout.arguments()?;
        let mut launch = self.stream.launch_builder(function);
        launch.arg(grad).arg(pieces.ids).arg(pieces.positions).arg(tables.words).arg(tables.positions);
        read_or_null(&mut launch, tables.token_type);
        launch.arg(saved.weight).arg(&dropout).arg(saved.statistics).arg(&mut *scratch);
        launch.arg(&sizes.rows).arg(&sizes.width).arg(&sizes.vocabulary).arg(&sizes.longest);
        // Safety: every tensor has the size that follows from `sizes` and the scratch three rows for each block, as checked above; the kernel
        // looks at no row outside of a table.
        unsafe { launch.launch(grid((blocks, 1), BACKWARD_THREADS, 0)) }.map_err(refused("embedding"))?;
        let outputs = [Some(&mut gradients.weight), Some(&mut gradients.bias), gradients.input.as_mut()];
        self.finish.run(&scratch.as_view(), blocks, width, outputs)
    }

    /// Adds the rows of `grad` `[rows, width]` to the rows of a table's gradient `[table rows, width]` that they came from; the others stay as they are.
    /// `words` is a copy of `occurrences.words()`; `scratch` has room for `occurrences.partials()` rows.
    ///
    /// # Errors
    /// If sizes do not fit or a launch fails.
    pub fn add_rows(
        &self,
        grad: &CudaView<'_, T>,
        occurrences: &Occurrences,
        words: &CudaView<'_, u32>,
        width: usize,
        table: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let checks = self.checks();
        let (rows, table_rows) = (checks.rows(grad.len(), width)?, checks.rows(table.len(), width)?);
        checks.view("grad", grad, occurrences.rows() * width)?;
        checks.numbers("words", words, occurrences.words().len())?;
        checks.view("table", table, table.len())?;
        checks.room("scratch", scratch, occurrences.partials() * width)?;
        let (chunks, merges) = (checks.count(occurrences.chunks())?, checks.count(occurrences.merges())?);
        let (chunk_words, rest) = words.split_at(3 * occurrences.chunks());
        let (merge_words, sorted) = rest.split_at(3 * occurrences.merges());
        let columns = checks.count(width)?;
        let eights = columns / 8;
        // A thread for each eight columns.
        if eights > 128 {
            return Err(checks.error(&format!("rows of {width} are wider than 1024")));
        }
        if chunks > 0 {
            let mut launch = self.stream.launch_builder(&self.sum_chunks);
            launch.arg(grad).arg(&chunk_words).arg(&sorted).arg(&mut *table).arg(&mut *scratch);
            launch.arg(&eights).arg(&rows).arg(&table_rows);
            // Safety: `words`, a copy as the caller promises, holds the chunks and the sorted rows; their partial sums have room in the scratch; the kernel keeps to the rows
            // of `grad` and of the table.
            unsafe { launch.launch(grid((chunks, 1), eights, 0)) }.map_err(refused("embedding"))?;
        }
        if merges > 0 {
            let partials = scratch.as_view();
            let mut launch = self.stream.launch_builder(&self.merge_chunks);
            launch.arg(&merge_words).arg(&partials).arg(table).arg(&columns).arg(&table_rows);
            let mut config = grid((merges, columns / 32), 32, 0);
            config.block_dim.1 = 8;
            // Safety: `words` holds the merges, the scratch the partial sums that the kernel before has written; the kernel keeps to the table.
            unsafe { launch.launch(config) }.map_err(refused("embedding"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::layer_norm::reference;
    use super::super::testing::{
        Number, Random, compare, download_floats, download_half, speed, unset_floats, unset_half, upload,
        upload_floats, upload_half,
    };
    use super::*;
    use half::{bf16, f16};

    const EPSILON: f64 = 1e-12;

    /// Sequences of 1 to 80 pieces, a third of them one id.
    fn pieces(rows: usize, vocabulary: usize) -> (Vec<u32>, Vec<u32>) {
        let mut random = Random(rows as u64);
        let mut ids = random.numbers(rows, vocabulary);
        ids.iter_mut().for_each(|id| *id = if random.below(3) == 0 { 4 } else { *id });
        let mut positions = Vec::new();
        while positions.len() < rows {
            let length = (1 + random.below(80)).min(rows - positions.len());
            positions.extend(0..length as u32);
        }
        (ids, positions)
    }

    /// `count` rows of a table, the sums of those rows of `x` whose id they are.
    fn sums_by_id(x: &[f64], ids: &[u32], count: usize, width: usize) -> Vec<f64> {
        let mut sums = vec![0.; count * width];
        for (row, &id) in x.chunks(width).zip(ids) {
            sums[id as usize * width..][..width].iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
        sums
    }

    fn check<T: Number>(
        stream: &Arc<CudaStream>,
        rows: usize,
        width: usize,
        probability: f32,
        typed: bool,
    ) -> Result<()> {
        let name = format!("embedding {} [{rows}, {width}] p {probability}", T::SUFFIX);
        let dropout = Dropout { probability, seed: 77, step: 9, site: 0 };
        let (vocabulary, longest) = (301, 80);
        let (ids, positions) = pieces(rows, vocabulary);
        let mut random = Random(width as u64);
        let words = random.normals::<T>(vocabulary * width, 0., 0.5);
        let places = random.normals::<T>(longest * width, 0., 0.3);
        let token_type = if typed { random.normals::<T>(width, 0.1, 0.3) } else { vec![0.; width] };
        let (weight, bias) = (random.normals::<T>(width, 1., 0.2), random.normals::<T>(width, 0., 0.2));
        let grad = random.normals::<T>(rows * width, 0.01, 1.);

        // Reference.
        let factors: Vec<f64> = (0..rows * width).map(|i| dropout.factor(i)).collect();
        let (mut out, mut grad_sum, mut sums) = (Vec::new(), Vec::new(), (vec![0.; width], vec![0.; width]));
        for (row, (&id, &position)) in ids.iter().zip(&positions).enumerate() {
            let (word, place) = (&words[id as usize * width..], &places[position as usize * width..]);
            let sum: Vec<f64> = (0..width).map(|c| word[c] + place[c] + token_type[c]).collect();
            let kept = &factors[row * width..][..width];
            let normalised = reference::forward(&sum, &weight, &bias, EPSILON);
            out.extend(normalised.iter().zip(kept).map(|(y, f)| y * f));
            let masked: Vec<f64> = grad[row * width..].iter().zip(kept).map(|(g, f)| g * f).collect();
            grad_sum.extend(reference::backward(&masked, &sum, &weight, EPSILON, (&mut sums.0, &mut sums.1)));
        }
        let grad_type: Vec<f64> = (0..width).map(|c| grad_sum.iter().skip(c).step_by(width).sum()).collect();

        // Forward.
        let operation = Embedding::<T>::load(stream)?;
        let on_gpu = (upload(stream, &ids)?, upload(stream, &positions)?);
        let (ids_view, positions_view) = (on_gpu.0.as_view(), on_gpu.1.as_view());
        let pieces = Pieces { ids: &ids_view, positions: &positions_view };
        let (words_gpu, places_gpu) = (upload_half::<T>(stream, &words)?, upload_half::<T>(stream, &places)?);
        let type_gpu = upload_half::<T>(stream, &token_type)?;
        let (words_view, places_view, type_view) = (words_gpu.as_view(), places_gpu.as_view(), type_gpu.as_view());
        let token_type = typed.then_some(&type_view);
        let tables = Tables { words: &words_view, positions: &places_view, token_type };
        let parameters = (upload_floats(stream, &weight)?, upload_floats(stream, &bias)?);
        let (weight_view, bias_view) = (parameters.0.as_view(), parameters.1.as_view());
        let norm = Norm { weight: &weight_view, bias: &bias_view, epsilon: EPSILON as f32 };
        let mut statistics = unset_floats(stream, 2 * rows)?;
        let mut out_gpu = unset_half::<T>(stream, rows * width)?;
        let mut view = statistics.as_view_mut();
        operation.forward(pieces, tables, norm, dropout, Some(&mut view), &mut out_gpu.as_view_mut())?;
        // The sum is f32, so the output has one rounding.
        compare(&format!("{name} out"), &download_half(stream, &out_gpu.as_view())?, &out, 1.05 * T::ROUNDING);

        // Backward.
        let mut grad_gpu = upload_half::<T>(stream, &grad)?;
        let mut found_sums = unset_floats(stream, 3 * width)?;
        let mut scratch = unset_floats(stream, scratch_len(rows, width))?;
        let gradients = NormGradients::split(&mut found_sums, width);
        let statistics_view = statistics.as_view();
        let saved = SavedNorm { statistics: &statistics_view, weight: &weight_view, dropout };
        let mut grad_view = grad_gpu.as_view_mut();
        operation.backward(&mut grad_view, pieces, tables, saved, gradients, &mut scratch.as_view_mut())?;
        let found_grad = download_half(stream, &grad_gpu.as_view())?;
        // One rounding; the row's two means cancel a part of the number.
        compare(&format!("{name} grad_sum"), &found_grad, &grad_sum, 2. * T::ROUNDING);
        let found = download_floats(stream, &found_sums.as_view())?;
        for (part, (what, expected)) in
            [("weight", &sums.0), ("bias", &sums.1), ("type", &grad_type)].into_iter().enumerate()
        {
            // f32 sums of exact numbers.
            compare(&format!("{name} grad_{what}"), &found[part * width..][..width], expected, 1e-4);
        }

        // Tables, to whose gradients something was added before; from the rounded gradient, so that what remains are f32 sums.
        for (what, ids, count) in [("words", &ids, vocabulary), ("positions", &positions, longest)] {
            let occurrences = Occurrences::new(ids, count)?;
            let words = upload(stream, occurrences.words())?;
            let before = random.normals::<T>(count * width, 0., 1.);
            let expected = sums_by_id(&found_grad, ids, count, width);
            let expected: Vec<f64> = expected.iter().zip(&before).map(|(s, b)| s + b).collect();
            let mut table = upload_floats(stream, &before)?;
            let mut scratch = unset_floats(stream, (occurrences.partials() * width).max(1))?;
            let (mut table_view, mut scratch) = (table.as_view_mut(), scratch.as_view_mut());
            let grad = grad_gpu.as_view();
            operation.add_rows(&grad, &occurrences, &words.as_view(), width, &mut table_view, &mut scratch)?;
            compare(&format!("{name} {what}"), &download_floats(stream, &table.as_view())?, &expected, 1e-5);
        }
        Ok(())
    }

    fn check_all<T: Number>() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        for (rows, width) in [(1, 384), (17, 768), (65, 384), (513, 768), (4001, 384), (37, 32), (37, 512), (37, 1024)]
        {
            check::<T>(&stream, rows, width, 0., false)?;
            check::<T>(&stream, rows, width, 0.1, true)?;
        }
        Ok(())
    }

    #[test]
    fn bf16_equals_the_reference() -> Result<()> {
        check_all::<bf16>()
    }

    #[test]
    fn f16_equals_the_reference() -> Result<()> {
        check_all::<f16>()
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_embedding() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = Embedding::<bf16>::load(&stream)?;
        let (rows, width, vocabulary) = (32_768, 384, 24_000);
        let size = rows * width;
        let mut random = Random(1);
        let ids: Vec<u32> =
            (0..rows).map(|_| if random.below(10) < 3 { 4 } else { random.below(vocabulary) as u32 }).collect();
        let positions: Vec<u32> = (0..rows as u32).map(|row| row % 128).collect();
        let on_gpu = (upload(&stream, &ids)?, upload(&stream, &positions)?);
        let (ids_view, positions_view) = (on_gpu.0.as_view(), on_gpu.1.as_view());
        let pieces = Pieces { ids: &ids_view, positions: &positions_view };
        let words = upload_half::<bf16>(&stream, &random.normals::<bf16>(vocabulary * width, 0., 1.))?;
        let places = upload_half::<bf16>(&stream, &random.normals::<bf16>(512 * width, 0., 1.))?;
        let (words_view, places_view) = (words.as_view(), places.as_view());
        let tables = Tables { words: &words_view, positions: &places_view, token_type: None };
        let parameters = upload_floats(&stream, &vec![1.; width])?;
        let weight = parameters.as_view();
        let norm = Norm { weight: &weight, bias: &weight, epsilon: 1e-12 };
        let dropout = Dropout { probability: 0.1, ..Dropout::NONE };
        let (mut statistics, mut out) = (unset_floats(&stream, 2 * rows)?, unset_half::<bf16>(&stream, size)?);
        speed(&stream, "embedding forward", 4 * size, || {
            let mut statistics = statistics.as_view_mut();
            operation.forward(pieces, tables, norm, dropout, Some(&mut statistics), &mut out.as_view_mut())
        })?;
        let mut sums = unset_floats(&stream, 2 * width)?;
        let mut scratch = unset_floats(&stream, scratch_len(rows, width))?;
        let statistics_view = statistics.as_view();
        let saved = SavedNorm { statistics: &statistics_view, weight: &weight, dropout };
        speed(&stream, "embedding backward to the sum", 6 * size, || {
            let gradients = NormGradients::split(&mut sums, width);
            let grad = &mut out.as_view_mut();
            operation.backward(grad, pieces, tables, saved, gradients, &mut scratch.as_view_mut())
        })?;
        for (what, ids, count) in [("words", &ids, vocabulary), ("positions", &positions, 512)] {
            let occurrences = Occurrences::new(ids, count)?;
            let list = upload(&stream, occurrences.words())?;
            let mut table = upload_floats(&stream, &vec![0.; count * width])?;
            speed(&stream, &format!("embedding backward to {what}"), 2 * size, || {
                let (mut table, mut scratch) = (table.as_view_mut(), scratch.as_view_mut());
                operation.add_rows(&out.as_view(), &occurrences, &list.as_view(), width, &mut table, &mut scratch)
            })?;
        }
        Ok(())
    }
}

//! Lines of `metrics.jsonl` -> a run's curves: losses over steps, and devel F1 over epochs for each reading and corpus.

use serde_json::Value;

use crate::plot::{Axis, Line, Mark, Plot};

/// Losses over steps; `None` if no line has one of these names.
pub fn losses(lines: &[Value], names: &[&str]) -> Option<Plot> {
    let line = |name: &&str| {
        let points: Vec<_> =
            lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line[*name].as_f64()?))).collect();
        (!points.is_empty()).then(|| Line { name: name.replace('_', " "), points, mark: Mark::Line })
    };
    plot("Training loss", "step", "loss", names.iter().filter_map(line).collect())
}

/// Devel F1 over epochs, of the averaged weights where they are what is kept; `None` if there are no devel sets.
pub fn devel_f1(lines: &[Value]) -> Option<Plot> {
    let averaged = lines.iter().any(|line| line["devel_f1_average"].is_object());
    let key = if averaged { "devel_f1_average" } else { "devel_f1" };
    let mut series: Vec<Line> = Vec::new();
    for line in lines {
        let Some(epoch) = line["epoch"].as_f64() else { continue };
        for (reading, corpora) in line[key].as_object().into_iter().flatten() {
            for (corpus, f1) in corpora.as_object().into_iter().flatten() {
                let Some(f1) = f1.as_f64() else { continue };
                let name = format!("{corpus}, {reading}");
                match series.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.points.push((epoch, f1)),
                    None => series.push(Line { name, points: vec![(epoch, f1)], mark: Mark::DottedLine }),
                }
            }
        }
    }
    plot(if averaged { "Devel F1 of averaged weights" } else { "Devel F1" }, "epoch", "F1 (%)", series)
}

fn plot(title: &str, x: &str, y: &str, lines: Vec<Line>) -> Option<Plot> {
    let axis = |label: &str| Axis { label: label.into(), range: None };
    (!lines.is_empty()).then(|| Plot { title: title.into(), x: axis(x), y: axis(y), lines, bars: None, diagonal: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn curves_are_those_of_the_metrics() {
        let lines = [
            json!({"epoch": 1, "step": 10, "span_loss": 2.0, "devel_f1": {"documents": {"a": 50.0, "b": 40.0}, "sentences": {"a": 45.0}}}),
            json!({"epoch": 2, "step": 20, "span_loss": 1.0, "devel_f1": {"documents": {"a": 60.0, "b": null}, "sentences": {"a": 55.0}}}),
        ];
        let plot = losses(&lines, &["span_loss", "class_loss"]).unwrap();
        let names = |plot: &Plot| plot.lines.iter().map(|line| line.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&plot), &*plot.lines[0].points), (vec!["span loss".into()], &[(10., 2.), (20., 1.)][..]));
        let plot = devel_f1(&lines).unwrap();
        assert_eq!(names(&plot), ["a, documents", "b, documents", "a, sentences"]);
        assert_eq!(plot.lines[0].points, [(1., 50.), (2., 60.)]);
        assert_eq!(plot.lines[1].points, [(1., 40.)]);
        let averaged = [json!({"epoch": 1, "devel_f1": {"d": {"a": 1.0}}, "devel_f1_average": {"d": {"a": 2.0}}})];
        assert_eq!(devel_f1(&averaged).unwrap().lines[0].points, [(1., 2.)]);
        assert!(losses(&averaged, &["loss"]).is_none() && devel_f1(&[json!({"step": 1})]).is_none());
    }
}

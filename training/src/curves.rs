//! Lines of `metrics.jsonl` -> a run's curves: losses over steps, and devel F1 over epochs for each reading and corpus; of several runs -> their devel F1 over what differs among them.

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
    let key = devel_key(lines);
    let epochs = lines.iter().filter_map(|line| Some((line["epoch"].as_f64()?, &line[key])));
    let title = if key == AVERAGED { "Devel F1 of averaged weights" } else { "Devel F1" };
    plot(title, "epoch", "F1 (%)", devel_lines(epochs))
}

/// Devel F1 `{reading: {corpus: F1}}` of the model that a run has kept; `None` if it was not scored on devel sets.
pub fn kept_devel_f1(lines: &[Value]) -> Option<&Value> {
    let f1 = &lines.iter().rfind(|line| line["kept"] == true)?[devel_key(lines)];
    f1.as_object().is_some_and(|readings| !readings.is_empty()).then_some(f1)
}

/// Devel F1 of several runs, each with the number by which they differ, such as the pieces that they have read; `label` names the number. `None` if there is no run.
pub fn devel_f1_of_runs(runs: &[(f64, Value)], label: &str) -> Option<Plot> {
    let mut points: Vec<_> = runs.iter().map(|(x, f1)| (*x, f1)).collect();
    points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    plot("Devel F1", label, "F1 (%)", devel_lines(points.into_iter()))
}

/// Name of the devel F1 of averaged weights in lines of metrics.
const AVERAGED: &str = "devel_f1_average";

/// Under which name lines of metrics have the devel F1 of the weights that are kept.
fn devel_key(lines: &[Value]) -> &'static str {
    let averaged = lines.iter().any(|line| line[AVERAGED].as_object().is_some_and(|readings| !readings.is_empty()));
    if averaged { AVERAGED } else { "devel_f1" }
}

/// A line for each corpus and reading through points of x and `{reading: {corpus: F1}}`.
fn devel_lines<'a>(points: impl Iterator<Item = (f64, &'a Value)>) -> Vec<Line> {
    let mut series: Vec<Line> = Vec::new();
    for (x, readings) in points {
        for (reading, corpora) in readings.as_object().into_iter().flatten() {
            for (corpus, f1) in corpora.as_object().into_iter().flatten() {
                let Some(f1) = f1.as_f64() else { continue };
                let name = format!("{corpus}, {reading}");
                match series.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.points.push((x, f1)),
                    None => series.push(Line { name, points: vec![(x, f1)], mark: Mark::DottedLine }),
                }
            }
        }
    }
    series
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
        let scored = |kept, f1: f64| json!({"epoch": 1, "kept": kept, "devel_f1": {"d": {"a": f1}}});
        let run = [scored(true, 3.), scored(true, 5.), scored(false, 4.)];
        assert_eq!(kept_devel_f1(&run).unwrap(), &json!({"d": {"a": 5.0}}));
        let average =
            json!({"epoch": 1, "kept": true, "devel_f1": {"d": {"a": 1.0}}, "devel_f1_average": {"d": {"a": 2.0}}});
        assert_eq!(kept_devel_f1(&[average]).unwrap(), &json!({"d": {"a": 2.0}}));
        assert!(kept_devel_f1(&[json!({"epoch": 1, "kept": true, "devel_f1": {}, "devel_f1_average": {}})]).is_none());
        assert!(kept_devel_f1(&[]).is_none());
        let runs = [(20., json!({"d": {"a": 5.0}})), (10., json!({"d": {"a": 2.0, "b": 1.0}}))];
        let plot = devel_f1_of_runs(&runs, "pieces").unwrap();
        assert_eq!((plot.x.label.as_str(), names(&plot)), ("pieces", vec!["a, d".into(), "b, d".into()]));
        assert_eq!(plot.lines[0].points, [(10., 2.), (20., 5.)]);
        assert!(losses(&averaged, &["loss"]).is_none() && devel_f1(&[json!({"step": 1})]).is_none());
    }
}

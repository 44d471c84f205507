//! Lines, points and bars over two axes -> one SVG: what a run's curves and a reliability diagram are drawn with.
//! The legend stands in rows above the axes, where no line can run through it.
//! Colours: Okabe and Ito 2008, which people with any colour vision can tell apart.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

const WIDTH: u32 = 800;
const HEIGHT: u32 = 500;
/// Okabe and Ito's colours but yellow and black, the strongest contrasts first.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const GREY: RGBColor = RGBColor(90, 90, 90);
const TITLE: (&str, u32) = ("sans-serif", 20);
const TEXT: (&str, u32) = ("sans-serif", 17);
const SMALL: (&str, u32) = ("sans-serif", 14);
/// Pixels of a row of the legend, of a line beside its name, and between entries.
const ROW: i32 = 24;
const SAMPLE: i32 = 26;
const GAP: i32 = 24;
/// Mean width of a character of the legend, on the wide side.
const CHARACTER: i32 = 8;

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it counts, with its unit.
    pub label: String,
    /// From where to where; `None` for what the data need.
    pub range: Option<Range<f64>>,
}

/// A named series of points, from left to right.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// x and y; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub mark: Mark,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// From point to point.
    Line,
    /// A dot at each point.
    Dots,
    /// Both.
    DottedLine,
}

impl Mark {
    fn has_line(self) -> bool {
        self != Self::Dots
    }

    fn has_dots(self) -> bool {
        self != Self::Line
    }
}

/// Bars side by side, all of one name.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Their name in the legend.
    pub name: String,
    pub bars: Vec<Bar>,
}

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Where it stands on the x axis.
    pub x: Range<f64>,
    /// How far up the y axis it reaches.
    pub y: f64,
    /// What is written at its foot.
    pub label: String,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    pub bars: Option<Bars>,
    /// A line where x and y are the same, with this name.
    pub diagonal: Option<String>,
}

impl Plot {
    /// The drawing as SVG, 800 by 500 units.
    ///
    /// ```
    /// use chemtag_training::plot::{Axis, Line, Mark, Plot};
    ///
    /// let axis = |label: &str| Axis { label: label.into(), range: None };
    /// let line = Line { name: "loss".into(), points: vec![(1., 3.), (2., 1.5)], mark: Mark::DottedLine };
    /// let plot = Plot { title: "A run".into(), x: axis("step"), y: axis("loss"), lines: vec![line], bars: None, diagonal: None };
    /// assert!(plot.svg()?.starts_with("<svg "));
    /// # Ok::<_, chemtag_training::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Plot`] if it cannot be drawn, as with a range that is not finite.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area())
            .map_err(|e| Error::Plot(e.to_string()))?;
        Ok(svg)
    }

    fn draw(&self, area: &Area) -> Drawn {
        area.fill(&WHITE)?;
        let middle = TextStyle::from(TITLE).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(self.title.clone(), (WIDTH as i32 / 2, 12), middle))?;
        let legend_end = self.draw_legend(area, 44)?;
        let (_, below) = area.split_vertically(legend_end + 4);

        let points = || self.lines.iter().flat_map(|line| finite(&line.points));
        let bars = || self.bars.iter().flat_map(|bars| &bars.bars);
        let xs = points().map(|(x, _)| x).chain(bars().flat_map(|bar| [bar.x.start, bar.x.end]));
        let ys = points().map(|(_, y)| y).chain(bars().map(|bar| bar.y));
        let x = self.x.range.clone().unwrap_or_else(|| around(xs, 0.));
        let y = self.y.range.clone().unwrap_or_else(|| around(ys, 0.06));
        let mut chart = ChartBuilder::on(&below)
            .margin(12)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .x_labels(9)
            .y_labels(8)
            .max_light_lines(0)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(GREY)
            .label_style(TEXT)
            .axis_desc_style(TEXT)
            .x_label_formatter(&ticks(&x))
            .y_label_formatter(&ticks(&y))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .draw()?;

        if self.diagonal.is_some() {
            let ends = [x.start.max(y.start), x.end.min(y.end)].map(|end| (end, end));
            chart.draw_series(LineSeries::new(ends, GREY.stroke_width(2)))?;
        }
        let colours = self.colours();
        if let Some(bars) = &self.bars {
            let corners = |bar: &Bar| [(bar.x.start, y.start), (bar.x.end, bar.y)];
            let colour = colours.bars;
            chart.draw_series(bars.bars.iter().map(|bar| Rectangle::new(corners(bar), colour.mix(0.45).filled())))?;
            chart.draw_series(bars.bars.iter().map(|bar| Rectangle::new(corners(bar), colour.stroke_width(1))))?;
            let style = TextStyle::from(SMALL).pos(Pos::new(HPos::Center, VPos::Bottom));
            let foot = |bar: &Bar| ((bar.x.start + bar.x.end) / 2., y.start + 0.01 * (y.end - y.start));
            chart.draw_series(bars.bars.iter().map(|bar| Text::new(bar.label.clone(), foot(bar), style.clone())))?;
        }
        for (line, colour) in self.lines.iter().zip(colours.lines) {
            let points: Vec<(f64, f64)> = finite(&line.points).collect();
            if line.mark.has_line() {
                chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            }
            // A line needs two points to be seen.
            if line.mark.has_dots() || points.len() == 1 {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
            }
        }
        area.present()?;
        Ok(())
    }

    /// Draws the names from `top` on, in as many rows as they need; returns where they end.
    fn draw_legend(&self, area: &Area, top: i32) -> Drawn<i32> {
        let colours = self.colours();
        let mut entries: Vec<(&str, Sample)> = Vec::new();
        entries.extend(self.bars.iter().map(|bars| (bars.name.as_str(), Sample::Bar(colours.bars))));
        entries.extend(
            self.lines.iter().zip(colours.lines).map(|(line, c)| (line.name.as_str(), Sample::Line(c, line.mark))),
        );
        entries.extend(self.diagonal.iter().map(|name| (name.as_str(), Sample::Line(GREY, Mark::Line))));

        let width = |name: &str| SAMPLE + 8 + CHARACTER * name.chars().count() as i32;
        let room = WIDTH as i32 - 2 * GAP;
        let mut rows: Vec<(i32, Vec<(&str, Sample)>)> = Vec::new();
        for entry in entries {
            let own = width(entry.0);
            match rows.last_mut() {
                Some((used, row)) if *used + GAP + own <= room => {
                    *used += GAP + own;
                    row.push(entry);
                }
                _ => rows.push((own, vec![entry])),
            }
        }
        let mut y = top;
        for (used, row) in rows {
            let mut x = (WIDTH as i32 - used) / 2;
            for (name, sample) in row {
                sample.draw(area, x, y + ROW / 2)?;
                let style = TextStyle::from(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(name.to_string(), (x + SAMPLE + 8, y + ROW / 2), style))?;
                x += width(name) + GAP;
            }
            y += ROW;
        }
        Ok(y)
    }

    fn colours(&self) -> Colours<impl Iterator<Item = RGBColor> + use<>> {
        let mut colours = COLOURS.into_iter().cycle();
        // Bars, where there are any, are in the background, in a colour that no line has.
        let bars = if self.bars.is_some() { colours.next().unwrap_or(GREY) } else { GREY };
        Colours { bars, lines: colours }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Colours<I> {
    bars: RGBColor,
    lines: I,
}

/// What stands beside a name of the legend.
#[derive(Clone, Copy)]
enum Sample {
    Bar(RGBColor),
    Line(RGBColor, Mark),
}

impl Sample {
    fn draw(self, area: &Area, x: i32, y: i32) -> Drawn {
        match self {
            Self::Bar(colour) => {
                let corners = [(x + 4, y - 7), (x + SAMPLE - 4, y + 7)];
                area.draw(&Rectangle::new(corners, colour.mix(0.45).filled()))?;
                area.draw(&Rectangle::new(corners, colour.stroke_width(1)))?;
            }
            Self::Line(colour, mark) => {
                if mark.has_line() {
                    area.draw(&PathElement::new([(x, y), (x + SAMPLE, y)], colour.stroke_width(2)))?;
                }
                if mark.has_dots() {
                    area.draw(&Circle::new((x + SAMPLE / 2, y), 4, colour.filled()))?;
                }
            }
        }
        Ok(())
    }
}

fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// The range of some values with a share of it as margin on both sides. Values that are all positive, but reach near zero, start at zero.
fn around(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0. ..1.;
    }
    if low == high {
        let half = if low == 0. { 0.5 } else { low.abs() / 2. };
        return low - half..high + half;
    }
    let margin = margin * (high - low);
    let start = if margin > 0. && low >= 0. && low < 0.3 * high { 0. } else { low - margin };
    start..high + margin
}

/// How an axis writes its ticks: all in one unit, with no more digits than tell them apart.
fn ticks(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let (unit, letter) = match range.start.abs().max(range.end.abs()) {
        most if most >= 2e6 => (1e6, "M"),
        most if most >= 2e4 => (1e3, "k"),
        _ => (1., ""),
    };
    move |value| match (value / unit * 1e6).round() / 1e6 {
        // Zero of either sign.
        0. => "0".into(),
        rounded => format!("{rounded}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(lines: Vec<Line>) -> Plot {
        let axis = |label: &str| Axis { label: label.into(), range: None };
        Plot { title: "T <&>".into(), x: axis("step"), y: axis("loss"), lines, bars: None, diagonal: None }
    }

    fn line(name: &str, points: Vec<(f64, f64)>) -> Line {
        Line { name: name.into(), points, mark: Mark::Line }
    }

    /// Positions of the texts of a drawing.
    fn texts(svg: &str) -> Vec<(String, f64, f64)> {
        let mut found = Vec::new();
        for part in svg.split("<text ").skip(1) {
            let (attributes, rest) = part.split_once('>').unwrap();
            let attributes = format!(" {attributes}");
            let number = |name: &str| -> f64 {
                let (_, value) = attributes.split_once(&format!("{name}=\"")).unwrap();
                value.split('"').next().unwrap().parse().unwrap()
            };
            found.push((rest.split('<').next().unwrap().trim().to_string(), number(" x"), number(" y")));
        }
        found
    }

    #[test]
    fn ticks_are_round_and_the_legend_is_above_the_axes() {
        let points = (0..200).map(|i| (f64::from(i) * 50., 3. / (1. + f64::from(i) / 20.))).collect();
        let svg = plot(vec![line("a", points), line("b", vec![(0., 1.), (9950., 2.)])]).svg().unwrap();
        let texts = texts(&svg);
        let names: Vec<&str> = texts.iter().map(|(name, ..)| name.as_str()).collect();
        for name in ["step", "loss", "a", "b", "0", "2000", "0.5", "2.5", "T &lt;&amp;&gt;"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        let place = |name: &str| texts.iter().find(|(known, ..)| known == name).unwrap();
        assert!(place("a").2 < place("2.5").2 && place("b").2 < place("2.5").2);
    }

    #[test]
    fn any_data_can_be_drawn() {
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        for points in
            [vec![], vec![(1., 1.)], vec![(0., 0.)], vec![(1., nan), (infinite, 2.), (3., 4.)], vec![(1., 5.); 3]]
        {
            let svg = plot(vec![line("a", points.clone()), line("", points)]).svg().unwrap();
            assert!(svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let many =
            (0..40).map(|i| line(&format!("a rather long name {i}"), vec![(0., f64::from(i)), (1., 0.)])).collect();
        assert_eq!(
            texts(&plot(many).svg().unwrap()).iter().filter(|(name, ..)| name.starts_with("a rather")).count(),
            40
        );
    }

    #[test]
    fn ticks_are_written_shortly() {
        for (end, value, expected) in [
            (1., 0., "0"),
            (1., -1e-12, "0"),
            (1., 0.30000000000000004, "0.3"),
            (8000., 2500., "2500"),
            (30_000., 5_000., "5k"),
            (30_000., 12_500., "12.5k"),
            (2e6, 500_000., "0.5M"),
            (1., -0.25, "-0.25"),
        ] {
            assert_eq!(ticks(&(0. ..end))(&value), expected);
        }
    }
}

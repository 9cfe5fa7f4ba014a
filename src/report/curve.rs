//! How accuracy falls as units go: a table, and a figure like figure 8 of Hernandez et al. 2022.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use plotters::prelude::*;
use plotters::style::RGBColor;
use serde::Serialize;

/// By what the deleted units were picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Those that match, the least important first.
    Description,
    /// Any, the least important first.
    Order,
    /// Any, at random.
    Chance,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    pub test: String,
    pub by: By,
    /// Of a random order; 0 else.
    pub seed: u64,
    /// How many units.
    pub deleted: usize,
    /// 0..=1.
    pub top1: f64,
}

/// Accuracy on some tests, with more and more units deleted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    pub points: Vec<Point>,
}

const WIDTH: u32 = 460;
const HEIGHT: u32 = 340;
const LINES: [(By, &str, RGBColor); 3] = [
    (By::Description, "by description", RGBColor(0xc4, 0x3c, 0x2c)),
    (By::Order, "any, same order", RGBColor(0x2c, 0x5f, 0xa8)),
    (By::Chance, "any, at random", RGBColor(0x80, 0x80, 0x80)),
];

impl Curve {
    /// `test,by,seed,deleted,top1`, a line a measurement.
    pub fn csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(vec![]);
        self.points.iter().try_for_each(|it| writer.serialize(it))?;
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// A panel a test, side by side. `chosen` units are marked. The band of random orders is the 95 % interval of
    /// their mean.
    pub fn svg(&self, chosen: usize) -> anyhow::Result<String> {
        let mut tests: Vec<&str> = vec![];
        for point in &self.points {
            if !tests.contains(&point.test.as_str()) {
                tests.push(&point.test);
            }
        }
        let mut svg = String::new();
        let size = (WIDTH * tests.len() as u32, HEIGHT);
        let drawn = {
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&WHITE).and_then(|()| {
                let panels = root.split_evenly((1, tests.len()));
                panels
                    .iter()
                    .zip(&tests)
                    .try_for_each(|(at, test)| self.panel(at, test, chosen))?;
                root.present()
            })
        };
        drawn.map_err(|error| anyhow!("{error}")).context("cannot draw the figure")?;
        Ok(svg)
    }

    /// Mean and half the interval's width, by the number of units.
    fn line(&self, test: &str, by: By) -> Vec<(f64, f64, f64)> {
        let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for point in self.points.iter().filter(|it| it.test == test && it.by == by) {
            values.entry(point.deleted).or_default().push(100. * point.top1);
        }
        let one = |(deleted, values): (usize, Vec<f64>)| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let spread =
                values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (n - 1.).max(1.);
            (deleted as f64, mean, student(values.len()) * (spread / n).sqrt())
        };
        values.into_iter().map(one).collect()
    }

    fn panel<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
        test: &str,
        chosen: usize,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let own = self.points.iter().filter(|it| it.test == test);
        let (mut low, mut high, mut most) = (100f64, 0f64, 1);
        for point in own {
            low = low.min(100. * point.top1);
            high = high.max(100. * point.top1);
            most = most.max(point.deleted);
        }
        let (low, high) = ((low / 5.).floor() * 5., ((high / 5.).ceil() * 5.).max(low + 5.));
        let mut chart = ChartBuilder::on(area)
            .caption(test, ("sans-serif", 17))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0f64..most as f64, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .x_desc("units deleted")
            .y_desc("top-1, %")
            .x_label_formatter(&|it| format!("{it:.0}"))
            .y_label_formatter(&|it| format!("{it:.0}"))
            .draw()?;
        if 0 < chosen && chosen <= most {
            let mark = [(chosen as f64, low), (chosen as f64, high)];
            chart.draw_series(LineSeries::new(mark, BLACK.mix(0.35)))?;
        }
        for (by, name, color) in LINES {
            let line = self.line(test, by);
            if by == By::Chance {
                let above = line.iter().map(|it| (it.0, (it.1 + it.2).min(high)));
                let below = line.iter().rev().map(|it| (it.0, (it.1 - it.2).max(low)));
                let band: Vec<(f64, f64)> = above.chain(below).collect();
                chart.draw_series([Polygon::new(band, color.mix(0.2))])?;
            }
            chart
                .draw_series(LineSeries::new(
                    line.iter().map(|it| (it.0, it.1)),
                    color.stroke_width(2),
                ))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.8))
            .draw()
    }
}

/// The 97.5 % point of Student's distribution for the mean of so many values.
fn student(n: usize) -> f64 {
    [0., 0., 12.706, 4.303, 3.182, 2.776, 2.571].get(n).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> Curve {
        let point =
            |by, seed, deleted, top1| Point { test: "clean".into(), by, seed, deleted, top1 };
        Curve {
            points: vec![
                point(By::Description, 0, 0, 0.5),
                point(By::Description, 0, 4, 0.625),
                point(By::Chance, 0, 4, 0.5),
                point(By::Chance, 1, 4, 0.25),
            ],
        }
    }

    #[test]
    fn a_table_has_a_line_a_measurement() {
        let text = curve().csv().unwrap();
        let wanted = "test,by,seed,deleted,top1\nclean,description,0,0,0.5\nclean,description,0,4,0.625\n\
            clean,chance,0,4,0.5\nclean,chance,1,4,0.25\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_figure_has_a_panel_a_test_and_a_line_a_way() {
        let svg = curve().svg(4).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["clean", "units deleted", "by description", "any, at random"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg, curve().svg(4).unwrap());
        let (_, mean, half) = curve().line("clean", By::Chance)[0];
        assert_eq!((mean, (half * 1000.).round()), (37.5, 158_825.));
    }
}

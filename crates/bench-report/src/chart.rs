//! Charts: how figures grow with the size of the environment, as SVG.
//!
//! Both axes are logarithmic: a figure in proportion to the size is a straight line upwards, and a constant one is
//! level. The end of each line has its name and last figure. Every row of a table is a line.

use std::fmt::Write;

use crate::number::{grouped, short};
use crate::record::{Record, Size};
use crate::table::{count, rows, sizes};

/// The image, and the part of it that contains the lines; the rest is for text.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 510.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 330.0;
/// The distance between the middles of two names.
const LINE_HEIGHT: f64 = 18.0;
/// Distinguishable for colour-blind readers (Okabe and Ito).
const COLOURS: [&str; 5] = ["#0072b2", "#009e73", "#d55e00", "#737373", "#cc79a7"];

/// A logarithmic axis; `from` and `to` are decimal logarithms.
struct Axis {
    from: f64,
    to: f64,
    /// The positions of both ends in the image.
    ends: (f64, f64),
}

impl Axis {
    fn at(&self, figure: f64) -> f64 {
        let share = (figure.log10() - self.from) / (self.to - self.from);
        self.ends.0 + share * (self.ends.1 - self.ends.0)
    }
}

/// Draws the chart of one table. Returns `None` if the table has fewer than two sizes, or a figure that is not positive,
/// which has no position on a logarithmic axis.
pub(crate) fn chart(records: &[&Record]) -> Option<String> {
    let first = records.first()?;
    let sizes = sizes(records);
    let medians = || records.iter().map(|record| record.spread.median);
    let (lowest, highest) = (medians().reduce(f64::min)?, medians().reduce(f64::max)?);
    let (smallest, largest) = (sizes.first()?.count as f64, sizes.last()?.count as f64);
    if lowest <= 0.0 || smallest <= 0.0 || sizes.len() < 2 {
        return None;
    }
    let (floor, ceiling) = (lowest.log10().floor(), highest.log10().ceil());
    let x = Axis { from: smallest.log10(), to: largest.log10(), ends: (LEFT, RIGHT) };
    let y = Axis { from: floor, to: ceiling.max(floor + 1.0), ends: (BOTTOM, TOP) };
    let mut svg = header(&first.title, &first.unit);
    grid(&mut svg, &x, &y, &sizes);
    lines(&mut svg, &x, &y, records);
    svg.push_str("</svg>\n");
    Some(svg)
}

fn header(title: &str, unit: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\" aria-label=\"{title}\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         fill=\"#ffffff\"/>\n<text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\" fill=\"#1f2328\">{title}</text>\n\
         <text x=\"16\" y=\"44\" fill=\"#59636e\">{}</text>\n",
        escaped(unit)
    )
}

fn grid(svg: &mut String, x: &Axis, y: &Axis, sizes: &[Size]) {
    let mut decade = y.from;
    while decade <= y.to {
        let figure = 10_f64.powf(decade);
        let at = y.at(figure);
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#d1d9e0\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\" fill=\"#59636e\">{}</text>\n",
            LEFT - 8.0,
            at + 4.0,
            short(figure)
        );
        decade += 1.0;
    }
    for size in sizes {
        let at = x.at(size.count as f64);
        let _ = write!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{BOTTOM}\" stroke=\"#eff2f5\"/>\n<text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\" fill=\"#59636e\">{}</text>\n",
            BOTTOM + 20.0,
            count(size)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#59636e\">{}</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 40.0,
        escaped(&sizes[0].of)
    );
}

fn lines(svg: &mut String, x: &Axis, y: &Axis, records: &[&Record]) {
    let mut names = Vec::new();
    for (row, colour) in rows(records).into_iter().zip(COLOURS.iter().cycle()) {
        let mut points: Vec<(u64, f64)> = records
            .iter()
            .filter(|record| record.row == row)
            .filter_map(|record| Some((record.size.as_ref()?.count, record.spread.median)))
            .collect();
        points.sort_by_key(|(count, _)| *count);
        let positions: Vec<(f64, f64)> =
            points.iter().map(|(count, figure)| (x.at(*count as f64), y.at(*figure))).collect();
        let path: Vec<String> = positions.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.join("L")
        );
        for ((at, high), (count, figure)) in positions.iter().zip(&points) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{at:.1}\" cy=\"{high:.1}\" r=\"4\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                grouped(i64::try_from(*count).unwrap_or(i64::MAX)),
                short(*figure)
            );
        }
        if let (Some((at, high)), Some((_, figure))) = (positions.last(), points.last()) {
            // The name is at the right end, so the figure of a line that ends before it would mislead.
            let figure = if *at < RIGHT { String::new() } else { format!(": {}", short(*figure)) };
            names.push((*high, format!("{row}{figure}"), *colour));
        }
    }
    for (high, name, colour) in without_overlap(names) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            RIGHT + 12.0,
            high + 4.0,
            escaped(&name)
        );
    }
}

/// Sorts names from the top down, and moves them so that they do not overlap.
fn without_overlap<T>(mut names: Vec<(f64, String, T)>) -> Vec<(f64, String, T)> {
    names.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    let mut next_free = f64::MIN;
    for (high, ..) in &mut names {
        *high = high.max(next_free);
        next_free = *high + LINE_HEIGHT;
    }
    names
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn at(row: &str, count: u64, figure: f64) -> Record {
        record(row, Some(count), vec![figure])
    }

    fn drawn(records: &[Record]) -> Option<String> {
        chart(&records.iter().collect::<Vec<_>>())
    }

    fn paths(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let lines = svg.lines().filter(|line| line.contains("stroke-width"));
        let points = |line: &str| {
            let path = line.split('"').nth(1).expect("a path").trim_start_matches('M').to_owned();
            let point = |text: &str| {
                text.split_once(' ').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap()
            };
            path.split('L').map(point).collect()
        };
        lines.map(points).collect()
    }

    #[test]
    fn proportional_figures_rise_and_constant_figures_are_level() {
        let records: Vec<Record> = [100, 1_000, 10_000]
            .into_iter()
            .flat_map(|count| [at("grows", count, count as f64 / 10.0), at("level", count, 2.0)])
            .collect();
        let paths = paths(&drawn(&records).unwrap());
        let [grows, level] = paths.as_slice() else { panic!("two lines: {paths:?}") };
        assert!(level.iter().all(|(_, y)| *y == level[0].1), "{level:?}");
        let steps: Vec<f64> = grows.windows(2).map(|pair| pair[0].1 - pair[1].1).collect();
        assert!(steps[0] > 0.0 && (steps[0] - steps[1]).abs() < 0.2, "a straight line upwards: {grows:?}");
        for (x, y) in paths.concat() {
            assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x} {y}");
        }
    }

    #[test]
    fn names_do_not_overlap_and_text_is_escaped() {
        let records =
            [at("a < b", 100, 2.0), at("a < b", 1_000, 2.0), at("c", 100, 2.0), at("c", 1_000, 2.01)];
        let svg = drawn(&records).unwrap();
        assert!(svg.contains("a &lt; b: 2<"), "{svg}");
        let names = without_overlap(vec![
            (10.0, "one".to_owned(), ()),
            (12.0, "two".to_owned(), ()),
            (100.0, "three".to_owned(), ()),
        ]);
        assert_eq!(
            names.iter().map(|(high, ..)| *high).collect::<Vec<_>>(),
            [10.0, 10.0 + LINE_HEIGHT, 100.0]
        );
    }

    #[test]
    fn line_that_ends_early_has_no_figure_at_the_right_end() {
        let svg = drawn(&[at("all", 100, 2.0), at("all", 1_000, 3.0), at("some", 100, 7.0)]).unwrap();
        assert!(svg.contains(">all: 3<") && svg.contains(">some<"), "{svg}");
    }

    #[test]
    fn only_positive_figures_of_several_sizes_are_drawn() {
        assert_eq!(drawn(&[record("a", None, vec![1.0])]), None);
        assert_eq!(drawn(&[at("b", 100, 1.0)]), None);
        assert_eq!(drawn(&[at("b", 100, 0.0), at("b", 1_000, 1.0)]), None);
    }
}

//! Curves over time, one below the other, as an SVG picture.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 110.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 36.0;

/// One curve for each title; a value for each second.
pub fn page(curves: &[(&str, Vec<f64>)]) -> String {
    let panels = u32::try_from(curves.len()).map_or(0.0, f64::from);
    let (width, height) = (WIDTH + LEFT + 20.0, panels * (HEIGHT + GAP) + GAP);
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = GAP;
    for (title, values) in curves {
        panel(&mut page, title, values, top);
        top += HEIGHT + GAP;
    }
    page.push_str("</svg>\n");
    page
}

fn panel(page: &mut String, title: &str, values: &[f64], top: f64) {
    let most = values.iter().copied().fold(0.0, f64::max);
    let scale = if most > 0.0 { most } else { 1.0 };
    let bottom = top + HEIGHT;
    // writing to a string cannot fail
    let _ = writeln!(
        page,
        "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most:.1}</text>\n\
         <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#999\"/>",
        top - 6.0,
        LEFT - 6.0,
        top + 10.0,
        LEFT - 6.0,
        LEFT + WIDTH,
    );
    let steps = u32::try_from(values.len()).map_or(1.0, f64::from).max(2.0) - 1.0;
    let mut points = String::new();
    for (nth, value) in (0_u32..).zip(values) {
        let x = LEFT + WIDTH * f64::from(nth) / steps;
        let y = bottom - HEIGHT * value / scale;
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    let _ = writeln!(
        page,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#2060c0\" stroke-width=\"1.5\"/>",
        points.trim_end()
    );
}

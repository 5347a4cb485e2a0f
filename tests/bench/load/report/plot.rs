//! Curves over time. The picture stretches to the width of the page, words do not: those stand beside it as text.

use std::fmt::Write as _;

/// Width of a picture in its own units; its height is 100.
const WIDTH: f64 = 1_000.0;

pub struct Curve<'a> {
    pub name: &'a str,
    /// The class that gives it its colour.
    pub class: &'a str,
    /// One for each second; None breaks the curve.
    pub values: Vec<Option<f64>>,
}

pub struct Panel<'a> {
    pub title: &'a str,
    pub logarithmic: bool,
    pub curves: Vec<Curve<'a>>,
    /// What must not be exceeded.
    pub bar: Option<f64>,
}

/// Begin of a phase or moment of an event, in seconds, with what is said of it.
pub struct Line<'a> {
    pub second: f64,
    pub label: String,
    pub title: &'a str,
}

/// Smallest and greatest value, and where a value is between 0 (bottom) and 100.
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(panel: &Panel<'_>) -> Self {
        let values = panel.curves.iter().flat_map(|curve| &curve.values);
        let all = || values.clone().flatten().copied().chain(panel.bar);
        let most = all().fold(0.0, f64::max);
        if panel.logarithmic {
            let positive = all().filter(|value| *value > 0.0);
            let least = positive.fold(most.max(1.0), f64::min);
            let most = 10_f64.powf(most.max(1.0).log10().ceil());
            let least = 10_f64.powf(least.log10().floor()).min(most / 10.0);
            return Self {
                least,
                most,
                logarithmic: true,
            };
        }
        Self {
            least: 0.0,
            most: round_up(most),
            logarithmic: false,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.least) / self.least).log10() / (self.most / self.least).log10()
        } else {
            value / self.most
        };
        (part * 100.0).clamp(0.0, 100.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return vec![0.0, self.most / 2.0, self.most];
        }
        let next = |tick: &f64| Some(tick * 10.0);
        let tens = std::iter::successors(Some(self.least), next);
        tens.take_while(|tick| *tick < self.most * 1.01).collect()
    }
}

/// The next of 1, 2, 4, 5 or 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 10.0].map(|step| step * power);
    let fits = steps.into_iter().find(|step| value <= step * 1.000_001);
    fits.unwrap_or(power * 10.0)
}

/// A figure of so many seconds, with the phases as stripes and the events as upright lines.
pub fn figure(panel: &Panel<'_>, seconds: f64, phases: &[Line<'_>], events: &[Line<'_>]) -> String {
    let scale = Scale::of(panel);
    let mut out = format!("<figure>\n<figcaption>{}", panel.title);
    for curve in &panel.curves {
        // writing to a string cannot fail
        let _ = write!(
            out,
            " <span class=\"key {}\">{}</span>",
            curve.class, curve.name
        );
    }
    let _ = write!(
        out,
        "</figcaption>\n<div class=\"plot\">\n<svg viewBox=\"0 0 {WIDTH} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\n",
        panel.title
    );
    picture(&mut out, panel, &scale, (seconds, phases, events));
    out.push_str("</svg>\n");
    words(&mut out, &scale, (seconds, phases, events));
    out.push_str("</div>\n</figure>\n");
    out
}

type Times<'a> = (f64, &'a [Line<'a>], &'a [Line<'a>]);

fn picture(
    out: &mut String,
    panel: &Panel<'_>,
    scale: &Scale,
    (seconds, phases, events): Times<'_>,
) {
    let x = |second: f64| WIDTH * second / seconds;
    for pair in phases.chunks(2).filter(|pair| pair.len() == 2) {
        let (from, to) = (x(pair[0].second), x(pair[1].second));
        let _ = writeln!(
            out,
            "<rect class=\"stripe\" x=\"{from:.1}\" width=\"{:.1}\" y=\"0\" height=\"100\"/>",
            to - from
        );
    }
    for tick in scale.ticks() {
        let y = 100.0 - scale.at(tick);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M0 {y:.1}H{WIDTH}\"/>");
    }
    if let Some(bar) = panel.bar {
        let y = 100.0 - scale.at(bar);
        let _ = writeln!(out, "<path class=\"bar\" d=\"M0 {y:.1}H{WIDTH}\"/>");
    }
    for event in events {
        let _ = writeln!(
            out,
            "<path class=\"event\" d=\"M{:.1} 0V100\"><title>{}</title></path>",
            x(event.second),
            event.title
        );
    }
    for curve in &panel.curves {
        let _ = writeln!(
            out,
            "<path class=\"curve {}\" d=\"{}\"/>",
            curve.class,
            strokes(&curve.values, scale, seconds)
        );
    }
}

/// Lines through the middles of the seconds; one that stands alone becomes a dot.
fn strokes(values: &[Option<f64>], scale: &Scale, seconds: f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (nth, value) in (0_u32..).zip(values) {
        let Some(value) = value else {
            drawing = false;
            continue;
        };
        let x = (WIDTH * (f64::from(nth) + 0.5) / seconds).min(WIDTH);
        let y = 100.0 - scale.at(*value);
        let _ = if drawing {
            write!(path, "L{x:.1} {y:.1}")
        } else {
            write!(path, "M{x:.1} {y:.1}h0")
        };
        drawing = true;
    }
    path
}

fn words(out: &mut String, scale: &Scale, (seconds, phases, events): Times<'_>) {
    for tick in scale.ticks() {
        let top = 100.0 - scale.at(tick);
        let tick = (tick * 1_000.0).round() / 1_000.0;
        let _ = writeln!(
            out,
            "<span class=\"y\" style=\"top:{top:.1}%\">{tick}</span>"
        );
    }
    let part = |second: f64| second / seconds * 100.0;
    let ends = phases
        .iter()
        .skip(1)
        .map(|phase| phase.second)
        .chain([seconds]);
    for (phase, end) in phases.iter().zip(ends) {
        let width = part(end - phase.second);
        let _ = writeln!(
            out,
            "<span class=\"phase\" style=\"left:{:.2}%;width:{width:.2}%\" title=\"{}\">{}</span>",
            part(phase.second),
            phase.title,
            phase.label
        );
    }
    for event in events {
        let _ = writeln!(
            out,
            "<span class=\"badge\" style=\"left:{:.2}%\" title=\"{}\">{}</span>",
            part(event.second),
            event.title,
            event.label
        );
    }
}

//! What a dashboard shows, as data: queries name metrics as they are, and the rest is added when it is drawn.

/// One dashboard.
pub struct Dashboard {
    /// Name of its file, and of its address in Grafana.
    pub name: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    /// Beside the instance.
    pub filters: &'static [Filter],
    pub rows: Vec<Row>,
}

/// A variable that narrows every query which has its label.
pub struct Filter {
    pub label: &'static str,
    /// A metric that has every value of it.
    pub of: &'static str,
}

/// Panels that belong together, below a headline.
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

/// How a panel is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Curves over time.
    Graph,
    /// Areas that add up.
    Stack,
    /// One number, with its recent course.
    Number,
    /// Lines of the latest values.
    Table,
}

/// One picture.
pub struct Panel {
    pub title: &'static str,
    pub about: &'static str,
    pub kind: Kind,
    /// As Grafana calls it: `s`, `reqps`, `percentunit`, `bytes`.
    pub unit: &'static str,
    /// Of 24 columns.
    pub width: u32,
    pub queries: Vec<Query>,
    /// From these values on it is orange, and red.
    pub alarms: Option<(f64, f64)>,
}

pub struct Query {
    /// `[~]` is the span that Grafana looks at for one point: long enough for a rate.
    pub promql: &'static str,
    /// `{{label}}` is the value of a label.
    pub legend: &'static str,
}

/// Columns of a dashboard.
pub const COLUMNS: u32 = 24;

pub fn row(title: &'static str, panels: impl IntoIterator<Item = Panel>) -> Row {
    let panels = panels.into_iter().collect();
    Row { title, panels }
}

/// Three of them fill a line.
pub fn graph(title: &'static str, unit: &'static str) -> Panel {
    Panel::new(Kind::Graph, title, unit, 8)
}

pub fn stack(title: &'static str, unit: &'static str) -> Panel {
    Panel::new(Kind::Stack, title, unit, 8)
}

/// Eight of them fill a line.
pub fn number(title: &'static str, unit: &'static str) -> Panel {
    Panel::new(Kind::Number, title, unit, 3)
}

pub fn table(title: &'static str, unit: &'static str) -> Panel {
    Panel::new(Kind::Table, title, unit, 12)
}

impl Panel {
    fn new(kind: Kind, title: &'static str, unit: &'static str, width: u32) -> Self {
        Self {
            title,
            about: "",
            kind,
            unit,
            width,
            queries: Vec::new(),
            alarms: None,
        }
    }

    pub fn show(mut self, promql: &'static str, legend: &'static str) -> Self {
        self.queries.push(Query { promql, legend });
        self
    }

    /// The median, 90th and 99th of a hundred of a histogram's buckets, which are already summed by `le`.
    pub fn quantiles(mut self, of: [&'static str; 3]) -> Self {
        for (promql, legend) in of.into_iter().zip(["p50", "p90", "p99"]) {
            self = self.show(promql, legend);
        }
        self
    }

    pub fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    pub fn wide(mut self, columns: u32) -> Self {
        self.width = columns;
        self
    }

    pub fn alarms(mut self, orange: f64, red: f64) -> Self {
        self.alarms = Some((orange, red));
        self
    }

    pub fn height(&self) -> u32 {
        if self.kind == Kind::Number { 4 } else { 8 }
    }
}

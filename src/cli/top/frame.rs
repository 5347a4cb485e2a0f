//! One frame: what is said of a gateway in so many lines and columns.

use super::history::{History, Window};
use super::paint::{Line, Tone, bytes, count, curve, duration, fit, number, safe, uptime};
use super::table::{Row, Table, figure, name, stack, word};
use crate::admin::{Endpoint, Live, Pool};
use crate::observe::metrics::Spread;

/// The gateway does not answer.
pub struct Gone<'a> {
    pub seconds: u64,
    pub why: &'a str,
}

/// Of the cells above the tables.
const CELLS: usize = 4;
const CELL_WIDTH_MAX: usize = 26;

/// `size`: columns and lines.
pub fn frame(
    place: &str,
    history: &History,
    gone: Option<Gone<'_>>,
    size: (usize, usize),
    unicode: bool,
) -> Vec<Line> {
    let (width, height) = size;
    let Some(window) = history.window() else {
        return waiting(place, gone, size, unicode);
    };
    let paper = Paper {
        window,
        width,
        unicode,
    };
    let mut lines = vec![
        paper.head(place, gone.as_ref()),
        paper.notice(gone.as_ref()),
    ];
    lines.extend(paper.cells());
    let values = history.curve();
    if !values.is_empty() {
        let label = " requests/s, last minute  ";
        let mut line = Line::of(Tone::Dim, label);
        let room = width.saturating_sub(label.len() + 1);
        line.push(Tone::Plain, curve(&values, room, unicode));
        lines.push(line);
    }
    // The last line is left empty: a terminal that has it full moves everything up.
    let room = height.saturating_sub(lines.len() + 1);
    lines.extend(stack(paper.tables(), width, room, unicode));
    let lines = lines.into_iter().take(height);
    lines.map(|line| line.cut(width)).collect()
}

/// Nothing was heard yet.
fn waiting(
    place: &str,
    gone: Option<Gone<'_>>,
    (width, height): (usize, usize),
    unicode: bool,
) -> Vec<Line> {
    let mut lines = vec![Line::of(
        Tone::Strong,
        format!(" onemind  {}", safe(place, unicode)),
    )];
    if let Some(gone) = gone {
        let why = format!(" no gateway: {}; trying again", safe(gone.why, unicode));
        lines.push(Line::of(Tone::Bad, why));
    }
    let lines = lines.into_iter().take(height);
    lines.map(|line| line.cut(width)).collect()
}

struct Paper<'a> {
    window: Window<'a>,
    width: usize,
    unicode: bool,
}

impl Paper<'_> {
    fn live(&self) -> &Live {
        self.window.now
    }

    fn safe(&self, text: &str) -> String {
        safe(text, self.unicode)
    }

    fn head(&self, place: &str, gone: Option<&Gone<'_>>) -> Line {
        let live = self.live();
        let mut head = Line::of(Tone::Strong, " onemind");
        let (version, place) = (self.safe(&live.version), self.safe(place));
        head.push(Tone::Plain, format!(" {version}  {place}"));
        let (tone, state) = match gone {
            Some(gone) => (Tone::Bad, format!("gone for {} s", gone.seconds)),
            None if live.draining => (Tone::Warn, "draining".to_owned()),
            None if !live.not_ready.is_empty() => (Tone::Warn, "not ready".to_owned()),
            None => (Tone::Good, "ready".to_owned()),
        };
        let facts = format!(
            "  pid {}  revision {}  up {} ",
            live.pid,
            live.revision,
            uptime(live.uptime_s)
        );
        let right = state.len() + facts.len();
        head.pad_to(self.width.saturating_sub(right).max(head.width() + 2));
        head.push(tone, state);
        head.push(Tone::Plain, facts);
        head
    }

    /// The worst that there is to say, on one line.
    fn notice(&self, gone: Option<&Gone<'_>>) -> Line {
        let live = self.live();
        if let Some(gone) = gone {
            let why = self.safe(gone.why);
            return Line::of(
                Tone::Bad,
                format!(" {why}; these are the last figures; trying again"),
            );
        }
        if !live.config_ok {
            let what = " the configuration on disk was refused; the one before it serves";
            return Line::of(Tone::Bad, what);
        }
        if let Some(why) = &live.limits.error {
            let what = format!(" redis is gone: {}", self.safe(why));
            return Line::of(Tone::Bad, what);
        }
        let why = live.not_ready.join("; ");
        let shown = if why.is_empty() {
            why
        } else {
            format!(" {}", self.safe(&why))
        };
        Line::of(Tone::Warn, shown)
    }

    fn cells(&self) -> Vec<Line> {
        let window = &self.window;
        let live = self.live();
        let traffic = &live.traffic;
        let errors = window.rate(|live| live.traffic.errors);
        let refused = window.rate(refused);
        let shed = window.rate(|live| live.traffic.shed);
        let took = window.spread(|live| Some(live.traffic.duration.clone()));
        let cpu = window.rate(|live| live.process.cpu_seconds.unwrap_or(0.0));
        let cpu = cpu.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let mode = self.safe(&live.limits.mode);
        let mode_tone = if mode == "local" {
            Tone::Bad
        } else {
            Tone::Plain
        };
        let per_second = |bytes_of: fn(&Live) -> f64| {
            let rate = window.rate(bytes_of);
            (Tone::Plain, bytes(rate))
        };
        let mut rows = vec![
            [
                (
                    "requests/s",
                    plain(number(window.rate(|live| live.traffic.requests))),
                ),
                ("p50", plain(duration(took.quantile(0.5)))),
                ("in flight", plain(count(traffic.in_flight))),
                ("in/s", per_second(|live| live.traffic.bytes_in)),
            ],
            [
                ("errors/s", (bad_above_zero(errors), number(errors))),
                ("p99", plain(duration(took.quantile(0.99)))),
                ("connections", plain(count(traffic.connections))),
                ("out/s", per_second(|live| live.traffic.bytes_out)),
            ],
            [
                ("refused/s", (warn_above_zero(refused), number(refused))),
                ("shed/s", (warn_above_zero(shed), number(shed))),
                ("websockets", plain(count(traffic.websockets))),
                ("cpu", plain(cpu)),
            ],
            [
                ("limits", (mode_tone, mode)),
                ("instances", plain(live.limits.instances.to_string())),
                (
                    "open files",
                    plain(live.process.open_files.map_or("-".to_owned(), count)),
                ),
                ("memory", plain(bytes(live.process.memory_bytes))),
            ],
        ];
        if !live.targets.rows.is_empty() {
            rows.push(self.model_cells());
        }
        rows.iter().map(|row| self.cell_line(row)).collect()
    }

    fn model_cells(&self) -> [(&'static str, (Tone, String)); CELLS] {
        let first = self.window.spread(first_tokens);
        [
            ("tokens in/s", plain(number(self.window.rate(tokens_in)))),
            ("tokens out/s", plain(number(self.window.rate(tokens_out)))),
            ("1st word p50", plain(duration(first.quantile(0.5)))),
            ("p99", plain(duration(first.quantile(0.99)))),
        ]
    }

    fn cell_line(&self, cells: &[(&str, (Tone, String)); CELLS]) -> Line {
        let width = (self.width.saturating_sub(2 + 2 * (CELLS - 1)) / CELLS).min(CELL_WIDTH_MAX);
        let mut line = Line::of(Tone::Plain, " ");
        for (nth, (label, (tone, value))) in cells.iter().enumerate() {
            if nth > 0 {
                line.push(Tone::Plain, "  ");
            }
            line.push(Tone::Dim, *label);
            let room = width.saturating_sub(label.chars().count());
            line.push(*tone, fit(value, room, true));
        }
        line
    }

    fn tables(&self) -> Vec<Table> {
        vec![
            self.pools(),
            self.routes(),
            self.models(),
            self.targets(),
            self.keys(),
            self.rules(),
        ]
    }

    fn pools(&self) -> Table {
        let pools = &self.live().pools;
        let mut left_out = pools.left_out;
        let mut rows = Vec::new();
        for pool in &pools.rows {
            let title = match pool.waiting {
                0 => self.safe(&pool.name),
                waiting => format!("{} ({waiting} waiting)", self.safe(&pool.name)),
            };
            if pool.endpoints.rows.is_empty() {
                rows.push(Row {
                    cells: vec![plain(&title), (Tone::Bad, "no endpoint".to_owned())],
                    troubled: true,
                });
            }
            left_out += pool.endpoints.left_out;
            let endpoints = pool.endpoints.rows.iter();
            rows.extend(endpoints.map(|endpoint| self.endpoint(pool, &title, endpoint)));
        }
        let mut columns = vec![
            name("POOL"),
            name("ENDPOINT"),
            word("STATE", 10),
            figure("IN FLIGHT", 9),
            figure("REQ/S", 6),
            figure("FAIL/S", 6),
        ];
        // Why an endpoint fails takes a line of some length.
        if self.width >= 110 {
            columns.push(word("LAST ERROR", 30));
        }
        Table {
            columns,
            rows,
            left_out,
        }
    }

    fn endpoint(&self, pool: &Pool, title: &str, endpoint: &Endpoint) -> Row {
        let rate = |count: fn(&Endpoint) -> u64| {
            let of = |live: &Live| {
                let pool = live
                    .pools
                    .rows
                    .iter()
                    .find(|other| other.name == pool.name)?;
                let endpoints = &mut pool.endpoints.rows.iter();
                let found = endpoints.find(|other| other.name == endpoint.name)?;
                Some(float(count(found)))
            };
            self.window.rate(|live| of(live).unwrap_or(0.0))
        };
        let failures = rate(|endpoint| endpoint.failures);
        let tone = match endpoint.state.as_str() {
            "up" => Tone::Good,
            "unhealthy" | "ejected" => Tone::Bad,
            _ => Tone::Warn,
        };
        let error = endpoint.last_error.as_deref().unwrap_or_default();
        Row {
            cells: vec![
                plain(title),
                plain(self.safe(&endpoint.name)),
                (tone, self.safe(&endpoint.state)),
                plain(endpoint.in_flight.to_string()),
                plain(number(rate(|endpoint| endpoint.requests))),
                (bad_above_zero(failures), number(failures)),
                (Tone::Dim, self.safe(error)),
            ],
            troubled: tone != Tone::Good,
        }
    }

    fn routes(&self) -> Table {
        let routes = &self.live().routes;
        let row = |route: &crate::admin::Route| {
            let is_it = |other: &crate::admin::Route| other.name == route.name;
            let rate = |of: fn(&crate::admin::Route) -> f64| {
                self.window.row_rate(|live| &live.routes, is_it, of)
            };
            let took = self.window.spread(|live| {
                let found = live.routes.rows.iter().find(|other| is_it(other));
                found.map(|route| route.figures.duration.clone())
            });
            let errors = rate(|route| route.figures.errors);
            Row {
                cells: vec![
                    plain(self.safe(&route.name)),
                    plain(number(rate(|route| route.figures.requests))),
                    (bad_above_zero(errors), number(errors)),
                    plain(duration(took.quantile(0.5))),
                    plain(duration(took.quantile(0.99))),
                    plain(count(route.figures.websockets)),
                ],
                troubled: errors.is_some_and(|errors| errors > 0.0),
            }
        };
        Table {
            columns: vec![
                name("ROUTE"),
                figure("REQ/S", 6),
                figure("ERR/S", 6),
                figure("P50", 7),
                figure("P99", 7),
                figure("WEBSOCKETS", 10),
            ],
            rows: routes.rows.iter().map(row).collect(),
            left_out: routes.left_out,
        }
    }

    fn models(&self) -> Table {
        let models = &self.live().models;
        let row = |model: &crate::admin::Model| {
            let is_it = |other: &crate::admin::Model| {
                other.name == model.name && other.provider == model.provider
            };
            let rate = |of: fn(&crate::admin::Model) -> f64| {
                self.window.row_rate(|live| &live.models, is_it, of)
            };
            let first = self.window.spread(|live| {
                let found = live.models.rows.iter().find(|other| is_it(other));
                found.map(|model| model.figures.first_token.clone())
            });
            let failed = rate(|model| model.figures.failed);
            Row {
                cells: vec![
                    plain(self.safe(&model.name)),
                    plain(self.safe(&model.provider)),
                    plain(number(rate(|model| model.figures.calls))),
                    (bad_above_zero(failed), number(failed)),
                    plain(number(rate(|model| model.figures.tokens_in))),
                    plain(number(rate(|model| model.figures.tokens_out))),
                    plain(duration(first.quantile(0.5))),
                ],
                troubled: failed.is_some_and(|failed| failed > 0.0),
            }
        };
        Table {
            columns: vec![
                name("MODEL"),
                name("PROVIDER"),
                figure("CALL/S", 6),
                figure("FAIL/S", 6),
                figure("IN/S", 6),
                figure("OUT/S", 6),
                figure("1ST WORD", 8),
            ],
            rows: models.rows.iter().map(row).collect(),
            left_out: models.left_out,
        }
    }

    fn targets(&self) -> Table {
        let targets = &self.live().targets;
        let row = |target: &crate::admin::Target| {
            let tone = match target.breaker.as_str() {
                "closed" => Tone::Good,
                "open" => Tone::Bad,
                _ => Tone::Warn,
            };
            let rest = target
                .open_s
                .map_or_else(String::new, |rest| format!("{rest:.0} s"));
            Row {
                cells: vec![
                    plain(self.safe(&target.name)),
                    (tone, self.safe(&target.breaker)),
                    plain(rest),
                    plain(target.in_flight.to_string()),
                    plain(duration(target.first_token_s)),
                ],
                troubled: tone != Tone::Good,
            }
        };
        Table {
            columns: vec![
                name("TARGET"),
                word("BREAKER", 10),
                figure("FOR", 6),
                figure("IN FLIGHT", 9),
                figure("1ST WORD", 8),
            ],
            rows: targets.rows.iter().map(row).collect(),
            left_out: targets.left_out,
        }
    }

    fn keys(&self) -> Table {
        let providers = &self.live().providers;
        let row = |provider: &crate::admin::Provider| {
            let (tone, state) = match provider {
                provider if !provider.enabled => (Tone::Dim, "off"),
                provider if provider.resting == 0 => (Tone::Good, "used"),
                provider if provider.resting < provider.keys => (Tone::Warn, "some rest"),
                _ => (Tone::Bad, "all rest"),
            };
            Row {
                cells: vec![
                    plain(self.safe(&provider.name)),
                    (tone, state.to_owned()),
                    plain(provider.keys.to_string()),
                    plain(provider.resting.to_string()),
                ],
                troubled: matches!(tone, Tone::Warn | Tone::Bad),
            }
        };
        Table {
            columns: vec![
                name("PROVIDER"),
                word("KEYS", 10),
                figure("ALL", 6),
                figure("AT REST", 9),
            ],
            rows: providers.rows.iter().map(row).collect(),
            left_out: providers.left_out,
        }
    }

    fn rules(&self) -> Table {
        let rules = &self.live().rules;
        let row = |rule: &crate::admin::Rule| {
            let is_it = |other: &crate::admin::Rule| other.name == rule.name;
            let rate = |of: fn(&crate::admin::Rule) -> f64| {
                self.window.row_rate(|live| &live.rules, is_it, of)
            };
            let refused = rate(|rule| rule.figures.refused);
            Row {
                cells: vec![
                    plain(self.safe(&rule.name)),
                    plain(number(rate(|rule| rule.figures.allowed))),
                    (warn_above_zero(refused), number(refused)),
                ],
                troubled: refused.is_some_and(|refused| refused > 0.0),
            }
        };
        Table {
            columns: vec![
                name("LIMIT"),
                figure("ALLOWED/S", 9),
                figure("REFUSED/S", 9),
            ],
            rows: rules.rows.iter().map(row).collect(),
            left_out: rules.left_out,
        }
    }
}

fn plain(text: impl Into<String>) -> (Tone, String) {
    (Tone::Plain, text.into())
}

fn bad_above_zero(rate: Option<f64>) -> Tone {
    above_zero(rate, Tone::Bad)
}

fn warn_above_zero(rate: Option<f64>) -> Tone {
    above_zero(rate, Tone::Warn)
}

fn above_zero(rate: Option<f64>, tone: Tone) -> Tone {
    if rate.is_some_and(|rate| rate > 0.0) {
        tone
    } else {
        Tone::Plain
    }
}

/// By all rules together.
fn refused(live: &Live) -> f64 {
    live.rules
        .rows
        .iter()
        .map(|rule| rule.figures.refused)
        .sum()
}

fn tokens_in(live: &Live) -> f64 {
    let models = live.models.rows.iter();
    models.map(|model| model.figures.tokens_in).sum()
}

fn tokens_out(live: &Live) -> f64 {
    let models = live.models.rows.iter();
    models.map(|model| model.figures.tokens_out).sum()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "a window asks for what may be absent"
)]
fn first_tokens(live: &Live) -> Option<Spread> {
    let mut all = Spread::default();
    for model in &live.models.rows {
        all.merge(&model.figures.first_token);
    }
    Some(all)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count that f64 cannot hold takes centuries"
)]
fn float(count: u64) -> f64 {
    count as f64
}

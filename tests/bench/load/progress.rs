//! How far the run is: a bar on a terminal, a line for each phase and event elsewhere.

use crate::percentile::milliseconds;
use crate::report::book::{Book, whole};
use crate::report::plan::Plan;
use std::cell::RefCell;
use std::io::{IsTerminal, Write as _};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const WIDTH: usize = 24;

pub struct Progress<'a> {
    plan: &'a Plan,
    terminal: bool,
    phase: Option<usize>,
    marks: usize,
}

impl<'a> Progress<'a> {
    pub fn of(plan: &'a Plan) -> Self {
        Self {
            plan,
            terminal: std::io::stderr().is_terminal(),
            phase: None,
            marks: 0,
        }
    }

    /// Shows until it is dropped.
    pub async fn follow(&mut self, begin: Instant, book: &Rc<RefCell<Book>>) {
        loop {
            let second = Instant::now()
                .saturating_duration_since(begin)
                .as_secs_f64();
            self.show(second, &book.borrow());
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Leaves the line of the bar.
    pub fn end(&self) {
        if self.terminal {
            eprintln!("\r\x1b[K{:.0} s are over", self.plan.seconds());
        }
    }

    fn show(&mut self, second: f64, book: &Book) {
        let phase = self.plan.phase_at(second);
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            let (name, seconds) = (
                self.plan.phases[phase].name,
                self.plan.phases[phase].seconds,
            );
            self.say(second, &format!("{name}, for {seconds:.0} s"));
        }
        for mark in &book.marks[self.marks..] {
            let fault = mark.fault.as_deref().map(|fault| format!(": {fault}"));
            let text = mark.event.name().to_owned() + &fault.unwrap_or_default();
            self.say(mark.second, &text);
        }
        self.marks = book.marks.len();
        if self.terminal {
            self.bar(second, book);
        }
    }

    fn say(&self, second: f64, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{second:5.0} s  {text}");
    }

    fn bar(&self, second: f64, book: &Book) {
        let (total, failed) = (
            self.plan.seconds(),
            book.seconds.iter().map(|one| one.failed),
        );
        let before = whole(second).saturating_sub(1);
        let last = book.seconds.get(before).map(|one| one.answers.clone());
        let mut last = last.unwrap_or_default();
        let p99 = milliseconds(&mut last, 990).unwrap_or_default();
        let width = u32::try_from(WIDTH).map_or(0.0, f64::from);
        let full = whole(width * second / total).min(WIDTH);
        eprint!(
            "\r\x1b[K[{}{}] {second:.0}/{total:.0} s  {} answers/s  p99 {p99:.1} ms  {} failed",
            "#".repeat(full),
            "-".repeat(WIDTH - full),
            last.len(),
            failed.sum::<u32>()
        );
        let _ = std::io::stderr().flush();
    }
}

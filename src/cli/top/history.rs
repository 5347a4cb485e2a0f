//! The looks of the last minute, and what happened between them.

use crate::admin::{Live, Rows};
use crate::observe::metrics::Spread;
use std::collections::VecDeque;

/// Of the curve.
const KEPT: usize = 61;
/// Rates and quantiles are those of this time: of a single second they would flicker.
const WINDOW_S: f64 = 5.0;
/// Looks that are nearer to each other than this are no basis for a rate.
const APART_S: f64 = 0.1;

/// Oldest first, all of one process.
#[derive(Default)]
pub struct History(VecDeque<Live>);

/// The latest look beside one some seconds before.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub now: &'a Live,
    then: Option<&'a Live>,
}

impl History {
    pub fn push(&mut self, live: Live) {
        let is_same = |last: &Live| last.pid == live.pid && last.uptime_s <= live.uptime_s;
        if !self.0.back().is_some_and(is_same) {
            // Another process counts anew.
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(live);
    }

    pub fn window(&self) -> Option<Window<'_>> {
        let now = self.0.back()?;
        let age = |live: &Live| now.uptime_s - live.uptime_s;
        let recent = self.0.iter().find(|live| age(live) <= WINDOW_S + 0.5);
        let then = recent.filter(|live| age(live) >= APART_S);
        Some(Window { now, then })
    }

    /// Requests a second, look by look, oldest first.
    pub fn curve(&self) -> Vec<f64> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs
            .filter(|(then, now)| now.uptime_s - then.uptime_s >= APART_S)
            .map(|(then, now)| {
                let requests = now.traffic.requests - then.traffic.requests;
                requests.max(0.0) / (now.uptime_s - then.uptime_s)
            })
            .collect()
    }
}

impl<'a> Window<'a> {
    /// A second; none as long as there is nothing to compare with.
    pub fn rate(&self, count: impl Fn(&Live) -> f64) -> Option<f64> {
        self.rate_of(count(self.now), self.then.map(count))
    }

    /// Of a row, which may not have been there.
    pub fn row_rate<T: 'a>(
        &self,
        rows: impl Fn(&'a Live) -> &'a Rows<T>,
        is_it: impl Fn(&T) -> bool,
        count: impl Fn(&T) -> f64,
    ) -> Option<f64> {
        let find = |live| rows(live).rows.iter().find(|row| is_it(row)).map(&count);
        self.rate_of(find(self.now)?, self.then.and_then(find))
    }

    /// What was observed between the two, or ever when there is nothing to compare with.
    pub fn spread(&self, spread: impl Fn(&Live) -> Option<Spread>) -> Spread {
        let now = spread(self.now).unwrap_or_default();
        match self.then.and_then(spread) {
            Some(then) => now.since(&then),
            None => now,
        }
    }

    fn rate_of(&self, now: f64, then: Option<f64>) -> Option<f64> {
        let seconds = self.now.uptime_s - self.then?.uptime_s;
        // A series that began anew, as that of an endpoint that was away, counts from zero.
        let then = then.filter(|then| *then <= now).unwrap_or(0.0);
        Some((now - then) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(pid: u32, uptime_s: f64, requests: f64) -> Live {
        let mut live = Live {
            pid,
            uptime_s,
            ..Live::default()
        };
        live.traffic.requests = requests;
        live
    }

    fn rate(history: &History) -> Option<f64> {
        history.window().unwrap().rate(|live| live.traffic.requests)
    }

    #[test]
    fn a_rate_is_that_of_the_last_five_seconds() {
        let mut history = History::default();
        assert!(history.window().is_none());
        history.push(live(1, 10.0, 100.0));
        assert_eq!(rate(&history), None);
        history.push(live(1, 11.0, 110.0));
        assert_eq!(rate(&history), Some(10.0));
        for second in 0..20 {
            history.push(live(1, 12.0 + f64::from(second), 110.0));
        }
        assert_eq!(rate(&history), Some(0.0));
        assert_eq!(history.curve()[..2], [10.0, 0.0]);
        history.push(live(1, 32.0, 210.0));
        assert_eq!(rate(&history), Some(20.0));
    }

    #[test]
    fn another_process_counts_anew() {
        let mut history = History::default();
        history.push(live(1, 10.0, 100.0));
        history.push(live(2, 11.0, 5.0));
        assert_eq!((rate(&history), history.curve().len()), (None, 0));
        history.push(live(2, 12.0, 7.0));
        assert_eq!(rate(&history), Some(2.0));
        history.push(live(2, 1.0, 1.0));
        assert_eq!(rate(&history), None);
    }

    #[test]
    fn a_minute_is_kept() {
        let mut history = History::default();
        for second in 0..500 {
            history.push(live(1, f64::from(second), f64::from(second)));
        }
        assert_eq!(history.curve(), [1.0; KEPT - 1]);
    }
}

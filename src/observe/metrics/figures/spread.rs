//! A histogram as it is sent to whoever shows it, and the two questions asked of it.

use prometheus::proto;
use serde::{Deserialize, Serialize};

/// Observations by their upper bounds. Adding two is for series of one metric, which share their bounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spread {
    /// Rising, in the unit of the metric; without the infinite one.
    pub bounds: Vec<f64>,
    /// How many observations were at most each bound.
    pub counts: Vec<u64>,
    /// All observations, those beyond the last bound included.
    pub total: u64,
    pub sum: f64,
}

impl Spread {
    pub(super) fn add(&mut self, series: &proto::Histogram) {
        // The last bucket may be the infinite one, which is the total.
        let buckets = series.get_bucket().iter();
        let buckets = buckets.filter(|bucket| bucket.upper_bound().is_finite());
        if self.bounds.is_empty() {
            self.bounds = buckets.clone().map(proto::Bucket::upper_bound).collect();
            self.counts = vec![0; self.bounds.len()];
        }
        for (count, bucket) in self.counts.iter_mut().zip(buckets) {
            *count += bucket.cumulative_count();
        }
        self.total += series.get_sample_count();
        self.sum += series.get_sample_sum();
    }

    /// As `add`, of what was summed already.
    pub fn merge(&mut self, other: &Self) {
        if self.bounds.is_empty() {
            self.bounds.clone_from(&other.bounds);
            self.counts = vec![0; self.bounds.len()];
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
    }

    /// What was observed since `earlier`, which is of the same series. A series that began anew counts from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if earlier.bounds != self.bounds || earlier.total > self.total {
            return self.clone();
        }
        let counts = self.counts.iter().zip(&earlier.counts);
        Self {
            bounds: self.bounds.clone(),
            counts: counts
                .map(|(now, then)| now.saturating_sub(*then))
                .collect(),
            total: self.total - earlier.total,
            sum: self.sum - earlier.sum,
        }
    }

    /// The value that the share `of` (0 to 1) of the observations does not exceed, thought to lie evenly between
    /// two bounds, as Prometheus does. Beyond the last bound it is that bound. None without observations.
    pub fn quantile(&self, of: f64) -> Option<f64> {
        let last = self.bounds.last()?;
        if self.total == 0 {
            return None;
        }
        let rank = of * float(self.total);
        let (mut below, mut lower) = (0, 0.0);
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            if float(*count) >= rank && *count > below {
                let inside = (rank - float(below)) / float(count - below);
                return Some(lower + (bound - lower) * inside.max(0.0));
            }
            (below, lower) = (*count, *bound);
        }
        Some(*last)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count that f64 cannot hold takes centuries"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same cases are asked of the page in a browser: both reckon alike.
    const CASES: &str = include_str!("../../../../tests/golden/live/quantiles.json");

    #[derive(Deserialize)]
    struct Case {
        why: String,
        now: Spread,
        then: Spread,
        of: f64,
        is: Option<f64>,
    }

    #[test]
    fn quantiles_are_those_of_the_cases() {
        let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let found = case.now.since(&case.then).quantile(case.of);
            let near = match (found, case.is) {
                (Some(found), Some(is)) => (found - is).abs() < 1e-9,
                (found, is) => found == is,
            };
            assert!(near, "{}: {found:?} is not {:?}", case.why, case.is);
        }
    }

    fn of(values: &[f64]) -> Spread {
        let bounds = vec![0.1, 0.5, 1.0, 5.0];
        let at_most = |bound: &f64| values.iter().filter(|value| **value <= *bound).count() as u64;
        Spread {
            counts: bounds.iter().map(at_most).collect(),
            bounds,
            total: values.len() as u64,
            sum: values.iter().sum(),
        }
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_value_it_stands_for(
            mut values in prop::collection::vec(0.001_f64..5.0, 1..60),
            share in 0.01_f64..=1.0,
        ) {
            let quantile = of(&values).quantile(share).unwrap();
            values.sort_by(f64::total_cmp);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
            let rank = (share * float(values.len() as u64)).ceil() as usize;
            let exact = values[rank.clamp(1, values.len()) - 1];
            let upper = [0.1, 0.5, 1.0, 5.0].into_iter().find(|bound| *bound >= exact).unwrap();
            let lower = [0.0, 0.1, 0.5, 1.0].into_iter().rfind(|bound| *bound < exact).unwrap();
            prop_assert!(quantile >= lower && quantile <= upper, "{quantile} for {exact}");
        }

        #[test]
        fn what_came_since_is_what_was_added(
            before in prop::collection::vec(0.001_f64..9.0, 0..40),
            after in prop::collection::vec(0.001_f64..9.0, 0..40),
        ) {
            let mut all = of(&before);
            all.merge(&of(&after));
            let since = all.since(&of(&before));
            prop_assert_eq!(since.counts, of(&after).counts);
            prop_assert_eq!(since.total, after.len() as u64);
        }
    }
}

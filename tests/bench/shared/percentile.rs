//! Percentiles by the nearest rank: always a time that somebody waited, never one in between.

/// The least of `sorted` that so many of a thousand do not exceed; none of nothing. 1,000 is the greatest.
pub fn of_thousand(sorted: &[u32], share: usize) -> Option<u32> {
    let rank = (sorted.len() * share.min(1_000)).div_ceil(1_000);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The same in milliseconds, of microseconds in any order.
pub fn milliseconds(times: &mut [u32], share: usize) -> Option<f64> {
    times.sort_unstable();
    of_thousand(times, share).map(|time| f64::from(time) / 1_000.0)
}

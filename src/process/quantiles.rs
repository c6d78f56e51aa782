//! Quantiles of numbers in fixed memory, with a relative error that it states itself.
//!
//! A histogram with logarithmic bins, as in DDSketch (Masson, Rim, Lee: *DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees*, VLDB 2019), that halves its resolution wherever its bins are used up, as in UDDSketch (Epicoco, Melle,
//! Cafaro, Pulimeno, Congiusta: *UDDSketch: accurate tracking of quantiles in data streams*, IEEE Access 2020). Bins are cut by a
//! number's own bits (exponent, and the first bits of the mantissa), so no logarithm is taken, and every machine gives the same result.
//!
//! ```text
//! -20.5 … -0.7   zeros   0.2 … 3.0 3.1 … 40.0      keys in the order of the values they stand for
//! └── !(bits >> 46) ──┘  └───── bits >> 46 ─────┘  64 bins an octave; after a halving 32 and so on
//! ```
//!
//! Invariants:
//! - **Q1** `keys` is sorted and has no key twice; a key's order is the order of its values, negative ones included.
//! - **Q2** A quantile differs from the value of that rank by at most [`Quantiles::relative_error`] of it. It depends on the spread of
//!   the values alone: 0.8 % where the largest is at most 256 times the smallest (by magnitude, of one sign), 1.6 % up to 65,536
//!   times, 3.1 % up to four billion times. (Numbers below 1e-307 are taken for zero.)
//! - **Q3** Adding and merging allocate nothing, and their order changes no count.
//!
//! hdrhistogram, which measures latencies here, takes neither negative numbers nor fractions, and grows by allocating.

/// Bins of a sketch. 512: six kibibytes, and eight octaves before the first halving.
pub(crate) const BINS_MAX: usize = 512;

/// The first bits of the mantissa that tell bins apart at the start: 64 bins an octave.
const MANTISSA_BITS: u32 = 6;

/// What is cut off a number's bits.
const CUT_BITS: u32 = 52 - MANTISSA_BITS;

/// The magnitude of infinity, beyond all numbers.
const INFINITE: u64 = f64::INFINITY.to_bits() >> CUT_BITS;

/// Below this (the least number with a full mantissa) a bin's ends are no longer a fixed ratio apart: taken for zero.
const LEAST: f64 = f64::MIN_POSITIVE;

/// Counts of numbers by their magnitude.
#[derive(Clone, Debug)]
pub(crate) struct Quantiles {
    /// Numbers added.
    count: u64,
    zeros: u64,
    /// Halvings so far.
    halvings: u32,
    /// Bins in use.
    len: usize,
    keys: [i32; BINS_MAX],
    counts: [u64; BINS_MAX],
}

/// The finest key of a number that is not near zero.
#[inline]
fn finest_key(value: f64) -> i32 {
    let magnitude = (value.abs().to_bits() >> CUT_BITS) as i32;
    if value < 0.0 { !magnitude } else { magnitude }
}

impl Quantiles {
    pub(crate) const fn new() -> Self {
        Self { count: 0, zeros: 0, halvings: 0, len: 0, keys: [0; BINS_MAX], counts: [0; BINS_MAX] }
    }

    /// Forgets all numbers.
    pub(crate) fn clear(&mut self) {
        (self.count, self.zeros, self.halvings, self.len) = (0, 0, 0, 0);
    }

    /// Counts a number.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        debug_assert!(value.is_finite(), "JSON has no other numbers");
        self.count += 1;
        if value.abs() < LEAST {
            self.zeros += 1;
        } else {
            // Arithmetic: the order of negative keys is kept, and `!(m >> h) == !m >> h`.
            self.add_key(finest_key(value), 0, 1);
        }
    }

    /// Counts what the other has counted.
    pub(crate) fn merge(&mut self, other: &Quantiles) {
        self.count += other.count;
        self.zeros += other.zeros;
        while self.halvings < other.halvings {
            self.halve();
        }
        for (key, count) in other.keys[..other.len].iter().zip(&other.counts) {
            self.add_key(*key, other.halvings, *count);
        }
    }

    /// Adds to the bin of a key that has seen `halvings`, at most as many as this sketch.
    fn add_key(&mut self, key: i32, halvings: u32, count: u64) {
        loop {
            let key = key >> (self.halvings - halvings);
            match self.keys[..self.len].binary_search(&key) {
                Ok(bin) => {
                    self.counts[bin] += count;
                    return;
                }
                Err(bin) if self.len < BINS_MAX => {
                    self.keys.copy_within(bin..self.len, bin + 1);
                    self.counts.copy_within(bin..self.len, bin + 1);
                    (self.keys[bin], self.counts[bin]) = (key, count);
                    self.len += 1;
                    return;
                }
                // Ends: after ten halvings all numbers there are fit.
                Err(_) => self.halve(),
            }
        }
    }

    /// Makes one bin of two neighbours each.
    fn halve(&mut self) {
        self.halvings += 1;
        let mut last = 0;
        for bin in 0..self.len {
            let key = self.keys[bin] >> 1;
            if bin > 0 && self.keys[last] == key {
                self.counts[last] += self.counts[bin];
            } else {
                last += usize::from(bin > 0);
                (self.keys[last], self.counts[last]) = (key, self.counts[bin]);
            }
        }
        self.len = if self.len == 0 { 0 } else { last + 1 };
        debug_assert!(self.keys[..self.len].is_sorted_by(|a, b| a < b), "Q1");
    }

    /// By how much a quantile may differ from the true one, as a share of it (Q2).
    pub(crate) fn relative_error(&self) -> f64 {
        let ratio = match self.halvings.checked_sub(MANTISSA_BITS) {
            None => 1.0 + (0.5f64).powi((MANTISSA_BITS - self.halvings) as i32),
            // Bins of one octave and more.
            Some(beyond) => (2f64).powi(1 << beyond),
        };
        (ratio - 1.0) / (ratio + 1.0)
    }

    /// The number that a share `q` (0 to 1) of all is not above: of rank `ceil(q * count)`. `None` without numbers.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        let negative = self.keys[..self.len].partition_point(|key| *key < 0);
        let bins = |range: std::ops::Range<usize>| range.map(|bin| (Some(self.keys[bin]), self.counts[bin]));
        let in_order = bins(0..negative).chain([(None, self.zeros)]).chain(bins(negative..self.len));
        for (key, count) in in_order {
            below += count;
            if below >= rank {
                return Some(key.map_or(0.0, |key| self.middle(key)));
            }
        }
        None
    }

    /// The number that is as far from both ends of a bin, relative to them.
    fn middle(&self, key: i32) -> f64 {
        let magnitude = if key < 0 { !key } else { key } as u64;
        let end = |magnitude: u64| f64::from_bits((magnitude << self.halvings).min(INFINITE) << CUT_BITS);
        let (low, high) = (end(magnitude).max(LEAST), end(magnitude + 1).min(f64::MAX));
        // 2 * low * high / (low + high), so that nothing overflows.
        let middle = low / (0.5 + 0.5 * (low / high));
        if key < 0 { -middle } else { middle }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[f64]) -> Quantiles {
        let mut sketch = Quantiles::new();
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    /// Nearest rank, by sorting.
    fn exact(values: &[f64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
    }

    fn check(sketch: &Quantiles, values: &[f64]) {
        for q in [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0] {
            let (found, exact) = (sketch.quantile(q).unwrap(), exact(values, q));
            let allowed = exact.abs() * sketch.relative_error() * (1.0 + 1e-12);
            assert!((found - exact).abs() <= allowed, "q {q}: {found} for {exact}, {} halvings", sketch.halvings);
        }
    }

    #[test]
    fn the_error_is_what_the_spread_of_the_values_gives() {
        let spread = |factor: f64| {
            let values: Vec<f64> = (0..40_000).map(|n| 3.0 * factor.powf(f64::from(n) / 39_999.0)).collect();
            let sketch = sketch(&values);
            check(&sketch, &values);
            sketch.relative_error()
        };
        assert!(spread(200.0) < 0.008);
        assert!(spread(60_000.0) < 0.016);
        assert!(spread(4e9) < 0.031);
    }

    #[test]
    fn the_widest_spread_there_is_still_has_its_order() {
        let magnitudes = (-300..=308).map(|n| 10f64.powi(n));
        let values: Vec<f64> =
            magnitudes.flat_map(|m| [m, -m, m * 1.5]).chain([f64::MAX, -f64::MAX, 0.0, -0.0, 1e-320]).collect();
        let sketch = sketch(&values);
        check(&sketch, &values.iter().map(|v| if v.abs() < LEAST { 0.0 } else { *v }).collect::<Vec<_>>());
        assert_eq!(sketch.quantile(0.5).map(f64::is_finite), Some(true));
    }

    #[test]
    fn nothing_has_no_quantile() {
        let mut sketch = sketch(&[1.0]);
        assert!(sketch.quantile(0.5).is_some());
        sketch.clear();
        assert_eq!(sketch.quantile(0.5), None);
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            4 => 1.0f64..100.0,
            2 => -50.0f64..50.0,
            1 => Just(0.0),
            1 => prop::num::f64::NORMAL,
        ];
        prop::collection::vec(value, 1..1500)
    }

    proptest! {
        #[test]
        fn every_quantile_keeps_the_stated_error(values in values()) {
            check(&sketch(&values), &values);
        }

        #[test]
        fn merged_sketches_are_the_sketch_of_all(parts in prop::collection::vec(values(), 1..4)) {
            let all = parts.concat();
            let mut merged = Quantiles::new();
            parts.iter().for_each(|part| merged.merge(&sketch(part)));
            check(&merged, &all);
            let whole = sketch(&all);
            prop_assert_eq!(merged.count, whole.count);
            prop_assert_eq!(merged.halvings, whole.halvings, "the spread decides, not the order");
        }
    }
}

//! Where a value stands on an axis, and which values are said there.

use super::Scale;

/// An axis that fits its values: places on it go from 0 to 1.
#[derive(Debug)]
pub(super) struct Ruler {
    kind: Kind,
    low: f64,
    high: f64,
    /// Where they are and what they say, in order.
    pub(super) ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    Log,
    Nines,
    Categories,
}

impl Ruler {
    /// Fits an axis to `values`. With `own_ticks`, few values get a tick each.
    pub(super) fn new(scale: &Scale, values: &[f64], own_ticks: bool) -> Self {
        let mut sorted: Vec<f64> =
            values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        match scale {
            Scale::Linear => Self::linear(&sorted),
            Scale::Log | Scale::Bytes => {
                let name = if matches!(scale, Scale::Bytes) { bytes } else { number };
                sorted.retain(|value| *value > 0.0);
                Self::log(&sorted, own_ticks, name)
            }
            Scale::Nines => Self::nines(&sorted),
            Scale::Categories(names) => {
                let ticks =
                    names.iter().enumerate().map(|(index, name)| (index as f64, name.clone()));
                let (low, high) = (-0.5, names.len().max(1) as f64 - 0.5);
                Self { kind: Kind::Categories, low, high, ticks: Vec::new() }.with(ticks)
            }
        }
    }

    fn linear(sorted: &[f64]) -> Self {
        let low = sorted.first().copied().unwrap_or(0.0).min(0.0);
        let high = sorted.last().copied().unwrap_or(1.0).max(0.0);
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / TICKS);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let count = (last - first).round();
        let ticks = std::iter::successors(Some(0.0), |index| Some(index + 1.0))
            .take_while(move |index| *index <= count)
            .map(move |index| ((first + index) * step, number((first + index) * step)));
        Self { kind: Kind::Linear, low: first * step, high: last * step, ticks: Vec::new() }
            .with(ticks)
    }

    fn log(sorted: &[f64], own_ticks: bool, name: fn(f64) -> String) -> Self {
        let (first, last) = match sorted {
            [] => (1.0, 10.0),
            [first, .., last] => (*first, *last),
            [only] => (*only / 2.0, *only * 2.0),
        };
        if own_ticks && (1..=OWN_TICKS_MAX).contains(&sorted.len()) {
            // Marks at the ends are not cut.
            let margin = (last / first).powf(0.03);
            let (low, high) = (first.log10() - margin.log10(), last.log10() + margin.log10());
            let ticks = sorted.iter().map(|value| (*value, name(*value)));
            return Self { kind: Kind::Log, low, high, ticks: Vec::new() }.with(ticks);
        }
        let decades = (first.log10().floor(), last.log10().ceil());
        let powers = std::iter::successors(Some(decades.0), |power| Some(power + 1.0))
            .take_while(|power| *power <= decades.1);
        let steps: Vec<f64> = powers
            .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powf(power)))
            .collect();
        let low = steps.iter().copied().rfind(|step| *step <= first * 1.001).unwrap_or(first);
        let high = steps.iter().copied().find(|step| *step >= last * 0.999).unwrap_or(last);
        let is_wide = high / low > 300.0;
        let ticks = steps.iter().enumerate().filter(|(index, _)| !is_wide || index % 3 == 0);
        let ticks = ticks.map(|(_, step)| (*step, name(*step)));
        Self { kind: Kind::Log, low: low.log10(), high: high.log10(), ticks: Vec::new() }
            .with(ticks)
    }

    /// Percentiles, each nine as far from the last one; behind them the greatest value, at 100.
    fn nines(sorted: &[f64]) -> Self {
        let below =
            |values: &[f64]| values.iter().copied().filter(|value| *value < 100.0).collect();
        let below: Vec<f64> = below(sorted);
        let low = below.first().copied().map_or(0.0, nines);
        let last = below.last().copied().map_or(1.0, nines).max(low + 0.5);
        let high = last + last.max(2.0) / 5.0;
        let named = NINES.iter().copied().filter(|value| nines(*value) <= last + 0.01);
        let ticks = named.map(|value| (value, number(value))).chain([(100.0, "max".to_owned())]);
        Self { kind: Kind::Nines, low, high, ticks: Vec::new() }.with(ticks)
    }

    fn with(mut self, ticks: impl Iterator<Item = (f64, String)>) -> Self {
        let placed = ticks.filter_map(|(value, name)| Some((self.at(value)?, name)));
        self.ticks = placed.filter(|(at, _)| (-0.001..=1.001).contains(at)).collect();
        self
    }

    /// Returns where `value` stands, if it has a place.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        let along = match self.kind {
            Kind::Linear | Kind::Categories => value,
            Kind::Log if value > 0.0 => value.log10(),
            Kind::Log => return None,
            Kind::Nines if value >= 100.0 => self.high,
            Kind::Nines => nines(value),
        };
        along.is_finite().then(|| (along - self.low) / (self.high - self.low))
    }

    /// Returns where the end of a whisker stands: that of a value that has no place is at an end of
    /// the axis.
    pub(super) fn end_at(&self, value: f64) -> Option<f64> {
        (!value.is_nan()).then(|| self.at(value).unwrap_or(0.0).clamp(0.0, 1.0))
    }
}

/// Returns how many nines a percentile has.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// Returns the least of 1, 2, 2.5 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= step * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// Writes a number as people read it: `1,000`, `2.5`, `0.05`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 6,
    };
    // 99.9 and 99.99 are not 100.
    let digits = if (99.0..100.0).contains(&size) { 4 } else { digits };
    let text = format!("{size:.digits$}");
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let mut written = String::new();
    if value < 0.0 && text.bytes().any(|digit| (b'1'..=b'9').contains(&digit)) {
        written.push('-');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    let part = part.trim_end_matches('0');
    if !part.is_empty() {
        written.push('.');
        written.push_str(part);
    }
    written
}

/// Writes a number of bytes with its unit: `64 B`, `4 KiB`, `1 MiB`.
fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let unit = units.iter().enumerate().rev().find(|(power, _)| value >= size(*power));
    let (power, name) = unit.unwrap_or((0, &"B"));
    format!("{} {name}", number(value / size(power)))
}

fn size(power: usize) -> f64 {
    [1.0, 1024.0, 1048576.0, 1073741824.0][power]
}

/// About how many ticks a linear axis has.
const TICKS: f64 = 6.0;
const OWN_TICKS_MAX: usize = 12;
const NINES: [f64; 7] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ruler: &Ruler) -> Vec<&str> {
        ruler.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn numbers_are_written_with_separators_and_without_needless_digits() {
        let written = [0.0, 1.0, 2.5, 99.9, 1000.0, 1234567.8, -2000.0, 0.05, -0.000_000_1];
        let expected = ["0", "1", "2.5", "99.9", "1,000", "1,234,568", "-2,000", "0.05", "0"];
        assert_eq!(written.map(number), expected);
        assert_eq!(
            [64.0, 1024.0, 65536.0, 1048576.0].map(bytes),
            ["64 B", "1 KiB", "64 KiB", "1 MiB"]
        );
    }

    /// A reader looks for the connections that were measured, not for powers of ten.
    #[test]
    fn each_of_a_few_measured_values_has_its_tick() {
        let ruler = Ruler::new(&Scale::Log, &[1.0, 8.0, 32.0, 100.0, 400.0, 1000.0], true);
        assert_eq!(names(&ruler), ["1", "8", "32", "100", "400", "1,000"]);
        let sizes = Ruler::new(&Scale::Bytes, &[64.0, 1024.0, 1048576.0], true);
        assert_eq!(names(&sizes), ["64 B", "1 KiB", "1 MiB"]);
    }

    #[test]
    fn round_ticks_enclose_the_values() {
        let log = Ruler::new(&Scale::Log, &[37.0, 890.0], false);
        assert_eq!(names(&log), ["20", "50", "100", "200", "500", "1,000"]);
        let wide = Ruler::new(&Scale::Log, &[3.0, 90000.0], false);
        assert_eq!(names(&wide), ["10", "100", "1,000", "10,000", "100,000"]);
        let linear = Ruler::new(&Scale::Linear, &[3.0, 176_229.0], false);
        assert_eq!(names(&linear), ["0", "50,000", "100,000", "150,000", "200,000"]);
        for ruler in [log, linear] {
            assert!(ruler.ticks.is_sorted_by(|(a, _), (b, _)| a < b));
            assert!(ruler.ticks.first().unwrap().0.abs() < 0.001);
            assert!((ruler.ticks.last().unwrap().0 - 1.0).abs() < 0.001);
        }
    }

    /// A logarithm of nothing is no place; drawn anywhere, it would be a value.
    #[test]
    fn what_has_no_place_is_not_placed() {
        let ruler = Ruler::new(&Scale::Log, &[0.0, -1.0, f64::NAN, 10.0, 1000.0], false);
        assert_eq!(ruler.at(0.0), None);
        assert_eq!(ruler.at(f64::NAN), None);
        assert_eq!(ruler.at(f64::INFINITY), None);
        assert_eq!(ruler.end_at(0.0), Some(0.0));
        assert!((ruler.at(10.0).unwrap()).abs() < 0.001);
        for scale in [Scale::Log, Scale::Linear, Scale::Nines, Scale::Categories(Vec::new())] {
            for values in [&[][..], &[f64::NAN], &[7.0], &[0.0]] {
                let ruler = Ruler::new(&scale, values, false);
                assert!(ruler.high > ruler.low, "{scale:?} {values:?}");
            }
        }
    }

    #[test]
    fn nines_are_evenly_spaced_and_the_greatest_stands_behind_them() {
        let ruler = Ruler::new(&Scale::Nines, &[50.0, 90.0, 99.0, 99.9, 100.0], true);
        assert_eq!(names(&ruler), ["50", "90", "99", "99.9", "max"]);
        let at = |value| ruler.at(value).unwrap();
        assert!((at(99.0) - at(90.0) - (at(99.9) - at(99.0))).abs() < 1e-9);
        assert!(at(100.0) == 1.0 && at(99.9) < 1.0);
    }
}

//! Arithmetic on measurements.

/// The middle one; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => 0.0,
        many => f64::midpoint(sorted[(many - 1) / 2], sorted[many / 2]),
    }
}

/// The value that this part of them does not exceed; 0 of none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let sorted = sorted(values);
    let many = sorted.len();
    if many == 0 {
        return 0.0;
    }
    sorted[((many as f64 * part).ceil() as usize).clamp(1, many) - 1]
}

/// The least and the greatest; zeros of none.
pub fn spread(values: &[f64]) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() { [0.0, 0.0] } else { [least, most] }
}

/// A quotient, 0 where there is nothing to divide by.
pub fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

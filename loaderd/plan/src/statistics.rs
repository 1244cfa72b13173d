//! The statistics that the tests of `draws` and `order` judge by.
//!
//! Enters: counts. Leaves: z, how many standard deviations a count lies from what
//! chance would give. Tests accept |z| < 4 (too even is as suspicious as too
//! uneven); their seeds are fixed, so they never flake. Compiled for tests only.

/// z of Pearson's χ² against equal expectations in all cells, after multiplying the
/// statistic by `scale`; χ² is turned into a normal variate by Wilson and Hilferty's
/// cube root (1931).
pub(crate) fn chi_square_z(counts: &[u64], degrees_of_freedom: f64, scale: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    assert!(
        expected >= 5.0,
        "too few counts for χ²: {expected} per cell"
    );
    let statistic: f64 = counts
        .iter()
        .map(|&count| (count as f64 - expected).powi(2) / expected)
        .sum();
    wilson_hilferty(statistic * scale, degrees_of_freedom)
}

/// z of a count of rare, nearly independent events.
pub(crate) fn poisson_z(count: u64, expected: f64) -> f64 {
    (count as f64 - expected) / expected.sqrt()
}

fn wilson_hilferty(statistic: f64, degrees_of_freedom: f64) -> f64 {
    let ninth = 2.0 / (9.0 * degrees_of_freedom);
    ((statistic / degrees_of_freedom).cbrt() - (1.0 - ninth)) / ninth.sqrt()
}

#[test]
fn z_agrees_with_tables_of_chi_square() {
    // Upper 5 % and 0.1 % points of χ² lie at z = 1.645 and 3.090.
    for (statistic, degrees_of_freedom, z) in [
        (18.307, 10.0, 1.645),
        (29.588, 10.0, 3.090),
        (124.342, 100.0, 1.645),
        (149.449, 100.0, 3.090),
    ] {
        let found = wilson_hilferty(statistic, degrees_of_freedom);
        assert!(
            (found - z).abs() < 0.02,
            "χ² {statistic} of {degrees_of_freedom}: {found}"
        );
    }
}

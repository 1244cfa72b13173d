//! Filtered rows → rows (section 9).
//!
//! Enters: a row as it was compressed, its filter's number, the row above. Leaves: the row's
//! samples, in place. Never: a look beyond the columns that are wanted.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::corrupt;
use crate::error::DecodeError;

/// Undoes one row's filter, in place.
pub(super) fn unfilter<const PIXEL: usize>(
    filter: u8,
    row: &mut [u8],
    above: &[u8],
) -> Result<(), DecodeError> {
    match filter {
        0 => {}
        1 if PIXEL == 1 => add_left(row),
        1 => {
            let mut left = [0u8; PIXEL];
            for pixel in row.chunks_exact_mut(PIXEL) {
                for (value, left) in pixel.iter_mut().zip(&mut left) {
                    *value = value.wrapping_add(*left);
                    *left = *value;
                }
            }
        }
        2 => add_above(row, above),
        3 => {
            let mut left = [0u8; PIXEL];
            for (pixel, up) in row.chunks_exact_mut(PIXEL).zip(above.chunks_exact(PIXEL)) {
                for i in 0..PIXEL {
                    let mean = (u16::from(left[i]) + u16::from(up[i])) / 2;
                    pixel[i] = pixel[i].wrapping_add(mean as u8);
                    left[i] = pixel[i];
                }
            }
        }
        4 if PIXEL == 1 => unfilter_bytes(row, above),
        4 => {
            let (mut left, mut corner) = ([0u8; PIXEL], [0u8; PIXEL]);
            for (pixel, up) in row.chunks_exact_mut(PIXEL).zip(above.chunks_exact(PIXEL)) {
                for i in 0..PIXEL {
                    pixel[i] = pixel[i].wrapping_add(paeth(left[i], up[i], corner[i]));
                    left[i] = pixel[i];
                    corner[i] = up[i];
                }
            }
        }
        _ => return Err(corrupt(format!("a row with filter {filter}"))),
    }
    Ok(())
}

/// Undoes filter 1 where a pixel is a byte.
fn add_left(row: &mut [u8]) {
    let (groups, rest) = row.as_chunks_mut();
    let mut left = sum_up(groups);
    for value in rest {
        left = value.wrapping_add(left);
        *value = left;
    }
}

/// Makes each value the sum of those up to it; returns the last one.
fn sum_up(groups: &mut [[u8; 16]]) -> u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has SSE2.
    return unsafe { x86::sum_up(groups) };
    #[cfg(not(target_arch = "x86_64"))]
    sum_up_in_runs(groups)
}

/// The same byte by byte, but for runs of zeros, which are most of a mask.
#[cfg(any(not(target_arch = "x86_64"), test))]
fn sum_up_in_runs(groups: &mut [[u8; 16]]) -> u8 {
    let mut left = 0u8;
    for values in groups {
        if *values == [0; 16] {
            *values = [left; 16];
            continue;
        }
        for value in values {
            left = value.wrapping_add(left);
            *value = left;
        }
    }
    left
}

/// Undoes filter 2, in groups that fill vector registers.
fn add_above(row: &mut [u8], above: &[u8]) {
    let (groups, rest) = row.as_chunks_mut::<32>();
    let (ups, ups_rest) = above.as_chunks::<32>();
    for (values, ups) in groups.iter_mut().zip(ups) {
        for i in 0..32 {
            values[i] = values[i].wrapping_add(ups[i]);
        }
    }
    for (value, up) in rest.iter_mut().zip(ups_rest) {
        *value = value.wrapping_add(*up);
    }
}

/// Undoes filter 4 where a pixel is a byte. In masks most differences are zero, and runs of
/// those are done eight bytes at once.
fn unfilter_bytes(row: &mut [u8], above: &[u8]) {
    let (mut left, mut corner) = (0u8, 0u8);
    let mut x = 0;
    while x < row.len() {
        if left == corner {
            // What is above is the guess then, and without a difference to it they stay equal.
            x += copy_run(&mut row[x..], &above[x..]);
            if x == row.len() {
                break;
            }
            corner = x.checked_sub(1).map_or(0, |at| above[at]);
            left = corner;
        }
        left = row[x].wrapping_add(paeth(left, above[x], corner));
        corner = above[x];
        row[x] = left;
        x += 1;
    }
}

/// Copies what is above to the first difference that is not zero, or to the last whole word.
fn copy_run(row: &mut [u8], above: &[u8]) -> usize {
    let (words, _) = row.as_chunks_mut::<8>();
    let (ups, _) = above.as_chunks::<8>();
    for (index, (word, up)) in words.iter_mut().zip(ups).enumerate() {
        let differences = u64::from_le_bytes(*word);
        if differences == 0 {
            *word = *up;
            continue;
        }
        let run = differences.trailing_zeros() / 8;
        let in_run = (1 << (8 * run)) - 1;
        *word = (differences | u64::from_le_bytes(*up) & in_run).to_le_bytes();
        return index * 8 + run as usize;
    }
    words.len() * 8
}

/// Whichever of left, up and corner lies nearest to left + up - corner (section 9.4).
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(up), i16::from(corner));
    let (to_left, to_up) = ((b - c).abs(), (a - c).abs());
    let to_corner = (a + b - 2 * c).abs();
    if to_left <= to_up && to_left <= to_corner {
        left
    } else if to_up <= to_corner {
        up
    } else {
        corner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Filters as section 9.2 defines them, sample by sample.
    #[test]
    fn filters_are_undone() {
        fn check<const PIXEL: usize>() {
            let mut state = 1u32;
            let mut noise = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let above: Vec<u8> = (0..41 * PIXEL).map(|_| noise()).collect();
            let plain: Vec<u8> = (0..41 * PIXEL).map(|_| noise()).collect();
            for filter in 0..5 {
                let mut row: Vec<u8> = (0..plain.len())
                    .map(|x| {
                        let behind = |row: &[u8]| x.checked_sub(PIXEL).map_or(0, |at| row[at]);
                        let (a, b, c) = (behind(&plain), above[x], behind(&above));
                        let guess = match filter {
                            0 => 0,
                            1 => a,
                            2 => b,
                            3 => ((u16::from(a) + u16::from(b)) / 2) as u8,
                            _ => {
                                let p = i32::from(a) + i32::from(b) - i32::from(c);
                                [a, b, c]
                                    .into_iter()
                                    .min_by_key(|&value| (p - i32::from(value)).abs())
                                    .unwrap()
                            }
                        };
                        plain[x].wrapping_sub(guess)
                    })
                    .collect();
                unfilter::<PIXEL>(filter, &mut row, &above).unwrap();
                assert_eq!(row, plain, "filter {filter} of {PIXEL} bytes");
            }
            assert!(unfilter::<PIXEL>(5, &mut [0; 8], &[0; 8]).is_err());
        }
        check::<1>();
        check::<2>();
        check::<3>();
        check::<4>();
        check::<6>();
        check::<8>();
    }

    /// Runs as masks have them, against the plain definition: of one value or of several,
    /// of any length, like the row above or moved against it.
    #[test]
    fn runs_are_undone() {
        let mut state = 1u32;
        let mut noise = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for round in 0..3000 {
            let length = 1 + noise(90) as usize;
            let mut runs = |most: u32| -> Vec<u8> {
                let mut row = Vec::new();
                while row.len() < length {
                    let value = [0, 1, 2, 130, 255][noise(5) as usize];
                    row.extend(vec![value; 1 + noise(most) as usize]);
                }
                row.truncate(length);
                row
            };
            let above = runs(40);
            let mut plain = runs(30);
            if round % 2 == 0 {
                let moved = round % 7;
                plain = above.clone();
                plain.rotate_right(moved.min(length));
            }
            for filter in [1, 2, 4] {
                let mut row: Vec<u8> = (0..length)
                    .map(|x| {
                        let behind = |row: &[u8]| x.checked_sub(1).map_or(0, |at| row[at]);
                        let guess = match filter {
                            1 => behind(&plain),
                            2 => above[x],
                            _ => paeth(behind(&plain), above[x], behind(&above)),
                        };
                        plain[x].wrapping_sub(guess)
                    })
                    .collect();
                unfilter::<1>(filter, &mut row, &above).unwrap();
                assert_eq!(row, plain, "filter {filter} above {above:?}");
            }
        }
    }

    /// The two ways to sum up agree.
    #[test]
    fn sums_agree() {
        for count in 0..5 {
            let mut groups: Vec<[u8; 16]> = (0..count)
                .map(|group| {
                    let noise = |i: usize| (group * 16 + i).wrapping_mul(2_654_435_761) >> 7;
                    std::array::from_fn(|i| if group % 3 == 1 { 0 } else { noise(i) as u8 })
                })
                .collect();
            let mut others = groups.clone();
            assert_eq!(sum_up(&mut groups), sum_up_in_runs(&mut others));
            assert_eq!(groups, others);
        }
    }
}

//! One line of a mask, picked out of the source's pixels.
//!
//! Enters: places of the line's pixels, the same for all lines; then one line's source. Leaves:
//! the line. Never: a value that is not in the source.

#[cfg(target_arch = "x86_64")]
mod x86;

/// Pixels of a line that are picked at once, and bytes that they are picked from.
#[cfg(target_arch = "x86_64")]
const GROUP: usize = 16;

/// With more vectors of source to a group, picking byte by byte is as fast.
#[cfg(target_arch = "x86_64")]
const PIECES_MAX: usize = 8;

/// In place of a byte's number: this byte is not in the vector.
#[cfg(target_arch = "x86_64")]
const NONE: u8 = 0x80;

/// Which pixels of its source a line shows.
pub(super) struct Columns {
    /// Places in the source, one a pixel.
    places: Vec<usize>,
    #[cfg(target_arch = "x86_64")]
    groups: Option<Groups>,
}

/// The same, in vectors. The last group begins where it ends with the line, so it may take in
/// pixels of the one before it.
#[cfg(target_arch = "x86_64")]
struct Groups {
    /// As many to each group.
    pieces: Vec<Piece>,
    pieces_a_group: usize,
    /// Bytes that the source must have.
    end: usize,
}

/// What a group takes from one vector of the source.
#[cfg(target_arch = "x86_64")]
struct Piece {
    /// Where the vector begins.
    start: usize,
    /// For each pixel of the group the byte in the vector, or `NONE`.
    bytes: [u8; GROUP],
}

impl Columns {
    pub(super) fn new(places: Vec<usize>) -> Columns {
        Columns {
            #[cfg(target_arch = "x86_64")]
            groups: Groups::of(&places),
            places,
        }
    }

    /// Fills a line of as many pixels from its source. That may be longer than the places ask
    /// for; where it has 15 bytes more, this is faster.
    pub(super) fn pick(&self, source: &[u8], line: &mut [u8]) {
        assert_eq!(line.len(), self.places.len(), "one pixel a place");
        #[cfg(target_arch = "x86_64")]
        if let Some(groups) = &self.groups
            && groups.end <= source.len()
        {
            // SAFETY: groups are made on CPUs that have SSSE3.
            unsafe { x86::pick(groups, source, line) };
            return;
        }
        for (value, &place) in line.iter_mut().zip(&self.places) {
            *value = source[place];
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Groups {
    /// None where picking byte by byte is no slower.
    fn of(places: &[usize]) -> Option<Groups> {
        if places.len() < GROUP || !is_x86_feature_detected!("ssse3") {
            return None;
        }
        let last = places.len() - GROUP;
        let groups = (0..places.len()).step_by(GROUP);
        let groups = groups.map(|start| &places[start.min(last)..][..GROUP]);
        let first = |group: &[usize]| *group.iter().min().expect("a group has pixels");
        let reach = |group: &[usize]| group.iter().max().expect("as above") - first(group) + 1;
        let pieces_a_group = groups.clone().map(reach).max()?.div_ceil(GROUP);
        if pieces_a_group > PIECES_MAX {
            return None;
        }
        let mut pieces = Vec::with_capacity(groups.len() * pieces_a_group);
        for group in groups {
            for piece in 0..pieces_a_group {
                let start = first(group) + piece * GROUP;
                let byte = |index: usize| match group[index].checked_sub(start) {
                    Some(byte) if byte < GROUP => byte as u8,
                    _ => NONE,
                };
                let bytes: [u8; GROUP] = std::array::from_fn(byte);
                // One that the group has no need of must not reach further than the others.
                let is_needed = bytes != [NONE; GROUP];
                pieces.push(Piece {
                    start: if is_needed { start } else { first(group) },
                    bytes,
                });
            }
        }
        let end = pieces.iter().map(|piece| piece.start + GROUP).max()?;
        Some(Groups {
            pieces,
            pieces_a_group,
            end,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Forward, mirrored, enlarged and shrunk, with and without room behind the source.
        #[test]
        fn a_line_holds_the_places_pixels(
            len in 1..300usize, scale in 0.0..20.0f64, start in 0..50usize, room in 0..20usize,
            mirrored in any::<bool>(),
        ) {
            let mut places: Vec<usize> =
                (0..len).map(|x| start + (x as f64 * scale) as usize).collect();
            if mirrored {
                places.reverse();
            }
            let bytes = places.iter().max().unwrap() + 1 + room;
            let source: Vec<u8> = (0..bytes).map(|i| (i * 151 / 7) as u8).collect();
            let mut line = vec![0; len];
            let expected: Vec<u8> = places.iter().map(|&place| source[place]).collect();
            Columns::new(places).pick(&source, &mut line);
            prop_assert_eq!(line, expected);
        }
    }

    /// Vectors are used where they can be.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_are_used() {
        if !is_x86_feature_detected!("ssse3") {
            return;
        }
        let groups = |len: usize, scale: usize| {
            let places: Vec<usize> = (0..len).map(|x| x * scale).collect();
            Groups::of(&places)
        };
        assert!(groups(15, 1).is_none() && groups(224, 9).is_none());
        assert_eq!(groups(224, 1).map(|groups| groups.end), Some(224));
        for (scale, pieces) in [(1, 1), (2, 2), (5, 5), (8, 8)] {
            assert_eq!(groups(224, scale).unwrap().pieces_a_group, pieces);
        }
    }
}

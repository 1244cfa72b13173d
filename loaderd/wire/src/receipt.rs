//! What a client makes sure of before it looks at a batch.
//!
//! Enters: a `Ready` message and the descriptors that rode along. Leaves: the memory of
//! ragged columns that don't lie in the slot, and the proof that everything the message
//! names is there. It never reads a value, and never says that the batch was taken.

use std::os::fd::OwnedFd;

use crate::error::WireError;
use crate::layout::Layout;
use crate::message::Ready;
use crate::ragged;
use crate::segment::Segment;

/// Takes over the batch that `ready` announces: its slot must be among `slots`, it must have
/// no more rows than `layout`, and each array of its ragged columns must lie where it may,
/// with offsets that count what is there.
///
/// Returns the segment that rode along, where the ragged columns don't lie in the slot. The
/// caller holds it for as long as it reads them. [`WireError::Garbage`] and
/// [`WireError::SegmentForeign`] say what is wrong.
pub fn receive(
    layout: &Layout,
    slots: &Segment,
    ready: &Ready,
    fds: Vec<OwnedFd>,
) -> Result<Option<Segment>, WireError> {
    if ready.slot >= slots.slot_count() || ready.rows > layout.batch_size {
        return Err(garbage(format!(
            "{} rows in slot {}; there are {} slots of {} rows",
            ready.rows,
            ready.slot,
            slots.slot_count(),
            layout.batch_size
        )));
    }
    let mut fds = fds.into_iter();
    let oversize = match (ready.oversize, fds.next(), fds.next()) {
        (None, None, _) => None,
        (Some(bytes), Some(fd), None) => Some(Segment::from_fd(fd, bytes, 1)?),
        (bytes, _, _) => {
            return Err(garbage(format!(
                "a batch with {} bytes outside its slot, and not exactly the segment for them",
                bytes.unwrap_or(0)
            )));
        }
    };
    check_ragged(layout, slots, ready, oversize.as_ref()).map_err(garbage)?;
    Ok(oversize)
}

fn garbage(what: String) -> WireError {
    WireError::Garbage { what }
}

fn check_ragged(
    layout: &Layout,
    slots: &Segment,
    ready: &Ready,
    oversize: Option<&Segment>,
) -> Result<(), String> {
    let columns: Vec<_> = layout
        .tensors
        .iter()
        .filter(|tensor| tensor.ragged.is_some())
        .collect();
    if columns.len() != ready.ragged.len() {
        return Err(format!(
            "{} ragged columns, the layout has {}",
            ready.ragged.len(),
            columns.len()
        ));
    }
    let (start, bytes, area) = match oversize {
        Some(segment) => {
            let bytes = segment.slot_bytes();
            (segment.slot_ptr(0), bytes, 0..bytes)
        }
        None => {
            let area = layout.dense_bytes..layout.slot_bytes;
            (slots.slot_ptr(ready.slot), slots.slot_bytes(), area)
        }
    };
    // SAFETY: the memory is mapped and so long, and the message says that it is ours.
    let memory = unsafe { std::slice::from_raw_parts(start, bytes as usize) };
    for (column, part) in columns.into_iter().zip(&ready.ragged) {
        ragged::check(column, part, ready.rows, memory, area.clone())?;
    }
    Ok(())
}

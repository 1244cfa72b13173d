//! The book-keeping of one session's slots, as plain data.
//!
//! Enters: acquire, publish, deliver, release. Leaves: which slot is whose. It holds no
//! lock, no memory and no thread; [`crate::engine`] keeps it behind one mutex.
//!
//! ```text
//! FREE ──acquire──► FILLING ──publish──► READY ──deliver──► LEASED ──release──► FREE
//!   ▲                  │                   │
//!   └─────abandon──────┴──────release──────┘
//! ```

use std::collections::BTreeMap;

/// A client named a lease that it does not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("lease {lease} is not held by this session")]
pub struct UnknownLease {
    /// The lease that was named.
    pub lease: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Filling,
    Ready,
    Leased,
}

/// Slot states of one session. `T` is what the owner wants to know of a lease again.
#[derive(Debug)]
pub struct SlotTable<T> {
    states: Vec<State>,
    /// Free slots, last freed on top: its memory is the most likely to be in cache.
    free: Vec<u32>,
    leases: BTreeMap<u64, (u32, T)>,
    next_lease: u64,
}

impl<T: Clone> SlotTable<T> {
    /// `count` free slots.
    pub fn new(count: u32) -> SlotTable<T> {
        SlotTable {
            states: vec![State::Free; count as usize],
            free: (0..count).rev().collect(),
            leases: BTreeMap::new(),
            next_lease: 1,
        }
    }

    /// Takes a free slot for filling; `None` when there is none.
    pub fn acquire(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.change(slot, State::Free, State::Filling);
        Some(slot)
    }

    /// Gives up a slot that was being filled.
    pub fn abandon(&mut self, slot: u32) {
        self.change(slot, State::Filling, State::Free);
        self.free.push(slot);
    }

    /// Hands a filled slot to the client; returns the lease's name.
    pub fn publish(&mut self, slot: u32, note: T) -> u64 {
        self.change(slot, State::Filling, State::Ready);
        let lease = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(lease, (slot, note));
        lease
    }

    /// The client's user has the batch. Returns the note of [`SlotTable::publish`], or
    /// `None` where this lease was delivered before.
    pub fn deliver(&mut self, lease: u64) -> Result<Option<T>, UnknownLease> {
        let (slot, note) = self.leases.get(&lease).ok_or(UnknownLease { lease })?;
        let state = &mut self.states[*slot as usize];
        if *state == State::Leased {
            return Ok(None);
        }
        assert_eq!(*state, State::Ready, "a lease's slot is ready or leased");
        *state = State::Leased;
        Ok(Some(note.clone()))
    }

    /// The client is done with the batch, delivered or not.
    pub fn release(&mut self, lease: u64) -> Result<(), UnknownLease> {
        let (slot, _) = self.leases.remove(&lease).ok_or(UnknownLease { lease })?;
        self.states[slot as usize] = State::Free;
        self.free.push(slot);
        Ok(())
    }

    /// Slots by state: free, filling, ready, leased.
    pub fn counts(&self) -> [u32; 4] {
        let mut counts = [0; 4];
        for state in &self.states {
            counts[*state as usize] += 1;
        }
        counts
    }

    fn change(&mut self, slot: u32, from: State, to: State) {
        let state = &mut self.states[slot as usize];
        assert_eq!(*state, from, "slot {slot} is not where it should be");
        *state = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_goes_round() {
        let mut slots = SlotTable::new(2);
        let slot = slots.acquire().unwrap();
        assert_eq!(slots.counts(), [1, 1, 0, 0]);
        let lease = slots.publish(slot, "step 7");
        assert_eq!(slots.counts(), [1, 0, 1, 0]);
        assert_eq!(slots.deliver(lease), Ok(Some("step 7")));
        assert_eq!(slots.deliver(lease), Ok(None));
        assert_eq!(slots.counts(), [1, 0, 0, 1]);
        slots.release(lease).unwrap();
        assert_eq!(slots.counts(), [2, 0, 0, 0]);
        assert_eq!(slots.acquire(), Some(slot), "the hot slot comes first");
    }

    #[test]
    fn leases_of_others_are_refused() {
        let mut slots = SlotTable::new(1);
        let slot = slots.acquire().unwrap();
        assert_eq!(slots.acquire(), None);
        let lease = slots.publish(slot, ());
        assert_eq!(
            slots.release(lease + 1),
            Err(UnknownLease { lease: lease + 1 })
        );
        slots.release(lease).unwrap();
        assert_eq!(slots.release(lease), Err(UnknownLease { lease }));
        assert_eq!(slots.deliver(lease), Err(UnknownLease { lease }));
        assert_eq!(slots.counts(), [1, 0, 0, 0]);
    }

    #[test]
    fn every_slot_is_in_one_state_whatever_happens() {
        // A fixed walk through random legal and illegal calls.
        let mut slots = SlotTable::new(5);
        let (mut filling, mut leases) = (Vec::new(), Vec::new());
        let mut dice = 12345u64;
        for _ in 0..10_000 {
            dice = dice
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            match (dice >> 60) % 5 {
                0 => filling.extend(slots.acquire()),
                1 => {
                    if let Some(slot) = filling.pop() {
                        leases.push(slots.publish(slot, slot));
                    }
                }
                2 => {
                    if let Some(slot) = filling.pop() {
                        slots.abandon(slot);
                    }
                }
                3 => {
                    if let Some(lease) = leases.pop() {
                        slots.release(lease).unwrap();
                    }
                }
                _ => {
                    if let Some(lease) = leases.last() {
                        slots.deliver(*lease).unwrap();
                    }
                }
            }
            let counts = slots.counts();
            assert_eq!(counts.iter().sum::<u32>(), 5);
            assert_eq!(counts[1] as usize, filling.len());
            assert_eq!((counts[2] + counts[3]) as usize, leases.len());
        }
    }
}

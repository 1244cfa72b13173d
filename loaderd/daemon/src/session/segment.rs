//! Memory for the slots of one session.
//!
//! Enters: how many slots of which job, and what daemon and machine have to give. Leaves: the
//! segment, or why there is none. To zero many GiB takes the kernel many seconds: meanwhile
//! client and log are told, and it ends when the client goes, the daemon leaves, or memory
//! runs short. It waits for memory of sessions that are ending, and never takes what the machine
//! does not have, which would be somebody's end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loaderd_wire::message::{FailureKind, ToClient};
use loaderd_wire::segment::Segment;

use super::{End, SLOTS_MAX, Session, leaving};
use crate::job::{Job, failure};
use crate::machine::Memory;
use crate::memory::{Reserved, Room, Turn};
use crate::size;

/// After how long to say what takes time; it is said again each time twice as much has passed.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// How long to wait for the memory of sessions whose clients have gone: the kernel needs seconds
/// for many GiB.
const GIVEN_BACK_WAIT: Duration = Duration::from_secs(60);
/// How often who waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Session<'_> {
    /// Memory for the session's slots, within the limits of daemon and machine; blocks as long
    /// as zeroing it takes.
    pub(super) fn segment(
        &self,
        job: &Job,
        slot_count: u32,
    ) -> Result<(Arc<Segment>, Reserved), End> {
        if slot_count == 0 || slot_count > SLOTS_MAX {
            return Err(failure(
                FailureKind::Request,
                format!("slots is {slot_count}: give 1 to {SLOTS_MAX}"),
            )
            .into());
        }
        let slot_bytes = job.layout.slot_bytes;
        let bytes = slot_bytes.saturating_mul(u64::from(slot_count));
        let mut progress = Progress::new(slot_count, slot_bytes);
        let memory = &self.shared.memory;
        let reserved = loop {
            // Asked first: what ends in between has given back its memory.
            let may_wait = self.memory_comes_back(&progress);
            match memory.reserve(bytes) {
                Ok(reserved) => break reserved,
                Err(_) if may_wait => self.look_again(&mut progress, 0)?,
                Err(lack) => {
                    let text = format!("{} {lack}", progress.slots());
                    return Err(failure(FailureKind::Limit, text).into());
                }
            }
        };
        let turn = memory.turn();
        let segment = Segment::create_watched(slot_bytes, slot_count, |done| {
            self.room(&turn, &mut progress, done)
        })?;
        Ok((Arc::new(segment), reserved))
    }

    /// Returns once there is room for the next piece, where so many bytes are done.
    fn room(&self, turn: &Turn, progress: &mut Progress, done: u64) -> Result<(), End> {
        self.heed(progress, done)?;
        let left = progress.bytes() - done;
        loop {
            let may_wait = self.memory_comes_back(progress);
            // Others take memory as well, so it is looked at anew each time.
            let free = || Memory::read().map_or(u64::MAX, |memory| memory.free());
            match turn.room(left, free) {
                Room::Enough => return Ok(()),
                Room::Only(room) if !may_wait => {
                    return Err(failure(FailureKind::Limit, progress.lack(done, room)).into());
                }
                Room::Later | Room::Only(_) => self.look_again(progress, done)?,
            }
        }
    }

    /// True as long as waiting may bring memory: sessions whose clients have gone are giving theirs
    /// back.
    fn memory_comes_back(&self, progress: &Progress) -> bool {
        progress.since.elapsed() < GIVEN_BACK_WAIT && self.shared.is_any_leaving()
    }

    /// Lets a moment pass.
    fn look_again(&self, progress: &mut Progress, done: u64) -> Result<(), End> {
        std::thread::sleep(LOOK_AGAIN);
        self.heed(progress, done)
    }

    /// Ends it where the daemon leaves or the client has gone, and tells how far it is.
    fn heed(&self, progress: &mut Progress, done: u64) -> Result<(), End> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(leaving());
        }
        if self.channel.is_closed() {
            return Err(End::Gone);
        }
        if let Some(message) = progress.news(done, progress.since.elapsed()) {
            crate::note(format_args!("loaderd: session {}: {message}", self.id));
            self.channel.post(&ToClient::Waiting { message })?;
        }
        Ok(())
    }
}

/// How far the memory of a session is.
struct Progress {
    slot_count: u32,
    slot_bytes: u64,
    since: Instant,
    tell_after: Duration,
}

impl Progress {
    fn new(slot_count: u32, slot_bytes: u64) -> Progress {
        Progress {
            slot_count,
            slot_bytes,
            since: Instant::now(),
            tell_after: TELL_AFTER,
        }
    }

    fn bytes(&self) -> u64 {
        self.slot_bytes * u64::from(self.slot_count)
    }

    fn slots(&self) -> String {
        format!(
            "{} slots of {}",
            self.slot_count,
            size::show(self.slot_bytes)
        )
    }

    /// There is not enough memory: so many bytes are done, and there is room for so many more.
    fn lack(&self, done: u64, room: u64) -> String {
        format!(
            "{} need {} of memory, and {} can be had, within the limits of control groups: use fewer slots=, a \
             smaller batch_size or variable_bytes=, or end what takes the memory",
            self.slots(),
            size::show(self.bytes()),
            size::show(done + room)
        )
    }

    /// What is to be said where so many bytes are done after so long, if it is time to.
    fn news(&mut self, done: u64, waited: Duration) -> Option<String> {
        if waited < self.tell_after {
            return None;
        }
        self.tell_after = waited * 2;
        Some(format!(
            "{} are being allocated: {} of {} after {} s; fewer slots= or a smaller batch_size take less",
            self.slots(),
            size::show(done),
            size::show(self.bytes()),
            waited.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_that_is_not_there_is_named() {
        let progress = Progress::new(4, 2 * GIB);
        for (done, room) in [(0, 5 * GIB), (3 * GIB, 2 * GIB)] {
            let text = progress.lack(done, room);
            let expected = "4 slots of 2.00 GiB need 8.00 GiB of memory, and 5.00 GiB can be had";
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn a_long_wait_is_told_less_and_less_often() {
        let mut progress = Progress::new(4, 2 * GIB);
        assert_eq!(progress.news(0, TELL_AFTER / 2), None);
        let text = progress.news(GIB, TELL_AFTER).unwrap();
        assert!(text.contains("1.00 GiB of 8.00 GiB after 2 s"), "{text}");
        assert_eq!(progress.news(GIB, TELL_AFTER), None);
        let text = progress.news(2 * GIB, 2 * TELL_AFTER).unwrap();
        assert!(text.contains("after 4 s"), "{text}");
    }
}

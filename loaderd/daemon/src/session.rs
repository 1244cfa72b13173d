//! One connection, from `Hello` to its end.
//!
//! Enters: messages of one client. Leaves: messages to it, and calls into
//! [`crate::engine`]. It trusts nothing it reads; the worst a client can do is end its
//! own session, but for a panic, which is a bug and ends the daemon. When the connection ends, so
//! do all of its leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loaderd_wire::WireError;
use loaderd_wire::message::{
    Failure, FailureKind, OpenRequest, PROTOCOL, SessionStatus, ToClient, ToDaemon,
};
use loaderd_wire::segment::Segment;
use loaderd_wire::socket::Channel;

use crate::engine::{Event, Outlet, SessionHandle};
use crate::job::failure;
use crate::jobs::Rank;
use crate::server::{SESSIONS_MAX, Shared};

mod segment;

/// How long a new connection may take to say `Hello`.
const HELLO_WAIT: Duration = Duration::from_secs(5);
/// How long workers may take for what they have begun for a session that has ended; a GPU that
/// does not answer keeps its slots for good.
const FINISH_WAIT: Duration = Duration::from_secs(5);
/// How often a quiet session looks whether the daemon is leaving.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Slots of a session that asks for no number: one that the user works on, one that
/// waits for him, and two in the making, so that decode never waits.
pub(crate) const SLOTS_DEFAULT: u32 = 4;
/// Slots a session may ask for.
pub(crate) const SLOTS_MAX: u32 = 1024;

/// Serves a connection to its end. `full`: there are too many already.
pub(crate) fn serve(id: u64, channel: &Arc<Channel>, shared: &Arc<Shared>, full: bool) {
    let session = Session {
        id,
        channel,
        shared,
    };
    match session.run(full) {
        // The client left, in whatever way: nothing to say, and nobody to say it to.
        Ok(()) | Err(End::Gone) => {}
        Err(End::Failed(failure)) => {
            crate::note(format_args!("loaderd: session {id}: {}", failure.message));
            let _ = channel.send(&ToClient::Failed(failure), &[]);
        }
    }
    channel.shutdown();
}

enum End {
    Gone,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> End {
        let kind = match error {
            WireError::Closed => return End::Gone,
            WireError::SegmentMemory { .. } | WireError::SegmentShape { .. } => FailureKind::Limit,
            _ => FailureKind::Protocol,
        };
        End::Failed(failure(kind, error.to_string()))
    }
}

/// The end of a session whose daemon is asked to stop.
fn leaving() -> End {
    let text = "the daemon is leaving (it was asked to stop): what was delivered is in the step log; start again \
                from the last state_dict()";
    End::Failed(failure(FailureKind::Stopping, text))
}

/// Waits until nobody else holds it, for so long at most.
fn wait_for_others<T>(shared: &Arc<T>, wait: Duration) {
    let since = Instant::now();
    while Arc::strong_count(shared) > 1 && since.elapsed() < wait {
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Session<'a> {
    id: u64,
    channel: &'a Arc<Channel>,
    shared: &'a Arc<Shared>,
}

impl Session<'_> {
    fn run(&self, full: bool) -> Result<(), End> {
        let peer = self.channel.peer()?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid != own && peer.uid != 0 {
            return Err(failure(
                FailureKind::Request,
                format!(
                    "this loaderd serves user {own}, and the connection comes from user {}: start a daemon of your own \
                     (another LOADERD_SOCKET)",
                    peer.uid
                ),
            )
            .into());
        }
        if full {
            return Err(failure(
                FailureKind::Limit,
                format!("{SESSIONS_MAX} connections are open already, which is the limit"),
            )
            .into());
        }
        self.hello()?;
        loop {
            match self.next()? {
                ToDaemon::Open(request) => return self.job(&request, peer.pid),
                other => self.control(other)?,
            }
        }
    }

    fn hello(&self) -> Result<(), End> {
        let hello = self.channel.receive(Some(HELLO_WAIT))?.message;
        let ToDaemon::Hello {
            protocol,
            version,
            binary,
        } = hello
        else {
            return Err(failure(
                FailureKind::Protocol,
                "the first message of a connection is `hello`",
            )
            .into());
        };
        let mine = std::env::current_exe()
            .map_or_else(|_| "loaderd".into(), |path| path.display().to_string());
        if protocol != PROTOCOL {
            return Err(failure(
                FailureKind::Protocol,
                format!(
                    "the client {binary} (version {version}) speaks protocol {protocol}, the daemon {mine} (version {}) \
                     speaks protocol {PROTOCOL}: install the same version of both, then run `loaderd stop`",
                    env!("CARGO_PKG_VERSION")
                ),
            )
            .into());
        }
        self.send(&ToClient::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            binary: mine,
            pid: std::process::id(),
        })
    }

    /// Messages that need no job.
    fn control(&self, message: ToDaemon) -> Result<(), End> {
        match message {
            ToDaemon::Status => self.send(&ToClient::Status(Box::new(self.shared.status()))),
            ToDaemon::Stop => {
                self.shared.stopping.store(true, Ordering::Relaxed);
                Ok(())
            }
            ToDaemon::Hello { .. } => {
                Err(failure(FailureKind::Request, "`hello` comes once, at the start").into())
            }
            ToDaemon::Open(_) => {
                Err(failure(FailureKind::Request, "this connection has a job already").into())
            }
            _ => Err(failure(FailureKind::Request, "`open` comes first").into()),
        }
    }

    /// The life of a job's rank.
    fn job(&self, request: &OpenRequest, client_pid: u32) -> Result<(), End> {
        let shared = self.shared;
        let may_come_free = || {
            let is_wanted = !shared.stopping.load(Ordering::Relaxed) && !self.channel.is_closed();
            is_wanted && shared.is_any_leaving()
        };
        let gpu = shared.engine.gpu();
        let rank = (shared.jobs).join(request, &shared.log, gpu, &may_come_free)?;
        let slot_count = request.slots.unwrap_or(SLOTS_DEFAULT);
        let (segment, reserved) = self.segment(&rank.job, slot_count)?;
        let end = self.rank(rank, &segment, client_pid);
        // Freed here, because many GiB take the kernel seconds, in which workers have other sessions'
        // batches to decode, and after the rank was given back, which may be wanted again at once.
        // They count as long as they are there.
        wait_for_others(&segment, FINISH_WAIT);
        drop(segment);
        drop(reserved);
        end
    }

    /// The same, from the moment on when there is memory.
    fn rank(&self, rank: Rank, segment: &Arc<Segment>, client_pid: u32) -> Result<(), End> {
        let (handle, reading) = self.shared.engine.session(
            rank.job.clone(),
            rank.rank,
            segment.clone(),
            self.shared.log.clone(),
            self.shared.config.read_mode,
            outlet(self.channel.clone()),
        )?;
        let handle = Arc::new(handle);
        let mut notices = rank.job.source.notices();
        notices.extend(rank.job.tiled_notices());
        notices.extend(rank.job.decoder.notices.clone());
        let mut warnings = rank.job.source.warnings();
        warnings.extend(rank.job.warnings());
        warnings.extend(rank.job.decoder.warnings.clone());
        if let Some(reading) = reading {
            if reading.degraded {
                warnings.push(reading.how.clone());
            }
            notices.push(reading.how);
        }
        let slot_count = segment.slot_count();
        let mut opened = rank.job.describe(slot_count, notices, warnings);
        opened.daemon_log = self
            .shared
            .config
            .log_file
            .as_ref()
            .map(|path| path.display().to_string());
        self.channel
            .send(&ToClient::Opened(Box::new(opened)), &[segment.fd()])?;
        let delivered = Arc::new(AtomicU64::new(0));
        self.describe(&rank, client_pid, &handle, &delivered);
        let end = self.serve_job(&rank, &handle, &delivered);
        self.shared.undescribe(self.id);
        // Whoever still sends to this client must not wait for it.
        if let Err(End::Failed(failure)) = &end {
            let _ = self.channel.send(&ToClient::Failed(failure.clone()), &[]);
        }
        self.channel.shutdown();
        end
    }

    fn serve_job(
        &self,
        rank: &Rank,
        handle: &SessionHandle,
        delivered: &AtomicU64,
    ) -> Result<(), End> {
        let unknown = |error: crate::slots::UnknownLease| {
            End::Failed(failure(FailureKind::Request, error.to_string()))
        };
        loop {
            match self.next()? {
                ToDaemon::Start {
                    stream,
                    epoch,
                    step,
                } => {
                    if !handle.start(stream, epoch, step)? {
                        self.send(&ToClient::EndOfEpoch { stream, epoch })?;
                    }
                }
                ToDaemon::Delivered { lease } => {
                    if let Some(handed) = handle.delivered(lease).map_err(unknown)? {
                        delivered.fetch_add(1, Ordering::Relaxed);
                        if handed.is_logged {
                            let job = rank.job.key.job;
                            self.shared.log.delivered(job, rank.rank, handed.step);
                        }
                    }
                }
                ToDaemon::Release { lease } => handle.release(lease).map_err(unknown)?,
                other => self.control(other)?,
            }
        }
    }

    fn describe(
        &self,
        rank: &Rank,
        client_pid: u32,
        handle: &Arc<SessionHandle>,
        delivered: &Arc<AtomicU64>,
    ) {
        let (job, number) = (rank.job.clone(), rank.rank);
        let (handle, delivered) = (Arc::downgrade(handle), delivered.clone());
        self.shared.describe(
            self.id,
            Box::new(move || SessionStatus {
                run: job.run.clone(),
                rank: (number, job.request.world_size),
                client_pid,
                uri: job.source.uri().into(),
                version: job.source.version(),
                decoder: job.decoder.name.clone(),
                delivered: delivered.load(Ordering::Relaxed),
                oversize: handle.upgrade().map_or(0, |handle| handle.oversize()),
                read_bytes: handle.upgrade().map_or(0, |handle| handle.read_bytes()),
                slots: handle.upgrade().map_or([0; 4], |handle| handle.slots()),
            }),
        );
    }

    /// The next message; ends the session when the daemon leaves.
    fn next(&self) -> Result<ToDaemon, End> {
        loop {
            // Looked at before each message, because a busy client lets no wait run out. What has
            // arrived is heard all the same: the step log is to know what was delivered.
            let is_stopping = self.shared.stopping.load(Ordering::Relaxed);
            let patience = if is_stopping { Duration::ZERO } else { LOOK_UP };
            match self.channel.receive(Some(patience)) {
                Ok(received) => return Ok(received.message),
                Err(WireError::Timeout { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if is_stopping {
                return Err(leaving());
            }
        }
    }

    fn send(&self, message: &ToClient) -> Result<(), End> {
        Ok(self.channel.send(message, &[])?)
    }
}

/// Tells a client what becomes of its streams; false once that can't be.
fn outlet(channel: Arc<Channel>) -> Outlet {
    Box::new(move |event| {
        let mut oversize = None;
        let message = match event {
            Event::Ready(ready, segment) => {
                oversize = segment;
                ToClient::Ready(ready)
            }
            Event::EndOfEpoch { stream, epoch } => ToClient::EndOfEpoch { stream, epoch },
            Event::Failed(failure) => {
                crate::note(format_args!("loaderd: {}", failure.message));
                ToClient::Failed(failure)
            }
        };
        let fds: Vec<_> = oversize.iter().map(Segment::fd).collect();
        let is_sent = channel.send(&message, &fds).is_ok();
        if !is_sent {
            // Or a client that is still there would wait for what can't come.
            channel.shutdown();
        }
        is_sent
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use loaderd_wire::message::Ready;
    use loaderd_wire::ragged::{RaggedPart, Span};
    use loaderd_wire::socket::FRAME_BYTES_MAX;

    use super::*;

    fn ready(columns: usize) -> Ready {
        let part = RaggedPart {
            offsets: Vec::new(),
            values: Span { at: 0, count: 0 },
            shapes: None,
        };
        Ready {
            stream: 1,
            lease: 1,
            slot: 0,
            rows: 1,
            epoch: 0,
            epoch_step: 0,
            step: 0,
            position: 1,
            bad_rows: 0,
            published_ns: 0,
            ragged: vec![part; columns],
            oversize: None,
        }
    }

    /// A client never waits for a batch that could not be sent.
    #[test]
    fn a_message_that_can_t_be_sent_ends_the_connection() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let [ours, theirs] = [ours, theirs].map(|end| Channel::from_fd(end.into()));
        let tell = outlet(Arc::new(ours));
        assert!(tell(Event::Ready(ready(1), None)));
        let received = theirs.receive::<ToClient>(Some(HELLO_WAIT)).unwrap();
        assert!(matches!(received.message, ToClient::Ready(_)));
        // More than a frame may have.
        assert!(!tell(Event::Ready(ready(FRAME_BYTES_MAX / 16), None)));
        let gone = theirs.receive::<ToClient>(Some(HELLO_WAIT));
        assert!(matches!(gone, Err(WireError::Closed)), "{gone:?}");
        assert!(!tell(Event::EndOfEpoch {
            stream: 1,
            epoch: 0
        }));
    }

    #[test]
    fn the_session_lets_go_last_unless_somebody_never_does() {
        let memory = Arc::new(());
        let worker = memory.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                drop(worker);
            });
            wait_for_others(&memory, Duration::from_secs(20));
            assert_eq!(Arc::strong_count(&memory), 1);
        });
        let _hung = memory.clone();
        let since = Instant::now();
        wait_for_others(&memory, Duration::from_millis(50));
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}

//! The daemon as a whole: socket, sessions, idle exit, graceful stop.
//!
//! Enters: connections on the Unix socket, SIGTERM, SIGINT and SIGHUP. Leaves: sessions, each on
//! a thread of its own (`crate::session`). A connection's end is the end of its leases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use loaderd_decode::Limits;
use loaderd_read::Mode;
use loaderd_wire::message::{DaemonStatus, FailureKind, SessionStatus, ToClient};
use loaderd_wire::socket::{Channel, Listener};

use crate::engine::{Engine, Timings};
use crate::feed::{self, Feed};
use crate::gpu::{self, Gpu};
use crate::job::failure;
use crate::jobs::Jobs;
use crate::memory::SlotMemory;
use crate::session;
use crate::steplog::{self, StepLog};

/// Connections at a time, with or without a job.
pub const SESSIONS_MAX: usize = 256;
/// How long a session may take to end by itself when the daemon leaves.
const STOP_WAIT: Duration = Duration::from_secs(3);
const ACCEPT_WAIT: Duration = Duration::from_millis(200);

/// How a daemon runs. Validated by the command line, then immutable.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub socket: PathBuf,
    /// Folder of the step log.
    pub state_dir: PathBuf,
    /// Leave after this long without a connection; None: stay.
    pub idle_exit: Option<Duration>,
    /// Decode workers.
    pub decode_threads: usize,
    /// How files are read.
    pub read_mode: Mode,
    /// Memory for slots over all sessions, in bytes.
    pub slot_memory_max: u64,
    /// Bounds on what one image may make the decoder do.
    pub image_limits: Limits,
    /// Where output goes, for error messages.
    pub log_file: Option<PathBuf>,
    /// Whether images are decoded on a GPU, and on which.
    pub gpu: gpu::Options,
    /// Where the engine's stages are timed, for a bench.
    pub timings: Option<Arc<Timings>>,
}

/// What sessions share.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// Decode workers.
    pub engine: Engine,
    /// Open jobs.
    pub jobs: Jobs,
    /// The step log.
    pub log: Arc<StepLog>,
    /// Memory for batches.
    pub memory: Arc<SlotMemory>,
    /// The daemon is leaving.
    pub stopping: AtomicBool,
    started: Instant,
    sessions: Mutex<BTreeMap<u64, Entry>>,
}

/// A connection, as the server sees it.
struct Entry {
    channel: Arc<Channel>,
    status: Option<Box<dyn Fn() -> SessionStatus + Send>>,
}

impl Shared {
    /// Makes a session visible in the status.
    pub fn describe(&self, id: u64, status: Box<dyn Fn() -> SessionStatus + Send>) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.status = Some(status);
        }
    }

    /// Takes a session out of the status again.
    pub fn undescribe(&self, id: u64) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.status = None;
        }
    }

    /// What `loaderd status` shows.
    pub fn status(&self) -> DaemonStatus {
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            decode_threads: self.engine.threads() as u32,
            slot_bytes: (self.memory.used(), self.memory.max()),
            gpu: self.engine.gpu().status(),
            sessions: self
                .entries()
                .values()
                .filter_map(|entry| entry.status.as_ref().map(|status| status()))
                .collect(),
        }
    }

    /// Whether a session is about to end because its connection has: what it holds comes free.
    pub fn is_any_leaving(&self) -> bool {
        self.entries()
            .values()
            .any(|entry| entry.channel.is_closed())
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.sessions.lock().expect("no panic while held")
    }
}

/// A bound daemon, not yet serving.
pub struct Server {
    shared: Arc<Shared>,
    listener: Listener,
    /// Held for as long as the daemon lives: the right to the socket.
    _owner: File,
}

impl Server {
    /// Takes the socket, opens the step log, starts the workers.
    pub fn bind(config: Config) -> Result<Server> {
        let owner = own(&config.socket)?;
        let listener = Listener::bind(&config.socket)?;
        let feed = Feed::bind(&feed::path_beside(&config.socket))?;
        std::fs::create_dir_all(&config.state_dir).with_context(|| {
            format!(
                "state folder {}: give another one with LOADERD_STATE",
                config.state_dir.display()
            )
        })?;
        let log = StepLog::open(&steplog::file_in(&config.state_dir), Some(feed))?;
        let memory = SlotMemory::new(config.slot_memory_max);
        let engine = Engine::start(
            config.decode_threads,
            config.image_limits,
            memory.clone(),
            config.timings.clone(),
            Gpu::new(config.gpu.clone()),
        )
        .context("starting decode workers")?;
        Ok(Server {
            shared: Arc::new(Shared {
                config,
                engine,
                jobs: Jobs::default(),
                log: Arc::new(log),
                memory,
                stopping: AtomicBool::new(false),
                started: Instant::now(),
                sessions: Mutex::default(),
            }),
            listener,
            _owner: owner,
        })
    }

    /// Serves until `stop` is set, a client asks for it, or nobody has been connected for
    /// the idle time; then ends all sessions.
    pub fn run(self, stop: &AtomicBool) -> Result<()> {
        let mut threads: Vec<std::thread::JoinHandle<()>> = Vec::new();
        let mut idle_since = Instant::now();
        let mut next_id = 0;
        let shared = &self.shared;
        let mut door = Door::new();
        loop {
            if stop.load(Ordering::Relaxed) {
                shared.stopping.store(true, Ordering::Relaxed);
            }
            if shared.stopping.load(Ordering::Relaxed) {
                break;
            }
            threads.retain(|thread| !thread.is_finished());
            if let Some(channel) = door.accept(&self.listener) {
                let id = next_id;
                next_id += 1;
                let channel = Arc::new(channel);
                let full = shared.entries().len() >= SESSIONS_MAX;
                shared.entries().insert(
                    id,
                    Entry {
                        channel: channel.clone(),
                        status: None,
                    },
                );
                let theirs = shared.clone();
                let spawned = std::thread::Builder::new()
                    .name(format!("session-{id}"))
                    .spawn(move || {
                        // Whatever happens in a session, its entry goes with it.
                        let _entry = Leave(theirs.clone(), id);
                        session::serve(id, &channel, &theirs, full);
                    });
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        crate::note(format_args!("loaderd: no thread for a connection: {error}"));
                        shared.entries().remove(&id);
                    }
                }
            }
            if !shared.entries().is_empty() {
                idle_since = Instant::now();
            }
            if let Some(limit) = shared.config.idle_exit
                && idle_since.elapsed() >= limit
            {
                crate::note(format_args!(
                    "loaderd: nobody connected for {} s, leaving",
                    limit.as_secs()
                ));
                break;
            }
        }
        shared.stopping.store(true, Ordering::Relaxed);
        self.end_sessions(threads);
        Ok(())
    }

    /// Sessions see `stopping` and tell their clients; those that hang on a client that
    /// does not read are cut off.
    fn end_sessions(&self, threads: Vec<std::thread::JoinHandle<()>>) {
        self.shared.log.hurry();
        let since = Instant::now();
        while since.elapsed() < STOP_WAIT && threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for entry in self.shared.entries().values() {
            entry.channel.shutdown();
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Takes connections, also when there is no descriptor left for one: a spare one is kept
/// to tell whoever comes then. Whatever happens here, sessions go on.
struct Door {
    spare: Option<File>,
    /// The last failure was reported; once is enough until things are well again.
    told: bool,
}

impl Door {
    fn new() -> Door {
        let mut door = Door {
            spare: None,
            told: false,
        };
        door.keep_spare();
        door
    }

    fn keep_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
    }

    /// The next connection; `None` where none comes within [`ACCEPT_WAIT`], or none can be had.
    fn accept(&mut self, listener: &Listener) -> Option<Channel> {
        self.keep_spare();
        match listener.accept(ACCEPT_WAIT) {
            Ok(channel) => {
                self.told &= channel.is_none();
                channel
            }
            Err(error) => {
                let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
                    .current
                    .unwrap_or(u64::MAX);
                let text = format!(
                    "no connection can be taken ({error}): the daemon may have {limit} descriptors open \
                     (`ulimit -n` where it starts): close some connections, or start it with a higher limit"
                );
                if !std::mem::replace(&mut self.told, true) {
                    crate::note(format_args!("loaderd: {text}"));
                }
                let had_spare = self.spare.take().is_some();
                match listener.accept(Duration::ZERO) {
                    Ok(Some(channel)) if had_spare => {
                        // Its buffer is empty: this does not block.
                        let refusal = failure(FailureKind::Limit, text);
                        let _ = channel.send(&ToClient::Failed(refusal), &[]);
                    }
                    // A descriptor came free meanwhile.
                    Ok(channel) => return channel,
                    Err(_) => std::thread::sleep(ACCEPT_WAIT),
                }
                None
            }
        }
    }
}

struct Leave(Arc<Shared>, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.entries().remove(&self.1);
    }
}

/// True while a daemon owns this socket.
pub fn is_owned(socket: &Path) -> bool {
    File::open(socket.with_extension("owner")).is_ok_and(|file| {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    })
}

/// Locks `<socket>.owner`, so that two daemons never fight over one socket.
fn own(socket: &Path) -> Result<File> {
    let path = socket.with_extension("owner");
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).with_context(|| {
            format!(
                "runtime folder {}: give another socket with LOADERD_SOCKET or --socket",
                dir.display()
            )
        })?;
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("owner file {}", path.display()))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "a loaderd serves at {} already (pid {}): use it, end it with `loaderd stop`, or give another --socket",
            socket.display(),
            pid.trim()
        );
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

//! `loaderd status` and `loaderd stop`: questions to the running daemon.
//!
//! Enters: a socket. Leaves: a table or JSON; or a daemon that has ended. It starts none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use loaderd_wire::WireError;
use loaderd_wire::message::{DaemonStatus, FailureKind, ToClient, ToDaemon};
use loaderd_wire::socket::Channel;
use rustix::process::{Pid, Signal};

use super::{Socket, say, size};
use crate::server;

const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a daemon may take to leave.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// Arguments of `loaderd status`.
#[derive(clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    socket: Socket,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `loaderd stop`.
#[derive(clap::Args)]
pub(super) struct StopArguments {
    #[command(flatten)]
    socket: Socket,
}

/// Connects and greets; an error where the daemon is of another protocol.
fn connect(socket: &Socket) -> Result<(Channel, u32)> {
    match greet(socket)? {
        (channel, Ok(pid)) => Ok((channel, pid)),
        (_, Err(stranger)) => bail!(stranger),
    }
}

/// Connects and greets: the daemon's process, or in what words one of another protocol refuses.
fn greet(socket: &Socket) -> Result<(Channel, Result<u32, String>)> {
    let path = socket.path()?;
    let channel = Channel::connect(&path).context(
        "no daemon answers: training processes start one by themselves, `loaderd serve` starts one by hand",
    )?;
    match super::greet(&channel, ANSWER_WAIT)? {
        ToClient::Welcome { pid, .. } => Ok((channel, Ok(pid))),
        ToClient::Failed(failure) if failure.kind == FailureKind::Protocol => {
            Ok((channel, Err(failure.message)))
        }
        ToClient::Failed(failure) => bail!(failure.message),
        other => bail!("the daemon answered {other:?}"),
    }
}

pub(super) fn status(arguments: &StatusArguments) -> Result<()> {
    let (channel, _) = connect(&arguments.socket)?;
    channel.send(&ToDaemon::Status, &[])?;
    let ToClient::Status(status) = channel.receive(Some(ANSWER_WAIT))?.message else {
        bail!("the daemon gave no status");
    };
    if arguments.json {
        say(serde_json::to_string_pretty(&status)?);
    } else {
        show(&status);
    }
    Ok(())
}

fn show(status: &DaemonStatus) {
    say(format_args!(
        "loaderd {} (pid {}), up {}, {} decode threads, {} of {} slot memory in use",
        status.version,
        status.pid,
        indicatif::HumanDuration(Duration::from_secs(status.uptime_s)),
        status.decode_threads,
        size::show(status.slot_bytes.0),
        size::show(status.slot_bytes.1),
    ));
    if let Some(gpu) = &status.gpu {
        say(&gpu.found);
        if gpu.decoded + gpu.refused > 0 {
            say(format_args!(
                "GPU: {} images decoded, {} given back to CPU cores",
                gpu.decoded, gpu.refused
            ));
        }
    }
    if status.sessions.is_empty() {
        say("no sessions");
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "run",
        "rank",
        "client",
        "dataset",
        "version",
        "decoder",
        "delivered",
        "oversize",
        "read",
        "free",
        "filling",
        "ready",
        "leased",
    ]);
    for session in &status.sessions {
        let mut cells = vec![
            session.run.clone(),
            format!("{}/{}", session.rank.0, session.rank.1),
            session.client_pid.to_string(),
            session.uri.clone(),
            session.version.to_string(),
            match session.decoder.starts_with("nvJPEG") {
                true => "GPU".into(),
                false => "CPU".into(),
            },
            session.delivered.to_string(),
            session.oversize.to_string(),
            size::show(session.read_bytes),
        ];
        cells.extend(session.slots.iter().map(u32::to_string));
        table.add_row(cells);
    }
    say(table);
}

pub(super) fn stop(arguments: &StopArguments) -> Result<()> {
    let path = arguments.socket.path()?;
    let (channel, greeted) = greet(&arguments.socket)?;
    let pid = match greeted {
        Ok(pid) => {
            channel.send(&ToDaemon::Stop, &[])?;
            pid
        }
        // One of another version understands no more, but every version ends at this signal.
        Err(_) => {
            let pid = channel.peer()?.pid;
            let process = Pid::from_raw(pid as i32).context("the daemon's process is not known")?;
            rustix::process::kill_process(process, Signal::TERM)
                .with_context(|| format!("can't end the daemon, process {pid}"))?;
            pid
        }
    };
    let since = Instant::now();
    while since.elapsed() < STOP_WAIT {
        match channel.receive::<ToClient>(Some(Duration::from_millis(200))) {
            Ok(_) | Err(WireError::Timeout { .. }) => {}
            Err(WireError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    // The connection ends before the process does.
    while server::is_owned(&path) {
        if since.elapsed() >= STOP_WAIT {
            bail!(
                "loaderd (pid {pid}) was asked to stop and is still there after {} s; `kill -9 {pid}` ends it",
                STOP_WAIT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    say(format_args!("loaderd (pid {pid}) has stopped"));
    Ok(())
}

//! `loaderd status` and `loaderd stop`: questions to the running daemon.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use loaderd_wire::WireError;
use loaderd_wire::message::{DaemonStatus, PROTOCOL, ToClient, ToDaemon};
use loaderd_wire::socket::Channel;

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

/// Connects and greets.
fn connect(socket: &Socket) -> Result<(Channel, u32)> {
    let path = socket.path()?;
    let channel = Channel::connect(&path).context(
        "no daemon answers: training processes start one by themselves, `loaderd serve` starts one by hand",
    )?;
    channel.send(
        &ToDaemon::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            binary: std::env::current_exe()?.display().to_string(),
        },
        &[],
    )?;
    match channel.receive(Some(ANSWER_WAIT))?.message {
        ToClient::Welcome { pid, .. } => Ok((channel, pid)),
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
        ];
        cells.extend(session.slots.iter().map(u32::to_string));
        table.add_row(cells);
    }
    say(table);
}

pub(super) fn stop(arguments: &StopArguments) -> Result<()> {
    let path = arguments.socket.path()?;
    let (channel, pid) = connect(&arguments.socket)?;
    channel.send(&ToDaemon::Stop, &[])?;
    let since = Instant::now();
    while since.elapsed() < STOP_WAIT {
        match channel.receive::<ToClient>(Some(Duration::from_millis(200))) {
            Err(WireError::Closed) => {
                // The connection ends before the process does.
                while since.elapsed() < STOP_WAIT && server::is_owned(&path) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                say(format_args!("loaderd (pid {pid}) has stopped"));
                return Ok(());
            }
            Ok(_) | Err(WireError::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!(
        "loaderd (pid {pid}) was asked to stop and is still there after {} s; `kill -9 {pid}` ends it",
        STOP_WAIT.as_secs()
    )
}

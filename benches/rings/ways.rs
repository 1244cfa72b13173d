//! The contestants: the same extents, the same number of reads in flight.
//!
//! Enters: extents in order. Leaves: each row's bytes, handed to a consumer that is never behind,
//! and let go of at once. Never: measures.
//!
//! Ours is `loaderd-read`'s reader on the bare io-uring crate. tokio-uring gets what suits it: a
//! runtime that lives as long as the bench, one task a read in flight that takes the next extent
//! when it is done, and buffers that are made once.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use loaderd_measure::reader::{OneFile, queue_depth as own_queue_depth};
use loaderd_read::Extent;
use rustix::fs::{Advice, OFlags};
use tokio_uring::Runtime;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};

use crate::memory::Block;
use crate::scratch::{ROW_BYTES, right};

/// What offsets and lengths are rounded out to with O_DIRECT.
const ALIGN: u64 = 4096;
/// Room for a row at any offset, rounded out.
const BLOCK_BYTES: usize = (ROW_BYTES as u64).next_multiple_of(ALIGN) as usize + ALIGN as usize;

/// Who takes the rows: counts them, and looks at their bytes if told to.
#[derive(Default)]
pub(crate) struct Consumer {
    pub(crate) check: bool,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) wrong: u64,
}

impl Consumer {
    fn take_in(&mut self, extent: Extent, bytes: &[u8]) {
        self.rows += 1;
        self.bytes += bytes.len() as u64;
        if self.check && !right(extent.offset, bytes) {
            self.wrong += 1;
        }
    }
}

/// One way to read.
pub(crate) trait Way {
    /// Reads all extents, in any order.
    ///
    /// # Errors
    /// The first read that fails.
    fn read(&mut self, extents: &[Extent], consumer: &Rc<RefCell<Consumer>>) -> Result<()>;

    /// What it stands on, in words.
    fn engine(&self) -> String;
}

/// Reads in flight, of both.
pub(crate) fn queue_depth() -> u32 {
    own_queue_depth(ROW_BYTES)
}

impl Way for OneFile {
    fn read(&mut self, extents: &[Extent], consumer: &Rc<RefCell<Consumer>>) -> Result<()> {
        let consumer = &mut *consumer.borrow_mut();
        let tagged = (0..).zip(extents.iter().copied());
        OneFile::read(self, tagged, &mut |tag, buffer| {
            consumer.take_in(extents[tag as usize], &buffer);
            Ok(())
        })
    }

    fn engine(&self) -> String {
        OneFile::engine(self)
    }
}

/// tokio-uring.
pub(crate) struct Tokio {
    // One a read in flight, taken by its task and given back. Dropped before the runtime.
    memory: Vec<Memory>,
    file: Rc<tokio_uring::fs::File>,
    align: u64,
    engine: String,
    // Keeps the ring, and in it the registered buffers.
    runtime: Runtime,
}

/// What a read goes into.
enum Memory {
    Fixed(FixedBuf),
    Owned(Block),
}

impl Tokio {
    /// A runtime with a ring and buffers of its own: registered ones (`fixed`), else plain ones.
    ///
    /// # Errors
    /// Where the kernel refuses the ring, the buffers, or `direct`.
    pub(crate) fn open(path: &Path, fixed: bool, direct: bool) -> Result<Tokio> {
        let (runtime, flags) = runtime()?;
        let flags_open = if direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let file: File = (OpenOptions::new().read(true))
            .custom_flags(flags_open.bits() as i32)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        // As our reader has it: nothing is read ahead.
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        let blocks = (0..queue_depth()).map(|_| Block::new(BLOCK_BYTES));
        let memory = if fixed {
            let registry = FixedBufRegistry::new(blocks);
            runtime
                .block_on(async { registry.register() })
                .context("registering buffers (see ulimit -l)")?;
            (0..queue_depth())
                .map(|index| registry.check_out(index as usize).map(Memory::Fixed))
                .collect::<Option<Vec<_>>>()
                .context("a registered buffer is missing")?
        } else {
            blocks.map(Memory::Owned).collect()
        };
        let buffers = if fixed { "registered" } else { "owned" };
        let place = if direct { "O_DIRECT" } else { "buffered" };
        Ok(Tokio {
            memory,
            file: Rc::new(tokio_uring::fs::File::from_std(file)),
            align: if direct { ALIGN } else { 1 },
            engine: format!(
                "tokio-uring, {buffers} buffers, {place} ({flags}, files not registered: it can't)"
            ),
            runtime,
        })
    }
}

/// A runtime with the ring flags that help it, where the kernel has them.
///
/// Not among them: DEFER_TASKRUN, which our reader uses. tokio-uring waits for its ring in epoll
/// and then looks at the completion queue without entering the kernel, where such a ring would
/// show it nothing.
fn runtime() -> Result<(Runtime, &'static str)> {
    let entries = queue_depth().next_power_of_two();
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(entries).uring_builder(&ring);
    if let Ok(runtime) = Runtime::new(&builder) {
        return Ok((runtime, "COOP_TASKRUN, SINGLE_ISSUER"));
    }
    let mut builder = tokio_uring::builder();
    let runtime = Runtime::new(builder.entries(entries)).context("setting up the ring")?;
    Ok((runtime, "no ring flags: the kernel is older than 6.0"))
}

impl Way for Tokio {
    fn read(&mut self, extents: &[Extent], consumer: &Rc<RefCell<Consumer>>) -> Result<()> {
        // Owned, since tasks outlive borrows.
        let all: Vec<Extent> = extents.into();
        let next = Rc::new(RefCell::new(all.into_iter()));
        let memory = std::mem::take(&mut self.memory);
        let (file, align) = (&self.file, self.align);
        self.memory = self.runtime.block_on(async move {
            let spawn = |memory| {
                let (file, next, consumer) = (file.clone(), next.clone(), consumer.clone());
                tokio_uring::spawn(lane(file, align, next, memory, consumer))
            };
            let lanes: Vec<_> = memory.into_iter().map(spawn).collect();
            let mut memory = Vec::with_capacity(lanes.len());
            for lane in lanes {
                memory.push(lane.await.context("a task ended early")??);
            }
            anyhow::Ok(memory)
        })?;
        Ok(())
    }

    fn engine(&self) -> String {
        self.engine.clone()
    }
}

/// One read after the other, into the same memory, until nothing is left.
async fn lane(
    file: Rc<tokio_uring::fs::File>,
    align: u64,
    next: Rc<RefCell<std::vec::IntoIter<Extent>>>,
    mut memory: Memory,
    consumer: Rc<RefCell<Consumer>>,
) -> Result<Memory> {
    loop {
        let Some(extent) = next.borrow_mut().next() else {
            return Ok(memory);
        };
        let end = extent.offset + u64::from(extent.length);
        let start = extent.offset / align * align;
        let lead = (extent.offset - start) as usize;
        let span = (end.next_multiple_of(align) - start) as usize;
        let result;
        (result, memory) = memory.read_at(&file, start, span).await;
        let found = result.with_context(|| format!("reading {span} bytes at {start}"))?;
        let row = lead..lead + extent.length as usize;
        ensure!(
            found >= row.end,
            "{found} of {span} bytes at {start}: this bench does not go on where a read ended early"
        );
        consumer.borrow_mut().take_in(extent, &memory[row]);
    }
}

impl Memory {
    async fn read_at(
        self,
        file: &tokio_uring::fs::File,
        start: u64,
        span: usize,
    ) -> (std::io::Result<usize>, Memory) {
        match self {
            Memory::Fixed(buffer) => {
                let (result, slice) = file.read_fixed_at(buffer.slice(..span), start).await;
                (result, Memory::Fixed(slice.into_inner()))
            }
            Memory::Owned(block) => {
                let (result, slice) = file.read_at(block.slice(..span), start).await;
                (result, Memory::Owned(slice.into_inner()))
            }
        }
    }
}

impl std::ops::Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Fixed(buffer) => buffer,
            Memory::Owned(block) => block,
        }
    }
}

//! The thread that works on the flash file, one operation at a time, while the node goes on.

use std::io;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use quorate::flash::{FlashDone, FlashOp};
use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::flash_file::{Figures, FlashFile};

enum Work {
    Perform(FlashOp, Vec<u8>),
    /// A copy of everything, as it is between two operations.
    Copy(oneshot::Sender<io::Result<Vec<u8>>>),
}

/// An operation that has ended, and the buffer back.
pub(super) struct Done {
    pub(super) done: io::Result<FlashDone>,
    pub(super) buffer: Vec<u8>,
    pub(super) figures: Figures,
}

/// Its other end. When this is dropped, the file is closed and its lock given up.
pub(super) struct FlashThread {
    /// None once it is to end.
    work: Option<std_mpsc::Sender<Work>>,
    done: mpsc::Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FlashThread {
    fn drop(&mut self) {
        self.work = None;
        // Nobody waits for the end of what it is at.
        self.done.close();
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl FlashThread {
    /// Starts it.
    pub(super) fn start<D: Disk + 'static>(mut flash: FlashFile<D>) -> io::Result<Self> {
        let (work, to_do) = std_mpsc::channel();
        let (ended, done) = mpsc::channel(1);
        let thread = std::thread::Builder::new().name("flash".into()).spawn(move || {
            while let Ok(work) = to_do.recv() {
                match work {
                    Work::Perform(op, mut buffer) => {
                        let done = flash.perform(op, &mut buffer);
                        let figures = flash.figures();
                        if ended.blocking_send(Done { done, buffer, figures }).is_err() {
                            return;
                        }
                    }
                    Work::Copy(to) => {
                        let _ = to.send(flash.read_all());
                    }
                }
            }
        })?;
        Ok(Self { work: Some(work), done, thread: Some(thread) })
    }

    /// Begins an operation; there is none under way.
    pub(super) fn begin(&self, op: FlashOp, buffer: Vec<u8>) {
        self.send(Work::Perform(op, buffer));
    }

    pub(super) fn copy(&self, to: oneshot::Sender<io::Result<Vec<u8>>>) {
        self.send(Work::Copy(to));
    }

    fn send(&self, work: Work) {
        // A thread that is gone is found out by `done`.
        let _ = self.work.as_ref().map(|to| to.send(work));
    }

    /// The end of the operation that is under way, if it has come.
    pub(super) fn try_done(&mut self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// The end of the operation that is under way. May be dropped.
    pub(super) async fn done(&mut self) -> Done {
        self.done.recv().await.unwrap_or_else(|| Done {
            done: Err(io::Error::other("the thread that works on the flash file is gone")),
            buffer: Vec::new(),
            figures: Figures::default(),
        })
    }
}

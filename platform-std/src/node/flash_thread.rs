//! The thread that works on the flash file, one operation at a time, while the node goes on.

use std::collections::VecDeque;
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
            // The node has no time to lose: between two of its operations there is one copy at most.
            let mut copies: VecDeque<oneshot::Sender<_>> = VecDeque::new();
            loop {
                let work = match copies.is_empty() {
                    true => to_do.recv().map_err(|_| std_mpsc::TryRecvError::Disconnected),
                    false => to_do.try_recv(),
                };
                match work {
                    Ok(Work::Perform(op, mut buffer)) => {
                        let done = flash.perform(op, &mut buffer);
                        let figures = flash.figures();
                        if ended.blocking_send(Done { done, buffer, figures }).is_err() {
                            return;
                        }
                    }
                    Ok(Work::Copy(to)) => copies.push_back(to),
                    Err(std_mpsc::TryRecvError::Empty) => {
                        let to = copies.pop_front().filter(|to| !to.is_closed());
                        // Who asked may be gone meanwhile, too.
                        let _ = to.map(|to| to.send(flash.read_all()));
                    }
                    Err(std_mpsc::TryRecvError::Disconnected) => return,
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use tokio::time::timeout;

    /// A disk whose reads begin when they are let.
    struct Gated {
        reads: mpsc::UnboundedSender<()>,
        lets: std_mpsc::Receiver<()>,
    }

    impl Disk for Gated {
        fn bytes(&self) -> io::Result<u64> {
            Ok(8)
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            let _ = self.reads.send(());
            self.lets.recv().map_err(io::Error::other)
        }

        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_operation_waits_for_one_copy_at_most_and_all_copies_are_made_in_the_end() {
        let long = Duration::from_secs(20);
        let (reads, mut reading) = mpsc::unbounded_channel();
        let (let_one, lets) = std_mpsc::channel();
        let mut thread = FlashThread::start(FlashFile::new(Gated { reads, lets }, 0xff)).unwrap();
        // It ends before the thread, which would wait for it.
        let let_one = let_one;
        let mut copies = Vec::new();
        for _ in 0..3 {
            let (to, copy) = oneshot::channel();
            thread.copy(to);
            copies.push(copy);
        }
        reading.recv().await.unwrap();
        thread.begin(FlashOp::Erase { offset: 0, len: 8 }, Vec::new());
        let_one.send(()).unwrap();
        let done = timeout(long, thread.done()).await.expect("it waits for no more copies");
        assert_eq!(done.done.unwrap(), FlashDone::Ok);
        for copy in copies {
            let _ = let_one.send(());
            assert_eq!(timeout(long, copy).await.unwrap().unwrap().unwrap().len(), 8);
        }
    }
}

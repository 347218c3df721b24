//! An application that the runner and other tasks share.

use core::cell::RefCell;

use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use quorate::EntryId;
use quorate::typed::{NewerSchema, RestoreError, StateMachine};

/// A state machine that the runner changes and any task reads: the runner's application is a `&Shared`.
///
/// Interrupts are off while it is looked at or changed.
pub struct Shared<'a, A: ?Sized> {
    changed: Signal<CriticalSectionRawMutex, ()>,
    app: Mutex<CriticalSectionRawMutex, RefCell<&'a mut A>>,
}

impl<'a, A: ?Sized> Shared<'a, A> {
    /// Shares `app`.
    pub const fn new(app: &'a mut A) -> Self {
        Self { changed: Signal::new(), app: Mutex::new(RefCell::new(app)) }
    }

    /// Looks at the application, or at what changed in it.
    ///
    /// Not from within itself: nothing is done then, and `None` is the answer.
    pub fn with<T>(&self, look: impl FnOnce(&mut A) -> T) -> Option<T> {
        self.app.lock(|app| app.try_borrow_mut().ok().map(|mut app| look(&mut app)))
    }

    /// Returns when something was applied or restored since it last returned. For one task.
    pub async fn changed(&self) {
        self.changed.wait().await;
    }
}

impl<A: StateMachine + ?Sized> StateMachine for &Shared<'_, A> {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        let applied = self.with(|app| app.apply(id, command));
        self.changed.signal(());
        applied.unwrap_or(Err(NewerSchema { found: 0 }))
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        self.with(|app| app.snapshot(offset, out)).unwrap_or(0)
    }

    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let restored = self.with(|app| app.restore(offset, bytes, last));
        if last {
            self.changed.signal(());
        }
        restored.unwrap_or(Err(RestoreError::Malformed))
    }
}

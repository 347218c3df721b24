//! What other tasks ask of the runner, and its answers.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_sync::signal::Signal;
use embassy_sync::waitqueue::MultiWakerRegistration;
use quorate::change::{Change, ChangeError, Step, Transition};
use quorate::membership::MEMBERS_MAX;
use quorate::node::{
    ChangeMembersError, ForwardError, Node, Outcome, ProposalId, ProposeError, ReadError, ReadId,
    Status,
};
use quorate::raft::TransferRefused;
use quorate::{EntryId, Instant, NodeId};

/// Requests that can be under way at a time; more wait for their turn.
pub const REQUESTS_MAX: usize = 4;
/// The longest change of membership, encoded: no node takes a longer one.
const CHANGE_BYTES_MAX: usize = 64;
/// Tasks that can wait for their turn; where there are more, they keep each other awake.
const WAITERS_MAX: usize = 8;

type Raw = CriticalSectionRawMutex;

/// What is asked. A command of `len` bytes lies in the slot's part of the desk's bytes.
#[derive(Clone, Copy)]
enum Request {
    Propose {
        len: usize,
    },
    Forward {
        len: usize,
        ms: u32,
        again: Option<ProposalId>,
    },
    Read {
        lease: bool,
    },
    Transfer {
        to: NodeId,
    },
    /// Encoded, as a command is.
    Change {
        len: usize,
        force: bool,
    },
    Status,
}

#[derive(Clone, Copy)]
enum Answer {
    Propose(Result<EntryId, ProposeError>),
    Forward(Result<(ProposalId, Outcome), ForwardError>),
    Read(Result<(), ReadError>),
    Transfer(Result<(), TransferRefused>),
    Change(Result<EntryId, ChangeMembersError>),
    /// It lies on the desk.
    Status,
}

/// Where a request is. Its slot's number is in the channel while it is `Asked`, and once who asked has `Left` while the node was
/// at it; else it is in one pair of hands.
#[derive(Clone, Copy)]
enum Slot {
    Free,
    Asked(Request),
    /// The runner has it in its hands.
    Taken,
    /// The node is at it.
    Reading(ReadId),
    Forwarding(ProposalId),
    Answered(Answer),
    /// Who asked does not wait any more.
    Left(Option<ReadId>),
}

/// Commands of up to `N` bytes, one of each request.
pub struct Commands<const N: usize>(Mutex<Raw, RefCell<[[u8; N]; REQUESTS_MAX]>>);

/// [`Commands`] of whatever length.
pub trait AnyCommands: Sync {
    /// Looks at the bytes of that slot.
    fn with(&self, at: usize, look: &mut dyn FnMut(&mut [u8]));
}

impl<const N: usize> AnyCommands for Commands<N> {
    fn with(&self, at: usize, look: &mut dyn FnMut(&mut [u8])) {
        self.0.lock(|bytes| {
            // It is never looked at from within itself.
            let Ok(mut bytes) = bytes.try_borrow_mut() else { return };
            if let Some(bytes) = bytes.get_mut(at) {
                look(bytes);
            }
        });
    }
}

/// Between the runner and the tasks that use its [`Handle`]s, in a `static`: `Desk<Commands<N>>`, used as `&'static Desk`, where `N`
/// is the longest command.
pub struct Desk<B: ?Sized = dyn AnyCommands> {
    /// All of them are woken when a slot is free: one whose future is dropped then takes nobody's turn with it.
    waiting: Mutex<Raw, RefCell<MultiWakerRegistration<WAITERS_MAX>>>,
    asked: Channel<Raw, u8, REQUESTS_MAX>,
    slots: Mutex<Raw, [Cell<Slot>; REQUESTS_MAX]>,
    answered: [Signal<Raw, ()>; REQUESTS_MAX],
    status: Mutex<Raw, Cell<Option<Status>>>,
    commands: B,
}

impl<const N: usize> Desk<Commands<N>> {
    /// A desk on which nothing lies.
    pub const fn new() -> Self {
        Self {
            waiting: Mutex::new(RefCell::new(MultiWakerRegistration::new())),
            asked: Channel::new(),
            slots: Mutex::new([const { Cell::new(Slot::Free) }; REQUESTS_MAX]),
            answered: [const { Signal::new() }; REQUESTS_MAX],
            status: Mutex::new(Cell::new(None)),
            commands: Commands(Mutex::new(RefCell::new([[0; N]; REQUESTS_MAX]))),
        }
    }
}

impl<const N: usize> Default for Desk<Commands<N>> {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// What tasks ask by.
    pub const fn handle(&self) -> Handle<'_> {
        Handle { desk: self }
    }

    /// The longest command that a handle takes, in bytes.
    pub fn command_bytes_max(&self) -> usize {
        let mut len = 0;
        self.commands.with(0, &mut |bytes| len = bytes.len());
        len
    }

    /// Changes a slot, and says how it was.
    fn change(&self, at: u8, change: impl FnOnce(Slot) -> Slot) -> Slot {
        self.slots.lock(|slots| {
            let Some(slot) = slots.get(usize::from(at)) else {
                return Slot::Free;
            };
            let before = slot.get();
            slot.set(change(before));
            before
        })
    }

    fn signal(&self, at: u8) {
        if let Some(answered) = self.answered.get(usize::from(at)) {
            answered.signal(());
        }
    }

    fn free(&self, at: u8) {
        if let Some(answered) = self.answered.get(usize::from(at)) {
            answered.reset();
        }
        self.change(at, |_| Slot::Free);
        self.with_waiting(MultiWakerRegistration::wake);
    }

    fn with_waiting(&self, change: impl FnOnce(&mut MultiWakerRegistration<WAITERS_MAX>)) {
        // It is never looked at from within itself.
        self.waiting.lock(|waiting| waiting.try_borrow_mut().map(|mut w| change(&mut w)).ok());
    }

    fn poll_put(&self, request: Request, command: &[u8], waker: &Waker) -> Poll<u8> {
        if let Some(at) = self.put(request, command) {
            return Poll::Ready(at);
        }
        self.with_waiting(|waiting| waiting.register(waker));
        // One may have become free in between.
        self.put(request, command).map_or(Poll::Pending, Poll::Ready)
    }

    fn send(&self, at: u8) {
        // There is room for each slot's number once.
        let _ = self.asked.try_send(at);
    }

    /// Puts a request into a free slot.
    fn put(&self, request: Request, command: &[u8]) -> Option<u8> {
        let taken = |slots: &[Cell<Slot>; REQUESTS_MAX]| {
            let at = slots.iter().position(|slot| matches!(slot.get(), Slot::Free))?;
            slots.get(at)?.set(Slot::Taken);
            Some(at)
        };
        let at = self.slots.lock(taken)?;
        self.commands.with(at, &mut |bytes| {
            crate::link::copy(bytes, command);
        });
        let at = at as u8;
        self.change(at, |_| Slot::Asked(request));
        self.send(at);
        Some(at)
    }

    /// The next slot in which something is asked, for the runner.
    pub(super) async fn asked(&self) -> u8 {
        self.asked.receive().await
    }

    /// Carries out what is asked in a slot; a command goes through `frame`.
    pub(super) fn carry_out(&self, at: u8, node: &mut Node, now: Instant, frame: &mut [u8]) {
        let taken = self.change(at, |slot| match slot {
            Slot::Asked(_) => Slot::Taken,
            other => other,
        });
        let request = match taken {
            Slot::Asked(request) => request,
            Slot::Left(read) => {
                if let Some(id) = read {
                    node.cancel_read(id);
                }
                return self.free(at);
            }
            _ => return,
        };
        let became = match request {
            Request::Propose { len } => {
                Slot::Answered(Answer::Propose(node.propose(self.command(at, len, frame))))
            }
            Request::Forward { len, ms, again } => {
                let command = self.command(at, len, frame);
                let until = now.after(ms);
                let forwarded = match again {
                    Some(id) => node.forward_again(id, command, until).map(|()| id),
                    None => node.forward(command, until),
                };
                match forwarded {
                    Ok(id) => Slot::Forwarding(id),
                    Err(refused) => Slot::Answered(Answer::Forward(Err(refused))),
                }
            }
            Request::Read { lease } => match node.read(now, lease) {
                Ok(id) => Slot::Reading(id),
                Err(refused) => Slot::Answered(Answer::Read(Err(refused))),
            },
            Request::Transfer { to } => {
                Slot::Answered(Answer::Transfer(node.transfer_leader(now, to)))
            }
            Request::Change { len, force } => {
                let change = self.command(at, len, frame);
                Slot::Answered(Answer::Change(change_members(node, change, force)))
            }
            Request::Status => {
                self.status.lock(|status| status.set(Some(node.status())));
                Slot::Answered(Answer::Status)
            }
        };
        let before = self.change(at, |slot| match slot {
            Slot::Left(_) => slot,
            _ => became,
        });
        match (before, became) {
            (Slot::Left(_), Slot::Reading(id)) => {
                node.cancel_read(id);
                self.free(at);
            }
            (Slot::Left(_), _) => self.free(at),
            (_, Slot::Answered(_)) => self.signal(at),
            _ => {}
        }
    }

    /// The command of a slot, in `frame`.
    fn command<'f>(&self, at: u8, len: usize, frame: &'f mut [u8]) -> &'f [u8] {
        self.commands.with(at.into(), &mut |bytes| {
            crate::link::copy(frame, bytes.get(..len).unwrap_or_default());
        });
        frame.get(..len).unwrap_or_default()
    }

    /// Answers whichever slot `what` finds an answer to.
    fn answer(&self, what: impl Fn(Slot) -> Option<Answer>) {
        for at in 0..REQUESTS_MAX as u8 {
            let before = self.change(at, |slot| what(slot).map_or(slot, Slot::Answered));
            if what(before).is_some() {
                self.signal(at);
            }
        }
    }

    pub(super) fn read_ready(&self, id: ReadId) {
        self.answer(|slot| match slot {
            Slot::Reading(read) if read == id => Some(Answer::Read(Ok(()))),
            _ => None,
        });
    }

    pub(super) fn proposed(&self, id: ProposalId, outcome: Outcome) {
        self.answer(|slot| match slot {
            Slot::Forwarding(forwarded) if forwarded == id => {
                Some(Answer::Forward(Ok((id, outcome))))
            }
            _ => None,
        });
    }

    /// The node has stopped: nothing that it was at comes to an end.
    pub(super) fn stopped(&self) {
        self.answer(|slot| match slot {
            Slot::Reading(_) => Some(Answer::Read(Err(ReadError::NotRunning))),
            Slot::Forwarding(_) => Some(Answer::Forward(Err(ForwardError::NotRunning))),
            _ => None,
        });
    }
}

// On its own, so that the steps lie on the stack no longer than that.
#[inline(never)]
fn change_members(
    node: &mut Node,
    change: &[u8],
    force: bool,
) -> Result<EntryId, ChangeMembersError> {
    let change = Change::decode(change).map_err(ChangeMembersError::Change)?;
    let mut steps = heapless::Vec::<Step, MEMBERS_MAX>::new();
    for step in change.steps().flatten() {
        let too_many = |_| ChangeError::TooManyMembers { max: MEMBERS_MAX };
        steps.push(step).map_err(too_many).map_err(ChangeMembersError::Change)?;
    }
    node.change_members(change.transition, &steps, force)
}

/// A request whose answer is waited for.
struct Ticket<'a> {
    desk: &'a Desk,
    at: u8,
}

impl Ticket<'_> {
    async fn answer(self) -> Answer {
        loop {
            if let Some(answered) = self.desk.answered.get(usize::from(self.at)) {
                answered.wait().await;
            }
            if let Slot::Answered(answer) = self.desk.change(self.at, |slot| slot) {
                return answer;
            }
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let before = self.desk.change(self.at, |slot| match slot {
            Slot::Reading(id) => Slot::Left(Some(id)),
            _ => Slot::Left(None),
        });
        match before {
            Slot::Answered(_) => self.desk.free(self.at),
            Slot::Reading(_) | Slot::Forwarding(_) => self.desk.send(self.at),
            // Its number is in the channel yet, or the runner will see.
            _ => {}
        }
    }
}

/// Asks a [`Runner`](super::Runner), from any task.
///
/// Each function can be given up by dropping its future: what the runner has not taken in hand yet does not happen then; what it
/// has happens once, and nobody is told. Answers come once the runner runs.
#[derive(Clone, Copy)]
pub struct Handle<'a> {
    desk: &'a Desk,
}

impl Handle<'_> {
    async fn ask(&self, request: Request, command: &[u8]) -> Answer {
        let at = poll_fn(|context| self.desk.poll_put(request, command, context.waker())).await;
        Ticket { desk: self.desk, at }.answer().await
    }

    /// Has this board, if it leads, append a command to the log; whether it is committed is not waited for. See
    /// [`Node::propose`].
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub async fn propose(&self, command: &[u8]) -> Result<EntryId, ProposeError> {
        let (len, bytes_max) = (command.len(), self.desk.command_bytes_max());
        if len > bytes_max {
            return Err(ProposeError::TooLarge { bytes_max: bytes_max as u32 });
        }
        match self.ask(Request::Propose { len }, command).await {
            Answer::Propose(result) => result,
            _ => Err(ProposeError::NotRunning),
        }
    }

    /// Has the leader propose a command, whichever board that is, and waits for what becomes of it, for `ms` at most. It takes
    /// effect once, however often frames are lost. See [`Node::forward`].
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub async fn forward(
        &self,
        command: &[u8],
        ms: u32,
    ) -> Result<(ProposalId, Outcome), ForwardError> {
        self.forward_as(None, command, ms).await
    }

    /// The same command again, when its outcome was unknown. See [`Node::forward_again`].
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub async fn forward_again(
        &self,
        id: ProposalId,
        command: &[u8],
        ms: u32,
    ) -> Result<(ProposalId, Outcome), ForwardError> {
        self.forward_as(Some(id), command, ms).await
    }

    async fn forward_as(
        &self,
        again: Option<ProposalId>,
        command: &[u8],
        ms: u32,
    ) -> Result<(ProposalId, Outcome), ForwardError> {
        let (len, bytes_max) = (command.len(), self.desk.command_bytes_max());
        if len > bytes_max {
            return Err(ForwardError::TooLarge { bytes_max: bytes_max as u32 });
        }
        match self.ask(Request::Forward { len, ms, again }, command).await {
            Answer::Forward(result) => result,
            _ => Err(ForwardError::NotRunning),
        }
    }

    /// Returns once the application's state shows all that was acknowledged before. It waits for as long as there is no leader with
    /// a quorum: dropping it ends that. See [`Node::read`].
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub async fn read(&self, lease: bool) -> Result<(), ReadError> {
        match self.ask(Request::Read { lease }, &[]).await {
            Answer::Read(result) => result,
            _ => Err(ReadError::NotRunning),
        }
    }

    /// Has leadership handed to another voter. See [`Node::transfer_leader`].
    ///
    /// # Errors
    /// It can't be done, or is done already.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferRefused> {
        match self.ask(Request::Transfer { to }, &[]).await {
            Answer::Transfer(result) => result,
            _ => Err(TransferRefused::NoLeader),
        }
    }

    /// Has this board, if it leads, append a change of membership to the log; whether it is committed is not waited for:
    /// [`Handle::status`] shows the members. See [`Node::change_members`].
    ///
    /// It goes through the place of a command: with commands of 64 bytes every change does, shorter ones leave room for less.
    /// Given up, it may take effect all the same, as a command may: look at the members before it is asked for again.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub async fn change_members(
        &self,
        transition: Transition,
        steps: &[Step],
        force: bool,
    ) -> Result<EntryId, ChangeMembersError> {
        let mut bytes = [0; CHANGE_BYTES_MAX];
        let bytes_max = self.desk.command_bytes_max().min(CHANGE_BYTES_MAX);
        let place = bytes.get_mut(..bytes_max).unwrap_or_default();
        let Some(len) = Change::encode(transition, steps, place) else {
            let too_large = ProposeError::TooLarge { bytes_max: bytes_max as u32 };
            return Err(ChangeMembersError::Propose(too_large));
        };
        let change = bytes.get(..len).unwrap_or_default();
        match self.ask(Request::Change { len, force }, change).await {
            Answer::Change(result) => result,
            _ => Err(ChangeMembersError::Propose(ProposeError::NotRunning)),
        }
    }

    /// A look at the node. Its runner answers, even of a node that has stopped: where this returns, a watchdog may be fed.
    pub async fn status(&self) -> Status {
        loop {
            self.ask(Request::Status, &[]).await;
            if let Some(status) = self.desk.status.lock(Cell::get) {
                return status;
            }
        }
    }
}

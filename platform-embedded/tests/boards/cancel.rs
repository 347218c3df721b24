//! Futures that are dropped: of the runner at any await, of what a handle asked at any moment.

use crate::support::board::{Cluster, IDS, Setup, command, id};
use embassy_futures::select::{Either, select};
use quorate::NodeSet;
use quorate::change::{Step, Transition, What};
use quorate::event::Event;
use quorate::node::{ChangeMembersError, Outcome};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

fn no_board_stopped(cluster: &Cluster) {
    for at in 0..cluster.setup.boards {
        assert_eq!(cluster.happened(at, |e| matches!(e, Event::Stopped(_))), 0, "{at}");
    }
}

#[test]
fn a_runner_that_is_dropped_and_called_again_goes_on_where_it_was() {
    for seed in 1..=4 {
        // Frames take 4 ms, records a few, erases 40: some are dropped in the middle, an erase several times.
        let setup = Setup { seed, loss_permille: 20, ..Setup::new(127, 127) };
        let cluster = Cluster::dropping(setup, 80_000);
        cluster.elect();
        cluster.commit(0, 300, &[0, 1, 2]);
        cluster.counts_once(300);
        no_board_stopped(&cluster);
        let retired = cluster.status(0).flash.segments_retired;
        assert_eq!(retired, 0, "a write that was dropped is no failed write");
        assert!(cluster.boards[0].part.erases.get() > 10);
    }
}

/// Asks for command after command, and gives each up after a time that is drawn.
async fn ask_and_give_up(
    cluster: Rc<Cluster>,
    at: usize,
    next: Rc<Cell<usize>>,
    known: Rc<RefCell<Vec<usize>>>,
    given_up: Rc<Cell<usize>>,
) {
    let world = cluster.world.clone();
    loop {
        let n = next.get();
        if n == IDS {
            return;
        }
        next.set(n + 1);
        let handle = cluster.handle(at);
        let bytes = command(n);
        loop {
            let patience = world.dice.below(300_000);
            match select(handle.forward(&bytes, 30_000), world.sleep(patience)).await {
                Either::First(Ok((_, Outcome::Applied { .. }))) => known.borrow_mut().push(n),
                // Another one is on its way: nothing has happened.
                Either::First(Err(_)) => {
                    world.sleep(5_000).await;
                    continue;
                }
                Either::First(Ok(_)) => {}
                Either::Second(()) => given_up.set(given_up.get() + 1),
            }
            break;
        }
        // And a read, and a look, that are given up as well.
        let patience = world.dice.below(20_000);
        select(handle.read(false), world.sleep(patience)).await;
        let patience = world.dice.below(3);
        select(handle.status(), world.sleep(patience)).await;
    }
}

#[test]
fn requests_that_are_given_up_are_neither_lost_nor_doubled_and_block_nobody() {
    for (seed, drop_us) in [(1, 0), (2, 0), (3, 80_000)] {
        let setup = Setup { seed, loss_permille: 50, ..Setup::new(127, 127) };
        let cluster = Rc::new(Cluster::dropping(setup, drop_us));
        cluster.elect();
        let (next, given_up) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let known = Rc::new(RefCell::new(vec![]));
        // More tasks than a desk has room for requests.
        for task in 0..18 {
            let (next, known, given_up) = (next.clone(), known.clone(), given_up.clone());
            let asks = ask_and_give_up(cluster.clone(), task % 3, next, known, given_up);
            cluster.world.spawn(task % 3, asks);
        }
        assert!(cluster.world.run_until(3_600_000, || next.get() == IDS));
        cluster.world.run_ms(60_000);
        cluster.agree();
        let counts = cluster.boards[0].tally.counts.borrow().clone();
        assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
        let known = known.borrow();
        assert!(known.iter().all(|n| counts[*n] == 1), "told of, and not there");
        assert!(known.len() > 20 && given_up.get() > 100, "{} {}", known.len(), given_up.get());
        // What was given up has not taken a place with it.
        for at in 0..3 {
            let asked: Vec<_> = (0..6)
                .map(|_| {
                    let handle = cluster.handle(at);
                    cluster.ask(at, async move { handle.read(false).await })
                })
                .collect();
            let answered = || asked.iter().all(|answer| answer.borrow().is_some());
            assert!(cluster.world.run_until(60_000, answered), "{at}");
        }
        no_board_stopped(&cluster);
    }
}

#[test]
fn what_was_not_taken_in_hand_does_not_happen() {
    let cluster = Cluster::new(Setup::new(127, 127));
    let leader = cluster.elect();
    // The board's tasks stand still: nothing is taken in hand.
    let handle = cluster.handle(leader);
    let bytes = command(7);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut asked = Box::pin(handle.propose(&bytes));
    assert!(asked.as_mut().poll(&mut context).is_pending());
    drop(asked);
    cluster.world.run_ms(5_000);
    assert_eq!(cluster.boards[leader].tally.counts.borrow()[7], 0);
    let proposed = cluster.answer(leader, async move { handle.propose(&command(8)).await });
    assert!(proposed.unwrap().is_ok());
    cluster.world.run_ms(5_000);
    cluster.agree();
    assert_eq!(cluster.boards[leader].tally.counts.borrow()[7..9], [0, 1]);
}

#[test]
fn leadership_is_handed_over_and_refusals_are_typed() {
    let cluster = Cluster::new(Setup::new(127, 127));
    let leader = cluster.elect();
    let to = (leader + 1) % 3;
    let handle = cluster.handle(leader);
    let long = [0; 25];
    let refused = cluster.answer(leader, async move { handle.propose(&long).await });
    let too_large = quorate::node::ProposeError::TooLarge { bytes_max: 24 };
    assert_eq!(refused, Some(Err(too_large)));
    assert_eq!(
        cluster.answer(leader, async move { handle.transfer_leader(id(to)).await }),
        Some(Ok(()))
    );
    cluster.world.run_ms(3_000);
    assert_eq!(cluster.elect(), to);
    let leads = quorate::node::ProposeError::NotLeader { leader: Some(id(to)) };
    let refused = cluster.answer(leader, async move { handle.propose(&command(1)).await });
    assert_eq!(refused, Some(Err(leads)));
    let again = cluster.answer(to, {
        let handle = cluster.handle(to);
        async move { handle.transfer_leader(id(to)).await }
    });
    assert_eq!(again, Some(Err(quorate::raft::TransferRefused::Leads)));
}

#[test]
fn members_are_changed_by_a_handle_once_and_refusals_are_typed() {
    let cluster = Cluster::dropping(Setup { loss_permille: 20, ..Setup::new(127, 127) }, 80_000);
    let leader = cluster.elect();
    cluster.commit(0, 3, &[leader]);
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let change = |at: usize, steps: Vec<Step>| {
        let handle = cluster.handle(at);
        let asked = async move { handle.change_members(Transition::Auto, &steps, false).await };
        cluster.answer(at, asked).expect("an answer")
    };
    let voters = |expected: &[usize]| {
        let expected: NodeSet = expected.iter().map(|at| id(*at)).collect();
        let shown = || (0..3).all(|at| cluster.status(at).membership.voters() == expected);
        for _ in 0..100 {
            if shown() {
                return;
            }
            cluster.world.run_ms(100);
        }
        panic!("{expected:?}");
    };
    let demote = Step::new(What::AddLearner, id(other));
    let refused = change(other, vec![demote.clone()]);
    let leads = quorate::node::ProposeError::NotLeader { leader: Some(id(leader)) };
    assert_eq!(refused, Err(ChangeMembersError::Propose(leads)));
    // Given up before it was taken in hand, it does not happen.
    let handle = cluster.handle(leader);
    let steps = [demote.clone()];
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut asked = Box::pin(handle.change_members(Transition::Auto, &steps, false));
    assert!(asked.as_mut().poll(&mut context).is_pending());
    drop(asked);
    cluster.world.run_ms(3_000);
    voters(&[0, 1, 2]);
    assert!(change(leader, vec![demote]).is_ok());
    voters(&[leader, third]);
    // Both at once, through a joint configuration.
    let steps = vec![
        Step::new(What::AddVoter, id(other)),
        Step { address: vec![7; 4].into_iter().collect(), ..Step::new(What::Update, id(third)) },
    ];
    assert!(change(leader, steps).is_ok());
    voters(&[0, 1, 2]);
    let unknown = vec![Step::new(What::AddVoter, quorate::NodeId::new(9).unwrap())];
    let early = ChangeMembersError::NotCaughtUp { id: quorate::NodeId::new(9).unwrap() };
    assert_eq!(change(leader, unknown), Err(early));
    // The desk has commands of 24 bytes, a step without an address three.
    let many = vec![Step::new(What::Remove, id(other)); 8];
    let too_large = quorate::node::ProposeError::TooLarge { bytes_max: 24 };
    assert_eq!(change(leader, many), Err(ChangeMembersError::Propose(too_large)));
    cluster.commit(3, 6, &[leader]);
    cluster.counts_once(6);
    no_board_stopped(&cluster);
}

#[test]
fn reads_that_are_given_up_without_a_quorum_make_room_for_others() {
    let cluster = Cluster::new(Setup::new(127, 127));
    let leader = cluster.elect();
    cluster.medium.cut_off(leader, true);
    cluster.world.run_ms(5_000);
    for _ in 0..20 {
        let (handle, world) = (cluster.handle(leader), cluster.world.clone());
        let read = cluster.answer(leader, async move {
            match select(handle.read(false), world.sleep(50_000)).await {
                Either::First(answer) => Some(answer),
                Either::Second(()) => None,
            }
        });
        assert_eq!(read, Some(None), "neither answered nor refused");
    }
    cluster.medium.cut_off(leader, false);
    let handle = cluster.handle(leader);
    assert_eq!(cluster.answer(leader, async move { handle.read(false).await }), Some(Ok(())));
}

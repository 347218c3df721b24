//! Changes of membership, one voter at a time: what they lead to, when they can be made, what they must not break
//! (Raft §6; thesis §4.1).

use crate::messages::{reply, role, vote};
use crate::support::{Cluster, Setup, at, id, set};
use quorate::NodeSet;
use quorate::change::{ChangeError, Transition, What};
use quorate::entry::Kind;
use quorate::membership::{MEMBERS_MAX, Membership};
use quorate::raft::{ChangeRefused, ProposeRefused, Role};
use quorate::wire::Message;
use quorate::{Index, Term};

const AUTO: Transition = Transition::Auto;

/// Board 1 leads these voters, and its first entry is committed everywhere.
fn led(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.elect(1);
    cluster.beats(1);
    cluster.network.clear();
    cluster
}

fn voters(cluster: &Cluster, n: u8) -> NodeSet {
    cluster.board(n).raft.membership().voters
}

#[test]
fn each_change_leads_to_its_members_on_the_leader_and_on_the_others() {
    let start = Membership { learners: set(&[4]), ..Membership::of_voters(set(&[1, 2, 3])) };
    let table: [(What, u8, &[u8], &[u8]); 9] = [
        (What::AddVoter, 5, &[1, 2, 3, 5], &[4]),
        (What::AddLearner, 5, &[1, 2, 3], &[4, 5]),
        (What::AddVoter, 4, &[1, 2, 3, 4], &[]),
        (What::AddVoter, 2, &[1, 2, 3], &[4]),
        (What::AddLearner, 4, &[1, 2, 3], &[4]),
        (What::AddLearner, 3, &[1, 2], &[3, 4]),
        (What::Remove, 3, &[1, 2], &[4]),
        (What::Remove, 4, &[1, 2, 3], &[]),
        (What::Update, 4, &[1, 2, 3], &[4]),
    ];
    for (what, who, voters, learners) in table {
        let setup = Setup { membership: Some(start), ..Setup::plain(5) };
        let mut cluster = led(setup);
        cluster.change(1, AUTO, &[(what, who)]).unwrap();
        cluster.stabilize();
        cluster.beats(2);
        let want = Membership { learners: set(learners), ..Membership::of_voters(set(voters)) };
        for n in want.members().iter() {
            let got = *cluster.board(n.get()).raft.membership();
            assert_eq!(got, want, "{what:?} {who} on {n}");
        }
    }
}

#[test]
fn a_change_takes_effect_when_it_is_applied_and_commits_as_the_members_before_it_decide() {
    let mut cluster = led(Setup::voters(3, &[1]));
    cluster.board_mut(1).manual = true;
    cluster.change(1, AUTO, &[(What::AddVoter, 2)]).unwrap();
    assert_eq!(voters(&cluster, 1), set(&[1]));
    cluster.persist(1);
    // Board 2 has nothing of it, and now has a say in what follows.
    assert_eq!(voters(&cluster, 1), set(&[1, 2]));
    cluster.board_mut(1).manual = false;
    cluster.isolate(2);
    let next = cluster.propose(1, b"x").unwrap();
    assert_eq!(cluster.board(1).raft.commit(), next.index.previous());
}

#[test]
fn one_change_at_a_time_until_it_is_applied() {
    let mut cluster = led(Setup::voters(5, &[1, 2, 3]));
    cluster.change(1, AUTO, &[(What::AddLearner, 4)]).unwrap();
    let next = [(What::AddLearner, 5)];
    assert_eq!(cluster.change(1, AUTO, &next), Err(ChangeRefused::Pending));
    assert_eq!(cluster.board(1).log.last(), at(1, 2), "what is refused takes no place");
    cluster.board_mut(1).applies_later = true;
    cluster.stabilize();
    assert_eq!(cluster.board(1).raft.commit(), Index(2));
    assert_eq!(
        cluster.change(1, AUTO, &next),
        Err(ChangeRefused::Pending),
        "committed is too soon"
    );
    cluster.board_mut(1).applies_later = false;
    cluster.pump(1);
    assert!(cluster.change(1, AUTO, &next).is_ok());
}

#[test]
fn a_new_leader_begins_no_change_before_what_it_inherited_is_applied() {
    for inherited in [false, true] {
        let mut cluster = led(Setup::voters(4, &[1, 2, 3]));
        if inherited {
            cluster.change(1, AUTO, &[(What::AddLearner, 4)]).unwrap();
        } else {
            cluster.propose(1, b"x").unwrap();
        }
        cluster.deliver(Some(1), Some(2));
        cluster.network.clear();
        cluster.isolate(1);
        cluster.campaign(2);
        cluster.step(2, 3, vote(2, true), &[]);
        assert_eq!(role(&cluster, 2), (Role::Leader, 2));
        let next = [(What::Remove, 3)];
        assert_eq!(cluster.change(2, AUTO, &next), Err(ChangeRefused::Pending), "{inherited}");
        cluster.beats(2);
        assert_eq!(cluster.board(2).raft.membership().learners.is_empty(), !inherited);
        assert!(cluster.change(2, AUTO, &next).is_ok());
    }
}

#[test]
fn a_smaller_quorum_commits_what_waited_for_the_larger_one() {
    let mut cluster = led(Setup::plain(2));
    cluster.board_mut(1).applies_later = true;
    cluster.change(1, AUTO, &[(What::Remove, 2)]).unwrap();
    let waits = cluster.propose(1, b"x").unwrap();
    cluster.step(1, 2, reply(1, 2), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index(2));
    cluster.board_mut(1).applies_later = false;
    cluster.pump(1);
    assert_eq!(cluster.board(1).raft.commit(), waits.index);
    assert_eq!(cluster.board(1).commands(), ["x"]);
}

#[test]
fn b28_a_leader_counts_itself_and_who_was_just_added_as_present() {
    // Board 2 is added right before the leader looks who is there, and has had no time to answer.
    let mut cluster = led(Setup { check_quorum: true, ..Setup::voters(2, &[1]) });
    cluster.beats(8);
    cluster.change(1, AUTO, &[(What::AddVoter, 2)]).unwrap();
    cluster.network.clear();
    cluster.isolate(2);
    cluster.beats(1);
    assert_eq!((cluster.board(1).now, role(&cluster, 1)), (1000, (Role::Leader, 1)));
    // One that never answers is not counted for ever.
    cluster.beats(10);
    assert_eq!(cluster.board(1).raft.role(), Role::Follower);
    // Alone it is always a quorum, also where it was a learner in between.
    let setup = Setup { check_quorum: true, step_down_on_removal: false, ..Setup::plain(2) };
    let mut cluster = led(setup);
    for step in [(What::AddLearner, 1), (What::AddVoter, 1), (What::Remove, 2)] {
        cluster.change(1, AUTO, &[step]).unwrap();
        cluster.stabilize();
        assert_eq!(cluster.board(1).raft.role(), Role::Leader, "{step:?}");
    }
    cluster.beats(30);
    assert_eq!((role(&cluster, 1), voters(&cluster, 1)), ((Role::Leader, 1), set(&[1])));
}

#[test]
fn b20_a_leader_that_removes_itself_serves_until_that_is_applied_and_steps_down() {
    for step_down_on_removal in [true, false] {
        let mut cluster = led(Setup { step_down_on_removal, ..Setup::plain(3) });
        cluster.change(1, AUTO, &[(What::Remove, 1)]).unwrap();
        cluster.propose(1, b"x").unwrap();
        cluster.stabilize();
        let is = if step_down_on_removal { Role::Follower } else { Role::Leader };
        assert_eq!((role(&cluster, 1), voters(&cluster, 1)), ((is, 1), set(&[2, 3])));
        for _ in 0..40 {
            cluster.tick_all(100);
            cluster.stabilize();
        }
        // One that stays keeps the others following it, and takes no commands: they are stuck (CC13).
        let leader = cluster.leader().unwrap();
        assert_eq!(leader != 1, step_down_on_removal);
        assert_eq!(cluster.board(2).commands(), ["x"]);
        let board = cluster.board_mut(leader);
        let proposed = board.raft.propose(Kind::Command, b"y", &mut board.log);
        assert_eq!(proposed.err(), (leader == 1).then_some(ProposeRefused::Removed));
    }
}

#[test]
fn a_leader_that_was_removed_counts_for_no_commit() {
    let mut cluster = led(Setup { step_down_on_removal: false, ..Setup::plain(3) });
    cluster.change(1, AUTO, &[(What::Remove, 1)]).unwrap();
    let last = cluster.propose(1, b"x").unwrap();
    cluster.step(1, 2, reply(1, 2), &[]);
    assert_eq!(voters(&cluster, 1), set(&[2, 3]));
    cluster.step(1, 2, reply(1, 3), &[]);
    assert_eq!(cluster.board(1).raft.commit(), last.index.previous());
    cluster.step(1, 3, reply(1, 3), &[]);
    assert_eq!(cluster.board(1).raft.commit(), last.index);
}

#[test]
fn b30_a_change_that_cannot_be_made_leads_to_no_configuration() {
    let one = Membership::of_voters(set(&[1]));
    let removed = one.changed_at_once([(What::Remove, id(1))].into_iter());
    assert_eq!(removed, Err(ChangeError::NoVoters));
    let full: Vec<u8> = (1..=MEMBERS_MAX as u8).collect();
    let more =
        Membership::of_voters(set(&full)).changed_at_once([(What::AddLearner, id(9))].into_iter());
    assert_eq!(more, Err(ChangeError::TooManyMembers { max: MEMBERS_MAX }));
    let mut cluster = led(Setup::voters(1, &[1]));
    let refused = cluster.change(1, AUTO, &[(What::Remove, 1)]);
    assert_eq!(refused, Err(ChangeRefused::Change(ChangeError::NoVoters)));
}

#[test]
fn b21_a_change_is_checked_where_it_is_applied_whatever_was_checked_when_it_was_proposed() {
    // Proposed unchecked: each could be made when it was proposed, and not one after the other.
    let mut cluster = led(Setup { check_changes: false, ..Setup::plain(2) });
    cluster.change(1, AUTO, &[(What::Remove, 2)]).unwrap();
    cluster.change(1, AUTO, &[(What::Remove, 1)]).unwrap();
    cluster.propose(1, b"x").unwrap();
    cluster.stabilize();
    cluster.beats(1);
    assert_eq!(voters(&cluster, 1), set(&[1]), "the second is void");
    assert_eq!(cluster.board(1).commands(), ["x"]);
    // Refused as things stand, and fine once the first is applied.
    let mut cluster = led(Setup { check_changes: false, ..Setup::voters(3, &[1, 2]) });
    let both = [(What::AddVoter, 3), (What::Remove, 2)];
    cluster.change(1, Transition::Explicit, &both).unwrap();
    cluster.change(1, AUTO, &[]).unwrap();
    cluster.stabilize();
    cluster.beats(2);
    assert_eq!(*cluster.board(1).raft.membership(), Membership::of_voters(set(&[1, 3])));
}

#[test]
fn b02_a_leaders_request_to_stand_waits_for_a_committed_change_to_be_applied() {
    let mut cluster = changed_but_not_applied();
    cluster.step(2, 1, Message::TimeoutNow { term: Term(1) }, &[]);
    assert_eq!(role(&cluster, 2), (Role::Follower, 1));
    cluster.board_mut(2).applies_later = false;
    cluster.pump(2);
    cluster.step(2, 1, Message::TimeoutNow { term: Term(1) }, &[]);
    assert_eq!(role(&cluster, 2), (Role::Candidate, 2));
}

#[test]
fn o02_nobody_stands_while_a_change_is_committed_and_not_applied() {
    for pre_vote in [false, true] {
        let mut cluster = changed_but_not_applied();
        cluster.setup.pre_vote = pre_vote;
        cluster.board_mut(2).now += 2000;
        cluster.campaign(2);
        assert_eq!(role(&cluster, 2), (Role::Follower, 1));
        assert!(cluster.board(2).raft.deadline().as_millis() > cluster.board(2).now, "later");
        cluster.board_mut(2).applies_later = false;
        cluster.pump(2);
        cluster.campaign(2);
        assert_eq!(role(&cluster, 2), (Role::Candidate, 2));
    }
}

/// Board 2 knows that 4 is a voter by what is committed, and has not applied that.
fn changed_but_not_applied() -> Cluster {
    let mut cluster = led(Setup::voters(4, &[1, 2, 3]));
    cluster.board_mut(2).applies_later = true;
    cluster.change(1, AUTO, &[(What::AddVoter, 4)]).unwrap();
    cluster.stabilize();
    cluster.beats(1);
    assert_eq!(cluster.board(2).raft.commit(), Index(2));
    assert_eq!(voters(&cluster, 2), set(&[1, 2, 3]));
    cluster
}

//! Who is let in, for both interfaces.

use std::net::SocketAddr;
use std::time::Duration;

use quorate::NodeId;

use super::WITHIN;
use crate::node::{ChangeError, Handle, WriteError};

/// How often a member that was added is asked whether it has caught up.
const PROMOTE_AGAIN: Duration = Duration::from_millis(500);

/// Adds a member, or tells where one is now; whether that was not so before. A new one gets its vote once it has caught up, unless it is to stay a
/// learner. One that is there keeps what it has: to add a voter as a learner would take its vote.
pub(super) async fn add(
    node: Handle,
    id: NodeId,
    address: Option<SocketAddr>,
    stays_learner: bool,
    within: Duration,
) -> Result<bool, ChangeError> {
    let report = node.status().await.ok_or(ChangeError::Write(WriteError::Stopped))?;
    if let Some(member) = report.members.iter().find(|member| member.id == id) {
        return match address {
            Some(address) if member.address != Some(address.to_string()) => {
                node.move_member(id, address, within).await.map(|()| true)
            }
            _ => Ok(false),
        };
    }
    node.add_learner(id, address, within).await?;
    if !stays_learner {
        tokio::spawn(promote_when_caught_up(node, id));
    }
    Ok(true)
}

/// raftexample's members vote from the beginning; here one does once it can.
async fn promote_when_caught_up(node: Handle, id: NodeId) {
    loop {
        tokio::time::sleep(PROMOTE_AGAIN).await;
        let Some(report) = node.status().await else { return };
        let member = report.members.iter().find(|member| member.id == id);
        if member.is_none_or(|member| member.voter) {
            return;
        }
        match node.promote(id, false, WITHIN).await {
            Ok(()) => return,
            Err(error) => tracing::debug!("node {id} has no vote yet: {error}"),
        }
    }
}

//! Who belongs to the group: shown, added, replaced, removed, and handed leadership.
//!
//! Changes of membership are entries of the log like others. Followers refuse an entry with more members than
//! [`incoming::MEMBERS_MAX`], so the leader never makes one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::rpc::RpcError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Instant as _, Precondition};
use tracing::info;

use super::{Group, MemberStatus, READ_TIMEOUT};
use crate::consensus::incoming::MEMBERS_MAX;
use crate::consensus::types::{Member, NodeId, TypeConfig};

/// A member counts as reachable if it answered a heartbeat within this time.
const REACHABLE_WITHIN: Duration = Duration::from_secs(2);

impl Group {
    /// All members.
    pub fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        metrics
            .membership_config
            .membership()
            .nodes()
            .map(|(id, member)| MemberStatus {
                id: *id,
                address: member.address.clone(),
                disk_low: if *id == self.id {
                    self.room.is_low()
                } else {
                    self.room.is_low_at(*id)
                },
                voter: voters.contains(id),
                matched_index: metrics
                    .replication
                    .as_ref()
                    .and_then(|replication| replication.get(id))
                    .and_then(|matched| matched.as_ref().map(|log_id| log_id.index)),
            })
            .collect()
    }

    /// Members that answered the leader's heartbeats lately; empty on followers.
    pub fn reachable_members(&self) -> BTreeSet<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(heartbeat) = &metrics.heartbeat else {
            return BTreeSet::new();
        };
        let recently = |acked: &openraft::type_config::alias::InstantOf<TypeConfig>| {
            acked.elapsed() < REACHABLE_WITHIN
        };
        heartbeat
            .iter()
            .filter(|(_, acked)| acked.as_ref().is_some_and(|acked| recently(acked)))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Adds a member: it catches up as a learner first, then votes; `replaces` leaves in the same step.
    pub async fn add_member(
        &self,
        id: NodeId,
        member: Member,
        replaces: Option<NodeId>,
    ) -> Result<(), RpcError> {
        info!(
            member = id,
            address = member.address,
            "namenode joins as a learner"
        );
        self.enlist(id, member.clone()).await?;
        // Listed already: only waits until it has caught up.
        self.raft
            .add_learner(id, member, true)
            .await
            .map_err(|error| membership_error(&error))?;
        let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
        let is_leader = replaces == Some(self.id);
        if let Some(old) = replaces.filter(|_| !is_leader) {
            changes.push(ChangeMembers::RemoveVoters(BTreeSet::from([old])));
        }
        self.change(ChangeMembers::Batch(changes)).await?;
        if is_leader {
            return Err(self.step_aside().await?);
        }
        if let Some(old) = replaces {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([old])))
                .await?;
        }
        Ok(())
    }

    /// Puts a learner on the list of members, if it is not there and there is room. What was looked at must still hold when the entry
    /// is made: of two that join at once, one is told to ask again.
    async fn enlist(&self, id: NodeId, member: Member) -> Result<(), RpcError> {
        let listed = self
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .clone();
        if listed.membership().get_node(&id).is_some() {
            return Ok(());
        }
        if listed.membership().nodes().count() >= MEMBERS_MAX {
            let message = format!(
                "a cluster has at most {MEMBERS_MAX} namenodes, learners and leaving ones included: remove one first"
            );
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: *listed.log_id(),
        };
        let joins = ChangeMembers::AddNodes(BTreeMap::from([(id, member)]));
        let joined = self.raft.change_membership_if(joins, true, [unchanged]);
        let joined = joined.await.map_err(|error| membership_error(&error));
        joined.map(|_| ())
    }

    /// Removes a member.
    pub async fn remove_member(&self, id: NodeId) -> Result<(), RpcError> {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Err(RpcError::new(ErrorCode::NotFound, format!("namenode {id}")));
        };
        let voters = members.iter().filter(|member| member.voter).count();
        if member.voter && voters == 1 {
            let message = format!("namenode {id} is the only one left: add another first");
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        if id == self.id {
            return Err(self.step_aside().await?);
        }
        if member.voter {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
                .await?;
        }
        if self.members().iter().any(|member| member.id == id) {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await?;
        }
        Ok(())
    }

    /// A leader cannot see its own removal through: whoever leads next does it. The answer for the caller, who asks again.
    async fn step_aside(&self) -> Result<RpcError, RpcError> {
        self.transfer(None).await?;
        let mut leadership = self.leadership();
        let led_by_another = leadership.wait_for(|it| it.leader.is_some_and(|it| it != self.id));
        // Whether or not it came about.
        let _ = tokio::time::timeout(READ_TIMEOUT, led_by_another).await;
        Ok(RpcError::not_leader(self.leader_hint()))
    }

    async fn change(&self, change: ChangeMembers<NodeId, Member>) -> Result<(), RpcError> {
        self.raft
            .change_membership(change, false)
            .await
            .map(|_| ())
            .map_err(|error| membership_error(&error))
    }

    /// Hands leadership over; without a target, to the voter that is furthest.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, RpcError> {
        let candidates = self
            .members()
            .into_iter()
            .filter(|member| member.voter && member.id != self.id);
        let target = match to {
            Some(to) => candidates.into_iter().find(|member| member.id == to),
            None => candidates.max_by_key(|member| member.matched_index),
        };
        let Some(target) = target else {
            return Err(RpcError::new(
                ErrorCode::NotFound,
                "no such voting namenode besides the leader",
            ));
        };
        self.raft
            .trigger()
            .transfer_leader(target.id)
            .await
            .map_err(|error| RpcError::new(ErrorCode::Unavailable, error.to_string()))?;
        Ok(target.id)
    }
}

fn membership_error(error: &dyn std::fmt::Display) -> RpcError {
    RpcError::new(
        ErrorCode::Unavailable,
        format!("membership change: {error}"),
    )
}

#[cfg(test)]
mod tests;

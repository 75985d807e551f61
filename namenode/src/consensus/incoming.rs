//! What other members send, before the Raft library sees it. Bytes that arrive are never trusted: what does not decode, what cannot
//! have been meant, and what the library would stop the process for is refused here, and changes nothing.
//!
//! A message counts only from a connection whose other end introduced itself as the namenode that the envelope names, and only in
//! the name of that namenode's own vote. With `auth = "tokens"` its certificate proves that; in the clear it keeps out whoever is
//! not lying on purpose. The list of members proves nothing: one that was away may know none of those that lead it now.

use cairn_protocol::messages::admin::RaftEnvelope;
use cairn_protocol::net::Role;
use cairn_protocol::rpc::{Peer, Request, RpcError};
use cairn_protocol::{ErrorCode, Failure};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use serde::de::DeserializeOwned;

use super::network::{Ballot, ENCODING};
use super::snapshot::Piece;
use super::types::{Entry, LogId, Membership, NodeId, Payload, SnapshotMeta, TypeConfig, Vote};

/// No cluster gets to such a term or index; beyond it the library's sums could overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Members of a group, leaving and learning ones included.
pub(super) const MEMBERS_MAX: usize = 64;

/// Opens an envelope, and checks that it is from whom it says and meant for this member.
pub(super) fn open_envelope(
    own_id: NodeId,
    peer: &Peer,
    request: &Request,
) -> Result<RaftEnvelope, RpcError> {
    let envelope: RaftEnvelope = request.decode()?;
    if envelope.encoding != ENCODING {
        let message = format!(
            "raft encoding {} (this process speaks {ENCODING})",
            envelope.encoding
        );
        return Err(RpcError::new(ErrorCode::VersionMismatch, message));
    }
    if envelope.to != own_id {
        let message = format!("meant for namenode {}, this is {own_id}", envelope.to);
        return Err(RpcError::new(ErrorCode::InvalidArgument, message));
    }
    let hello = &peer.hello;
    if hello.role != Role::Namenode.name() || hello.node != envelope.from {
        let message = format!(
            "raft message of namenode {} from {} {}",
            envelope.from, hello.role, hello.node
        );
        return Err(RpcError::new(ErrorCode::NotPermitted, message));
    }
    Ok(envelope)
}

/// What one member says to another.
pub(super) trait Message: DeserializeOwned {
    /// In whose name it is said.
    fn vote(&self) -> &Vote;

    /// Fails if no member that works can have meant it.
    fn check(&self) -> Result<(), Failure>;
}

/// Decodes and checks what namenode `from` sent.
pub(super) fn decode_message<M: Message>(from: NodeId, bytes: &[u8]) -> Result<M, RpcError> {
    let message: M = decode_body(bytes)?;
    let vote = message.vote();
    if vote.leader_id.voted_for != from {
        let owner = vote.leader_id.voted_for;
        return Err(malformed(format!("namenode {from} speaks for {owner}")).into());
    }
    if vote.leader_id.term > NUMBER_MAX {
        return Err(malformed(format!("term {}", vote.leader_id.term)).into());
    }
    message.check()?;
    Ok(message)
}

/// Decodes a body. Takes memory in proportion to its bytes, whatever they claim.
pub(super) fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    postcard::from_bytes(bytes)
        .map_err(|error| RpcError::new(ErrorCode::Malformed, format!("raft body: {error}")))
}

fn malformed(what: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorCode::Malformed, format!("raft body: {what}"))
}

impl Message for AppendEntriesRequest<TypeConfig> {
    fn vote(&self) -> &Vote {
        &self.vote
    }

    /// Entries follow each other, and none is of a later term than its leader's.
    fn check(&self) -> Result<(), Failure> {
        check_leads(&self.vote)?;
        check_log_id(self.prev_log_id.as_ref(), &self.vote)?;
        check_log_id(self.leader_commit.as_ref(), &self.vote)?;
        let mut before = self.prev_log_id;
        for entry in &self.entries {
            check_entry(entry, before.as_ref(), &self.vote)?;
            before = Some(entry.log_id);
        }
        Ok(())
    }
}

impl Message for Ballot {
    fn vote(&self) -> &Vote {
        &self.request.vote
    }

    fn check(&self) -> Result<(), Failure> {
        check_log_id(self.request.last_log_id.as_ref(), &self.request.vote)
    }
}

impl Message for TransferLeaderRequest<TypeConfig> {
    fn vote(&self) -> &Vote {
        self.from_leader()
    }

    fn check(&self) -> Result<(), Failure> {
        check_leads(self.from_leader())?;
        check_log_id(self.last_log_id(), self.from_leader())
    }
}

impl Message for Piece {
    fn vote(&self) -> &Vote {
        &self.vote
    }

    fn check(&self) -> Result<(), Failure> {
        check_leads(&self.vote)?;
        check_meta(&self.meta, &self.vote)
    }
}

fn check_leads(vote: &Vote) -> Result<(), Failure> {
    if vote.committed {
        return Ok(());
    }
    Err(malformed("in the name of a leader that was not elected"))
}

fn check_log_id(log_id: Option<&LogId>, vote: &Vote) -> Result<(), Failure> {
    let Some(log_id) = log_id else { return Ok(()) };
    if log_id.index > NUMBER_MAX || log_id.leader_id.term > vote.leader_id.term {
        return Err(malformed(format!("entry {log_id} under vote {vote}")));
    }
    Ok(())
}

fn check_entry(entry: &Entry, before: Option<&LogId>, vote: &Vote) -> Result<(), Failure> {
    check_log_id(Some(&entry.log_id), vote)?;
    let next_index = before.map_or(0, |before| before.index + 1);
    let term = before.map_or(0, |before| before.leader_id.term);
    if entry.log_id.index != next_index || entry.log_id.leader_id.term < term {
        let text = format!("entry {} does not follow the one before", entry.log_id);
        return Err(malformed(text));
    }
    match &entry.payload {
        Payload::Membership(members) => check_members(members),
        Payload::Blank | Payload::Normal(_) => Ok(()),
    }
}

/// Every voter has an address, and there is a quorum of each half of a change.
fn check_members(members: &Membership) -> Result<(), Failure> {
    let configs = members.get_joint_config();
    let quorums = !configs.is_empty() && configs.len() <= 2;
    let known = |voter: &NodeId| members.get_node(voter).is_some();
    let whole = configs
        .iter()
        .all(|config| !config.is_empty() && config.iter().all(known));
    if quorums && whole && members.nodes().count() <= MEMBERS_MAX {
        return Ok(());
    }
    Err(malformed("a membership that cannot be"))
}

fn check_meta(meta: &SnapshotMeta, vote: &Vote) -> Result<(), Failure> {
    if meta.last_log_id.is_none() {
        return Err(malformed("a snapshot of nothing"));
    }
    check_log_id(meta.last_log_id.as_ref(), vote)?;
    let since = meta.last_membership.log_id();
    if *since > meta.last_log_id {
        return Err(malformed("a membership later than its snapshot"));
    }
    check_members(meta.last_membership.membership())
}

#[cfg(test)]
mod tests;

//! What operators ask, and how namenodes introduce themselves to each other.

use bytes::Bytes;
use cairn_protocol::messages::admin::{
    AddNamenodeRequest, AdminReply, FoundClusterReply, FoundClusterRequest, FsckRequest,
    GreetReply, GreetRequest, MetricsReply, NamenodeStatus, RemoveNamenodeRequest,
    SetDatanodeStateRequest, StatusReply, StatusRequest, TransferLeadershipRequest,
};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::rpc::{Reply, Request, RpcError};
use cairn_protocol::{ErrorCode, Method};

use super::principal::Principal;
use super::{NamenodeService, PEER_TIMEOUT, grants, internal, outcome_failure};
use crate::consensus::types::Member;
use crate::fsck;
use crate::namespace::command::{CommandKind, ForgetDatanode, SetDatanodeState};
use crate::store::Read;

impl NamenodeService {
    async fn require_superuser(
        &self,
        principal: &Principal,
        caller: Caller,
        what: &str,
    ) -> Result<(), RpcError> {
        if self.caller(principal, caller).await?.uid == 0 {
            return Ok(());
        }
        Err(RpcError::new(
            ErrorCode::NotPermitted,
            format!("{what}: only the superuser may"),
        ))
    }

    pub(super) async fn found_cluster(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let FoundClusterRequest { caller } = request.decode()?;
        self.require_superuser(principal, caller, "found a cluster")
            .await?;
        let cluster_id = self.founder.found().await?.to_vec();
        let members = self.group.members().into_iter();
        Ok(Reply::new(&FoundClusterReply {
            cluster_id,
            namenodes: members.map(|member| member.address).collect(),
        }))
    }

    pub(super) async fn add_namenode(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let AddNamenodeRequest {
            caller,
            address,
            replaces,
        } = request.decode()?;
        self.require_superuser(principal, caller, "add a namenode")
            .await?;
        self.group.require_leader()?;
        let greeting = GreetRequest {
            namenode: self.group.id(),
            address: self.address.clone(),
        };
        let (them, _) = self
            .peers
            .call_typed::<GreetReply>(
                &address,
                Method::Greet.into(),
                &greeting,
                Bytes::new(),
                PEER_TIMEOUT,
            )
            .await?;
        let members = self.group.members();
        let ours = self.cluster.get().map(|id| id.to_vec()).unwrap_or_default();
        if !them.cluster_id.is_empty() && them.cluster_id != ours {
            let message =
                format!("the namenode at {address}: give it an empty data directory first");
            return Err(RpcError::new(ErrorCode::WrongCluster, message));
        }
        let listed = |id: u64| members.iter().find(|member| member.id == id);
        if them.in_group && them.cluster_id.is_empty() && listed(them.namenode).is_none() {
            let message = format!("the namenode at {address} is about to belong to another one");
            return Err(RpcError::new(ErrorCode::WrongCluster, message));
        }
        let votes = |id: u64| listed(id).is_some_and(|member| member.voter);
        let voters = members.iter().filter(|member| member.voter).count();
        // When the leader itself is replaced, the new one votes beside it for a moment, and whoever leads then is asked again.
        let in_between = voters.is_multiple_of(2);
        if let Some(old) = Some(replaces).filter(|id| *id != 0)
            && old != them.namenode
            && votes(them.namenode)
            && votes(old)
            && !in_between
        {
            let message = format!(
                "the namenode at {address} is a member already ({}): in place of namenode {old} it would leave one fewer; to do that, \
                 remove namenode {old}",
                them.namenode
            );
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let loopback = |address: &str| {
            ["127.", "localhost:", "[::1]"]
                .iter()
                .any(|name| address.starts_with(name))
        };
        if loopback(&them.address) && !loopback(&address) {
            let message = format!(
                "the namenode at {address} says that others reach it at {}: set `advertise` in its settings",
                them.address
            );
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let replaced = Some(replaces).filter(|id| *id != 0);
        let to_go = replaced.filter(|old| listed(*old).is_some());
        if listed(them.namenode).is_some_and(|member| member.voter) && to_go.is_none() {
            // Asked again because the answer was lost. A learner is one whose catching up took longer than that.
            return Ok(Reply::new(&AdminReply {}));
        }
        if let Some(old) = replaced
            && to_go.is_none()
        {
            return Err(RpcError::new(
                ErrorCode::NotFound,
                format!("namenode {old}"),
            ));
        }
        let member = Member {
            address: them.address,
            ..Member::default()
        };
        self.group
            .add_member(them.namenode, member, replaced)
            .await?;
        Ok(Reply::new(&AdminReply {}))
    }

    pub(super) async fn remove_namenode(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let RemoveNamenodeRequest { caller, namenode } = request.decode()?;
        self.require_superuser(principal, caller, "remove a namenode")
            .await?;
        self.group.require_leader()?;
        self.group.remove_member(namenode).await?;
        Ok(Reply::new(&AdminReply {}))
    }

    pub(super) async fn transfer_leadership(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let TransferLeadershipRequest { caller, to } = request.decode()?;
        self.require_superuser(principal, caller, "hand leadership over")
            .await?;
        self.group.require_leader()?;
        self.group.transfer(Some(to).filter(|id| *id != 0)).await?;
        Ok(Reply::new(&AdminReply {}))
    }

    pub(super) async fn set_datanode_state(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let SetDatanodeStateRequest {
            caller,
            datanode,
            state,
            forget,
        } = request.decode()?;
        self.require_superuser(principal, caller, "change a datanode's state")
            .await?;
        let command = if forget {
            CommandKind::ForgetDatanode(ForgetDatanode { datanode })
        } else {
            CommandKind::SetDatanodeState(SetDatanodeState { datanode, state })
        };
        let proposed = self.group.propose(command).await?;
        match outcome_failure(&proposed.outcome) {
            Some(failure) => Err(failure.into()),
            None => {
                self.controllers
                    .datanode_states_changed()
                    .map_err(internal)?;
                Ok(Reply::new(&AdminReply {}))
            }
        }
    }

    pub(crate) async fn status(&self, request: Request) -> Result<Reply, RpcError> {
        let StatusRequest { caller: _, local } = request.decode()?;
        if self.removed.get() {
            // What it knows is of a time when it was one of them.
            let message = format!(
                "the namenode at {} was removed from its cluster or replaced: stop it and remove its directory",
                self.address
            );
            return Err(RpcError::new(ErrorCode::Unavailable, message));
        }
        let (term, leader) = if local {
            let leadership = self.group.leadership();
            let now = leadership.borrow();
            (now.term, now.leader.unwrap_or(0))
        } else {
            (self.group.require_leader()?, self.group.id())
        };
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let datanodes = self.controllers.datanode_statuses().map_err(internal)?;
        let mut counts = self.controllers.counts();
        counts.files = cluster.file_count;
        counts.directories = cluster.directory_count;
        counts.inodes = cluster.inode_count;
        counts.chunks = cluster.chunk_count;
        counts.live_bytes = cluster.live_bytes;
        counts.chunk_bytes = cluster.chunk_bytes;
        let time_ms = grants::cluster_time_ms(&self.clock, &cluster);
        Ok(Reply::new(&StatusReply {
            cluster_id: cluster.cluster_id,
            term,
            leader,
            applied_index: self
                .group
                .state()
                .applied_log_id()
                .map_or(0, |log_id| log_id.index),
            namenodes: self.namenode_statuses(leader),
            datanodes,
            counts,
            time_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session_count: cluster.session_count,
            local,
        }))
    }

    fn namenode_statuses(&self, leader: u64) -> Vec<NamenodeStatus> {
        let own = self.group.id();
        let reachable = self.group.reachable_members();
        let role = |voter: bool, id| match (voter, id == leader) {
            (_, true) => "leader",
            (true, false) => "follower",
            (false, false) => "learner",
        };
        self.group
            .members()
            .into_iter()
            .map(|member| NamenodeStatus {
                namenode: member.id,
                role: role(member.voter, member.id).to_owned(),
                matched_index: member.matched_index.unwrap_or(0),
                reachable: member.id == own || reachable.contains(&member.id),
                address: member.address,
                disk_low: member.disk_low,
            })
            .collect()
    }

    pub(super) async fn fsck(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let FsckRequest {
            caller,
            cursor,
            limit,
            name_files,
        } = request.decode()?;
        self.require_superuser(principal, caller, "check the file system")
            .await?;
        self.group.require_leader()?;
        self.group.linearize().await?;
        let store = self.group.state().store();
        let evidence = fsck::Evidence {
            alive: self.controllers.alive_datanodes(),
            failed: self.controllers.failed_replicas(),
        };
        let wish = fsck::Wish { limit, name_files };
        let page =
            cairn_daemon::blocking(move || fsck::page(&store.snapshot(), &cursor, wish, &evidence))
                .await?;
        Ok(Reply::new(&page))
    }

    pub(super) fn metrics(&self) -> Result<Reply, RpcError> {
        Ok(Reply::new(&MetricsReply {
            text: self.metrics.render(),
        }))
    }

    pub(super) async fn greet(&self, request: Request) -> Result<Reply, RpcError> {
        let _: GreetRequest = request.decode()?;
        let in_group = self.group.is_initialized().await.map_err(internal)?;
        Ok(Reply::new(&GreetReply {
            namenode: self.group.id(),
            address: self.address.clone(),
            cluster_id: self.cluster.get().map(|id| id.to_vec()).unwrap_or_default(),
            in_group,
        }))
    }
}

//! What operators ask and do. Questions are cancel-safe; changes may be repeated and end in the same state.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_protocol::ids::{DatanodeId, NamenodeId};
use cairn_protocol::messages::admin::{
    AddNamenodeRequest, AdminReply, DatanodeAdminState, FoundClusterReply, FoundClusterRequest,
    FsckReply, FsckRequest, RemoveNamenodeRequest, SetDatanodeStateRequest, StatusReply,
    StatusRequest, TransferLeadershipRequest,
};
use cairn_protocol::{ErrorCode, Method};
use prost::Message;

use crate::config::ClusterConfig;
use crate::error::{Result, Subject};
use crate::file_system::FileSystem;
use crate::namenode::Namenode;

/// One attempt to found a cluster: the namenode asks the others, and waits for the first election.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(15);

/// Founds a cluster with the first namenode of `config`, which waits, and the others that its settings name; tells its id and its
/// namenodes. One that belongs to a cluster founds nothing and tells that one's. May be repeated.
///
/// # Errors
/// `Unavailable` if one of them does not answer within `patience`; `InvalidArgument` if one belongs to a cluster.
pub async fn found_cluster(
    config: &ClusterConfig,
    patience: Duration,
) -> Result<FoundClusterReply> {
    let caller = config.caller.clone();
    let request = FoundClusterRequest { caller };
    let reply = Namenode::new(config)?
        .call_within(Method::FoundCluster, &request, FOUNDING_TIMEOUT, patience)
        .await;
    reply.map_err(|error| error.into_error(&Subject::Cluster, patience))
}

/// True if every namenode of `config` answers within `patience`, and says that it belongs to no cluster: none will be found there
/// before somebody founds one. Cancel-safe.
///
/// # Errors
/// `InvalidArgument` if `config` names no namenode.
pub async fn belong_to_no_cluster(config: &ClusterConfig, patience: Duration) -> Result<bool> {
    let request = StatusRequest {
        caller: config.caller.clone(),
        local: true,
    };
    let replies: Vec<(String, StatusReply)> = Namenode::new(config)?
        .ask_all(Method::Status, &request, patience)
        .await;
    let all = replies.len() == config.namenodes.len();
    Ok(all && replies.iter().all(|(_, reply)| belongs_to_none(reply)))
}

/// One that has yet to apply what founded its cluster knows the other members already. One that was just added may not, while a snapshot
/// is on its way; but it has heard of a leader, and thus of a term. Only members stand for election, so one that waits has none.
fn belongs_to_none(reply: &StatusReply) -> bool {
    reply.cluster_id.is_empty() && reply.namenodes.is_empty() && reply.term == 0
}

impl FileSystem {
    /// The whole cluster at a glance.
    pub async fn status(&self) -> Result<StatusReply> {
        let request = StatusRequest {
            caller: self.asker(),
            local: false,
        };
        self.ask(Method::Status, &request).await
    }

    /// What the namenodes that can be reached know by themselves, put together: for a look at a cluster that has no leader. `None`
    /// if none answers within `patience`, which each has.
    pub async fn local_status(&self, patience: Duration) -> Option<StatusReply> {
        let request = StatusRequest {
            caller: self.asker(),
            local: true,
        };
        let replies = self
            .core()
            .namenode
            .ask_all(Method::Status, &request, patience);
        together(replies.await)
    }

    /// One page of consistency checks: `cursor` is empty for the first, and comes from the last reply for the next. What is severe
    /// names the files that it affects.
    pub async fn fsck_page(&self, cursor: Vec<u8>, limit: u32) -> Result<FsckReply> {
        self.fsck(cursor, limit, false).await
    }

    /// [`FileSystem::fsck_page`], and what is being repaired names its files, too: a problem for each.
    pub async fn fsck_page_by_file(&self, cursor: Vec<u8>, limit: u32) -> Result<FsckReply> {
        self.fsck(cursor, limit, true).await
    }

    async fn fsck(&self, cursor: Vec<u8>, limit: u32, name_files: bool) -> Result<FsckReply> {
        let request = FsckRequest {
            caller: self.asker(),
            cursor,
            limit,
            name_files,
        };
        self.ask(Method::Fsck, &request).await
    }

    /// Adds the namenode that listens at `address`, in place of `replaces` if that is given.
    pub async fn add_namenode(
        &self,
        address: impl Into<String>,
        replaces: Option<NamenodeId>,
    ) -> Result<()> {
        let request = AddNamenodeRequest {
            caller: self.asker(),
            address: address.into(),
            replaces: replaces.map_or(0, |id| id.0),
        };
        self.ask::<AdminReply>(Method::AddNamenode, &request)
            .await
            .map(|_| ())
    }

    /// Removes a namenode.
    pub async fn remove_namenode(&self, namenode: NamenodeId) -> Result<()> {
        let caller = self.asker();
        let request = RemoveNamenodeRequest {
            caller,
            namenode: namenode.0,
        };
        let patience = self.core().config.timeouts.patience;
        let removed = self
            .core()
            .namenode
            .call_within::<AdminReply>(Method::RemoveNamenode, &request, patience / 6, patience)
            .await;
        match removed {
            Ok(_) => Ok(()),
            // An earlier attempt, whose answer was lost, has done it.
            Err(error) if error.maybe_done && error.failure.code == ErrorCode::NotFound => Ok(()),
            Err(error) => Err(error.into_error(&Subject::Cluster, patience)),
        }
    }

    /// Hands leadership over, to the member that is furthest if `to` is `None`.
    pub async fn transfer_leadership(&self, to: Option<NamenodeId>) -> Result<()> {
        let caller = self.asker();
        let request = TransferLeadershipRequest {
            caller,
            to: to.map_or(0, |id| id.0),
        };
        self.ask::<AdminReply>(Method::TransferLeadership, &request)
            .await
            .map(|_| ())
    }

    /// Decommissions a datanode, takes it into maintenance or back into service.
    pub async fn set_datanode_state(
        &self,
        datanode: DatanodeId,
        state: DatanodeAdminState,
    ) -> Result<()> {
        self.change_datanode(datanode, state, false).await
    }

    /// Forgets a dead or decommissioned datanode altogether.
    pub async fn forget_datanode(&self, datanode: DatanodeId) -> Result<()> {
        self.change_datanode(datanode, DatanodeAdminState::Decommissioned, true)
            .await
    }

    async fn change_datanode(
        &self,
        datanode: DatanodeId,
        state: DatanodeAdminState,
        forget: bool,
    ) -> Result<()> {
        let request = SetDatanodeStateRequest {
            caller: self.asker(),
            datanode: datanode.0,
            state: state as i32,
            forget,
        };
        self.ask::<AdminReply>(Method::SetDatanodeState, &request)
            .await
            .map(|_| ())
    }

    /// An operator's request may take long: an attempt gets more time than others do.
    pub(crate) async fn ask<R: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<R> {
        let patience = self.core().config.timeouts.patience;
        let reply = self
            .core()
            .namenode
            .call_within(method, request, patience / 6, patience)
            .await;
        reply.map_err(|error| error.into_error(&Subject::Cluster, patience))
    }
}

/// What the member that is furthest knows, with those as reachable that have answered.
fn together(replies: Vec<(String, StatusReply)>) -> Option<StatusReply> {
    let answered: BTreeMap<String, u64> = replies
        .iter()
        .map(|(address, reply)| (address.clone(), reply.applied_index))
        .collect();
    let furthest = replies
        .into_iter()
        .map(|(_, reply)| reply)
        .max_by_key(|reply| (reply.applied_index, reply.term));
    let mut status = furthest?;
    for namenode in &mut status.namenodes {
        let applied = answered.get(&namenode.address);
        namenode.reachable = applied.is_some();
        namenode.matched_index = applied.copied().unwrap_or(0);
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{NamenodeStatus, StatusReply};

    use super::{belongs_to_none, together};

    #[test]
    fn who_knows_of_a_term_is_about_to_belong_to_a_cluster() {
        let waits = StatusReply::default();
        assert!(belongs_to_none(&waits));
        for member in [
            StatusReply {
                term: 1,
                ..waits.clone()
            },
            StatusReply {
                namenodes: vec![NamenodeStatus::default()],
                ..waits.clone()
            },
            StatusReply {
                cluster_id: vec![1; 16],
                ..waits
            },
        ] {
            assert!(!belongs_to_none(&member), "{member:?}");
        }
    }

    #[test]
    fn what_members_know_is_put_together() {
        let member = |address: &str| NamenodeStatus {
            address: address.to_owned(),
            ..NamenodeStatus::default()
        };
        let reply = |applied_index| StatusReply {
            applied_index,
            namenodes: ["a", "b", "c"].map(member).to_vec(),
            ..StatusReply::default()
        };
        assert_eq!(together(Vec::new()), None);
        let status = together(vec![("a".to_owned(), reply(4)), ("c".to_owned(), reply(9))]);
        let status = status.unwrap();
        assert_eq!(status.applied_index, 9);
        let told: Vec<_> = status
            .namenodes
            .iter()
            .map(|namenode| (namenode.reachable, namenode.matched_index))
            .collect();
        assert_eq!(told, [(true, 4), (false, 0), (true, 9)]);
    }
}

//! Who asks, and what proves it. With `auth = "simple"` connections are in the clear, and what a request says is believed.
//! Otherwise a node is what its certificate says, and a user is the one whose token comes with the connection or the request.

use cairn_protocol::messages::common::Caller;
use cairn_protocol::net::{Proof, Role};
use cairn_protocol::rpc::{Hello, Peer, RpcError};
use cairn_protocol::user_token::UserTokenKey;
use cairn_protocol::{ErrorCode, Failure, Method};

use super::client::check_caller;
use super::{NamenodeService, grants, internal};
use crate::namespace::GENERATIONS_MAX;
use crate::store::records::{ClusterRecord, UserTokenRecord};
use crate::store::{Read, session, user_token};

/// User and group that nobody is: as whom a node asks that brings no token of a user.
const NOBODY: u32 = 65_534;

/// Who is at the other end of a connection, as far as it is proved.
#[derive(Clone, Debug)]
pub(crate) enum Principal {
    /// Whoever it says, in the clear.
    Believed,
    /// Whoever it says: the superuser in person.
    Operator,
    /// A namenode or datanode. Its gateway asks for users, each with a token of his.
    Node,
    /// The user of a token.
    User(u64, UserTokenRecord),
}

impl Principal {
    /// Whose sessions this one may use; empty where everybody is believed.
    pub fn owner(&self) -> String {
        match self {
            Self::Believed => String::new(),
            Self::Operator => "operator".to_owned(),
            Self::Node => "node".to_owned(),
            Self::User(_, record) => format!("user {}", record.bearer.uid),
        }
    }
}

/// What this member knows of a genuine token that was not revoked.
enum Known {
    Good(u64, UserTokenRecord),
    Expired(u64),
    Nothing,
}

fn unauthenticated(message: impl Into<String>) -> RpcError {
    RpcError::new(ErrorCode::Unauthenticated, message)
}

fn token_wanted() -> RpcError {
    unauthenticated(
        "this cluster wants a token: get one with `dfs token issue`, give it with --token-file or CAIRN_TOKEN",
    )
}

/// The role without whose certificate a method is refused.
fn needed_role(method: Method) -> Option<Role> {
    match method {
        Method::RegisterDatanode | Method::Heartbeat | Method::ReplicaReport => {
            Some(Role::Datanode)
        }
        Method::Greet
        | Method::RaftAppend
        | Method::RaftVote
        | Method::RaftSnapshot
        | Method::RaftTransfer
        | Method::ReadIndex => Some(Role::Namenode),
        _ => None,
    }
}

impl NamenodeService {
    /// Fails if one without a certificate brings no genuine token: nothing that he asks would be answered.
    pub(super) fn admit_guest(&self, theirs: &Hello, proof: Proof) -> Result<(), Failure> {
        if proof != Proof::Anonymous {
            return Ok(());
        }
        if theirs.token.is_empty() {
            return Err(token_wanted().failure);
        }
        // One that has expired, or that this member has not heard of, is looked at again with the first request.
        match self.known_user_token(&theirs.token) {
            Ok(_) => Ok(()),
            Err(refused) => Err(refused.failure),
        }
    }

    /// Who asks, if he may ask for `method` at all.
    pub(super) async fn authenticate(
        &self,
        peer: &Peer,
        method: Method,
    ) -> Result<Principal, RpcError> {
        if let Some(role) = needed_role(method)
            && !peer.proof.allows(role)
        {
            let message = format!(
                "{} needs the certificate of a {}",
                method.name(),
                role.name()
            );
            return Err(unauthenticated(message));
        }
        let roles = match peer.proof {
            Proof::Clear => return Ok(Principal::Believed),
            Proof::Anonymous => None,
            Proof::Certified(roles) => Some(roles),
        };
        let has = |role| roles.is_some_and(|roles| roles.contains(role));
        if has(Role::Operator) {
            return Ok(Principal::Operator);
        }
        if has(Role::Namenode) || has(Role::Datanode) {
            return Ok(Principal::Node);
        }
        if peer.hello.token.is_empty() {
            return Err(token_wanted());
        }
        let (id, record) = self.user_token(&peer.hello.token).await?;
        Ok(Principal::User(id, record))
    }

    /// In whose name a request is carried out. A request's own token counts more than its connection's.
    pub(super) async fn caller(
        &self,
        principal: &Principal,
        claimed: Caller,
    ) -> Result<Caller, RpcError> {
        Ok(self.identify(principal, claimed).await?.0)
    }

    /// Like [`Self::caller`], with the token that says so.
    pub(super) async fn identify(
        &self,
        principal: &Principal,
        mut claimed: Caller,
    ) -> Result<(Caller, Option<(u64, UserTokenRecord)>), RpcError> {
        let token = std::mem::take(&mut claimed.token);
        claimed.session = 0;
        check_caller(&claimed)?;
        let (id, record) = match principal {
            Principal::Believed => return Ok((claimed, None)),
            _ if !token.is_empty() => self.user_token(&token).await?,
            Principal::Operator => return Ok((claimed, None)),
            Principal::Node => {
                let nobody = Caller {
                    uid: NOBODY,
                    gid: NOBODY,
                    umask: claimed.umask,
                    ..Caller::default()
                };
                return Ok((nobody, None));
            }
            Principal::User(id, record) => (*id, record.clone()),
        };
        let caller = if record.acts_for_others {
            claimed
        } else {
            Caller {
                umask: claimed.umask,
                session: 0,
                ..record.bearer.clone()
            }
        };
        Ok((caller, Some((id, record))))
    }

    /// A token's record, if it is genuine and good now.
    pub(super) async fn user_token(
        &self,
        token: &[u8],
    ) -> Result<(u64, UserTokenRecord), RpcError> {
        if let Known::Good(id, record) = self.known_user_token(token)? {
            return Ok((id, record));
        }
        // This member may not have heard of it, or that it was renewed.
        self.group.linearize().await?;
        match self.known_user_token(token)? {
            Known::Good(id, record) => Ok((id, record)),
            Known::Expired(id) => Err(unauthenticated(format!(
                "token {id} has expired: ask for another one (`dfs token issue`)"
            ))),
            Known::Nothing => Err(unauthenticated(
                "token is not known, or expired long ago: ask for another one (`dfs token issue`)",
            )),
        }
    }

    fn known_user_token(&self, token: &[u8]) -> Result<Known, RpcError> {
        let store = self.group.state().store();
        let snapshot = store.snapshot();
        let cluster = snapshot.cluster_record().map_err(internal)?;
        let Some(key) = user_token_key(&cluster) else {
            return Ok(Known::Nothing);
        };
        let id = key.verify(token)?;
        let Some(record) = user_token::get(&snapshot, id).map_err(internal)? else {
            return Ok(Known::Nothing);
        };
        if record.revoked {
            return Err(unauthenticated(format!("token {id} was revoked")));
        }
        let mut above = record.parent;
        for _ in 0..GENERATIONS_MAX {
            if above == 0 {
                break;
            }
            match user_token::get(&snapshot, above).map_err(internal)? {
                Some(parent) if parent.revoked => {
                    let message = format!("token {id} was revoked with token {above}");
                    return Err(unauthenticated(message));
                }
                Some(parent) => above = parent.parent,
                // Over for good, or revoked some time ago.
                None => return Ok(Known::Nothing),
            }
        }
        if grants::cluster_time_ms(&self.clock, &cluster) >= record.expires_at_ms {
            return Ok(Known::Expired(id));
        }
        Ok(Known::Good(id, record))
    }

    /// Fails if the session was opened by somebody else: with it go open chunks, locks and remembered answers.
    /// False if this member does not know the session.
    pub(super) fn check_session(&self, principal: &Principal, id: u64) -> Result<bool, RpcError> {
        if matches!(principal, Principal::Believed) {
            return Ok(true);
        }
        let store = self.group.state().store();
        let record = session::get(&store.snapshot(), id.into()).map_err(internal)?;
        match record {
            Some(record) if record.owner != principal.owner() => Err(RpcError::new(
                ErrorCode::PermissionDenied,
                format!("session {id} is another's"),
            )),
            known => Ok(known.is_some()),
        }
    }

    /// Notes who was refused, and what operators did, where anybody has to prove anything.
    pub(super) fn audit(
        &self,
        peer: &Peer,
        principal: Option<&Principal>,
        method: Method,
        refused: Option<&RpcError>,
    ) {
        if peer.proof == Proof::Clear {
            return;
        }
        let denied = refused.is_some_and(|error| {
            matches!(
                error.code(),
                ErrorCode::Unauthenticated | ErrorCode::PermissionDenied | ErrorCode::NotPermitted
            )
        });
        let is_change = matches!(
            method,
            Method::AddNamenode
                | Method::RemoveNamenode
                | Method::TransferLeadership
                | Method::SetDatanodeState
                | Method::FoundCluster
                | Method::IssueToken
                | Method::ChangeToken
        );
        if !denied && !is_change {
            return;
        }
        let (who, token) = match principal {
            Some(Principal::User(id, record)) => (record.user.clone(), *id),
            Some(principal) => (principal.owner(), 0),
            None => (String::new(), 0),
        };
        let outcome = refused.map_or_else(|| "ok".to_owned(), ToString::to_string);
        tracing::info!(
            target: "audit",
            from = peer.address.as_str(),
            role = peer.hello.role.as_str(),
            operation = method.name(),
            user = who,
            token,
            outcome,
            "request"
        );
    }
}

/// The key of users' tokens; none before the first one was issued.
pub(super) fn user_token_key(cluster: &ClusterRecord) -> Option<UserTokenKey> {
    Some(UserTokenKey {
        cluster: cluster.cluster_id.as_slice().try_into().ok()?,
        secret: cluster.user_token_secret.as_slice().try_into().ok()?,
    })
}

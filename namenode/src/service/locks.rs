//! Waiting for locks. Taking, testing and listing them are an ordinary mutation and ordinary queries.

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::lock::{LockMode, WaitLockRequest};
use cairn_protocol::rpc::{Reply, Request, RpcError};

use super::client::op_error;
use super::principal::Principal;
use super::{NamenodeService, internal};
use crate::namespace::locks;
use crate::store::inode;

impl NamenodeService {
    /// Answered by the leader alone, which hears first of what becomes free.
    pub(super) async fn wait_lock(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: WaitLockRequest = request.decode()?;
        let caller = self.caller(principal, request.caller).await?;
        self.check_session(principal, request.session)?;
        let wish = locks::wish(request.session.into(), &request.lock).map_err(op_error)?;
        if wish.range.mode == LockMode::Unlocked {
            let message = "nobody waits to unlock";
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        self.group.require_leader()?;
        let store = self.group.state().store();
        let record = inode::get(&store.snapshot(), wish.inode).map_err(internal)?;
        locks::check_may_lock(&caller, &wish, record.as_ref()).map_err(op_error)?;
        let wait = Duration::from_millis(request.wait_ms);
        let reply = self.controllers.wait_lock(wish, request.place, wait);
        Ok(Reply::new(&reply.await?))
    }
}

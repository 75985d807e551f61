//! Instructions from the leader: seal, delete, copy, sync, verify. Each is idempotent and names the incarnation that is
//! meant; any other is left alone. A leader whose term is over is refused, so that its late orders do nothing.

use std::future::Future;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::timeout;

use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};
use cairn_protocol::messages::common::ReplicaTarget;
use cairn_protocol::messages::datanode::{
    CopyReplica, DeleteReplica, InstructReply, InstructRequest, InstructResult, Instruction,
    InstructionKind, ReplicaState, SealReplica, SyncReplica, VerifyReplica,
};
use cairn_protocol::{ErrorCode, Failure};

use super::turns::{Turn, Turns};
use crate::transfer::{Copies, CopyOrder, CopySource, Piece, Transfer};

/// Instructions in one request.
const INSTRUCTIONS_MAX: usize = 256;

/// Instructions of one request that are carried out at once.
const AT_ONCE: usize = 8;

/// How long an order is waited for: others of the same request wait for the answer. A seal or sync that takes longer goes on, and is found to
/// be done when the leader repeats the order; a deletion is given up, unless the replica is gone by then.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How much of a replica one step of a verification reads; between steps others get their turn.
const VERIFY_STEP_BYTES: u64 = 8 << 20;

/// The longest chunk that is copied.
const LENGTH_MAX: u64 = 128 << 20;

/// Pieces that one copy is put together from, and the chunks that they are in.
const PIECES_MAX: usize = 4096;
const PIECE_SOURCES_MAX: usize = 256;

/// Carries out what the leader says. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Commands {
    transfer: Transfer,
    copies: Copies,
    turns: Turns,
    disk_timeout: Duration,
}

impl Commands {
    /// No order waits for a disk for longer than `disk_timeout`.
    pub(crate) fn new(transfer: Transfer, copies: Copies, disk_timeout: Duration) -> Self {
        Self {
            transfer,
            copies,
            turns: Turns::default(),
            disk_timeout,
        }
    }

    fn answer_max(&self) -> Duration {
        self.disk_timeout.min(ANSWER_MAX)
    }

    /// Answers `Instruct`.
    pub(crate) async fn instruct(
        &self,
        request: InstructRequest,
    ) -> Result<InstructReply, Failure> {
        self.authorise(&request)?;
        let term = request.term;
        let orders = request.instructions.into_iter();
        let results: Vec<Result<InstructResult, Failure>> =
            stream::iter(orders.map(|order| self.one(term, order)))
                .buffered(AT_ONCE)
                .collect()
                .await;
        let results = results.into_iter().collect::<Result<_, _>>()?;
        Ok(InstructReply { results })
    }

    async fn one(&self, term: u64, instruction: Instruction) -> Result<InstructResult, Failure> {
        // A newer leader may have spoken since the last one.
        self.transfer.cluster.accept_term(term)?;
        let (chunk, incarnation) = (
            ChunkId(instruction.chunk),
            Incarnation(instruction.incarnation),
        );
        let result = self.carry_out(chunk, incarnation, instruction).await;
        if let Err(failure) = &result {
            tracing::debug!(%chunk, %incarnation, error = %failure, "instruction not carried out");
        }
        Ok(InstructResult {
            hanging: result.is_err() && self.transfer.replicas.is_hanging(chunk),
            failure: result.err().map(Into::into),
            state: self.transfer.replicas.find(chunk),
        })
    }

    /// The chunk's turn. The order that has it may wait for a disk that hangs: the next one does not wait behind it.
    async fn turn(&self, chunk: ChunkId) -> Result<Turn, Failure> {
        if let Some(turn) = self.turns.try_take(chunk) {
            return Ok(turn);
        }
        self.transfer.replicas.expect_answering(chunk)?;
        let turn = timeout(self.answer_max(), self.turns.take(chunk)).await;
        turn.map_err(|_| busy(chunk))
    }

    /// What comes of an order, or after a while that it goes on.
    async fn answer(
        &self,
        chunk: ChunkId,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let answer = timeout(self.answer_max(), work).await;
        answer.unwrap_or_else(|_| Err(busy(chunk)))
    }

    fn authorise(&self, request: &InstructRequest) -> Result<(), Failure> {
        let known = self.transfer.cluster.known()?;
        let us = known.identity.datanode;
        if request.datanode != us.0 {
            let text = format!("datanode {} was meant, this one is {us}", request.datanode);
            return Err(Failure::new(ErrorCode::InvalidArgument, text));
        }
        if !known
            .verify(&request.token)?
            .covers_instruct(us, request.term)
        {
            return Err(Failure::new(
                ErrorCode::BadToken,
                "token is not for these instructions",
            ));
        }
        if request.instructions.len() > INSTRUCTIONS_MAX {
            let text = format!(
                "{} instructions, at most {INSTRUCTIONS_MAX}",
                request.instructions.len()
            );
            return Err(Failure::new(ErrorCode::TooLarge, text));
        }
        self.transfer.cluster.accept_term(request.term)
    }

    async fn carry_out(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        instruction: Instruction,
    ) -> Result<(), Failure> {
        let Some(kind) = instruction.kind else {
            return Err(Failure::new(
                ErrorCode::Malformed,
                "an instruction of an unknown kind",
            ));
        };
        let replicas = &self.transfer.replicas;
        match kind {
            InstructionKind::Copy(copy) => self.copy(chunk, incarnation, copy),
            InstructionKind::Verify(VerifyReplica {}) => self.verify(chunk, incarnation).await,
            InstructionKind::Seal(SealReplica { epoch, length }) => {
                let turn = self.turn(chunk).await?;
                let seal = replicas.seal((chunk, incarnation), Epoch(epoch), length, turn);
                self.answer(chunk, seal).await
            }
            InstructionKind::Delete(DeleteReplica {}) => {
                let turn = self.turn(chunk).await?;
                self.copies.cancel(chunk, incarnation);
                let delete = replicas.delete(chunk, incarnation, turn);
                let deleted = self.answer(chunk, delete).await;
                // Only its files are left to be removed: a crash that keeps them leaves a surplus replica.
                let is_left = || {
                    replicas
                        .find(chunk)
                        .is_some_and(|it| it.incarnation == incarnation.0)
                };
                match deleted {
                    Err(failure) if failure.code == ErrorCode::Overloaded && !is_left() => Ok(()),
                    other => other,
                }
            }
            InstructionKind::Sync(SyncReplica { through }) => {
                let turn = self.turn(chunk).await?;
                let sync = replicas.sync(chunk, incarnation, through, turn);
                self.answer(chunk, sync).await
            }
        }
    }

    /// Success means that the copy is there or is being made; the state in the reply, or the next heartbeat, tells.
    fn copy(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        copy: CopyReplica,
    ) -> Result<(), Failure> {
        if let Some(state) = self.here(chunk, incarnation)? {
            let there = state.sealed && (state.epoch, state.length) == (copy.epoch, copy.length);
            return if there {
                Ok(())
            } else {
                Err(ErrorCode::AlreadyExists.into())
            };
        }
        if copy.length > LENGTH_MAX {
            let text = format!("a replica of {} bytes, at most {LENGTH_MAX}", copy.length);
            return Err(Failure::new(ErrorCode::InvalidArgument, text));
        }
        if copy.pieces.len() > PIECES_MAX || copy.piece_sources.len() > PIECE_SOURCES_MAX {
            let text = format!(
                "{} pieces of {} chunks, at most {PIECES_MAX} of {PIECE_SOURCES_MAX}",
                copy.pieces.len(),
                copy.piece_sources.len()
            );
            return Err(Failure::new(ErrorCode::TooLarge, text));
        }
        self.copies.start(copy_order(chunk, incarnation, copy))
    }

    async fn verify(&self, chunk: ChunkId, incarnation: Incarnation) -> Result<(), Failure> {
        if self.here(chunk, incarnation)?.is_none() {
            return Err(Failure::new(ErrorCode::NoReplica, format!("chunk {chunk}")));
        }
        let mut from = Some(0);
        while let Some(offset) = from {
            let replicas = &self.transfer.replicas;
            let step = replicas.verify_step(chunk, offset, VERIFY_STEP_BYTES);
            let step = timeout(self.disk_timeout, step).await;
            from = step.map_err(|_| busy(chunk))??.next;
        }
        Ok(())
    }

    /// The replica, if it is here; another incarnation of it is a failure.
    fn here(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
    ) -> Result<Option<ReplicaState>, Failure> {
        match self
            .transfer
            .replicas
            .find(chunk)
            .filter(|state| !state.gone)
        {
            Some(state) if state.incarnation != incarnation.0 => {
                let text = format!(
                    "chunk {chunk}: the replica here is incarnation {}",
                    state.incarnation
                );
                Err(Failure::new(ErrorCode::PreconditionFailed, text))
            }
            found => Ok(found),
        }
    }
}

/// The leader asks again.
fn busy(chunk: ChunkId) -> Failure {
    let text = format!("chunk {chunk}: an order waits for the disk");
    Failure::new(ErrorCode::Overloaded, text)
}

/// A copy of a whole replica is a copy of one piece.
fn copy_order(chunk: ChunkId, incarnation: Incarnation, copy: CopyReplica) -> CopyOrder {
    let addresses = |sources: Vec<ReplicaTarget>| {
        let datanodes = sources.into_iter().map(|source| source.datanode);
        datanodes.collect()
    };
    let (sources, pieces) = if copy.pieces.is_empty() {
        let source = CopySource {
            chunk,
            datanodes: addresses(copy.sources),
            token: copy.token,
        };
        let whole = Piece {
            source: 0,
            offset: 0,
            length: copy.length,
        };
        (vec![source], vec![whole])
    } else {
        let sources = copy.piece_sources.into_iter().map(|source| CopySource {
            chunk: ChunkId(source.chunk),
            datanodes: addresses(source.sources),
            token: source.token,
        });
        let pieces = copy.pieces.iter().map(|piece| Piece {
            source: piece.source_index as usize,
            offset: piece.offset,
            length: piece.length.min(LENGTH_MAX),
        });
        (sources.collect(), pieces.collect())
    };
    CopyOrder {
        chunk,
        incarnation,
        epoch: Epoch(copy.epoch),
        length: copy.length,
        sources,
        pieces,
    }
}

//! Datanodes: the first of a pipeline writes for all, since they share their memory.

use std::sync::Arc;

use bytes::Bytes;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::messages::transfer::{
    OpenWrite, OpenWriteReply, PacketAck, PacketHeader, ReadReplica, ReadReply,
};
use cairn_protocol::rpc::{
    FrameReceiver, FrameSender, FramedStream, Hello, Peer, Reply, Request, RpcError, Service,
};
use cairn_protocol::{ErrorCode, Failure, Method};
use prost::Message;
use tokio::sync::mpsc;

use super::{CLUSTER, Shared};

pub struct FakeDatanode {
    pub shared: Arc<Shared>,
    pub id: u64,
}

impl Service for FakeDatanode {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("datanode", Some(CLUSTER), self.id))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        if request.method != Method::ReadReplica as u16 {
            return Err(ErrorCode::NotSupported.into());
        }
        let request: ReadReplica = request.decode()?;
        let is_silent = self.shared.state().faults.silent.contains(&self.id);
        if is_silent {
            std::future::pending::<()>().await;
        }
        Ok(self.read(&request)?)
    }

    async fn stream(&self, _peer: &Peer, stream: FramedStream) {
        let (mut sender, mut receiver) = stream.split();
        // A pipeline ends with its connection, or with a failure that was told.
        let _ = self.pipeline(&mut sender, &mut receiver).await;
    }
}

impl FakeDatanode {
    fn read(&self, request: &ReadReplica) -> Result<Reply, Failure> {
        let mut state = self.shared.state();
        state.reads += 1;
        let chunk = state
            .chunks
            .get(&request.chunk)
            .ok_or(ErrorCode::NoReplica)?;
        if request.token != b"read" {
            return Err(ErrorCode::BadToken.into());
        }
        let (start, end) = (request.offset, request.offset + u64::from(request.length));
        let mut header = ReadReply::default();
        let mut payload = Vec::new();
        let mut at = 0_u64;
        for &(length, crc) in &chunk.blocks {
            let block_end = at + u64::from(length);
            if at < end && block_end > start {
                if payload.is_empty() {
                    header.offset = at;
                }
                header.block_lengths.push(length);
                header.block_crcs.push(crc);
                payload.extend_from_slice(&chunk.data[at as usize..block_end as usize]);
            }
            at = block_end;
        }
        if state.faults.corrupt.contains(&self.id)
            && let Some(byte) = payload.last_mut()
        {
            *byte ^= 1;
        }
        Ok(Reply::new(&header).with_payload(payload.into()))
    }

    async fn pipeline(
        &self,
        sender: &mut FrameSender,
        receiver: &mut FrameReceiver,
    ) -> Result<(), RpcError> {
        let Some(frame) = receiver.recv().await? else {
            return Ok(());
        };
        let open: OpenWrite = frame.into_reply()?.decode()?;
        let dead = {
            let state = self.shared.state();
            let ids = open.pipeline.iter().map(|target| target.datanode.datanode);
            ids.into_iter().find(|id| state.faults.dead.contains(id))
        };
        let reply = OpenWriteReply {
            failed_datanode: dead.unwrap_or(0),
            code: dead.map_or(0, |_| ErrorCode::ConnectionLost as u32),
            message: String::new(),
        };
        sender.send(frame_of(Method::OpenWrite, &reply)).await?;
        if dead.is_some() {
            return Ok(());
        }
        let (acks, mut waiting) = mpsc::unbounded_channel::<(PacketAck, u64)>();
        let shared = self.shared.clone();
        let acked = std::sync::atomic::AtomicU64::new(open.start);
        let send_acks = async {
            while let Some((ack, end)) = waiting.recv().await {
                if ack.code == 0 {
                    shared.acks.acquire().await.expect("never closed").forget();
                }
                acked.store(end, std::sync::atomic::Ordering::SeqCst);
                if sender
                    .send(frame_of(Method::PacketAck, &ack))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        };
        let take_packets = async {
            while let Ok(Some(frame)) = receiver.recv().await {
                let (ack, end, over) = self.packet(&open, frame);
                {
                    let mut state = self.shared.state();
                    let unacked = end - acked.load(std::sync::atomic::Ordering::SeqCst);
                    state.unacked_bytes_max = state.unacked_bytes_max.max(unacked);
                }
                if acks.send((ack, end)).is_err() || over {
                    break;
                }
            }
            drop(acks);
        };
        tokio::join!(take_packets, send_acks);
        Ok(())
    }

    /// Takes one packet: the acknowledgement, the length of the replica, and whether the stream is over.
    fn packet(&self, open: &OpenWrite, frame: Frame) -> (PacketAck, u64, bool) {
        let payload: Bytes = frame.payload.clone();
        let header = PacketHeader::decode(frame.header).expect("the client sends packets");
        let mut state = self.shared.state();
        state.packets += 1;
        let number = state.packets;
        if let Some((at, datanode)) = state.faults.fail_at_packet
            && number >= at
        {
            state.faults.fail_at_packet = None;
            let ack = PacketAck {
                sequence: header.sequence - 1,
                failed_datanode: datanode,
                code: ErrorCode::DiskFailed as u32,
                message: String::new(),
            };
            let end = state.chunks[&open.chunk].data.len() as u64;
            return (ack, end, true);
        }
        let chunk = state
            .chunks
            .get_mut(&open.chunk)
            .expect("chunks were allocated");
        assert_eq!(
            chunk.data.len() as u64,
            header.offset_in_chunk,
            "packets follow each other"
        );
        let mut at = 0;
        for (&length, &crc) in header.block_lengths.iter().zip(&header.block_crcs) {
            assert!(length <= 64 << 10);
            assert_eq!(crc32c(&payload[at..at + length as usize]), crc);
            chunk.blocks.push((length, crc));
            at += length as usize;
        }
        assert_eq!(at, payload.len());
        chunk.data.extend_from_slice(&payload);
        assert!(chunk.data.len() as u64 <= open.capacity);
        if header.sync {
            chunk.synced = chunk.data.len() as u64;
        }
        let ack = PacketAck {
            sequence: header.sequence,
            ..PacketAck::default()
        };
        (ack, chunk.data.len() as u64, header.last)
    }
}

fn frame_of(method: Method, message: &impl Message) -> Frame {
    Frame {
        method: method as u16,
        flags: Flags::REPLY,
        request_id: 0,
        header: message.encode_to_vec().into(),
        payload: Bytes::new(),
    }
}

//! The same code over the simulator's network: a partition, a crash, and the way back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    ConnectionOptions, FramedStream, Hello, Peer, Peers, Reply, Request, RpcError, ServerOptions,
    Service, serve,
};
use crate::{ErrorCode, Failure, net};

const TIMEOUT: Duration = Duration::from_millis(500);

struct Echo;

impl Service for Echo {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("server", None, 1))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        Ok(Reply {
            header: request.header,
            payload: request.payload,
        })
    }

    async fn stream(&self, _peer: &Peer, _stream: FramedStream) {}
}

#[test]
fn calls_survive_a_partition_and_a_restart_of_the_server() {
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(60))
        .build();
    sim.host("server", || async {
        let listener = net::listen("0.0.0.0:7000").await?;
        serve(
            listener,
            Arc::new(Echo),
            ServerOptions::default(),
            CancellationToken::new(),
        )
        .await?;
        Ok(())
    });
    sim.client("client", async {
        let options = ConnectionOptions {
            silence_max: Duration::from_secs(1),
            ..ConnectionOptions::default()
        };
        let peers = Peers::new(Hello::new("client", None, 0), options);
        let payload = Bytes::from(vec![5; 100_000]);
        let call = || peers.call("server:7000", 9, &(), payload.clone(), TIMEOUT);
        assert_eq!(call().await?.payload, payload);

        turmoil::partition("client", "server");
        let mut errors = Vec::new();
        for _ in 0..4 {
            errors.push(call().await.unwrap_err().code());
        }
        assert_eq!(errors[0], ErrorCode::TimedOut);
        assert!(errors.iter().all(|code| code.is_retryable()), "{errors:?}");

        turmoil::repair("client", "server");
        while let Err(error) = call().await {
            assert!(error.code().is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    });
    sim.run().expect("the client succeeds");

    sim.bounce("server");
    sim.client("second", async {
        let peers = Peers::new(Hello::new("client", None, 0), ConnectionOptions::default());
        assert_eq!(
            peers
                .call("server:7000", 9, &(), Bytes::new(), TIMEOUT)
                .await?,
            Reply::default()
        );
        Ok(())
    });
    sim.run().expect("the second client succeeds");
}

//! Gateways of the cluster's parts. The simulator has none.

#[cfg(not(cairn_sim))]
pub(super) use real::{listen, serve};
#[cfg(cairn_sim)]
pub(super) use simulated::{listen, serve};

#[cfg(not(cairn_sim))]
mod real {
    use std::time::Duration;

    use cairn_client::ClusterConfig;
    use cairn_daemon::Tasks;
    use cairn_daemon::telemetry::Metrics;
    use cairn_gateway::{Gateway, GatewayOptions, HttpListener};
    use cairn_protocol::messages::common::Caller;

    use crate::harness::ClusterOptions;

    /// A socket for a gateway, if there is to be one.
    pub(in crate::harness) async fn listen(
        options: &ClusterOptions,
    ) -> anyhow::Result<Option<HttpListener>> {
        match options.http {
            Some(_) => Ok(Some(HttpListener::on("127.0.0.1:0").await?)),
            None => Ok(None),
        }
    }

    /// A gateway.
    pub(in crate::harness) fn serve(
        listening: HttpListener,
        options: &ClusterOptions,
        namenodes: Vec<String>,
        metrics: Metrics,
        tasks: &Tasks,
    ) {
        let mut cluster = ClusterConfig::new(namenodes, Caller::default());
        cluster.client_name = "gateway".to_owned();
        cluster.timeouts.patience = Duration::from_secs(20);
        let settings = options.http.clone().unwrap_or_default();
        let options = GatewayOptions {
            cluster,
            metrics,
            settings,
        };
        Gateway::start(listening, options, tasks);
    }
}

#[cfg(cairn_sim)]
mod simulated {
    use std::net::SocketAddr;

    use cairn_daemon::Tasks;
    use cairn_daemon::telemetry::Metrics;

    use crate::harness::ClusterOptions;

    /// What never listens.
    pub(in crate::harness) enum Nothing {}

    impl Nothing {
        pub(in crate::harness) fn bound(&self) -> SocketAddr {
            match *self {}
        }
    }

    pub(in crate::harness) async fn listen(_: &ClusterOptions) -> anyhow::Result<Option<Nothing>> {
        Ok(None)
    }

    pub(in crate::harness) fn serve(
        nothing: Nothing,
        _: &ClusterOptions,
        _: Vec<String>,
        _: Metrics,
        _: &Tasks,
    ) {
        match nothing {}
    }
}

//! Gateways of the cluster's parts. The simulator has none.

use std::sync::Arc;

/// Tells whether a namenode leads.
pub(super) type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

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

    use super::Leads;
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
        leads: Option<Leads>,
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
            leads,
        };
        Gateway::start(listening, options, tasks);
    }
}

#[cfg(cairn_sim)]
mod simulated {
    use std::net::SocketAddr;

    use cairn_daemon::Tasks;
    use cairn_daemon::telemetry::Metrics;

    use super::Leads;
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
        _: Option<Leads>,
        _: &Tasks,
    ) {
        match nothing {}
    }
}

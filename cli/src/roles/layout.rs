//! The folder of `dfs up`: which roles there are, where they listen, and their settings.
//!
//! ```text
//! DIR/up.toml               the layout: addresses of all roles, fixed when the folder is new
//! DIR/config/<role>.toml    what each role is started with, written anew each time
//! DIR/<role>/               its data: namenode-1, datanode-1, …
//! DIR/security/             with --secure: the CA, and certificates of all roles and of an operator
//! DIR/logs/<role>.log       with --processes: what it says; DIR/pids/<role>: its process
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cairn_daemon::config::{self, TracingSettings};
use cairn_protocol::net;
use serde::{Deserialize, Serialize};

use super::security;
use crate::cluster::DEFAULT_PORT;
use crate::commands::up::Up;
use crate::users;

/// The first datanode's port is this much above the first namenode's.
const DATANODE_PORTS: u16 = 10;

/// `up.toml`. Namenodes know each other by these addresses, so they stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    pub(super) namenodes: Vec<String>,
    pub(super) datanodes: Vec<String>,
    /// Of the first namenode; the others follow. Empty for none.
    pub(super) http: String,
    /// The cluster exists. From then on a namenode without data is one that lost it, and nothing is founded any more.
    #[serde(default)]
    pub(super) founded: bool,
    /// With TLS and tokens: certificates are in DIR/security.
    #[serde(default)]
    pub(super) secure: bool,
    /// Where traces go this time.
    #[serde(skip)]
    pub(super) tracing: TracingSettings,
}

/// One role of the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// `namenode-1`.
    pub(crate) name: String,
    /// `namenode` or `datanode`.
    pub(crate) kind: &'static str,
    /// Where it listens.
    pub(super) address: String,
    /// Its settings.
    pub(crate) config: PathBuf,
}

/// The folder's layout, or a new one as the options say. Writes nothing.
pub(super) async fn layout(up: &Up, folder: &Path) -> anyhow::Result<Layout> {
    let path = folder.join("up.toml");
    let mut layout = match path.exists() {
        true => known_layout(up, folder, &path).await?,
        false => {
            expect_empty(folder)?;
            new_layout(up).await?
        }
    };
    layout.tracing.otlp = up.otlp.clone().unwrap_or_default();
    layout.tracing.check()?;
    Ok(layout)
}

async fn known_layout(up: &Up, folder: &Path, path: &Path) -> anyhow::Result<Layout> {
    let known: Layout = config::load(path)?;
    let name = |index: usize| format!("namenode-{}", index + 1);
    let held = (0..known.namenodes.len()).any(|index| folder.join(name(index)).exists());
    match (known.founded, held) {
        // A start that failed, because of a port perhaps, has left a layout and no data: it is chosen anew.
        (false, false) => new_layout(up).await,
        (true, false) => bail!(
            "{} has lost its namenodes' directories, and with them the names of all its files: put them back, or use another \
             folder",
            folder.display()
        ),
        (_, true) => existing_layout(up, path),
    }
}

fn expect_empty(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let name = entry
            .with_context(|| format!("read {}", folder.display()))?
            .file_name();
        if name != "LOCK" && name != "lost+found" {
            bail!(
                "{} holds {} and no cluster: use another folder, or an empty one",
                folder.display(),
                name.display()
            );
        }
    }
    Ok(())
}

fn existing_layout(up: &Up, path: &Path) -> anyhow::Result<Layout> {
    let mut layout: Layout = config::load(path)?;
    let count = layout.namenodes.len();
    if up
        .namenodes
        .is_some_and(|asked| usize::from(asked) != count)
    {
        bail!(
            "{}: this cluster has {count} namenodes; use another folder for another number",
            path.display()
        );
    }
    if up.secure && !layout.secure {
        bail!(
            "{}: this cluster believes everybody; use another folder for a secure one",
            path.display()
        );
    }
    let first = layout.namenodes.first().map_or("", String::as_str);
    let port = port_of(first)?;
    if up.port.is_some_and(|asked| asked != 0 && asked != port) {
        bail!(
            "{}: this cluster listens on port {port}; use another folder for another port",
            path.display()
        );
    }
    let datanodes = layout.datanodes.len();
    let asked = up.datanodes.map_or(datanodes, usize::from);
    if asked < datanodes {
        bail!(
            "{}: this cluster has {datanodes} datanodes with data on them; ask for as many or more",
            path.display()
        );
    }
    for _ in datanodes..asked {
        let last = layout
            .datanodes
            .last()
            .map_or(Ok(port + DATANODE_PORTS - 1), |last| port_of(last))?;
        layout.datanodes.push(loopback(last + 1));
    }
    if let Some(http) = up.http {
        layout.http = if http == 0 {
            String::new()
        } else {
            loopback(http)
        };
    }
    Ok(layout)
}

async fn new_layout(up: &Up) -> anyhow::Result<Layout> {
    let (namenodes, datanodes) = (up.namenodes.unwrap_or(1), up.datanodes.unwrap_or(3));
    let http = match up.http.unwrap_or(9870) {
        0 => String::new(),
        port => loopback(port),
    };
    let port = up.port.unwrap_or(DEFAULT_PORT);
    if port > 0 {
        let range = |first: u16, count: u16| (first..first + count).map(loopback).collect();
        let datanodes = range(port + DATANODE_PORTS, datanodes);
        return Ok(Layout {
            namenodes: range(port, namenodes),
            datanodes,
            http,
            founded: false,
            secure: up.secure,
            tracing: TracingSettings::default(),
        });
    }
    // All at once, so that none is given twice. The console gets one of them too, unless it was asked for elsewhere.
    let free_http = up.http.is_none();
    let mut listeners = Vec::new();
    let mut free = Vec::new();
    for _ in 0..namenodes + datanodes + u16::from(free_http) {
        let listener = net::listen("127.0.0.1:0")
            .await
            .context("find a free port")?;
        free.push(
            listener
                .local_addr()
                .context("find a free port")?
                .to_string(),
        );
        listeners.push(listener);
    }
    let http = if free_http {
        free.pop().unwrap_or_default()
    } else {
        http
    };
    let datanodes = free.split_off(namenodes.into());
    Ok(Layout {
        namenodes: free,
        datanodes,
        http,
        founded: false,
        secure: up.secure,
        tracing: TracingSettings::default(),
    })
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn port_of(address: &str) -> anyhow::Result<u16> {
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    port.filter(|port| *port < 65_500)
        .with_context(|| format!("up.toml: `{address}` is not host:port"))
}

impl Layout {
    /// Keeps it as `up.toml`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("up.toml");
        let text = toml::to_string(self).context("write the layout")?;
        let text =
            format!("# Made by `dfs up`. Namenodes know each other by these addresses.\n{text}");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// All, for a look whether they are free.
    pub(super) fn addresses(&self) -> impl Iterator<Item = String> {
        let http = (0..self.namenodes.len()).map(|index| self.namenode_http(index));
        let all = self.namenodes.iter().chain(&self.datanodes).cloned();
        all.chain(http).filter(|address| !address.is_empty())
    }

    /// Where a namenode listens for HTTP.
    pub(super) fn namenode_http(&self, index: usize) -> String {
        match (port_of(&self.http), u16::try_from(index)) {
            (Ok(port), Ok(index)) if port > 0 => loopback(port + index),
            _ => String::new(),
        }
    }

    /// Everybody on this machine is believed, as with the other ports of the cluster: they listen on 127.0.0.1 only.
    fn gateway_config(folder: &Path, name: &str) -> toml::Value {
        let mut gateway = toml::Table::new();
        gateway.insert("auth".to_owned(), "simple".into());
        let audit = folder.join("logs").join(format!("{name}.audit.log"));
        gateway.insert("audit_log".to_owned(), audit.display().to_string().into());
        gateway.into()
    }

    fn add_tracing(&self, file: &mut toml::Table) {
        let tracing = toml::Table::try_from(&self.tracing);
        let tracing = tracing.expect("a text and a number");
        file.insert("tracing".to_owned(), tracing.into());
    }

    fn add_security(&self, file: &mut toml::Table, folder: &Path) {
        if self.secure {
            let security = toml::Table::try_from(security::of(folder, security::NODE));
            let security = security.expect("an enum and paths that are UTF-8");
            file.insert("security".to_owned(), security.into());
        }
    }

    /// A laptop's settings: little memory, short times, and a root that everybody can write to and that protects names from others, like /tmp.
    fn namenode_config(&self, index: usize, folder: &Path) -> String {
        let mut file = toml::Table::new();
        let directory = folder.join(format!("namenode-{}", index + 1));
        file.insert(
            "directory".to_owned(),
            directory.display().to_string().into(),
        );
        file.insert("listen".to_owned(), self.namenodes[index].clone().into());
        file.insert("advertise".to_owned(), self.namenodes[index].clone().into());
        file.insert("namenodes".to_owned(), self.namenodes.clone().into());
        file.insert("http".to_owned(), self.namenode_http(index).into());
        file.insert("cache".to_owned(), "64 MiB".into());
        let mut cluster = toml::Table::new();
        let replication = i64::try_from(self.datanodes.len().min(3)).unwrap_or(3);
        cluster.insert("replication".to_owned(), replication.into());
        cluster.insert("datanode_dead_after".to_owned(), "10s".into());
        cluster.insert("session_ttl".to_owned(), "15s".into());
        cluster.insert("reclaim_grace".to_owned(), "15s".into());
        cluster.insert("root_mode".to_owned(), 0o1777.into());
        let own = users::own_caller();
        file.insert("reserve".to_owned(), "256 MiB".into());
        cluster.insert("root_uid".to_owned(), i64::from(own.uid).into());
        cluster.insert("root_gid".to_owned(), i64::from(own.gid).into());
        file.insert("cluster".to_owned(), cluster.into());
        let gateway = Self::gateway_config(folder, &format!("namenode-{}", index + 1));
        file.insert("gateway".to_owned(), gateway);
        self.add_security(&mut file, folder);
        self.add_tracing(&mut file);
        file.to_string()
    }

    fn datanode_config(&self, index: usize, folder: &Path) -> String {
        let mut file = toml::Table::new();
        let volume = folder.join(format!("datanode-{}", index + 1));
        file.insert("namenodes".to_owned(), self.namenodes.clone().into());
        file.insert("listen".to_owned(), self.datanodes[index].clone().into());
        file.insert(
            "volumes".to_owned(),
            vec![volume.display().to_string()].into(),
        );
        file.insert("reserve".to_owned(), "256 MiB".into());
        file.insert("write_memory".to_owned(), "256 MiB".into());
        // Any free port: clients are told by the namenodes.
        let http = if self.http.is_empty() {
            String::new()
        } else {
            loopback(0)
        };
        file.insert("http".to_owned(), http.into());
        let gateway = Self::gateway_config(folder, &format!("datanode-{}", index + 1));
        file.insert("gateway".to_owned(), gateway);
        self.add_security(&mut file, folder);
        self.add_tracing(&mut file);
        file.to_string()
    }
}

pub(super) fn write_configs(layout: &Layout, folder: &Path) -> anyhow::Result<Vec<Role>> {
    let directory = folder.join("config");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let namenodes = (0..layout.namenodes.len())
        .map(|index| ("namenode", index, layout.namenode_config(index, folder)));
    let datanodes = (0..layout.datanodes.len())
        .map(|index| ("datanode", index, layout.datanode_config(index, folder)));
    namenodes
        .chain(datanodes)
        .map(|(kind, index, text)| {
            let name = format!("{kind}-{}", index + 1);
            let config = directory.join(format!("{name}.toml"));
            let text = format!("# Written by `dfs up` each time it starts.\n{text}");
            fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
            let address = match kind {
                "namenode" => &layout.namenodes,
                _ => &layout.datanodes,
            }[index]
                .clone();
            Ok(Role {
                name,
                kind,
                address,
                config,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use cairn_daemon::config::parse;
    use cairn_datanode::DatanodeConfig;
    use cairn_namenode::config::NamenodeConfig;

    use super::{Layout, TracingSettings, existing_layout, expect_empty, layout, new_layout};
    use crate::commands::up::Up;

    fn up(dir: &Path) -> Up {
        Up {
            dir: dir.to_path_buf(),
            namenodes: None,
            datanodes: None,
            processes: false,
            restart: false,
            secure: false,
            port: None,
            http: None,
            otlp: None,
        }
    }

    #[tokio::test]
    async fn the_layout_is_chosen_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut up = up(directory.path());
        up.namenodes = Some(3);
        up.port = Some(7000);
        let first = layout(&up, directory.path()).await.unwrap();
        first.write(directory.path()).unwrap();
        assert_eq!(
            first.namenodes,
            ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]
        );
        assert_eq!(
            first.datanodes,
            ["127.0.0.1:7010", "127.0.0.1:7011", "127.0.0.1:7012"]
        );
        // Nothing was started with it yet.
        up.port = Some(7100);
        assert_eq!(
            layout(&up, directory.path()).await.unwrap().namenodes[0],
            "127.0.0.1:7100"
        );
        up.port = Some(7000);
        assert_eq!(layout(&up, directory.path()).await.unwrap(), first);
        // A cluster whose namenodes are all gone is not founded anew beside its datanodes.
        let founded = Layout {
            founded: true,
            ..first.clone()
        };
        founded.write(directory.path()).unwrap();
        let error = layout(&up, directory.path()).await.unwrap_err().to_string();
        assert!(error.contains("has lost its namenodes"), "{error}");
        let first = founded;
        std::fs::create_dir(directory.path().join("namenode-2")).unwrap();
        (up.namenodes, up.port) = (None, None);
        assert_eq!(layout(&up, directory.path()).await.unwrap(), first);
        up.datanodes = Some(4);
        let larger = layout(&up, directory.path()).await.unwrap();
        assert_eq!(larger.datanodes[3], "127.0.0.1:7013");
        let path = directory.path().join("up.toml");
        assert_eq!(existing_layout(&up, &path).unwrap(), larger);
        larger.write(directory.path()).unwrap();
        up.datanodes = Some(3);
        assert!(
            existing_layout(&up, &path)
                .unwrap_err()
                .to_string()
                .contains("4 datanodes")
        );
        up.namenodes = Some(1);
        assert!(
            existing_layout(&up, &path)
                .unwrap_err()
                .to_string()
                .contains("3 namenodes")
        );
    }

    #[tokio::test]
    async fn the_ports_are_those_of_the_manual_if_none_are_asked_for() {
        let layout = new_layout(&up(Path::new("x"))).await.unwrap();
        let all: Vec<String> = layout.addresses().collect();
        let ports = [9000, 9010, 9011, 9012, 9870];
        assert_eq!(all, ports.map(|port| format!("127.0.0.1:{port}")));
    }

    #[tokio::test]
    async fn free_ports_are_all_different() {
        let mut up = up(Path::new("x"));
        (up.port, up.namenodes, up.http) = (Some(0), Some(5), Some(0));
        let layout = new_layout(&up).await.unwrap();
        let mut all: Vec<String> = layout.addresses().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), layout.http.as_str()), (8, ""));
        // The console would else be where the one of another cluster is.
        up.http = None;
        let layout = new_layout(&up).await.unwrap();
        let (_, port) = layout.http.rsplit_once(':').unwrap();
        assert!(port != "9870" && port.parse::<u16>().unwrap() > 0);
        assert_eq!((layout.namenodes.len(), layout.datanodes.len()), (5, 3));
    }

    #[test]
    fn the_settings_that_are_written_are_understood() {
        let layout = Layout {
            namenodes: vec!["127.0.0.1:1".to_owned()],
            datanodes: vec!["127.0.0.1:2".to_owned(), "127.0.0.1:3".to_owned()],
            http: String::new(),
            founded: true,
            secure: false,
            tracing: TracingSettings::default(),
        };
        let folder = PathBuf::from("/a \"b\"\\c");
        let text = layout.namenode_config(0, &folder);
        let namenode: NamenodeConfig = parse(&text, Path::new("n.toml")).unwrap();
        namenode.validate().unwrap();
        assert_eq!(namenode.directory, folder.join("namenode-1"));
        assert_eq!(
            (namenode.cluster.replication, namenode.cluster.root_mode),
            (2, 0o1777)
        );
        let text = layout.datanode_config(1, &folder);
        let datanode: DatanodeConfig = parse(&text, Path::new("d.toml")).unwrap();
        datanode.validate().unwrap();
        assert_eq!(
            (datanode.listen.as_str(), datanode.volumes.len()),
            ("127.0.0.1:3", 1)
        );
    }

    #[test]
    fn foreign_folders_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        expect_empty(directory.path()).unwrap();
        std::fs::write(directory.path().join("thesis.txt"), "x").unwrap();
        let error = expect_empty(directory.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.txt"), "{error}");
    }
}

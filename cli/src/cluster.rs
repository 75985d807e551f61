//! Where the cluster is: `--cluster`, else `CAIRN_CLUSTER`, else a config file, else the default of `dfs up`. And connecting
//! to it with an error that says what was tried and what to do.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use cairn_client::{ClusterConfig, Error, FileSystem, Timeouts, belong_to_no_cluster};
use cairn_daemon::config::{Auth, SecuritySettings};
use cairn_daemon::users::Users;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::net::{self, Tls};
use cairn_protocol::user_token::UserToken;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::arguments::Global;
use crate::session::{Session, complain, without_number};
use crate::{users, waiting};

/// Port of a namenode unless an address says otherwise.
pub(crate) const DEFAULT_PORT: u16 = 9000;

/// For one attempt to reach one namenode.
const ATTEMPT: Duration = Duration::from_secs(2);

/// As far as an operation is concerned. Who waits so long waits for a cluster to be founded, too.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// For a look at why nobody answers.
const LOOK: Duration = Duration::from_millis(500);

/// How long a cluster that somebody named may take to come up: a restart takes two seconds.
const STARTING: Duration = Duration::from_secs(6);

/// `cluster.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    /// `host:port` of at least one namenode.
    namenodes: Vec<String>,
    /// Whom to believe, and what an operator shows.
    #[serde(default)]
    security: SecuritySettings,
    /// A file with a token.
    #[serde(default)]
    token_file: Option<PathBuf>,
}

/// Addresses, what proves who is who, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) namenodes: Vec<String>,
    security: SecuritySettings,
    token_file: Option<PathBuf>,
    /// Whether an option or a variable named it, as opposed to a file for all commands.
    token_file_is_asked: bool,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Asked,
    File(PathBuf),
    Default,
}

impl Cluster {
    /// What the options, the environment or a file say.
    pub(crate) fn find(global: &Global) -> anyhow::Result<Self> {
        let mut found = Self::find_in(&global.cluster, &config_files())?;
        if let Some(ca) = &global.ca {
            found.security = SecuritySettings {
                auth: Auth::Tokens,
                ca: ca.clone(),
                ..SecuritySettings::default()
            };
        }
        if global.is_token_typed {
            found.security.certificate = PathBuf::new();
            found.security.key = PathBuf::new();
        } else if let (Some(certificate), Some(key)) = (&global.certificate, &global.key) {
            found.security.certificate.clone_from(certificate);
            found.security.key.clone_from(key);
        }
        if global.token_file.is_some() {
            found.token_file.clone_from(&global.token_file);
            found.token_file_is_asked = true;
        }
        Ok(found)
    }

    /// How a client of this cluster proves who it is, and knows whom it talks to.
    pub(crate) fn secure(&self, config: ClusterConfig) -> anyhow::Result<ClusterConfig> {
        let Some(files) = self.security.read_for_client()? else {
            return Ok(config);
        };
        Ok(ClusterConfig {
            tls: Some(Tls::new(&files.ca, files.own()).context("[security]")?),
            token: self.token()?,
            ..config
        })
    }

    fn token(&self) -> anyhow::Result<Option<UserToken>> {
        let variable = std::env::var("CAIRN_TOKEN").ok();
        let variable = variable.filter(|text| !text.is_empty());
        match (variable, &self.token_file) {
            // What was said for this command comes before what holds for all.
            (_, Some(file)) if self.token_file_is_asked => token_in(file).map(Some),
            (Some(text), _) => text.parse().map(Some).context("CAIRN_TOKEN"),
            (None, Some(file)) => token_in(file).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn find_in(asked: &[String], files: &[PathBuf]) -> anyhow::Result<Self> {
        if !asked.is_empty() {
            let namenodes = addresses(asked).context("--cluster or CAIRN_CLUSTER")?;
            return Ok(Self::of(namenodes, Source::Asked));
        }
        for file in files {
            if file.exists() {
                let found: ClusterFile = cairn_daemon::config::load(file)?;
                let namenodes = addresses(&found.namenodes)
                    .with_context(|| format!("namenodes in {}", file.display()))?;
                return Ok(Self {
                    security: found.security,
                    token_file: found.token_file,
                    ..Self::of(namenodes, Source::File(file.clone()))
                });
            }
        }
        // `dfs up` may have up to five namenodes, and the first of them may be the one that is down.
        let ports = DEFAULT_PORT..DEFAULT_PORT + 5;
        let namenodes = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        Ok(Self::of(namenodes, Source::Default))
    }

    fn of(namenodes: Vec<String>, source: Source) -> Self {
        Self {
            namenodes,
            security: SecuritySettings::default(),
            token_file: None,
            token_file_is_asked: false,
            source,
        }
    }

    /// Waits until a namenode accepts connections, and gives the addresses to use. Without it the client library would try
    /// for its whole patience.
    async fn reach(&self, patience: Duration) -> anyhow::Result<Vec<String>> {
        let (began, mut is_said) = (Instant::now(), false);
        let deadline = began + patience;
        loop {
            let mut reasons = Vec::new();
            for address in &self.namenodes {
                match timeout(ATTEMPT, net::connect(address)).await {
                    // Of addresses that nobody named, others may belong to other programs.
                    Ok(Ok(_)) if self.source == Source::Default => {
                        return Ok(vec![address.clone()]);
                    }
                    Ok(Ok(_)) => return Ok(self.namenodes.clone()),
                    Ok(Err(error)) => {
                        let text = without_number(&error.to_string());
                        reasons.push(format!("{address} ({text})"));
                    }
                    Err(_) => reasons.push(format!("{address} (no answer within {ATTEMPT:?})")),
                }
            }
            if self.source == Source::Default {
                reasons.truncate(1);
            }
            if Instant::now() >= deadline {
                bail!(
                    "no namenode answers at {}{}",
                    reasons.join(", "),
                    self.way_out()
                );
            }
            if began.elapsed() >= waiting::SILENCE && !std::mem::replace(&mut is_said, true) {
                let reasons = reasons.join(", ");
                complain(format_args!(
                    "no namenode answers yet at {reasons}; trying for {patience:?}"
                ));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn way_out(&self) -> String {
        match &self.source {
            Source::Asked => {
                ", the address given by --cluster or CAIRN_CLUSTER; is the cluster running there?".to_owned()
            }
            Source::File(file) => {
                format!(", the address in {}; is the cluster running there?", file.display())
            }
            Source::Default => ", where `dfs up` would be, and nothing else is configured. Start a cluster with `dfs up \
                --dir DIR`, or say where yours is: --cluster HOST:PORT, CAIRN_CLUSTER=HOST:PORT, or `namenodes = \
                [\"HOST:PORT\"]` in ~/.config/cairn/cluster.toml or /etc/cairn/cluster.toml"
                .to_owned(),
        }
    }
}

/// `host:port`, the port being 9000 if there is none.
pub(crate) fn addresses(texts: &[String]) -> anyhow::Result<Vec<String>> {
    let texts: Vec<&str> = texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .collect();
    if texts.is_empty() {
        bail!("no address: write host:port, several with commas between them");
    }
    texts.into_iter().map(address).collect()
}

fn address(text: &str) -> anyhow::Result<String> {
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => bail!("`{text}` is not host:port"),
        },
        None => DEFAULT_PORT,
    };
    let bad_host = host.is_empty() || host.contains(['/', ' ', '@']);
    if bad_host || (!bracketed && host.contains(':')) {
        bail!("`{text}` is not host:port (an IPv6 address is written [::1]:{DEFAULT_PORT})");
    }
    Ok(format!("{host}:{port}"))
}

/// A variable that is set, and to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The user's file, then the machine's.
fn config_files() -> Vec<PathBuf> {
    let path = |name| variable(name).map(PathBuf::from);
    let user = path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config")));
    let user = user.map(|directory| directory.join("cairn/cluster.toml"));
    user.into_iter()
        .chain([Path::new("/etc/cairn/cluster.toml").to_path_buf()])
        .collect()
}

/// Connects as the options say, with settings of its own.
pub(crate) async fn connect(
    global: &Global,
    purpose: &str,
    set: impl FnOnce(&mut ClusterConfig),
) -> anyhow::Result<FileSystem> {
    let mut config = reached(global, purpose).await?;
    set(&mut config);
    connect_with(config).await
}

/// How to connect to a cluster of which at least one namenode accepts connections.
async fn reached(global: &Global, purpose: &str) -> anyhow::Result<ClusterConfig> {
    let cluster = Cluster::find(global)?;
    let patience = match cluster.source {
        Source::Default => Duration::ZERO,
        Source::Asked | Source::File(_) => STARTING.min(global.timeout),
    };
    let namenodes = cluster.reach(patience).await?;
    let config = client_config(namenodes, caller(global)?, purpose, global.timeout);
    cluster.secure(config)
}

async fn connect_with(config: ClusterConfig) -> anyhow::Result<FileSystem> {
    let asked = config.namenodes.join(", ");
    let patience = config.timeouts.patience;
    let mut brief = config.clone();
    brief.timeouts.patience = LOOK;
    brief.timeouts.connect = LOOK;
    let connecting = async {
        let connected = FileSystem::connect(config).await;
        connected.map_err(|error| no_namenode(&asked, error))
    };
    let connected = waiting::unless_hopeless(connecting, async || {
        // Why, which the one that goes on trying tells nobody.
        let error = FileSystem::connect(brief.clone()).await.err()?;
        if is_another_program(error.code()) {
            return Some(no_namenode(&asked, error));
        }
        let mut is_said = false;
        loop {
            let is_none = belong_to_no_cluster(&brief, LOOK).await.unwrap_or(false);
            if is_none && patience < FOR_EVER {
                return Some(no_cluster(&brief.namenodes));
            }
            if !std::mem::replace(&mut is_said, true) {
                if is_none {
                    complain(format_args!(
                        "{}; waiting for that",
                        no_cluster(&brief.namenodes)
                    ));
                } else {
                    complain(format_args!(
                        "no answer yet of {asked}; trying for up to {patience:?} (--timeout)"
                    ));
                }
            }
            sleep(waiting::SILENCE).await;
        }
    });
    connected.await
}

/// They wait for somebody to say whether they are new, or have lost what they had.
fn no_cluster(namenodes: &[String]) -> anyhow::Error {
    let (subject, them) = match namenodes {
        [_] => ("the namenode at {} belongs", "it"),
        _ => ("the namenodes at {} belong", "them"),
    };
    let subject = subject.replace("{}", &namenodes.join(", "));
    let first = namenodes.first().map_or("", String::as_str);
    anyhow!(
        "{subject} to no cluster: `dfs namenode found {first}` founds a new one with {them}; `dfs namenode add HOST:PORT`, with the \
         --cluster that exists, adds one to that"
    )
}

/// What answers there will never be a namenode, whatever the patience.
fn is_another_program(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotSupported | ErrorCode::Malformed | ErrorCode::VersionMismatch
    )
}

/// Something accepts connections there, and is no namenode that answers.
fn no_namenode(asked: &str, error: Error) -> anyhow::Error {
    let why = match error.code() {
        ErrorCode::NotSupported => {
            "answers as datanodes do. The address of a cluster is that of its namenodes"
        }
        ErrorCode::Malformed | ErrorCode::VersionMismatch => {
            "is not the port of a namenode of this version: HTTP, perhaps, or another program"
        }
        ErrorCode::TimedOut | ErrorCode::ConnectionLost => {
            "accepts connections and does not answer as a namenode does: is it another program's port?"
        }
        _ => return error.into(),
    };
    anyhow!("{asked} {why} (by default port {DEFAULT_PORT})")
}

/// Connects, and gathers what file commands need beside.
pub(crate) async fn session(global: &Global, purpose: &str) -> anyhow::Result<Session> {
    let config = reached(global, purpose).await?;
    let (mut caller, is_proved) = (config.caller.clone(), config.tls.is_some());
    let fs = connect_with(config).await?;
    let mut user = None;
    if is_proved {
        // A token is somebody, whoever runs this.
        let told = waiting::said(&fs, global.timeout, fs.who_am_i()).await;
        let (known, token) = told?;
        (caller, user) = (known, token.map(|token| token.user));
    }
    let user = user.filter(|user| is_name(user));
    let user = user.unwrap_or_else(|| Users::load().user_name(caller.uid));
    Ok(Session::new(
        fs,
        format!("/user/{user}").into_bytes(),
        caller.uid,
        caller.gid,
        users::umask(),
    ))
}

/// Whether a home can have it.
fn is_name(user: &str) -> bool {
    !user.is_empty() && user != "." && user != ".." && !user.contains(['/', '\0'])
}

pub(crate) fn caller(global: &Global) -> anyhow::Result<Caller> {
    match &global.user {
        Some(user) => users::caller(user).context("--user or CAIRN_USER"),
        None => Ok(users::own_caller()),
    }
}

/// Settings of a client in this process.
pub(crate) fn client_config(
    namenodes: Vec<String>,
    caller: Caller,
    purpose: &str,
    patience: Duration,
) -> ClusterConfig {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_owned();
    let client_name = format!("{purpose} {}@{host}", std::process::id());
    let timeouts = Timeouts {
        patience,
        ..Timeouts::default()
    };
    ClusterConfig {
        client_name,
        host,
        timeouts,
        ..ClusterConfig::new(namenodes, caller)
    }
}

/// The token in a file that nobody else can read.
fn token_in(path: &Path) -> anyhow::Result<UserToken> {
    let reading = || format!("read the token in {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let metadata = file.metadata().with_context(reading)?;
    // A pipe from a shell has modes that say nothing.
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        bail!(
            "the token in {0} can be read by others, who could use it: chmod 600 {0}",
            path.display()
        );
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(reading)?;
    let token = text.parse();
    token.with_context(|| format!("token in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Cluster, Source, address, addresses};

    #[test]
    fn addresses_get_the_default_port() {
        assert_eq!(address("a").unwrap(), "a:9000");
        assert_eq!(address("a:1").unwrap(), "a:1");
        assert_eq!(address("[::1]:5").unwrap(), "[::1]:5");
        assert_eq!(address("[::1]").unwrap(), "[::1]:9000");
        for bad in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:99999",
            "::1",
            "hdfs://a:1",
            "a b:1",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
        let several = ["a:1".to_owned(), " b ".to_owned(), String::new()];
        assert_eq!(addresses(&several).unwrap(), ["a:1", "b:9000"]);
    }

    #[test]
    fn the_first_that_says_something_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (user, machine) = (
            directory.path().join("user.toml"),
            directory.path().join("machine.toml"),
        );
        let files = [user.clone(), machine.clone()];
        assert_eq!(
            Cluster::find_in(&[], &files).unwrap().namenodes[0],
            "127.0.0.1:9000"
        );
        std::fs::write(&machine, "namenodes = [\"m\"]").unwrap();
        assert_eq!(Cluster::find_in(&[], &files).unwrap().namenodes, ["m:9000"]);
        std::fs::write(&user, "namenodes = [\"u:1\", \"v:2\"]").unwrap();
        let found = Cluster::find_in(&[], &files).unwrap();
        assert_eq!(found.namenodes, ["u:1", "v:2"]);
        assert_eq!(found.source, Source::File(user));
        let asked = Cluster::find_in(&["x:3".to_owned()], &files).unwrap();
        assert_eq!(
            (asked.namenodes, asked.source),
            (vec!["x:3".to_owned()], Source::Asked)
        );
    }

    #[test]
    fn a_bad_file_is_named_and_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let file: PathBuf = directory.path().join("cluster.toml");
        std::fs::write(&file, "namenode = \"a\"").unwrap();
        let error = Cluster::find_in(&[], std::slice::from_ref(&file)).unwrap_err();
        assert!(
            format!("{error:#}").contains("unknown field `namenode`"),
            "{error:#}"
        );
        std::fs::write(&file, "namenodes = []").unwrap();
        let error = Cluster::find_in(&[], std::slice::from_ref(&file)).unwrap_err();
        assert!(
            format!("{error:#}").contains("cluster.toml: no address"),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_a_sentence_with_a_way_out() {
        let cluster = Cluster::of(vec!["127.0.0.1:1".to_owned()], Source::Default);
        let error = cluster
            .reach(std::time::Duration::ZERO)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("127.0.0.1:1 (Connection refused)"),
            "{error}"
        );
        assert!(
            error.contains("dfs up --dir DIR") && error.contains("CAIRN_CLUSTER"),
            "{error}"
        );
    }
}

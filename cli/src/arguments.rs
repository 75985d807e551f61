//! Everything that can be typed. Help, completions and man pages come from here and from the files in `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::session::Usage;
use crate::{commands, quantity};

/// Cairn, a distributed file system: the one command for its users, its operators and its roles.
///
/// Paths in the cluster start with `/`; others begin at /user/YOU (`dfs mkdir -p /user/YOU` makes it). In paths of the cluster `*`, `?`, `[a-z]` and
/// `{a,b}` stand for all that match: quote them, or the shell tries them on local files first. Commands of `hdfs dfs` may
/// keep their dash and their names: `dfs -copyFromLocal`, `dfs -rm -r -skipTrash`.
///
/// Exit status: 0 all done, 1 something failed and was named on standard error, 2 the command line makes no sense, 130
/// interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "dfs",
    bin_name = "dfs",
    version,
    disable_help_flag = true,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print help. Some commands have another use for -h: `dfs COMMAND --help` works for all.
    #[arg(short = 'h', action = ArgAction::HelpShort, hide = true)]
    short_help: Option<bool>,
}

/// Options of every command that talks to a cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Namenodes of the cluster, one is enough; else `namenodes` in ~/.config/cairn/cluster.toml or
    /// /etc/cairn/cluster.toml, else 127.0.0.1:9000, where `dfs up` listens. [env: CAIRN_CLUSTER]
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub(crate) cluster: Vec<String>,
    /// Act as this user of this machine, by name or number; root (0) is the superuser of a cluster that trusts its clients.
    /// [env: CAIRN_USER]
    #[arg(long, global = true, value_name = "USER", help_heading = "Cluster")]
    pub(crate) user: Option<String>,
    /// Certificate of the cluster's CA: says that the cluster speaks TLS. Else `ca` in the section `security` of cluster.toml, if the
    /// namenodes come from there. [env: CAIRN_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) ca: Option<PathBuf>,
    /// A file that holds a token of `dfs token issue`, and that nobody else can read; else the token in CAIRN_TOKEN, else
    /// `token_file` in cluster.toml. [env: CAIRN_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) token_file: Option<PathBuf>,
    /// An operator's certificate and key, instead of a token; else `certificate` and `key` in the section `security` of cluster.toml.
    /// [env: CAIRN_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) certificate: Option<PathBuf>,
    /// The key of --certificate. [env: CAIRN_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) key: Option<PathBuf>,
    /// How long one operation is tried while the cluster does not answer.
    #[arg(
        long, global = true, default_value = "60s", value_name = "TIME", value_parser = quantity::time,
        help_heading = "Cluster"
    )]
    pub(crate) timeout: Duration,
    /// Print help.
    #[arg(long, global = true, action = ArgAction::Help, help_heading = "Cluster")]
    help: Option<bool>,
    /// `--token-file` was typed for this very command.
    #[arg(skip)]
    pub(crate) is_token_typed: bool,
}

impl Global {
    /// With what variables say where no option does. An empty variable is one that is not set. They are no defaults of the grammar,
    /// because every usage line would show them then.
    pub(crate) fn or_variables(self) -> anyhow::Result<Self> {
        self.or(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn or(mut self, variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let path = |name| variable(name).map(PathBuf::from);
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        if self.cluster.is_empty() {
            let all = text("CAIRN_CLUSTER").unwrap_or_default();
            let several = all.split(',').filter(|one| !one.is_empty());
            self.cluster = several.map(str::to_owned).collect();
        }
        self.user = self.user.or_else(|| text("CAIRN_USER"));
        self.ca = self.ca.or_else(|| path("CAIRN_CA"));
        // A token that this very command names is not outdone by a certificate of the environment: that could do far more.
        self.is_token_typed = self.token_file.is_some() && self.certificate.is_none();
        self.token_file = self.token_file.or_else(|| path("CAIRN_TOKEN_FILE"));
        if !self.is_token_typed {
            self.certificate = self.certificate.or_else(|| path("CAIRN_CERTIFICATE"));
            self.key = self.key.or_else(|| path("CAIRN_KEY"));
        }
        match (&self.certificate, &self.key) {
            (Some(_), None) => Usage::error("--certificate needs --key (or CAIRN_KEY)"),
            (None, Some(_)) if !self.is_token_typed => {
                Usage::error("--key needs --certificate (or CAIRN_CERTIFICATE)")
            }
            _ => Ok(self),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Admin(commands::admin::Admin),
    #[command(alias = "appendToFile")]
    Append(commands::append::Append),
    #[command(alias = "text")]
    Cat(commands::cat::Cat),
    Checksum(commands::checksum::Checksum),
    Chgrp(commands::chown::Chgrp),
    Chmod(commands::chmod::Chmod),
    Chown(commands::chown::Chown),
    Concat(commands::concat::Concat),
    Count(commands::count::Count),
    Cp(commands::cp::Cp),
    Df(commands::df::Df),
    Du(commands::du::Du),
    Find(commands::find::Find),
    #[command(alias = "copyToLocal")]
    Get(commands::get::Get),
    Getfacl(commands::getfacl::Getfacl),
    Getfattr(commands::getfattr::Getfattr),
    Getmerge(commands::getmerge::Getmerge),
    Head(commands::head::Head),
    Ln(commands::ln::Ln),
    Locks(commands::locks::Locks),
    Ls(commands::ls::Ls),
    Mkdir(commands::mkdir::Mkdir),
    Mount(commands::mount::Mount),
    Mv(commands::mv::Mv),
    #[command(alias = "copyFromLocal")]
    Put(commands::put::Put),
    Readlink(commands::readlink::Readlink),
    Rm(commands::rm::Rm),
    Rmdir(commands::rmdir::Rmdir),
    Setfacl(commands::setfacl::Setfacl),
    Setfattr(commands::setfattr::Setfattr),
    Setrep(commands::setrep::Setrep),
    Stat(commands::stat::Stat),
    Tail(commands::tail::Tail),
    Test(commands::test::Test),
    Token(commands::token::Token),
    #[command(alias = "touchz")]
    Touch(commands::touch::Touch),
    Tree(commands::tree::Tree),
    Truncate(commands::truncate::Truncate),
    Watch(commands::watch::Watch),
    Status(commands::status::Status),
    Fsck(commands::fsck::Fsck),
    Up(commands::up::Up),
    Namenode(commands::namenode::Namenode),
    Datanode(commands::datanode::Datanode),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

/// The whole grammar: -h is help for every command that has no other use for it.
pub(crate) fn grammar() -> clap::Command {
    with_short_help(Arguments::command(), true)
}

fn with_short_help(command: clap::Command, is_top: bool) -> clap::Command {
    let command = command.mut_subcommands(|command| with_short_help(command, false));
    let is_taken = command.get_arguments().any(|one| {
        one.get_short() == Some('h') || one.is_allow_hyphen_values_set() && one.is_positional()
    });
    if is_top || is_taken {
        return command;
    }
    let help = Arg::new("short_help").short('h');
    command.arg(help.action(ArgAction::HelpShort).hide(true))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::FromArgMatches;
    use clap::error::ErrorKind;

    use super::{Arguments, Global, grammar};

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let matches = grammar().try_get_matches_from(line.split_whitespace())?;
        Arguments::from_arg_matches(&matches)
    }

    fn global(line: &str, variables: &[(&str, &str)]) -> anyhow::Result<Global> {
        let set = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| OsString::from(value))
        };
        parse(line).unwrap().global.or(set)
    }

    #[test]
    fn options_come_before_variables() {
        let told = [("CAIRN_CLUSTER", "a:1,b:2"), ("CAIRN_USER", "ada")];
        let found = global("dfs ls", &told).unwrap();
        assert_eq!(found.cluster, ["a:1", "b:2"]);
        assert_eq!(found.user.as_deref(), Some("ada"));
        let found = global("dfs ls --cluster c --user bob", &told).unwrap();
        assert_eq!(
            (found.cluster, found.user.as_deref()),
            (vec!["c".to_owned()], Some("bob"))
        );
        // A usage line says nothing of what a variable says.
        let usage = parse("dfs concat").unwrap_err().to_string();
        assert!(usage.contains("Usage: dfs concat <TARGET>"), "{usage}");
    }

    #[test]
    fn a_typed_token_is_not_outdone_by_a_certificate_of_the_environment() {
        let told = [("CAIRN_CERTIFICATE", "c"), ("CAIRN_KEY", "k")];
        let found = global("dfs ls", &told).unwrap();
        assert!(found.certificate.is_some() && found.key.is_some());
        let found = global("dfs ls --token-file t", &told).unwrap();
        assert!(found.certificate.is_none() && found.key.is_none() && found.is_token_typed);
        assert!(global("dfs ls --certificate x", &told).is_ok());
        for line in ["dfs ls --certificate x", "dfs ls --key x"] {
            let error = global(line, &[]).unwrap_err();
            assert!(error.is::<crate::session::Usage>(), "{line}: {error}");
        }
    }

    #[test]
    fn h_is_help_where_it_means_nothing_else() {
        for line in ["dfs put -h", "dfs up -h", "dfs namenode list -h", "dfs -h"] {
            let error = parse(line).map(|_| ()).expect_err(line);
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{line}");
        }
        for line in ["dfs ls -h", "dfs df -h", "dfs du -h /", "dfs count -h /"] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn usual_lines_are_understood() {
        for line in [
            "dfs ls",
            "dfs ls -1a /a",
            "dfs rm -rfv --skip-trash /a",
            "dfs rm -i /a",
            "dfs cp -av /a /b",
            "dfs mv -v /a /b",
            "dfs mkdir -pv /a",
            "dfs rmdir -pv /a/b",
            "dfs chgrp -R users /a",
            "dfs head -n -3 /a",
            "dfs head -c 2K /a",
            "dfs tail -n +28 /a",
            "dfs tail -F /a",
            "dfs getmerge --nl /a /b x",
            "dfs appendToFile x /a",
            "dfs copyFromLocal -f x /a",
            "dfs copyToLocal /a .",
            "dfs put x",
            "dfs du -d 1 -ac /a",
            "dfs df /a",
            "dfs setrep -w 2 /a",
            "dfs man ls",
            "dfs ls -lhR /a /b --json",
            "dfs --cluster a:1,b:2 put -f -p x y /z",
            "dfs put - /z --cluster a",
            "dfs get -p /a/* .",
            "dfs cat /a - ",
            "dfs tail -n 20 -f /a",
            "dfs tail -c 1KiB /a",
            "dfs watch -R --json /a",
            "dfs mkdir -p -m 750 /a/b",
            "dfs rm -rf /a",
            "dfs mv --exchange /a /b",
            "dfs cp -r -p /a /b",
            "dfs ln -s -f target /a",
            "dfs find /a -name *.x -type f -size +10M -mtime -3 -maxdepth 2 -print0",
            "dfs find",
            "dfs locks --json /a /b",
            "dfs du -sh /a",
            "dfs df -h",
            "dfs count -h /a",
            "dfs chmod -R -w /a",
            "dfs chmod u=rwX,go-w /a /b",
            "dfs chown -R root:users /a",
            "dfs mount /mnt -f --hard -o ro,nosuid --cluster a",
            "dfs truncate -s -10 /a",
            "dfs setrep -R 2 /a",
            "dfs setfattr -n user.x -v y /a",
            "dfs getfacl -R /a /b",
            "dfs setfacl -R -m user:ada:rw-,default:group::r-x /a /b",
            "dfs setfacl -x user:ada /a",
            "dfs setfacl -b /a",
            "dfs setfacl -k /a",
            "dfs setfacl --set user::rw-,group::r--,other::--- /a",
            "dfs test -e /a",
            "dfs touch -d 2026-01-01 /a",
            "dfs stat --format %n:%s /a",
            "dfs namenode --config x.toml",
            "dfs namenode list",
            "dfs namenode add h:9000 --replace 7",
            "dfs namenode transfer",
            "dfs namenode found",
            "dfs namenode found h:9000",
            "dfs datanode --config x.toml --listen 0.0.0.0:1",
            "dfs datanode decommission 3",
            "dfs up --dir x --namenodes 3 --datanodes 3 --processes",
            "dfs fsck --json",
            "dfs completions bash",
            "dfs admin ca init --dir x",
            "dfs admin ca issue nn1 --role namenode --role datanode --host a --host 10.0.0.1",
            "dfs admin ca show a.pem b.pem",
            "dfs token issue ada --lifetime 8h --renewable 48h --out t",
            "dfs token list --json --token-file t --ca ca.pem",
            "dfs token revoke 1 2",
            "dfs token renew 1 --lifetime 2h",
            "dfs token whoami --ca ca.pem --certificate a.pem --key a.key",
            "dfs up --dir x --secure",
            "dfs man --out x",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "dfs",
            "dfs frobnicate",
            "dfs put",
            "dfs rm",
            "dfs mv /a",
            "dfs test /a",
            "dfs test -e -d /a",
            "dfs setrep x /a",
            "dfs setfacl /a",
            "dfs setfacl -b -k /a",
            "dfs setfacl -m user:ada:rw-",
            "dfs ls --timeout x",
            "dfs up",
            "dfs up --dir x --namenodes 2",
            "dfs datanode forget x",
            "dfs namenode list --config x.toml",
            "dfs admin ca issue nn1",
            "dfs admin ca issue nn1 --role king",
            "dfs token revoke",
        ] {
            let error = parse(line).map(|_| ()).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}

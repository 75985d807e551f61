//! `dfs getfacl`: access control lists, as `hdfs dfs -getfacl` shows them.

use std::ffi::OsString;
use std::io::{self, Write};

use cairn_client::{AccessLists, Error};
use cairn_daemon::acl::{List, Lists, letters, text};
use cairn_daemon::users::Users;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;
use clap::Args;

use super::expand;
use crate::output::{escape, is_directory, kind};
use crate::session::{Session, about};
use crate::walk::{Step, Walk};

/// Print who may what: owner, group and others, and those whom an access control list names.
///
/// `#effective` tells what is left of an entry where the mask takes something from it. `dfs ls -l` marks what has a list with a +.
#[derive(Debug, Args)]
pub(crate) struct Getfacl {
    /// Everything below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Getfacl {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let users = Users::load();
        let depth_max = if self.recursive { usize::MAX } else { 0 };
        for path in expand(session, &self.paths).await {
            let found = session.fs.stat(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            let mut walk = Walk::from(&session.fs, &path, attributes).depth_max(depth_max);
            loop {
                let found = match walk.next().await {
                    Ok(Some(Step::Enter(found))) => found,
                    Ok(Some(Step::Leave(_))) => continue,
                    Ok(None) => break,
                    Err(error) => {
                        session.report(error);
                        continue;
                    }
                };
                if kind(&found.attributes) == InodeKind::Symlink {
                    continue;
                }
                let inode = InodeId(found.attributes.inode);
                let kept = session.fs.access_lists(inode).await;
                let kept = kept.map_err(|error: Error| about(&found.path, &error));
                if let Some(kept) = session.check(kept) {
                    print(&mut session.out, &found.path, &kept, &users)?;
                }
            }
        }
        Ok(())
    }
}

/// The lists in a form that can be worked with; what is stored is valid, as the namenode sees to it.
pub(super) fn decoded(kept: &AccessLists) -> Lists {
    let list = |bytes: &Option<Vec<u8>>| bytes.as_deref().and_then(List::decode);
    Lists {
        access: list(&kept.access).unwrap_or_else(|| List::of_mode(kept.attributes.mode)),
        default: list(&kept.default).unwrap_or_default(),
    }
}

fn print(out: &mut impl Write, path: &[u8], kept: &AccessLists, users: &Users) -> io::Result<()> {
    let attributes = &kept.attributes;
    writeln!(out, "# file: {}", escape(path))?;
    writeln!(out, "# owner: {}", users.user_name(attributes.uid))?;
    writeln!(out, "# group: {}", users.group_name(attributes.gid))?;
    if is_directory(attributes) && attributes.mode & 0o1000 != 0 {
        let letter = if attributes.mode & 1 == 0 { 'T' } else { 't' };
        writeln!(out, "# flags: --{letter}")?;
    }
    let lists = decoded(kept);
    for (scope, list) in [("", lists.access), ("default:", lists.default)] {
        for (tag, permissions) in list.entries() {
            let entry = text(tag, permissions, users);
            match list.limited(tag).map(letters) {
                Some(left) => writeln!(out, "{scope}{entry}\t#effective:{left}")?,
                None => writeln!(out, "{scope}{entry}")?,
            }
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use cairn_client::AccessLists;
    use cairn_daemon::acl::Lists;
    use cairn_daemon::users::Users;
    use cairn_protocol::messages::common::{Attributes, InodeKind};

    use super::print;

    #[test]
    fn it_reads_as_in_hdfs() {
        let users = Users::parse("ada:x:1000:100::/:/\nroot:x:0:0::/:/\n", "root:x:0:\n");
        let typed = "user::rwx,user:ada:rw-,group::r-x,mask::r--,other::---,\
            default:user::rwx,default:group::r-x,default:other::---";
        let lists = Lists::parse(typed, true, &users).unwrap();
        let kept = AccessLists {
            attributes: Attributes {
                kind: InodeKind::Directory as i32,
                mode: 0o1740,
                ..Attributes::default()
            },
            access: Some(lists.access.encode()),
            default: Some(lists.default.encode()),
        };
        let mut out = Vec::new();
        print(&mut out, b"/d", &kept, &users).unwrap();
        let told = "# file: /d\n# owner: root\n# group: root\n# flags: --T\nuser::rwx\n\
            user:ada:rw-\t#effective:r--\ngroup::r-x\t#effective:r--\nmask::r--\nother::---\n\
            default:user::rwx\ndefault:group::r-x\ndefault:other::---\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), told);
    }
}

//! `/etc/fstab`, mount(8) and systemd: what they make of a mount, with files of the test's own in the place of this machine's.

use std::fs;
use std::process::Command;

use crate::mounted::{can_mount, has, tool};
use crate::program::{Cluster, finish};

/// Runs in a place of its own among the mounts: mount(8) looks for `mount.cairn` in /sbin, which is the test's there. Ends with all
/// that it mounted unmounted, and the processes of the mounts gone.
const PREPARE: &str = r#"
set -eu
# Mounts of other tests would stay as long as this place.
umount -a -l -t fuse.cairn
mount -t tmpfs none "$(readlink -f /sbin)"
ln -s "$DFS" /sbin/mount.cairn
# Nothing of this machine's: neither its table nor its notes of who mounted what.
mount -t tmpfs none /run
end() { for at in all ro soft owned asked; do umount -l "$W/$at" 2>/dev/null || true; done; }
trap end EXIT
gone() { for _ in $(seq 400); do grep -qs " $1 " /proc/self/mounts || return 0; sleep 0.05; done; return 1; }
cd "$W"
"#;

/// The lines of fstab, and what is to come of them.
const USE: &str = r#"
mkdir all ro soft owned asked never
cat > fstab <<END
# device              point     type  options                                            dump pass
$A                    $W/all    cairn _netdev,nofail,hard,noatime,x-systemd.automount     0 0
$A                    $W/ro     cairn ro,_netdev,timeout=5s,exec,suid                     0 0
$A                    $W/soft   cairn defaults,timeout=20s,read_ahead_max=32M,comment=soft 0 0
cairn                 $W/owned  cairn user=nobody,exec,log=$W/owned.log                   0 0
$A                    $W/asked  cairn noauto,_netdev                                      0 0
$A                    $W/never  cairn _netdev,bogus                                       0 0
END
# The one that is wrong is said to be, and holds nobody up.
mount -a -T fstab 2> refused && exit 3
grep -q "mount option .bogus. is not known" refused
grep "^$A $W/all fuse.cairn rw,nosuid,nodev,noatime," /proc/self/mounts >&2
grep "^$A $W/ro fuse.cairn ro,nosuid,nodev,relatime," /proc/self/mounts >&2
# To user= mount(8) adds suid and dev.
grep "$W/owned fuse.cairn rw,nosuid,nodev,relatime," /proc/self/mounts >&2
! grep -q "$W/asked\|$W/never" /proc/self/mounts
# Mounted once, however often it is asked for.
sed -i '/never/d' fstab
mount -a -T fstab
test "$(grep -c 'fuse\.cairn' /proc/self/mounts)" = 4
mount -T fstab asked
chmod 1777 all
echo one > all/file
cat ro/file soft/file asked/file
! touch ro/other 2> refused
grep -q 'Read-only file system' refused
echo mine > owned/mine
# Changes of how it is mounted, by mount(8) with and without the table.
mount -T fstab -o remount,rw ro
echo two > ro/other
mount -o remount,ro "$W/ro"
! touch ro/third 2> refused
cat soft/other
umount asked ro
# Also of those that are in the table alone.
umount -a -t fuse.cairn
for at in all ro soft owned asked; do gone "$W/$at"; done
mount -T fstab all
cat all/file all/other
umount all
gone "$W/all"
"#;

#[test]
fn lines_of_fstab_mean_what_they_say() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "bash", "-c"])
        .arg(format!("{PREPARE}{USE}"))
        .env("DFS", cluster.command(["mount"]).get_program())
        .env("CAIRN_CLUSTER", &cluster.address)
        .env("A", &cluster.address)
        .env("W", work.path())
        .env("LC_ALL", "C");
    let done = finish(&mut command, b"");
    let out = String::from_utf8_lossy(&done.out).into_owned();
    assert_eq!(done.status, Some(0), "{out}\n{}", done.err);
    assert_eq!(out, "one\none\none\ntwo\none\ntwo\n");
    assert_eq!(cluster.run(["cat", "/mine"]).text(), "mine\n");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !has("systemd-analyze") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let dfs =
        fs::canonicalize(crate::program::dfs(work.path()).get_program()).expect("our program");
    let mut units = Vec::new();
    for entry in fs::read_dir(format!("{root}/deploy/systemd")).expect("the units") {
        let entry = entry.expect("a unit");
        let text = fs::read_to_string(entry.path()).expect("read it");
        // It looks whether the program is there and can be run.
        let text = text.replace("/usr/local/bin/dfs", dfs.to_str().expect("text"));
        let name = entry.file_name().into_string().expect("text");
        // Of a template an instance.
        let name = name.replace("@.service", "@mnt-cairn.service");
        let unit = work.path().join(&name);
        fs::write(&unit, text).expect("write it");
        units.push(unit);
    }
    assert_eq!(units.len(), 3, "{units:?}");
    let mut arguments = vec!["verify".into(), "--man=no".into()];
    arguments.extend(units.into_iter().map(|unit| unit.into_os_string()));
    let found = tool("systemd-analyze", &arguments);
    assert_eq!((found.status, found.err.as_str()), (Some(0), ""));
    let point = tool("systemd-escape", &["--path", "/mnt/cairn"]).text();
    assert_eq!(point, "mnt-cairn\n", "as deploy/README.md says");
}

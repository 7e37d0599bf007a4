//! The doctor's look at the project's home: whose it is, who may read it, what was left in it, the disk below it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use ccb_core::home::{Home, file};

use super::Finding;
use crate::connect::is_held;

/// With less free space than this, in bytes, a few large answers may not find room.
const LITTLE: u64 = 64 << 20;

/// Returns what is to be said of a home.
pub(super) fn checked(home: &Home) -> Vec<Finding> {
    let root = home.root();
    match fs::metadata(root) {
        Ok(data) if data.is_dir() => {}
        Ok(_) => {
            return vec![Finding::fault(
                "home",
                format!("{} is no directory", root.display()),
                "move it away; askd makes the directory",
            )];
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return vec![Finding::note("home", format!("{} is made when askd first starts", root.display()))];
        }
        Err(error) => {
            let mend = format!("make {} yours and readable", root.display());
            return vec![Finding::fault("home", format!("{} cannot be looked at: {error}", root.display()), mend)];
        }
    }
    let mut findings = privacy(root);
    findings.extend(stamp(home));
    findings.extend(leftovers(root));
    if findings.is_empty() {
        findings.push(Finding::ok("home", format!("{}, private", root.display())));
    }
    findings.extend(locks(home));
    findings.push(disk(root));
    findings
}

/// The home and all in it is the user's alone.
fn privacy(root: &Path) -> Vec<Finding> {
    let own = rustix::process::getuid().as_raw();
    let mut open = Vec::new();
    let mut foreign = Vec::new();
    let entries = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in std::iter::once(root.to_owned()).chain(entries) {
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        if data.uid() != own {
            foreign.push(path.display().to_string());
        } else if !data.is_symlink() && data.permissions().mode() & 0o077 != 0 {
            open.push(path.display().to_string());
        }
    }
    let mut findings = Vec::new();
    if !open.is_empty() {
        let what = format!("others may look into {}", open.join(", "));
        findings.push(Finding::fault("home", what, format!("chmod -R go= '{}'", root.display())));
    }
    if !foreign.is_empty() {
        let what = format!("not yours: {}", foreign.join(", "));
        findings.push(Finding::fault("home", what, format!("sudo chown -R \"$USER\" '{}'", root.display())));
    }
    findings
}

fn stamp(home: &Home) -> Option<Finding> {
    let text = fs::read_to_string(home.path(file::STAMP)).ok()?;
    let stamp: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    (stamp["project"] != home.project()).then(|| {
        let what = format!("{} is stamped as the home of {}", home.root().display(), stamp["work_dir"]);
        Finding::fault("home", what, "unset CCB_RUN_DIR, or move that directory away")
    })
}

/// What daemons have set aside, or could not finish.
fn leftovers(root: &Path) -> Vec<Finding> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut findings = Vec::new();
    for name in names(root)
        .iter()
        .filter(|name| name.contains(".damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm"))
    {
        let what = format!("a damaged store was set aside: {}", root.join(name).display());
        findings.push(
            Finding::note("home", what).mend("what could be read of it was kept; delete it when you miss nothing"),
        );
    }
    findings
}

/// Whether the locks are held is what decides who serves.
fn locks(home: &Home) -> Vec<Finding> {
    match (is_held(home, file::KEEPER_LOCK), is_held(home, file::WORKER_LOCK)) {
        (true, true) => vec![Finding::ok("locks", "a keeper and a worker hold theirs")],
        (false, true) => vec![
            Finding::note("locks", "a worker holds its lock, but no keeper: it would not be restarted")
                .mend("any command that talks to askd gives it a keeper: `ccb ps`"),
        ],
        (true, false) => vec![
            Finding::note("locks", "a keeper holds its lock, but no worker: it is just being started, or cannot start")
                .mend("`ccb logs` says why"),
        ],
        (false, false) => Vec::new(),
    }
}

fn disk(root: &Path) -> Finding {
    let space = match rustix::fs::statvfs(root) {
        Ok(space) => space,
        Err(error) => return Finding::note("disk", format!("its free space cannot be told: {error}")),
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let shown = format!("{} MiB are free below {}", free >> 20, root.display());
    if space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let what = format!("{} is on a read-only file system: nothing can be accepted", root.display());
        return Finding::fault("disk", what, "mount it writable; askd goes on by itself");
    }
    if free < LITTLE || space.f_favail == 0 && space.f_files > 0 {
        let what = format!("{shown}, and {} files: requests may be refused", space.f_favail);
        return Finding::fault("disk", what, "free some; askd goes on by itself");
    }
    Finding::ok("disk", shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(home: &Home) -> String {
        let lines = checked(home).into_iter().map(|finding| format!("{:?} {}", finding.level, finding.what));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_homes_faults_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("h"), Path::new("/p"));
        assert!(said(&home).contains("is made when askd first starts"));
        fs::create_dir(home.root()).unwrap();
        fs::set_permissions(home.root(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(said(&home).starts_with("Ok"), "{}", said(&home));
        let write = |name: &str, text: &str| {
            fs::write(home.path(name), text).unwrap();
            fs::set_permissions(home.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(file::STAMP, r#"{"project":"another","work_dir":"/q"}"#);
        assert!(said(&home).contains("Fault") && said(&home).contains("as the home of \"/q\""), "{}", said(&home));
        write(file::STAMP, &format!(r#"{{"project":"{}","work_dir":"/p"}}"#, home.project()));
        write("ccb.db.damaged-20261122-101010", "");
        write("ccb.db.damaged-20261122-101010-wal", "");
        assert_eq!(said(&home).matches("was set aside").count(), 1, "{}", said(&home));
        write(file::LOG, "");
        fs::set_permissions(home.path(file::LOG), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(said(&home).contains("Fault others may look into"), "{}", said(&home));
        let held = fs::File::create(home.path(file::WORKER_LOCK)).unwrap();
        held.lock().unwrap();
        assert!(said(&home).contains("but no keeper"), "{}", said(&home));
    }
}

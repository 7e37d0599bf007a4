//! The private directory that Gemini is given for its own (`GEMINI_CLI_HOME`): the user's settings, logins, commands
//! and extensions are links in it, so that they are the user's own, whoever writes them; our extension, the
//! transcripts and what Gemini remembers of projects are in it alone.
//!
//! Gemini writes most of its files in place, through a link. What it writes by a rename, or makes anew, is then a file
//! of the overlay: that is brought to the user's place before the next start, unless the user's has changed since.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::engine::log;
use crate::files::{remove_if_there, write_private};

/// What is private to an agent: transcripts, checkpoints, and what Gemini calls each project.
const PRIVATE: [&str; 3] = ["tmp", "history", "projects.json"];

/// Directories that have our own files beside the user's.
const SHARED: [&str; 2] = ["extensions", "policies"];

/// The name of what is ours in them.
pub(super) const OURS: [&str; 2] = ["ccb-agent", "ccb-agent.toml"];

/// What Gemini may make where it is not there: a link that leads nowhere yet has it made in the user's place.
const MADE: [&str; 8] = [
    "settings.json",
    "oauth_creds.json",
    "google_accounts.json",
    "gemini-credentials.json",
    "mcp-oauth-tokens.json",
    "installation_id",
    "state.json",
    "GEMINI.md",
];

/// The overlay of one agent.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    /// What Gemini takes for the user's home.
    pub(super) root: PathBuf,
    /// The user's own.
    user: PathBuf,
}

/// What is in each overlay, and in nothing of the user's.
const LINKS: &str = "links.json";

/// Whether a directory is an overlay of ours, of whichever agent.
pub(super) fn is_overlay(root: &Path) -> bool {
    root.join(LINKS).is_file()
}

impl Overlay {
    /// Returns the overlay at `root` over what `user`, a home, has.
    pub(super) fn new(root: PathBuf, user: PathBuf) -> Self {
        Self { root, user }
    }

    /// Returns a path in Gemini's own directory of the overlay.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(".gemini").join(name)
    }

    /// Returns a path in the user's own directory of Gemini.
    pub(super) fn of_user(&self, name: &str) -> PathBuf {
        self.user.join(".gemini").join(name)
    }

    /// Makes it what it has to be for the next start. It may be in use.
    pub(super) fn refresh(&self) -> io::Result<()> {
        for dir in [self.root.clone(), self.path(""), self.path("tmp")] {
            make(&dir)?;
        }
        // As Gemini itself would.
        DirBuilder::new().recursive(true).create(self.of_user(""))?;
        let mut stamps = Stamps::read(&self.root.join(LINKS));
        let links = [".env", ".agents"].map(|name| (self.root.join(name), self.user.join(name), false));
        // The launcher looks for `advanced.autoConfigureMemory` there.
        let settings = (self.root.join("settings.json"), self.of_user("settings.json"), true);
        let tools = (self.path("tmp/bin"), self.of_user("tmp/bin"), false);
        for (link, target, anyway) in links.into_iter().chain([settings, tools]) {
            point(&link, &target, anyway)?;
        }
        self.refresh_dir("", &mut stamps)?;
        for dir in SHARED {
            make(&self.path(dir))?;
            self.refresh_dir(dir, &mut stamps)?;
        }
        stamps.write()
    }

    /// Brings back what Gemini has written beside its links, and links what the user has.
    fn refresh_dir(&self, dir: &str, stamps: &mut Stamps) -> io::Result<()> {
        let (here, there) = (self.path(dir), self.of_user(dir));
        let ours = |name: &str| match dir {
            // What it is just writing beside the registry of its projects has that name with more to it.
            "" => PRIVATE.contains(&name) || SHARED.contains(&name) || name.starts_with("projects.json."),
            _ => OURS.contains(&name),
        };
        for name in names(&here)?.into_iter().filter(|name| !ours(name)) {
            let (link, target) = (here.join(&name), there.join(&name));
            let kind = link.symlink_metadata()?.file_type();
            if kind.is_symlink() && target.symlink_metadata().is_err() && !(dir.is_empty() && MADE.contains(&&*name)) {
                remove_if_there(&link)?;
            } else if !kind.is_symlink() {
                self.bring_back(&link, &target, stamps.get(&target))?;
            }
        }
        let made = MADE.iter().filter(|_| dir.is_empty()).map(|name| (*name).to_owned());
        let wanted = names(&there).unwrap_or_default().into_iter().chain(made).filter(|name| !ours(name));
        for name in wanted {
            let target = there.join(&name);
            point(&here.join(&name), &target, true)?;
            stamps.keep(&target);
        }
        Ok(())
    }

    /// Brings a file that Gemini has made to where it would have made it without us, unless the user's own there is
    /// another one than Gemini had; then it is set aside.
    fn bring_back(&self, made: &Path, target: &Path, linked: Option<&String>) -> io::Result<()> {
        let now = stamp(target);
        let whole = fs::symlink_metadata(made)?.is_file() || now.is_none();
        if whole && (now.is_none() || now.as_ref() == linked) {
            if let Some(dir) = target.parent() {
                DirBuilder::new().recursive(true).create(dir)?;
            }
            return bring(made, target);
        }
        let aside = self.root.join("kept");
        make(&aside)?;
        let name = made.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let free = |number: &u32| aside.join(format!("{name}.{number}")).symlink_metadata().is_err();
        let number = (1..10_000).find(free).unwrap_or_default();
        let kept = aside.join(format!("{name}.{number}"));
        log(&format!(
            "Gemini has written {}, which somebody else has changed too: what it wrote is in {}",
            target.display(),
            kept.display()
        ));
        fs::rename(made, kept)
    }
}

/// What the user's files were when they were linked.
struct Stamps {
    path: PathBuf,
    known: BTreeMap<String, String>,
    now: BTreeMap<String, String>,
}

impl Stamps {
    fn read(path: &Path) -> Self {
        let known = fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok());
        Self { path: path.to_owned(), known: known.unwrap_or_default(), now: BTreeMap::new() }
    }

    fn get(&self, target: &Path) -> Option<&String> {
        self.known.get(&target.display().to_string())
    }

    fn keep(&mut self, target: &Path) {
        if let Some(stamp) = stamp(target) {
            self.now.insert(target.display().to_string(), stamp);
        }
    }

    fn write(&self) -> io::Result<()> {
        write_private(&self.path, serde_json::json!(self.now).to_string().as_bytes())
    }
}

fn stamp(path: &Path) -> Option<String> {
    let data = fs::metadata(path).ok()?;
    Some(format!("{}:{}:{}.{}", data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Moves a file, a link or a directory to another file system: a file whole or not at all.
fn carry(made: &Path, target: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(made)?.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(made)?, target)?;
    } else if kind.is_dir() {
        DirBuilder::new().recursive(true).create(target)?;
        for entry in fs::read_dir(made)? {
            let entry = entry?;
            carry(&entry.path(), &target.join(entry.file_name()))?;
        }
        return fs::remove_dir(made);
    } else {
        write_private(target, &fs::read(made)?)?;
    }
    remove_if_there(made)
}

/// Moves what Gemini has made, to another file system too.
fn bring(made: &Path, target: &Path) -> io::Result<()> {
    match fs::rename(made, target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => carry(made, target),
        done => done,
    }
}

/// Makes a link that leads to `target`, `anyway` or only if that is there. What is no link is left.
fn point(link: &Path, target: &Path, anyway: bool) -> io::Result<()> {
    match link.symlink_metadata() {
        Ok(data) if !data.is_symlink() => return Ok(()),
        Ok(_) if fs::read_link(link)? == target && (anyway || target.exists()) => return Ok(()),
        Ok(_) => remove_if_there(link)?,
        Err(_) => {}
    }
    if anyway || target.exists() { symlink(target, link) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        overlay: Overlay,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let overlay = Overlay::new(dir.path().join("over"), dir.path().join("home"));
            fs::create_dir_all(overlay.of_user("extensions/theirs")).unwrap();
            Self { dir, overlay }
        }
        fn write(&self, name: &str, text: &str) {
            fs::write(self.overlay.of_user(name), text).unwrap();
        }
        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.overlay.of_user(name)).unwrap_or_default()
        }
    }

    #[test]
    fn what_is_written_in_place_is_the_users() {
        let place = Place::new();
        place.write("settings.json", "{}");
        place.overlay.refresh().unwrap();
        fs::write(place.overlay.path("settings.json"), "{\"a\":1}").unwrap();
        assert_eq!(place.read("settings.json"), "{\"a\":1}");
        // A first login, and what is not there before.
        fs::write(place.overlay.path("oauth_creds.json"), "token").unwrap();
        assert_eq!(place.read("oauth_creds.json"), "token");
        assert!(place.overlay.path("extensions/theirs").is_dir() && !place.overlay.path("commands").exists());
        fs::create_dir(place.overlay.of_user("commands")).unwrap();
        fs::remove_dir(place.overlay.of_user("extensions/theirs")).unwrap();
        place.overlay.refresh().unwrap();
        assert!(place.overlay.path("commands").is_dir());
        assert!(place.overlay.path("extensions/theirs").symlink_metadata().is_err());
    }

    #[test]
    fn what_is_made_or_renamed_goes_to_the_user_unless_that_changed() {
        let place = Place::new();
        place.write("policy_integrity.json", "old");
        place.overlay.refresh().unwrap();
        let renamed = |name: &str, text: &str| {
            fs::write(place.overlay.path("x.new"), text).unwrap();
            fs::rename(place.overlay.path("x.new"), place.overlay.path(name)).unwrap();
        };
        renamed("policy_integrity.json", "newer");
        fs::create_dir(place.overlay.path("skills")).unwrap();
        renamed("policies/auto-saved.toml", "rule");
        place.overlay.refresh().unwrap();
        assert_eq!(place.read("policy_integrity.json"), "newer");
        assert_eq!(place.read("policies/auto-saved.toml"), "rule");
        assert!(place.overlay.of_user("skills").is_dir());
        let links = ["policy_integrity.json", "policies/auto-saved.toml", "skills"];
        assert!(links.iter().all(|name| place.overlay.path(name).is_symlink()));
        renamed("policy_integrity.json", "ours");
        place.write("policy_integrity.json", "theirs, meanwhile");
        place.overlay.refresh().unwrap();
        assert_eq!(place.read("policy_integrity.json"), "theirs, meanwhile");
        let kept = fs::read_dir(place.overlay.root.join("kept")).unwrap().next().unwrap().unwrap();
        assert_eq!(fs::read_to_string(kept.path()).unwrap(), "ours");
    }

    /// Two file systems, where there are two: the temporary files' and one in memory.
    #[test]
    fn what_is_made_goes_to_another_file_system_too() {
        let place = Place::new();
        let here = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let overlay = Overlay::new(here.path().join("over"), place.dir.path().join("home"));
        overlay.refresh().unwrap();
        fs::create_dir_all(overlay.path("skills/one")).unwrap();
        fs::write(overlay.path("skills/one/SKILL.md"), "a skill").unwrap();
        symlink("one", overlay.path("skills/alias")).unwrap();
        fs::write(overlay.path("made.json"), "{}").unwrap();
        overlay.refresh().unwrap();
        assert_eq!(place.read("skills/one/SKILL.md"), "a skill");
        assert_eq!(place.read("skills/alias/SKILL.md"), "a skill");
        assert_eq!(place.read("made.json"), "{}");
        assert!(overlay.path("skills").is_symlink() && overlay.path("made.json").is_symlink());
        assert!(is_overlay(&overlay.root) && !is_overlay(&place.dir.path().join("home")));
    }

    #[test]
    fn what_is_private_stays() {
        let place = Place::new();
        place.write("projects.json", "{}");
        place.overlay.refresh().unwrap();
        fs::write(place.overlay.path("projects.json"), "private").unwrap();
        fs::create_dir_all(place.overlay.path("extensions/ccb-agent")).unwrap();
        fs::write(place.overlay.path("policies/ccb-agent.toml"), "").unwrap();
        place.overlay.refresh().unwrap();
        assert_eq!(place.read("projects.json"), "{}");
        assert_eq!(fs::read_dir(place.overlay.of_user("extensions")).unwrap().count(), 1);
        assert!(!place.overlay.of_user("policies").exists());
        assert!(place.dir.path().join("home").is_dir());
    }
}

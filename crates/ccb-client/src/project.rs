//! Which project a command is about, and where its home is.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ccb_core::home::{self, Home};
use serde::Deserialize;

use crate::Context;
use crate::environment::Environment;
use crate::error::{CliError, note};

/// The directory that makes its parent a project.
pub(crate) const ANCHOR: &str = ".ccb";

/// The project's configuration, as users know it.
pub(crate) const CONFIG: &str = ".ccb/ccb.config";

/// A project's home, and whether `CCB_RUN_DIR` has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) home: Home,
    /// The home's path, if it is not the default one: the keeper must be told.
    pub(crate) run_dir: Option<OsString>,
    /// Who calls, by `CCB_CALLER`: a name in the project whose home the environment names, and in no other.
    pub(crate) caller: Option<String>,
    /// Whether the environment speaks of this project: then the process that `CCB_PARENT_PID` names may own askd.
    pub(crate) ours: bool,
}

/// The stamp in a home: whose it is.
#[derive(Deserialize)]
struct Stamp {
    project: String,
}

/// Returns the place of the project that the current directory is in.
pub(crate) fn here(context: &Context) -> Result<Place, CliError> {
    let user = context.environment.absolute("HOME");
    let work_dir = find(&context.cwd, user.as_deref()).ok_or_else(|| {
        CliError::new(format!(
            "no project here: neither {} nor a directory above it has `.ccb/`",
            context.cwd.display()
        ))
        .hint("run `ccb` in the project's directory to make one")
    })?;
    place(context, &work_dir)
}

/// Returns the place of the project that the current directory is in, made here if there is none.
pub(crate) fn here_or_new(context: &Context) -> Result<Place, CliError> {
    let user = context.environment.absolute("HOME");
    if let Some(work_dir) = find(&context.cwd, user.as_deref()) {
        return place(context, &work_dir);
    }
    let cwd = home::normalise(&context.cwd);
    let everything = cwd.parent().is_none() || user.is_some_and(|user| home::normalise(&user) == cwd);
    if everything && !context.environment.truthy("CCB_INIT_PROJECT_DANGEROUS") {
        let message = format!("{} holds everything of yours: it is not made a project", cwd.display());
        return Err(CliError::new(message).hint("cd to the project's directory"));
    }
    let anchor = cwd.join(ANCHOR);
    fs::create_dir(&anchor)
        .map_err(|e| CliError::new(format!("cannot make the directory {}: {e}", anchor.display())))?;
    place(context, &cwd)
}

/// Returns the directory itself or the nearest one above it that is a project. The user's home directory and
/// the root are projects only of themselves: CCB 5.2 kept its own files in `~/.ccb/`.
pub(crate) fn find(cwd: &Path, user: Option<&Path>) -> Option<PathBuf> {
    let cwd = home::normalise(cwd);
    let user = user.map(home::normalise);
    let everything = |dir: &Path| dir.parent().is_none() || user.as_deref() == Some(dir);
    let mut candidates = cwd.ancestors().filter(|dir| *dir == cwd || !everything(dir));
    candidates.find(|dir| dir.join(ANCHOR).is_dir()).map(Path::to_owned)
}

/// Returns the place of the project at `work_dir`.
pub(crate) fn place(context: &Context, work_dir: &Path) -> Result<Place, CliError> {
    let home = Home::new(&state_dir(&context.environment)?, work_dir);
    let caller = context.environment.text("CCB_CALLER").filter(|caller| *caller != "manual").map(str::to_owned);
    let Some(named) = context.environment.raw("CCB_RUN_DIR") else {
        return Ok(Place { home, run_dir: None, caller, ours: true });
    };
    let named = home::normalise(&context.cwd.join(named));
    if named == home.root() {
        return Ok(Place { home, run_dir: None, caller, ours: true });
    }
    if stamp(&named).is_some_and(|stamp| stamp.project == home.project()) {
        return Ok(Place { home: Home::at(&named, work_dir), run_dir: Some(named.into()), caller, ours: true });
    }
    let parent = context.environment.raw("CCB_PARENT_PID").map_or("", |_| ", and so is CCB_PARENT_PID");
    note(&format!("CCB_RUN_DIR is ignored{parent}: {} is not the home of this project", named.display()));
    Ok(Place { home, run_dir: None, caller: None, ours: false })
}

fn stamp(root: &Path) -> Option<Stamp> {
    serde_json::from_slice(&fs::read(root.join(home::file::STAMP)).ok()?).ok()
}

fn state_dir(environment: &Environment) -> Result<PathBuf, CliError> {
    let user = || environment.absolute("HOME").map(|user| user.join(".local/state"));
    environment
        .absolute("XDG_STATE_HOME")
        .or_else(user)
        .ok_or_else(|| CliError::new("neither HOME nor XDG_STATE_HOME is set to a path"))
}

/// Returns the text of the project's configuration; none if there is no such file.
pub(crate) fn config_text(home: &Home) -> Result<Option<String>, CliError> {
    match fs::read_to_string(home.work_dir().join(CONFIG)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CliError::new(format!("cannot read {CONFIG}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new(anchors: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("user/p/a/b")).unwrap();
            for anchor in anchors {
                fs::create_dir(dir.path().join(anchor).join(ANCHOR)).unwrap();
            }
            Self { dir }
        }

        fn context(&self, cwd: &str, more: &[(&str, &str)]) -> Context {
            let user = self.dir.path().join("user");
            let mut pairs = vec![("HOME".to_owned(), user.display().to_string())];
            pairs.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            Context { environment: pairs.into_iter().collect(), cwd: self.dir.path().join(cwd) }
        }
    }

    #[test]
    fn the_nearest_anchor_is_the_project_but_the_users_home_is_its_own_only() {
        let table: [(&[&str], &str, Option<&str>); 6] = [
            (&["user/p"], "user/p", Some("user/p")),
            (&["user/p"], "user/p/a/b", Some("user/p")),
            (&["user/p", "user/p/a"], "user/p/a/b", Some("user/p/a")),
            (&["user"], "user/p", None),
            (&["user"], "user", Some("user")),
            (&[], "user/p", None),
        ];
        for (anchors, cwd, want) in table {
            let world = World::new(anchors);
            let root = world.dir.path();
            let found = find(&root.join(cwd), Some(&root.join("user")));
            assert_eq!(found, want.map(|want| root.join(want)), "{anchors:?} {cwd}");
        }
    }

    #[test]
    fn a_project_is_made_where_ccb_starts_but_not_of_everything() {
        let world = World::new(&[]);
        let refused = here(&world.context("user/p", &[])).unwrap_err();
        assert!(refused.message.starts_with("no project here"), "{refused:?}");
        let refused = here_or_new(&world.context("user", &[])).unwrap_err();
        assert!(refused.message.contains("is not made a project"), "{refused:?}");
        let made = here_or_new(&world.context("user/p", &[])).unwrap();
        assert_eq!(here(&world.context("user/p/a", &[])).unwrap(), made);
        assert!(here_or_new(&world.context("user", &[("CCB_INIT_PROJECT_DANGEROUS", "Yes")])).is_ok());
    }

    #[test]
    fn a_run_dir_counts_only_with_this_projects_stamp() {
        let world = World::new(&["user/p"]);
        let other = world.dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let context = world.context("user/p", &[("CCB_RUN_DIR", other.to_str().unwrap())]);
        let default = here(&world.context("user/p", &[])).unwrap();
        let ignored = Place { ours: false, ..default.clone() };
        assert_eq!(here(&context).unwrap(), ignored);
        fs::write(other.join("project.json"), r#"{"project":"0","work_dir":"/x"}"#).unwrap();
        assert_eq!(here(&context).unwrap(), ignored);
        let stamp = format!(r#"{{"project":"{}","work_dir":"/x"}}"#, default.home.project());
        fs::write(other.join("project.json"), stamp).unwrap();
        let named = here(&context).unwrap();
        assert!(named.ours);
        assert_eq!((named.home.root(), named.run_dir), (other.as_path(), Some(other.clone().into())));
    }
}

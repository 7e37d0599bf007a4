//! Holds the rules of this workspace that no compiler and no lint knows.
//!
//! Each rule is a function from text to complaints. The first half of the tests turns the rules on the
//! workspace; the second half shows that each rule can complain. A rule without a guard is deleted, or gets
//! one here; an exception stands in one of the tables below, by name and with its reason, and a complaint
//! comes when it is no longer needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The most code lines that one product file may have: neither comments nor blank lines nor tests.
const FILE_LIMIT: usize = 800;

/// The most code lines of the whole product.
const PRODUCT_LIMIT: usize = 30_000;

/// The most crates that the workspace may name as dependencies.
const DEPENDENCY_LIMIT: usize = 45;

/// The most packages in the lock file.
const LOCK_LIMIT: usize = 350;

/// What no type and no file may be called: such a name says that something is done, not what.
const EMPTY_NAMES: [&str; 6] = ["Manager", "Handler", "Service", "Runtime", "Helper", "Util"];

/// Which crates of the workspace a crate may depend on.
const ARROWS: [(&str, &[&str]); 6] = [
    ("ccb", &["ccb-client", "ccb-daemon"]),
    ("ccb-client", &["ccb-core"]),
    ("ccb-core", &[]),
    ("ccb-daemon", &["ccb-core"]),
    ("fake-model", &[]),
    ("stub-agent", &[]),
];

/// What would let the pure crate act on the world.
const IMPURE: [&str; 5] = ["notify", "rusqlite", "rustix", "signal-hook", "tokio"];

/// The one file that speaks SQL to our own database.
const STORE: &str = "crates/ccb-daemon/src/store.rs";

/// The one other file that speaks SQL: the database is OpenCode's, and is only read.
const FOREIGN: &str = "crates/ccb-daemon/src/transport/opencode/database.rs";

/// What only SQL says.
const SQL: [&str; 5] = ["SELECT ", "INSERT INTO", "DELETE FROM", "CREATE TABLE", "PRAGMA "];

/// What only somebody who looks at pids, or signals them, writes.
const PIDS: [&str; 7] =
    ["pidfd_open", "pidfd_send_signal", "kill_process", "test_kill_process", "getppid", "/proc/{", "libc::kill"];

/// Who may look at pids, and why.
const PID_EXCEPTIONS: [(&str, &str); 4] = [
    ("crates/ccb-daemon/src/process.rs", "it is the module for that"),
    ("crates/ccb-client/src/command/guard.rs", "asks for its own parent alone, which only the kernel changes"),
    ("crates/ccb-client/src/pane/group.rs", "holds each process of its own group by a descriptor before it signals it"),
    ("crates/ccb-client/src/pane/kept.rs", "signals its own children, whose pids are theirs until it has reaped them"),
];

/// Tests that a command of their own runs.
const IGNORE_EXCEPTIONS: [(&str, &str); 1] =
    [("tests/lab/full.rs", "half an hour of real CLIs, which `make lab-full` runs")];

/// Who may sleep, and why.
const SLEEP_EXCEPTIONS: [(&str, &str); 1] =
    [("crates/fake-model/src/answer.rs", "a model that answers slowly is what it plays")];

/// A text file of the workspace.
struct File {
    /// Its path from the workspace's root.
    path: String,
    /// What it holds.
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    /// Returns whether it is part of what users get.
    fn is_product(&self) -> bool {
        let of = ["src/", "crates/ccb-client/src/", "crates/ccb-core/src/", "crates/ccb-daemon/src/"];
        self.is_rust() && self.stem() != "tests" && of.iter().any(|dir| self.path.starts_with(dir))
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn stem(&self) -> &str {
        self.name().split('.').next().unwrap_or_default()
    }

    fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Returns the text up to the module of tests.
    fn product(&self) -> &str {
        let mut from = 0;
        while let Some(at) = self.text[from..].find("#[cfg(test)]").map(|at| from + at) {
            let after = self.text[at..].lines().skip(1).find(|line| !line.trim_start().starts_with("#["));
            if after.is_some_and(|line| line.trim_start_matches("pub(crate) ").starts_with("mod ")) {
                return &self.text[..at];
            }
            from = at + 1;
        }
        &self.text
    }
}

/// What of a source text is blanked out before a rule looks at it.
#[derive(Clone, Copy, PartialEq)]
enum Blank {
    /// Comments.
    Comments,
    /// Comments, and what stands in quotation marks.
    Literals,
}

/// Returns Rust source in which comments, and literals if asked for, are blanks; the lines stay the same.
fn blanked(source: &str, blank: Blank) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut word_before = false;
    while let Some(first) = rest.chars().next() {
        let comment = comment(rest);
        let length = if comment > 0 { comment } else { literal(rest, word_before) };
        let length = if length > 0 { length } else { first.len_utf8() };
        let (token, after) = rest.split_at(length);
        let hidden = comment > 0 || (length > first.len_utf8() && blank == Blank::Literals);
        if hidden {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(token);
        }
        word_before = first.is_alphanumeric() || first == '_';
        rest = after;
    }
    out
}

/// Returns the length of the comment that the text starts with; 0 if it starts with none.
fn comment(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    let mut depth = 0;
    let mut at = 0;
    while text.starts_with("/*") && at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Returns the length of the string or character that the text starts with; 0 if it starts with none.
fn literal(text: &str, word_before: bool) -> usize {
    let prefix = if word_before { 0 } else { text.len() - text.trim_start_matches(['b', 'c']).len() };
    let after = &text[prefix.min(1)..];
    let prefix = prefix.min(1);
    if let Some(raw) = after.strip_prefix('r').filter(|_| !word_before) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = prefix + 1 + hashes + 1;
            return text[body..].find(&end).map_or(text.len(), |at| body + at + end.len());
        }
    }
    let quote = match after.chars().next() {
        Some('"') => '"',
        // A quote is a character, and not a lifetime, if one closes it.
        Some('\'') if after[1..].starts_with('\\') || after.chars().nth(2) == Some('\'') => '\'',
        _ => return 0,
    };
    let mut escaped = false;
    for (at, c) in after.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return prefix + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the words of blanked source.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

fn code_lines(product: &str) -> usize {
    blanked(product, Blank::Comments).lines().filter(|line| !line.trim().is_empty()).count()
}

// The rules.

fn opens_with_what_for(file: &File) -> Option<String> {
    let opens = file.text.starts_with("//!");
    (!opens).then(|| format!("{}: does not open with `//!`: say what it owns, and what it must not do", file.path))
}

fn is_short(file: &File) -> Option<String> {
    let lines = code_lines(file.product());
    (lines > FILE_LIMIT).then(|| format!("{}: has {lines} code lines, {FILE_LIMIT} are the limit", file.path))
}

fn has_telling_names(file: &File) -> Vec<String> {
    let code = blanked(&file.text, Blank::Literals);
    let all: Vec<&str> = words(&code).collect();
    let declares = |word: &str| matches!(word, "struct" | "enum" | "trait" | "type" | "union" | "mod");
    let types = all.windows(2).filter(|pair| declares(pair[0])).map(|pair| pair[1]);
    let empty = |name: &&str| {
        let name = name.to_lowercase();
        let name = name.strip_suffix('s').unwrap_or(&name);
        EMPTY_NAMES.iter().any(|empty| name.ends_with(&empty.to_lowercase()))
    };
    let told = |name: &str| format!("{}: `{name}` says that something is done, not what", file.path);
    types.chain([file.stem()]).filter(empty).map(told).collect()
}

fn keeps_sql_in_the_store(file: &File) -> Vec<String> {
    let code = blanked(file.product(), Blank::Comments);
    let told = |word: &str| format!("{}: `{}` is SQL, which only {STORE} speaks", file.path, word.trim_end());
    let allowed = |word: &str| file.path == STORE || (file.path == FOREIGN && word == "SELECT ");
    SQL.iter().filter(|word| !allowed(word) && code.contains(**word)).map(|word| told(word)).collect()
}

/// Complains of forbidden words in the product part of a file, or of an exception that nobody needs.
fn keeps_words_to(file: &File, forbidden: &[&str], exceptions: &[(&str, &str)], rule: &str) -> Vec<String> {
    let code = blanked(file.product(), Blank::Comments);
    let found: Vec<&str> = forbidden.iter().copied().filter(|word| code.contains(word)).collect();
    match exceptions.iter().find(|(path, _)| *path == file.path) {
        Some(_) if !found.is_empty() => Vec::new(),
        Some((_, reason)) => vec![format!("{}: needs its exception no longer ({reason}); strike it out", file.path)],
        None => found.iter().map(|word| format!("{}: `{word}`: {rule}", file.path)).collect(),
    }
}

fn names_no_foreign_place(file: &File) -> Vec<String> {
    let places =
        [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("registry", ".npmjs"), concat!("index", ".crates")];
    let is_whole = |at: usize| !file.text[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-$})\"'>".contains(c));
    let quoted = |at: usize| file.text[..at].ends_with(['"', '\'']);
    let has = |place: &str| file.text.match_indices(place).any(|(at, _)| is_whole(at) || quoted(at));
    let told = |place: &&str| format!("{}: `{place}` is a place on somebody's machine", file.path);
    places.iter().filter(|place| has(place)).map(told).collect()
}

fn neither_ignores_nor_sleeps(file: &File) -> Vec<String> {
    let code = blanked(&file.text, Blank::Literals);
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let forbidden =
        [("#[ignore", "a test runs, or is deleted"), ("todo!(", "do it"), ("thread::sleep(", "wait for a condition")];
    let excepted = |word: &str| {
        let exceptions: &[(&str, &str)] = match word {
            "#[ignore" => &IGNORE_EXCEPTIONS,
            "thread::sleep(" => &SLEEP_EXCEPTIONS,
            _ => &[],
        };
        exceptions.iter().any(|(path, _)| *path == file.path)
    };
    let found = forbidden.iter().filter(|(word, _)| code.contains(word) && !excepted(word));
    found.map(|(word, instead)| format!("{}: `{word}`: {instead}", file.path)).collect()
}

/// Complains of a source file that no `mod` names, so that nobody compiles it.
fn is_reached(file: &File, all: &[File]) -> Option<String> {
    let (dir, name) = file.path.rsplit_once('/')?;
    let is_root = matches!(name, "main.rs" | "lib.rs" | "build.rs")
        || ["tests", "bin", "benches", "examples"]
            .iter()
            .any(|root| dir == *root || dir.ends_with(&format!("/{root}")));
    let (dir, stem) = if name == "mod.rs" { dir.rsplit_once('/')? } else { (dir, file.stem()) };
    let parent = |other: &&File| {
        let inside = other.path.rsplit_once('/').filter(|(of, _)| *of == dir).map(|(_, name)| name);
        other.path == format!("{dir}.rs") || matches!(inside, Some("main.rs" | "lib.rs" | "mod.rs"))
    };
    let names_it = |other: &File| {
        let code = blanked(&other.text, Blank::Literals);
        let all: Vec<&str> = words(&code).collect();
        all.windows(2).any(|pair| pair == ["mod", stem])
    };
    let reached = is_root || all.iter().filter(parent).any(names_it);
    (!reached).then(|| format!("{}: is a module that nobody names: it is never compiled", file.path))
}

/// Complains of arrows between the crates that are not drawn, and of a core that could act on the world.
fn keeps_the_arrows(manifest: &toml::Table) -> Vec<String> {
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let Some(name) = name else { return vec!["a manifest without a package's name".to_owned()] };
    let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
        return vec![format!("{name}: is a crate that the picture does not have; draw its arrows in tests/tidy.rs")];
    };
    let mut complaints = Vec::new();
    for (section, dependency, how) in dependencies(manifest) {
        let of_ours = ARROWS.iter().any(|(known, _)| *known == dependency);
        // The root joins everything for its tests: they need the binaries and the wire.
        let joined = name == "ccb" && section == "dev-dependencies";
        if of_ours && !joined && !allowed.contains(&dependency) {
            complaints.push(format!("{name}: may not depend on {dependency}"));
        }
        if name == "ccb-core" && IMPURE.contains(&dependency) {
            complaints.push(format!("{name}: `{dependency}` acts on the world; the core is pure"));
        }
        let by_path = of_ours && how.get("path").is_some();
        if !by_path && how.get("workspace") != Some(&toml::Value::Boolean(true)) {
            complaints.push(format!("{name}: takes `{dependency}` by itself; write `{dependency}.workspace = true`"));
        }
    }
    complaints
}

/// Returns section, name and terms of each dependency in a manifest, those of one platform included.
fn dependencies(manifest: &toml::Table) -> Vec<(&str, &str, &toml::Value)> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = platforms.filter_map(toml::Value::as_table).chain([manifest]);
    let sections = tables.flat_map(|table| {
        ["dependencies", "dev-dependencies", "build-dependencies"].map(|name| (name, table.get(name)))
    });
    let tables = sections.filter_map(|(name, section)| Some((name, section?.as_table()?)));
    tables.flat_map(|(section, table)| table.iter().map(move |(name, how)| (section, name.as_str(), how))).collect()
}

/// Complains of dependencies of the workspace that do not say what they are for, or which version they want.
fn says_what_dependencies_are_for(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.trim().is_empty());
    let mut complaints = Vec::new();
    for line in lines.filter(|line| !line.trim_start().starts_with('#')) {
        let name = line.split('=').next().unwrap_or_default().trim();
        let comment = line.rsplit_once(" # ").map_or("", |(_, comment)| comment.trim());
        if comment.len() < 4 {
            complaints
                .push(format!("Cargo.toml: `{name}` does not say what it is for, in a comment at the line's end"));
        }
        if !line.contains("path = ") && !line.contains(|c: char| c.is_ascii_digit()) {
            complaints.push(format!("Cargo.toml: `{name}` wants no version"));
        }
    }
    complaints
}

fn are_few(what: &str, count: usize, limit: usize) -> Option<String> {
    (count > limit).then(|| format!("{what}: {count}, {limit} are the limit"))
}

/// Complains of retries, which hide races.
fn is_never_retried(config: &toml::Table) -> Vec<String> {
    let mut complaints = Vec::new();
    for (key, value) in config {
        let nested = value.as_array().into_iter().flatten().chain([value]).filter_map(toml::Value::as_table);
        complaints.extend(nested.flat_map(is_never_retried));
        if key == "retries" && value.as_integer() != Some(0) {
            complaints.push(format!(".config/nextest.toml: retries = {value:?}: a retry hides a race"));
        }
    }
    complaints
}

/// Complains of a lock file of npm that names hosts, or of a dependency that is not pinned.
fn pins_the_lab(manifest: &serde_json::Value, lock: &str) -> Vec<String> {
    let pinned = |version: &str| {
        // An older version of a package goes by another name: what it is comes after its last `@`.
        let aliased = version.strip_prefix("npm:").and_then(|package| Some(package.rsplit_once('@')?.1));
        let version = aliased.unwrap_or(version);
        version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains(['x', '*', ' '])
    };
    let dependencies = manifest["dependencies"].as_object().into_iter().flatten();
    let loose = dependencies.filter(|(_, version)| !version.as_str().is_some_and(pinned));
    let told = |(name, version)| format!("lab/package.json: {name} is not pinned: {version}");
    let hosts = ["\"resolved\"", "https://"].into_iter().filter(|word| lock.contains(word));
    let named = hosts.map(|word| format!("lab/package-lock.json: {word} names a host; lab/.npmrc omits it"));
    loose.map(told).chain(named).collect()
}

/// Complains of what a document names in backticks and the workspace does not have: files, and tests.
///
/// A file is what ends in a known extension or begins with a folder of ours; a test is a word of at least four
/// parts, `like_this_one_here`. What has blanks or placeholders in it is neither.
fn names_what_exists(file: &File, all: &[File], functions: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for span in backticked(&file.text).iter().flat_map(|span| spelled_out(span)) {
        let last = span.rsplit("::").next().unwrap_or_default();
        let is_word = last.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_word && last.matches('_').count() >= 3 && !functions.contains(last) {
            complaints.push(format!("{}: names `{span}`, and no such test or function exists", file.path));
        }
        if looks_like_a_file(&span) && !all.iter().any(|other| is_meant(&span, &other.path)) {
            complaints.push(format!("{}: names `{span}`, and no such file exists", file.path));
        }
    }
    complaints
}

fn functions(file: &File) -> Vec<String> {
    let code = blanked(&file.text, Blank::Literals);
    let all: Vec<&str> = words(&code).collect();
    all.windows(2).filter(|pair| pair[0] == "fn").map(|pair| pair[1].to_owned()).collect()
}

/// Returns what stands in backticks, outside of blocks of code.
fn backticked(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// Returns the paths that a path with one pair of braces stands for.
fn spelled_out(span: &str) -> Vec<String> {
    let parts = span.split_once('{').and_then(|(head, rest)| Some((head, rest.split_once('}')?)));
    match parts {
        Some((head, (list, tail))) => list.split(',').map(|word| format!("{head}{}{tail}", word.trim())).collect(),
        None => vec![span.to_owned()],
    }
}

fn looks_like_a_file(span: &str) -> bool {
    let ours = ["crates/", "docs/", "lab/", "scripts/", "src/", "tests/", ".ci/", ".config/", ".github/"];
    let plain = !span.contains(|c: char| c.is_whitespace() || "<>*$~|()…".contains(c)) && !span.starts_with('/');
    let ends = [".rs", ".md", ".sh"].iter().any(|end| span.len() > end.len() && span.ends_with(end));
    plain && (ends || ours.iter().any(|dir| span.starts_with(dir)))
}

/// Returns whether a path as a document writes it is this file, or a folder in which this file is.
fn is_meant(span: &str, path: &str) -> bool {
    let span = span.trim_end_matches('/');
    let within = |path: &str| path == span || path.strip_prefix(span).is_some_and(|rest| rest.starts_with('/'));
    let in_crate = path.strip_prefix("crates/").and_then(|path| path.split_once('/')).map(|(_, path)| path);
    let short = path.replace("crates/", "").replace("/src/", "/");
    within(path) || path.ends_with(&format!("/{span}")) || in_crate.is_some_and(within) || short == span
}

// The workspace.

/// Returns the workspace's text files. What git does not hold is not looked at.
fn workspace() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read_folder(root, root, &mut files);
    assert!(files.iter().any(|file| file.path == "tests/tidy.rs"), "the workspace is read from {}", root.display());
    files
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<File>) {
    let hidden_but_ours = [".ci", ".config", ".github", ".cargo"];
    let texts = ["rs", "toml", "md", "sh", "json", "jsonl", "yml", "yaml", "txt", "snap", "npmrc", "lock", ""];
    for entry in fs::read_dir(folder).expect("a folder of the workspace can be read") {
        let path = entry.expect("an entry of a folder can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let relative = path.strip_prefix(root).expect("what is below the root").to_string_lossy().into_owned();
        if path.is_dir() {
            let wanted = !matches!(name.as_str(), "target" | "node_modules");
            if wanted && (!name.starts_with('.') || hidden_but_ours.contains(&name.as_str())) {
                read_folder(root, &path, files);
            }
            continue;
        }
        let file = File { path: relative, text: String::new() };
        // What is not text is a recording or a picture, and has no words.
        if texts.contains(&file.extension())
            && let Ok(text) = fs::read_to_string(&path)
        {
            files.push(File { text, ..file });
        }
    }
}

fn find<'a>(files: &'a [File], path: &str) -> Option<&'a File> {
    files.iter().find(|file| file.path == path)
}

fn table(file: &File) -> toml::Table {
    file.text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.path))
}

/// Fails with all complaints of a rule, if there are any.
fn hold(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn crates_depend_on_each_other_only_as_drawn() {
    let files = workspace();
    let manifests: Vec<&File> = files.iter().filter(|file| file.name() == "Cargo.toml").collect();
    assert_eq!(manifests.len(), ARROWS.len(), "each crate has a manifest");
    hold(manifests.into_iter().flat_map(|file| keeps_the_arrows(&table(file))));
}

#[test]
#[expect(clippy::print_stdout, reason = "the figure is wanted even if it is within its budget")]
fn dependencies_are_few_and_say_what_they_are_for() {
    let files = workspace();
    let manifest = find(&files, "Cargo.toml").expect("the workspace has a manifest");
    hold(says_what_dependencies_are_for(&manifest.text));
    let direct = table(manifest)["workspace"]["dependencies"].as_table().expect("a table").clone();
    let direct = direct.values().filter(|how| how.get("path").is_none()).count();
    let locked = find(&files, "Cargo.lock").expect("the workspace has a lock file").text.matches("[[package]]").count();
    println!("{direct} direct dependencies (limit {DEPENDENCY_LIMIT}), {locked} packages locked (limit {LOCK_LIMIT})");
    hold(are_few("direct dependencies", direct, DEPENDENCY_LIMIT));
    hold(are_few("packages in Cargo.lock", locked, LOCK_LIMIT));
}

#[test]
fn source_files_open_with_what_they_are_for() {
    hold(workspace().iter().filter(|file| file.is_rust()).filter_map(opens_with_what_for));
}

#[test]
fn source_files_are_all_compiled() {
    let files = workspace();
    hold(files.iter().filter(|file| file.is_rust()).filter_map(|file| is_reached(file, &files)));
}

#[test]
#[expect(clippy::print_stdout, reason = "the figure is wanted even if it is within its budget")]
fn product_is_small() {
    let files = workspace();
    let product: Vec<&File> = files.iter().filter(|file| file.is_product()).collect();
    let lines: usize = product.iter().map(|file| code_lines(file.product())).sum();
    let all: usize = files.iter().filter(|file| file.is_rust()).map(|file| code_lines(&file.text)).sum();
    println!("{lines} code lines of product in {} files, {} of tests and their tools", product.len(), all - lines);
    hold(are_few("code lines of product", lines, PRODUCT_LIMIT));
    hold(product.into_iter().filter_map(is_short));
}

#[test]
fn names_tell() {
    hold(workspace().iter().filter(|file| file.is_rust()).flat_map(has_telling_names));
}

#[test]
fn sql_is_in_one_file() {
    hold(workspace().iter().filter(|file| file.is_product()).flat_map(keeps_sql_in_the_store));
}

#[test]
fn pids_are_looked_at_in_one_file() {
    let files = workspace();
    let rule = "pids are looked at in crates/ccb-daemon/src/process.rs alone: a number may be another process by now";
    hold(files.iter().filter(|f| f.is_product()).flat_map(|f| keeps_words_to(f, &PIDS, &PID_EXCEPTIONS, rule)));
    let gone = PID_EXCEPTIONS.iter().chain(&SLEEP_EXCEPTIONS).filter(|(path, _)| find(&files, path).is_none());
    hold(gone.map(|(path, reason)| format!("{path}: is gone; strike out its exception ({reason})")));
}

#[test]
fn no_file_names_somebodys_machine() {
    hold(workspace().iter().flat_map(names_no_foreign_place));
}

#[test]
fn tests_neither_ignore_nor_sleep_nor_are_retried() {
    let files = workspace();
    hold(files.iter().filter(|file| file.is_rust()).flat_map(neither_ignores_nor_sleeps));
    let config = find(&files, ".config/nextest.toml").expect("nextest is configured");
    hold(is_never_retried(&table(config)));
}

#[test]
fn lab_is_pinned_and_names_no_host() {
    let files = workspace();
    let text = |path: &str| &find(&files, path).unwrap_or_else(|| panic!("there is no {path}")).text;
    let manifest = serde_json::from_str(text("lab/package.json")).expect("lab/package.json is JSON");
    hold(pins_the_lab(&manifest, text("lab/package-lock.json")));
}

#[test]
fn documents_name_what_exists() {
    let files = workspace();
    let functions = files.iter().filter(|file| file.is_rust()).flat_map(functions).collect();
    let documents = ["ARCHITECTURE.md", "CONTRIBUTING.md", "RELEASE.md"].map(|path| find(&files, path));
    hold(documents.into_iter().flatten().flat_map(|file| names_what_exists(file, &files, &functions)));
}

/// Shows that each rule can complain: a rule that holds whatever one writes is none.
mod rules {
    use super::*;

    /// Asserts that a rule has nothing to say, or says something with these words in it.
    #[track_caller]
    fn check(complaints: impl IntoIterator<Item = String>, said: &str) {
        let text = complaints.into_iter().collect::<Vec<_>>().join("\n");
        assert!(text.contains(said) && text.is_empty() == said.is_empty(), "wanted `{said}`, got `{text}`");
    }

    fn manifest(text: &str) -> toml::Table {
        text.parse().expect("the test's manifest is TOML")
    }

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let source = "a(\"b // c\\\"\"); // d \"e\n/* f /* g */ h */ i('\"', b'\\'', r#\"j\"k\"#, 'l: loop {}) m<'n>";
        let kept = |blank| words(&blanked(source, blank)).collect::<Vec<_>>().join(" ");
        assert_eq!(kept(Blank::Literals), "a i l loop m n");
        assert_eq!(kept(Blank::Comments), "a b c i b r j k l loop m n");
        assert_eq!(blanked(source, Blank::Literals).lines().count(), 2);
        assert_eq!(blanked("/* open", Blank::Comments).trim(), "");
        assert_eq!(words(&blanked("var\"x\" 你'好'", Blank::Literals)).collect::<Vec<_>>(), ["var", "你"]);
    }

    #[test]
    fn tests_are_no_product() {
        let of = |text: &str| code_lines(File::new("src/a.rs", text).product());
        assert_eq!(of("//! a\nfn a() {}\n\n// b\n#[cfg(test)]\nmod tests {\n}\n"), 1);
        assert_eq!(of("#[cfg(test)]\nfn only_for_tests() {}\nfn a() {}\n#[cfg(test)]\n#[x]\nmod tests;\n"), 3);
        let product = |path: &str| File::new(path, "").is_product();
        assert!(product("src/bin/ccb.rs") && product("crates/ccb-core/src/a/b.rs"));
        assert!(!product("crates/ccb-client/src/display/tests.rs") && !product("crates/stub-agent/src/main.rs"));
    }

    #[test]
    fn openings_and_lengths_are_seen() {
        check(opens_with_what_for(&File::new("a.rs", "//! a")), "");
        check(opens_with_what_for(&File::new("a.rs", "// a")), "a.rs: does not open");
        check(is_short(&File::new("a.rs", &"a();\n\n".repeat(FILE_LIMIT))), "");
        check(is_short(&File::new("a.rs", &"a();\n".repeat(FILE_LIMIT + 1))), "has 801 code lines");
        check(are_few("things", 3, 3), "");
        check(are_few("things", 4, 3), "things: 4, 3 are the limit");
    }

    #[test]
    fn empty_names_are_seen() {
        let names = |path: &str, text: &str| has_telling_names(&File::new(path, text));
        check(names("src/pane.rs", "struct Pane; // struct PaneManager\nconst A: &str = \"struct XHandler\";"), "");
        check(names("src/pane.rs", "pub(crate) struct PaneManager {"), "`PaneManager`");
        check(names("src/pane.rs", "enum JobRuntime {"), "`JobRuntime`");
        check(names("src/pane_utils.rs", ""), "`pane_utils`");
        check(names("src/a.rs", "mod helpers;"), "`helpers`");
    }

    #[test]
    fn words_in_the_wrong_place_are_seen() {
        let sql = |path: &str| keeps_sql_in_the_store(&File::new(path, "x(\"SELECT a FROM b\")"));
        check(sql(STORE), "");
        check(sql("crates/ccb-daemon/src/server.rs"), "`SELECT` is SQL");
        let pids = |path, text| keeps_words_to(&File::new(path, text), &PIDS, &[("src/p.rs", "why")], "not here");
        check(pids("src/p.rs", "pidfd_open(pid)"), "");
        check(pids("src/q.rs", "// pidfd_open\n#[cfg(test)]\nmod tests { /* */ fn a() { pidfd_open(p) } }"), "");
        check(pids("src/q.rs", "read(format!(\"/proc/{pid}/stat\"))"), "src/q.rs: `/proc/{`: not here");
        check(pids("src/p.rs", "nothing()"), "src/p.rs: needs its exception no longer (why)");
    }

    #[test]
    fn foreign_places_are_seen() {
        let places = |text: &str| names_no_foreign_place(&File::new("a.md", text));
        check(places("home/work/x and ${a}/work/b"), "");
        check(places(concat!("see /wo", "rk/x")), concat!("`/wo", "rk/`"));
        check(places(concat!("\"/fa", "rm/x\"")), concat!("`/fa", "rm/`"));
    }

    #[test]
    fn tests_that_do_not_run_or_sleep_are_seen() {
        let tests = |path, text| neither_ignores_nor_sleeps(&File::new(path, text));
        check(tests("tests/a.rs", "// #[ignore]\nconst A: &str = \"todo!()\";"), "");
        check(tests("tests/a.rs", "#[ignore = \"later\"]"), "a test runs");
        check(tests("tests/a.rs", "todo!()"), "do it");
        check(tests("tests/a.rs", "std::thread::sleep(TIME)"), "wait for a condition");
        check(tests(SLEEP_EXCEPTIONS[0].0, "std::thread::sleep(TIME)"), "");
        check(is_never_retried(&manifest("[profile.ci]\nretries = 0")), "");
        check(is_never_retried(&manifest("[[profile.ci.overrides]]\nretries = 2")), "retries = Integer(2)");
    }

    #[test]
    fn forgotten_files_are_seen() {
        let reached = |path: &str, parent: &str, text: &str| {
            let files = [File::new(path, ""), File::new(parent, text)];
            is_reached(&files[0], &files)
        };
        check(reached("crates/a/src/b.rs", "crates/a/src/lib.rs", "pub mod b;"), "");
        check(reached("crates/a/src/b/c.rs", "crates/a/src/b.rs", "mod c;"), "");
        check(reached("tests/blackbox/c.rs", "tests/blackbox/main.rs", "mod c;"), "");
        check(reached("tests/blackbox/c.rs", "tests/blackbox/main.rs", "// mod c;"), "nobody names");
        check(reached("crates/a/src/b.rs", "crates/a/src/c.rs", "mod b;"), "nobody names");
        check(reached("src/bin/askd.rs", "x", ""), "");
    }

    #[test]
    fn arrows_that_are_not_drawn_are_seen() {
        let arrows =
            |name: &str, rest: &str| keeps_the_arrows(&manifest(&format!("[package]\nname = \"{name}\"\n{rest}")));
        check(arrows("ccb-client", "[dependencies]\nccb-core.workspace = true"), "");
        check(arrows("ccb-client", "[dependencies]\nccb-daemon.workspace = true"), "may not depend on ccb-daemon");
        check(arrows("ccb-client", "[dev-dependencies]\nccb-daemon.workspace = true"), "may not depend on ccb-daemon");
        check(arrows("ccb", "[dependencies]\nstub-agent.workspace = true"), "may not depend on stub-agent");
        check(arrows("ccb", "[dev-dependencies]\nstub-agent = { path = \"crates/stub-agent\" }"), "");
        check(arrows("ccb-core", "[target.'cfg(unix)'.dependencies]\nrustix.workspace = true"), "the core is pure");
        check(arrows("ccb-core", "[dependencies]\nserde = \"1\""), "takes `serde` by itself");
        check(arrows("another", ""), "does not have");
        check(keeps_the_arrows(&manifest("")), "without a package's name");
    }

    #[test]
    fn dependencies_without_a_reason_are_seen() {
        let reasons =
            |line: &str| says_what_dependencies_are_for(&format!("[workspace.dependencies]\n{line}\n\n[a]\nb = 1"));
        check(reasons("a = \"1\" # what for"), "");
        check(reasons("a = { path = \"crates/a\" } # what for\n# a comment"), "");
        check(reasons("a = \"1\""), "`a` does not say");
        check(reasons("a = \"*\" # what for"), "`a` wants no version");
    }

    #[test]
    fn a_lab_that_is_not_pinned_is_seen() {
        let lab = |version: &str, lock: &str| pins_the_lab(&serde_json::json!({"dependencies": {"a": version}}), lock);
        check(lab("1.2.3", "{}"), "");
        check(lab("^1.2.3", "{}"), "a is not pinned");
        check(lab("npm:@b/a@1.2.3", "{}"), "");
        check(lab("npm:@b/a@^1.2.3", "{}"), "a is not pinned");
        check(lab("npm:@b/a", "{}"), "a is not pinned");
        check(lab("1.2.3", "{\"resolved\": \"\"}"), "names a host");
    }

    #[test]
    fn names_of_what_does_not_exist_are_seen() {
        let files = [
            File::new("crates/ccb-core/src/provider.rs", "fn one_that_is_here() {}"),
            File::new("src/bin/ask.rs", ""),
            File::new("src/bin/ccb.rs", ""),
        ];
        let functions = files.iter().flat_map(functions).collect();
        let named = |text: &str| names_what_exists(&File::new("A.md", text), &files, &functions);
        check(named("`provider.rs`, `ccb-core/provider.rs`, `crates/ccb-core/`, `src/bin/{ask,ccb}.rs`"), "");
        check(named("`one_that_is_here`, `askd.json`, `provider/<name>.rs`, `a b.rs`\n```\n`gone.rs`\n```"), "");
        check(named("`gone.rs`"), "no such file");
        check(named("`docs/gone`"), "no such file");
        check(named("`src/bin/{ask,gone}.rs`"), "`src/bin/gone.rs`");
        check(named("`rules::one_that_is_gone`"), "no such test");
    }
}

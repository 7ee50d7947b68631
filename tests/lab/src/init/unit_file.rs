//! The part of systemd's unit files that the lab needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where units of a node are looked for, best first.
pub const FOLDERS: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];

/// Where a light node's programs find the lab's own binary.
const LAB: &str = "/usr/local/bin/nodectl-lab";

/// Type= of a service, as far as it matters when its start job is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Type {
    /// Done as soon as the process runs.
    #[default]
    Simple,
    /// Done when this socket accepts connections: what READY=1 means for a container runtime.
    Notify(PathBuf),
    /// Done when the processes have ended.
    Oneshot,
}

/// Restart= of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After an exit code other than 0.
    OnFailure,
    /// Always, unless it was stopped.
    Always,
}

/// A unit as written.
#[derive(Debug, Clone, Default)]
pub struct UnitFile {
    /// Description=.
    pub description: String,
    /// Units whose start waits for this one's.
    pub before: Vec<String>,
    /// Units whose start this one waits for.
    pub after: Vec<String>,
    /// ConditionPathExists=: the path, and whether it must be absent.
    pub conditions: Vec<(PathBuf, bool)>,
    /// Type=.
    pub kind: Type,
    /// ExecStart=, one command each.
    pub start: Vec<Vec<String>>,
    /// ExecStop=, one command each.
    pub stop: Vec<Vec<String>>,
    /// RemainAfterExit=.
    pub remain: bool,
    /// Restart=.
    pub restart: Restart,
    /// Environment=.
    pub environment: Vec<(String, String)>,
    /// WantedBy=.
    pub wanted_by: Vec<String>,
}

/// What a look for a unit found.
#[derive(Debug, Clone)]
pub enum Found {
    /// No such unit.
    Nothing,
    /// A link to /dev/null.
    Masked,
    /// The unit.
    Unit(Box<UnitFile>),
}

/// Finds a unit by name: files first, then what every light node has built in.
pub fn find(name: &str) -> Found {
    for folder in FOLDERS {
        if fs::read_link(Path::new(folder).join(name)).is_ok_and(|target| target == Path::new("/dev/null")) {
            return Found::Masked;
        }
        for (file, instance) in candidates(name) {
            if let Ok(text) = fs::read_to_string(Path::new(folder).join(&file)) {
                return Found::Unit(Box::new(parse(&text.replace("%i", &instance).replace("%n", name))));
            }
        }
    }
    built_in(name).map_or(Found::Nothing, |unit| Found::Unit(Box::new(unit)))
}

/// The names of all services that have a file or are built in.
pub fn names() -> BTreeSet<String> {
    let files = FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let named = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let built_in = ["containerd.service", "kubelet.service"].map(str::to_owned);
    named.filter(|name| name.ends_with(".service") && !name.contains("@.")).chain(built_in).collect()
}

/// The file names that a unit may have: its own, and its template's.
fn candidates(name: &str) -> Vec<(String, String)> {
    let mut all = vec![(name.to_owned(), String::new())];
    if let (Some((prefix, rest)), Some((_, suffix))) = (name.split_once('@'), name.rsplit_once('.')) {
        let instance = rest.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).unwrap_or_default();
        all.push((format!("{prefix}@.{suffix}"), instance.to_owned()));
    }
    all
}

/// The two services every node has.
fn built_in(name: &str) -> Option<UnitFile> {
    let (program, kind, after) = match name {
        "containerd.service" => {
            ("runtime", Type::Notify("/run/containerd/containerd.sock".into()), vec!["network.target".to_owned()])
        }
        "kubelet.service" => {
            ("kubelet", Type::Simple, vec!["network-online.target".to_owned(), "containerd.service".to_owned()])
        }
        _ => return None,
    };
    Some(UnitFile {
        description: format!("The lab's stand-in: {program}"),
        kind,
        after,
        start: vec![vec![LAB.to_owned(), program.to_owned()]],
        restart: Restart::Always,
        wanted_by: vec!["multi-user.target".to_owned()],
        ..UnitFile::default()
    })
}

/// Reads a unit file's text. Unknown settings are ignored, as systemd does.
fn parse(text: &str) -> UnitFile {
    let mut unit = UnitFile::default();
    let joined = text.replace("\\\n", " ");
    for line in joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '['])) {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        apply(&mut unit, key.trim(), value.trim());
    }
    unit
}

/// Applies one setting. An empty value resets a list, as in systemd.
fn apply(unit: &mut UnitFile, key: &str, value: &str) {
    match key {
        "Description" => unit.description = value.to_owned(),
        "Before" => extend(&mut unit.before, value),
        "After" => extend(&mut unit.after, value),
        "WantedBy" => extend(&mut unit.wanted_by, value),
        "ConditionPathExists" => {
            let absent = value.starts_with('!');
            unit.conditions.push((PathBuf::from(value.trim_start_matches('!')), absent));
        }
        "Type" if value == "oneshot" => unit.kind = Type::Oneshot,
        "ExecStart" if value.is_empty() => unit.start.clear(),
        "ExecStart" => unit.start.push(words(value)),
        "ExecStop" => unit.stop.push(words(value)),
        "RemainAfterExit" => unit.remain = matches!(value, "yes" | "true" | "on" | "1"),
        "Restart" => {
            unit.restart = match value {
                "always" => Restart::Always,
                "on-failure" | "on-abnormal" => Restart::OnFailure,
                _ => Restart::No,
            }
        }
        "Environment" => {
            unit.environment.extend(
                words(value)
                    .iter()
                    .filter_map(|word| word.split_once('='))
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            );
        }
        _ => {}
    }
}

/// Adds words to a list; an empty value empties it.
fn extend(list: &mut Vec<String>, value: &str) {
    if value.is_empty() {
        list.clear();
    }
    list.extend(value.split_whitespace().map(str::to_owned));
}

/// Splits a command line; quotes group words, prefixes such as "-" and "+" are dropped from the program.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for character in line.trim_start_matches(['-', '+', '!', '@', ':']).chars() {
        match (quote, character) {
            (None, '"' | '\'') => (quote, open) = (Some(character), true),
            (Some(end), _) if end == character => quote = None,
            (None, ' ' | '\t') => {
                if open || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                open = false;
            }
            _ => word.push(character),
        }
    }
    if open || !word.is_empty() {
        all.push(word);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_oneshot_is_read_with_its_order_and_its_quotes() {
        let unit = parse(
            "[Unit]\nBefore=containerd.service \\\n kubelet.service\nConditionPathExists=!/x\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart=-/bin/sh -c 'echo \"a b\"' \"\"\nEnvironment=A=1 \"B=2 3\"\n",
        );
        assert_eq!(unit.before, ["containerd.service", "kubelet.service"]);
        assert_eq!(unit.conditions, [(PathBuf::from("/x"), true)]);
        assert_eq!(unit.kind, Type::Oneshot);
        assert!(unit.remain);
        assert_eq!(unit.start, [vec!["/bin/sh", "-c", "echo \"a b\"", ""]]);
        assert_eq!(unit.environment, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2 3".to_owned())]);
    }

    #[test]
    fn a_template_is_found_by_its_prefix() {
        assert_eq!(
            candidates("a@b.c.service"),
            [("a@b.c.service".to_owned(), String::new()), ("a@.service".to_owned(), "b.c".to_owned())]
        );
    }
}

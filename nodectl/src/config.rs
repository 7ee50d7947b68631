//! The configuration file: `/etc/nodectl/config.toml`, then `config.d/*.toml` in the order of their names, or the one file
//! given with `--config`. Flags win over the files, a later file over an earlier one, the files over the defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::{Spanned, Table, Value};

use crate::cluster::ClusterConfig;
use crate::cni::Cni;
use crate::host::{Host, Overrides, files};
use crate::probe::target;
use crate::report::{OutputFormat, ProgressFormat};
use crate::request::{LONGEST_S, Strategy, Unadoptable};
use crate::window::Window;

/// The file of this machine.
const FILE: &str = "/etc/nodectl/config.toml";
/// Further files, which win over it.
const FOLDER: &str = "/etc/nodectl/config.d";

/// The table of what concerns the cluster.
const CLUSTER: &str = "cluster";

/// What the files say; what they do not name is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `--to`.
    pub to: Option<Cni>,
    /// `--strategy`.
    pub strategy: Option<Strategy>,
    /// `--ignore`.
    pub ignore: Option<Vec<String>>,
    /// `--force`.
    pub force: Option<bool>,
    /// `--delete-emptydir-data`.
    pub delete_emptydir_data: Option<bool>,
    /// `--drain-timeout`, in seconds.
    #[serde(deserialize_with = "seconds")]
    pub drain_timeout: Option<u64>,
    /// `--grace-period`, in seconds.
    pub grace_period: Option<u32>,
    /// `--agent-timeout`, in seconds.
    #[serde(deserialize_with = "seconds")]
    pub agent_timeout: Option<u64>,
    /// `--confirm-timeout`.
    #[serde(deserialize_with = "duration")]
    pub confirm_timeout: Option<Duration>,
    /// `--when-allowed`.
    pub when_allowed: Option<bool>,
    /// `--unadoptable`.
    pub unadoptable: Option<Unadoptable>,
    /// `--max-outage`, in milliseconds.
    pub max_outage: Option<u64>,
    /// `--probe-from`.
    pub probe_from: Option<Vec<String>>,
    /// `--probe-to`.
    #[serde(deserialize_with = "targets")]
    pub probe_to: Option<Vec<String>>,
    /// `--probe-refuse`.
    #[serde(deserialize_with = "targets")]
    pub probe_refuse: Option<Vec<String>>,
    /// Hours after which what `cluster prepare` wrote is stale.
    pub prepared_max_age_hours: Option<u64>,
    /// When a switch may begin and must have ended; always, where there is none.
    pub maintenance_windows: Option<Vec<Window>>,
    /// Where `doctor --textfile` writes.
    #[serde(deserialize_with = "absolute")]
    pub metrics_file: Option<String>,
    /// `--output`.
    pub output: Option<OutputFormat>,
    /// `--progress`.
    pub progress: Option<ProgressFormat>,
    /// Directory of this node's CNI configurations.
    #[serde(deserialize_with = "absolute")]
    pub conf_dir: Option<String>,
    /// Directory of this node's CNI plugins.
    #[serde(deserialize_with = "absolute")]
    pub bin_dir: Option<String>,
    /// Socket of the container runtime; `unix://` before it is accepted.
    #[serde(deserialize_with = "absolute")]
    pub runtime_socket: Option<String>,
    /// kubelet's kubeconfig, the node's own identity.
    #[serde(deserialize_with = "absolute")]
    pub kubeconfig: Option<String>,
    /// What `nodectl cluster` would be told with flags.
    pub cluster: ClusterConfig,
}

/// One thing in a file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    file: PathBuf,
    line: Option<usize>,
    key: Option<String>,
    why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", {key}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl Config {
    /// What the files say, and what of them cannot be used. What is wrong with one setting leaves the others as they are.
    pub fn load(host: &Host, given: Option<&Path>) -> (Config, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut merged = Table::new();
        for path in sources(host, given, &mut problems) {
            match files::read_text_optional(&path) {
                Ok(Some(text)) => merge(&mut merged, settings(&path, &text, &mut problems)),
                Ok(None) if given.is_none() => {}
                Ok(None) => problems.push(whole(&path, "there is no such file".into())),
                Err(error) => problems.push(whole(&path, format!("{error:#}"))),
            }
        }
        // Each setting was tried alone, so all of them together are right.
        (merged.try_into().unwrap_or_default(), problems)
    }

    /// What the adapters are told instead of looking for it themselves.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            conf_dir: self.conf_dir.clone(),
            bin_dir: self.bin_dir.clone(),
            runtime_socket: self.runtime_socket.clone(),
            kubeconfig: self.kubeconfig.clone(),
        }
    }
}

/// The files that are read, in their order. The ones of the machine need not be there.
fn sources(host: &Host, given: Option<&Path>, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.to_owned()];
    }
    let (file, folder) = (host.path(FILE), host.path(FOLDER));
    if file.is_symlink() && !file.exists() {
        problems.push(whole(&file, "it is a link to a file that is not there".into()));
    }
    if files::exists(&folder) && !folder.is_dir() {
        problems.push(whole(&folder, "it is no folder".into()));
    }
    let mut names = files::list(&folder).unwrap_or_else(|error| {
        problems.push(whole(&folder, format!("{error:#}")));
        Vec::new()
    });
    names.retain(|name| name.ends_with(".toml") && !name.starts_with('.'));
    names.sort_unstable();
    std::iter::once(host.path(FILE)).chain(names.iter().map(|name| folder.join(name))).collect()
}

/// The settings of one file that can be used.
fn settings(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Table {
    let line = |at: usize| text.get(..at).map(|before| before.matches('\n').count() + 1);
    let found: BTreeMap<Spanned<String>, Value> = match toml::from_str(text) {
        Ok(found) => found,
        Err(error) => {
            let line = error.span().and_then(|span| line(span.start));
            problems.push(Problem { line, ..whole(path, format!("this is not TOML: {}", error.message())) });
            return Table::new();
        }
    };
    let mut good = Table::new();
    for (key, value) in found {
        let (at, name) = (key.span().start, key.into_inner());
        for (name, alone) in single(name, value) {
            match alone.clone().try_into::<Config>() {
                Ok(_) => merge(&mut good, alone),
                Err(error) => problems.push(Problem {
                    file: path.to_owned(),
                    line: line(at),
                    key: Some(name),
                    why: error.message().to_owned(),
                }),
            }
        }
    }
    good
}

/// A setting alone, by its name; those of the table `[cluster]` each for itself.
fn single(name: String, value: Value) -> Vec<(String, Table)> {
    match value {
        Value::Table(inner) if name == CLUSTER => inner
            .into_iter()
            .map(|(key, value)| {
                let full = format!("{CLUSTER}.{key}");
                (full, Table::from_iter([(name.clone(), Value::Table(Table::from_iter([(key, value)])))]))
            })
            .collect(),
        value => vec![(name.clone(), Table::from_iter([(name, value)]))],
    }
}

/// Adds settings; the later one wins, within a table each for itself.
fn merge(into: &mut Table, more: Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(there)), Value::Table(more)) => there.extend(more),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn whole(path: &Path, why: String) -> Problem {
    Problem { file: path.to_owned(), line: None, key: None, why }
}

/// A relative path would mean another file with every working directory.
fn absolute<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let path = String::deserialize(value)?;
    let path = path.strip_prefix("unix://").unwrap_or(&path);
    match path.starts_with('/') {
        true => Ok(Some(path.to_owned())),
        false => Err(serde::de::Error::custom(format!("{path:?} is not an absolute path"))),
    }
}

/// A duration with its unit.
fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(value)?;
    crate::clock::duration(&text).map(Some).map_err(serde::de::Error::custom)
}

/// Targets of a probe.
fn targets<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<String>>, D::Error> {
    let texts = Vec::<String>::deserialize(value)?;
    let checked: Result<Vec<String>, String> = texts.iter().map(|text| target::checked(text)).collect();
    checked.map(Some).map_err(serde::de::Error::custom)
}

/// A time limit.
fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let seconds = u64::deserialize(value)?;
    match seconds <= LONGEST_S {
        true => Ok(Some(seconds)),
        false => Err(serde::de::Error::custom(format!("{seconds} s are more than a week ({LONGEST_S} s)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("etc/nodectl/config.d")).expect("a directory");
        for (name, text) in files {
            std::fs::write(root.path().join("etc/nodectl").join(name), text).expect("a file");
        }
        let host = Host::new(root.path());
        (root, host)
    }

    /// The problems as they are read, without the temporary directory.
    fn words(root: &tempfile::TempDir, problems: &[Problem]) -> Vec<String> {
        let root = root.path().display().to_string();
        problems.iter().map(|p| p.to_string().replace(&root, "")).collect()
    }

    #[test]
    fn later_files_win_and_no_file_is_no_problem() {
        let (_root, host) = machine(&[]);
        assert_eq!(Config::load(&host, None), (Config::default(), Vec::new()));
        let (_root, host) = machine(&[
            ("config.toml", "strategy = 'drain'\ndrain_timeout = 1\nignore = ['mtu']\nkubeconfig = '/k'\n"),
            ("config.d/20-b.toml", "drain_timeout = 3\noutput = 'json'\nruntime_socket = 'unix:///run/x.sock'\n"),
            ("config.d/10-a.toml", "drain_timeout = 2\nagent_timeout = 9\n"),
            ("config.d/30-c.toml.bak", "no TOML at all"),
        ]);
        let (config, problems) = Config::load(&host, None);
        assert_eq!(problems, []);
        assert_eq!((config.drain_timeout, config.agent_timeout), (Some(3), Some(9)));
        assert_eq!((config.strategy, config.output), (Some(Strategy::Drain), Some(OutputFormat::Json)));
        assert_eq!(config.ignore.as_deref(), Some(["mtu".to_owned()].as_slice()));
        let overrides = config.overrides();
        assert_eq!(overrides.runtime_socket.as_deref(), Some("/run/x.sock"));
        assert_eq!((overrides.kubeconfig.as_deref(), overrides.conf_dir), (Some("/k"), None));
    }

    #[test]
    fn a_given_file_stands_alone_and_must_be_there() {
        let (root, host) = machine(&[("config.toml", "force = true\n"), ("other.toml", "grace_period = 5\n")]);
        let (config, problems) = Config::load(&host, Some(&root.path().join("etc/nodectl/other.toml")));
        assert_eq!((config.force, config.grace_period, problems.len()), (None, Some(5), 0));
        let (config, problems) = Config::load(&host, Some(&root.path().join("none.toml")));
        assert_eq!(config, Config::default());
        assert_eq!(words(&root, &problems), ["/none.toml: there is no such file"]);
    }

    #[test]
    fn problems_name_file_line_and_key_and_leave_the_rest() {
        let text = "# ours\nforce = true\n\ndrain_timeout = -3\nstratgy = 'drain'\nprogress = 'loud'\nbin_dir = 'opt'\nagent_timeout = 604801\nprobe_to = ['udp:1.2.3.4']\n[x]\n";
        let (root, host) = machine(&[("config.toml", text), ("config.d/a.toml", "output = 'json'\noutput = 'text'\n")]);
        let (config, problems) = Config::load(&host, None);
        assert_eq!(config, Config { force: Some(true), ..Config::default() });
        let words = words(&root, &problems).join("\n");
        for start in [
            "/etc/nodectl/config.toml line 4, drain_timeout: invalid value",
            "/etc/nodectl/config.toml line 5, stratgy: unknown field `stratgy`, expected one of `to`, `strategy`",
            "/etc/nodectl/config.toml line 6, progress: unknown variant `loud`, expected one of `text`, `json`, `none`",
            "/etc/nodectl/config.toml line 7, bin_dir: \"opt\" is not an absolute path",
            "/etc/nodectl/config.toml line 8, agent_timeout: 604801 s are more than a week (604800 s)",
            "/etc/nodectl/config.toml line 9, probe_to: \"udp:1.2.3.4\" is no target",
            "/etc/nodectl/config.toml line 10, x: unknown field",
            "/etc/nodectl/config.d/a.toml line 2: this is not TOML: duplicate key",
        ] {
            assert!(words.contains(start), "{start} is not in:\n{words}");
        }
        assert_eq!(problems.len(), 8, "{words}");
    }

    #[test]
    fn settings_of_the_cluster_are_merged_and_named_one_by_one() {
        let (root, host) = machine(&[
            ("config.toml", "[cluster]\nflannel_vni = 7\nflannel_port = 8472\n"),
            ("config.d/a.toml", "[cluster]\nflannel_port = 4789\nflannel_mtu = 9\nflanel_vni = 1\n"),
        ]);
        let (config, problems) = Config::load(&host, None);
        assert_eq!((config.cluster.flannel_vni, config.cluster.flannel_port), (Some(7), Some(4789)));
        let words = words(&root, &problems).join("\n");
        assert!(words.contains("a.toml line 1, cluster.flannel_mtu: 9 is not between 576 and 65535"), "{words}");
        assert!(words.contains("cluster.flanel_vni: unknown field `flanel_vni`"), "{words}");
        assert_eq!(problems.len(), 2, "{words}");
    }

    #[test]
    fn what_is_no_file_or_no_folder_is_named() {
        let (root, host) = machine(&[]);
        std::fs::remove_dir(root.path().join("etc/nodectl/config.d")).unwrap();
        std::fs::write(root.path().join("etc/nodectl/config.d"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("etc/nodectl/config.toml")).unwrap();
        let (_, problems) = Config::load(&host, None);
        let words = words(&root, &problems).join("\n");
        assert!(words.contains("config.toml: it is a link") && words.contains("config.d: it is no folder"), "{words}");
    }

    #[test]
    fn the_packaged_file_says_nothing_and_all_it_shows_is_right() {
        let packaged = include_str!("../../packaging/config.toml");
        let (_root, host) = machine(&[("config.toml", packaged)]);
        assert_eq!(Config::load(&host, None), (Config::default(), Vec::new()));
        let setting = |line: &&str| {
            line.starts_with("#[") || line.starts_with('#') && line.contains(" = ") && !line.starts_with("# ")
        };
        let shown: Vec<&str> = packaged.lines().filter(setting).map(|line| &line[1..]).collect();
        let (_root, host) = machine(&[("config.toml", &shown.join("\n"))]);
        let (config, problems) = Config::load(&host, None);
        assert_eq!((problems, shown.len()), (Vec::new(), 41));
        assert_eq!(config.cluster.flannel_vni, Some(1));
        assert_eq!(config.drain_timeout, Some(crate::request::Request::default().drain_timeout_s));
    }
}

//! The package's manual pages are those of this command line and this configuration file; shells get its completions.
//!
//! `UPDATE=1 cargo test -p nodectl --test manual` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use nodectl::cli::Cli;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// Compares with the file, or writes it.
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(wanted, text, "{} differs; UPDATE=1 writes it anew", path.display());
}

/// What no flag says, for the end of nodectl(8).
const MORE: &str = r#".SH FILES
.TP
\fI/etc/nodectl/config.toml\fR, \fI/etc/nodectl/config.d/*.toml\fR
What holds where no flag says otherwise; see \fBnodectl.toml\fR(5).
.TP
\fI/var/lib/nodectl/\fR
Journals, reports and backups of the runs on this node; \fIopen\fR names the one that is not closed.
.TP
\fI/var/lib/cni\-shim/\fR
What the plugin in front of both CNIs remembers; see \fBcni\-shim\fR(8).
.TP
\fI/run/nodectl/lock\fR
Held while something is being changed.
"#;

/// The page of a command and those of its commands: name and text.
fn pages(command: &clap::Command, found: &mut Vec<(String, String)>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).title(&name).section("8").date("").source("nodectl").manual("nodectl");
    man.render(&mut page).unwrap();
    // The version is the package's; what stands after the help are the exit codes.
    let page = String::from_utf8(page).unwrap().replace(".SH EXTRA\n", ".SH \"EXIT STATUS\"\n");
    let (page, _version) = page.split_once(".SH VERSION\n").unwrap();
    let mut others = vec!["\\fBnodectl\\fR(8)", "\\fBnodectl.toml\\fR(5)", "\\fBcni\\-shim\\fR(8)"];
    let mut more = "";
    if name == "nodectl" {
        others.remove(0);
        more = MORE;
    }
    found.push((name, format!("{page}{more}.SH \"SEE ALSO\"\n{}\n", others.join(",\n"))));
    command.get_subcommands().filter(|command| !command.is_hide_set()).for_each(|command| pages(command, found));
}

/// nodectl.toml(5), out of the commented default configuration: words, then the settings that they are about.
fn settings() -> String {
    let text = std::fs::read_to_string(packaging().join("config.toml")).unwrap();
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let mut page = HEAD.to_owned();
    let (mut words, mut settings) = (Vec::new(), Vec::new());
    for line in text.lines().chain([""]) {
        if is_setting(line) {
            settings.push(line.trim_start_matches('#'));
            continue;
        }
        if !settings.is_empty() {
            page.push_str(&entry(&words.join("\n"), &settings));
        }
        if line.is_empty() || !settings.is_empty() {
            (words, settings) = (Vec::new(), Vec::new());
        }
        words.extend(line.strip_prefix("# "));
    }
    page + ".SH \"SEE ALSO\"\n\\fBnodectl\\fR(8)\n"
}

fn entry(words: &str, settings: &[&str]) -> String {
    let escaped = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let keys: Vec<_> = settings.iter().filter_map(|line| line.split(" = ").next()).collect();
    let title = keys.first().filter(|key| key.starts_with('[')).map_or(keys.join(", "), |table| (*table).to_owned());
    // What is no example is the default.
    let kind = if words.contains("xample") { "" } else { "\nDefault:" };
    let shown: String = settings.iter().map(|line| format!("\n.br\n\\fB{}\\fR", escaped(line))).collect();
    format!(".TP\n\\fB{title}\\fR\n{}{kind}{shown}\n", escaped(words))
}

const HEAD: &str = r#".TH nodectl.toml 5 "" nodectl nodectl
.SH NAME
nodectl.toml \- what nodectl does on this machine where no flag says otherwise
.SH SYNOPSIS
\fI/etc/nodectl/config.toml\fR, \fI/etc/nodectl/config.d/*.toml\fR
.SH DESCRIPTION
The files of the folder are read after the file, in the order of their names. The last one to name a setting wins, and a flag of
\fBnodectl\fR(8) wins over all files. With \fB\-\-config FILE\fR, that file is read instead of these.
.SH SETTINGS
"#;

#[test]
fn manual_pages_are_up_to_date() {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut found = Vec::new();
    pages(&command, &mut found);
    let folder = packaging().join("man");
    for (name, page) in &found {
        golden(&folder.join(format!("{name}.8")), page);
    }
    golden(&folder.join("nodectl.toml.5"), &settings());
    let mut wanted: BTreeSet<String> = found.iter().map(|(name, _)| format!("{name}.8")).collect();
    wanted.extend(["nodectl.toml.5".to_owned(), "cni-shim.8".to_owned()]);
    let there = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), wanted, "pages of commands that are no more");
}

#[test]
fn manual_pages_are_sound() {
    for entry in std::fs::read_dir(packaging().join("man")).unwrap() {
        let path = entry.unwrap().path();
        let output = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
    }
}

#[test]
fn shells_get_completions_of_every_command() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_nodectl")).args(["completions", &shell.to_string()]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
        }
        if shell == Shell::Bash {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(file.path()).status().unwrap().success());
        }
    }
}

//! Flags and configuration files, resolved: the one place that knows which of them wins.

use super::fitting;
use crate::cli::{Cli, Command, Common, ProbeFlags, RevertArgs, ShimArgs, ShimCommand, Switch};
use crate::config::{Config, Problem};
use crate::failure::Failure;
use crate::host::Host;
use crate::probe::Asked;
use crate::report::{OutputFormat, ProgressFormat};
use crate::request::Request;

/// What holds for this command.
#[derive(Debug)]
pub struct Settings {
    /// Format of the result.
    pub output: OutputFormat,
    /// Format of the progress.
    pub progress: ProgressFormat,
    /// What the files say of the rest.
    pub config: Config,
    /// The first thing that must be said of the files, where they cannot be used as they are.
    wrong: Option<String>,
}

impl Settings {
    /// The flags, then the files, then the defaults.
    pub fn resolve(common: &Common) -> Settings {
        let (config, problems) = Config::load(&Host::new(&common.root), common.config.as_deref());
        Settings {
            output: common.output.or(config.output).unwrap_or_default(),
            progress: common.progress.or(config.progress).unwrap_or_default(),
            wrong: sentence(&problems),
            config,
        }
    }

    /// A configuration that is not what it was meant to be must not decide how a node is switched. But it must not stand in
    /// the way of one that is to be taken back, finished or looked at: there, what is wrong is left out.
    pub(super) fn accept(&self, command: &Command) -> Result<(), Failure> {
        let Some(wrong) = &self.wrong else { return Ok(()) };
        let looks = |args: &ShimArgs| !matches!(args.command, ShimCommand::Retire(_));
        let goes_on = match command {
            Command::Revert(_)
            | Command::Resume(_)
            | Command::Confirm(_)
            | Command::Status
            | Command::History
            | Command::Doctor(_)
            | Command::Probe(_)
            | Command::Bundle(_)
            | Command::Completions { .. } => true,
            Command::Shim(args) => looks(args),
            _ => false,
        };
        if goes_on {
            tracing::warn!("{wrong}. This command goes on without what is wrong there");
            return Ok(());
        }
        Err(Failure::Usage(wrong.clone()))
    }

    /// The node, with the places that the files name.
    pub(super) fn host(&self, cli: &Cli) -> Host {
        Host::new(&cli.common.root).with_overrides(self.config.overrides())
    }

    /// What `migrate` would be asked for without a flag.
    pub(super) fn usual_request(&self) -> Request {
        self.request(&Switch::default())
    }

    /// What was asked for with `preflight`, `plan` or `migrate`; an error where a flag has no use with its strategy.
    pub(super) fn asked(&self, args: &Switch) -> Result<Request, Failure> {
        let request = self.request(args);
        fitting::switch(args, request.strategy)?;
        Ok(request)
    }

    fn request(&self, args: &Switch) -> Request {
        let (config, usual) = (&self.config, Request::default());
        Request {
            to: args.to.or(config.to).unwrap_or(usual.to),
            drain_timeout_s: args.drain_timeout.or(config.drain_timeout).unwrap_or(usual.drain_timeout_s),
            grace_s: args.grace_period.or(config.grace_period),
            agent_timeout_s: args.agent_timeout.or(config.agent_timeout).unwrap_or(usual.agent_timeout_s),
            windows: config.maintenance_windows.clone().unwrap_or_default(),
            max_outage_ms: args.max_outage.or(config.max_outage),
            probe: self.probe(&args.probe).unwrap_or_default(),
            prepared_max_age_h: config.prepared_max_age_hours.unwrap_or(usual.prepared_max_age_h),
            unadoptable: args.unadoptable.or(config.unadoptable).unwrap_or_default(),
            ..self.consents(args.strategy, &args.ignore, args.force, args.delete_emptydir_data, usual)
        }
    }

    /// What was asked for with `revert` of a closed run: the rest is as it was asked for then.
    pub(super) fn request_back(&self, args: &RevertArgs, then: &Request) -> Request {
        let unadoptable = args.unadoptable.or(self.config.unadoptable).unwrap_or(then.unadoptable);
        // A way back waits for no window.
        let max_outage_ms = args.max_outage.or(self.config.max_outage).or(then.max_outage_ms);
        let probe = self.probe(&args.probe).unwrap_or_else(|| then.probe.clone());
        let then = Request { unadoptable, max_outage_ms, probe, windows: Vec::new(), ..then.clone() };
        self.consents(args.strategy, &args.ignore, args.force, args.delete_emptydir_data, then)
    }

    /// The flows that the flags name, or else the files; the two are not mixed.
    fn probe(&self, flags: &ProbeFlags) -> Option<Asked> {
        let (from, to, refuse) = (&flags.probe_from, &flags.probe_to, &flags.probe_refuse);
        let given = Asked { from: from.clone(), to: to.clone(), refuse: refuse.clone() };
        let config = &self.config;
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let filed =
            || Asked { from: list(&config.probe_from), to: list(&config.probe_to), refuse: list(&config.probe_refuse) };
        Some(given).filter(|given| !given.is_empty()).or_else(|| Some(filed()).filter(|filed| !filed.is_empty()))
    }

    fn consents(
        &self,
        strategy: Option<crate::request::Strategy>,
        ignore: &[String],
        force: Option<bool>,
        delete_emptydir_data: Option<bool>,
        rest: Request,
    ) -> Request {
        let config = &self.config;
        let ignore = Some(ignore.to_vec()).filter(|names| !names.is_empty());
        Request {
            strategy: strategy.or(config.strategy).unwrap_or_default(),
            ignore: ignore.or_else(|| config.ignore.clone()).unwrap_or_default(),
            force: force.or(config.force).unwrap_or_default(),
            delete_emptydir_data: delete_emptydir_data.or(config.delete_emptydir_data).unwrap_or_default(),
            ..rest
        }
    }
}

fn sentence(problems: &[Problem]) -> Option<String> {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    (!problems.is_empty()).then(|| {
        format!("the configuration cannot be used: {}. To fix it: correct or remove what is named", problems.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::request::Strategy;

    fn settings(text: &str, words: &[&str]) -> (Cli, Settings) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a file");
        let config = ["--config", file.path().to_str().expect("a path")];
        let cli = Cli::try_parse_from(["nodectl"].iter().chain(words).chain(&config)).expect("a command line");
        let settings = Settings::resolve(&cli.common);
        (cli, settings)
    }

    fn request(text: &str, words: &[&str]) -> Request {
        let (cli, settings) = settings(text, words);
        match &cli.command {
            Command::Plan(args) => settings.request(&args.switch),
            Command::Revert(args) => settings.request_back(args, &Request { drain_timeout_s: 7, ..Request::default() }),
            other => panic!("{other:?} takes no request"),
        }
    }

    #[test]
    fn flags_win_over_files_and_files_over_defaults() {
        assert_eq!(request("", &["plan"]), Request::default());
        let text = "strategy = 'recreate'\nignore = ['a']\nforce = true\ndelete_emptydir_data = true\ndrain_timeout = 1\n\
                    grace_period = 2\nagent_timeout = 3\nprepared_max_age_hours = 4\n";
        let filed = Request {
            strategy: Strategy::Recreate,
            ignore: vec!["a".into()],
            force: true,
            delete_emptydir_data: true,
            drain_timeout_s: 1,
            grace_s: Some(2),
            agent_timeout_s: 3,
            prepared_max_age_h: 4,
            ..Request::default()
        };
        assert_eq!(request(text, &["plan"]), filed);
        let words = [
            "plan",
            "--strategy",
            "drain",
            "--ignore",
            "b",
            "--force=false",
            "--timeout",
            "10s",
            "--ignore-daemonsets",
        ];
        let asked =
            Request { strategy: Strategy::Drain, ignore: vec!["b".into()], force: false, drain_timeout_s: 10, ..filed };
        assert_eq!(request(text, &words), asked);
        assert!(request("force = false", &["plan", "--force"]).force);
        assert_eq!(request(text, &["revert"]).drain_timeout_s, 7, "as it was asked for then");
        assert!(request(text, &["revert"]).force);
    }

    #[test]
    fn named_flows_are_those_of_the_flags_or_else_of_the_files() {
        let text = "strategy = 'in-place'\nprobe_from = ['all']\nprobe_refuse = ['icmp:10.1.0.2']\nmax_outage = 5\n";
        let asked = |from: &[&str], to: &[&str], refuse: &[&str]| {
            let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            Asked { from: list(from), to: list(to), refuse: list(refuse) }
        };
        assert_eq!(request(text, &["plan"]).probe, asked(&["all"], &[], &["icmp:10.1.0.2"]));
        for command in ["plan", "revert"] {
            let words = [command, "--probe-to", "host=icmp:10.1.0.3"];
            assert_eq!(request(text, &words).probe, asked(&[], &["host=icmp:10.1.0.3"], &[]));
        }
        // What the files say stands there for every run.
        let (cli, settings) = settings(text, &["plan", "--strategy", "drain"]);
        let Command::Plan(args) = &cli.command else { panic!("{cli:?}") };
        assert!(settings.asked(&args.switch).is_ok());
    }

    #[test]
    fn formats_come_from_the_file_too() {
        let text = "output = 'json'\nprogress = 'none'\n";
        let (_, filed) = settings(text, &["status"]);
        assert_eq!((filed.output, filed.progress), (OutputFormat::Json, ProgressFormat::None));
        let (_, asked) = settings(text, &["status", "--output", "text"]);
        assert_eq!((asked.output, asked.progress), (OutputFormat::Text, ProgressFormat::None));
    }

    #[test]
    fn what_is_wrong_stops_a_switch_but_no_way_back() {
        let text = "forse = true\noutput = 'json'\n";
        for words in [&["preflight"][..], &["plan"], &["migrate"], &["shim", "retire"], &["cluster", "status"]] {
            let (cli, settings) = settings(text, words);
            let refused = settings.accept(&cli.command).expect_err("it is wrong");
            assert_eq!(refused.code(), 64, "{words:?}");
            let said = refused.to_string();
            assert!(said.contains(" line 1, forse: unknown field") && said.contains("To fix it: "), "{said}");
        }
        for words in [&["revert"][..], &["resume"], &["status"], &["history"], &["shim", "status"], &["shim", "reap"]] {
            let (cli, settings) = settings(text, words);
            assert!(settings.accept(&cli.command).is_ok(), "{words:?}");
            assert_eq!(settings.output, OutputFormat::Json, "what is right still holds");
        }
    }
}

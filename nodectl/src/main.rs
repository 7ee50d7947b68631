//! nodectl: parse, log, run, say how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use nodectl::cli::{Cli, Common};
use nodectl::remedy::Told;
use nodectl::{command, failure, report};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::code::USAGE } else { failure::code::DONE });
        }
    };
    log(&cli.common);
    let settings = command::Settings::resolve(&cli.common);
    match command::run(&cli, &settings) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "nodectl: {}", Told::of_error(&error));
            report::failure(settings.output, &error);
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

/// The log goes to stderr: stdout is the result alone.
fn log(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let format = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time();
    let _ = format.with_max_level(level).with_ansi(nodectl::report::colour(&std::io::stderr())).try_init();
}

//! cni-shim: the CNI plugin that runs, for each pod, one of two other CNIs, and remembers which.

mod add;
mod del;
mod watch;

use cni_shim::request::Request;
use cni_spec::convert;
use cni_spec::error::{self, Error};
use cni_spec::skel::{self, Verb};
use serde_json::Value;
use std::io::Write as _;
use std::process::ExitCode;

/// musl's own gives and takes single pages all the time, which is a tenth of what a call costs.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const VERBS: &str = "To fix it: let the runtime say ADD, DEL, CHECK, GC, STATUS or VERSION";

fn main() -> ExitCode {
    // Unset or empty, as libcni's skel has it.
    let Some(verb) = std::env::var_os("CNI_COMMAND").filter(|verb| !verb.is_empty()) else {
        let about = format!("cni-shim {}: a CNI plugin; CNI versions", env!("CARGO_PKG_VERSION"));
        let _ = writeln!(std::io::stderr(), "{about} {}", convert::SUPPORTED.join(", "));
        return ExitCode::SUCCESS;
    };
    let (verb, mut version) = (verb.to_string_lossy(), "1.1.0".to_owned());
    match answer(&verb, &mut version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(document)) => print(kept(document)),
        Err(error) => {
            let error = if verb == "DEL" { error.unswallowed() } else { error };
            let mut document = serde_json::to_value(&error).unwrap_or_default();
            if let Value::Object(fields) = &mut document {
                fields.insert("cniVersion".to_owned(), version.into());
            }
            print(&document);
            ExitCode::FAILURE
        }
    }
}

/// Writes the one document that the runtime gets, at once. If it does not take it, it will send a DEL.
fn print(document: &Value) -> ExitCode {
    let mut text = serde_json::to_vec(document).unwrap_or_default();
    text.push(b'\n');
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A value that is never freed: the process ends with the call, and taking documents apart is a tenth of what one costs.
fn kept<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// Does what CNI_COMMAND says. `version` becomes the runtime's as soon as that is known.
fn answer(verb: &str, version: &mut String) -> Result<Option<Value>, Error> {
    let verb = match verb {
        "VERSION" => return Ok(Some(skel::version())),
        "ADD" => Verb::Add,
        "DEL" => Verb::Del,
        "CHECK" => Verb::Check,
        "GC" => Verb::Gc,
        "STATUS" => Verb::Status,
        other => return Err(Error::new(error::ENVIRONMENT, format!("unknown CNI_COMMAND: {other}"), VERBS)),
    };
    let request = kept(Request::read(verb, version)?);
    match verb {
        Verb::Add => add::run(request).map(Some),
        Verb::Del => del::run(request).map(|()| None),
        Verb::Check => watch::check(request).map(|()| None),
        Verb::Gc => watch::gc(request).map(|()| None),
        Verb::Status => watch::status(request).map(|()| None),
    }
}

//! `nodectl cleanup`: look, decide, ask, write down, remove, look again.

use anyhow::Result;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::migrate;
use super::settings::Settings;
use crate::cleanup::record::{self, RECORD_FORMAT, Record};
use crate::cleanup::{self, Decision, Refusal, Request, refusals};
use crate::cli::CleanupArgs;
use crate::cni::Cni;
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::observe;
use crate::remedy::Told;
use crate::remove::Aside;
use crate::report::{self, ProgressFormat};
use crate::run::Lock;
use crate::step::words::count;
use crate::variant;

pub(super) fn run(host: &Host, args: &CleanupArgs, verbose: bool, settings: &Settings) -> Result<u8> {
    let request = request(args)?;
    let cni = request.cni;
    let _lock = if args.dry_run { None } else { Some(Lock::take(host)?) };
    let begun = record::unfinished(host, cni)?;
    let look = || cleanup::decide(&observe::closely(host), &request, begun.as_ref().map(|r| &r.known));
    let mut decision = look();
    let text = report::cleanup_text(&decision, cni, verbose);
    if args.dry_run {
        return show(&decision, &text, args, cni, settings);
    }
    if let Some(refused) = refused(&decision) {
        report::result(settings.output, &text, &document(&decision, cni, "refused"), false)?;
        return Err(refused.into());
    }
    if decision.is_empty() {
        record::end(host, cni)?;
        report::result(settings.output, &text, &document(&decision, cni, "nothing-to-do"), false)?;
        return Ok(code::DONE);
    }
    if !args.yes {
        migrate::ask(&text, &format!("Take {cni} off this node?"))?;
        // Whoever is asked may think for an hour. What was shown is what goes.
        let now = look();
        unchanged(&decision, &now)?;
        decision = now;
    }
    remove(host, args, &request, &decision, begun, settings)
}

fn request(args: &CleanupArgs) -> Result<Request> {
    let cni = if args.flannel { Cni::Flannel } else { Cni::Calico };
    if let Some(unknown) = args.force.iter().find(|name| !refusals::NAMES.contains(&name.as_str())) {
        return Err(Failure::Usage(format!(
            "--force {unknown}: there is no refusal of this name that can be waived. To fix it: use one of {}",
            refusals::NAMES.join(", ")
        ))
        .into());
    }
    let all = [("--network", &args.network), ("--subnet", &args.subnet)];
    let everything = |nets: &Vec<IpNet>| nets.iter().find(|net| net.prefix_len() == 0).copied();
    if let Some((flag, net)) = all.into_iter().find_map(|(flag, nets)| Some((flag, everything(nets)?))) {
        let text =
            format!("{flag} {net} is every address there is. To fix it: give the pod network, such as 10.244.0.0/16");
        return Err(Failure::Usage(text).into());
    }
    if args.interface_prefix.iter().chain(&args.network_name).any(String::is_empty) {
        let text = "an empty prefix or name would fit everything. To fix it: leave the flag out, or name what it is";
        return Err(Failure::Usage(text.into()).into());
    }
    Ok(Request {
        cni,
        force: args.force.clone(),
        networks: args.network.iter().map(|net| net.trunc()).collect(),
        subnets: args.subnet.iter().map(|net| net.trunc()).collect(),
        names: args.network_name.clone(),
        prefixes: args.interface_prefix.clone(),
    })
}

/// The dry run: a refusal would stop the real one, so it is this one's answer too.
fn show(decision: &Decision, text: &str, args: &CleanupArgs, cni: Cni, settings: &Settings) -> Result<u8> {
    let refused = refused(decision);
    let outcome = match &refused {
        Some(_) => "refused",
        None if decision.is_empty() => "nothing-to-do",
        None => "would-remove",
    };
    report::result(settings.output, text, &document(decision, cni, outcome), false)?;
    match refused {
        Some(refused) => Err(refused.into()),
        None if args.detailed_exitcode && !decision.is_empty() => Ok(code::PENDING),
        None => Ok(code::DONE),
    }
}

fn refused(decision: &Decision) -> Option<Failure> {
    let standing: Vec<&Refusal> = decision.standing().collect();
    let why: Vec<String> = standing.iter().map(|r| format!("[{}] {}", r.name, r.why)).collect();
    let told = Told::of(&format!("nothing was changed: {}", why.join("; ")));
    let told = standing.iter().fold(told, |told, refusal| told.mended_by(&refusal.fix));
    // Where nothing is to go nothing is in its way; but what could not be looked at is not nothing.
    let blind = standing.iter().any(|refusal| refusal.name == refusals::UNOBSERVED);
    (!standing.is_empty() && (blind || !decision.is_empty())).then(|| Failure::Refused(told.to_string()))
}

/// An error that names what has changed between the question and the answer.
fn unchanged(shown: &Decision, now: &Decision) -> Result<()> {
    let lines = |decision: &Decision| -> Vec<String> {
        let claims = decision.inventory.claims.iter().map(|c| format!("{} {}", c.group.singular(), c.object));
        let refusals = decision.refusals.iter().map(|r| format!("[{}] {}", r.name, r.why));
        claims.chain(refusals).collect()
    };
    let (then, now) = (lines(shown), lines(now));
    let gone = then.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
    let come = now.iter().filter(|line| !then.contains(line)).map(|line| format!("+ {line}"));
    let changes: Vec<String> = gone.chain(come).collect();
    if changes.is_empty() { Ok(()) } else { Err(migrate::changed_since_asked(&changes)) }
}

fn document(decision: &Decision, cni: Cni, outcome: &str) -> Value {
    let inventory = &decision.inventory;
    let mut counts = serde_json::Map::new();
    for claim in &inventory.claims {
        let group = variant::name(claim.group);
        let n = counts.get(&group).and_then(Value::as_u64).unwrap_or_default();
        counts.insert(group, json!(n + 1));
    }
    json!({
        "outcome": outcome, "cni": cni, "counts": counts, "objects": inventory.claims,
        "undecided": inventory.undecided, "stays": inventory.stays, "refusals": decision.refusals,
    })
}

/// Writes down what is about to go, removes it, and looks whether it is gone.
fn remove(
    host: &Host,
    args: &CleanupArgs,
    request: &Request,
    decision: &Decision,
    begun: Option<Record>,
    settings: &Settings,
) -> Result<u8> {
    let cni = request.cni;
    let resumed = begun.is_some();
    let record = Record {
        format: RECORD_FORMAT,
        tool: env!("CARGO_PKG_VERSION").into(),
        id: begun.map_or_else(crate::clock::run_id, |b| b.id),
        cni,
        at: crate::clock::now(),
        reason: args.reason.clone(),
        known: decision.known.clone(),
        removed: decision.inventory.image.clone(),
        claims: decision.inventory.claims.clone(),
    };
    if !resumed {
        record::begin(host, &record)?;
    }
    let aside = if args.purge { Aside::Purge } else { Aside::Into(record::backup(host, &record.id)) };
    let told = |part: &str| {
        if settings.progress == ProgressFormat::Text {
            tracing::info!("removing {part}");
        }
    };
    let spent = cleanup::execute(host, &record.removed, &aside, told).map_err(half_done)?;
    let after = cleanup::decide(&observe::closely(host), request, Some(&record.known));
    if !after.is_empty() {
        let left: Vec<&str> = after.inventory.own().take(5).map(|c| c.object.as_str()).collect();
        return Err(Failure::NeedsHands(format!(
            "{} of {cni} came back or would not go: {}. To fix it: see that its agent does not run, then run this again",
            count(after.inventory.own().count(), "object"),
            left.join(", ")
        ))
        .into());
    }
    record::end(host, cni)?;
    let removed = decision.inventory.claims.len();
    let mut text = format!("{} of {cni} removed from this node.\n", count(removed, "object"));
    if let Some(folder) = aside.path("").filter(|_| !record.removed.files.is_empty()) {
        text.push_str(&format!("Files were moved to {}\n", folder.display()));
    }
    text.push_str(&report::stays_text(&after));
    let mut data = document(decision, cni, "removed");
    data["spent"] = json!(spent);
    data["record"] = json!(record.id);
    report::result(settings.output, &text, &data, true)?;
    Ok(code::DONE)
}

/// Something has gone by then: "failed, nothing changed" would be a lie.
fn half_done(error: anyhow::Error) -> anyhow::Error {
    let told = Told::of_error(&error).mended_by("mend the cause, then run the same command again; it goes on");
    Failure::NeedsHands(told.to_string()).into()
}

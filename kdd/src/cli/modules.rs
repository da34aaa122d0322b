//! `kdd modules`.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{GuestModules, Reply, Request};
use std::fmt::Write;

/// List the modules of the guest's kernel, from outside
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --json: an object with `modules` and `unloaded`, and `broken` where the guest's list breaks off.\n\n\
    Examples:\n  kdd modules linux\n  kdd modules win10"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    match args.common.ask(Request::Modules { domain: args.domain })? {
        Reply::Modules(list) if args.common.json => output::print_json(&list),
        Reply::Modules(list) => output::print(&text(&list)),
        other => Err(unexpected(&other)),
    }
}

fn text(list: &GuestModules) -> String {
    let table = match list.modules.iter().all(|module| module.path.is_none()) {
        true => linux(list),
        false => windows(list),
    };
    let mut text = table;
    for module in &list.unloaded {
        let _ = writeln!(
            text,
            "unloaded: {} ({} to {})",
            module.name, module.start, module.end
        );
    }
    text + &output::broken(list.broken.as_deref())
}

fn windows(list: &GuestModules) -> String {
    let mut rows = vec![["BASE", "SIZE", "NAME", "PATH"].map(str::to_owned)];
    for module in &list.modules {
        rows.push([
            module.base.to_string(),
            format!("{:#x}", module.bytes),
            module.name.clone(),
            module.path.clone().unwrap_or_default(),
        ]);
    }
    output::table(&rows)
}

/// As lsmod, with addresses.
fn linux(list: &GuestModules) -> String {
    let heading = ["BASE", "SIZE", "STATE", "USED", "NAME", "BY", "PARTS"];
    let mut rows = vec![heading.map(str::to_owned)];
    for module in &list.modules {
        let parts = module
            .parts
            .iter()
            .map(|part| format!("{} {}+{:#x}", part.kind, part.base, part.bytes));
        rows.push([
            module.base.to_string(),
            module.bytes.to_string(),
            output::optional(module.state.as_ref()),
            output::optional(module.references),
            module.name.clone(),
            match &module.used_by {
                Some(users) if !users.is_empty() => users.join(","),
                _ => "-".into(),
            },
            parts.collect::<Vec<_>>().join(", "),
        ]);
    }
    output::table(&rows)
}

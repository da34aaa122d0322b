//! Copy-on-write children of a domain.

use super::console::ConsoleSink;
use super::{Managed, Service};
use crate::Failure;
use crate::control::message::MAX_FORKS;
use crate::parse::ListenAddress;
use hv_core::introspect::{DomainState, Introspect};
use std::sync::Arc;

impl Service {
    /// Makes `count` children, named after their parent, all from the same moment. They run if it does, unless
    /// `paused`. All of them, or none.
    pub fn fork(
        &self,
        parent: &Arc<Managed>,
        count: u32,
        paused: bool,
    ) -> Result<Vec<Arc<Managed>>, Failure> {
        if !(1..=MAX_FORKS).contains(&count) {
            return Err(Failure::new(
                "fork",
                format_args!("{count} children at once can't be made"),
                format_args!("choose 1 to {MAX_FORKS}"),
            ));
        }
        let fork = parent
            .domain()
            .fork()
            .ok_or_else(|| Failure::new("fork", "this domain can't be forked", "create another"))?;
        let run = !paused && parent.domain().state() == DomainState::Running;
        let held = parent.hold()?;
        let mut children: Vec<Arc<Managed>> = Vec::new();
        for _ in 0..count {
            let name = self.free_fork_name(&parent.domain().name());
            match fork.fork(&name) {
                Ok(child) => {
                    let words = format!("fork of '{}'", parent.domain().name());
                    children.push(self.adopt(Managed::new(
                        child,
                        parent.hardware().clone(),
                        words,
                        ConsoleSink::none(),
                        1,
                    )));
                }
                Err(error) => {
                    for child in &children {
                        let _ = self.destroy(child);
                    }
                    return Err(parent.failure(&error, "'kdd info' shows its state"));
                }
            }
        }
        drop(held);
        for child in &children {
            self.start(child, !run)?;
        }
        Ok(children)
    }

    /// Takes a child that a debugger's command made: it waits for a debugger of its own, at an endpoint of its own.
    /// What it says is a line for the user.
    pub(super) fn adopt_fork(self: &Arc<Self>, child: Arc<dyn Introspect>) -> Result<String, Failure> {
        let hardware = self
            .hypervisor
            .get(child.id())
            .map(|domain| domain.hardware().clone())
            .ok_or_else(|| Failure::new("fork", "the child is gone already", "make another"))?;
        let child = self.adopt(Managed::new(
            child,
            hardware,
            "fork, made by a debugger".into(),
            ConsoleSink::none(),
            1,
        ));
        let listening = self
            .start(&child, true)
            .and_then(|()| self.listen(&child, &ListenAddress::LOOPBACK, None));
        match listening {
            Ok(endpoint) => Ok(format!(
                "'{}' ({}) waits for its debugger: target remote {}",
                child.domain().name(),
                child.domain().id(),
                endpoint.address
            )),
            Err(failure) => {
                let _ = self.destroy(&child);
                Err(failure)
            }
        }
    }

    fn free_fork_name(&self, parent: &str) -> String {
        let taken: Vec<String> = self.domains().iter().map(|m| m.domain().name()).collect();
        (1_u64..)
            .map(|n| format!("{parent}-fork-{n}"))
            .find(|name| !taken.contains(name))
            .unwrap_or_default()
    }
}

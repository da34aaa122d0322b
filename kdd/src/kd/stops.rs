//! What the engine stops at for this session: one list, made equal to what is wanted before the guest runs.

use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place};
use introspect::Session;

/// The breakpoints and watchpoints that the engine has for the host.
#[derive(Default)]
pub(super) struct Installed {
    list: Vec<(Place, BreakpointKind, BreakpointId)>,
    private: bool,
}

impl Installed {
    /// Those whose stops other debuggers need not hear of.
    pub fn private() -> Installed {
        Installed {
            private: true,
            ..Installed::default()
        }
    }

    /// Inserts what is missing and removes what isn't wanted any more. What is both costs nothing.
    pub fn make(&mut self, session: &Session, wanted: &[(Place, BreakpointKind)]) {
        self.list.retain(|(place, kind, id)| {
            let keep = wanted.contains(&(*place, *kind));
            if !keep && let Err(error) = session.remove_breakpoint(*id) {
                tracing::warn!(%error, "a breakpoint can't be removed");
            }
            keep
        });
        for &(place, kind) in wanted {
            if self.id_of(place, kind).is_some() {
                continue;
            }
            let breakpoint = Breakpoint {
                place,
                kind,
                condition: None,
            };
            let inserted = if self.private {
                session.insert_private_breakpoint(breakpoint)
            } else {
                session.insert_breakpoint(breakpoint)
            };
            match inserted {
                Ok(id) => self.list.push((place, kind, id)),
                Err(error) => tracing::warn!(?place, %error, "a breakpoint can't be set"),
            }
        }
    }

    /// The engine's name of one.
    pub fn id_of(&self, place: Place, kind: BreakpointKind) -> Option<BreakpointId> {
        let found = self.list.iter().find(|(p, k, _)| *p == place && *k == kind);
        found.map(|(_, _, id)| *id)
    }

    /// Whether one of these is the host's.
    pub fn has_any(&self, ids: &[BreakpointId]) -> bool {
        self.list.iter().any(|(_, _, id)| ids.contains(id))
    }
}

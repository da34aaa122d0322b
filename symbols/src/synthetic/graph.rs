//! Types that debuggers can follow to an end. C has no type that contains itself but by pointers in structures; a guest's
//! BTF may say anything, and debuggers recurse into it.

use crate::btf::{Btf, Kind, Type, TypeId};

/// Types in types, of either sort. Linux has up to 30.
const MAX_HEIGHT: u8 = 200;

/// For each id whether what the type refers to has to be left out.
pub(super) fn broken(btf: &Btf) -> Vec<bool> {
    let mut broken = vec![false; btf.len() + 1];
    // Whatever isn't in a structure.
    walk(btf, &mut broken, |of, found| {
        if !matches!(of.kind(), Kind::Struct | Kind::Union) {
            references(of, found);
        }
    });
    // Whatever is part of a value.
    walk(btf, &mut broken, |of, found| {
        if !matches!(of.kind(), Kind::Pointer | Kind::Prototype) {
            references(of, found);
        }
    });
    broken
}

fn references(of: Type<'_>, found: &mut Vec<u32>) {
    match of.kind() {
        Kind::Struct | Kind::Union => found.extend(of.items().map(|item| item.words[0])),
        Kind::Prototype => {
            found.extend(of.target().map(|it| it.0));
            found.extend(of.items().map(|item| item.words[0]));
        }
        Kind::Array => found.extend(of.array().map(|(element, _)| element.0)),
        Kind::Pointer | Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
            found.extend(of.target().map(|it| it.0));
        }
        _ => {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    Not,
    Open,
    /// With the types in types below it.
    Done(u8),
}

/// Depth first, with a stack of its own.
fn walk(btf: &Btf, broken: &mut [bool], edges: impl Fn(Type<'_>, &mut Vec<u32>)) {
    let mut seen = vec![Seen::Not; broken.len()];
    // What is to be looked at still, of all open types; and those, each with where its part begins and its height so far.
    let mut left: Vec<u32> = Vec::new();
    let mut open: Vec<(u32, usize, u8)> = Vec::new();
    for root in 1..broken.len() as u32 {
        let mut next = Some(root);
        loop {
            if let Some(id) = next.take()
                && seen.get(id as usize) == Some(&Seen::Not)
            {
                seen[id as usize] = Seen::Open;
                open.push((id, left.len(), 0));
                if let Some(of) = btf.get(TypeId(id)).filter(|_| !broken[id as usize]) {
                    edges(of, &mut left);
                }
            }
            let Some((id, start, height)) = open.last_mut() else {
                break;
            };
            if left.len() > *start
                && let Some(child) = left.last().copied()
            {
                match seen.get(child as usize) {
                    Some(Seen::Not) => {
                        next = Some(child);
                        continue;
                    }
                    Some(Seen::Open) => broken[*id as usize] = true,
                    Some(Seen::Done(below)) => *height = (*height).max(below.saturating_add(1)),
                    None => {}
                }
                left.pop();
                continue;
            }
            if *height > MAX_HEIGHT {
                broken[*id as usize] = true;
            }
            let below = if broken[*id as usize] { 0 } else { *height };
            seen[*id as usize] = Seen::Done(below);
            open.pop();
        }
    }
}

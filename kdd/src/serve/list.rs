//! Lists that fit into one message, whatever the guest holds.

use crate::control::message::MAX_LINE;
use introspect::windows::Broken;
use serde::Serialize;

/// Bytes that a list may take in a message.
pub(super) const MAX_LIST: usize = MAX_LINE / 4 * 3;

/// Some items, and why there aren't more.
pub(super) struct List<T> {
    pub items: Vec<T>,
    pub broken: Option<String>,
    bytes: usize,
}

impl<T: Serialize> List<T> {
    /// An empty one, of a walk that may have broken off.
    pub fn new(broken: Option<&Broken>) -> List<T> {
        List {
            items: Vec::new(),
            broken: broken.map(Broken::to_string),
            bytes: 0,
        }
    }

    /// Notes where another walk broke off.
    pub fn note(&mut self, broken: Option<&Broken>) {
        if let Some(broken) = broken {
            self.broken.get_or_insert(broken.to_string());
        }
    }

    /// Adds what still fits; it is said if it doesn't.
    pub fn add(&mut self, item: T) {
        if !self.offer(item) {
            self.broken
                .get_or_insert(format!("only the first {} are told", self.items.len()));
        }
    }

    /// Adds what still fits, for a list that goes on in another message: whether it did. One item always fits.
    pub fn offer(&mut self, item: T) -> bool {
        let bytes = serde_json::to_string(&item).map_or(0, |text| text.len() + 1);
        let fits = self.bytes.saturating_add(bytes) <= MAX_LIST;
        // Nothing smaller behind one that didn't fit: the list would have a hole.
        self.bytes = if fits { self.bytes + bytes } else { usize::MAX };
        if fits {
            self.items.push(item);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_its_message_is_full_and_has_no_hole() {
        let mut list = List::new(None);
        list.add("x".repeat(MAX_LIST - 8));
        list.add("y".repeat(100));
        list.add("z".to_owned());
        assert_eq!(list.items.len(), 1);
        assert_eq!(list.broken.as_deref(), Some("only the first 1 are told"));
    }
}

//! The trie of wildcard filters: filter → number. Called by `filters`, which stores the data of
//! each number. Levels are interned, the children of all nodes share one flat map, and removal
//! prunes, so that a million filters fit. Walks are loops without recursion, because clients choose
//! the depth of filters and topics.

use slab::Slab;

use super::SPARE;
use super::hash::{Hashes, KeyedMap};
use crate::shrink;
use crate::topic::levels;

/// No node, no value.
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// A node between two levels. `x/#` is not a node but a value of node `x`, because it matches `x`
/// too (section 4.7.1.2).
struct Node {
    parent: u32,
    /// Child for the level `+`.
    plus: u32,
    /// Value of the filter that ends here with `#`.
    multi: u32,
    /// Value of the filter that ends here.
    here: u32,
    /// Level and child of one edge, [`NONE`] if there is none here. Most nodes have no other, so
    /// that a walk needs no look-up in the edge map.
    first_level: u32,
    first_child: u32,
    /// Number of the other children, which are in the edge map.
    others: u32,
}

impl Node {
    fn new(parent: u32) -> Self {
        Node { parent, plus: NONE, multi: NONE, here: NONE, first_level: NONE, first_child: NONE, others: 0 }
    }

    fn is_bare(&self) -> bool {
        self.plus == NONE
            && self.multi == NONE
            && self.here == NONE
            && self.first_child == NONE
            && self.others == 0
    }
}

struct Level {
    id: u32,
    /// Number of edges with this level.
    edges: u32,
}

pub(super) struct Trie {
    nodes: Slab<Node>,
    /// (parent, level id) → child; the first child, `+` and `#` are in the nodes.
    edges: KeyedMap<(u32, u32), u32>,
    levels: KeyedMap<Box<str>, Level>,
    free_level_ids: Vec<u32>,
    next_level_id: u32,
    /// The present and the next nodes of a walk; stored so that a walk does not allocate.
    frontier: Vec<u32>,
    next: Vec<u32>,
}

impl Trie {
    pub(super) fn new(hashes: &Hashes) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE));
        Trie {
            nodes,
            edges: hashes.map(),
            levels: hashes.map(),
            free_level_ids: Vec::new(),
            next_level_id: 0,
            frontier: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Number of nodes without the root.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The value of this filter.
    pub(super) fn find(&self, filter: &str) -> Option<u32> {
        let mut at = ROOT;
        for level in levels(filter) {
            if level == "#" {
                return some(self.node(at).multi);
            }
            at = self.child(at, level)?;
        }
        some(self.node(at).here)
    }

    /// Sets the value of a filter, which has none yet.
    pub(super) fn insert(&mut self, filter: &str, value: u32) {
        debug_assert!(value != NONE && self.find(filter).is_none());
        let mut at = ROOT;
        for level in levels(filter) {
            if level == "#" {
                self.node_mut(at).multi = value;
                return;
            }
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.grow(at, level),
            };
        }
        self.node_mut(at).here = value;
    }

    /// Removes the filter and all nodes that become empty; returns its value.
    pub(super) fn remove(&mut self, filter: &str) -> Option<u32> {
        let mut at = ROOT;
        let mut multi = false;
        for level in levels(filter) {
            if level == "#" {
                multi = true;
                break;
            }
            at = self.child(at, level)?;
        }
        let node = self.node_mut(at);
        let slot = if multi { &mut node.multi } else { &mut node.here };
        let gone = some(std::mem::replace(slot, NONE))?;
        for level in levels(filter).rev().skip(usize::from(multi)) {
            if !self.node(at).is_bare() {
                break;
            }
            at = self.prune(at, level);
        }
        Some(gone)
    }

    /// Appends the values of all filters that match the topic name, each once, in no special order.
    pub(super) fn matches(&mut self, topic: &str, out: &mut Vec<u32>) {
        let mut frontier = std::mem::take(&mut self.frontier);
        let mut next = std::mem::take(&mut self.next);
        frontier.clear();
        frontier.push(ROOT);
        // [MQTT-4.7.2-1]: a filter that starts with a wildcard does not match a topic name that
        // starts with `$`.
        let mut wildcards = !topic.starts_with('$');
        for level in levels(topic) {
            next.clear();
            let id = self.levels.get(level).map(|level| level.id);
            for &at in &frontier {
                let node = self.node(at);
                if wildcards {
                    push(out, node.multi);
                    push(&mut next, node.plus);
                }
                if let Some(child) = id.and_then(|id| self.edge(at, node, id)) {
                    next.push(child);
                }
            }
            wildcards = true;
            std::mem::swap(&mut frontier, &mut next);
            if frontier.is_empty() {
                break;
            }
        }
        for &at in &frontier {
            let node = self.node(at);
            push(out, node.here);
            push(out, node.multi);
        }
        self.frontier = frontier;
        self.next = next;
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn child(&self, at: u32, level: &str) -> Option<u32> {
        if level == "+" {
            return some(self.node(at).plus);
        }
        let id = self.levels.get(level)?.id;
        self.edge(at, self.node(at), id)
    }

    /// The child of node `at` for a level that is no wildcard.
    #[inline]
    fn edge(&self, at: u32, node: &Node, level_id: u32) -> Option<u32> {
        if node.first_level == level_id {
            return Some(node.first_child);
        }
        if node.others == 0 {
            return None;
        }
        self.edges.get(&(at, level_id)).copied()
    }

    fn grow(&mut self, parent: u32, level: &str) -> u32 {
        let child = self.nodes.insert(Node::new(parent)) as u32;
        if level == "+" {
            self.node_mut(parent).plus = child;
        } else {
            let id = self.intern(level);
            let node = self.node_mut(parent);
            if node.first_child == NONE {
                (node.first_level, node.first_child) = (id, child);
            } else {
                node.others += 1;
                self.edges.insert((parent, id), child);
            }
        }
        child
    }

    /// Removes an empty node, its parent's child for `level`; returns the parent.
    fn prune(&mut self, at: u32, level: &str) -> u32 {
        let parent = self.nodes.remove(at as usize).parent;
        if level == "+" {
            self.node_mut(parent).plus = NONE;
        } else {
            let id = self.release(level);
            let node = self.node_mut(parent);
            if node.first_child == at {
                (node.first_level, node.first_child) = (NONE, NONE);
            } else {
                node.others -= 1;
                self.edges.remove(&(parent, id));
                shrink::map(&mut self.edges, SPARE);
            }
        }
        parent
    }

    fn intern(&mut self, level: &str) -> u32 {
        if let Some(known) = self.levels.get_mut(level) {
            known.edges += 1;
            return known.id;
        }
        let id = self.free_level_ids.pop().unwrap_or_else(|| {
            self.next_level_id += 1;
            self.next_level_id - 1
        });
        self.levels.insert(level.into(), Level { id, edges: 1 });
        id
    }

    /// One edge with this level was removed.
    fn release(&mut self, level: &str) -> u32 {
        let known = self.levels.get_mut(level).expect("a level on an edge is interned");
        let id = known.id;
        known.edges -= 1;
        if known.edges == 0 {
            self.levels.remove(level);
            self.free_level_ids.push(id);
            shrink::map(&mut self.levels, SPARE);
        }
        id
    }
}

/// Appends a value, if it is one.
#[inline]
fn push(list: &mut Vec<u32>, value: u32) {
    if value != NONE {
        list.push(value);
    }
}

fn some(value: u32) -> Option<u32> {
    (value != NONE).then_some(value)
}

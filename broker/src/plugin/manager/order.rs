//! The load order of plugins with dependencies: a needed plugin comes first; otherwise the given
//! order is kept. Used at the start and by transactions. Works on names only.

/// A plugin with the names of the plugins that it needs.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin) struct Node<'a> {
    pub name: &'a str,
    pub needs: &'a [String],
}

/// The result of sorting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct Order {
    /// Indexes in the order of loading, including those in a circle.
    pub indexes: Vec<usize>,
    /// The plugins that need each other in a circle: index, and the names on the way from the
    /// plugin to itself.
    pub cycles: Vec<(usize, Vec<String>)>,
}

/// Sorts the nodes. A needed name that is not among the nodes is ignored; the caller checks it.
pub(in crate::plugin) fn sorted(nodes: &[Node<'_>]) -> Order {
    let mut walk =
        Walk { nodes, marks: vec![Mark::New; nodes.len()], path: Vec::new(), order: Order::default() };
    for index in 0..nodes.len() {
        walk.visit(index);
    }
    walk.order
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    Done,
}

struct Walk<'a> {
    nodes: &'a [Node<'a>],
    marks: Vec<Mark>,
    path: Vec<usize>,
    order: Order,
}

impl Walk<'_> {
    fn visit(&mut self, index: usize) {
        match self.marks[index] {
            Mark::Done => return,
            Mark::OnPath => return self.cycle(index),
            Mark::New => self.marks[index] = Mark::OnPath,
        }
        self.path.push(index);
        for need in self.nodes[index].needs {
            if let Some(needed) = self.nodes.iter().position(|node| node.name == need) {
                self.visit(needed);
            }
        }
        self.path.pop();
        self.marks[index] = Mark::Done;
        self.order.indexes.push(index);
    }

    fn cycle(&mut self, index: usize) {
        let from = self.path.iter().position(|on_path| *on_path == index).unwrap_or(0);
        let members = &self.path[from..];
        for at in 0..members.len() {
            let round = members[at..].iter().chain(&members[..at]).chain([&members[at]]);
            let names = round.map(|member| self.nodes[*member].name.to_owned()).collect();
            if !self.order.cycles.iter().any(|(known, _)| *known == members[at]) {
                self.order.cycles.push((members[at], names));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(plugins: &[(&str, &[&str])]) -> (Vec<String>, Vec<String>) {
        let needs: Vec<Vec<String>> =
            plugins.iter().map(|(_, needs)| needs.iter().map(|need| (*need).to_owned()).collect()).collect();
        let nodes: Vec<Node<'_>> =
            plugins.iter().zip(&needs).map(|((name, _), needs)| Node { name, needs }).collect();
        let order = sorted(&nodes);
        let names = order.indexes.iter().map(|index| nodes[*index].name.to_owned()).collect();
        (names, order.cycles.into_iter().map(|(_, cycle)| cycle.join(" ")).collect())
    }

    #[test]
    fn dependencies_come_first_and_others_keep_their_order() {
        let (names, cycles) = order(&[("c", &["a", "z"]), ("b", &[]), ("a", &["d"]), ("d", &[])]);
        assert_eq!(names.join(" "), "d a c b");
        assert!(cycles.is_empty());
    }

    #[test]
    fn each_member_of_a_cycle_is_reported_with_the_cycle() {
        let (names, cycles) =
            order(&[("x", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("s", &["s"])]);
        assert_eq!(names.len(), 5);
        assert_eq!(cycles, ["a b c a", "b c a b", "c a b c", "s s"]);
    }
}

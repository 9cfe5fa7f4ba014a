//! A network as data: nodes in the order they run, each named after the weights it reads.

use std::collections::BTreeMap;

use super::op::Op;

/// The place of a node in its [`Graph`], which is also its place in the order of running.
pub type NodeId = usize;

/// The shape of a node's output for one picture, as far as the wiring tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// `(channels, h, w)`; the sides depend on the picture.
    Map,
    /// `(channels, side, side)`, whatever the picture's size.
    FixedMap { side: usize },
    /// `(1 + side², channels)`: a class token, then those of `side × side` patches row by row.
    Tokens { side: usize },
    /// `(features,)`: each channel holds `positions` features in a row.
    Flat { positions: usize },
}

impl Extent {
    /// Whether it has a height and a width.
    pub fn is_map(self) -> bool {
        matches!(self, Extent::Map | Extent::FixedMap { .. })
    }

    /// Features of a channel: more than one only where a map was flattened.
    pub fn positions(self) -> usize {
        match self {
            Extent::Flat { positions } => positions,
            Extent::Map | Extent::FixedMap { .. } | Extent::Tokens { .. } => 1,
        }
    }
}

/// One step of a network.
#[derive(Debug, Clone)]
pub struct Node {
    /// The checkpoint's own name of the module: its tensors are `<name>.weight`, …
    pub name: String,
    pub op: Op,
    pub inputs: Vec<NodeId>,
    pub channels: usize,
    pub extent: Extent,
}

/// A tensor that a node reads, and the shape it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// Counted as read when it is there, never missed (`num_batches_tracked`).
    pub optional: bool,
}

/// A network: nodes read only nodes before them, so running in order needs no plan.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Other names for a node's output: a module that ends in the node (`layer1` ends in `layer1.1`).
    aliases: BTreeMap<String, NodeId>,
    default_sites: Vec<String>,
}

impl Graph {
    /// A graph with one node, `input`, of `channels` channels.
    pub fn new(channels: usize) -> Graph {
        let input = Node {
            name: "input".into(),
            op: Op::Input,
            inputs: vec![],
            channels,
            extent: Extent::Map,
        };
        Graph { nodes: vec![input], ..Graph::default() }
    }

    /// The node that stands for the pictures.
    pub const INPUT: NodeId = 0;

    /// Appends a node and returns its place. The wiring is fixed at compile time, so a name given
    /// twice or an op that does not fit its inputs is a mistake of the wiring, and panics.
    pub fn add(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = name.into();
        assert!(self.nodes.iter().all(|node| node.name != name), "two nodes are named {name}");
        let read: Vec<&Node> = inputs.iter().map(|&id| &self.nodes[id]).collect();
        let (channels, extent) = op.output(&name, &read);
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), channels, extent });
        self.nodes.len() - 1
    }

    /// Names the output of `id` once more.
    pub fn alias(&mut self, name: impl Into<String>, id: NodeId) {
        self.aliases.insert(name.into(), id);
    }

    /// The sites that are looked at when the user names none, in the order of the network.
    pub fn set_default_sites<S: Into<String>>(&mut self, sites: impl IntoIterator<Item = S>) {
        self.default_sites = sites.into_iter().map(Into::into).collect();
        for site in &self.default_sites {
            assert!(self.find(site).is_some(), "default site {site} is no node");
        }
    }

    pub fn default_sites(&self) -> &[String] {
        &self.default_sites
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The last node, whose output is the network's.
    pub fn output(&self) -> NodeId {
        self.nodes.len() - 1
    }

    /// The node whose output a site name means. An alias goes before a node's own name: a
    /// convolution that PyTorch follows with an in-place ReLU is seen after it (`features.0` of VGG).
    pub fn find(&self, site: &str) -> Option<NodeId> {
        self.aliases
            .get(site)
            .copied()
            .or_else(|| self.nodes.iter().position(|node| node.name == site))
    }

    /// Every name a site may be asked by, with its node, in the order of the network.
    pub fn sites(&self) -> Vec<(&str, NodeId)> {
        let own = self.nodes.iter().enumerate().filter(|(_, node)| node.op != Op::Input);
        let own = own.map(|(id, node)| (node.name.as_str(), id));
        let own = own.filter(|(name, _)| !self.aliases.contains_key(*name));
        let mut sites: Vec<_> =
            own.chain(self.aliases.iter().map(|(name, &id)| (name.as_str(), id))).collect();
        sites.sort_by_key(|&(name, id)| (id, name));
        sites
    }

    /// The nodes that read the output of `id`.
    pub fn readers(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let reads = move |node: &Node| node.inputs.contains(&id);
        self.nodes.iter().enumerate().filter(move |(_, node)| reads(node)).map(|(id, _)| id)
    }

    /// For each node, the last one that reads it: after that its output can be dropped.
    pub fn last_readers(&self) -> Vec<Option<NodeId>> {
        let mut last = vec![None; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last[input] = Some(id);
            }
        }
        last
    }

    /// All tensors the network reads, node by node.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        self.nodes.iter().flat_map(|node| node.parameters(self))
    }
}

impl Node {
    /// The tensors this node reads.
    pub fn parameters(&self, graph: &Graph) -> Vec<Parameter> {
        let inputs: Vec<&Node> = self.inputs.iter().map(|&id| graph.node(id)).collect();
        self.op
            .parameters(&inputs)
            .into_iter()
            .map(|(leaf, shape, optional)| Parameter { name: self.tensor(leaf), shape, optional })
            .collect()
    }

    /// The checkpoint's name of one of this node's tensors: `layer1.0.bn1` and `bias` give `layer1.0.bn1.bias`.
    ///
    /// A node that is a tensor itself (`cls_token`) has one without a leaf. The first layer of PyTorch's
    /// `MultiheadAttention` is no module of its own: its tensors are `in_proj_weight` and `in_proj_bias`.
    pub fn tensor(&self, leaf: &str) -> String {
        match leaf {
            "" => self.name.clone(),
            _ if self.name.ends_with(".in_proj") => format!("{}_{leaf}", self.name),
            _ => format!("{}.{leaf}", self.name),
        }
    }
}

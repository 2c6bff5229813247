//! Random graphs of endpoints: the state machine does what a plain recursion over them does, and ends within its limits.

use proptest::prelude::*;

use super::*;

/// Internal names that may be forwarded to; the last one has no endpoint.
const NAMES: usize = 5;

/// One endpoint of a graph.
#[derive(Debug, Clone)]
struct Node {
    /// None: a cloud endpoint.
    agent: Option<Agent>,
    /// What its policy does, in order.
    actions: Vec<Action>,
}

#[derive(Debug, Clone)]
enum Action {
    Forward { name: usize, more: bool },
    Reply,
    Deny,
}

fn node() -> impl Strategy<Value = Node> {
    let forward = || (0..NAMES, any::<bool>()).prop_map(|(name, more)| Action::Forward { name, more });
    let action = prop_oneof![8 => forward(), 1 => Just(Action::Reply), 1 => Just(Action::Deny)];
    let agent = prop_oneof![
        3 => Just(None),
        2 => Just(Some(Agent::Answers)),
        2 => Just(Some(Agent::Refuses)),
        1 => Just(Some(Agent::Breaks)),
        1 => Just(Some(Agent::Hangs)),
    ];
    (agent, proptest::collection::vec(action, 0..4)).prop_map(|(agent, actions)| Node { agent, actions })
}

/// Members of the public pool, then of each internal one.
fn graph() -> impl Strategy<Value = Vec<Vec<Node>>> {
    proptest::collection::vec(proptest::collection::vec(node(), 1..4), NAMES)
}

fn url(pool: usize) -> String {
    if pool == 0 { "https://a.example.com".into() } else { format!("https://n{}.internal", pool - 1) }
}

/// What serving by a pool comes to.
enum Served {
    /// A response is on its way back.
    Answered,
    /// Nothing was acted on.
    Failed,
    /// The request is over.
    Over,
}

/// The same by recursion.
struct Recursion<'a> {
    graph: &'a [Vec<Node>],
    pools: Vec<Pool>,
    numbers: BTreeMap<EndpointId, (usize, usize, u8)>,
    env: &'a Fake,
    steps: usize,
    logs: Vec<String>,
}

impl Recursion<'_> {
    fn pool(&mut self, pool: usize, depth: usize) -> Served {
        let mut tried = Vec::new();
        loop {
            let ask = Ask::at(self.env.now, true);
            let Some(endpoint) = self.pools[pool].pick(&tried, ask) else { return Served::Failed };
            if !tried.is_empty() && !self.step() {
                return Served::Over;
            }
            tried.push(endpoint.id);
            if let Some(served) = self.member(endpoint.id, depth, &tried) {
                return served;
            }
        }
    }

    /// None: another member may serve.
    fn member(&mut self, id: EndpointId, depth: usize, tried: &[EndpointId]) -> Option<Served> {
        let (pool, at, n) = self.numbers[&id];
        let node = self.graph[pool][at].clone();
        if !node.actions.is_empty() {
            self.logs.push(format!("in {n}"));
        }
        for action in &node.actions {
            match action {
                Action::Forward { name, more } => match self.forward(*name, depth) {
                    Served::Answered => return Some(self.back(&node, n)),
                    Served::Failed if *more => {}
                    served => return Some(served),
                },
                Action::Reply => return Some(self.back(&node, n)),
                Action::Deny => return Some(Served::Answered),
            }
        }
        match node.agent? {
            Agent::Hangs if self.pools[pool].has_other(tried) => None,
            Agent::Answers => {
                self.logs.push(format!("agent {n}"));
                Some(self.back(&node, n))
            }
            Agent::Breaks => Some(Served::Over),
            Agent::Refuses | Agent::Hangs | Agent::Late => None,
        }
    }

    fn forward(&mut self, name: usize, depth: usize) -> Served {
        if !self.step() {
            return Served::Over;
        }
        if depth > hops::HOPS_MAX || name + 1 == NAMES {
            return Served::Failed;
        }
        self.pool(name + 1, depth + 1)
    }

    fn back(&mut self, node: &Node, n: u8) -> Served {
        if !node.actions.is_empty() {
            self.logs.push(format!("out {n}"));
        }
        Served::Answered
    }

    fn step(&mut self) -> bool {
        self.steps += 1;
        self.steps <= hops::STEPS_MAX
    }
}

/// The policy of a node: its phases say that they ran.
fn policy(node: &Node, n: u8) -> Option<Value> {
    let mut actions = vec![log(&format!("in {n}"))];
    actions.extend(node.actions.iter().map(|action| match action {
        Action::Forward { name, more } => forward(&url(name + 1), *more),
        Action::Reply => reply(203),
        Action::Deny => json!({ "type": "deny" }),
    }));
    (!node.actions.is_empty()).then(|| {
        json!({ "on_http_request": [{ "actions": actions }],
            "on_http_response": [{ "actions": [log(&format!("out {n}"))] }] })
    })
}

proptest! {
    #[test]
    fn a_dispatch_does_what_a_recursion_does_and_ends(graph in graph()) {
        let fake = Fake::default();
        let (mut pools, mut numbers, mut n) = (Vec::new(), BTreeMap::new(), 0);
        for (pool, nodes) in graph.iter().enumerate() {
            let mut members = Vec::new();
            for (at, node) in nodes.iter().enumerate() {
                n += 1;
                let endpoint = fake.endpoint(n, &url(pool), node.agent, policy(node, n));
                numbers.insert(endpoint.id, (pool, at, n));
                members.push(endpoint);
            }
            pools.push(Pool::new(members));
        }
        let ran = fake.run(request(Pool::new(pools[0].members().to_vec())));
        let mut recursion = Recursion { graph: &graph, pools, numbers, env: &fake, steps: 0, logs: Vec::new() };
        let served = recursion.pool(0, 1);
        prop_assert_eq!(&ran.logs, &recursion.logs);
        prop_assert_eq!(ran.end.starts_with("answer"), matches!(served, Served::Answered), "{:?}", ran);
        let forwards = ran.steps.iter().filter(|step| step.starts_with("find")).count();
        prop_assert!(forwards + usize::try_from(ran.retries).unwrap() <= hops::STEPS_MAX);
        // Every hop that a response passes is left once, the last one entered first.
        if let Some(from) = ran.logs.iter().position(|at| at.starts_with("out")) {
            prop_assert!(ran.logs[from..].iter().all(|at| at.starts_with("out")));
        }
    }
}

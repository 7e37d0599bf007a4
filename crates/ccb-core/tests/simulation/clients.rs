//! The simulated clients: they ask, wait, lose their connection, come back, acknowledge and cancel.

use ccb_core::id::RequestId;
use ccb_core::request::{Asker, Request};
use ccb_core::step::{Input, Verdict};
use ccb_core::time::Time;

use crate::agents::SimAgent;
use crate::rng::Rng;
use crate::world::{Event, World};

/// The most clients that one run has.
const MOST: usize = 12;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Sends its request, and again whenever in doubt.
    Submit,
    /// Waits for it.
    Wait,
    /// Ends its connection.
    Leave,
    /// Says that it has printed the reply.
    Acknowledge,
    /// Cancels it.
    Cancel,
}

/// One client with its one request.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Client {
    pub(crate) id: RequestId,
    agent: usize,
    pub(crate) asker: Option<usize>,
    waits: bool,
    lasts: Option<i64>,
    /// Whether it has been told that its request is accepted.
    pub(crate) accepted: bool,
    /// Whether it was refused.
    refused: bool,
    /// Whether it has begun to submit.
    begun: bool,
    /// Whether askd knows that it waits, on a connection of this run.
    pub(crate) waiting: bool,
    /// Whether it has got its reply.
    pub(crate) told: bool,
    acknowledged: bool,
}

impl Client {
    pub(crate) fn new(n: usize, rng: &mut Rng, agents: &[SimAgent]) -> Self {
        let lasts = match rng.below(10) {
            0..4 => None,
            4..7 => Some(rng.range(300, 30_000)),
            _ => Some(rng.range(30_000, 200_000)),
        };
        Self {
            id: RequestId::new(&format!("20261122-{n}")).expect("an id"),
            agent: rng.below(agents.len()),
            asker: rng.chance(60).then(|| rng.below(agents.len())),
            waits: rng.chance(50),
            lasts,
            accepted: false,
            refused: false,
            begun: false,
            waiting: false,
            told: false,
            acknowledged: false,
        }
    }
}

impl World {
    /// An agent at work on a delivery asks another one, or itself.
    pub(crate) fn agent_asks(&mut self, agent: usize, lasts: i64) {
        if self.clients.len() >= MOST {
            return;
        }
        let n = self.clients.len();
        let client = Client { asker: Some(agent), ..Client::new(n, &mut self.rng, &self.agents) };
        self.clients.push(client);
        let wait = self.rng.range(1, lasts);
        self.soon(wait, Event::Client { client: n, act: Act::Submit });
    }

    /// Returns the request that this client submits now.
    fn request(&self, client: &Client) -> Request {
        let asker = match client.asker {
            Some(n) => Asker::Agent { name: self.agents[n].name.clone() },
            None => Asker::Manual,
        };
        let agent = self.agents[client.agent].name.clone();
        let message = format!("do {}", client.id);
        Request {
            asker,
            waits: client.waits,
            deadline: client.lasts.map(|ms| Time(self.now + ms)),
            ..Request::new(client.id.clone(), agent, message, Time(self.now))
        }
    }

    pub(crate) fn client(&mut self, n: usize, act: Act) {
        let client = &mut self.clients[n];
        let id = client.id.clone();
        if self.state.is_none() {
            // Its connection is refused; it tries until somebody serves it.
            self.soon(700, Event::Client { client: n, act });
            return;
        }
        let input = match act {
            Act::Submit => {
                client.begun = true;
                let request = self.request(&self.clients[n]);
                if self.fault(10) {
                    self.soon(5, Event::Client { client: n, act: Act::Submit });
                }
                Input::Submit(Box::new(request))
            }
            Act::Wait if client.waiting || client.told => return,
            Act::Wait => Input::Waits { id },
            Act::Leave if !client.waiting => return,
            Act::Leave => {
                client.waiting = false;
                Input::WaiterGone { id }
            }
            Act::Acknowledge if client.acknowledged => return,
            Act::Acknowledge => {
                client.acknowledged = true;
                Input::Acknowledged { id }
            }
            Act::Cancel if !client.accepted => return,
            Act::Cancel => Input::Cancel { id, by: "tester".into() },
        };
        self.soon(0, Event::Input { run: self.run, input });
    }

    /// Tells the client of its submission's outcome, after the commit.
    pub(crate) fn answer_submission(&mut self, id: &RequestId, verdict: &Verdict) {
        let Some(n) = self.clients.iter().position(|client| &client.id == id) else {
            return;
        };
        let known = self.clients[n].accepted;
        let client = &mut self.clients[n];
        match verdict {
            Verdict::Accepted | Verdict::Repeated => client.accepted = true,
            Verdict::UnknownAgent
            | Verdict::Conflict
            | Verdict::TooDeep { .. }
            | Verdict::TooMany { .. }
            | Verdict::Cycle(_)
            | Verdict::NotOver(_)
            | Verdict::NoQuestion
            | Verdict::Fine
            | Verdict::Nothing => client.refused = true,
        }
        if client.accepted && !known && (client.waits || self.rng.chance(15)) && !self.fault(15) {
            self.soon(1, Event::Client { client: n, act: Act::Wait });
            if self.fault(15) {
                let patience = self.rng.range(10, 60_000);
                self.soon(patience, Event::Client { client: n, act: Act::Leave });
                let away = self.rng.range(1, 30_000);
                if self.rng.chance(50) {
                    self.soon(patience + away, Event::Client { client: n, act: Act::Wait });
                }
            }
        }
    }

    /// askd has taken note that this client waits.
    pub(crate) fn now_waits(&mut self, id: &RequestId) {
        for client in &mut self.clients {
            client.waiting |= &client.id == id;
        }
        let over = self.state.as_ref().and_then(|s| s.requests.get(id)).is_some_and(Request::is_settled);
        if over {
            self.tell_waiting(id);
        }
    }

    /// The reply goes to the client that waits for it.
    pub(crate) fn tell_waiting(&mut self, id: &RequestId) {
        let Some(n) = self.clients.iter().position(|c| &c.id == id && c.waiting && !c.told) else {
            return;
        };
        self.clients[n].told = true;
        let reading = self.rng.range(1, 300);
        if !self.fault(20) {
            let slow = if self.fault(20) { 15_000 } else { 0 };
            self.soon(reading + slow, Event::Client { client: n, act: Act::Acknowledge });
        }
        self.soon(reading + 1, Event::Client { client: n, act: Act::Leave });
    }

    /// All connections broke with askd; whoever is in doubt comes again.
    pub(crate) fn clients_return(&mut self) {
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            let act = if client.begun && !client.accepted && !client.refused {
                Act::Submit
            } else if client.accepted && client.waits && !client.told && self.rng.chance(70) {
                Act::Wait
            } else {
                continue;
            };
            let wait = self.rng.range(1, 5_000);
            self.soon(wait, Event::Client { client: n, act });
        }
    }
}

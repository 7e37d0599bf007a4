//! The simulated world: its clock, its events, its disk, and what humans and bad luck do in it.

use std::collections::{BTreeMap, BTreeSet};

use ccb_core::id::RequestId;
use ccb_core::request::Request;
use ccb_core::state::{Policy, Sabotage, State};
use ccb_core::step::{Effect, Input};

use crate::agents::{Draft, Link, RUNGS, Rung, SimAgent};
use crate::check::{self, Check, Violation};
use crate::clients::{Act, Client};
use crate::course::{DEATHS, Death, Fault};
use crate::driver::{Batch, Doom};
use crate::late::Look;
use crate::rng::Rng;
use crate::seen::Seen;

/// When faults stop; from then on everything must come to rest by itself.
const CALM: i64 = 240_000;

/// More events than any run that comes to rest can have.
const ENDLESS: u32 = 4_000;

/// What happens at some moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something reaches askd, if that run of it still lives.
    Input { run: u32, input: Input },
    /// A transport gets at what it was told to do, if that run of askd still lives.
    Act { run: u32, effect: Effect },
    /// A transport connects, if that run of askd still lives.
    Connect { run: u32, agent: usize },
    /// The bytes of an offer reach the agent.
    Arrive { run: u32, agent: usize, id: RequestId, attempt: u32 },
    /// A turn is halfway.
    Midst { agent: usize, turn: String },
    /// A turn ends.
    End { agent: usize, turn: String, interrupted: bool },
    /// The window is over in which an ended turn's marker might have come.
    FallsQuiet { agent: usize, turn: String },
    /// An agent gets at what it has accepted.
    Digest { agent: usize, id: RequestId },
    /// A turn's record shows what it began with.
    Show { agent: usize, turn: String },
    /// What the agent keeps of its turns is deleted.
    Vanish { agent: usize },
    /// A look is taken once more, if that run of askd and that connection still live.
    LookAgain { run: u32, link: u32, agent: usize, look: Look },
    /// A session that the human has left answers.
    OldAnswer { agent: usize, turn: String },
    /// By now the engine knows of the turn, if that run of it and that connection still live.
    Known { run: u32, link: u32, agent: usize, turn: String, ended: bool },
    /// A human does something at an agent.
    Human { agent: usize, act: Human },
    /// The agent dies.
    Dies { agent: usize, death: Death },
    /// The agent comes back, with its provider session.
    Back { agent: usize },
    /// The connection to the agent breaks.
    Drop { agent: usize },
    /// An agent is taken out of the configuration.
    Remove { agent: usize },
    /// A client does something.
    Client { client: usize, act: Act },
    /// askd dies, now or at its next commit.
    Crash { doom: Option<Doom> },
    /// askd starts.
    Start,
    /// Faults stop.
    Calm,
}

/// What a human does at an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Human {
    /// Starts a turn, or types into ours.
    Talk,
    /// Begins a draft.
    Draft,
    /// Sends what is in the composer, or clears it.
    Finish,
    /// Stops the turn.
    Interrupt,
}

/// What survives a crash.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) unsettled: BTreeSet<RequestId>,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flaw {
    Nothing,
    /// The engine.
    Engine(Sabotage),
    /// The transports.
    Double(Fault),
}

/// One run of the simulation.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: i64,
    events: BTreeMap<(i64, u64), Event>,
    order: u64,
    pub(crate) disk: Disk,
    pub(crate) state: Option<State>,
    pub(crate) run: u32,
    pub(crate) doom: Option<Doom>,
    pub(crate) batch: Vec<Batch>,
    pub(crate) agents: Vec<SimAgent>,
    pub(crate) clients: Vec<Client>,
    pub(crate) check: Check,
    pub(crate) policy: Policy,
    /// Whether faults happen; some seeds have none at all.
    pub(crate) rough: bool,
    pub(crate) calm: bool,
    /// Whether the driver does more than its bare contract: loads what notices carry, forgets what it loaded.
    pub(crate) thorough: bool,
    pub(crate) steps: u32,
    /// The requests of which a look, taken for the last time, could truly not tell where they stand.
    pub(crate) in_doubt: BTreeSet<RequestId>,
    /// What the transports do wrong, if they are broken on purpose.
    pub(crate) double: Option<Fault>,
    /// What has happened.
    pub(crate) seen: Seen,
    trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, flaw: Flaw, traced: bool) -> Self {
        let (sabotage, double) = match flaw {
            Flaw::Nothing => (None, None),
            Flaw::Engine(sabotage) => (Some(sabotage), None),
            Flaw::Double(fault) => (None, Some(fault)),
        };
        let mut rng = Rng::new(seed);
        let rough = !rng.chance(10);
        let agents = (0..=rng.below(3))
            .map(|n| {
                let drive = RUNGS[rng.below(4)];
                SimAgent::new(["ada", "bob", "cyd"][n], drive)
            })
            .collect();
        let (max_depth, max_open) = ([2, 3, 6][rng.below(3)], [1, 2, 8][rng.below(3)]);
        let policy = Policy { max_depth, max_open, sabotage: sabotage.into_iter().collect(), ..Policy::default() };
        let mut world = Self {
            thorough: rng.chance(50),
            rng,
            now: 0,
            events: BTreeMap::new(),
            order: 0,
            disk: Disk::default(),
            state: None,
            run: 0,
            doom: None,
            batch: Vec::new(),
            agents,
            clients: Vec::new(),
            check: Check::default(),
            policy,
            rough,
            calm: false,
            steps: 0,
            in_doubt: BTreeSet::new(),
            double,
            seen: Seen::default(),
            trace: traced.then(Vec::new),
        };
        world.plan();
        world
    }

    /// Runs to the end and returns how many steps the engine made.
    pub(crate) fn run(&mut self) -> Result<u32, Violation> {
        let mut count = 0;
        while let Some(((at, _), event)) = self.events.pop_first() {
            count += 1;
            if count > ENDLESS {
                return Err(Violation::new("P10", "the run does not come to rest"));
            }
            self.now = self.now.max(at);
            self.say(|| format!("- {event:?}"));
            self.happen(event)?;
            // A batch stays open only as long as more inputs wait.
            let next = self.events.first_key_value();
            if !next.is_some_and(|((at, _), next)| *at <= self.now + 20 && matches!(next, Event::Input { .. })) {
                self.flush()?;
            }
        }
        check::end(self)?;
        Ok(self.steps)
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} {}", self.now, line()));
        }
    }

    pub(crate) fn story(&self) -> String {
        self.trace.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    /// Lets something happen after so many milliseconds.
    pub(crate) fn soon(&mut self, delay: i64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    /// Returns whether the transports are broken in this way.
    pub(crate) fn does(&self, fault: Fault) -> bool {
        self.double == Some(fault)
    }

    /// Returns the turn that truly holds a request, and whose.
    pub(crate) fn truth(&self, id: &RequestId) -> Option<(&SimAgent, &crate::agents::Turn)> {
        self.agents.iter().find_map(|agent| Some((agent, agent.turn_of(id)?)))
    }

    /// Returns whether a fault of that likelihood strikes now.
    pub(crate) fn fault(&mut self, percent: i64) -> bool {
        self.rough && !self.calm && self.rng.chance(percent)
    }

    /// Lays out the run: who asks what, and what goes wrong when.
    fn plan(&mut self) {
        self.soon(0, Event::Start);
        for n in 0..2 + self.rng.below(5) {
            let client = Client::new(n, &mut self.rng, &self.agents);
            self.clients.push(client);
            let at = self.rng.range(10, 120_000);
            self.soon(at, Event::Client { client: n, act: Act::Submit });
            if self.rng.chance(12) {
                let wait = self.rng.range(0, 60_000);
                self.soon(at + wait, Event::Client { client: n, act: Act::Cancel });
            }
        }
        for _ in 0..self.rng.below(5) {
            let agent = self.rng.below(self.agents.len());
            let at = self.rng.range(10, 200_000);
            let act = [Human::Talk, Human::Talk, Human::Draft, Human::Interrupt][self.rng.below(4)];
            self.soon(at, Event::Human { agent, act });
        }
        if self.rough {
            for _ in 0..self.rng.below(5) {
                let agent = self.rng.below(self.agents.len());
                let at = self.rng.range(10, 200_000);
                let event = match self.rng.below(8) {
                    0 | 1 => Event::Dies { agent, death: DEATHS[self.rng.below(4)] },
                    2 => Event::Drop { agent },
                    4 => Event::Vanish { agent },
                    3 if self.agents.len() > 1 && self.rng.chance(25) => Event::Remove { agent },
                    _ => Event::Crash { doom: Doom::random(&mut self.rng) },
                };
                self.soon(at, event);
            }
        }
        self.soon(CALM, Event::Calm);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Input { run, input } if run == self.run => self.deliver(input)?,
            Event::Act { run, effect } if run == self.run => self.act(effect)?,
            Event::Connect { run, agent } if run == self.run => self.connect(agent)?,
            Event::Known { run, link, agent, turn, ended } if run == self.run => {
                self.known(link, agent, &turn, ended)?;
            }
            Event::LookAgain { run, link, agent, look } if run == self.run => {
                if self.agents[agent].link != Link::None && self.agents[agent].links == link {
                    self.gone_from_record(agent, look);
                }
            }
            Event::Input { .. }
            | Event::Act { .. }
            | Event::Connect { .. }
            | Event::Known { .. }
            | Event::LookAgain { .. } => {}
            Event::Digest { agent, id } => self.digest(agent, id)?,
            Event::Show { agent, turn } => self.show(agent, &turn)?,
            Event::Vanish { agent } => self.vanish(agent),
            Event::Arrive { run, agent, id, attempt } => self.arrive(run, agent, &id, attempt)?,
            Event::Midst { agent, turn } => self.midst(agent, &turn),
            Event::FallsQuiet { agent, turn } => self.falls_quiet(agent, &turn),
            Event::OldAnswer { agent, turn } => self.old_answer(agent, &turn),
            Event::End { agent, turn, interrupted } => self.end_turn(agent, &turn, interrupted)?,
            Event::Human { agent, act } => self.human(agent, act)?,
            Event::Dies { agent, death } => self.dies(agent, death),
            Event::Back { agent } => self.comes_back(agent)?,
            Event::Drop { agent } => self.drop_link(agent),
            Event::Remove { agent } => {
                self.agents[agent].configured = false;
                self.agents[agent].link = Link::None;
                let input = Input::Configure(self.configuration());
                self.soon(0, Event::Input { run: self.run, input });
            }
            Event::Client { client, act } => self.client(client, act),
            Event::Crash { doom: None } => self.crash(),
            Event::Crash { doom } => self.doom = doom.filter(|_| !self.calm),
            Event::Start => self.start()?,
            Event::Calm => self.come_to_rest()?,
        }
        Ok(())
    }

    /// From now on nothing goes wrong any more: humans clear up, the dead come back, connections are made anew.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.doom = None;
        for agent in 0..self.agents.len() {
            if self.agents[agent].draft != Draft::Empty {
                self.human(agent, Human::Finish)?;
            }
            if self.agents[agent].link != Link::None {
                self.lose_link(agent);
            } else if self.agents[agent].alive {
                self.soon(10, Event::Connect { run: self.run, agent });
            } else {
                self.soon(10, Event::Back { agent });
            }
        }
        Ok(())
    }

    fn human(&mut self, agent: usize, act: Human) -> Result<(), Violation> {
        let run = self.run;
        let it = &mut self.agents[agent];
        if !it.alive {
            return Ok(());
        }
        match act {
            Human::Talk => match it.history.last_mut().filter(|turn| turn.runs()) {
                Some(turn) => {
                    if let Some(id) = turn.request.clone() {
                        turn.mixed = true;
                        let turn = turn.name.clone();
                        self.tell_taken(agent, &turn, &id, true);
                    }
                }
                None if it.draft == Draft::Empty => return self.begin_turn(agent, None),
                None => {}
            },
            Human::Draft if it.draft == Draft::Empty => {
                it.draft = Draft::Human;
                self.report_presence(agent);
                let wait = self.rng.range(500, 60_000);
                self.soon(wait, Event::Human { agent, act: Human::Finish });
            }
            Human::Draft => {}
            Human::Finish if it.running().is_some() && it.draft != Draft::Empty => {
                self.soon(3_000, Event::Human { agent, act: Human::Finish });
            }
            Human::Finish => {
                let draft = std::mem::replace(&mut it.draft, Draft::Empty);
                let send = self.rng.chance(60);
                match draft {
                    Draft::Human if send => return self.begin_turn(agent, None),
                    Draft::Ours(id) if send => return self.begin_turn(agent, Some(id)),
                    Draft::Human | Draft::Ours(_) => self.report_presence(agent),
                    Draft::Empty => {}
                }
            }
            Human::Interrupt => {
                if let Some(turn) = it.running().map(|turn| turn.name.clone()) {
                    self.say(|| format!("  the human interrupts {turn} (run {run})"));
                    return self.end_turn(agent, &turn, true);
                }
            }
        }
        Ok(())
    }

    /// Counts a delivery as taken (promise P2): its agent has it in its record.
    pub(crate) fn take(&mut self, agent: usize, id: &RequestId) -> Result<(), Violation> {
        let it = &mut self.agents[agent];
        let count = it.taken.entry(id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            return Err(Violation::new("P2", format!("{} took {id} {count} times", it.name)));
        }
        Ok(())
    }

    pub(crate) fn drop_link(&mut self, agent: usize) {
        if self.agents[agent].link == Link::None {
            return;
        }
        if self.agents[agent].rung == Rung::Joined && self.fault(50) {
            // Nobody notices before it is used.
            self.agents[agent].link = Link::Lost;
            let unheard = self.rng.range(100, 60_000);
            return self.soon(unheard, Event::Drop { agent });
        }
        self.lose_link(agent);
    }
}

//! The words of `dfs find` as an expression: conditions, what joins them, and what is to be done.

use std::ffi::OsString;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;

use anyhow::bail;
use cairn_daemon::users::Users;

use super::condition::{Condition, Facts};
use super::exec::Run;
use crate::output::is_directory;
use crate::walk::Found;

/// Brackets in brackets, at most.
const NESTING_MAX: usize = 100;

/// What was typed.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) paths: Vec<OsString>,
    /// Files of the cluster; what is wanted was changed after them.
    pub(super) newer: Vec<OsString>,
    pub(super) runs: Vec<Run>,
    pub(super) depth_max: usize,
    /// What a directory holds comes before it.
    pub(super) depth_first: bool,
    depth_min: usize,
    expression: Expression,
}

#[derive(Debug)]
enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Always(bool),
    Condition(Condition),
    Act(Action),
}

/// What is done with what was found. All of them are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Print,
    Print0,
    /// The command with this place among all.
    Run(usize),
    Delete,
    Prune,
}

impl Expression {
    /// Whether it holds; what is done on the way is added to `actions`.
    fn holds(&self, found: &Found, facts: &Facts, actions: &mut Vec<Action>) -> bool {
        match self {
            Self::And(all) => all.iter().all(|one| one.holds(found, facts, actions)),
            Self::Or(all) => all.iter().any(|one| one.holds(found, facts, actions)),
            Self::Not(inner) => !inner.holds(found, facts, actions),
            Self::Always(so) => *so,
            Self::Condition(condition) => condition.holds(found, facts),
            Self::Act(action) => {
                actions.push(*action);
                true
            }
        }
    }

    /// Whether it does anything with what it finds.
    fn acts(&self) -> bool {
        match self {
            Self::And(all) | Self::Or(all) => all.iter().any(Self::acts),
            Self::Not(inner) => inner.acts(),
            Self::Always(_) | Self::Condition(_) | Self::Act(Action::Prune) => false,
            Self::Act(_) => true,
        }
    }
}

impl Search {
    pub(super) fn parse(words: Vec<OsString>) -> anyhow::Result<Self> {
        let mut words = words.into_iter().peekable();
        let is_path =
            |word: &OsString| !(word.as_bytes().starts_with(b"-") || word == "!" || word == "(");
        let mut paths = Vec::new();
        while let Some(path) = words.next_if(is_path) {
            paths.push(path);
        }
        if paths.is_empty() {
            paths.push(OsString::from("."));
        }
        let mut parser = Parser {
            words,
            search: Self {
                paths,
                newer: Vec::new(),
                runs: Vec::new(),
                depth_max: usize::MAX,
                depth_first: false,
                depth_min: 0,
                expression: Expression::Always(true),
            },
            users: Users::load(),
        };
        let expression = match parser.words.peek() {
            Some(_) => parser.either(0)?,
            None => Expression::Always(true),
        };
        if parser.words.peek().is_some() {
            bail!("`)` without `(`");
        }
        let mut search = parser.search;
        search.expression = if expression.acts() {
            expression
        } else {
            Expression::And(vec![expression, Expression::Act(Action::Print)])
        };
        Ok(search)
    }

    /// Whether a directory is judged when what it holds is through.
    pub(super) fn is_later(&self, found: &Found) -> bool {
        self.depth_first && is_directory(&found.attributes) && found.depth < self.depth_max
    }

    /// What to do with something.
    pub(super) fn actions(&self, found: &Found, facts: &Facts) -> Vec<Action> {
        let mut actions = Vec::new();
        if found.depth >= self.depth_min {
            self.expression.holds(found, facts, &mut actions);
        }
        actions
    }
}

struct Parser<I: Iterator<Item = OsString>> {
    words: Peekable<I>,
    search: Search,
    users: Users,
}

impl<I: Iterator<Item = OsString>> Parser<I> {
    fn take(&mut self, words: &[&str]) -> bool {
        let is_one = |word: &OsString| words.iter().any(|one| word == one);
        self.words.next_if(is_one).is_some()
    }

    /// `A -o B`.
    fn either(&mut self, depth: usize) -> anyhow::Result<Expression> {
        let mut all = vec![self.both(depth)?];
        while self.take(&["-o", "-or"]) {
            all.push(self.both(depth)?);
        }
        Ok(Expression::Or(all))
    }

    /// `A B`, `A -a B`.
    fn both(&mut self, depth: usize) -> anyhow::Result<Expression> {
        let mut all = vec![self.one(depth)?];
        loop {
            let joined = self.take(&["-a", "-and"]);
            let ends = ["-o", "-or", ")"];
            let next = self.words.peek();
            if !joined && next.is_none_or(|next| ends.iter().any(|end| next == end)) {
                return Ok(Expression::And(all));
            }
            all.push(self.one(depth)?);
        }
    }

    fn one(&mut self, depth: usize) -> anyhow::Result<Expression> {
        let mut is_negated = false;
        while self.take(&["!", "-not"]) {
            is_negated = !is_negated;
        }
        let Some(word) = self.words.next() else {
            bail!("something is missing at the end")
        };
        let expression = if word == "(" {
            if depth >= NESTING_MAX {
                bail!("more than {NESTING_MAX} brackets in brackets");
            }
            let inner = self.either(depth + 1)?;
            if !self.take(&[")"]) {
                bail!("`(` without `)`");
            }
            inner
        } else {
            self.word(&word)?
        };
        Ok(if is_negated {
            Expression::Not(Box::new(expression))
        } else {
            expression
        })
    }

    /// A single word, with its value if it has one.
    fn word(&mut self, word: &OsString) -> anyhow::Result<Expression> {
        let name = word.to_string_lossy().into_owned();
        let act = |action| Ok(Expression::Act(action));
        match name.as_str() {
            "-print" => return act(Action::Print),
            "-print0" => return act(Action::Print0),
            "-prune" => return act(Action::Prune),
            "-delete" => {
                self.search.depth_first = true;
                return act(Action::Delete);
            }
            "-exec" => {
                self.search.runs.push(Run::parse(&mut self.words)?);
                return act(Action::Run(self.search.runs.len() - 1));
            }
            "-depth" => {
                self.search.depth_first = true;
                return Ok(Expression::Always(true));
            }
            "-true" | "-false" => return Ok(Expression::Always(name == "-true")),
            "-empty" => return Ok(Expression::Condition(Condition::Empty)),
            "-o" | "-or" | "-a" | "-and" | ")" => bail!("nothing stands before `{name}`"),
            _ => {}
        }
        let Some(value) = self.words.next() else {
            bail!("`{name}` is not a condition, or misses its value")
        };
        match name.as_str() {
            "-newer" => {
                self.search.newer.push(value);
                let index = self.search.newer.len() - 1;
                Ok(Expression::Condition(Condition::Newer(index)))
            }
            "-maxdepth" | "-mindepth" => {
                let Some(depth) = value.to_str().and_then(|text| text.parse().ok()) else {
                    bail!("{name}: `{}` is not a number", value.to_string_lossy())
                };
                if name == "-maxdepth" {
                    self.search.depth_max = depth;
                } else {
                    self.search.depth_min = depth;
                }
                Ok(Expression::Always(true))
            }
            _ => Condition::parse(&name, value.as_bytes(), &self.users).map(Expression::Condition),
        }
    }
}

#[cfg(test)]
mod tests;

//! A line of those who wait, fair between users: each user's own requests in their order, the users by turns.

use std::collections::VecDeque;

/// Those who wait. Nothing in it knows of endpoints, so that who is next can be told without any.
#[derive(Debug)]
pub struct Line<T> {
    /// Users of whom somebody waits; the first is served next. One who was served goes to the end.
    turns: VecDeque<Turn<T>>,
    len: usize,
    next: u64,
}

#[derive(Debug)]
struct Turn<T> {
    /// All who name nobody are one.
    user: Option<u64>,
    waiters: VecDeque<(u64, T)>,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    user: Option<u64>,
    id: u64,
}

/// What is said of one who waits.
pub enum Said<A> {
    /// It is served with this.
    Served(A),
    /// Not this one now; the next may be luckier.
    PassedOver,
    /// Nobody can be served.
    Nobody,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            len: 0,
            next: 0,
        }
    }
}

impl<T> Line<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn join(&mut self, user: Option<u64>, waiter: T) -> Spot {
        let id = self.next;
        self.next += 1;
        self.len += 1;
        match self.turns.iter_mut().find(|turn| turn.user == user) {
            Some(turn) => turn.waiters.push_back((id, waiter)),
            None => self.turns.push_back(Turn {
                user,
                waiters: VecDeque::from([(id, waiter)]),
            }),
        }
        Spot { user, id }
    }

    /// None when it is not there any more.
    pub fn leave(&mut self, spot: Spot) -> Option<T> {
        let turn = self.turns.iter().position(|turn| turn.user == spot.user)?;
        // Those that give up are mostly at the front: they have waited longest.
        let mut waiters = self.turns[turn].waiters.iter();
        let at = waiters.position(|(id, _)| *id == spot.id)?;
        self.take(turn, at)
    }

    /// Serves the first of whom `serve` says so, looking at `max` at most: the first of each user, then the second
    /// of each.
    pub fn serve<A>(&mut self, max: usize, mut serve: impl FnMut(&T) -> Said<A>) -> Option<(T, A)> {
        let longest = self.turns.iter().map(|turn| turn.waiters.len()).max()?;
        let users = self.turns.len();
        let order = (0..longest).flat_map(|at| (0..users).map(move |turn| (turn, at)));
        let mut looked = 0;
        for (turn, at) in order {
            let Some((_, waiter)) = self.turns[turn].waiters.get(at) else {
                continue;
            };
            match serve(waiter) {
                Said::Served(answer) => {
                    let waiter = self.take_turn(turn, at)?;
                    return Some((waiter, answer));
                }
                Said::PassedOver => looked += 1,
                Said::Nobody => return None,
            }
            if looked == max {
                return None;
            }
        }
        None
    }

    /// Makes room for one of this user at the cost of whoever has most in the line: the last of theirs. None
    /// where nobody has so many that the change would be fair.
    pub fn make_room(&mut self, user: Option<u64>) -> Option<T> {
        let turns = self.turns.iter().enumerate();
        let (turn, most) = turns
            .map(|(at, turn)| (at, turn.waiters.len()))
            .max_by_key(|(_, len)| *len)?;
        (most > self.len_of(user) + 1).then(|| self.take(turn, most - 1))?
    }

    /// How many are served before one more of this user would be.
    pub fn ahead_of_next(&self, user: Option<u64>) -> usize {
        let own = self.len_of(user);
        let others = self.turns.iter().filter(|turn| turn.user != user);
        others.fold(own, |sum, turn| sum + turn.waiters.len().min(own + 1))
    }

    fn len_of(&self, user: Option<u64>) -> usize {
        let mut turns = self.turns.iter();
        let turn = turns.find(|turn| turn.user == user);
        turn.map_or(0, |turn| turn.waiters.len())
    }

    /// As [`Self::take`]; the others come before this user's next.
    fn take_turn(&mut self, turn: usize, at: usize) -> Option<T> {
        let more = self.turns.get(turn)?.waiters.len() > 1;
        let waiter = self.take(turn, at)?;
        if more {
            let served = self.turns.remove(turn)?;
            self.turns.push_back(served);
        }
        Some(waiter)
    }

    fn take(&mut self, turn: usize, at: usize) -> Option<T> {
        let waiters = &mut self.turns.get_mut(turn)?.waiters;
        let (_, waiter) = waiters.remove(at)?;
        if waiters.is_empty() {
            self.turns.remove(turn);
        }
        self.len -= 1;
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn serve_next<T: Copy>(line: &mut Line<T>) -> Option<T> {
        let served = line.serve(16, |_| Said::Served(()));
        served.map(|(waiter, ())| waiter)
    }

    fn all<T: Copy>(line: &mut Line<T>) -> Vec<T> {
        std::iter::from_fn(|| serve_next(line)).collect()
    }

    #[test]
    fn users_take_turns_and_each_has_its_own_in_their_order() {
        for (joins, served) in [
            ("", ""),
            ("a1 a2 a3", "a1 a2 a3"),
            ("a1 a2 a3 b1", "a1 b1 a2 a3"),
            ("a1 a2 a3 b1 c1 b2", "a1 b1 c1 a2 b2 a3"),
            // Nobody's are one user's.
            ("-1 -2 a1 -3", "-1 a1 -2 -3"),
        ] {
            let mut line = Line::default();
            for name in joins.split_whitespace() {
                let user = name.as_bytes()[0];
                line.join((user != b'-').then_some(u64::from(user)), name);
            }
            assert_eq!(all(&mut line).join(" "), served, "{joins}");
            assert_eq!(line.len(), 0);
        }
    }

    #[test]
    fn who_has_most_makes_room_for_who_has_less() {
        for (joins, comes, goes) in [
            ("aaaa", b'b', Some(3)),
            ("aabb", b'b', None),
            ("aabb", b'c', Some(3)),
            ("aab", b'c', Some(1)),
            ("aab", b'b', None),
            ("abc", b'd', None),
            ("aaa", b'a', None),
            ("", b'a', None),
        ] {
            let mut line = Line::default();
            for (nth, user) in joins.bytes().enumerate() {
                line.join(Some(u64::from(user)), nth);
            }
            assert_eq!(line.make_room(Some(u64::from(comes))), goes, "{joins}");
            let left = joins.len() - usize::from(goes.is_some());
            assert_eq!((line.len(), all(&mut line).len()), (left, left), "{joins}");
        }
    }

    #[test]
    fn whoever_is_passed_over_keeps_its_place_and_not_for_ever() {
        let mut line = Line::default();
        for waiter in 0..40 {
            line.join(None, waiter);
        }
        let say = |picky: i32| {
            move |waiter: &i32| match waiter {
                waiter if *waiter < picky => Said::PassedOver,
                _ => Said::Served(()),
            }
        };
        assert_eq!(line.serve(16, say(3)), Some((3, ())));
        assert_eq!(line.serve(16, say(20)), None, "too many to look at");
        assert_eq!(line.serve(16, |_| Said::<()>::Nobody), None);
        assert_eq!(serve_next(&mut line), Some(0));
        assert_eq!(line.len(), 38);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Join(u64),
        Serve,
        /// One of those that wait gives up.
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // The first user comes far more often than the others.
        let join = prop_oneof![4 => Just(0), 1 => 1..5_u64].prop_map(Step::Join);
        let step = prop_oneof![
            5 => join,
            4 => Just(Step::Serve),
            1 => any::<usize>().prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// However others come and go: between two turns of a user of whom somebody waits, no other user is
        /// served twice; and what was told to be ahead is never less than what is served before.
        #[test]
        fn nobody_waits_for_more_than_one_of_each_other_user(steps in steps()) {
            let mut line = Line::default();
            let mut waiting: Vec<(Spot, u64, u64)> = Vec::new();
            let mut seen: HashMap<u64, HashMap<u64, u32>> = HashMap::new();
            for (id, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Join(user) => {
                        if waiting.iter().all(|(_, other, _)| *other != user) {
                            seen.insert(user, HashMap::new());
                        }
                        waiting.push((line.join(Some(user), (user, id)), user, id));
                    }
                    Step::Leave(nth) if !waiting.is_empty() => {
                        let (spot, user, id) = waiting.remove(nth % waiting.len());
                        prop_assert_eq!(line.leave(spot), Some((user, id)));
                        prop_assert_eq!(line.leave(spot), None);
                    }
                    Step::Serve => {
                        let served = serve_next(&mut line);
                        prop_assert_eq!(served.is_some(), !waiting.is_empty());
                        let Some((user, id)) = served else { continue };
                        let first = waiting.iter().position(|(_, other, _)| *other == user).unwrap();
                        prop_assert_eq!(waiting.remove(first).2, id, "a user's own are in their order");
                        seen.insert(user, HashMap::new());
                        for (other, turns) in &mut seen {
                            if *other != user && waiting.iter().any(|(_, waits, _)| waits == other) {
                                let turns = turns.entry(user).or_default();
                                *turns += 1;
                                prop_assert!(*turns <= 1, "{} waits, {} served twice", other, user);
                            }
                        }
                    }
                    Step::Leave(_) => {}
                }
                prop_assert_eq!(line.len(), waiting.len());
            }
        }

        #[test]
        fn how_many_are_ahead_is_told_as_it_comes(joins in prop::collection::vec(0..4_u64, 0..30), user in 0..4_u64) {
            let mut line = Line::default();
            for other in joins {
                line.join(Some(other), (other, false));
            }
            // Users that have had a turn lately are at the end, so the newest may come sooner than told.
            let told = line.ahead_of_next(Some(user));
            line.join(Some(user), (user, true));
            let ahead = all(&mut line).iter().position(|(_, newest)| *newest).unwrap();
            prop_assert!(ahead <= told, "{} ahead, {} told", ahead, told);
            prop_assert!(told <= ahead + 4);
        }
    }
}

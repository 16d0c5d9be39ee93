//! The map, and the rules of a replica.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{DirectoryKey, KeyHash, PolicyIndex};

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros, 0)
}

fn directory(bounds: Option<Bounds>) -> Directory {
    let mut headers = BTreeMap::new();
    if let Some(bounds) = bounds {
        headers.insert(BOUNDS.into(), HeaderValue { value: bounds.value(), timestamp: bounds.version });
    }
    let (created, deleted) = (at(1), Timestamp::ZERO);
    Directory { name: "a/c".into(), created, deleted, policy: PolicyIndex(0), headers }
}

fn bounds(names: Names, version: u64) -> Bounds {
    Bounds { version: at(version), names }
}

fn range(from: &str, to: Option<&str>) -> Names {
    Names::Range(NameRange { from: from.into(), to: to.map(str::to_owned) })
}

/// A change, as a replica makes it.
fn change(old: &Directory, micros: u64, change: DirectoryChange, live: bool) -> Result<Directory, NodeError> {
    let key = DirectoryKey { hash: KeyHash([0; 16]) };
    let write = DirectoryWrite { key, name: old.name.clone(), timestamp: at(micros), change };
    let (new, _) = write.apply(Some(old.clone()))?;
    write.check(Some(old), &new, live)?;
    Ok(new)
}

fn give(old: &Directory, bounds: &Bounds, live: bool) -> Result<Directory, NodeError> {
    change(old, bounds.version.micros(), bounds.change(), live)
}

#[test]
fn newer_bounds_win_whatever_the_order() {
    let (first, second) = (bounds(range("", Some("m")), 5), bounds(range("", Some("g")), 7));
    let plain = directory(None);
    let late = give(&give(&plain, &second, true).expect("given"), &first, true).expect("an older one");
    assert_eq!(late.bounds(), Some(second.clone()));
    let one = give(&plain, &first, true).expect("given");
    let other = give(&plain, &second, true).expect("given");
    assert_eq!(one.clone().merge(other.clone()).bounds(), Some(second));
    assert_eq!(one.clone().merge(other.clone()), other.merge(one));
}

#[test]
fn a_directory_with_rows_elsewhere_is_not_deleted() {
    let open = directory(Some(bounds(range("", Some("m")), 5)));
    assert_eq!(change(&open, 9, DirectoryChange::Delete, false), Err(NodeError::Moved));
    assert_eq!(change(&open, 9, DirectoryChange::Remove { closed: at(5) }, false), Err(NodeError::Moved));
    // Nor by what a replica that took part in a refused deletion brings.
    let gone = Directory { deleted: at(8), ..directory(None) };
    let merge = DirectoryChange::Merge(Box::new(gone));
    assert_eq!(change(&open, 8, merge, false), Err(NodeError::Moved));
}

#[test]
fn a_directory_is_closed_and_deleted_only_without_rows() {
    let (open, closed) = (directory(Some(bounds(range("", None), 5))), bounds(Names::Closed, 6));
    assert_eq!(give(&open, &closed, true), Err(NodeError::NotEmpty));
    let held = give(&open, &closed, false).expect("closed");
    // What it learned from another replica is not its own answer.
    assert_eq!(give(&held, &closed, true), Err(NodeError::NotEmpty));
    let remove = |closed| DirectoryChange::Remove { closed: at(closed) };
    assert_eq!(change(&held, 9, remove(7), false), Err(NodeError::Moved));
    assert_eq!(change(&held, 9, remove(6), true), Err(NodeError::NotEmpty));
    let gone = change(&held, 9, remove(6), false).expect("deleted");
    assert!(!gone.exists());
    let void = gone.bounds().expect("a mark");
    assert_eq!((void.names, void.version > at(6), void.version < at(7)), (Names::Void, true, true));
}

#[test]
fn a_refused_deletion_does_not_undo_bounds() {
    let closed = directory(Some(bounds(Names::Closed, 6)));
    let removed = change(&closed, 90, DirectoryChange::Remove { closed: at(6) }, false).expect("at one");
    let reopened = give(&closed, &bounds(range("", Some("m")), 7), false).expect("at the others");
    assert_eq!(
        change(&reopened, 91, DirectoryChange::Merge(Box::new(removed.clone())), false),
        Err(NodeError::Moved)
    );
    let again = DirectoryChange::Create { policy: PolicyIndex(0), headers: Vec::new() };
    let made = change(&removed, 100, again, false).expect("made again");
    let merged = change(&reopened, 100, DirectoryChange::Merge(Box::new(made)), false).expect("merged");
    assert!(merged.exists());
    assert_eq!(merged.bounds(), reopened.bounds());
}

#[test]
fn who_goes_by_older_bounds_gets_no_page() {
    let ask = |directory: Option<&Directory>, known: u64| {
        let bounds = if known == 0 { Timestamp::ZERO } else { at(known) };
        ListQuery { bounds, ..ListQuery::default() }.check(directory)
    };
    let plain = directory(None);
    let split = directory(Some(bounds(range("", Some("m")), 5)));
    let void = directory(Some(bounds(Names::Void, 5)));
    assert_eq!([ask(None, 0), ask(Some(&plain), 0), ask(Some(&plain), 5)], [Ok(()), Ok(()), Ok(())]);
    assert_eq!([ask(Some(&split), 5), ask(Some(&split), 6), ask(Some(&void), 0)], [Ok(()), Ok(()), Ok(())]);
    let moved = Err(NodeError::Moved);
    assert_eq!(
        [ask(Some(&split), 0), ask(Some(&split), 4), ask(Some(&void), 4), ask(None, 4)],
        [moved.clone(), moved.clone(), moved.clone(), moved]
    );
}

#[test]
fn a_map_has_a_limit() {
    let mut map = ShardMap::whole();
    for number in 1..MAX_RANGES as u64 {
        let home = map.ranges.last().expect("a range").home;
        map = map.arrived(home, at(number * 2));
        map =
            map.split(home, &format!("{number:06}"), ShardId(at(number)), at(number * 2 + 1)).expect("room");
    }
    let home = map.ranges.last().expect("a range").home;
    map = map.arrived(home, at(1 << 20));
    assert_eq!(map.split(home, "x", ShardId(at(1 << 21)), at(1 << 22)), Err(ShardError::Full));
    assert_eq!(ShardMap::decode(&map.encode()), Ok(map));
    let long = "x".repeat(MAX_BYTES);
    let map = ShardMap::whole().split(Home::Container, &long, ShardId(at(1)), at(2));
    assert_eq!(map, Err(ShardError::Full));
}

#[test]
fn what_is_no_map_is_refused() {
    let good = ShardMap::whole().encode();
    assert!(ShardMap::decode(&good).is_ok());
    assert!(ShardMap::decode(&[]).is_err());
    assert!(ShardMap::decode(&good[..good.len() - 1]).is_err());
    assert!(ShardMap::decode(&[&[FORMAT + 1], &good[1..]].concat()).is_err());
    let mut none = ShardMap::whole();
    none.ranges.clear();
    assert!(ShardMap::decode(&none.encode()).is_err());
}

/// Names of few letters, so that they meet; with what UTF-8 orders in odd ways.
fn name() -> impl Strategy<Value = String> {
    "[ab/é\u{10ffff}+:]{0,5}"
}

proptest! {
    #[test]
    fn bounds_are_read_as_they_were_written(from in name(), to in proptest::option::of(name()), version in 1u64..99) {
        let bounds = bounds(Names::Range(NameRange { from, to }), version);
        prop_assert_eq!(directory(Some(bounds.clone())).bounds(), Some(bounds));
    }

    #[test]
    fn a_boundary_is_between_two_names(mut names in proptest::collection::btree_set(name(), 2)) {
        let (next, last) = (names.pop_last().expect("two"), names.pop_last().expect("one"));
        let between = boundary(&last, &next);
        prop_assert!(last < between && between <= next && next.starts_with(&between));
    }

    #[test]
    fn every_name_is_in_one_range(cuts in proptest::collection::vec(name(), 0..12), names in proptest::collection::vec(name(), 1..20)) {
        let mut map = ShardMap::whole();
        for (number, cut) in cuts.iter().enumerate() {
            let number = number as u64 * 3 + 10;
            let home = map.range_of(cut).home;
            if let Ok(next) = map.split(home, cut, ShardId(at(number)), at(number + 1)) {
                // Who had a name before and does not have it now has got new bounds, which do not contain it.
                for name in &names {
                    let (before, now) = (map.range_of(name), next.range_of(name));
                    if before.home != now.home {
                        let old = next.position(before.home).expect("still there");
                        prop_assert!(!next.bounds(old).contain(name));
                        prop_assert!(next.changed().any(|index| index == old));
                        prop_assert_eq!(now.source, Some(before.home));
                    }
                }
                let new = next.range_of(cut).home;
                prop_assert_eq!(next.split(home, cut, ShardId(at(0)), at(0)), Err(ShardError::Busy));
                map = next.arrived(new, at(number + 2));
                prop_assert_eq!((map.moving().count(), map.changed().count()), (0, 0));
            }
        }
        prop_assert_eq!(ShardMap::decode(&map.encode()), Ok(map.clone()));
        let closed = map.closed(true, at(99));
        for name in &names {
            let in_range = |index: &usize| map.names(*index).contains(name);
            let all: Vec<usize> = (0..map.ranges.len()).filter(in_range).collect();
            prop_assert_eq!(all.len(), 1);
            prop_assert_eq!(map.range_of(name), &map.ranges[all[0]]);
            prop_assert!(map.bounds(all[0]).contain(name));
            prop_assert!(!closed.bounds(all[0]).contain(name));
        }
    }

    #[test]
    fn no_range_that_shows_something_is_passed_over(
        cuts in proptest::collection::btree_set("[ab/]{1,4}", 0..8),
        name in name(), prefix in "[ab/]{0,3}",
        marker in proptest::option::of(name()), end in proptest::option::of(name()), reverse: bool,
    ) {
        let mut map = ShardMap::whole();
        let shard = |(number, from): (usize, String)| {
            let (home, since) = (Home::Shard(ShardId(at(number as u64))), at(1));
            ShardRange { from, home, since, source: None }
        };
        map.ranges.extend(cuts.into_iter().enumerate().map(shard));
        let query = ListQuery { prefix, marker, end_marker: end, reverse, ..ListQuery::default() };
        let (after, before) =
            if reverse { (&query.end_marker, &query.marker) } else { (&query.marker, &query.end_marker) };
        let shown = name.starts_with(&query.prefix)
            && after.as_ref().is_none_or(|after| name > *after)
            && before.as_ref().is_none_or(|before| name < *before);
        let ranges = map.ranges_for(&query);
        let holder = map.ranges.iter().position(|range| range == map.range_of(&name)).expect("one");
        prop_assert!(!shown || ranges.contains(&holder));
        prop_assert!(ranges.is_sorted_by(|a, b| (a < b) != reverse && a != b));
    }
}

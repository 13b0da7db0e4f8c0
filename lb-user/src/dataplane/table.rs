//! Tables that are the kernel's maps where XDP runs, and plain memory where it doesn't, with the same calls.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Pod;
use aya::maps::{Array, HashMap as KernelMap, Map, MapData, MapError};

/// Entries that are looked at to find one that was not used for long.
const SAMPLE: usize = 16;

/// A hash map.
pub enum Table<K: Pod, V: Pod> {
    Kernel(KernelMap<MapData, K, V>),
    Memory(Arc<Mutex<Recent<K, V>>>),
}

/// An array.
pub enum Cells<V: Pod> {
    Kernel(Array<MapData, V>),
    Memory(Arc<Mutex<Vec<V>>>),
}

/// A map that forgets what was not used for long when it is full, as the kernel's LRU maps do.
#[derive(Debug)]
pub struct Recent<K, V> {
    capacity: usize,
    index: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    /// Counts uses.
    now: u64,
    /// Where the next sample begins.
    hand: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    used: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Hash + Eq + Copy, V: Copy> Recent<K, V> {
    /// An empty one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            index: HashMap::new(),
            entries: Vec::new(),
            now: 0,
            hand: 0,
        }
    }

    /// The value, which counts as used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.now += 1;
        let entry = &mut self.entries[*self.index.get(key)?];
        entry.used = self.now;
        Some(entry.value)
    }

    /// Creates or overwrites an entry.
    pub fn insert(&mut self, key: K, value: V) {
        self.now += 1;
        if let Some(at) = self.index.get(&key) {
            let entry = &mut self.entries[*at];
            (entry.value, entry.used) = (value, self.now);
            return;
        }
        if self.entries.len() >= self.capacity.max(1) {
            self.make_room();
        }
        self.index.insert(key, self.entries.len());
        self.entries.push(Entry {
            key,
            value,
            used: self.now,
        });
    }

    /// `false` if there was none.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(at) = self.index.remove(key) else {
            return false;
        };
        self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.key, at);
        }
        true
    }

    fn make_room(&mut self) {
        let len = self.entries.len();
        let sample = (0..SAMPLE.min(len)).map(|i| (self.hand + i) % len);
        let oldest = sample.min_by_key(|at| self.entries[*at].used);
        self.hand = (self.hand + SAMPLE) % len;
        if let Some(key) = oldest.map(|at| self.entries[at].key) {
            self.remove(&key);
        }
    }
}

impl<K: Pod + Hash + Eq, V: Pod> Table<K, V> {
    /// One in memory.
    #[must_use]
    pub fn memory(table: &Arc<Mutex<Recent<K, V>>>) -> Self {
        Self::Memory(table.clone())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// There is none, or what the kernel said.
    pub fn get(&self, key: &K, flags: u64) -> Result<V, MapError> {
        match self {
            Self::Kernel(map) => map.get(key, flags),
            Self::Memory(table) => locked(table).get(key).ok_or(MapError::KeyNotFound),
        }
    }

    /// Creates or overwrites an entry; `flags` are the kernel's.
    ///
    /// # Errors
    /// What the kernel said; [`MapError::KeyNotFound`] where the flags forbid it in memory.
    pub fn insert(
        &mut self,
        key: impl Borrow<K>,
        value: impl Borrow<V>,
        flags: u64,
    ) -> Result<(), MapError> {
        const NOEXIST: u64 = 1;
        const EXIST: u64 = 2;
        match self {
            Self::Kernel(map) => map.insert(key, value, flags),
            Self::Memory(table) => {
                let mut table = locked(table);
                let there = table.index.contains_key(key.borrow());
                if there && flags == NOEXIST || !there && flags == EXIST {
                    return Err(MapError::KeyNotFound);
                }
                table.insert(*key.borrow(), *value.borrow());
                Ok(())
            }
        }
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// There is none, or what the kernel said.
    pub fn remove(&mut self, key: &K) -> Result<(), MapError> {
        match self {
            Self::Kernel(map) => map.remove(key),
            Self::Memory(table) => match locked(table).remove(key) {
                true => Ok(()),
                false => Err(MapError::KeyNotFound),
            },
        }
    }

    /// All entries.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Result<(K, V), MapError>> + '_> {
        match self {
            Self::Kernel(map) => Box::new(map.iter()),
            Self::Memory(table) => {
                let table = locked(table);
                let all: Vec<_> = table.entries.iter().map(|e| Ok((e.key, e.value))).collect();
                Box::new(all.into_iter())
            }
        }
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = Result<K, MapError>> + '_ {
        self.iter().map(|entry| entry.map(|(key, _)| key))
    }
}

impl<V: Pod> Cells<V> {
    /// One cell.
    ///
    /// # Errors
    /// There is no such cell, or what the kernel said.
    pub fn get(&self, index: &u32, flags: u64) -> Result<V, MapError> {
        match self {
            Self::Kernel(array) => array.get(index, flags),
            Self::Memory(cells) => {
                let cells = locked(cells);
                let cell = cells.get(*index as usize).copied();
                cell.ok_or_else(|| outside(*index, cells.len()))
            }
        }
    }

    /// Writes a cell.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn set(&mut self, index: u32, value: impl Borrow<V>, flags: u64) -> Result<(), MapError> {
        match self {
            Self::Kernel(array) => array.set(index, value, flags),
            Self::Memory(cells) => {
                let mut cells = locked(cells);
                let len = cells.len();
                let cell = cells.get_mut(index as usize);
                *cell.ok_or_else(|| outside(index, len))? = *value.borrow();
                Ok(())
            }
        }
    }
}

fn outside(index: u32, len: usize) -> MapError {
    let max_entries = u32::try_from(len).unwrap_or(u32::MAX);
    MapError::OutOfBounds { index, max_entries }
}

impl<K: Pod, V: Pod> TryFrom<Map> for Table<K, V> {
    type Error = MapError;
    fn try_from(map: Map) -> Result<Self, MapError> {
        Ok(Self::Kernel(map.try_into()?))
    }
}

impl<V: Pod> TryFrom<Map> for Cells<V> {
    type Error = MapError;
    fn try_from(map: Map) -> Result<Self, MapError> {
        Ok(Self::Kernel(map.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_keeps_what_is_used() {
        let mut table = Recent::new(100);
        for n in 0..1000u32 {
            table.insert(n, n);
            for kept in 0..10.min(n) {
                assert_eq!(table.get(&kept), Some(kept), "after {n}");
            }
        }
        assert_eq!(table.entries.len(), 100);
        assert_eq!(table.index.len(), 100);
        assert_eq!(table.get(&999), Some(999));
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_is_not() {
        let mut table = Recent::new(10);
        for n in 0..5u32 {
            table.insert(n, n);
        }
        assert!(table.remove(&1));
        assert!(!table.remove(&1));
        let left: Vec<_> = (0..5).filter_map(|n| table.get(&n)).collect();
        assert_eq!(left, [0, 2, 3, 4]);
    }
}

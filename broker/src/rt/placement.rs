//! Chooses a core for each shard, spread over the machine, with glommio. No other file uses
//! glommio: its executors are not used, because each costs 5 MB, a thread and four descriptors.

use glommio::{CpuSet, PoolPlacement};
use rustix::thread::{CpuSet as Cores, sched_getaffinity, sched_setaffinity};

/// A core for each shard, if there are enough cores; otherwise none, and the system places the
/// threads. They are spread over memory nodes and physical cores. The first one depends on the
/// process id, so that several brokers on one machine do not use the same cores.
pub(crate) fn cores_for(shards: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let allowed: Vec<usize> = (0..Cores::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    if shards > allowed.len() {
        return Vec::new();
    }
    let mut cores = spread(&allowed).unwrap_or(allowed);
    let first = std::process::id() as usize % cores.len();
    cores.rotate_left(first);
    cores.truncate(shards);
    cores
}

/// These cores in an order in which neighbours are far from each other; `None` if the system does
/// not tell where they are.
fn spread(allowed: &[usize]) -> Option<Vec<usize>> {
    let online = CpuSet::online().ok()?.filter(|place| allowed.contains(&place.cpu));
    if online.len() != allowed.len() {
        return None;
    }
    let mut places = PoolPlacement::MaxSpread(allowed.len(), Some(online)).generate_cpu_set().ok()?;
    let core = |_: &usize| places.next().cpu_binding()?.into_iter().next();
    let cores: Vec<usize> = allowed.iter().filter_map(core).collect();
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    (sorted == allowed).then_some(cores)
}

/// Runs the current thread on this core alone. A container may take the core away; the thread then
/// runs on any core.
pub(crate) fn pin_to(core: usize) {
    let mut set = Cores::new();
    set.set(core);
    if let Err(errno) = sched_setaffinity(None, &set) {
        tracing::debug!("a shard is not pinned to core {core}: {errno}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_a_core_of_its_own_or_none_has_one() {
        let allowed = sched_getaffinity(None).map_or(1, |cores| cores.count() as usize);
        for shards in 1..=allowed {
            let mut cores = cores_for(shards);
            cores.sort_unstable();
            cores.dedup();
            assert_eq!(cores.len(), shards);
        }
        assert!(cores_for(allowed + 1).is_empty());
    }

    #[test]
    fn a_pinned_thread_runs_on_its_core() {
        let core = cores_for(1)[0];
        std::thread::spawn(move || {
            pin_to(core);
            let allowed = sched_getaffinity(None).expect("its own affinity");
            assert_eq!((allowed.count(), allowed.is_set(core)), (1, true));
        })
        .join()
        .expect("the thread");
    }
}

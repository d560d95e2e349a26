//! The threads that check passwords. A shard hands over a job without waiting and gets the answer
//! from here; each job is answered exactly once, whatever happens. Knows nothing of the broker.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use grapnel_plugin_abi::{Rejected, Shares, Weigh};

use crate::passwd::Entry;

/// Who wants to know.
pub trait Answer: Send + 'static {
    /// Takes the verdict. Called once, on a thread of the pool.
    fn answer(self, verdict: Verdict);
}

/// What came of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The user's password.
    Right,
    /// Anything else.
    Wrong,
    /// It was not looked at, because its time had passed.
    Expired,
}

/// A password to be checked.
#[derive(Debug)]
pub struct Job<A> {
    /// What to compare with.
    pub entry: Arc<Entry>,
    /// The verdict is [`Verdict::Wrong`] whatever the comparison says: the entry is a decoy, or there was no password.
    pub hopeless: bool,
    /// What the client gave.
    pub password: Box<[u8]>,
    /// From when on nobody waits for the answer any more.
    pub expires: Instant,
    /// Who wants to know.
    pub answer: A,
}

/// The jobs that wait. What a job holds beside itself is its password; entries belong to the table.
impl<A> Weigh for Job<A> {
    fn heap_bytes(&self) -> u64 {
        self.password.heap_bytes()
    }
}

/// The threads and their queue, in which addresses take turns. Dropping it waits until all that is queued has been answered, and
/// joins the threads.
#[derive(Debug)]
pub struct Pool<A> {
    queue: Arc<Queue<A>>,
    threads: Vec<JoinHandle<()>>,
}

/// The lock is held to put a job in or to take one out, never while anything is computed or answered.
#[derive(Debug)]
struct Queue<A> {
    jobs: Mutex<Jobs<A>>,
    wake: Condvar,
}

#[derive(Debug)]
struct Jobs<A> {
    waiting: Shares<Job<A>>,
    /// The threads end when nothing waits any more.
    ends: bool,
}

impl<A: Answer> Pool<A> {
    /// Starts this many threads, with a queue for the jobs that wait.
    ///
    /// # Errors
    /// A thread cannot be started. Those that were are ended again.
    pub fn start(threads: usize, waiting: Shares<Job<A>>) -> std::io::Result<Pool<A>> {
        let jobs = Mutex::new(Jobs { waiting, ends: false });
        let queue = Arc::new(Queue { jobs, wake: Condvar::new() });
        let mut pool = Pool { queue, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let queue = Arc::clone(&pool.queue);
            let thread = std::thread::Builder::new().name(format!("auth-file-{index}"));
            pool.threads.push(thread.spawn(move || queue.work())?);
        }
        Ok(pool)
    }

    /// Puts a job of an address in the queue.
    ///
    /// # Errors
    /// The address's share of the queue is full, or the queue: the job comes back.
    pub fn submit(&self, address: &str, job: Job<A>) -> Result<(), Rejected<Job<A>>> {
        self.queue.lock().waiting.insert(address, job)?;
        self.queue.wake.notify_one();
        Ok(())
    }
}

impl<A> Drop for Pool<A> {
    fn drop(&mut self) {
        self.queue.lock().ends = true;
        self.queue.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported by the panic hook; there is nothing left to undo here.
            let _ = thread.join();
        }
    }
}

impl<A> Queue<A> {
    fn lock(&self) -> MutexGuard<'_, Jobs<A>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, of the address whose turn it is; `None` when all has been done and the end was asked for.
    fn next(&self) -> Option<Job<A>> {
        let jobs = self.lock();
        let waits = |jobs: &mut Jobs<A>| jobs.waiting.is_empty() && !jobs.ends;
        let mut jobs = self.wake.wait_while(jobs, waits).unwrap_or_else(PoisonError::into_inner);
        jobs.waiting.take_in_turn().map(|(_, job)| job)
    }
}

impl<A: Answer> Queue<A> {
    fn work(&self) {
        let mut memory = Vec::new();
        while let Some(job) = self.next() {
            let verdict = match job.expires > Instant::now() {
                false => Verdict::Expired,
                // Compared even if it is hopeless: a wrong name shall take as long as a wrong password.
                true if job.entry.verify(&job.password, &mut memory) && !job.hopeless => Verdict::Right,
                true => Verdict::Wrong,
            };
            job.answer.answer(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;
    use std::time::Duration;

    use grapnel_plugin_abi::{Full, ShareLimits};

    use super::*;
    use crate::passwd::tests::{cheap, table};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn queue<A>(entries_max: u64, owner_entries_max: u64) -> Shares<Job<A>> {
        let bytes = u64::MAX;
        Shares::new(ShareLimits { entries_max, bytes_max: bytes, owner_entries_max, owner_bytes_max: bytes })
    }

    impl Answer for mpsc::Sender<Verdict> {
        fn answer(self, verdict: Verdict) {
            self.send(verdict).unwrap();
        }
    }

    /// Its thread takes the job, says so, and waits until it is let go.
    struct Hold {
        held: mpsc::Sender<()>,
        release: mpsc::Receiver<()>,
    }

    enum Either {
        Hold(Hold),
        Say(mpsc::Sender<Verdict>),
    }

    impl Answer for Either {
        fn answer(self, verdict: Verdict) {
            match self {
                Either::Say(said) => said.answer(verdict),
                Either::Hold(hold) => {
                    hold.held.send(()).unwrap();
                    let _ = hold.release.recv_timeout(PATIENCE);
                }
            }
        }
    }

    fn job<A>(entry: &Arc<Entry>, password: &str, answer: A) -> Job<A> {
        let (entry, password) = (Arc::clone(entry), password.as_bytes().into());
        Job { entry, hopeless: false, password, expires: Instant::now() + PATIENCE, answer }
    }

    #[test]
    fn passwords_are_checked() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let pool = Pool::start(2, queue(10, 10)).unwrap();
        let (said, verdict) = mpsc::channel();
        for (password, hopeless, expected) in [
            ("secret", false, Verdict::Right),
            ("Secret", false, Verdict::Wrong),
            ("", false, Verdict::Wrong),
            ("secret", true, Verdict::Wrong),
        ] {
            pool.submit("a", Job { hopeless, ..job(ann, password, said.clone()) }).unwrap();
            assert_eq!(verdict.recv_timeout(PATIENCE), Ok(expected), "{password} {hopeless}");
        }
        pool.submit("a", Job { expires: Instant::now(), ..job(ann, "secret", said.clone()) }).unwrap();
        assert_eq!(verdict.recv_timeout(PATIENCE), Ok(Verdict::Expired));
    }

    /// A pool whose only thread is held until what comes back is dropped or sent to.
    fn held(entry: &Arc<Entry>, waiting: Shares<Job<Either>>) -> (Pool<Either>, mpsc::Sender<()>) {
        let pool = Pool::start(1, waiting).unwrap();
        let ((held, is_held), (release, released)) = (mpsc::channel(), mpsc::channel());
        assert!(pool.submit("first", job(entry, "", Either::Hold(Hold { held, release: released }))).is_ok());
        is_held.recv_timeout(PATIENCE).unwrap();
        (pool, release)
    }

    #[test]
    fn a_full_queue_gives_the_job_back_and_the_end_waits_for_the_rest() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let (said, verdict) = mpsc::channel();
        let (pool, release) = held(ann, queue(2, 2));
        let waiting = || job(ann, "secret", Either::Say(said.clone()));
        assert!(pool.submit("a", waiting()).is_ok());
        assert!(pool.submit("b", waiting()).is_ok());
        assert!(pool.submit("c", waiting()).is_err_and(|rejected| rejected.full == Full::Entries(2)));
        release.send(()).unwrap();
        drop(pool);
        assert_eq!(verdict.try_iter().collect::<Vec<_>>(), [Verdict::Right, Verdict::Right]);
    }

    /// 1,300 logins of one address fill its share, and whoever comes from elsewhere is next.
    #[test]
    fn a_flood_of_one_address_is_in_nobody_elses_way() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let (said, verdict) = mpsc::channel();
        let (pool, release) = held(ann, queue(1000, 50));
        let flood = || Job { hopeless: true, ..job(ann, "guess", Either::Say(said.clone())) };
        let refused = (0..1300).filter_map(|_| pool.submit("flood", flood()).err());
        let refused: Vec<Full> = refused.map(|rejected| rejected.full).collect();
        assert_eq!(refused, [Full::OwnerEntries(50); 1250]);
        assert!(pool.submit("known", job(ann, "secret", Either::Say(said.clone()))).is_ok());
        release.send(()).unwrap();
        drop(pool);
        let verdicts: Vec<Verdict> = verdict.try_iter().collect();
        assert_eq!(verdicts.len(), 51);
        assert_eq!(verdicts.iter().position(|verdict| *verdict == Verdict::Right), Some(1), "the second one");
    }
}

//! The threads that check passwords. A shard submits a job without waiting. Each job gets exactly
//! one verdict, in all cases. Independent of the broker.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use grapnel_plugin_abi::{Rejected, Shares, Weigh};

use crate::passwd::Entry;

/// The receiver of a verdict.
pub trait Answer: Send + 'static {
    /// Receives the verdict. Called once, on a thread of the pool.
    fn answer(self, verdict: Verdict);
}

/// The result of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The password is correct.
    Right,
    /// The password is wrong.
    Wrong,
    /// It was not checked, because its deadline had passed.
    Expired,
}

/// A password to check.
#[derive(Debug)]
pub struct Job<A> {
    /// The entry to compare with.
    pub entry: Arc<Entry>,
    /// The verdict is [`Verdict::Wrong`] whatever the comparison gives: the entry is a decoy, or
    /// there was no password.
    pub is_always_wrong: bool,
    /// The client's password.
    pub password: Box<[u8]>,
    /// The deadline; nobody waits for the verdict after it.
    pub expires: Instant,
    /// The receiver of the verdict.
    pub answer: A,
}

/// The waiting jobs. A job's own memory is its password; entries belong to the table.
impl<A> Weigh for Job<A> {
    fn heap_bytes(&self) -> u64 {
        self.password.heap_bytes()
    }
}

/// The threads and their queue, in which addresses take turns. Dropping it waits until all queued
/// jobs have a verdict, and joins the threads.
#[derive(Debug)]
pub struct Pool<A> {
    queue: Arc<Queue<A>>,
    threads: Vec<JoinHandle<()>>,
}

/// The lock is held only to add or remove a job, never during a computation or a verdict.
#[derive(Debug)]
struct Queue<A> {
    jobs: Mutex<Jobs<A>>,
    wake: Condvar,
}

#[derive(Debug)]
struct Jobs<A> {
    waiting: Shares<Job<A>>,
    /// The threads end when the queue is empty.
    ends: bool,
}

impl<A: Answer> Pool<A> {
    /// Starts this many threads, with a queue for the waiting jobs.
    ///
    /// # Errors
    /// If a thread cannot be started. The threads that were started are ended.
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

    /// Adds a job of an address to the queue.
    ///
    /// # Errors
    /// The job, if the limit of the address or of the queue is reached.
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
            // The panic hook has reported a panic of the thread; nothing must be undone here.
            let _ = thread.join();
        }
    }
}

impl<A> Queue<A> {
    fn lock(&self) -> MutexGuard<'_, Jobs<A>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, from the address whose turn it is; `None` if the queue is empty and the end
    /// was requested.
    fn next(&self) -> Option<Job<A>> {
        let jobs = self.lock();
        let waits = |jobs: &mut Jobs<A>| jobs.waiting.is_empty() && !jobs.ends;
        let mut jobs = self.wake.wait_while(jobs, waits).unwrap_or_else(PoisonError::into_inner);
        jobs.waiting.take_next_in_turn().map(|(_, job)| job)
    }
}

impl<A: Answer> Queue<A> {
    fn work(&self) {
        let mut memory = Vec::new();
        while let Some(job) = self.next() {
            let verdict = match job.expires > Instant::now() {
                false => Verdict::Expired,
                // Compared even if it is hopeless: a wrong name must take as long as a wrong
                // password.
                true if job.entry.verify(&job.password, &mut memory) && !job.is_always_wrong => {
                    Verdict::Right
                }
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

    /// Blocks its thread: takes the job, reports it, and waits until it is released.
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
                Either::Say(sender) => sender.answer(verdict),
                Either::Hold(hold) => {
                    hold.held.send(()).unwrap();
                    let _ = hold.release.recv_timeout(PATIENCE);
                }
            }
        }
    }

    fn job<A>(entry: &Arc<Entry>, password: &str, answer: A) -> Job<A> {
        let (entry, password) = (Arc::clone(entry), password.as_bytes().into());
        Job { entry, is_always_wrong: false, password, expires: Instant::now() + PATIENCE, answer }
    }

    #[test]
    fn right_and_wrong_passwords_are_told_apart() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let pool = Pool::start(2, queue(10, 10)).unwrap();
        let (sender, verdict) = mpsc::channel();
        for (password, is_always_wrong, expected) in [
            ("secret", false, Verdict::Right),
            ("Secret", false, Verdict::Wrong),
            ("", false, Verdict::Wrong),
            ("secret", true, Verdict::Wrong),
        ] {
            pool.submit("a", Job { is_always_wrong, ..job(ann, password, sender.clone()) }).unwrap();
            assert_eq!(verdict.recv_timeout(PATIENCE), Ok(expected), "{password} {is_always_wrong}");
        }
        pool.submit("a", Job { expires: Instant::now(), ..job(ann, "secret", sender.clone()) }).unwrap();
        assert_eq!(verdict.recv_timeout(PATIENCE), Ok(Verdict::Expired));
    }

    /// A pool whose only thread is blocked until the returned sender is used or dropped.
    fn held(entry: &Arc<Entry>, waiting: Shares<Job<Either>>) -> (Pool<Either>, mpsc::Sender<()>) {
        let pool = Pool::start(1, waiting).unwrap();
        let ((held, is_held), (release, released)) = (mpsc::channel(), mpsc::channel());
        assert!(pool.submit("first", job(entry, "", Either::Hold(Hold { held, release: released }))).is_ok());
        is_held.recv_timeout(PATIENCE).unwrap();
        (pool, release)
    }

    #[test]
    fn a_full_queue_returns_the_job_and_the_end_waits_for_queued_jobs() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let (sender, verdict) = mpsc::channel();
        let (pool, release) = held(ann, queue(2, 2));
        let waiting = || job(ann, "secret", Either::Say(sender.clone()));
        assert!(pool.submit("a", waiting()).is_ok());
        assert!(pool.submit("b", waiting()).is_ok());
        assert!(pool.submit("c", waiting()).is_err_and(|rejected| rejected.full == Full::Entries(2)));
        release.send(()).unwrap();
        drop(pool);
        assert_eq!(verdict.try_iter().collect::<Vec<_>>(), [Verdict::Right, Verdict::Right]);
    }

    /// 1,300 logins of one address reach its limit, and the next login of another address is
    /// served.
    #[test]
    fn logins_of_one_address_delay_no_other() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let (sender, verdict) = mpsc::channel();
        let (pool, release) = held(ann, queue(1000, 50));
        let flood = || Job { is_always_wrong: true, ..job(ann, "guess", Either::Say(sender.clone())) };
        let refused = (0..1300).filter_map(|_| pool.submit("flood", flood()).err());
        let refused: Vec<Full> = refused.map(|rejected| rejected.full).collect();
        assert_eq!(refused, [Full::OwnerEntries(50); 1250]);
        assert!(pool.submit("known", job(ann, "secret", Either::Say(sender.clone()))).is_ok());
        release.send(()).unwrap();
        drop(pool);
        let verdicts: Vec<Verdict> = verdict.try_iter().collect();
        assert_eq!(verdicts.len(), 51);
        assert_eq!(verdicts.iter().position(|verdict| *verdict == Verdict::Right), Some(1), "the second one");
    }
}

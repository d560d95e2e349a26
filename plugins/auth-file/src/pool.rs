//! The threads that check passwords. A shard hands a job over without waiting and is answered from here; whatever happens,
//! each job is answered once. Knows nothing of the broker: what an answer does is its maker's business.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{self, Receiver, Sender, TrySendError};

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

/// The threads and their queue. Dropping it waits until all that is queued has been answered, and joins the threads.
#[derive(Debug)]
pub struct Pool<A> {
    /// None once the end was asked for: the threads end when the queue is empty and can fill no more.
    queue: Option<Sender<Job<A>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<A: Answer> Pool<A> {
    /// Starts this many threads; at most `queue_max` jobs wait for them.
    ///
    /// # Errors
    /// A thread cannot be started. Those that were are ended again.
    pub fn start(threads: usize, queue_max: usize) -> std::io::Result<Pool<A>> {
        let (queue, jobs) = channel::bounded(queue_max);
        let mut pool = Pool { queue: Some(queue), threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let jobs = jobs.clone();
            let thread = std::thread::Builder::new().name(format!("auth-file-{index}"));
            pool.threads.push(thread.spawn(move || work(&jobs))?);
        }
        Ok(pool)
    }

    /// Puts a job in the queue. Never waits.
    ///
    /// # Errors
    /// The queue is full: the job comes back.
    pub fn submit(&self, job: Job<A>) -> Result<(), Job<A>> {
        match &self.queue {
            Some(queue) => queue.try_send(job).map_err(TrySendError::into_inner),
            None => Err(job),
        }
    }
}

impl<A> Drop for Pool<A> {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported by the panic hook; there is nothing left to undo here.
            let _ = thread.join();
        }
    }
}

fn work<A: Answer>(jobs: &Receiver<Job<A>>) {
    let mut memory = Vec::new();
    for job in jobs {
        let verdict = match job.expires > Instant::now() {
            false => Verdict::Expired,
            // Compared even if it is hopeless: a wrong name shall take as long as a wrong password.
            true if job.entry.verify(&job.password, &mut memory) && !job.hopeless => Verdict::Right,
            true => Verdict::Wrong,
        };
        job.answer.answer(verdict);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::passwd::tests::{cheap, table};

    const PATIENCE: Duration = Duration::from_secs(20);

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
        let pool = Pool::start(2, 10).unwrap();
        let (said, verdict) = mpsc::channel();
        for (password, hopeless, expected) in [
            ("secret", false, Verdict::Right),
            ("Secret", false, Verdict::Wrong),
            ("", false, Verdict::Wrong),
            ("secret", true, Verdict::Wrong),
        ] {
            pool.submit(Job { hopeless, ..job(ann, password, said.clone()) }).unwrap();
            assert_eq!(verdict.recv_timeout(PATIENCE), Ok(expected), "{password} {hopeless}");
        }
        pool.submit(Job { expires: Instant::now(), ..job(ann, "secret", said.clone()) }).unwrap();
        assert_eq!(verdict.recv_timeout(PATIENCE), Ok(Verdict::Expired));
    }

    #[test]
    fn a_full_queue_gives_the_job_back_and_the_end_waits_for_the_rest() {
        let table = table(&format!("ann:{}", cheap("secret"))).unwrap();
        let ann = table.find("ann").unwrap();
        let pool = Pool::start(1, 2).unwrap();
        let (said, verdict) = mpsc::channel();
        let ((held, is_held), (release, released)) = (mpsc::channel(), mpsc::channel());
        assert!(pool.submit(job(ann, "", Either::Hold(Hold { held, release: released }))).is_ok());
        is_held.recv_timeout(PATIENCE).unwrap();
        let waiting = || job(ann, "secret", Either::Say(said.clone()));
        assert!(pool.submit(waiting()).is_ok());
        assert!(pool.submit(waiting()).is_ok());
        assert!(pool.submit(waiting()).is_err());
        release.send(()).unwrap();
        drop(pool);
        assert_eq!(verdict.try_iter().collect::<Vec<_>>(), [Verdict::Right, Verdict::Right]);
    }
}

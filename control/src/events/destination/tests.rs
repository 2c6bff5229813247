//! Destinations with sinks that hang, refuse and come back, under a clock that stands still.

use super::*;
use crate::clock::UnixSecs;
use crate::record::events::Target;
use ebbgate_model::{AccountId, EventDestinationId, Ksuid};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

struct Still;

impl Clock for Still {
    fn unix_secs(&self) -> UnixSecs {
        1_767_225_600
    }
}

/// Always in the middle, so that pauses have no jitter to speak of.
struct Middle;

impl Entropy for Middle {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(127);
    }
}

/// What a receiver does with the next batches; then it takes everything.
#[derive(Default)]
struct Receiver {
    answers: Mutex<std::collections::VecDeque<Answer>>,
    taken: Mutex<Vec<(Instant, Vec<Bytes>)>>,
    told: Notify,
}

enum Answer {
    Take,
    Refuse(Option<u64>),
    TooLarge,
    Hang,
    /// Takes the batch and says that it refused this many of its events for good.
    TakeBut(u64),
}

struct To(Arc<Receiver>);

impl Sink for To {
    fn send<'a>(&'a mut self, batch: &'a [Bytes], _: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        async move {
            let answer = self.0.answers.lock().unwrap().pop_front();
            match answer {
                Some(Answer::Refuse(secs)) => {
                    Err(SinkError::Failed { reason: "full".into(), wait: secs.map(Duration::from_secs) })
                }
                Some(Answer::TooLarge) => Err(SinkError::TooLarge("413".into())),
                Some(Answer::Hang) => std::future::pending().await,
                Some(Answer::Take | Answer::TakeBut(_)) | None => {
                    self.0.taken.lock().unwrap().push((Instant::now(), batch.to_vec()));
                    self.0.told.notify_one();
                    Ok(if let Some(Answer::TakeBut(refused)) = answer { refused } else { 0 })
                }
            }
        }
        .boxed()
    }
}

struct Lab {
    receiver: Arc<Receiver>,
    means: Means,
    spool: SharedSpool,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

fn record() -> EventDestination {
    let ksuid = Ksuid::new(1_700_000_000, [1; 16]);
    EventDestination {
        id: EventDestinationId::new(ksuid),
        account: AccountId::new(ksuid),
        description: String::new(),
        metadata: String::new(),
        target: Target::File { directory: "x".into(), rotate_mib: 1, keep: 1 },
        secrets: None,
        created_at: 0,
    }
}

fn event(n: usize) -> Bytes {
    Bytes::from(format!("event {n}"))
}

impl Lab {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let means = Means {
            clock: Arc::new(Still),
            entropy: Arc::new(Middle),
            stats: AllStats::default(),
            around: Surroundings::default(),
        };
        let receiver =
            Arc::new(Receiver { answers: Mutex::new(answers.into_iter().collect()), ..Receiver::default() });
        let spool = Arc::new(Mutex::new(Spool::open(dir.path(), 1 << 20).unwrap()));
        let mut lab = Self { receiver, means, spool, running: None, dir };
        lab.start();
        lab
    }

    fn start(&mut self) {
        let receiver = self.receiver.clone();
        let open: OpenSink = Arc::new(move || Ok(Box::new(To(receiver.clone()))));
        self.running = Some(Running::with(record(), open, self.spool.clone(), self.means.clone()));
    }

    async fn push(&self, events: impl IntoIterator<Item = usize>) {
        for n in events {
            self.running.as_ref().unwrap().push(event(n), true).unwrap().await.unwrap();
        }
    }

    /// Waits until so many events were taken.
    async fn taken(&self, count: usize) -> Vec<Bytes> {
        loop {
            let taken: Vec<_> =
                self.receiver.taken.lock().unwrap().iter().flat_map(|(_, batch)| batch.clone()).collect();
            if taken.len() >= count {
                return taken;
            }
            self.receiver.told.notified().await;
        }
    }

    fn stats(&self) -> Stats {
        self.means.stats.all().remove(&record().id).unwrap().1
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_delivered_in_order_and_counted() {
    let lab = Lab::new([]);
    lab.push(0..5).await;
    assert_eq!(lab.taken(5).await, (0..5).map(event).collect::<Vec<_>>());
    while lab.stats().delivered < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.stats().waiting, lab.stats().waiting_since, lab.stats().dropped), (0, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_refuses_is_asked_again_later_and_later_and_as_it_says() {
    let answers =
        [Answer::Refuse(None), Answer::Refuse(None), Answer::Refuse(Some(600)), Answer::Refuse(None)];
    let lab = Lab::new(answers);
    let start = Instant::now();
    lab.push([0]).await;
    lab.taken(1).await;
    // 1 and 2 seconds, 600 as it asked instead of 4, then 8.
    let waited = start.elapsed().as_secs();
    assert!((609..=613).contains(&waited), "{waited}");
    let stats = lab.stats();
    assert_eq!(stats.retried, 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_receiver_refuses_for_good_is_dropped_and_no_more_than_was_sent() {
    let lab = Lab::new([Answer::TakeBut(u64::MAX), Answer::TakeBut(1)]);
    lab.push([0]).await;
    while lab.stats().dropped < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.stats().dropped, lab.stats().delivered), (1, 0));
    lab.push([1]).await;
    // With the event that tells of the lost one.
    lab.taken(3).await;
    while lab.stats().delivered < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.stats().dropped, lab.stats().delivered), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_costs_only_time() {
    let lab = Lab::new([Answer::Hang]);
    lab.push([0]).await;
    lab.push([1]).await;
    assert_eq!(lab.taken(2).await, [event(0), event(1)]);
    assert_eq!(lab.stats().retried, 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_and_an_event_that_is_too_large_alone_is_dropped() {
    let mut lab = Lab::new([]);
    lab.running = None;
    lab.spool.lock().unwrap().append(&[event(0), event(1), event(2), event(3)]).unwrap();
    // The first goes alone; three are too many at once, and the next one is too large alone.
    lab.receiver.answers.lock().unwrap().extend([Answer::Take, Answer::TooLarge, Answer::TooLarge]);
    lab.start();
    assert_eq!(lab.taken(3).await, [event(0), event(2), event(3)]);
    assert_eq!(lab.stats().dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_survives_a_change_of_the_destination_and_a_restart() {
    let mut lab = Lab::new([Answer::Hang]);
    lab.push(0..3).await;
    // The record changed: other tasks, the same spool.
    lab.running = None;
    lab.receiver.answers.lock().unwrap().push_back(Answer::Hang);
    lab.start();
    lab.push([3]).await;
    lab.running = None;
    lab.spool = Arc::new(Mutex::new(Spool::open(lab.dir.path(), 1 << 20).unwrap()));
    lab.receiver.answers.lock().unwrap().clear();
    lab.start();
    assert_eq!(lab.taken(4).await, (0..4).map(event).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_told_with_its_number() {
    let lab = Lab::new([Answer::Hang]);
    let big = |n: usize| Bytes::from(format!("{n:->50000}"));
    for n in 0..60 {
        lab.running.as_ref().unwrap().push(big(n), true).unwrap().await.unwrap();
    }
    let dropped = lab.stats().dropped;
    assert!(dropped > 0);
    let taken = lab.taken(10).await;
    let told: u64 = taken
        .iter()
        .filter_map(|event| serde_json::from_slice::<serde_json::Value>(event).ok())
        .filter_map(|event| event["object"]["events_lost"].as_u64())
        .sum();
    assert!(told > 0, "an event says how many were lost");
    lab.taken(15).await;
}

#[test]
fn pauses_double_up_to_a_limit_with_jitter() {
    let check = |failures, random, low: u64, high: u64| {
        let pause = backoff(failures, random).as_millis();
        assert!((u128::from(low)..=u128::from(high)).contains(&pause), "{failures} {random}: {pause}");
    };
    check(1, 0, 750, 750);
    check(1, 255, 1250, 1250);
    check(4, 127, 7900, 8100);
    check(1000, 255, 375_000, 375_000);
}

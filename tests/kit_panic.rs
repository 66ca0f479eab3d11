//! A panic that cannot be attributed fails every test that runs. Alone in its file, because here
//! such a panic is meant, and in a process with other tests it would fail them.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod support;

use std::time::Duration;

use support::harness::{Failure, Patience, try_system_test};

#[test]
fn a_panic_on_a_thread_of_nobody_fails_all_tests_that_run() {
    let patience = Patience {
        deadline: Duration::from_secs(30),
        grace: Duration::from_secs(5),
        last_word: Duration::from_secs(5),
    };
    let waits = |test: support::Test| async move {
        test.wait_for("the end that a panic makes", std::future::pending::<()>()).await;
    };
    let beside = std::thread::spawn(move || try_system_test(patience, 1, waits));
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let second = std::thread::spawn(move || {
        try_system_test(patience, 2, move |test| async move {
            tell.send(()).unwrap();
            waits(test).await;
        })
    });
    told.recv().unwrap();
    // The first may enter later than this panic comes, so there is one until it has failed.
    while !beside.is_finished() || !second.is_finished() {
        let _ = std::thread::Builder::new().name("pool".into()).spawn(|| panic!("of nobody")).unwrap().join();
    }
    for test in [beside, second] {
        let result = test.join().unwrap();
        let Err(Failure::Panicked(panics)) = result else { panic!("{result:?}") };
        assert!(panics[0].contains("of nobody") && panics[0].contains("may be another test's"), "{panics:?}");
    }
}

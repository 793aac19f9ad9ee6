"""What breaks in a group of processes, what happens then, and the tests that make it happen: rows of the table in ``docs/reliability.md``."""

FAILURES = "tests/processes/test_failures.py::"
TORCHRUN = "tests/processes/test_torchrun.py::"
GROUP = "tests/processes/test_group.py::"

#: (number, fault, what happens, tests).
ROWS = (
    (
        46,
        "an exception in one of several processes, Ctrl-C and `sys.exit` among them",
        "`RankFailedError` in all others, with its words and traceback; torchrun ends with 1",
        (
            TORCHRUN + "test_an_exception_is_told_to_all_before_torchrun_ends_them",
            FAILURES + "test_an_exception_is_raised_in_all_with_its_own_words_and_traceback",
            FAILURES + "test_who_is_interrupted_or_leaves_has_failed",
            FAILURES + "test_after_a_failure_the_group_is_of_no_use",
        ),
    ),
    (
        47,
        "SIGKILL of one of several processes, of rank 0 too",
        "`RankFailedError` in all others, or torchrun is first and ends them; it names the process",
        (
            FAILURES + "test_a_process_that_is_killed_is_named",
            TORCHRUN + "test_who_is_killed_is_named",
            FAILURES + "test_where_no_process_sees_another_the_one_that_does_not_answer_is_named",
        ),
    ),
    (
        48,
        "SIGKILL of torchrun's agent",
        "its processes end with `RankFailedError` when they next exchange numbers",
        (TORCHRUN + "test_the_processes_end_when_the_agent_is_killed",),
    ),
    (
        49,
        "one of several processes sleeps for ever",
        "after an hour, or what you say, the others name it and the exchange it was last heard at; torchrun ends it",
        (
            FAILURES + "test_a_process_that_does_not_come_is_named_with_the_exchange_it_was_last_heard_at",
            TORCHRUN + "test_who_sleeps_is_named_and_ended",
        ),
    ),
    (
        50,
        "processes that should compute the same do not",
        "`ProcessesDivergedError` in all names those that differ",
        (GROUP + "test_processes_that_differ_are_named",),
    ),
    (
        51,
        "torchrun starts the processes again",
        "they meet as if they had never met",
        (TORCHRUN + "test_started_again_they_meet_again",),
    ),
    (
        52,
        "a signal while a process waits for others",
        "it is served within a second",
        (GROUP + "test_signals_are_served_while_a_process_waits",),
    ),
)

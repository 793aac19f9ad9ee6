"""What breaks in environments and numbers, what happens then, and the test that makes it happen: rows of the table in ``docs/reliability.md``."""

from typing import NamedTuple


class FaultRow(NamedTuple):
    """One row.

    :param number: of the fault.
    :param fault: what breaks.
    :param happens: what is seen of it.
    :param test: file and function that inject it.
    """

    number: int
    fault: str
    happens: str
    test: str


FAULTS = "tests/envs/test_supervised_faults.py::"
ORPHANS = "tests/envs/test_supervised_orphans.py::"
LEARNING = "tests/envs/test_supervised_learning.py::"
NONFINITE = "tests/engine/test_guard.py::"
CONTRACT = "tests/algorithms/test_contract.py::"

ROWS = (
    FaultRow(
        1,
        "an environment in this process raises",
        "the same error, with a note: environment, step and last action",
        NONFINITE + "test_an_error_in_this_process_stays_and_says_where_it_was_raised",
    ),
    FaultRow(
        2,
        "an environment in a process of its own raises",
        "EnvWorkerError with its index and its own traceback",
        FAULTS + "test_an_environment_that_raises_is_named_with_its_own_traceback",
    ),
    FaultRow(
        3,
        "its process exits",
        "EnvWorkerError with its index and the exit code",
        FAULTS + "test_an_environment_that_exits_is_named_with_its_code",
    ),
    FaultRow(
        4,
        "its process is killed (out of memory)",
        "EnvWorkerError with its index and the signal, and what SIGKILL may mean",
        FAULTS + "test_an_environment_killed_by_the_system_is_named_with_the_signal_and_a_hint",
    ),
    FaultRow(
        5,
        "it hangs in a step or a reset",
        "EnvWorkerTimeoutError with its index and the seconds; it is killed, with the programs it started",
        FAULTS + "test_an_environment_that_hangs_is_named_and_killed",
    ),
    FaultRow(
        6,
        "it fails in its constructor or reset",
        "EnvWorkerError with index and traceback; no process is left",
        FAULTS + "test_a_constructor_that_fails_is_named_and_leaves_no_process",
    ),
    FaultRow(
        7,
        "close() after a fault, or of environments that fail or hang in it",
        "returns within close_timeout, raises nothing, may be called again",
        FAULTS + "test_close_after_a_fault_returns_and_may_be_called_again",
    ),
    FaultRow(
        8,
        'one crash with restart="worker"',
        "training goes on; the episode ends as truncated, its last observation is bootstrapped; counted in the logs",
        FAULTS + "test_training_survives_a_crash_and_bootstraps_from_the_last_observation",
    ),
    FaultRow(
        9,
        'a crash loop with restart="worker"',
        "EnvWorkerError after max_restarts within restart_window, with a summary",
        FAULTS + "test_a_crash_loop_ends_with_a_summary",
    ),
    FaultRow(
        10,
        "5 crashes in 10,000 steps for a whole training",
        "CartPole still reaches 475",
        LEARNING + "test_cartpole_is_solved_with_five_crashes_in_ten_thousand_steps",
    ),
    FaultRow(
        11,
        "a NaN in an observation",
        "NonFiniteError: environment, step, key; statistics and rollout untouched",
        NONFINITE + "test_a_bad_entry_of_a_dict_is_named_by_its_key",
    ),
    FaultRow(
        12,
        "an infinite number in an observation, or one too large for float32",
        "the same",
        NONFINITE + "test_a_number_too_large_for_float32_counts_as_infinite",
    ),
    FaultRow(
        13,
        "a NaN reward",
        "NonFiniteError before rollout or VecNormalize have seen it",
        NONFINITE + "test_a_bad_step_touches_neither_statistics_nor_rollout",
    ),
    FaultRow(
        14,
        "an infinite reward under VecNormalize",
        "the same; its statistics stay finite",
        CONTRACT + "test_a_non_finite_step_names_environment_and_step_and_touches_nothing",
    ),
    FaultRow(
        15,
        "a reward that is None or text",
        "TypeError that names the environment",
        NONFINITE + "test_a_reward_that_is_no_number_is_a_type_error_that_names_the_environment",
    ),
    FaultRow(
        16,
        "an observation of the wrong shape",
        "ValueError with both shapes and the environment",
        FAULTS + "test_an_observation_of_the_wrong_shape_is_named_with_both_shapes",
    ),
    FaultRow(
        17,
        "observations far outside their space",
        "one warning with their share (an error, if a warnings filter says so)",
        NONFINITE + "test_observations_far_outside_their_space_are_told_once_with_their_share",
    ),
    FaultRow(
        18,
        "NaN in a loss, a gradient or a weight",
        "NonFiniteError that names it and the last checkpoint; weights and optimiser are as before the update",
        NONFINITE + "test_a_bad_loss_or_gradient_is_named_and_reaches_no_weight",
    ),
    FaultRow(
        18,
        'the same with on_nonfinite="skip_update"',
        "the step is left out, and counted in the logs",
        NONFINITE + "test_a_skipped_step_is_counted_and_touches_nothing",
    ),
    FaultRow(
        19,
        "a schedule that returns an infinite learning rate",
        "ValueError at the update, with the progress",
        CONTRACT + "test_a_schedule_that_turns_bad_stops_before_the_weights",
    ),
    FaultRow(
        28,
        "the parent is killed with SIGKILL, under fork, forkserver and spawn",
        "no process is left after 5 seconds",
        ORPHANS + "test_no_process_is_left_when_the_parent_is_killed",
    ),
    FaultRow(
        43,
        "the clock jumps",
        "time limits and restart_window are measured by a clock that nobody sets",
        FAULTS + "test_time_is_measured_by_a_clock_that_nobody_sets",
    ),
)

"""What can go wrong, what happens then, and the test that does it for real. The table in ``docs/reliability.md`` is made of this.

A row is (number, fault, what happens, tests). Numbers are those of the fault matrix the project began with; a number may stand in several rows.
"""

from typing import NamedTuple

from tests.envs import fault_rows
from tests.processes import fault_rows as process_rows


class Row(NamedTuple):
    number: int
    fault: str
    happens: str
    tests: tuple[str, ...]


FAULTS = "tests/persistence/test_faults.py::"
SAFE = "tests/persistence/test_safe.py::"
RESUME = "tests/persistence/test_resume.py::"
ENVIRONMENTS = "tests/persistence/test_environments.py::"
SIGNALS = "tests/persistence/test_signals.py::"

ROWS = [
    Row(
        21,
        "an attribute that cannot be pickled",
        "error names the attribute, the old file is intact",
        (FAULTS + "test_row_21_an_attribute_that_cannot_be_pickled_leaves_the_old_file",),
    ),
    Row(
        22,
        "disk full while saving",
        "the old file is intact, no temporary one is left; training goes on with a warning",
        (
            FAULTS + "test_row_22_a_full_disk_leaves_the_old_model_file",
            FAULTS + "test_row_22_a_full_disk_leaves_the_old_checkpoint",
            FAULTS + "test_row_22_training_goes_on_with_a_warning_and_the_last_checkpoint",
        ),
    ),
    Row(
        23,
        "SIGKILL while training or saving",
        "every file is whole; resumed, the run ends as if it had not been killed",
        (
            FAULTS + "test_row_23_sixty_kills_over_training_and_saving",
            FAULTS + "test_row_23_what_a_killed_process_left_behind_is_removed",
        ),
    ),
    Row(
        24,
        "a checkpoint cut, flipped, emptied or with a file missing",
        "it is skipped for the one before, with a warning; `CheckpointCorruptError` if none is whole",
        (
            FAULTS + "test_row_24_a_damaged_checkpoint_is_skipped_for_the_one_before",
            FAULTS + "test_row_24_two_hundred_flipped_bits_are_all_noticed",
            SAFE + "test_row_24_half_a_model_file_is_refused",
        ),
    ),
    Row(
        25,
        "a model file with code, a zip bomb or foreign paths in it",
        "`load_safe` runs none of it and refuses the file with the reason",
        (
            SAFE + "test_row_25_a_pickle_anywhere_in_data_is_never_run",
            SAFE + "test_row_25_a_pickle_in_the_weights_is_never_run",
            SAFE + "test_row_25_a_strange_file_is_refused",
            SAFE + "test_row_25_a_zip_bomb_is_refused_before_it_is_unpacked",
        ),
    ),
    Row(
        26,
        "SIGINT at any moment",
        "finishes the step, saves, exits with 130; resumes exactly",
        (
            FAULTS + "test_rows_26_and_27_a_signal_at_a_random_moment",
            SIGNALS + "test_a_stopped_model_goes_on_as_if_it_had_not_been_stopped",
        ),
    ),
    Row(
        27,
        "SIGTERM at any moment",
        "the same, with 143",
        (FAULTS + "test_rows_26_and_27_a_signal_at_a_random_moment",),
    ),
    Row(
        29,
        "cut at any step and resumed, also twice",
        "equal to the straight run, bit for bit",
        (
            RESUME + "test_a_run_cut_at_a_random_step_equals_the_straight_run",
            FAULTS + "test_row_29_resumed_twice_at_ten_random_pairs_of_steps",
            FAULTS + "test_row_29_a_compiled_run_equals_the_straight_run",
        ),
    ),
    Row(
        29,
        "environments that cannot say what they remember",
        "new episodes begin, and the resume report names the reason",
        (ENVIRONMENTS + "test_where_environments_cannot_be_held_new_episodes_begin_and_the_report_says_so",),
    ),
    Row(
        30,
        "resumed with other environments, spaces or arguments",
        "refused, naming the field",
        (
            ENVIRONMENTS + "test_other_environments_are_refused",
            ENVIRONMENTS + "test_other_arguments_are_refused",
        ),
    ),
    Row(
        31,
        "a worse model after a resume",
        "the best one is kept: the best score is part of the checkpoint",
        (FAULTS + "test_row_31_a_better_model_is_not_overwritten_after_a_resume",),
    ),
    Row(
        32,
        "a callback raises",
        "its error is kept, and the last checkpoint resumes exactly",
        (FAULTS + "test_row_32_a_callback_that_raises_leaves_its_error_and_the_last_checkpoint",),
    ),
    Row(
        33,
        "a log sink fails",
        "one warning, then without it",
        (FAULTS + "test_row_33_a_sink_that_fails_is_left_out_after_one_warning",),
    ),
    Row(
        43,
        "the clock jumps backwards",
        "nothing: checkpoints are numbered, not dated",
        (FAULTS + "test_row_43_a_clock_that_jumps_backwards_changes_nothing",),
    ),
    Row(
        44,
        "two runs with one folder",
        "the second is refused before it starts",
        (
            FAULTS + "test_row_44_two_processes_do_not_write_to_one_folder",
            FAULTS + "test_row_44_another_run_does_not_replace_the_checkpoints_of_the_last",
        ),
    ),
    Row(
        45,
        "a checkpoint of another release",
        "an older one loads (one of each is kept); a later one is said to be later",
        (
            FAULTS + "test_row_45_checkpoints_of_every_release_load_and_predict_the_same",
            FAULTS + "test_row_45_a_checkpoint_of_a_later_release_is_said_to_be_one",
        ),
    ),
]

#: Those of environments, numbers and groups of processes are kept beside their own tests.
ROWS += [Row(row.number, row.fault, row.happens, (row.test,)) for row in fault_rows.ROWS]
ROWS += [Row(*row) for row in process_rows.ROWS]


def markdown_table():
    """The table in ``docs/reliability.md``."""
    lines = ["| fault | what happens | test |", "|---|---|---|"]
    for row in sorted(ROWS, key=lambda row: row.number):
        first, *others = row.tests
        more = f" and {len(others)} more" if others else ""
        lines.append(f"| {row.fault} | {row.happens} | `{first.partition('::')[2]}`{more} |")
    return "\n".join(lines)

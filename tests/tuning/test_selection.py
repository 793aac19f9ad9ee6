"""What a run is worth, who goes on, who wins, and that no seed is used for two things."""

import json
import math

import numpy as np
import optuna
import pytest

from tuning.selection import (
    Candidate,
    Protocol,
    choose,
    finalist_round,
    finalists,
    optimism,
    pick_finalists,
    run_score,
    search,
    select,
    should_prune,
)
from tuning.selection import (
    test as run_test,
)
from tuning.selection.trials import candidates, choose_winner

FOUR = Protocol(marks=(0.25, 0.5, 0.75, 1.0), n_startup=3)


def constant(configuration, seed, fraction):
    return float(configuration)


def test_a_runs_score_is_the_mean_of_its_last_three_evaluations():
    assert run_score([100, 1, 2, 6], Protocol()) == 3
    assert run_score([4, 6], Protocol()) == 5
    assert run_score([100, 1, 2, 6], Protocol(n_averaged=1)) == 6
    with pytest.raises(ValueError, match="evaluations must hold at least 1 score"):
        run_score([], Protocol())
    with pytest.raises(ValueError, match="evaluations must be finite"):
        run_score([1.0, math.nan], Protocol())


def test_nobody_is_pruned_before_30_percent_nor_among_too_few_nor_at_the_end():
    others = [[9.0] * 4] * 3
    assert not should_prune([0.0], others, FOUR)
    assert should_prune([0.0, 0.0], others, FOUR)
    assert not should_prune([0.0, 0.0], others[:2], FOUR)
    assert not should_prune([0.0] * 4, others, FOUR)


def test_the_bar_is_the_median_of_those_that_got_as_far():
    others = [[1.0] * 2, [2.0] * 2, [3.0] * 3, [4.0] * 3, [5.0] * 3]
    assert not should_prune([3.0] * 2, others, FOUR)  # equals the median of five
    assert should_prune([3.0] * 3, others, FOUR)  # the two that stopped do not count any more


def test_pruning_looks_at_the_mean_of_the_last_three_like_the_score_does():
    protocol = Protocol(marks=(0.2, 0.4, 0.6, 0.8, 1.0), n_startup=1)
    assert should_prune([-9.0, 9.0, 1.0, -1.0], [[3.1] * 4], protocol)
    assert not should_prune([-9.0, 9.0, 1.0, -1.0], [[3.0] * 4], protocol)
    assert not should_prune([-9.0, 9.0, 1.0, -1.0], [[100.0, 3.0, 3.0, 3.0]], protocol)


def test_finalists_are_the_best_ones_and_ties_keep_their_order():
    assert pick_finalists({"a": 1.0, "b": 3.0, "c": 3.0, "d": 2.0}, Protocol(n_finalists=3)) == ["b", "c", "d"]


def test_seeds_go_where_the_decision_is_open():
    protocol, candidates = Protocol(), [Candidate(key, search_score=float(-key)) for key in range(5)]
    rounds = []
    while due := finalist_round(candidates, protocol):
        rounds.append(due)
        keys = dict(due)
        candidates = [
            Candidate(
                c.key, c.search_score, (*c.finalist_scores, float(-c.key)) if c.key in keys else c.finalist_scores
            )
            for c in candidates
        ]
    assert [len(due) for due in rounds] == [5, 4, 3, 2]
    assert [seed for due in rounds for _, seed in due] == [1] * 5 + [2] * 4 + [3] * 3 + [4] * 2
    assert {key for key, _ in rounds[-1]} == {0, 1}
    assert sum(map(len, rounds)) == protocol.finalist_runs == 14


def test_a_finalist_that_is_still_running_is_due_but_the_next_seed_is_not():
    candidates = [Candidate(0, 1.0, (1.0,)), Candidate(1, 0.0)]
    assert finalist_round(candidates, Protocol(n_finalists=2)) == [(1, 1)]


def test_the_tuning_score_is_told_from_fresh_seeds_alone():
    choice = choose([Candidate("lucky", 90.0, (10.0, 12.0)), Candidate("poor", 5.0, (6.0, 6.0))], Protocol())
    assert (choice.key, choice.score, choice.n_seeds) == ("lucky", 11.0, 2)
    assert choice.standard_error == pytest.approx(1.0)
    assert choose([Candidate("only", 7.0)], Protocol()).score == 7.0
    with pytest.raises(ValueError, match="candidates must hold"):
        choose([], Protocol())


def test_of_two_equals_the_steadier_one_wins_and_then_who_learned_sooner():
    steady, wild = Candidate("steady", 10.0, (10.0, 10.0)), Candidate("wild", 10.0, (0.0, 20.5))
    assert choose([wild, steady], Protocol()).key == "steady"
    assert choose([wild, steady], Protocol(caution=0.0)).key == "wild"
    late, early = Candidate("late", 10.0, (10.0,), area=3.0), Candidate("early", 10.0, (10.0,), area=8.0)
    assert choose([late, early], Protocol()).key == "early"


def test_who_ran_on_fewer_seeds_was_out_already():
    assert choose([Candidate("out", 99.0, (99.0,)), Candidate("in", 1.0, (1.0, 1.0))], Protocol()).key == "in"


def test_optimism_is_tuning_score_minus_test_score():
    assert optimism(10.0, [4.0, 8.0]) == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(search_seeds=(3,), finalist_seeds=(), test_seeds=(3, 4)), r"^test seeds \[3\] also used for tuning$"),
        (dict(finalist_seeds=(1, 100)), r"^test seeds \[100\] also used for tuning$"),
        (dict(finalist_seeds=(0, 1)), r"^finalist seeds \[0\] also used for the search$"),
        (dict(test_seeds=(5, 5)), r"^test_seeds must hold each seed once, got \[5, 5\]"),
        (dict(search_seeds=()), "^search_seeds must hold at least 1 seed"),
        (dict(search_seeds=(-1,)), r"^search_seeds must be ints in \[0, 2\*\*32-1\], got -1"),
        (dict(search_seeds=(True,)), "^search_seeds must be ints"),
        (dict(n_finalists=0), "^n_finalists must be an int >= 1, got 0"),
        (dict(n_averaged=1.5), "^n_averaged must be an int >= 1, got 1.5"),
        (dict(n_startup=0), "^n_startup must be an int >= 1, got 0"),
        (dict(marks=(0.5, 0.5, 1.0)), "^marks must rise"),
        (dict(marks=(0.5, 0.9)), "^marks must rise within .* end at 1"),
        (dict(marks=()), "^marks must rise"),
        (dict(marks=(0.0, 1.0)), "^marks must rise"),
        (dict(prune_from=0.1), r"^prune_from must be in \[0.3, 1\], got 0.1"),
        (dict(caution=-1.0), "^caution must be >= 0"),
    ],
)
def test_a_protocol_that_cheats_or_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**changes)


def test_a_protocol_is_json_and_comes_back():
    protocol = Protocol(search_seeds=(7,), n_finalists=3)
    assert Protocol.from_fingerprint(json.loads(json.dumps(protocol.fingerprint()))) == protocol


def test_flaw_15_the_last_evaluation_is_at_the_very_end_whatever_the_rollout_length():
    assert Protocol().marks_in_steps(60_001)[-1] == 60_001
    assert Protocol().marks_in_steps(1000) == (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
    with pytest.raises(ValueError, match="total_timesteps must be >= 10"):
        Protocol().marks_in_steps(9)


def test_a_small_budget_gets_a_smaller_protocol():
    assert Protocol().fitted(64) == Protocol()
    small = Protocol().fitted(12)
    assert 0 < small.finalist_runs <= 0.3 * 12
    assert Protocol().fitted(2).finalist_seeds == ()
    assert Protocol().fitted(2).finalist_runs == 0


def test_a_search_stays_within_its_budget_and_prunes():
    rng = np.random.default_rng(0)
    runs = search(range(200), constant, 20.0, Protocol(), rng)
    assert 19 - 1e-6 < sum(run.used for run in runs) <= 20 + 1e-6
    assert len(runs) > 24
    pruned = [run for run in runs if run.outcome == "pruned"]
    assert pruned
    assert min(run.used for run in pruned) >= 0.3


def test_each_configuration_is_tried_at_most_once():
    runs = search(range(5), constant, 100.0, Protocol(), np.random.default_rng(0))
    assert sorted(run.index for run in runs) == [0, 1, 2, 3, 4]


def test_the_best_is_found_where_there_is_no_noise_and_its_score_is_true():
    selected = select(range(40), constant, 60.0, Protocol(), np.random.default_rng(1))
    assert (selected.index, selected.score) == (39, 39.0)


def test_the_same_generator_gives_the_same_study():
    noise = np.random.default_rng(3).normal(size=(50, 5))

    def noisy(index, seed, fraction):
        return float(noise[index, seed])

    results = [select(range(50), noisy, 40.0, Protocol(), np.random.default_rng(9)) for _ in range(2)]
    assert results[0] == results[1]


def test_flaw_2_each_stage_asks_for_its_own_seeds_only():
    asked = {"search": set(), "finalists": set(), "test": set()}
    protocol = Protocol(search_seeds=(5,), finalist_seeds=(6, 7), test_seeds=(8, 9))

    def asking(stage):
        def evaluator(configuration, seed, fraction):
            asked[stage].add(seed)
            return float(configuration)

        return evaluator

    runs = search(range(9), asking("search"), 9.0, protocol, np.random.default_rng(0))
    candidates = finalists(range(9), runs, asking("finalists"), protocol)
    scores = run_test(choose(candidates, protocol).key, asking("test"), protocol)
    assert asked == {"search": {5}, "finalists": {6, 7}, "test": {8, 9}}
    assert scores == (8.0, 8.0)


def test_a_diverged_run_is_paid_for_but_never_a_finalist():
    def evaluator(configuration, seed, fraction):
        return math.inf if configuration == 9 else float(configuration)

    selected = select(range(10), evaluator, 40.0, Protocol(), np.random.default_rng(0))
    assert selected.index == 8
    runs = search(range(10), evaluator, 40.0, Protocol(), np.random.default_rng(0))
    assert next(run for run in runs if run.index == 9).outcome == "diverged"
    with pytest.raises(ValueError, match="configurations must give at least 1 finite run"):
        select(range(40), lambda *_: math.nan, 40.0, Protocol(), np.random.default_rng(0))


def test_a_finalist_that_diverges_on_a_fresh_seed_gets_the_floor():
    def evaluator(configuration, seed, fraction):
        return math.nan if configuration == 9 and seed == 1 else float(configuration)

    protocol = Protocol(finalist_seeds=(1,))
    runs = search(range(10), evaluator, 10.0, protocol, np.random.default_rng(0))
    candidates = {candidate.key: candidate for candidate in finalists(range(10), runs, evaluator, protocol)}
    assert candidates[9].finalist_scores == (0.0,)
    assert choose(list(candidates.values()), protocol).key == 8


def test_a_budget_that_pays_for_no_search_is_refused():
    with pytest.raises(ValueError, match=r"budget must be >= 19 full runs for 5 finalists on 4 seeds, got 10"):
        select(range(40), constant, 10, Protocol(), np.random.default_rng(0))


def test_what_a_later_seed_shows_does_not_call_back_who_was_out():
    protocol = Protocol(n_finalists=3, finalist_seeds=(1, 2))
    sank, second, out = (
        Candidate("sank", 9.0, (9.0, -99.0)),
        Candidate("second", 8.0, (8.0, 8.0)),
        Candidate("out", 7.0, (7.0,)),
    )
    assert finalist_round([sank, second, out], protocol) == []
    assert choose([sank, second, out], protocol).key == "second"


def test_a_run_that_diverges_late_is_no_finalist_however_good_it_was():
    def evaluator(configuration, seed, fraction):
        return math.nan if configuration == 9 and fraction > 0.5 else float(configuration)

    runs = search(range(10), evaluator, 40.0, Protocol(), np.random.default_rng(0))
    assert 9 not in {candidate.key for candidate in finalists(range(10), runs, evaluator, Protocol())}


def test_a_finalists_seed_after_a_missing_one_does_not_count_yet():
    """Of two workers the second may be faster: until seed 2 is done, seed 3 would compare unlike finalists."""
    search, finalists = (optuna.create_study(direction="maximize") for _ in range(2))
    search.add_trial(optuna.create_trial(value=5.0, intermediate_values={1: 5.0}))
    for seed, score in ((1, 4.0), (3, 9.0)):
        attributes = {"arm": "trial 0", "seed": seed}
        trial = optuna.create_trial(value=score, intermediate_values={1: score}, user_attrs=attributes)
        finalists.add_trial(trial)
    protocol = Protocol(finalist_seeds=(1, 2, 3), n_finalists=1)
    (candidate,) = candidates(search.trials, finalists.trials, protocol)
    assert candidate == Candidate(0, 5.0, (4.0,), 4.5)
    assert choose_winner(search.trials, finalists.trials, protocol) is None

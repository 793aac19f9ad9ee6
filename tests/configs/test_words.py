"""Words of the command line as plain data."""

import pytest

from sb3_ppo_notes.configs.words import data_from_words


def test_both_ways_of_writing_a_word_give_the_same_data():
    ours = data_from_words("env_kwargs", ["render_mode=rgb_array", "goal=[1, -2.5]", "is_easy=True", "size=none"])
    theirs = data_from_words("env_kwargs", ["render_mode:'rgb_array'", "goal:[1,-2.5]", "is_easy:true", "size:'none'"])
    assert ours == theirs == {"render_mode": "rgb_array", "goal": [1, -2.5], "is_easy": True, "size": "none"}


def test_a_value_may_hold_what_separates_words():
    assert data_from_words("set", ["path=a=b:c", "url:http://x"]) == {"path": "a=b:c", "url": "http://x"}


def test_dots_lead_into_dictionaries_which_may_also_be_written_whole():
    words = ["policy_kwargs.net_arch=[64]", "policy_kwargs.activation_fn=nn.Tanh", "config=dict(lanes=3)"]
    assert data_from_words("set", words) == {
        "policy_kwargs": {"net_arch": [64], "activation_fn": "Tanh"},
        "config": {"lanes": 3},
    }


@pytest.mark.parametrize("word", ["", "=1", "a", "a=", "1a=2", "a-b=1"])
def test_a_word_of_another_form_is_shown(word):
    with pytest.raises(ValueError, match=f"^env_kwargs must be words of the form name=value, got {word!r}$"):
        data_from_words("env_kwargs", [word])


@pytest.mark.parametrize("words", [["a=1", "a:2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"]])
def test_a_name_has_one_value(words):
    with pytest.raises(ValueError, match=f"^env_kwargs must give each name once, .* {words[1]!r}$"):
        data_from_words("env_kwargs", words)


@pytest.mark.parametrize("word", ["a=[1,2", "a={'b': 1", "a='x", "a=dict(__import__('os'))", "a=(1, f())"])
def test_what_begins_as_data_and_is_none_is_no_text(word):
    with pytest.raises(ValueError, match="^(env_kwargs must have values as in YAML, got a=|a must be dict)"):
        data_from_words("env_kwargs", [word])

"""The questions that were asked: forty-six in five study notes, and twenty-four that a careful reader asks next.

Each in one line, in our own words. A note lists the ids that it answers.
"""

#: Of the ids that begin with this figure or letter.
SOURCES = {
    "1": "a Japanese note on skrl's PPO",
    "2": "a Japanese note on batch-ppo",
    "3": "a French note on Spinning Up's PPO",
    "4": "a Korean note on minimalRL's PPO",
    "5": "a Japanese note on A2C",
    "A": "readers of these notes and of public threads on PPO",
}

QUESTIONS = {
    "1.1": "Is this value the value of a state or of an action?",
    "1.2": "Returns are advantages plus values: is that an action's value?",
    "1.3": "What is log_prob, and what is it for?",
    "1.4": "Nobody differentiates the probability by hand: is that right?",
    "1.5": "What does the entropy loss measure?",
    "1.6": "What is a surrogate function?",
    "1.7": "Does the stop on KL mean that no update goes further than that?",
    "1.8": "Does the squared error of the critic belong to PPO?",
    "1.9": "Is the clip of the gradient the clip of PPO?",
    "1.10": "What do several processes exchange in a distributed update?",
    "1.11": "What does the learning-rate scheduler follow?",
    "1.12": "PPO is on-policy: how can it use a sample several times?",
    "1.13": "Would it run on another kind of device?",
    "2.1": "Are the environments really stepped at the same time?",
    "2.2": "In which order are acting, remembering and training called?",
    "2.3": "Why is the configuration an object that cannot be changed?",
    "2.4": "What does a step do that does not block?",
    "2.5": "What are weights counted for?",
    "2.6": "Why are only some rows of the observations replaced?",
    "2.7": "Why is the step counter not reset with the episode?",
    "2.8": "What is the length of a phase, and how often does it report?",
    "2.9": "Why is a branch written as a function in a graph?",
    "2.10": "How does an environment in a process of its own differ from a plain one?",
    "2.11": "Is an episode's duration the number of its steps?",
    "2.12": "What belongs below the headings that were left empty?",
    "3.1": "Why one loss, if actor and critic are two networks?",
    "3.2": "What proves that it converges to an optimum?",
    "3.3": "The clip does not really clip the change: is that so?",
    "4.1": "Why is the minimum needed?",
    "4.2": "Is the objective constant beyond 1+ε, for every sign of the advantage?",
    "4.3": "Was PPO made because a KL is expensive to compute?",
    "4.4": "Is the memory a replay buffer as DQN's?",
    "4.5": "Is the critic's loss an L1 norm?",
    "4.6": "Does the sum of rewards end where the episode is done?",
    "5.1": "What is the difference between π and Q?",
    "5.2": "Does an n-step return end in the largest Q of the next state?",
    "5.3": "What is asynchronous in A2C?",
    "5.4": "Is replay left out because the samples are random anyway?",
    "5.5": "Does the actor have a single output?",
    "5.6": "When is the entropy largest, and why?",
    "5.7": "Is V the sum of the actions' values, and how can it learn from a wrong Q?",
    "5.8": "What is the gain that is maximised?",
    "5.9": "Do actor and critic not learn independently of each other?",
    "5.10": "Does a multinomial draw take the most probable action?",
    "5.11": "What does calling the network return, and which log-probability is gathered?",
    "5.12": "Why are more steps of look-ahead not always better?",
    "A1": "May a log-probability be positive?",
    "A2": "Why the exponential of a difference and not the quotient?",
    "A3": "Why not differentiate through the sample, as a VAE does?",
    "A4": "What do train and eval mode change?",
    "A5": "Why is the log-probability stored and computed again?",
    "A6": "When is the old policy replaced: each epoch or each rollout?",
    "A7": "With a negative advantage, is it a minimum or a maximum?",
    "A8": "Why does some code have a maximum there?",
    "A9": "Is ε an absolute or a relative bound?",
    "A10": "Is clip_fraction the share of samples without a gradient?",
    "A11": "Can a KL be negative?",
    "A12": "Why does the critic go on after the stop on KL?",
    "A13": "Are advantages computed once, or again in every epoch?",
    "A14": "If V learns λ-returns, does it become a value that depends on λ?",
    "A15": "The loss is negative, or does not fall: is something broken?",
    "A16": "Can an entropy be negative?",
    "A17": "Why subtract the mean, if all advantages are positive?",
    "A18": "Does the critic's clip take the minimum or the maximum, and can a clipped value come back?",
    "A19": "What does vf_coef do if nothing is shared?",
    "A20": "Why is the reward divided by a constant?",
    "A21": "Does the entropy term really help out of a local optimum?",
    "A22": "What is the gradient scaler of mixed precision for?",
    "A23": "What is left of the worker processes if the parent is killed?",
    "A24": "What do approx_kl, explained_variance and the others tell?",
}


def asked_in(question: str) -> str:
    """Who asked.

    :param question: its id.
    :return: in words.

    >>> asked_in("5.4")
    'a Japanese note on A2C'
    """
    return SOURCES[question.split(".")[0][0]]

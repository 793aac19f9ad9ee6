"""What people do to a policy, an optimiser or an argument while a model is trained: by name, each a function of the model and of pytest's
``monkeypatch``.
"""

import copy

import torch as th
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.utils import FloatSchedule
from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrizations
from torch.optim import optimizer as torch_optimizer


def halved(function):
    """The function with half of what it gives; the policy's own are left whole where they give more than one tensor."""

    def half(*arguments, **named):
        result = function(*arguments, **named)
        return result * 0.5 if isinstance(result, th.Tensor) else result

    return half


def seeded(build):
    th.manual_seed(3)
    return build()


def net(model):
    return model.policy.mlp_extractor.policy_net


def adam(model, weights=None, **options):
    model.policy.optimizer = th.optim.Adam(weights or model.policy.parameters(), lr=1e-2, **options)


# -- weights -----------------------------------------------------------------------------------------------------------


def freeze_a_network(model, patch):
    net(model).requires_grad_(False)


def freeze_one_bias(model, patch):
    model.policy.value_net.bias.requires_grad = False


def freeze_all_but_the_heads(model, patch):
    model.policy.mlp_extractor.requires_grad_(False)


def unfreeze(model, patch):
    model.policy.requires_grad_(True)


def give_a_weight_other_memory(model, patch):
    net(model)[0].weight.data = net(model)[0].weight.data * 0.5


def load_other_weights(model, patch):
    model.policy.load_state_dict({name: tensor * 0.9 for name, tensor in model.policy.state_dict().items()})


def load_other_parameters(model, patch):
    state = {name: tensor.clone() * 0.9 for name, tensor in model.policy.state_dict().items()}
    model.policy.load_state_dict(state, assign=True)


def change_weights_in_place(model, patch):
    with th.no_grad():
        model.policy.value_net.weight.mul_(0.5)


def there_and_back(model, patch):
    model.policy.double().float()


def tie_two_weights(model, patch):
    model.policy.mlp_extractor.value_net[0].weight = net(model)[0].weight


def share_a_network(model, patch):
    model.policy.mlp_extractor.value_net = net(model)


def replace_a_parameter(model, patch):
    net(model)[0].bias = nn.Parameter(th.ones(8))


def other_weights_from_a_vector(model, patch):
    weights = list(model.policy.parameters())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(weights).detach() * 0.9, weights)


def share_memory(model, patch):
    model.policy.share_memory()


def another_policy(model, patch):
    policy = model.policy
    model.policy = seeded(
        lambda: type(policy)(policy.observation_space, policy.action_space, lambda _: 1e-2, net_arch=[8])
    )


def other_parameters_of_the_model(model, patch):
    state = copy.deepcopy(model.get_parameters())
    state["policy"] = {name: tensor * 0.9 for name, tensor in state["policy"].items()}
    model.set_parameters(state)


# -- layers ------------------------------------------------------------------------------------------------------------


def new_head(model, patch):
    model.policy.value_net = seeded(lambda: nn.Linear(8, 1))


def new_head_and_optimizer(model, patch):
    new_head(model, patch)
    adam(model)


def new_action_head(model, patch):
    model.policy.action_net = seeded(lambda: nn.Linear(8, model.policy.action_net.out_features))


def new_layer(model, patch):
    net(model)[0] = seeded(lambda: nn.Linear(net(model)[0].in_features, 8))


def other_activation(model, patch):
    net(model)[1] = nn.ReLU()


def other_activations(model, patch):
    net(model)[1] = model.policy.mlp_extractor.value_net[1] = nn.ELU()


def no_last_activation(model, patch):
    del net(model)[1]


def deeper(model, patch):
    model.policy.mlp_extractor.value_net.extend(seeded(lambda: [nn.Linear(8, 8), nn.Tanh()]))
    adam(model)


def an_identity(model, patch):
    net(model).insert(0, nn.Identity())


def a_layer_norm(model, patch):
    net(model).append(nn.LayerNorm(8))
    model.policy.optimizer.add_param_group({"params": list(net(model)[-1].parameters())})


def batch_norm(model, patch):
    net(model).append(nn.BatchNorm1d(8).eval())
    model.policy.optimizer.add_param_group({"params": list(net(model)[-1].parameters())})


def dropout(model, patch):
    net(model).append(nn.Dropout(0.5))


class Doubled(nn.Linear):
    def forward(self, features):
        return super().forward(features) * 2


def a_subclass_of_a_layer(model, patch):
    net(model)[0].__class__ = Doubled


def norm_in_the_extractor(model, patch):
    model.policy.features_extractor.flatten = nn.Sequential(nn.Flatten(), nn.Softsign())


class Halving(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, observations):
        return observations * 0.5


def other_extractor(model, patch):
    policy = model.policy
    extractor = Halving(policy.observation_space)
    policy.features_extractor = policy.pi_features_extractor = policy.vf_features_extractor = extractor


def other_extractor_for_values(model, patch):
    model.policy.vf_features_extractor = Halving(model.policy.observation_space)


def two_extractors(model, patch):
    model.policy.share_features_extractor = False
    model.policy.vf_features_extractor = Halving(model.policy.observation_space)


def old_weight_norm(model, patch):
    nn.utils.weight_norm(net(model)[0])
    adam(model)


def weight_norm(model, patch):
    parametrizations.weight_norm(net(model)[0])
    adam(model)


def spectral_norm(model, patch):
    parametrizations.spectral_norm(net(model)[0])


class Renormed(nn.Linear):
    """As in EEGNet: the weight is put back into a ball at every call."""

    def forward(self, features):
        self.weight.data = th.renorm(self.weight.data, 2, 0, 0.5)
        return super().forward(features)


def a_layer_with_a_bound(model, patch):
    net(model)[0].__class__ = Renormed


class FreezesItself(nn.Linear):
    def forward(self, features):
        vars(self)["calls"] = vars(self).get("calls", 0) + 1
        self.weight.requires_grad_(self.calls < 7)
        return super().forward(features)


def a_layer_that_freezes_itself(model, patch):
    net(model)[0].__class__ = FreezesItself


# -- optimisers --------------------------------------------------------------------------------------------------------


def other_optimizer(model, patch):
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=1e-2, momentum=0.9)


class Lookahead:
    """An optimiser around another one, and no ``torch.optim.Optimizer``."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.calls = inner, inner.param_groups, 0
        self.slow = [weight.detach().clone() for weight in inner.param_groups[0]["params"]]

    def zero_grad(self):
        self.inner.zero_grad()

    def state_dict(self):
        return self.inner.state_dict()

    def step(self):
        self.inner.step()
        self.calls += 1
        if self.calls % 3 == 0:
            with th.no_grad():
                for weight, slow in zip(self.param_groups[0]["params"], self.slow, strict=True):
                    weight.copy_(slow.lerp_(weight, 0.5))


def an_optimizer_around_it(model, patch):
    model.policy.optimizer = Lookahead(model.policy.optimizer)


def a_scheduler(model, patch):
    model.schedule = th.optim.lr_scheduler.ExponentialLR(model.policy.optimizer, 0.5)


def a_step_on_another_loss(model, patch):
    policy = model.policy
    policy.optimizer.zero_grad()
    sum((weight**2).sum() for weight in policy.parameters()).backward()
    policy.optimizer.step()
    policy.optimizer.zero_grad()


def weight_decay(model, patch):
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.1


def other_epsilon(model, patch):
    model.policy.optimizer.param_groups[0]["eps"] = 1e-2


def two_groups(model, patch):
    policy = model.policy
    adam(model, [dict(params=policy.mlp_extractor.parameters(), weight_decay=0.1),
                 dict(params=[*policy.action_net.parameters(), *policy.value_net.parameters()])])  # fmt: skip


def one_weight_less(model, patch):
    del model.policy.optimizer.param_groups[0]["params"][0]


def no_state(model, patch):
    model.policy.optimizer.state.clear()


def step_of_the_instance(model, patch):
    step = model.policy.optimizer.step
    calls = []
    patch.setattr(
        model.policy.optimizer, "step", lambda *given: calls.append(0) or (step(*given) if len(calls) % 2 else None)
    )


def step_of_the_class(model, patch):
    kind = type(model.policy.optimizer)
    step, calls = kind.step, []
    patch.setattr(
        kind, "step", lambda self, *given: calls.append(0) or (step(self, *given) if len(calls) % 2 else None)
    )


def no_zero_grad(model, patch):
    patch.setattr(model.policy.optimizer, "zero_grad", lambda *given: None)


def step_hook(model, patch):
    def shrink(optimizer, *given):
        with th.no_grad():
            optimizer.param_groups[0]["params"][0].mul_(0.99)

    model.policy.optimizer.register_step_post_hook(shrink)


def global_step_hook(model, patch):
    handle = torch_optimizer.register_optimizer_step_post_hook(
        lambda optimizer, *given: model.policy.value_net.bias.data.mul_(0.9)
    )
    patch.callback(handle.remove)


# -- hooks -------------------------------------------------------------------------------------------------------------


def forward_hook(model, patch):
    net(model)[0].register_forward_hook(lambda module, inputs, output: output * 0.5)


def forward_pre_hook(model, patch):
    model.policy.features_extractor.flatten.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,))


def policy_hook(model, patch):
    model.policy.register_forward_hook(lambda module, inputs, output: (output[0], output[1] * 0.5, output[2]))


def backward_hook(model, patch):
    net(model)[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    net(model)[1].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0.5,))


def backward_pre_hook(model, patch):
    net(model)[0].register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 0.5,))


def gradient_hook(model, patch):
    net(model)[0].weight.register_hook(lambda gradient: gradient * 0.5)


def accumulated_gradient_hook(model, patch):
    def half(weight):
        weight.grad.mul_(0.5)

    net(model)[0].weight.register_post_accumulate_grad_hook(half)


def global_forward_hook(model, patch):
    def half(module, inputs, output):
        return output * 0.5 if isinstance(module, nn.Linear) else None

    patch.callback(nn_module.register_module_forward_hook(half).remove)


def global_backward_hook(model, patch):
    def half(module, inputs, outputs):
        return (inputs[0] * 0.5,) if isinstance(module, nn.Tanh) else None

    patch.callback(nn_module.register_module_full_backward_hook(half).remove)


# -- functions ---------------------------------------------------------------------------------------------------------


def of_instance(find, name="forward", change=halved):
    """Replaces a method of one object."""

    def replace(model, patch):
        owner = find(model.policy)
        patch.setattr(owner, name, change(getattr(owner, name)))

    return replace


def of_class(kind, name="forward", change=halved):
    """Replaces a method of a class."""

    def replace(model, patch):
        patch.setattr(kind, name, change(getattr(kind, name)))

    return replace


def seeing_half(method):
    return lambda self, observations, *given, **named: method(self, observations * 0.5, *given, **named)


def seeing_half_bound(method):
    return lambda observations, *given, **named: method(observations * 0.5, *given, **named)


def of_another_class(model, patch):
    patch.setattr(nn.Tanh, "forward", nn.Softsign.forward)


POLICY_METHODS = ("forward", "evaluate_actions", "extract_features", "predict_values")
FUNCTIONS = {
    "forward_of_the_extractor": of_instance(lambda policy: policy.features_extractor),
    "forward_of_flatten": of_instance(lambda policy: policy.features_extractor.flatten),
    "forward_of_a_head": of_instance(lambda policy: policy.action_net),
    "forward_of_a_layer": of_instance(lambda policy: policy.mlp_extractor.policy_net[0]),
    "forward_of_an_activation": of_instance(lambda policy: policy.mlp_extractor.value_net[1]),
    "forward_of_a_network": of_instance(lambda policy: policy.mlp_extractor.policy_net),
    "forward_actor": of_instance(lambda policy: policy.mlp_extractor, "forward_actor"),
    **{f"{name}_of_the_policy": of_instance(lambda policy: policy, name, seeing_half_bound) for name in POLICY_METHODS},
    "distribution_from_latent": of_instance(lambda policy: policy, "_get_action_dist_from_latent", seeing_half_bound),
    "log_prob": of_instance(lambda policy: policy.action_dist, "log_prob"),
    "entropy": of_instance(lambda policy: policy.action_dist, "entropy"),
    "forward_of_all_layers": of_class(nn.Linear),
    "forward_of_all_activations": of_class(nn.Tanh),
    "forward_of_another_class": of_another_class,
    "forward_of_all_extractors": of_class(FlattenExtractor),
    "forward_critic_of_all": of_class(MlpExtractor, "forward_critic"),
    **{f"{name}_of_all_policies": of_class(ActorCriticPolicy, name, seeing_half) for name in POLICY_METHODS},
    "extract_features_of_the_base": of_class(BasePolicy, "extract_features", seeing_half),
    "log_prob_of_all": of_class(CategoricalDistribution, "log_prob"),
    "entropy_of_all": of_class(th.distributions.Categorical, "entropy"),
}


def compiled_by_torch(model, patch):
    net(model)[0] = th.compile(net(model)[0], backend="eager")


def traced_by_torchscript(model, patch):
    net(model)[0] = th.jit.script(net(model)[0])


def other_distribution(model, patch):
    class Blunt(CategoricalDistribution):
        def proba_distribution(self, action_logits):
            return super().proba_distribution(action_logits * 0.5)

    model.policy.action_dist = Blunt(2)


# -- arguments ---------------------------------------------------------------------------------------------------------


def arguments(model, patch):
    model.gamma, model.gae_lambda = 0.5, 0.5
    model.ent_coef, model.vf_coef, model.max_grad_norm = 0.1, 0.1, 0.05
    model.normalize_advantage = not model.normalize_advantage


def of_ppo(model, patch):
    if hasattr(model, "clip_range"):
        model.clip_range, model.clip_range_vf = FloatSchedule(0.01), FloatSchedule(0.01)
        model.n_epochs, model.batch_size = 3, 4


def a_kl_limit(model, patch):
    if hasattr(model, "target_kl"):
        model.target_kl = 1e-4


def the_buffers(model, patch):
    model.rollout_buffer.gamma, model.rollout_buffer.gae_lambda = 0.5, 0.5


def a_learning_rate(model, patch):
    model.lr_schedule = FloatSchedule(1e-4)


def evaluation_mode(model, patch):
    model.policy.eval()


def freeze_the_deviation(model, patch):
    model.policy.log_std.requires_grad_(False)


def another_deviation(model, patch):
    model.policy.log_std = nn.Parameter(th.full_like(model.policy.log_std, -1.0))


def a_deviation_that_is_no_parameter(model, patch):
    deviation = model.policy.log_std.detach() - 1.0
    del model.policy.log_std
    model.policy.log_std = deviation


def a_squashed_distribution(model, patch):
    model.policy.action_dist = SquashedDiagGaussianDistribution(1)


#: For actions in a box.
GAUSSIAN = {
    "log_prob_of_a_gaussian": of_class(DiagGaussianDistribution, "log_prob"),
    "entropy_of_a_normal": of_class(th.distributions.Normal, "entropy"),
    "rsample_of_a_normal": of_class(th.distributions.Normal, "rsample"),
} | {
    function.__name__: function
    for function in (freeze_the_deviation, another_deviation, a_deviation_that_is_no_parameter, a_squashed_distribution)
}
ARGUMENTS = ("arguments", "of_ppo", "a_kl_limit", "the_buffers", "a_learning_rate", "evaluation_mode")
CHANGES = FUNCTIONS | GAUSSIAN | {
    function.__name__: function
    for function in (
        freeze_a_network, freeze_one_bias, freeze_all_but_the_heads, unfreeze, give_a_weight_other_memory, load_other_weights,
        load_other_parameters, change_weights_in_place, there_and_back, tie_two_weights, share_a_network, replace_a_parameter, other_weights_from_a_vector, share_memory, another_policy, other_parameters_of_the_model, new_head,
        new_head_and_optimizer, new_action_head, new_layer, other_activation, other_activations, no_last_activation, deeper, an_identity,
        a_layer_norm, batch_norm, dropout, compiled_by_torch, traced_by_torchscript, a_subclass_of_a_layer, norm_in_the_extractor, other_extractor, other_extractor_for_values, two_extractors,
        old_weight_norm, weight_norm, spectral_norm, a_layer_with_a_bound, a_layer_that_freezes_itself, other_optimizer, an_optimizer_around_it, a_scheduler, a_step_on_another_loss, weight_decay,
        other_epsilon, two_groups, one_weight_less, no_state, step_of_the_instance, step_of_the_class, no_zero_grad, step_hook,
        global_step_hook, forward_hook, forward_pre_hook, policy_hook, backward_hook, backward_pre_hook, gradient_hook,
        accumulated_gradient_hook, global_forward_hook, global_backward_hook, other_distribution, arguments, of_ppo, a_kl_limit,
        the_buffers, a_learning_rate, evaluation_mode,
    )
}  # fmt: skip

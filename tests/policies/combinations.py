"""Every policy with every recipe, with and without masks: what works, and why the rest does not."""

from sb3_ppo_notes.recipes import RECIPES

PLAIN = ("Mlp", "MultiInput", "Cnn", "shared trunk", "Mlp gSDE")
POLICIES = (*PLAIN, "MlpLstm", "MultiInputLstm", "CnnLstm", "shared trunk Lstm", "MlpLstm gSDE")
SYSTEMS = ("stock", *RECIPES)
COMBINATIONS = {
    f"{policy} {masked} {system}": (policy, masked, system)
    for policy in POLICIES
    for masked in ("plain", "masked")
    for system in SYSTEMS
    # Continuous actions have no masks.
    if not ("gSDE" in policy and masked == "masked")
}


def refusal(policy, system):
    """How the error begins, or ``None`` for a combination that works."""
    if system == "stock":
        return None
    rule = RECIPES[system].rule
    if "Lstm" in policy and rule.computed == "every_epoch":
        return "computed must be 'once' with a recurrent policy"
    if rule.optimization.separate is not None:
        if "Lstm" in policy:
            return "separate must be None with a recurrent policy"
        if "trunk" in policy or policy == "Cnn":
            return "rule must not ask for separate optimizers when actor and critic share weights"
    return None


def markdown_table():
    """The table in ``docs/policies.md``: one row a policy, one column a system."""
    reasons = sorted({refusal(policy, system) for policy in POLICIES for system in SYSTEMS} - {None})
    lines = ["| policy | " + " | ".join(SYSTEMS) + " |", "|---" * (len(SYSTEMS) + 1) + "|"]
    for policy in POLICIES:
        cells = [refusal(policy, system) for system in SYSTEMS]
        lines.append(
            f"| {policy} | "
            + " | ".join("✓" if cell is None else f"({reasons.index(cell) + 1})" for cell in cells)
            + " |"
        )
    return "\n".join(
        [
            *lines,
            "",
            *(f"({number}) {reason}" + "<br>" * (number < len(reasons)) for number, reason in enumerate(reasons, 1)),
        ]
    )

"""Code in C beside the sources, or where the package was installed."""

from importlib import metadata
from importlib.util import find_spec


def path_of(name: str) -> str | None:
    """Path of compiled code such as ``kernels._lstm``: beside its source, or, if these are the sources and the package
    is installed as well, where it was installed; ``None`` where it was never built.
    """
    spec = find_spec(f"sb3_ppo_notes.{name}")
    if spec is not None and spec.origin is not None:
        return spec.origin
    # Of all that go by the name: building leaves one without the code in the checkout.
    distributions = metadata.distributions(name="sb3-ppo-notes")
    files = (file for distribution in distributions for file in distribution.files or ())
    pattern = f"{name.replace('.', '/')}.*"
    built = (file for file in files if file.match(pattern) and file.suffix in (".so", ".pyd"))
    return next((str(file.locate()) for file in built), None)

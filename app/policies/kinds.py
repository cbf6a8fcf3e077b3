"""Every kind of document that a policy set or its tests have, with its shapes."""

from collections.abc import Mapping

from app.policies import admission_shape, shape
from app.policies.shape import Shape

KINDS: Mapping[str, tuple[Shape, ...]] = {**shape.KINDS, **admission_shape.KINDS}

"""Images of selected tests, looked at when everything is collected: a bad one is an error of the files whose tests name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_isolate.images.store import Store
from pytest_isolate.model.errors import ImageError, SpecError
from pytest_isolate.model.image import Source
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin.recipe import known

__all__ = ["ImageJudge"]


class ImageJudge:
    """Looks at each image once.

    Args:
        store: the layer store's directory, where what was unpacked before lies; None: the user's.
    """

    def __init__(self, store: str | None) -> None:
        self._store = Store(store)
        self._judged: dict[Source, ImageError | None] = {}

    def errors(self, spec: Spec, places: Mapping[str, str]) -> Mapping[object, SpecError]:
        """What is wrong with what a test is to run on.

        Args:
            places: by key of `spec`, where its value comes from.
        """
        place = places.get("rootfs", "")
        found: dict[object, SpecError] = {}
        for source, on_the_way in _images(spec.rootfs, ""):
            if (error := self._judge(source)) is not None:
                accepted = error.hint or "an image that can be imported"
                found[(place, source)] = SpecError("rootfs", f"{on_the_way}{error.message}", accepted, place)
        return found

    def _judge(self, source: Source) -> ImageError | None:
        if source not in self._judged:
            try:
                self._store.judge(source)
                self._judged[source] = None
            except ImageError as error:
                self._judged[source] = error
        return self._judged[source]


def _images(sources: Sequence[Source], on_the_way: str) -> Iterator[tuple[Source, str]]:
    """With what the layers that are to be made stand on."""
    for source in sources:
        if source.kind == "recipe":
            recipe = known(source)
            yield from _images(recipe.base, f"{on_the_way}base of layer {recipe.name!r}: ")
        else:
            yield source, on_the_way

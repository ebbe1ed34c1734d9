"""What recipes of any kind of input share: being compared field by field."""

from abc import abstractmethod
from typing import Any

from lwm.errors import RecipeMismatch


class RecipeIdentity:
    """A recipe with a ``name`` that is no part of what it is."""

    name: str

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-able."""

    @property
    def identity(self) -> dict[str, Any]:
        """Every field that changes the picture, JSON-able."""
        return {key: value for key, value in self.to_dict().items() if key != "name"}

    def require_same(self, other: "RecipeIdentity", here: str = "the model", there: str = "the data") -> None:
        """Raise RecipeMismatch naming both recipes and their first differences."""
        mine, theirs = self.identity, other.identity
        differ = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
        if differ:
            said = ", ".join(f"{key} {mine.get(key)!r} against {theirs.get(key)!r}" for key in differ[:4])
            raise RecipeMismatch(
                f"{here} has recipe {self.name!r} and {there} recipe {other.name!r} ({said})",
                "one recipe",
                "make the data again with the model's recipe",
            )

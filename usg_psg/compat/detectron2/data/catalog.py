"""Data sets and what is known about them, by name."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class Metadata(SimpleNamespace):
    """Facts about a data set as attributes; an attribute can be set again only to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = sorted(self.__dict__)
        raise AttributeError(
            f"Attribute {key!r} does not exist in the metadata of dataset {self.name!r}; it has {known}"
        )

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != val:
            old = self.__dict__[key]
            raise AssertionError(f"metadata {key!r} of dataset {self.name!r} is {old!r} and cannot become {val!r}")
        super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """All attributes, in a new dict."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Set attributes; returns itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or a default."""
        return self.__dict__.get(key, default)


class _Catalog(UserDict):
    def list(self) -> list[str]:
        """Names in the catalog."""
        return list(self.data)

    def remove(self, name: str) -> None:
        """Forget a name."""
        self.data.pop(name)


class _DatasetCatalog(_Catalog):
    """From a data set's name to the function that loads its list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a data set; func must return the same each time.

        Raises:
            AssertionError: if the name is taken.
        """
        if not callable(func):
            raise AssertionError(f"dataset {name!r} must be registered with a function, got {type(func).__name__}")
        if name in self.data:
            raise AssertionError(f"Dataset {name!r} is already registered")
        self.data[name] = func

    def get(self, name: str) -> list[dict]:
        """Load a data set.

        Raises:
            KeyError: if there is none of that name.
        """
        if name not in self.data:
            raise KeyError(f"Dataset {name!r} is not registered; available are {', '.join(self.data)}")
        return self.data[name]()


class _MetadataCatalog(_Catalog):
    """From a data set's name to its `Metadata`."""

    def get(self, name: str) -> Metadata:
        """The metadata of that name, empty at the first call, the same object at every call."""
        if name not in self.data:
            self.data[name] = Metadata(name=name)
        return self.data[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()

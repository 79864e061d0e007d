"""`Document`: a result that is a JSON document, and is shown in notebooks, on axes and as a data frame."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from nelbo.documents import html
from nelbo.errors import DataError
from nelbo.fields import parse_json
from nelbo.files import regular, write_atomic
from nelbo.typing import Json


class Document(ABC):
    """A result of one schema. `to_dict()` is its JSON, and `from_dict(result.to_dict())` the same result again."""

    schema: ClassVar[str]
    """The name and version of its JSON form."""
    command: ClassVar[str]
    """What writes it, for the remedy of an error."""

    @abstractmethod
    def to_dict(self) -> Json:
        """The documented JSON form; numbers that do not exist are null."""

    @classmethod
    @abstractmethod
    def _read(cls, document: Json) -> Self:
        """The result from its JSON form, of which the schema is known to be right."""

    @abstractmethod
    def _view(self) -> html.View:
        """What a notebook shows."""

    @abstractmethod
    def plot(self, axes: Any = None) -> Any:
        """Draw it on matplotlib `axes`, new ones where None, and return them. Errors: UsageError without matplotlib."""

    @abstractmethod
    def to_frame(self) -> Any:
        """Its rows as a pandas DataFrame. Errors: UsageError without pandas."""

    @abstractmethod
    def _summary(self) -> str:
        """The number and what it is of, in some words."""

    @classmethod
    def of_this_kind(cls, document: Any) -> bool:
        """Whether a JSON value says that it is such a result."""
        return isinstance(document, dict) and document.get("schema") == cls.schema

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """The result whose `to_dict()` is `document`. Numbers that are null become nan, and what JSON does not keep
        (the errors and terms of single examples) is nan too. Errors: DataError for another document."""
        return cls._from(document, "the document")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The result in a JSON file, as the commands write it (`--out`, `--json`) and `save`.

        Errors: DataError for a file that is missing, damaged, or holds something else.
        """
        path = Path(path).expanduser()
        remedy = f"give a file that {cls.command} wrote"
        try:
            document = parse_json(regular(path).read_bytes())
        except FileNotFoundError:
            raise DataError(f"there is no file {path}", remedy) from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is not readable JSON: {error}", remedy) from None
        return cls._from(document, str(path))

    @classmethod
    def _from(cls, document: Any, name: str) -> Self:
        if not cls.of_this_kind(document):
            schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
            quantity = (
                f" and quantity {document['quantity']!r}" if isinstance(schema, str) and "quantity" in document else ""
            )
            raise DataError(
                f"{name} is no {cls.__name__}: its schema is {schema!r}{quantity}",
                f"give one of schema {cls.schema!r}, which {cls.command} writes",
            )
        try:
            return cls._read(document)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{name} is damaged: {what}", f"write it again with {cls.command}") from None

    def save(self, path: str | Path) -> Path:
        """Write the JSON form to a file, whole or not at all, and return its path. Errors: OSError."""
        return write_atomic(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def _repr_html_(self) -> str:
        return html.rendered(self._view())

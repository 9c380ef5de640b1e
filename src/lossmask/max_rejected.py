"""How many rows of a data set may be rejected before preparing it counts as failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lossmask.errors import PolicyError, PreparedDataError


@dataclass(frozen=True, slots=True)
class MaxRejected:
    """A number of rows, or a share of them.

    Attributes:
        rows: Rows that may be rejected, None where a share is given.
        share: 0 to 1, the share that may be, None where a number is given.

    Example:
        >>> MaxRejected.parse("1%")
        MaxRejected(rows=None, share=0.01)
        >>> MaxRejected.parse("20")
        MaxRejected(rows=20, share=None)
    """

    rows: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> MaxRejected:
        """Read ``20`` or ``1%``.

        Raises:
            PolicyError: It is neither.
        """
        number, percent, rest = text.strip().partition("%")
        try:
            if percent and not rest and 0 <= float(number) <= 100:
                return cls(share=float(number) / 100)
            if not percent and int(number) >= 0:
                return cls(rows=int(number))
        except ValueError:
            pass
        raise PolicyError(
            f"--max-rejected {text!r}: expected a number of rows such as 20, or a share such as 1%"
        )

    def check(self, rejected: int, rows: int, where: Path) -> None:
        """Make sure that no more rows are rejected than may be.

        Args:
            rejected: Rows that are rejected.
            rows: All rows.
            where: The file that lists them.

        Raises:
            PreparedDataError: More are.
        """
        most = self.rows if self.rows is not None else (self.share or 0) * rows
        if rejected <= most:
            return
        raise PreparedDataError(
            f"{rejected:,} of {rows:,} rows ({rejected / rows:.2%}) are rejected, more than "
            f"--max-rejected {self._words()}: see {where} for each with its reason. Nothing is "
            "finished; mend the data, or start again with another limit: nothing is encoded anew",
            reason="too_many_rejected",
        )

    def _words(self) -> str:
        return f"{self.rows:,}" if self.rows is not None else f"{(self.share or 0) * 100:g}%"

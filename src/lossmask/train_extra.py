"""What commands that train or run a model say where torch is not installed."""

from __future__ import annotations

from lossmask.errors import PolicyError

__all__ = ["needs_train_extra"]


class needs_train_extra:
    """Say how to install torch where it is missing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, ModuleNotFoundError):
            raise PolicyError(
                f"this needs packages that are not installed ({error}): "
                'pip install "lossmask[train]"',
                reason="missing_extra",
            ) from None

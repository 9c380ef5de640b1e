"""A prepared folder -> the data and the settings that it was made from.

In: the folder's manifest, which names them. Out: what encodes the same rows again, or an error:
fingerprints and counts are compared, so that nothing else is taken for what was prepared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lossmask.confinement import Limits
from lossmask.encoder import load_tokenizer
from lossmask.errors import PreparedDataError
from lossmask.fit import Fit
from lossmask.layout import Layout
from lossmask.policy import Policy
from lossmask.prepared_manifest import PreparedFolder, read_manifest
from lossmask.preparing import EncoderSource

_COUNTS = ("rows_in", "rows_kept", "examples", "tokens", "supervised_tokens")


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """What a prepared folder was made from.

    Attributes:
        folder: Its path.
        manifest: What it claims.
        data: The data files.
        source: Tokenizer, template, policy, fit.
        limits: What one row may cost.
    """

    folder: Path
    manifest: Mapping[str, Any]
    data: list[Path]
    source: EncoderSource
    limits: Limits

    def check(self, counts: Mapping[str, int]) -> None:
        """Compare what the rows come to with what was prepared.

        Args:
            counts: Rows, examples and tokens, by the names of the manifest.

        Raises:
            PreparedDataError: They differ: the data has changed since.
        """
        for name in _COUNTS:
            if counts[name] != self.manifest[name]:
                raise PreparedDataError(
                    f"{self.folder} holds {name} = {self.manifest[name]:,}, but "
                    f"{', '.join(map(str, self.data))} come to {counts[name]:,}: they are no "
                    "longer what was prepared. Run `lossmask prepare` again.",
                    reason="data_changed",
                )


def prepared_source(folder: Path, variables: tuple[tuple[str, Any], ...] = ()) -> PreparedSource:
    """Read what a folder was made from off its manifest.

    Args:
        folder: That ``prepare`` wrote.
        variables: Those that the template was given, which the manifest does not name.

    Raises:
        PreparedDataError: The manifest is damaged, or tokenizer, template or variables are not
            what the folder was prepared with.
    """
    manifest = read_manifest(PreparedFolder.at(folder))
    tokenizer = manifest["tokenizer"]
    source = EncoderSource(
        tokenizer["path"],
        Policy.from_mapping(manifest["policy"]),
        manifest["chat_template"],
        tuple(tokenizer["stop_ids"]),
        variables,
        Layout.from_mapping(manifest["layout"]),
        fit=Fit.from_mapping(manifest["fit"]),
    )
    if load_tokenizer(source.tokenizer).chat_template is not None:
        own = replace(source, chat_template=None)  # how `prepare` was told makes no difference,
        if own.load().chat_template() == manifest["chat_template"]:  # but to the fingerprint
            source = own
    if source.load().fingerprint() != tokenizer["fingerprint"]:
        raise PreparedDataError(
            f"{folder} was prepared with a tokenizer, template or template variables that are not "
            f"those of {source.tokenizer} today. Name the variables with --template-var, or give "
            "the data files and their options instead of the folder.",
            reason="settings_differ",
        )
    limits = Limits(manifest["limits"]["seconds"], manifest["limits"]["gibibytes"])
    return PreparedSource(folder, manifest, [Path(d) for d in manifest["data"]], source, limits)

"""A run whose files change together: the new run takes the old one's place in one step.

What does not change is linked, not copied. A kill at any moment leaves the old run or the new one,
and beside it at most a directory that the next writer removes.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.atomic import is_temporary
from store_engine.files.directory_swap import StagedDirectory, recover
from store_engine.runs.manifest import FileEntry, Manifest, write_manifest
from store_engine.runs.run_directory import RunDirectory, file_entry
from store_engine.runs.run_paths import RunPaths


def rewrite_run(run: RunDirectory, write: Callable[[RunPaths], None]) -> None:
    """Replaces files of a run, all at once; the manifest goes with them.

    Args:
        run: Whose lock this process holds; afterwards it holds that of the new directory.
        write: Replaces files in the directory that it is given, each as a whole: what is there are
            links to the files of the run. It must write the journal, if there is to be one.

    Raises:
        InputError: The directory or the folder around it cannot be written.
        ValueError: This process does not hold the run's lock.
    """
    if run.lock_held is None:
        raise ValueError(f"{run.root}: only the process that holds the lock may write")
    root = run.root.resolve()
    try:
        run.upgrade()
        recover(root)
        staged = StagedDirectory.stage(root)
        try:
            paths = RunPaths(staged.path)
            _link_files(RunPaths(root), paths)
            write(paths)
            manifest = run.read_manifest()
            write_manifest(paths.manifest, _rewritten(manifest, root, staged.path))
            run.lock_held = staged.publish(run.lock_held)
        except BaseException:
            staged.discard()
            raise
    except OSError as error:
        raise InputError(f"{root}: cannot be rewritten: {error.strerror}") from error


def _link_files(old: RunPaths, new: RunPaths) -> None:
    left_out = {old.lock, old.journal, old.journal_log, old.journal_index}
    for folder, _, names in os.walk(old.root):
        place = new.root / Path(folder).relative_to(old.root)
        place.mkdir(exist_ok=True)
        for name in names:
            path = Path(folder, name)
            if path in left_out or is_temporary(name):
                continue
            try:
                os.link(path, place / name)
            except OSError:  # a file system without links
                shutil.copy2(path, place / name)


def _rewritten(manifest: Manifest, old: Path, new: Path) -> Manifest:
    """The manifest of the new files; a file that was made of others goes with those there now."""
    files: dict[str, FileEntry] = {}
    for name, entry in manifest.files.items():
        path = new / name
        if not path.is_file():
            continue
        is_same = (old / name).is_file() and os.path.samefile(old / name, path)
        files[name] = entry if is_same else file_entry(path)
    for name, entry in files.items():
        before = manifest.files[name].made_from
        made_from = dict(before)
        if manifest.is_current(name):
            made_from = {origin: files[origin].sha256 for origin in before if origin in files}
        files[name] = entry._replace(made_from=made_from)
    return manifest._replace(files=files)

from benchmarks import ROOT
from benchmarks.gpu_run.parts import PARTS
from store_engine.config import load_config


def test_every_part_names_files_and_settings_there_are():
    for part in PARTS:
        for command in filter(None, (part.command, part.dry_command)):
            files = [
                arg for arg in command if arg.startswith(("tests/", "benchmarks/", "configs/"))
            ]
            assert all((ROOT / name).exists() for name in files), part.name
            if "--ds_config" in command:
                overrides = command[command.index("--overwrite") + 1 :]
                load_config(command[command.index("--config") + 1], list(overrides))
